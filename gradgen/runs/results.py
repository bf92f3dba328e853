"""What a run of chains gives: a part for each batch, and samples with their record.

Results take one way: the state of the chains becomes a :class:`Part` on the disk when its batch
has ended, and the parts of a plan become :class:`Samples`. Nothing here needs JAX: a run's folder
can be read and drawn again without it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.files import load_npz, make_durable, npz_bytes, write_atomically
from gradgen.images import image_grid, png_with_recipe
from gradgen.inference.diagnostics import diagnose_traces
from gradgen.inference.traces import FILE_PREFIX, Traces, joined, names_in_files
from gradgen.plots import png_bytes, trace_figure
from gradgen.run_files import CHAINS_FILE, GRID_FILE, TRACE_FILE
from gradgen.runs.inference_data import inference_data
from gradgen.runs.record import (
    FINISHED,
    INTERRUPTED,
    ClassRecord,
    Gradients,
    Recipe,
    RecipeClass,
    RecipeResult,
    RecipeWeights,
    RunRecord,
    number,
    write_record,
)

if TYPE_CHECKING:
    from gradgen.runs.plan import Plan

GRID_TILE = 128  # smaller pictures are enlarged to about this many pixels in the grid


# Arrays of a part that not every method or version has.
NOT_ALWAYS = ("faults", "exchanges_offered", "exchanges_accepted", "arrivals")


@dataclass(frozen=True, eq=False)
class Part:
    """A batch of chains, at its end or as far as it has come. Arrays and numbers only.

    Attributes:
        groups: (g,) the batch's groups, by their place in the plan. The chains of the arrays below
            follow one another as the groups do.
        codes: (chains, code) float32.
        images: (chains, S, S, 3) uint8.
        log_likelihood, log_density, acceptance, step_size: (chains,).
        traces: of the chains.
        step: steps done.
        num_steps: steps of the whole run.
        warmup_steps: how many of those adapt the step size.
        gradient_evaluations: of each chain.
        interrupted: whether the batch was stopped before its end.
        faults: (chains, 2) divergent and NaN proposals since the warm-up; ``None`` if an earlier
            version wrote the part, which did not count them.
        exchanges_offered, exchanges_accepted: (chains, rungs), of chains with replicas, each with
            the next lower one since the warm-up: how many, and the sum of their probabilities.
        arrivals: (chains,), how often what had come from the prior reached β.
    """

    groups: np.ndarray
    codes: np.ndarray
    images: np.ndarray
    log_likelihood: np.ndarray
    log_density: np.ndarray
    acceptance: np.ndarray
    step_size: np.ndarray
    traces: Traces
    step: int
    num_steps: int
    warmup_steps: int
    gradient_evaluations: int
    interrupted: bool = False
    faults: np.ndarray | None = None
    exchanges_offered: np.ndarray | None = None
    exchanges_accepted: np.ndarray | None = None
    arrivals: np.ndarray | None = None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Under flat names, for a file; :meth:`from_arrays` is the inverse."""
        flat = {
            name: np.asarray(value)
            for name, value in vars(self).items()
            if name != "traces" and value is not None
        }
        return flat | self.traces.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Part:
        """Read :meth:`to_arrays`'s output.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays do not fit together.
        """
        values: dict[str, Any] = {
            item.name: arrays[item.name]
            for item in fields(cls)
            if item.name != "traces" and (item.name not in NOT_ALWAYS or item.name in arrays)
        }
        for name in ("step", "num_steps", "warmup_steps", "gradient_evaluations"):
            values[name] = int(values[name])
        values["interrupted"] = bool(values["interrupted"])
        return cls(**values, traces=Traces.from_arrays(arrays))


@dataclass(frozen=True, eq=False)
class Chains:
    """The numbers of a run's chains, as its chains.npz holds them.

    Attributes:
        codes: (chains, code) float32, the z of each chain's end.
        log_likelihood, log_density: (chains,), there.
        class_position: (chains,) index into the record's classes.
        chain: (chains,) number of the chain within its class.
        traces: of the chains.
    """

    codes: np.ndarray
    log_likelihood: np.ndarray
    log_density: np.ndarray
    class_position: np.ndarray
    chain: np.ndarray
    traces: Traces

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Under the names that the file has."""
        flat = {name: values for name, values in vars(self).items() if name != "traces"}
        return flat | self.traces.to_arrays()


def read_chains(folder: Path) -> Chains:
    """The chains.npz of a run's folder.

    Raises:
        UsageError: the run has none yet.
        GradgenError: the file is broken.
    """
    path = folder / CHAINS_FILE
    if not path.is_file():
        raise UsageError(
            f"{folder} has no {CHAINS_FILE} yet; 'gradgen sample --resume {folder}' finishes it"
        )
    names = [item.name for item in fields(Chains) if item.name != "traces"]
    arrays = load_npz(path, [*names, *names_in_files()])
    try:
        check_rows(arrays, but=(f"{FILE_PREFIX}step",))
        return Chains(**{name: arrays[name] for name in names}, traces=Traces.from_arrays(arrays))
    except (ValueError, TypeError) as error:
        raise GradgenError(f"{path} is broken ({error})") from error


def check_rows(
    arrays: Mapping[str, np.ndarray], but: Collection[str] = (), scalars: bool = False
) -> None:
    """Raise ValueError unless all arrays are numbers and have a row for each chain.

    Args:
        arrays: by name.
        but: names of arrays that have no row for each chain.
        scalars: whether single numbers may be among them.
    """
    shapes = [array.shape for name, array in arrays.items() if name not in but]
    if (not scalars and () in shapes) or len({shape[0] for shape in shapes if shape}) != 1:
        raise ValueError("its arrays have different numbers of chains")
    texts = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
    if texts:
        raise ValueError(f"{texts[0]} holds no numbers")


@dataclass(frozen=True, eq=False)
class Samples:
    """Pictures of one or several classes, one for each chain, and how they came to be.

    Attributes:
        images: (chains, S, S, 3) uint8 RGB, class after class.
        codes: (chains, code) float32, the z of each picture.
        log_likelihood: (chains,) log p(class | g(z)) of each picture, unweighted.
        log_density: (chains,) of each picture: the target's, β log p(class | g(z)) + log N(z; 0, I)
            where nothing else is asked for.
        traces: of the chains.
        class_position: (chains,) index into ``record.classes``.
        chain: (chains,) number of the chain within its class.
        record: settings, weights, versions, device, results: what run.json holds.
    """

    images: np.ndarray
    codes: np.ndarray
    log_likelihood: np.ndarray
    log_density: np.ndarray
    traces: Traces
    class_position: np.ndarray
    chain: np.ndarray
    record: RunRecord

    def __len__(self) -> int:
        return len(self.images)

    def class_of(self, index: int) -> ClassRecord:
        """The class of picture ``index``."""
        return self.record.classes[int(self.class_position[index])]

    def recipe(self, index: int) -> Recipe:
        """All that makes picture ``index`` again, and what it is; goes into its PNG file."""
        record, job = self.record, self.class_of(index)
        row = job.row(int(self.chain[index]))
        return Recipe(
            label=RecipeClass(job.name, job.synset, job.index),
            chain=int(self.chain[index]),
            steps=job.steps[row],
            result=RecipeResult(
                log_likelihood=number(self.log_likelihood[index]),
                log_density=number(self.log_density[index]),
                squared_norm=number(np.sum(np.square(self.codes[index], dtype=np.float64))),
                acceptance=job.acceptance_by_chain[row],
                step_size=job.step_size_by_chain[row],
            ),
            settings=replace(
                record.settings,
                classes=(job.identity,) if job.identity else (),
                classifier=job.classifier.name,
                clip_scope=job.clip_scope if job.clip_scope in ("class", "all") else None,
            ),
            weights=RecipeWeights(
                record.bundle.name,
                record.bundle.generator,
                job.classifier,
                record.bundle.file,
                record.bundle.discriminator,
            ),
            versions=record.versions,
            device=record.device,
            created=record.created,
            bounds=job.bounds,
            evidence=record.evidence,
        )

    def picture_names(self, digits: int | None = None) -> list[str]:
        """File name of each picture: ``beacon-03.png``; classes of one name get their id too.

        Args:
            digits: of the chain's number; ``None``: as many as the largest number here has.
        """
        slugs = [job.slug for job in self.record.classes]
        width = max(2, digits or len(str(int(self.chain.max(initial=0)))))
        names = []
        for index, chain in enumerate(self.chain):
            job = self.class_of(index)
            more = f"-{job.synset or job.index}" if slugs.count(job.slug) > 1 else ""
            names.append(f"{job.slug}{more}-{chain:0{width}d}.png")
        return names

    def to_arviz(self) -> Any:
        """The traces since the warm-up as ArviZ's InferenceData, for its plots and diagnostics."""
        return inference_data(self.record, self.traces, self.class_position)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write pictures with their recipes, grid.png, trace.png, chains.npz and run.json.

        Each file is whole or absent, and run.json comes last: where it says "finished", all the
        rest is there. Returns the folder.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.save_pictures([path / name for name in self.picture_names()])
        self.save_summary(path, self.picture_names())
        return path

    def save_pictures(self, files: list[Path]) -> None:
        """Write all pictures with their recipes into folders that are there; wait for the disk."""
        for index, file in enumerate(files):
            content = png_with_recipe(self.images[index], self.recipe(index).to_json())
            write_atomically(file, content, parents=False, durable=False)
        make_durable(files)

    def save_summary(self, path: Path, names: list[str], picture_folder: str | None = None) -> None:
        """Write grid.png, trace.png, chains.npz and then run.json beside pictures of these names.

        Args:
            path: the run's folder, which is there.
            names: of the pictures, relative to it.
            picture_folder: where the pictures of a run of very many chains are.
        """
        summary: dict[str, bytes] = {}
        if len(self):
            summary[GRID_FILE] = png_with_recipe(self.grid())
            summary[TRACE_FILE] = png_bytes(self.trace_figure())
            summary[CHAINS_FILE] = npz_bytes(self.arrays())
        for name, content in summary.items():
            write_atomically(path / name, content, parents=False, durable=False)
        make_durable([path / name for name in summary])
        record = replace(self.record, pictures=tuple(names), picture_folder=picture_folder)
        write_record(path, record)

    def grid(self) -> Any:
        """A Pillow image: a row for each class; a single class in a square."""
        classes = self.record.classes
        sizes = np.bincount(self.class_position, minlength=len(classes))
        scale = max(1, GRID_TILE // self.images.shape[1])
        present = [position for position, size in enumerate(sizes) if size]
        if len(classes) == 1:
            return image_grid(self.images, math.ceil(math.sqrt(len(self.images))), scale=scale)
        columns = int(sizes.max())
        tiles = np.full((len(present), columns, *self.images.shape[1:]), 255, np.uint8)
        for row, position in enumerate(present):
            own = self.images[self.class_position == position]
            tiles[row, : len(own)] = own
        labels = [classes[position].name for position in present]
        return image_grid(tiles.reshape(-1, *self.images.shape[1:]), columns, labels, scale=scale)

    def _repr_html_(self) -> str:
        """For Jupyter: the grid, and a row for each class."""
        from gradgen import notebook

        record = self.record
        rows = []
        for job in record.classes:
            convergence = (job.diagnostics or {}).get("log_density", {})
            figures = (
                (job.log_likelihood, ".2f"),
                (job.acceptance, ".2f"),
                (job.squared_norm, ".0f"),
                (convergence.get("r_hat"), ".3f"),
            )
            told = ("–" if value is None else f"{value:{form}}" for value, form in figures)
            rows.append((job.name, str(job.num_chains), *told))
        headings = ("class", "chains", "log p(class)", "acceptance", "‖z‖²", "R̂")
        shown = notebook.table(headings, rows)
        if not len(self):
            return shown
        buffer = io.BytesIO()
        self.grid().save(buffer, "PNG")
        names = ", ".join(job.name for job in record.classes)
        return notebook.picture(buffer.getvalue(), f"Samples of {names}") + shown

    def trace_figure(self) -> Any:
        """The figure of log-likelihood, acceptance and step size over the steps."""
        traces: dict[str, Traces] = {}
        for position, job in enumerate(self.record.classes):
            own = self.class_position == position
            if own.any():
                name = job.name if job.name not in traces else f"{job.name} {job.index}"
                traces[name] = self.traces.of(own)
        settings = self.record.settings
        title = (
            f"{', '.join(list(traces)[:4])}{' …' if len(traces) > 4 else ''} · "
            f"{settings.method} · β = {settings.likelihood_weight:g}"
            + (f" · γ = {settings.realism:g}" if settings.realism else "")
        )
        return trace_figure(traces, title, self.record.warmup_steps or 0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything numeric, under the names that chains.npz has."""
        return Chains(
            **{item.name: getattr(self, item.name) for item in fields(Chains)}
        ).to_arrays()


@dataclass
class _Total:
    """Running sums over a class's chains, in double precision."""

    chains: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        self.chains += len(values["squared_norm"])
        for name, column in values.items():
            total = float(np.sum(column, dtype=np.float64))
            self.sums[name] = self.sums.get(name, 0.0) + total

    def means(self) -> dict[str, float | None]:
        """Of each quantity; of no chains there is none."""
        if not self.chains:
            return {}
        return {name: number(total / self.chains) for name, total in self.sums.items()}


@dataclass
class _Exchanges:
    """Of a class's replicas: sums over its chains; nothing where chains have none."""

    offered: Any = 0
    accepted: Any = 0.0
    arrivals: int | None = None

    def add(self, part: Part, own: np.ndarray) -> None:
        if part.exchanges_offered is None or part.arrivals is None:
            return
        assert part.exchanges_accepted is not None
        self.offered = self.offered + part.exchanges_offered[own].sum(0)
        self.accepted = self.accepted + part.exchanges_accepted[own].sum(0, dtype=np.float64)
        self.arrivals = (self.arrivals or 0) + int(part.arrivals[own].sum())

    def results(self) -> dict[str, Any]:
        """Those of a :class:`ClassRecord`."""
        if self.arrivals is None:
            return {}
        rates = zip(self.accepted.tolist(), self.offered.tolist(), strict=True)
        acceptance = tuple(number(sum / count) if count else None for sum, count in rates)
        return {"exchange_acceptance": acceptance, "arrivals": self.arrivals}


# What samples take over from a part's chains, beside the traces.
COLUMNS = ("log_likelihood", "log_density", "acceptance", "step_size", "codes", "images")


def collect(
    plan: Plan, record: RunRecord, parts: Iterable[Part], seconds: float, keep: int | None = None
) -> Samples:
    """Join a plan's parts, drop chains that only filled a group up, and complete the record.

    Args:
        plan: that was run.
        record: of the run as it began (:func:`gradgen.runs.plan.describe`).
        parts: in any order; looked at one by one, so that they need not fit into memory together.
        seconds: wall time.
        keep: how many chains of each class, the first ones, become samples. The record's means are
            over all chains. ``None``: all chains.

    Returns the samples. Their record's status is "finished" if all groups of the plan are there
    and none was interrupted.

    Raises:
        GradgenError: there is no part.
    """
    totals = [_Total() for _ in plan.jobs]
    faults = np.zeros((len(plan.jobs), 2), np.int64)
    exchanges = [_Exchanges() for _ in plan.jobs]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    positions, chains, steps, traces = [], [], [], []
    evaluations, per_chain, there, interrupted = 0, 0, 0, False
    last_part: Part | None = None
    for part in parts:
        last_part = part
        there += len(part.groups)
        interrupted = interrupted or part.interrupted
        per_chain = max(per_chain, part.gradient_evaluations)
        evaluations += part.gradient_evaluations * len(part.codes)
        position, chain = plan.chains_of(part.groups)
        wanted = plan.wants(chain)
        squared_norm = np.square(part.codes.astype(np.float64)).sum(1)
        for place, total in enumerate(totals):
            own = wanted & (position == place)
            if part.faults is not None:
                faults[place] += part.faults[own].sum(0)
            exchanges[place].add(part, own)
            total.add(
                {
                    "log_likelihood": part.log_likelihood[own],
                    "acceptance": part.acceptance[own],
                    "step_size": part.step_size[own],
                    "squared_norm": squared_norm[own],
                }
            )
        kept = wanted if keep is None else wanted & (chain < keep)
        for name in COLUMNS:
            columns[name].append(getattr(part, name)[kept])
        traces.append(part.traces.of(kept))
        positions.append(position[kept])
        chains.append(chain[kept])
        steps.append(np.full(int(kept.sum()), part.step))
    if last_part is None:
        raise GradgenError("no chain has come far enough to be shown")
    position, chain = np.concatenate(positions), np.concatenate(chains)
    order = np.lexsort((chain, position))
    position, chain, step = position[order], chain[order], np.concatenate(steps)[order]
    found = {name: np.concatenate(values)[order] for name, values in columns.items()}
    trace = joined(traces).of(order)
    classes = []
    for place, job in enumerate(record.classes):
        own = position == place
        results = _class_results(
            {name: values[own] for name, values in found.items()}, chain[own], step[own]
        )
        if own.any() and plan.settings.method != "map":
            results["diagnostics"] = diagnose_traces(
                trace.of(own), last_part.warmup_steps, int(step[own].min())
            )
            results |= {"divergent": int(faults[place, 0]), "nan_proposals": int(faults[place, 1])}
        results |= exchanges[place].results()
        results |= {"num_chains": totals[place].chains, **totals[place].means()}
        classes.append(replace(job, **results))
    finished = there == len(plan.groups) and not interrupted
    return Samples(
        images=found["images"],
        codes=found["codes"],
        log_likelihood=found["log_likelihood"],
        log_density=found["log_density"],
        traces=trace,
        class_position=position,
        chain=chain,
        record=replace(
            record,
            status=FINISHED if finished else INTERRUPTED,
            classes=tuple(classes),
            total_steps=last_part.num_steps,
            warmup_steps=last_part.warmup_steps,
            gradient_evaluations=Gradients(per_chain, evaluations),
            wall_time_s=round(seconds, 3),
            gradient_evaluations_per_s=round(evaluations / seconds, 3) if seconds > 0 else None,
        ),
    )


def _class_results(
    columns: Mapping[str, np.ndarray], chain: np.ndarray, steps: np.ndarray
) -> dict[str, Any]:
    """The lists of a :class:`ClassRecord`, an entry for each chain."""
    by_chain = {
        f"{name}_by_chain": tuple(number(value) for value in columns[name])
        for name in ("acceptance", "log_likelihood", "step_size")
    }
    return {"chains": tuple(chain.tolist()), "steps": tuple(steps.tolist()), **by_chain}
