"""What a run needs before its first step: networks, classes, bounds, batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from gradgen.bundle import load_bundle, load_classifier
from gradgen.errors import UsageError
from gradgen.labels import Label, find_class, imagenet_labels
from gradgen.networks import Bundle, Classifier, PublishedBounds
from gradgen.settings import SampleSettings
from gradgen.statistics import clip_bounds, load_statistics, published_bounds

FALLBACK_CLASSIFIER = "lite0"  # knows all 1000 ImageNet classes
# A group is one product of matrices: on two cores 16 of tiny64's chains cost 37 ms a gradient as
# one group, 43 ms in groups of 8; groups of 32 cost more than those of 16, for memory.
CPU_GROUP = 16
ACCELERATOR_GROUP = 64
# Nguyen et al. 2016 begin with 8 under CaffeNet's kin, and with 2 under GoogLeNet.
DGN_AM_GOOGLENET_STEP_SIZE = 2.0
DEFAULT_SIGMAS = 3.0  # Nguyen et al. 2016: bounds of mean + 3 standard deviations


@dataclass(frozen=True, eq=False)
class ClassJob:
    """One class to sample: what its target is made of.

    Attributes:
        query: as it was asked for.
        label: in the classifier's list.
        classifier: the network; its name is in it.
        likelihood_weight: β.
        bounds: (lower, upper), each (code,), or ``None`` without clipping.
        clip_scope: whose statistics the bounds are from: ``class``, ``all``, ``file`` or ``None``.
    """

    query: str
    label: Label
    classifier: Classifier
    likelihood_weight: float
    bounds: tuple[np.ndarray, np.ndarray] | None
    clip_scope: str | None


@dataclass(frozen=True)
class Group:
    """Chains computed as one: ``size`` chains of one class from number ``start`` on."""

    class_position: int
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a run needs, loaded and resolved.

    Attributes:
        settings: with nothing left to choose but what the warm-up finds.
        groups: all that the settings ask for, class after class.
        only_chain: the one chain of the (only) class that is wanted, or ``None`` for all.
        stop_at: steps after which the run ends although the settings go on, or ``None``.
        notes: choices that a person should be told of.
    """

    settings: SampleSettings
    bundle: Bundle
    jobs: tuple[ClassJob, ...]
    groups: tuple[Group, ...]
    only_chain: int | None = None
    stop_at: int | None = None
    notes: tuple[str, ...] = ()


def groups_of(num_classes: int, num_chains: int, group_size: int) -> tuple[Group, ...]:
    """Split each class's chains into groups of one size, no larger than ``group_size``.

    All have the same size, so that one compiled program serves them all and a chain's result does
    not depend on where it stands: the last one of a class may hold chains beyond ``num_chains``,
    which are thrown away (fewer than there are groups).
    """
    count = -(-num_chains // min(group_size, num_chains))
    size = -(-num_chains // count)
    return tuple(
        Group(position, start, size)
        for position in range(num_classes)
        for start in range(0, num_chains, size)
    )


def default_group(settings: SampleSettings, platform: str, num_devices: int) -> int:
    """On a CPU always the same, so that results do not depend on the number of devices."""
    if platform == "cpu":
        return CPU_GROUP
    together = min(settings.num_chains, settings.chain_batch or settings.num_chains)
    return min(ACCELERATOR_GROUP, -(-together // num_devices))


def prepare(
    settings: SampleSettings,
    bundle: Bundle | None = None,
    only_chain: int | None = None,
    stop_at: int | None = None,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
) -> Plan:
    """Load the networks, find the classes, choose what the settings leave open.

    Args:
        settings: as asked for.
        bundle: already loaded; ``None``: the one that the settings name.
        only_chain: keep this one chain; those of its group run too, since a group's size shows in
            the last bits of its results.
        stop_at: end after this many steps of the settings' schedule.
        bounds: instead of those in the settings' statistics file (a recipe carries its own).

    Raises:
        UsageError: an unknown or ambiguous class, bundle or classifier; statistics that are
            missing or do not fit.
        GradgenError: weights that are missing or broken.
    """
    if bundle is None:
        bundle = load_bundle(settings.bundle, generator=settings.generator)
    notes: list[str] = []
    recommended = bundle.card.get("recommended", {})
    weight = settings.likelihood_weight
    if weight is None:
        weight = float(recommended.get("likelihood_weight", 1.0))
    jobs = []
    for query in settings.classes:
        classifier, label = _find_class(query, bundle, settings.classifier)
        if classifier is not bundle.classifier and settings.classifier is None:
            notes.append(
                f"{label.name} is not among the classes of {bundle.classifier.name}; "
                f"using the classifier {classifier.name}"
            )
        box, scope = (bounds, "file") if bounds else _bounds(settings, bundle, classifier, label)
        own_table = not isinstance(bundle.code_statistics, PublishedBounds)
        if settings.clip_scope is None and scope == "all" and own_table:
            notes.append(
                f"{bundle.name} has no statistics of {label.name}; clipping to all classes'"
            )
        jobs.append(ClassJob(query, label, classifier, weight, box, scope))
    _refuse_repeated(jobs)
    group_size = settings.chain_group or default_group(
        settings, jax.default_backend(), jax.local_device_count()
    )
    groups = groups_of(len(jobs), settings.num_chains, group_size)
    if only_chain is not None:
        groups = tuple(g for g in groups if g.start <= only_chain < g.start + g.size)
    step_size = settings.step_size
    if settings.preset == "dgn-am" and any(job.classifier.name == "googlenet" for job in jobs):
        step_size = step_size or DGN_AM_GOOGLENET_STEP_SIZE
    return Plan(
        settings=replace(
            settings,
            likelihood_weight=weight,
            chain_group=group_size,
            step_size=step_size,
        ),
        bundle=bundle,
        jobs=tuple(jobs),
        groups=groups,
        only_chain=only_chain,
        stop_at=stop_at,
        notes=tuple(notes),
    )


def _find_class(query: str, bundle: Bundle, name: str | None) -> tuple[Classifier, Label]:
    """The class, and the classifier that judges it."""
    if name is not None:
        own = name == bundle.classifier.name
        classifier = bundle.classifier if own else load_classifier(name)
        return classifier, classifier.labels.find(query)
    position, label = find_class(query, (bundle.classifier.labels, imagenet_labels()))
    if position == 0:
        return bundle.classifier, label
    classifier = load_classifier(FALLBACK_CLASSIFIER)
    return classifier, classifier.labels.find(label.synset)


def _bounds(
    settings: SampleSettings, bundle: Bundle, classifier: Classifier, label: Label
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str | None]:
    """The box (lower, upper), each (code,) float32, and whose statistics it is made of."""
    if settings.clip_mode == "none":
        return None, None
    sigmas = settings.clip_sigmas
    if settings.statistics is not None:
        statistics = load_statistics(settings.statistics)
        lower, upper = statistics.bounds(bundle.code_size)
        if sigmas is None:
            return (lower, upper), "file"
        if statistics.mean is None or statistics.std is None:
            raise UsageError(
                f"{settings.statistics} holds bounds and no deviations; drop clip-sigmas"
            )
        return clip_bounds(statistics.mean, statistics.std, sigmas, bundle.code_floor), "file"
    table = bundle.code_statistics
    if table is None:
        raise UsageError(
            f"no bounds come with the codes of {bundle.generator.name}; measure some by 'gradgen "
            "stats --images DIR' with the same --generator, and give them as stats; or no-clip"
        )
    if isinstance(table, PublishedBounds):
        if settings.clip_scope == "class":
            raise UsageError(
                f"{table.source} published one set of bounds for all classes; measure those of "
                f"{label.name} by 'gradgen stats --images DIR', and give them as stats"
            )
        return published_bounds(table, DEFAULT_SIGMAS if sigmas is None else sigmas), "all"
    own = classifier is bundle.classifier  # a bundle's classes may have no synset ids
    row = label if own else table.labels.by_synset(label.synset)
    if settings.clip_scope == "class" and row is None:
        raise UsageError(
            f"{bundle.name} has no statistics of {label.name}; use clip-scope all, or make some "
            f"with 'gradgen stats --class {label.synset or label.name}' and give them as stats"
        )
    sigmas = DEFAULT_SIGMAS if sigmas is None else sigmas
    if settings.clip_scope == "all" or row is None:
        return clip_bounds(table.mean, table.std, sigmas), "all"
    mean, std = table.class_mean[row.index], table.class_std[row.index]
    return clip_bounds(mean, std, sigmas), "class"


def _refuse_repeated(jobs: Sequence[ClassJob]) -> None:
    for position, job in enumerate(jobs):
        for earlier in jobs[:position]:
            if (job.classifier, job.label) == (earlier.classifier, earlier.label):
                raise UsageError(
                    f"classes {earlier.query!r} and {job.query!r} are both {job.label.name}; "
                    "drop one (more pictures of a class: num-chains)"
                )
