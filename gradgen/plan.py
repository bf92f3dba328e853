"""What a run needs before its first step: networks, classes, bounds, batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradgen.bundle import load_bundle, load_classifier
from gradgen.errors import UsageError
from gradgen.labels import Label, find_class, imagenet_labels
from gradgen.networks import Bundle, Classifier, PublishedBounds
from gradgen.settings import SampleSettings
from gradgen.statistics import clip_bounds, load_statistics, published_bounds

FALLBACK_CLASSIFIER = "lite0"  # knows all 1000 ImageNet classes
# Between two looks at the chains: on two cores some seconds, so that a bar moves and Ctrl-C is
# answered.
BLOCK_GRADIENTS = 50
BLOCK_MULTIPLY_ADDS = 50.4e9  # forward passes' alone: 400 of tiny64's pictures
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
class Batch:
    """Chains that run together: ``size`` chains of one class from number ``start`` on."""

    class_position: int
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a run needs, loaded and resolved.

    Attributes:
        settings: with nothing left to choose but what the warm-up finds.
        only_chain: the one chain of the (only) class that is wanted, or ``None`` for all.
        stop_at: steps after which the run ends although the settings go on, or ``None``.
        notes: choices that a person should be told of.
    """

    settings: SampleSettings
    bundle: Bundle
    jobs: tuple[ClassJob, ...]
    batches: tuple[Batch, ...]
    only_chain: int | None = None
    stop_at: int | None = None
    notes: tuple[str, ...] = ()


def batches_of(num_classes: int, num_chains: int, chain_batch: int | None) -> tuple[Batch, ...]:
    """Split each class's chains into batches of one size, no larger than ``chain_batch``.

    All batches have the same shape, so that one compiled program serves them all and a chain's
    result does not depend on the batch's size differing: the last one of a class may hold chains
    beyond ``num_chains``, which are thrown away (fewer than there are batches).
    """
    count = -(-num_chains // min(chain_batch or num_chains, num_chains))
    size = -(-num_chains // count)
    return tuple(
        Batch(position, start, size)
        for position in range(num_classes)
        for start in range(0, num_chains, size)
    )


def block_size(settings: SampleSettings, batch_size: int, multiply_adds: float) -> int:
    """Steps of a block, from settings and networks alone: the clock must not decide what is
    computed. multiply_adds: of one picture (:class:`gradgen.networks.Bundle`)."""
    gradients = min(BLOCK_GRADIENTS, int(BLOCK_MULTIPLY_ADDS / multiply_adds) // batch_size)
    per_step = settings.num_integration_steps if settings.method == "hmc" else 1
    return max(1, gradients // per_step)


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
        only_chain: keep this one chain; those that share its batch run too, since a batch's size
            shows in the last bits of its results.
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
    batches = batches_of(len(jobs), settings.num_chains, settings.chain_batch)
    steps_a_block = settings.block_size or block_size(
        settings, batches[0].size, bundle.multiply_adds
    )
    if only_chain is not None:
        batches = tuple(b for b in batches if b.start <= only_chain < b.start + b.size)
    step_size = settings.step_size
    if settings.preset == "dgn-am" and any(job.classifier.name == "googlenet" for job in jobs):
        step_size = step_size or DGN_AM_GOOGLENET_STEP_SIZE
    return Plan(
        settings=replace(
            settings,
            likelihood_weight=weight,
            block_size=steps_a_block,
            step_size=step_size,
        ),
        bundle=bundle,
        jobs=tuple(jobs),
        batches=batches,
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
