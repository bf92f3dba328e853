"""Several hosts that share a run through its folder.

Chains need nothing of one another, so the hosts meet once, by ``jax.distributed``, to learn who is
which, and part again: each then works on its own devices, and one that dies takes no other with
it. What they have to tell one another goes through the run's folder, which they all must see.
Scoring and statistics, which leave no folder, stay connected and gather their results.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.weights.store import write_atomically

# A host that has reported nothing for so long is taken for dead; a block of steps, after which it
# reports, takes seconds, compiling at the start perhaps a minute.
SILENCE = 180.0  # seconds
POLL = 0.5  # seconds
MEETING = 300  # seconds that the hosts wait for one another at the start


@dataclass(frozen=True)
class Hosts:
    """Which of how many hosts this is.

    Attributes:
        index, count: 0 … count - 1.
        session: the same number on all hosts that began together, another one each time: the first
            host's clock, in milliseconds.
    """

    index: int = 0
    count: int = 1
    session: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the host that writes what belongs to all."""
        return self.index == 0

    def share(self, count: int) -> range:
        """Which of ``count`` things are this host's: a run of neighbours; no two hosts' overlap."""
        return range(self.index * count // self.count, (self.index + 1) * count // self.count)

    def report(self, work: Path, done: int, total: int, ended: bool = False) -> None:
        """Tell the others, in the folder ``work``, how far this host is."""
        if self.count > 1:
            state: dict[str, float] = {"session": self.session, "done": done, "total": total}
            state |= {"ended": ended, "time": time.time()}
            write_atomically(work / f"host-{self.index}.json", json.dumps(state).encode())

    def wait_for_first(self, record: Callable[[], int | None], folder: Path) -> None:
        """Until ``record()`` gives this session's number: the first host has begun.

        Raises:
            GradgenError: it does not come; the folder is not shared, or the first host is gone.
        """
        begun = time.monotonic()
        while record() != self.session:
            if time.monotonic() - begun > SILENCE:
                raise GradgenError(
                    f"host {self.index} does not see in {folder} what the first host writes there; "
                    "all hosts need the same folder: give one on a shared file system by --out"
                )
            time.sleep(POLL)

    def wait_for_others(self, work: Path, stop: Callable[[], bool] | None = None) -> list[int]:
        """Until every other host has ended; returns those that have fallen silent instead."""
        seen: dict[int, tuple[str, float]] = {}
        waiting = set(range(self.count)) - {self.index}
        silent: list[int] = []
        while waiting and not (stop is not None and stop()):
            now = time.monotonic()
            for host in sorted(waiting):
                text = _read(work / f"host-{host}.json")
                if text != seen.get(host, (None, 0.0))[0]:
                    seen[host] = text, now
                state = json.loads(text) if text else {}
                if state.get("session") == self.session and state.get("ended"):
                    waiting.discard(host)
                elif now - seen[host][1] > SILENCE:
                    waiting.discard(host)
                    silent.append(host)
            if waiting:
                time.sleep(POLL)
        return silent


ALONE = Hosts()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # not there yet, or just being replaced on a network's file system
        return ""


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    stay: bool = False,
) -> Hosts:
    """Meet the other hosts. To be called before JAX is used for anything else.

    Args:
        coordinator: "host:port" of the first host; all three ``None``: from the environment, as
            ``jax.distributed.initialize`` finds it (SLURM, Open MPI, Kubernetes, Cloud TPU).
        stay: remain connected, so that :func:`gather` works; all hosts have to live to the end.

    Raises:
        UsageError: the environment says nothing, or the arguments make no sense.
        GradgenError: the others do not come.
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
    with _stdout_to_stderr():  # Gloo, which carries this between CPUs, talks there
        # JAX's integers have 32 bits
        halves = broadcast_one_to_all((now >> 31, now & (2**31 - 1)))
    session = (int(halves[0]) << 31) | int(halves[1])
    hosts = Hosts(jax.process_index(), jax.process_count(), session)
    if not stay:
        jax.distributed.shutdown()
    return hosts


def gather(hosts: Hosts, payload: bytes) -> list[bytes]:
    """What every host gives, in their order, to all of them; the hosts have stayed connected."""
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
    """What native code prints meanwhile goes where messages go: standard output is for results."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
