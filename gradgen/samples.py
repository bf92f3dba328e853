"""What a run of chains gives: pictures, codes, traces, the record; and how that is written.

Nothing here needs JAX: a run's folder can be read and drawn again without it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.errors import UsageError
from gradgen.images import image_grid, save_png
from gradgen.plots import png_bytes, trace_figure
from gradgen.weights.store import write_atomically

RECORD_FORMAT = "gradgen run 2"
RECIPE_FORMAT = "gradgen recipe 2"
RECORD_FILE = "run.json"
GRID_FILE, TRACE_FILE, CHAINS_FILE = "grid.png", "trace.png", "chains.npz"
# Of a run of very many chains: pictures in folders of so many, all chains' numbers in files.
PICTURES_FOLDER, CHAINS_FOLDER, FOLDER_SIZE = "pictures", "chains", 1000
GRID_TILE = 128  # smaller pictures are enlarged to about this many pixels in the grid


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures of one or several classes, one a chain, and how they came to be.

    Attributes:
        images: (chains, S, S, 3) uint8 RGB, class after class.
        codes: (chains, code) float32, the z of each picture.
        log_likelihood: (chains,) log p(class | g(z)) of each picture, unweighted.
        log_density: (chains,) of each picture: β log p(class | g(z)) + log N(z; 0, I).
        traces: ``step`` (points,); ``log_likelihood``, ``log_density``, ``acceptance``,
            ``step_size``, ``squared_norm`` (‖z‖²), each (chains, points); ``projections``
            (chains, points, k): fixed random projections of z. NaN where a chain of an
            interrupted run has not come.
        class_position: (chains,) index into ``record["classes"]``.
        chain: (chains,) number of the chain within its class.
        record: settings, weights, versions, device, results: what run.json holds.
    """

    images: np.ndarray
    codes: np.ndarray
    log_likelihood: np.ndarray
    log_density: np.ndarray
    traces: dict[str, np.ndarray]
    class_position: np.ndarray
    chain: np.ndarray
    record: dict[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    def recipe(self, index: int) -> dict[str, Any]:
        """All that makes picture ``index`` again, and what it is; goes into its PNG file."""
        record = self.record
        position = int(self.class_position[index])
        job = record["classes"][position]
        row = job["chains"].index(int(self.chain[index]))
        settings = {
            **record["settings"],
            "classes": [job["synset"] or str(job["index"])],
            "classifier": job["classifier"]["name"],
            "clip_scope": job["clip_scope"] if job["clip_scope"] in ("class", "all") else None,
        }
        recipe: dict[str, Any] = {
            "format": RECIPE_FORMAT,
            "class": {key: job[key] for key in ("name", "synset", "index")},
            "chain": int(self.chain[index]),
            "steps": job["steps"][row],
            "result": {
                "log_likelihood": number(self.log_likelihood[index]),
                "log_density": number(self.log_density[index]),
                "squared_norm": number(np.sum(np.square(self.codes[index], dtype=np.float64))),
                "acceptance": job["acceptance_by_chain"][row],
                "step_size": job["step_size_by_chain"][row],
            },
            "settings": settings,
            "weights": {
                "bundle": record["bundle"]["name"],
                "generator": record["bundle"]["generator"],
                "classifier": job["classifier"],
            },
            "versions": record["versions"],
            "device": record["device"],
            "created": record["created"],
        }
        if job["bounds"] is not None:
            recipe["bounds"] = job["bounds"]
        return recipe

    def picture_names(self, digits: int | None = None) -> list[str]:
        """File name of each picture: ``beacon-03.png``; classes of one name get their id too.

        digits: of the chain's number; ``None``: as many as the largest one here has.
        """
        slugs = [job["slug"] for job in self.record["classes"]]
        width = max(2, digits or len(str(int(self.chain.max(initial=0)))))
        names = []
        for position, chain in zip(self.class_position, self.chain, strict=True):
            job = self.record["classes"][position]
            more = f"-{job['synset'] or job['index']}" if slugs.count(job["slug"]) > 1 else ""
            names.append(f"{job['slug']}{more}-{chain:0{width}d}.png")
        return names

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write pictures with their recipes, grid.png, trace.png, chains.npz and run.json.

        Each file is whole or absent, and run.json comes last: where it says "finished", all the
        rest is there. Returns the folder.
        """
        path = Path(folder)
        names = self.picture_names()
        for index, name in enumerate(names):
            self.save_picture(path / name, index)
        self.save_summary(path, names)
        return path

    def save_picture(self, file: Path, index: int) -> None:
        """Write picture ``index`` with its recipe, atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        save_png(file, self.images[index], self.recipe(index))

    def save_summary(self, path: Path, names: list[str], **more: Any) -> None:
        """Write grid.png, trace.png, chains.npz and run.json beside pictures of these names.

        more: further entries of run.json.
        """
        path.mkdir(parents=True, exist_ok=True)
        if len(self):
            save_png(path / GRID_FILE, self.grid())
            write_atomically(path / TRACE_FILE, png_bytes(self.trace_figure()))
            write_atomically(path / CHAINS_FILE, npz_bytes(self.arrays()))
        write_record(path, {**self.record, "pictures": names, **more})

    def grid(self) -> Any:
        """A Pillow image: a row for each class; a single class in a square."""
        sizes = np.bincount(self.class_position, minlength=len(self.record["classes"]))
        scale = max(1, GRID_TILE // self.images.shape[1])
        present = [position for position, size in enumerate(sizes) if size]
        if len(self.record["classes"]) == 1:
            return image_grid(self.images, math.ceil(math.sqrt(len(self.images))), scale=scale)
        columns = int(sizes.max())
        tiles = np.full((len(present), columns, *self.images.shape[1:]), 255, np.uint8)
        for row, position in enumerate(present):
            own = self.images[self.class_position == position]
            tiles[row, : len(own)] = own
        labels = [self.record["classes"][position]["name"] for position in present]
        return image_grid(tiles.reshape(-1, *self.images.shape[1:]), columns, labels, scale=scale)

    def trace_figure(self) -> Any:
        """The figure of log-likelihood, acceptance and step size over the steps."""
        traces = {}
        for position, job in enumerate(self.record["classes"]):
            own = self.class_position == position
            if own.any():
                name = job["name"] if job["name"] not in traces else f"{job['name']} {job['index']}"
                traces[name] = {
                    key: values if key == "step" else values[own]
                    for key, values in self.traces.items()
                }
        settings = self.record["settings"]
        title = (
            f"{', '.join(list(traces)[:4])}{' …' if len(traces) > 4 else ''} · "
            f"{settings['method']} · β = {settings['likelihood_weight']:g}"
        )
        return trace_figure(traces, title, self.record["warmup_steps"])

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything numeric, under the names that chains.npz has."""
        return {
            "codes": self.codes,
            "log_likelihood": self.log_likelihood,
            "log_density": self.log_density,
            "class_position": self.class_position,
            "chain": self.chain,
            **{f"trace_{name}": values for name, values in self.traces.items()},
        }


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json, atomically."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / RECORD_FILE, text.encode() + b"\n")


def read_record(path: Path) -> dict[str, Any]:
    """The run.json of a run's folder (or the file itself).

    Raises:
        UsageError: there is none, or it is no record of a run.
    """
    file = path / RECORD_FILE if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{path} is not the folder of a run: it holds no {RECORD_FILE}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is not JSON ({error})") from error
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise UsageError(f"{file} is no record of a run by this version of gradgen")
    return record


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as an uncompressed .npz file's bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def bounds_to_json(bounds: tuple[np.ndarray, np.ndarray], whole: bool) -> dict[str, str]:
    """A box's SHA-256 and, if ``whole``, its numbers too (float32, little endian, base64)."""
    lower, upper = (np.ascontiguousarray(side, "<f4") for side in bounds)
    summary = {"sha256": hashlib.sha256(lower.tobytes() + upper.tobytes()).hexdigest()}
    if whole:
        summary["lower"] = base64.b64encode(lower.tobytes()).decode()
        summary["upper"] = base64.b64encode(upper.tobytes()).decode()
    return summary


def bounds_from_json(stored: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray] | None:
    """The box that :func:`bounds_to_json` kept whole, or ``None``."""
    if "lower" not in stored:
        return None
    lower, upper = (
        np.frombuffer(base64.b64decode(stored[side]), "<f4").astype(np.float32)
        for side in ("lower", "upper")
    )
    return lower, upper


def number(value: Any) -> float | None:
    """A float that JSON can hold; NaN and infinities have none."""
    number = float(value)
    return number if math.isfinite(number) else None
