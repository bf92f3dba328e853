"""`gradgen weights`: the paper's own networks, fetched, converted, listed, checked, removed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.markup import escape
from rich.table import Table

from gradgen.cli.common import (
    ProgressReporter,
    find_pictures,
    note,
    print_json,
    print_table,
    progress,
    quiet_pillow,
    say,
    warn,
)
from gradgen.cli.help import App
from gradgen.cli.options import AsJson, argument, option
from gradgen.errors import GradgenError, UsageError

if TYPE_CHECKING:
    from gradgen.weights.fetch import Fetched
    from gradgen.weights.registry import Entry

weights = App(
    name="weights",
    help="Fetch, convert, list, check and remove the weights of the paper's own networks.",
)

Names = Annotated[list[str], argument(metavar="NAME...", help="Bundles or networks.")]
Only = Annotated[
    bool, option("--only", help="The network of that name, not all that its bundle needs.")
]


@weights.command("list")
def list_(
    as_json: AsJson = False,
) -> None:
    """List the networks: size, licence, the bundles that use them, whether they are here."""
    from gradgen.weights.registry import read_registry

    entries = read_registry().values()
    if as_json:
        print_json([_row(entry) for entry in entries])
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
        "ten64, tiny64, lite0 and lite1 come with gradgen; "
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
        option(
            "--file",
            metavar="FILE...",
            help="Files that you have, instead of the download.",
            default="none",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        option(
            metavar="PATH...",
            help="Photographs (files, folders, globs) that fix DCGAN's normalisation.",
            default="none",
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        option(help="Another server: URL + / + the file's name.", default="the published one"),
    ] = None,
    offline: Annotated[bool, option("--offline", help="Never use the network.")] = False,
    keep: Annotated[
        bool, option("--keep-downloads", help="Keep the files that were converted.")
    ] = False,
) -> None:
    """Download and convert the networks of bundles; what is here already is left as it is.

    A download that breaks off goes on where it stopped. Checksums are compared where they are
    published; elsewhere with the one that was seen at first.
    """
    from gradgen import runtime
    from gradgen.weights import fetch as fetching

    if files and (len(names) != 1):
        raise UsageError("--file gives the file of one network; name that one alone")
    runtime.configure()
    quiet_pillow()
    with _Bars() as bars:
        fetched = fetching.fetch(
            names,
            only=only,
            files=files or (),
            reference=find_pictures(reference) if reference else None,
            keep_downloads=keep,
            options=fetching.Options(mirror, offline or None, bars.on_file, bars.on_bytes),
            on_network=bars.on_network,
            on_failure=bars.on_failure,
            on_picture=bars.on_picture,
        )
    _tell_of_reference(fetched)


class _Bars(ExitStack):
    """Shows one thing after another: the bytes of a network's files, the photographs read."""

    _shown: ProgressReporter | None = None

    def _bar(self, description: str, unit: str) -> ProgressReporter:
        if self._shown is None:
            self._shown = self.enter_context(progress(description, unit=unit))
        return self._shown

    def _end(self) -> None:
        self.close()
        self._shown = None

    def on_file(self, name: str) -> None:
        self._bar("fetching", "MB").note = name

    def on_bytes(self, done: int, total: int | None) -> None:
        shown = self._bar("fetching", "MB")
        shown.total = None if total is None else -(-total // 10**6)
        shown.update(done // 10**6)

    def on_network(self, entry: Entry, is_new: bool) -> None:
        self._end()
        note(f"{entry.name}: {'fetched' if is_new else 'is here'}; licence: {entry.licence}")
        say(entry.folder)

    def on_failure(self, message: str) -> None:
        self._end()
        warn(message)

    def on_picture(self, done: int, total: int, fault: str | None) -> None:
        shown = self._bar("reading photographs", "images")
        shown.total = total
        if fault is not None:
            warn(f"skipped: {fault}")
        shown.update(done)


def _tell_of_reference(fetched: Fetched) -> None:
    """What became of DCGAN's normalisation, or how to fix it."""
    from gradgen.weights.fetch import DCGAN
    from gradgen.weights.registry import REFERENCE_FILE

    made = fetched.reference
    if made is None:
        if DCGAN in fetched.folders and not (fetched.folders[DCGAN] / REFERENCE_FILE).is_file():
            note(
                "dcgan needs reference statistics before it scores: gradgen weights fetch dcgan "
                "--reference DIR, DIR with some hundred photographs"
            )
        return
    way = "flipped" if made["flip_kernels"] else "as stored"
    best = made["log_probability"][way]
    note(
        f"dcgan: normalised by {made['images']} photographs, kernels {way}; mean log p(real): "
        f"photographs {best['photographs']:.2f}, noise {best['noise']:.2f}"
    )
    if best["photographs"] <= best["noise"]:
        warn("dcgan takes noise for more real than these photographs: do not trust its scores")


@weights.command()
def convert(
    files: Annotated[
        list[Path],
        argument(metavar="FILE...", help="One .caffemodel, or DCGAN's .npy files."),
    ],
    network: Annotated[
        str | None, option(help="Which network it is.", default="as the layers tell")
    ] = None,
    folder: Annotated[
        Path | None, option("--out", help="Folder.", default="where bundles look for it")
    ] = None,
) -> None:
    """Convert weights that you have to safetensors and a card."""
    from gradgen import runtime

    runtime.configure()
    from gradgen.weights.convert import convert_given

    name, target = convert_given(files, network, folder)
    note(f"{files[0].name}{' …' if len(files) > 1 else ''} is {name}")
    say(target)


@weights.command()
def verify(
    names: Annotated[
        list[str] | None,
        argument(metavar="NAME...", help="Networks or bundles.", default="all that are here"),
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
            say(f"{entry.name}: good")
    if not entries:
        note("no downloaded weights are here; 'gradgen weights list' says what there is")
    if bad:
        raise GradgenError(f"not good: {', '.join(bad)}")


@weights.command()
def path(
    name: Annotated[str | None, argument(help="A network.", default="the store of all")] = None,
) -> None:
    """Print the folder of a network's weights, or of all."""
    from gradgen.weights.registry import require, store_dir

    say(require(name) if name else store_dir())


@weights.command()
def remove(
    names: Annotated[
        list[str] | None,
        argument(metavar="NAME...", help="Networks, each by itself.", default="none"),
    ] = None,
    everything: Annotated[bool, option("--all", help="All networks.")] = False,
    downloads: Annotated[
        bool, option("--downloads", help="Whole and partial downloads that are kept.")
    ] = False,
) -> None:
    """Remove converted weights, or what is left of downloads."""
    from gradgen.files import remove_file
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
            remove_file(file)
        note(f"downloads: {size / 1e6:.0f} MB removed")
