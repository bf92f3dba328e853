"""What a run needs before its first step: networks, classes, bounds, groups and batches.

Chains are computed in groups: a group is one product of matrices, and a chain's numbers depend on
its own group only (:mod:`gradgen.devices`). Groups run side by side in batches, as many as the
devices' memory holds.
"""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradgen.code_bounds import load_statistics
from gradgen.errors import UsageError
from gradgen.evidence.classes import NO_CLASS, Composition, Form, compose
from gradgen.evidence.expression import (
    Class,
    Expression,
    is_composed,
    names_of,
    parse,
    renamed,
    slug_of,
)
from gradgen.evidence.photograph import Photograph
from gradgen.evidence.unit import WantedUnit, find_unit
from gradgen.evidence.unit import wanted as wanted_unit
from gradgen.inference.settings import BLOCK_GRADIENTS
from gradgen.labels import Label, Labels, imagenet_labels
from gradgen.networks.bounds import Box, clip_bounds
from gradgen.networks.catalog import (
    DEFAULT_BUNDLE,
    Choice,
    choose_bundle,
    find_bundle,
    find_class,
)
from gradgen.networks.interfaces import Bundle, Classifier
from gradgen.networks.load import load_bundle, load_classifier
from gradgen.runs.photographs import evidence_record, seen_photograph, starting_point
from gradgen.runs.record import (
    RUNNING,
    BoundsRecord,
    BundleRecord,
    ClassRecord,
    DeviceRecord,
    EvidenceRecord,
    NetworkRecord,
    RunRecord,
    versions,
)
from gradgen.runs.settings import START_CANDIDATES, SampleSettings

FALLBACK_CLASSIFIER = "lite0"  # knows all 1000 ImageNet classes
# A run under lite0 against one under tiny64's own classifier (MALA, 20 gradients, two busy cores):
# 7.2 times the processor time with 16 chains; 7.5 times as long with 2, and a gradient alone 8.9 to
# 10.2 times. Bundles whose own networks are larger than lite0 lose less by it, and are not told.
FALLBACK_SLOWDOWN, FALLBACK_MULTIPLY_ADDS = 10, 3.85e8
COMPOSED_KEYS = 2**31
# A group is one product of matrices: on two cores 16 of tiny64's chains cost 37 ms a gradient as
# one group, 43 ms in groups of 8; groups of 32 cost more than those of 16, for memory.
CPU_GROUP = 16
LEAST_GROUP = 4  # chains with replicas, however many those are: agreement is asked of a group's
ACCELERATOR_GROUP = 64
# Nguyen et al. 2016 begin with 8 under CaffeNet's kin, and with 2 under GoogLeNet.
DGN_AM_GOOGLENET_STEP_SIZE = 2.0
DEFAULT_SIGMAS = 3.0  # Nguyen et al. 2016: bounds of mean + 3 standard deviations
# Between two looks at the chains. On two cores BLOCK_GRADIENTS take some seconds, so that a bar
# moves and Ctrl-C is answered; an accelerator is some hundred times as fast.
BLOCK_MULTIPLY_ADDS = {"cpu": 50.4e9, "accelerator": 5e12}  # of forward passes
MEMORY_SHARE = 0.6  # of what is free; the rest is for what XLA needs besides
CPU_BATCH = 64  # chains; more at once would only make finished pictures come later

# The groups, by their place in the plan, whose chains run side by side. They have one classifier,
# and their classes are composed in one form.
Batch = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ClassJob:
    """One class to sample: what its target is made of.

    Attributes:
        query: as it was asked for.
        label: in the classifier's list; of a composed class a :class:`ComposedLabel`.
        composition: of a composed class; ``None`` for a plain one.
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
    composition: Composition | None = None

    @property
    def form(self) -> Form | None:
        """The shape of a composed class; ``None`` for a plain one."""
        return None if self.composition is None else self.composition.form

    @property
    def asked(self) -> Any:
        """What the target's functions are told of the class, for a chain."""
        return np.int32(self.label.index) if self.composition is None else self.composition.asked

    @property
    def expression(self) -> str | None:
        """A composed class in synset ids or indices, which no later reading changes."""
        return self.label.expression if isinstance(self.label, ComposedLabel) else None


@dataclass(frozen=True)
class ComposedLabel(Label):
    """A composed class where a class's label stands.

    ``index`` numbers its random numbers; it is no position in a list of classes.

    Attributes:
        expression: in synset ids, or indices of classes that have none.
        spelled: the class's slug.
    """

    expression: str = ""
    spelled: str = ""

    @property
    def slug(self) -> str:
        return self.spelled


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
        photograph: that the pictures are to match, or ``None``.
        unit: of the classifier that is to be high, or ``None``.
        start: (code,) at or near which the chains start; ``None``: at draws from the prior.
        choice: of the bundle and why, where nobody named one.
    """

    settings: SampleSettings
    bundle: Bundle
    jobs: tuple[ClassJob, ...]
    groups: tuple[Group, ...]
    only_chain: int | None = None
    stop_at: int | None = None
    notes: tuple[str, ...] = ()
    photograph: Photograph | None = None
    unit: WantedUnit | None = None
    start: np.ndarray | None = None
    choice: Choice | None = None

    def chains_of(self, groups: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """(position of the class, number within the class) of each chain of some groups."""
        members = [self.groups[int(index)] for index in groups]
        position = [np.full(group.size, group.class_position) for group in members]
        chain = [group.start + np.arange(group.size) for group in members]
        return np.concatenate(position), np.concatenate(chain)

    def wants(self, chain: np.ndarray) -> np.ndarray:
        """Which chains (n,), by their number, were asked for; the others only fill a group up."""
        if self.only_chain is not None:
            return chain == self.only_chain
        return chain < self.settings.num_chains


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
        return max(LEAST_GROUP, CPU_GROUP // settings.replicas)
    together = min(settings.num_chains, settings.chain_batch or settings.num_chains)
    return min(ACCELERATOR_GROUP, -(-together // num_devices))


def default_candidates(settings: SampleSettings) -> int:
    """DGN-AM's rule is published with its start, and a photograph is a start itself."""
    return 1 if settings.preset is not None or settings.start is not None else START_CANDIDATES


def prepare(
    settings: SampleSettings,
    bundle: Bundle | None = None,
    only_chain: int | None = None,
    stop_at: int | None = None,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
    evidence: EvidenceRecord | None = None,
) -> Plan:
    """Load the networks, find the classes, choose what the settings leave open.

    Args:
        settings: as asked for.
        bundle: already loaded; ``None``: the one that the settings name.
        only_chain: keep this one chain; those of its group run too, since a group's size shows in
            the last bits of its results.
        stop_at: end after this many steps of the settings' schedule.
        bounds: instead of those in the settings' statistics file (a recipe carries its own).
        evidence: photographs instead of those in the settings' files, likewise.

    Raises:
        UsageError: an unknown or ambiguous class, bundle or classifier; statistics that are
            missing or do not fit.
        GradgenError: weights that are missing or broken.
    """
    choice = None
    if bundle is None:
        if settings.bundle is None:
            choice = choose_for(settings.classes, settings.generator)
            settings = replace(settings, bundle=choice.name)
        bundle = load_bundle(settings.bundle or DEFAULT_BUNDLE, generator=settings.generator)
    notes: list[str] = []
    weight = settings.likelihood_weight
    if weight is None:
        weight = bundle.card.likelihood_weight or 1.0
    if settings.realism:
        _ = bundle.discriminator  # a bundle without one is refused before anything is begun
    seen = seen_photograph(settings, bundle, evidence)
    jobs = []
    wanted: WantedUnit | None = None
    if settings.unit is not None:
        name = settings.classifier
        judge = bundle.classifier if name is None else load_classifier_of(bundle, name)
        unit = find_unit(settings.unit, judge)
        wanted = wanted_unit(unit, bundle, judge, settings.unit_value, settings.unit_noise)
    if not settings.classes:
        name = settings.classifier
        classifier = bundle.classifier if name is None else load_classifier_of(bundle, name)
        label: Label = _label_without_class(settings, seen)
        box = Box(*bounds, "file") if bounds else _box(settings, bundle, label)
        within, scope = (None, None) if box is None else ((box.lower, box.upper), box.scope)
        jobs.append(ClassJob("", label, classifier, weight, within, scope, NO_CLASS))
    for query in settings.classes:
        classifier, label, composition = _find_class(query, bundle, settings.classifier)
        if classifier is not bundle.classifier and settings.classifier is None:
            slower = bundle.multiply_adds < FALLBACK_MULTIPLY_ADDS
            notes.append(
                f"{label.name} is not among the classes of {bundle.classifier.name}; "
                f"using the classifier {classifier.name}"
                + (
                    f", whose gradients take about {FALLBACK_SLOWDOWN} times as long"
                    if slower
                    else ""
                )
            )
        box = Box(*bounds, "file") if bounds else _box(settings, bundle, label)
        if box is not None and box.fell_back:
            notes.append(
                f"{bundle.name} has no statistics of {label.name}; clipping to all classes'"
            )
        within, scope = (None, None) if box is None else ((box.lower, box.upper), box.scope)
        jobs.append(ClassJob(query, label, classifier, weight, within, scope, composition))
    if wanted is not None and any(job.classifier is not judge for job in jobs):
        raise UsageError(f"the unit is of {judge.name}, which does not know all of the classes")
    _refuse_repeated(jobs)
    composed = settings.unit is None and any(job.composition is not None for job in jobs)
    if settings.preset == "dgn-am" and composed:
        raise UsageError(
            "`preset=dgn-am` climbs the logit of a single class; drop it, or name a single class"
        )
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
            start_candidates=settings.start_candidates or default_candidates(settings),
            step_size=step_size,
            unit_value=None if wanted is None else wanted.value,
            unit_noise=None if wanted is None else wanted.noise,
        ),
        bundle=bundle,
        jobs=tuple(jobs),
        groups=groups,
        only_chain=only_chain,
        stop_at=stop_at,
        notes=tuple(notes),
        photograph=seen,
        unit=wanted,
        start=starting_point(settings, bundle, evidence),
        choice=choice,
    )


def choose_for(queries: Sequence[str], generator: str | None = None) -> Choice:
    """The bundle of classes for which nobody names one; a composed class is all that it names.

    Raises:
        UsageError: an expression that makes no sense.
    """
    labels = find_bundle(DEFAULT_BUNDLE).labels
    named = [name for query in queries for name in names_of(_expression(query, labels))]
    return choose_bundle(list(dict.fromkeys(named)), generator)


def _find_class(
    query: str, bundle: Bundle, name: str | None
) -> tuple[Classifier, Label, Composition | None]:
    """The class, the classifier that judges it, and of what it is composed, if it is."""
    knowing = bundle if name is None else load_classifier_of(bundle, name)
    expression = _expression(query, knowing.labels)
    if isinstance(expression, Class):
        return *_find_plain_class(expression.name, bundle, name), None
    found = {part: _find_plain_class(part, bundle, name) for part in names_of(expression)}
    classifier = next(iter(found.values()))[0]
    if any(judge is not classifier for judge, _ in found.values()):
        # the bundle's own does not know them all, so that the one that knows all ImageNet judges
        classifier = load_classifier(FALLBACK_CLASSIFIER)
        for part, (judge, label) in found.items():
            if judge is not classifier and not label.synset:
                raise UsageError(
                    f"no classifier knows all classes of {query!r}: {label.name} is a class of "
                    f"{judge.name} alone"
                )
            found[part] = classifier, classifier.labels.find(label.synset or label.name)
    labels = {part: label for part, (_, label) in found.items()}
    composition = compose(expression, lambda part: labels[part].index, len(classifier.labels))
    return classifier, _composed_label(expression, labels), composition


def _expression(query: str, labels: Labels) -> Expression:
    """What a query says; the whole name of a class is that class, whatever is in it."""
    if not is_composed(query):
        return Class(query)
    names = {known.casefold() for label in labels for known in label.names}
    return Class(query) if query.strip().casefold() in names else parse(query)


def _label_without_class(settings: SampleSettings, seen: Photograph | None) -> ComposedLabel:
    """What stands for the class where none is asked for: the photograph and the unit."""
    parts = [f"unit {settings.unit}"] if settings.unit is not None else []
    if seen is not None:
        parts.insert(0, f"match {Path(settings.match or '').stem or 'photograph'}")
    pixels = b"" if seen is None else seen.pixels.tobytes()
    number = COMPOSED_KEYS | zlib.crc32(pixels + (settings.unit or "").encode())
    name = " & ".join(parts)
    return ComposedLabel(number, "", (name,), "", slug_of(Class(name)))


def _composed_label(expression: Expression, labels: Mapping[str, Label]) -> ComposedLabel:
    """The label of a composed class."""

    def text(name_of: Callable[[Label], str]) -> str:
        return str(renamed(expression, lambda part: name_of(labels[part])))

    stable = text(lambda label: label.synset or str(label.index))
    shown = text(lambda label: label.name)
    slug = slug_of(renamed(expression, lambda part: labels[part].slug))
    # fold_in takes 32 bits; the upper half, which no class's index reaches, is for compositions
    number = COMPOSED_KEYS | zlib.crc32(stable.encode())
    return ComposedLabel(number, "", (shown,), stable, slug)


def _find_plain_class(query: str, bundle: Bundle, name: str | None) -> tuple[Classifier, Label]:
    """The class, and the classifier that judges it."""
    if name is not None:
        classifier = load_classifier_of(bundle, name)
        return classifier, classifier.labels.find(query)
    position, label = find_class(query, (bundle.classifier.labels, imagenet_labels()))
    if position == 0:
        return bundle.classifier, label
    classifier = load_classifier(FALLBACK_CLASSIFIER)
    return classifier, classifier.labels.find(label.synset)


def load_classifier_of(bundle: Bundle, name: str) -> Classifier:
    """The bundle's own classifier if that is its name, or another one."""
    return bundle.classifier if name == bundle.classifier.name else load_classifier(name)


def _box(settings: SampleSettings, bundle: Bundle, label: Label) -> Box | None:
    """The box that a class's codes are kept in, or ``None`` without clipping."""
    if settings.clip_mode == "none":
        return None
    sigmas = settings.clip_sigmas
    if settings.statistics is not None:
        statistics = load_statistics(settings.statistics)
        lower, upper = statistics.bounds(bundle.code_size)
        if sigmas is None:
            return Box(lower, upper, "file")
        if statistics.mean is None or statistics.std is None:
            raise UsageError(
                f"{settings.statistics} holds bounds and no deviations; drop `clip_sigmas`"
            )
        box = clip_bounds(statistics.mean, statistics.std, sigmas, bundle.code_floor)
        return Box(*box, "file")
    table = bundle.code_statistics
    if table is None:
        raise UsageError(
            f"no bounds come with the codes of {bundle.generator.name}; measure some by 'gradgen "
            "stats --images DIR' with the same `generator`, and give them as `statistics`; or "
            "`clip=False`"
        )
    return table.bounds(label, DEFAULT_SIGMAS if sigmas is None else sigmas, settings.clip_scope)


def _refuse_repeated(jobs: Sequence[ClassJob]) -> None:
    for position, job in enumerate(jobs):
        for earlier in jobs[:position]:
            if (job.classifier, job.label) == (earlier.classifier, earlier.label):
                raise UsageError(
                    f"classes {earlier.query!r} and {job.query!r} are both {job.label.name}; "
                    "drop one (more pictures of a class: `num_chains`)"
                )


def batches_of(plan: Plan, todo: Iterable[int], most_chains: int) -> list[Batch]:
    """Put groups into batches of at most so many chains (at least a group), in order."""
    batches: list[Batch] = []
    taken: list[int] = []
    for index in todo:
        most = max(1, most_chains // plan.groups[index].size)
        full = len(taken) >= most
        if taken and (full or _program(plan, taken[-1]) != _program(plan, index)):
            batches.append(tuple(taken))
            taken = []
        taken.append(index)
    if taken:
        batches.append(tuple(taken))
    return batches


def _program(plan: Plan, index: int) -> tuple[Classifier, Form | None]:
    """What the compiled program of a group depends on, besides the settings."""
    job = plan.jobs[plan.groups[index].class_position]
    return job.classifier, job.form


def most_chains(plan: Plan, devices: Sequence[Any], bytes_a_chain: int | None = None) -> int:
    """Chains that run at once over all devices.

    bytes_a_chain: what a chain's gradient takes; needed on accelerators (unless ``chain_batch`` is
    set), whose free memory it is compared with.
    """
    settings = plan.settings
    group = plan.groups[0].size
    if settings.until_r_hat is not None:
        return group  # each group goes on for as long as its own chains need
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

    multiply_adds: of one picture (:class:`gradgen.networks.interfaces.Bundle`).
    """
    if settings.block_size is not None:
        return settings.block_size
    kind = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    gradients = int(BLOCK_MULTIPLY_ADDS[kind] / multiply_adds) // num_chains
    if kind == "cpu":
        gradients = min(BLOCK_GRADIENTS, gradients)
    return max(1, gradients // settings.gradients_per_step)


def describe(plan: Plan) -> RunRecord:
    """What is known of a run before its first step: goes into run.json at once."""
    generator, file = plan.bundle.generator, plan.bundle.file
    critic = plan.bundle.discriminator if plan.settings.realism else None
    return RunRecord(
        status=RUNNING,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=plan.settings,
        evidence=_describe_evidence(plan),
        bundle=BundleRecord(
            plan.bundle.name,
            NetworkRecord(generator.name, generator.sha256, generator.way),
            NetworkRecord(file.name, file.sha256) if file is not None else None,
            NetworkRecord(critic.name, critic.sha256) if critic is not None else None,
        ),
        classes=tuple(_describe_class(job) for job in plan.jobs),
        only_chain=plan.only_chain,
        stop_at=plan.stop_at,
        notes=plan.notes,
        versions=versions(),
        device=device(),
        num_devices=jax.local_device_count(),
    )


def _describe_evidence(plan: Plan) -> EvidenceRecord | None:
    if plan.photograph is None and plan.start is None:
        return None
    return evidence_record(plan.photograph, plan.start)


def _describe_class(job: ClassJob) -> ClassRecord:
    bounds = None
    if job.bounds is not None:
        bounds = BoundsRecord.of(job.bounds, whole=job.clip_scope == "file")
    return ClassRecord(
        query=job.query,
        name=job.label.name,
        slug=job.label.slug,
        synset=job.label.synset,
        index=job.label.index,
        classifier=NetworkRecord(job.classifier.name, job.classifier.sha256, job.classifier.way),
        likelihood_weight=job.likelihood_weight,
        clip_scope=job.clip_scope,
        bounds=bounds,
        expression=job.expression,
    )


def device() -> DeviceRecord:
    """The accelerator, or the processor's model and cores."""
    found = jax.devices()[0]
    on_cpu = found.platform == "cpu"
    return DeviceRecord(
        platform=found.platform,
        kind=_processor() if on_cpu else found.device_kind,
        cores=os.cpu_count() if on_cpu else None,
        # XLA has a thread for each of several CPU devices at least
        threads=max(cpu_threads(), jax.local_device_count()) if on_cpu else None,
    )


def cpu_threads() -> int:
    """Threads that XLA computes with on the CPU, by its own rules.

    ``NPROC`` in the environment, or the cores that this process may run on (``taskset``, a
    container's set of cores); one if ``XLA_FLAGS`` forbids more.
    """
    if "--xla_cpu_multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", "").lower():
        return 1
    asked = os.environ.get("NPROC", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
