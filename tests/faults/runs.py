"""Runs of the tiny bundle that are begun or resumed, whichever it takes, and then compared."""

import itertools
import json
from dataclasses import dataclass, field

import numpy as np

from gradgen.hosts import Hosts
from gradgen.images import decode, read_recipe
from gradgen.runs import run
from tests.faults.crash import files_below
from tests.faults.tiny import make_bundle

# What differs between two runs that are the same.
OWN = ("created", "wall_time_s", "gradient_evaluations_per_s", "session", "command", "seconds")
SESSIONS = itertools.count(1)
SMALL = {"bundle": "tiny", "budget": 6, "num_chains": 3, "chain_group": 2, "chain_batch": 2,
         "block_size": 3, "seed": 5, "start_candidates": 3}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A kind of run.

    Attributes:
        given: its settings.
        animate: whether it is animated.
        most: chains of a run that is in memory as a whole.
        hosts: that share it.
    """

    name: str
    given: dict = field(default_factory=dict)
    animate: bool = False
    most: int = 2048
    hosts: int = 1


CASES = [
    Case("map", {"classes": ("red",), "method": "map"}),
    Case("mala", {"classes": ("red",), "method": "mala"}),
    Case("hmc", {"classes": ("red",), "method": "hmc", "budget": 12, "num_integration_steps": 2}),
    Case("two classes", {"classes": ("red", "blue"), "method": "mala"}),
    Case("animation", {"classes": ("red", "blue"), "method": "mala"}, animate=True),
    Case("many chains", {"classes": ("red", "blue"), "method": "mala"}, most=3),
    Case("replicas", {"classes": ("red",), "method": "mala", "budget": 18, "replicas": 3}),
    Case("two hosts", {"classes": ("red", "blue"), "method": "mala"}, hosts=2),
]


def prepare(patch, most=2048):
    """Have runs use the tiny bundle, write a checkpoint after each block, and stream early."""
    if not hasattr(prepare, "bundle"):
        prepare.bundle = make_bundle()  # one object, so that programs are compiled once
    patch.setattr("gradgen.runs.plan.load_bundle", lambda *_, **__: prepare.bundle)
    patch.setattr(run, "CHECKPOINT_INTERVAL", 0.0)
    patch.setattr(run, "STREAMED", most)
    patch.setattr(run, "KEPT", 4)
    patch.setattr(run, "FOLDER_SIZE", 2)


def work(case, folder):
    """Begin the run, or resume what is there of it, and let all hosts do their share."""
    session = next(SESSIONS)
    hosts = [
        Hosts(index, case.hosts, session if case.hosts > 1 else 0) for index in range(case.hosts)
    ]
    there = (folder / "run.json").is_file()
    begun = []
    for host in hosts:
        if there:
            begun.append(run.resume(folder, {}, hosts=host))
        else:
            given = SMALL | case.given
            clip = False if given["method"] == "map" else None
            begun.append(run.begin(given, clip, out=folder, animate=case.animate, hosts=host))
    if not isinstance(begun[0], run.Run):
        return  # it is finished
    for other in begun[1:]:
        other.take_part()
    begun[0].execute()


def differences(folder, reference):
    """What is not the same in two finished runs, bit by bit; of each file one word."""
    mine, theirs = files_below(folder), files_below(reference)
    found = [f"{name} is there" for name in mine.keys() - theirs.keys()]
    found += [f"{name} is missing" for name in theirs.keys() - mine.keys()]
    for name in mine.keys() & theirs.keys():
        if not _same(mine[name], theirs[name]):
            found.append(f"{name} differs")
    return found


def _same(path, other):
    if path.suffix == ".json":
        first, second = (json.loads(file.read_text()) for file in (path, other))
        return _shared(first) == _shared(second)
    if path.suffix == ".npz":
        with np.load(path) as first, np.load(other) as second:
            return first.keys() == second.keys() and all(
                np.array_equal(first[name], second[name], equal_nan=True)
                for name in first
                if name not in OWN
            )
    if path.suffix == ".png" and path.name not in ("grid.png", "trace.png"):
        return np.array_equal(decode(path), decode(other)) and _shared(
            read_recipe(path)
        ) == _shared(read_recipe(other))
    return path.read_bytes() == other.read_bytes()


def _shared(values):
    return {name: value for name, value in values.items() if name not in OWN}
