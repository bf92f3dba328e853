"""The options of commands that several hosts can share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from gradgen.cli.options import option

if TYPE_CHECKING:
    from gradgen.hosts import Hosts

MANY_HOSTS = "Many hosts"
Distributed = Annotated[
    bool,
    option(
        "--distributed",
        panel=MANY_HOSTS,
        help="Share the work with other hosts, found by SLURM or Open MPI; all see the same files.",
    ),
]
Coordinator = Annotated[
    str | None,
    option(
        "--coordinator",
        panel=MANY_HOSTS,
        help="HOST:PORT of the first host.",
        default="as SLURM or Open MPI says",
    ),
]
NumProcesses = Annotated[
    int | None,
    option(
        "--num-processes",
        panel=MANY_HOSTS,
        help="How many hosts there are.",
        default="as SLURM or Open MPI says",
    ),
]
ProcessId = Annotated[
    int | None,
    option(
        "--process-id",
        panel=MANY_HOSTS,
        help="The number of this host, from 0.",
        default="as SLURM or Open MPI says",
    ),
]


def join_hosts(
    distributed: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    stay: bool = False,
) -> Hosts:
    """Meet the other hosts, if the command is shared.

    Args:
        distributed: whether the command is shared.
        coordinator: "host:port" of the first host.
        num_processes: number of hosts.
        process_id: number of this host, from 0.
        stay: whether to stay connected, for :func:`gradgen.hosts.gather`.

    Returns:
        The number of this host among the hosts, or :data:`gradgen.hosts.ALONE`.

    Raises:
        UsageError: options for several hosts are given without ``--distributed``.
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
