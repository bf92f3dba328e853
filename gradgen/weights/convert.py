"""Converts the files that the networks' authors published into safetensors and a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.files import file_sha256
from gradgen.models.published import ARCHITECTURES, Architecture, architecture
from gradgen.weights.caffe import CaffeLayer, caffe_parameters, read_caffemodel
from gradgen.weights.cards import write_card
from gradgen.weights.dcgan import dcgan_parameters
from gradgen.weights.registry import WEIGHTS_FILE, read_registry, store_dir
from gradgen.weights.store import save_arrays


@dataclass(frozen=True)
class Origin:
    """Where weights come from, as their card tells it.

    Attributes:
        title: what the network is, in words.
        urls: addresses of the published files.
        member: path of the file inside a published archive, or ``None``.
        licence: name of the licence.
        sha256: checksums of the files.
    """

    title: str = ""
    urls: tuple[str, ...] = ()
    member: str | None = None
    licence: str = "unknown: converted from a file that was given"
    sha256: tuple[str, ...] = field(default=())


def convert(network: str, files: Sequence[Path], folder: Path, origin: Origin) -> Path:
    """Convert a network's files into a folder: ``weights.safetensors`` and ``card.json``.

    Args:
        network: name in :data:`gradgen.models.published.ARCHITECTURES`.
        files: one caffemodel, or DCGAN's 17 .npy files in the order of their numbers.
        folder: is made if it does not exist. Its files are replaced after all has been read.
        origin: is written into the card. If it has no ``sha256``, they are computed from the files.

    Returns:
        The folder.

    Raises:
        GradgenError: a file is broken or does not fit the network.
    """
    arrays = read_parameters(architecture(network), files)
    path = folder / WEIGHTS_FILE
    save_arrays(path, arrays, half=False)
    write_card(
        folder,
        {
            "name": network,
            "kind": "network",
            "architecture": {"name": network},
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


def convert_given(
    files: Sequence[Path], network: str | None = None, folder: Path | None = None
) -> tuple[str, Path]:
    """Convert files that a user has, and find out to which network they belong.

    Args:
        files: one caffemodel, or DCGAN's .npy files in any order.
        network: name of the network, for files whose layers do not tell it.
        folder: where the result goes. ``None`` means the folder where bundles look for it.

    Returns:
        The network's name and the folder.

    Raises:
        UsageError: a file does not exist, or it is not clear to which network the files belong.
        GradgenError: the files are broken or belong to no known network.
    """
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file")
    files = sorted(files)
    name = network or detect(files)
    return name, convert(name, files, folder or store_dir() / name, published_origin(name, files))


def published_origin(name: str, files: Sequence[Path]) -> Origin:
    """Return the registry's origin if these are the published files, else an empty origin."""
    from gradgen.weights.download import digest

    entry = read_registry().get(name)
    if entry is not None and len(files) == len(entry.urls):
        checksums = [entry.checksum(position) for position in range(len(files))]
        pairs = zip(files, checksums, strict=True)
        if all(known is not None and digest(file, known[0]) == known[1] for file, known in pairs):
            return Origin(entry.title, entry.urls, entry.member, entry.licence)
    return Origin()


def read_parameters(network: Architecture, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Read a network's float32 parameters, under their dotted paths, from its authors' files.

    Raises:
        UsageError: there are several files for a Caffe network.
        GradgenError: a file is broken or does not fit the network.
    """
    module = network.abstract()
    if network.reader == "dcgan":
        return dcgan_parameters(module, files)
    if len(files) != 1:
        raise UsageError(f"a Caffe network is one file, not {len(files)}")
    return caffe_parameters(module, read_caffemodel(files[0]), str(files[0]), network.ignored)


# --- which network a file is of ---------------------------------------------------------------


def detect(files: Sequence[Path]) -> str:
    """Find the network to which files belong, by their layers and, if need be, by their path.

    Raises:
        UsageError: several networks have such layers, and the file's path names none of them.
        GradgenError: no network has such layers.
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
    network = ARCHITECTURES[name]
    if network.reader != "caffe":
        return False
    try:
        caffe_parameters(network.abstract(), layers, name, network.ignored)
    except GradgenError:
        return False
    return True


def _version() -> str:
    from importlib.metadata import version

    return version("gradgen")
