"""`gradgen weights`: the paper's own networks, fetched, converted, listed, checked, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from gradgen.cli.common import note, out, print_table, progress, warn
from gradgen.errors import GradgenError, UsageError

if TYPE_CHECKING:
    from gradgen.weights.convert import Origin
    from gradgen.weights.fetch import Options
    from gradgen.weights.registry import Entry

weights = typer.Typer(
    name="weights",
    help="Fetch, convert, list, check and remove the weights of the paper's own networks.",
    no_args_is_help=True,
)

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Bundles or networks.")]
Only = Annotated[
    bool, typer.Option("--only", help="The network of that name, not all that its bundle needs.")
]


@weights.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """List the networks: size, licence, the bundles that use them, whether they are here."""
    from gradgen.weights.registry import read_registry

    entries = read_registry().values()
    if as_json:
        print(json.dumps([_row(entry) for entry in entries], indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("network", "MB", "here", "bundles", "licence", "what"):
        table.add_column(title, justify="right" if title == "MB" else "left", overflow="fold")
    for entry in entries:
        row = _row(entry)
        table.add_row(
            entry.name,
            f"{entry.megabytes:g}",
            "yes" if row["fetched"] else "no",
            ", ".join(entry.bundles) or "–",
            escape(entry.licence),
            escape(entry.title),
        )
    print_table(table)
    note(
        "tiny64, lite0 and lite1 come with gradgen; "
        "'gradgen weights fetch BUNDLE' gets all of a bundle"
    )


def _row(entry: Entry) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **asdict(entry),
        "fetched": entry.fetched,
        "folder": str(entry.folder) if entry.fetched else None,
    }


@weights.command()
def fetch(
    names: Names,
    only: Only = False,
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", help="A file that you have, instead of the download; repeat it."),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="Photographs (folder, glob) that fix DCGAN's normalisation."),
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="Another server: URL + / + the file's name.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep-downloads", help="Keep the files that were converted.")
    ] = False,
) -> None:
    """Download and convert the networks of bundles; what is here already is left as it is.

    A download that breaks off goes on where it stopped. Checksums are compared where they are
    published; elsewhere with the one that was seen at first.
    """
    from gradgen import runtime
    from gradgen.weights import fetch as fetching
    from gradgen.weights.registry import find_entries

    runtime.configure()
    found = {e.name: e for name in names for e in find_entries(name, only or bool(files))}
    if files and len(found) != 1:
        raise UsageError("--file gives the file of one network; name that one alone")
    if reference and "dcgan" not in found:
        raise UsageError("--reference is for dcgan; name it, or a bundle that uses it")
    failed: list[str] = []
    for entry in found.values():
        try:
            if files:
                fetching.take(entry, files)
                done = True
            elif entry.fetched:
                done = False
            else:
                with _shown(mirror, offline or None) as options:
                    done = fetching.fetch(entry, options)
        except UsageError:
            raise
        except GradgenError as error:
            warn(f"{entry.name}: {error}")
            failed.append(entry.name)
            continue
        note(f"{entry.name}: {'fetched' if done else 'is here'}; licence: {entry.licence}")
        out.print(str(entry.folder), highlight=False, markup=False, soft_wrap=True)
    if not keep:
        fetching.discard_downloads([e for e in found.values() if e.name not in failed])
    if "dcgan" in found and "dcgan" not in failed:
        _reference(found["dcgan"], reference)
    if failed:
        raise GradgenError(f"not fetched: {', '.join(failed)}")


@contextmanager
def _shown(mirror: str | None, offline: bool | None) -> Iterator[Options]:
    """Options whose callbacks show the bytes of one file after another."""
    from gradgen.weights.fetch import Options

    with progress("fetching", unit="MB") as shown:

        def on_file(name: str) -> None:
            shown.note = name

        def on_progress(done: int, total: int | None) -> None:
            shown.total = None if total is None else -(-total // 10**6)
            shown.update(done // 10**6)

        yield Options(mirror, offline, on_file, on_progress)


def _reference(entry: Entry, paths: list[str] | None) -> None:
    """Fix DCGAN's normalisation, or say how."""
    from gradgen.weights.registry import REFERENCE_FILE

    if not paths:
        if not (entry.folder / REFERENCE_FILE).is_file():
            note(
                "dcgan needs reference statistics before it scores: gradgen weights fetch dcgan "
                "--reference DIR, DIR with some hundred photographs"
            )
        return
    import numpy as np

    from gradgen.cli.common import quiet_pillow
    from gradgen.images import ImageError, evenly_chosen, find_images, load_image
    from gradgen.models.dcgan import IMAGE_SIZE
    from gradgen.weights.dcgan import MOST_REFERENCE_IMAGES, make_reference

    quiet_pillow()
    chosen = evenly_chosen(find_images(paths), MOST_REFERENCE_IMAGES)
    pictures = []
    with progress("reading photographs", total=len(chosen), unit="images") as shown:
        for file in chosen:
            try:
                pictures.append(load_image(file, IMAGE_SIZE))
            except ImageError as error:
                warn(f"skipped: {error}")
            shown.advance()
    if len(pictures) < 2:
        raise GradgenError("reference statistics take at least 2 photographs")
    made = make_reference(entry.folder, np.stack(pictures))
    best = made["log_probability"]["flipped" if made["flip_kernels"] else "as stored"]
    note(
        f"dcgan: normalised by {len(pictures)} photographs, kernels "
        f"{'flipped' if made['flip_kernels'] else 'as stored'}; mean log p(real): photographs "
        f"{best['photographs']:.2f}, noise {best['noise']:.2f}"
    )
    if best["photographs"] <= best["noise"]:
        warn("dcgan takes noise for more real than these photographs: do not trust its scores")


@weights.command()
def convert(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="One .caffemodel, or DCGAN's .npy files."),
    ],
    network: Annotated[
        str | None, typer.Option(help="Which network it is, where the layers do not tell.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder [default: where bundles look for it].")
    ] = None,
) -> None:
    """Convert weights that you have to safetensors and a card."""
    from gradgen import runtime

    runtime.configure()
    from gradgen.weights.convert import convert, detect
    from gradgen.weights.registry import store_dir

    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file")
    files = sorted(files) if len(files) > 1 else files
    name = network or detect(files)
    target = convert(name, files, folder or store_dir() / name, _origin(name, files))
    note(f"{files[0].name}{' …' if len(files) > 1 else ''} is {name}")
    out.print(str(target), highlight=False, markup=False, soft_wrap=True)


def _origin(name: str, files: list[Path]) -> Origin:
    """The registry's, if these are the published files; else nothing is known of them."""
    from gradgen.weights.convert import Origin
    from gradgen.weights.download import digest
    from gradgen.weights.registry import read_registry

    entry = read_registry().get(name)
    if entry is not None and len(files) == len(entry.urls):
        checksums = [entry.checksum(position) for position in range(len(files))]
        pairs = zip(files, checksums, strict=True)
        if all(sum_ is not None and digest(file, sum_[0]) == sum_[1] for file, sum_ in pairs):
            return Origin(entry.title, entry.urls, entry.member, entry.licence)
    return Origin()


@weights.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="All that are here, without.")
    ] = None,
) -> None:
    """Compare the converted weights with the hashes in their cards, and with their networks."""
    from gradgen import runtime

    runtime.configure()
    from gradgen.weights import fetch as fetching
    from gradgen.weights.registry import find_entries, read_registry, require

    entries = (
        list({e.name: e for name in names for e in find_entries(name)}.values())
        if names
        else [entry for entry in read_registry().values() if entry.fetched]
    )
    bad = []
    for entry in entries:
        try:
            require(entry.name)
            fetching.verify(entry)
        except GradgenError as error:
            warn(str(error))
            bad.append(entry.name)
        else:
            out.print(f"{entry.name}: good", highlight=False, markup=False)
    if not entries:
        note("no downloaded weights are here; 'gradgen weights list' says what there is")
    if bad:
        raise GradgenError(f"not good: {', '.join(bad)}")


@weights.command()
def path(
    name: Annotated[str | None, typer.Argument(help="A network; without: the store.")] = None,
) -> None:
    """Print the folder of a network's weights, or of all."""
    from gradgen.weights.registry import require, store_dir

    out.print(
        str(require(name) if name else store_dir()), highlight=False, markup=False, soft_wrap=True
    )


@weights.command()
def remove(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Networks, each by itself.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All networks.")] = False,
    downloads: Annotated[
        bool, typer.Option("--downloads", help="Whole and partial downloads that are kept.")
    ] = False,
) -> None:
    """Remove converted weights, or what is left of downloads."""
    from gradgen.weights import fetch as fetching
    from gradgen.weights.registry import find_entries, read_registry

    if not (names or everything or downloads):
        raise UsageError("nothing named; give networks, --all or --downloads")
    if everything:
        entries = [entry for entry in read_registry().values() if entry.fetched]
    else:
        entries = [find_entries(name, only=True)[0] for name in names or ()]
    for entry in entries:
        there = fetching.remove(entry)
        note(f"{entry.name}: {'removed' if there else 'was not here'}")
    if downloads:
        found = fetching.downloads()
        size = sum(file.stat().st_size for file in found)
        for file in found:
            file.unlink(missing_ok=True)
        note(f"downloads: {size / 1e6:.0f} MB removed")
