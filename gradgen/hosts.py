"""Several hosts that share a run through its folder.

Chains need nothing from each other. So the hosts meet once through ``jax.distributed``, where each
learns its number, and then they disconnect. After that each host works on its own devices, and a
host that dies does not stop the others. Whatever a host has to tell the others goes through the
run's folder, which all hosts must see. Scoring and statistics write no folder. There the hosts stay
connected and gather their results.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.files import read_json, write_atomically

# A host that has reported nothing for this time is taken for dead. It reports after each block of
# steps, which takes seconds. Compiling at the start takes perhaps a minute.
SILENCE = 180.0  # seconds
POLL = 0.5  # seconds between two looks at the folder
MAX_REPORT_BYTES = 64 * 2**10
MEETING = 300  # seconds that the hosts wait for each other at the start


@dataclass(frozen=True)
class Hosts:
    """The number of this host among the hosts that share the work.

    Attributes:
        index: number of this host, 0 … count - 1.
        count: number of hosts.
        session: a number that is the same on all hosts that began together and different for each
            start. It is the time of the first host's clock in milliseconds.
    """

    index: int = 0
    count: int = 1
    session: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the host that writes the files that belong to all."""
        return self.index == 0

    def share(self, count: int) -> range:
        """Return the indices, among ``count`` things, that are this host's.

        They are consecutive, and each index belongs to exactly one host.
        """
        return range(self.index * count // self.count, (self.index + 1) * count // self.count)

    def report(self, work: Path, done: int, total: int, ended: bool = False) -> None:
        """Tell the other hosts how far this host is, by a file in the folder ``work``.

        Args:
            work: folder that all hosts see.
            done: number of things that this host has finished.
            total: number of things that this host has to do.
            ended: whether this host will do no more.
        """
        if self.count > 1:
            state: dict[str, float] = {"session": self.session, "done": done, "total": total}
            state |= {"ended": ended, "time": time.time()}
            # not worth waiting for the disk: it is told again after the next block
            path = work / f"host-{self.index}.json"
            write_atomically(path, json.dumps(state).encode(), parents=False, durable=False)

    def wait_for_first(self, record: Callable[[], int | None], folder: Path) -> None:
        """Wait until ``record()`` returns this session's number, so that the first host has begun.

        Args:
            record: reads the session's number from the run's record, or returns ``None``.
            folder: the run's folder, for the message.

        Raises:
            GradgenError: the number does not appear in time, because the folder is not shared or
                the first host is gone.
        """
        begun = time.monotonic()
        while record() != self.session:
            if time.monotonic() - begun > SILENCE:
                raise GradgenError(
                    f"host {self.index} does not see in {folder} what the first host writes there; "
                    "all hosts need the same folder: give a folder on a shared file system by --out"
                )
            time.sleep(POLL)

    def wait_for_others(self, work: Path, stop: Callable[[], bool] | None = None) -> list[int]:
        """Wait until every other host has ended or has been silent for too long.

        Args:
            work: the folder of :meth:`report`.
            stop: ends the waiting as soon as it returns true.

        Returns:
            The indices of the hosts that have been silent for too long.
        """
        seen: dict[int, tuple[Mapping[str, Any], float]] = {}
        waiting = set(range(self.count)) - {self.index}
        silent: list[int] = []
        while waiting and not (stop is not None and stop()):
            now = time.monotonic()
            for host in sorted(waiting):
                state = _read(work / f"host-{host}.json")
                if state != seen.get(host, (None, 0.0))[0]:
                    seen[host] = state, now
                if state.get("session") == self.session and state.get("ended"):
                    waiting.discard(host)
                elif now - seen[host][1] > SILENCE:
                    waiting.discard(host)
                    silent.append(host)
            if waiting:
                time.sleep(POLL)
        return silent


ALONE = Hosts()


def _read(path: Path) -> Mapping[str, Any]:
    """What a host has reported; nothing as long as there is nothing that can be read."""
    try:
        found: Mapping[str, Any] = read_json(path, limit=MAX_REPORT_BYTES)
    except (FileNotFoundError, GradgenError):  # a network disk may just be replacing it
        return {}
    return found


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    stay: bool = False,
) -> Hosts:
    """Meet the other hosts. Call this before JAX is used for anything else.

    If the first three arguments are ``None``, ``jax.distributed.initialize`` finds their values in
    the environment (SLURM, Open MPI, Kubernetes, Cloud TPU).

    Args:
        coordinator: "host:port" of the first host.
        num_processes: number of hosts.
        process_id: number of this host, from 0.
        stay: whether to stay connected, so that :func:`gather` works. All hosts then have to live
            to the end.

    Returns:
        The number of this host among all hosts.

    Raises:
        UsageError: the environment names no cluster, or the arguments make no sense.
        GradgenError: the other hosts do not come.
    """
    import jax

    given = (coordinator, num_processes, process_id)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise UsageError("--coordinator, --num-processes and --process-id belong together")
    if num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise UsageError(
                f"process-id {process_id}: must be from 0 to {num_processes - 1}, "
                f"for num-processes {num_processes}"
            )
        if ":" not in str(coordinator):
            raise UsageError(f"coordinator {coordinator!r}: must be HOST:PORT of the first host")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=MEETING
        )
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"no cluster found in the environment ({str(error).rstrip('.')}); start by srun or "
            "mpirun, or give --coordinator HOST:PORT --num-processes N --process-id I"
        ) from error
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GradgenError(f"the hosts did not meet at {coordinator}: {reason}") from error
    from jax.experimental.multihost_utils import broadcast_one_to_all

    now = int(time.time() * 1000)
    with _stdout_to_stderr():  # Gloo, which carries this between CPUs, prints to standard output
        # The time is sent in two halves, because JAX's integers have 32 bits.
        halves = broadcast_one_to_all((now >> 31, now & (2**31 - 1)))
    session = (int(halves[0]) << 31) | int(halves[1])
    hosts = Hosts(jax.process_index(), jax.process_count(), session)
    if not stay:
        jax.distributed.shutdown()
    return hosts


def gather(hosts: Hosts, payload: bytes) -> list[bytes]:
    """Send the bytes of every host to all hosts, which have to be connected still.

    Returns:
        The payloads of all hosts, in the hosts' order.
    """
    if hosts.count == 1:
        return [payload]
    from jax.experimental.multihost_utils import process_allgather

    with _stdout_to_stderr():
        lengths = process_allgather(np.array([len(payload)], np.int32)).reshape(-1)
        padded = np.zeros(int(lengths.max()), np.uint8)
        padded[: len(payload)] = np.frombuffer(payload, np.uint8)
        rows = np.asarray(process_allgather(padded)).reshape(hosts.count, -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths.tolist(), strict=True)]


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what native code prints to standard error, because standard output is for results."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
