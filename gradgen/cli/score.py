"""`gradgen score`: how real pictures look to a bundle's discriminator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gradgen.cli.common import (
    counted,
    find_pictures,
    note,
    print_json,
    print_table,
    printable,
    progress,
    quiet_pillow,
    warn,
)
from gradgen.cli.complete import complete_bundles
from gradgen.cli.hosts import Coordinator, Distributed, NumProcesses, ProcessId, join_hosts
from gradgen.cli.options import AsJson, Threads, argument, option
from gradgen.errors import UsageError

if TYPE_CHECKING:
    from gradgen.scoring import GroupScore, ImageScore, Scores

LISTED = 40  # pictures up to which each has its row without --all


def score(
    paths: Annotated[
        list[str],
        argument(metavar="PATH...", help="Pictures, folders (with all below), globs."),
    ],
    bundle: Annotated[
        str | None,
        option(
            help="The bundle whose discriminator scores: a name or a folder. ten64's was trained "
            "to turn down plain colours, noise and drawings too.",
            default="ten64",
            autocompletion=complete_bundles,
        ),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, option("--csv", help="One line a picture on standard output.")] = False,
    show_all: Annotated[
        bool, option("--all", help=f"A row for each picture, even beyond {LISTED}.")
    ] = False,
    discriminator: Annotated[
        str | None,
        option(help="Another discriminator: dcgan, or a bundle's.", default="the bundle's own"),
    ] = None,
    batch_statistics: Annotated[
        bool,
        option(
            "--batch-statistics",
            help="DCGAN as published: scores depend on the other pictures of a batch.",
        ),
    ] = False,
    batch_size: Annotated[int, option(least=1, help="Pictures evaluated at a time.")] = 32,
    threads: Threads = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
) -> None:
    """Score pictures: the discriminator's log-probability that each is real.

    Shows every picture's log-probability (nats; 0 is certainly real) and the mean ± standard error
    of each folder. Pictures that cannot be read are named, the others still scored, and the exit
    code is 1.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv: standard output holds one of them; choose")
    from gradgen import runtime

    runtime.configure()
    quiet_pillow()
    files = find_pictures(paths)
    hosts = join_hosts(distributed, coordinator, num_processes, process_id, stay=True)
    from gradgen.networks.catalog import SCORING_BUNDLE
    from gradgen.scoring import score as score_images

    with progress("scoring", unit="images") as shown:

        def on_progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done)

        scores = score_images(
            files,
            bundle or SCORING_BUNDLE,
            batch_size,
            threads,
            on_progress,
            discriminator=discriminator,
            batch_statistics=batch_statistics,
            hosts=hosts,
        )
    if not hosts.is_first:
        return
    if as_json:
        print_json(scores.to_dict())
    elif as_csv:
        text = scores.to_csv()
        sys.stdout.write(printable(text, lines=True) if sys.stdout.isatty() else text)
    else:
        _show(scores, show_all)
    for line in _judged_by_itself(scores):
        note(line)
    for failure in scores.failures:
        warn(failure.reason)
    if scores.failures:
        total = counted(len(files), "image")
        note(f"{len(scores.failures)} of {total} have no score, so: exit code 1")
        raise typer.Exit(1)


def _judged_by_itself(scores: Scores) -> list[str]:
    """A line for each run among the folders whose target had the same discriminator in it."""
    from gradgen.runs.record import read_record

    found = []
    for group in scores.groups:
        try:
            critic = read_record(Path(group.group)).bundle.discriminator
        except UsageError:
            continue  # no run's folder
        if critic is not None and critic.sha256 == scores.discriminator_sha256:
            found.append(
                f"{group.group} was sampled with realism by {critic.name}: its score is no "
                "independent verdict"
            )
    return found


def _show(scores: Scores, show_all: bool) -> None:
    each = show_all or len(scores.images) <= LISTED
    table = Table(caption=f"log-probability of being real (nats) by {scores.discriminator}")
    table.add_column("pictures", overflow="fold")
    table.add_column("number", justify="right")
    table.add_column("log p(real)", justify="right")
    table.add_column("± s.e.", justify="right")
    members: dict[str, list[ImageScore]] = {}
    for image in scores.images if each else ():
        members.setdefault(image.group, []).append(image)
    for group in scores.groups:
        for image in members.get(group.group, ()):
            name = escape(printable(image.source))
            table.add_row(f"[dim]{name}[/]", "", f"{image.log_probability:.4f}", "")
        _add_group(table, group, escape(printable(group.group)))
        table.add_section()
    if len(scores.groups) > 1 and scores.total is not None:
        _add_group(table, scores.total, "all")
    print_table(table)
    if not each:
        note("--all shows every picture, --csv and --json print them")


def _add_group(table: Table, group: GroupScore, name: str) -> None:
    error = "" if group.standard_error is None else f"{group.standard_error:.4f}"
    table.add_row(f"[bold]{name}[/]", str(group.count), f"[bold]{group.mean:.4f}[/]", error)
