"""From the files that the networks' authors published to safetensors and a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.weights.caffe import CaffeLayer, caffe_parameters, read_caffemodel
from gradgen.weights.dcgan import dcgan_parameters
from gradgen.weights.networks import ARCHITECTURES, Architecture, architecture
from gradgen.weights.registry import WEIGHTS_FILE
from gradgen.weights.store import file_sha256, save_arrays, write_card


@dataclass(frozen=True)
class Origin:
    """Where weights come from, for their card."""

    title: str = ""
    urls: tuple[str, ...] = ()
    member: str | None = None
    licence: str = "unknown: converted from a file that was given"
    sha256: tuple[str, ...] = field(default=())


def convert(network: str, files: Sequence[Path], folder: Path, origin: Origin) -> Path:
    """Convert a network's files into a folder: ``weights.safetensors`` and ``card.json``.

    Args:
        network: of :data:`gradgen.weights.networks.ARCHITECTURES`.
        files: one caffemodel, or DCGAN's 17 .npy files in the order of their numbers.
        folder: made if it is not there; what it holds is replaced once all is well.
        origin: for the card. Its ``sha256`` are computed from the files where it has none.

    Returns the folder.

    Raises:
        GradgenError: a file is broken or does not fit the network.
    """
    plan = architecture(network)
    arrays = read_parameters(plan, files)
    path = folder / WEIGHTS_FILE
    save_arrays(path, arrays, half=False)
    write_card(
        folder,
        {
            "name": network,
            "kind": "network",
            "architecture": network,
            "title": origin.title,
            "source": {
                "urls": list(origin.urls),
                "member": origin.member,
                "files": [file.name for file in files],
                "sha256": list(origin.sha256) or [file_sha256(file) for file in files],
            },
            "licence": origin.licence,
            "converted": datetime.now(UTC).isoformat(timespec="seconds"),
            "converter": f"gradgen {_version()}",
            "files": {WEIGHTS_FILE: file_sha256(path)},
        },
    )
    return folder


def read_parameters(plan: Architecture, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """A network's parameters under their dotted paths, float32, from its authors' files."""
    module = plan.abstract()
    if plan.reader == "dcgan":
        return dcgan_parameters(module, files)
    if len(files) != 1:
        raise UsageError(f"a Caffe network is one file, not {len(files)}")
    return caffe_parameters(module, read_caffemodel(files[0]), str(files[0]), plan.ignored)


# --- which network a file is of ---------------------------------------------------------------


def detect(files: Sequence[Path]) -> str:
    """The network that files given by hand belong to, from their layers; for some also the name.

    Raises:
        UsageError: several networks have such layers, and the file's path names none of them.
        GradgenError: no network does.
    """
    if all(file.suffix == ".npy" for file in files):
        return "dcgan"
    if len(files) != 1:
        raise UsageError(f"{len(files)} files: give the files of one network at a time")
    layers = read_caffemodel(files[0])
    fitting = [name for name in ARCHITECTURES if _fits(name, layers)]
    if not fitting:
        names = ", ".join(layer.name for layer in layers[:8])
        raise GradgenError(
            f"{files[0]} fits none of the networks {', '.join(ARCHITECTURES)}; its layers begin "
            f"with {names}; with --network NAME the differences are listed"
        )
    if len(fitting) == 1:
        return fitting[0]
    parts = [part.lower() for part in files[0].resolve().parts[-2:]]
    named = [n for n in fitting if any(n.removeprefix("deepsim-") in part for part in parts)]
    if len(named) == 1:
        return named[0]
    raise UsageError(
        f"{files[0]} may be {' or '.join(fitting)}, which have the same layers; say --network NAME"
    )


def _fits(name: str, layers: list[CaffeLayer]) -> bool:
    plan = ARCHITECTURES[name]
    if plan.reader != "caffe":
        return False
    try:
        caffe_parameters(plan.abstract(), layers, name, plan.ignored)
    except GradgenError:
        return False
    return True


def _version() -> str:
    from importlib.metadata import version

    return version("gradgen")
