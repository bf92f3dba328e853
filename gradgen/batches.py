"""Which groups of chains run side by side: as many as the devices' memory holds.

What a chain gives does not depend on it (:mod:`gradgen.inference.layout`); on accelerators, where
the groups of a batch are computed as one, the last bits may.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax

from gradgen.plan import Plan
from gradgen.settings import SampleSettings

# Between two looks at the chains. On two cores that is some seconds, so that a bar moves and Ctrl-C
# is answered; an accelerator is some hundred times as fast.
BLOCK_GRADIENTS = 50
BLOCK_MULTIPLY_ADDS = {"cpu": 50.4e9, "accelerator": 5e12}  # of forward passes
MEMORY_SHARE = 0.6  # of what is free; the rest is for what XLA needs besides
CPU_BATCH = 64  # chains; more at once would only make finished pictures come later


# Groups, by their place among the plan's, whose chains run side by side; one classifier.
Batch = tuple[int, ...]


def batches_of(plan: Plan, todo: Iterable[int], most_chains: int) -> list[Batch]:
    """Put groups into batches of at most so many chains (at least a group), in order."""
    batches: list[Batch] = []
    taken: list[int] = []
    for index in todo:
        most = max(1, most_chains // plan.groups[index].size)
        full = len(taken) >= most
        if taken and (full or _classifier(plan, taken[-1]) is not _classifier(plan, index)):
            batches.append(tuple(taken))
            taken = []
        taken.append(index)
    if taken:
        batches.append(tuple(taken))
    return batches


def _classifier(plan: Plan, index: int) -> Any:
    return plan.jobs[plan.groups[index].class_position].classifier


def most_chains(plan: Plan, devices: Sequence[Any], bytes_a_chain: int | None = None) -> int:
    """Chains that run at once over all devices.

    bytes_a_chain: what a chain's gradient takes; needed on accelerators (unless ``chain_batch`` is
    set), whose free memory it is compared with.
    """
    settings = plan.settings
    group = plan.groups[0].size
    if settings.chain_batch is not None:
        return max(group, settings.chain_batch)
    if devices[0].platform == "cpu":
        # one group at a time is in memory, however many there are
        return max(len(devices) * group, min(settings.num_chains, CPU_BATCH))
    if bytes_a_chain is None:
        return max(len(devices) * group, settings.num_chains)
    fits = min(chains_that_fit(device.memory_stats(), bytes_a_chain) for device in devices)
    return len(devices) * max(group, fits // group * group)


def chains_that_fit(memory: dict[str, int] | None, bytes_a_chain: int) -> int:
    """Into a device's free memory (``Device.memory_stats``); 1 if the device does not say."""
    if not memory or "bytes_limit" not in memory:
        return 1
    free = memory["bytes_limit"] - memory.get("bytes_in_use", 0)
    return max(1, int(MEMORY_SHARE * free) // max(1, bytes_a_chain))


def block_size(settings: SampleSettings, num_chains: int, multiply_adds: float) -> int:
    """Steps between two looks at a batch of so many chains.

    multiply_adds: of one picture (:class:`gradgen.networks.Bundle`).
    """
    if settings.block_size is not None:
        return settings.block_size
    kind = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    gradients = int(BLOCK_MULTIPLY_ADDS[kind] / multiply_adds) // num_chains
    if kind == "cpu":
        gradients = min(BLOCK_GRADIENTS, gradients)
    per_step = settings.num_integration_steps if settings.method == "hmc" else 1
    return max(1, gradients // per_step)
