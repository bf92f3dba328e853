"""Options of the commands that several hosts can share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from gradgen.cli.common import option

if TYPE_CHECKING:
    from gradgen.hosts import Hosts

PANEL = "Many hosts"
Distributed = Annotated[
    bool,
    option(
        "--distributed",
        panel=PANEL,
        help="Share the work with other hosts, found by SLURM or Open MPI; all see the same files.",
    ),
]
Coordinator = Annotated[
    str | None,
    option("--coordinator", panel=PANEL, help="HOST:PORT of the first host, without SLURM."),
]
NumProcesses = Annotated[
    int | None, option("--num-processes", panel=PANEL, help="How many hosts there are.")
]
ProcessId = Annotated[
    int | None, option("--process-id", panel=PANEL, help="Which of them this is, from 0.")
]


def join_hosts(
    distributed: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    stay: bool = False,
) -> Hosts:
    """The hosts of a command that is shared, or this one alone.

    stay: remain connected, for :func:`gradgen.hosts.gather`.
    """
    from gradgen.errors import UsageError
    from gradgen.hosts import ALONE, connect

    if not distributed:
        if (coordinator, num_processes, process_id) != (None, None, None):
            raise UsageError(
                "--coordinator, --num-processes and --process-id are for --distributed"
            )
        return ALONE
    return connect(coordinator, num_processes, process_id, stay)
