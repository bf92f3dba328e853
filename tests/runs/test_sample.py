"""Tests sampling with the real networks, few chains and few steps, against direct computations."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradgen import load_bundle
from gradgen.code_bounds import Statistics
from gradgen.errors import GradgenError, UsageError
from gradgen.images import to_uint8
from gradgen.runs.plan import (
    batches_of,
    chains_that_fit,
    describe,
    groups_of,
    most_chains,
    prepare,
)
from gradgen.runs.sample import chain_keys, sample, starting_codes
from gradgen.runs.settings import make_settings

# One form for most tests: what is compiled once serves them all.
SMALL = {"method": "mala", "budget": 20, "num_chains": 2, "block_size": 5, "start_candidates": 4}


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("tiny64")


@pytest.fixture(scope="module")
def two_classes(bundle):
    return sample(bundle, ["goldfish", "beacon"], seed=3, **SMALL)


@given(st.integers(1, 5), st.integers(1, 200), st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_groups_hold_every_chain_once_and_waste_little(classes, chains, most):
    groups = groups_of(classes, chains, most)
    assert len({group.size for group in groups}) == 1
    assert groups[0].size <= most
    for position in range(classes):
        own = [group for group in groups if group.class_position == position]
        numbers = [n for group in own for n in range(group.start, group.start + group.size)]
        assert numbers == list(range(len(numbers)))
        assert 0 <= len(numbers) - chains < len(own)


def test_batches_hold_every_group_once_and_one_classifier_each(bundle):
    # lipstick is a class that only lite0 knows
    options = {"classes": ["goldfish", "lipstick", "beacon"], "num_chains": 5, "chain_group": 2}
    plan = prepare(make_settings(options), bundle)
    assert len(plan.groups) == 9
    batches = batches_of(plan, range(1, 9), most_chains=4)
    assert [index for batch in batches for index in batch] == list(range(1, 9))
    assert batches == [(1, 2), (3, 4), (5,), (6, 7), (8,)]
    for batch in batches:
        jobs = [plan.jobs[plan.groups[index].class_position] for index in batch]
        assert len({job.classifier.name for job in jobs}) == 1


class _Device:
    platform = "gpu"

    def __init__(self, gigabytes):
        self.gigabytes = gigabytes

    def memory_stats(self):
        return {"bytes_limit": self.gigabytes * 10**9, "bytes_in_use": 10**9}


def test_an_accelerator_runs_as_many_chains_as_its_memory_holds(bundle):
    plan = prepare(make_settings({"classes": "beacon", "chain_group": 8}), bundle)
    # 60 % of 10 GB hold 60 chains of 100 MB, which are 7 groups; the smaller device counts
    devices = [_Device(11), _Device(81)]
    assert most_chains(plan, devices, bytes_a_chain=10**8) == 2 * 56
    assert most_chains(plan, devices, bytes_a_chain=10**12) == 2 * 8  # at least a group each
    assert chains_that_fit(None, 1) == 1
    asked = prepare(make_settings({"classes": "beacon", "chain_batch": 24}), bundle)
    assert most_chains(asked, devices, bytes_a_chain=1) == 24


def test_classes_side_by_side_give_the_pictures_of_each_alone(bundle, two_classes):
    seen = []
    together = sample(
        bundle,
        ["goldfish", "beacon"],
        seed=3,
        chain_batch=4,
        on_block=lambda block: seen.append([job.label.name for job in block.jobs]),
        **SMALL,
    )
    assert seen == [["goldfish", "beacon"]] * 4
    for name in ("codes", "images", "log_density"):
        np.testing.assert_array_equal(getattr(together, name), getattr(two_classes, name))


def test_classes_side_by_side_keep_to_their_own_boxes(bundle):
    options = {"clip_sigmas": 0.5, "clip_mode": "project", "num_chains": 2, "budget": 10}
    names = ["goldfish", "beacon"]
    together = sample(bundle, names, "mala", chain_batch=4, step_size=0.05, **options)
    table = bundle.code_statistics
    for position, name in enumerate(names):
        row = table.labels.find(name).index
        mean, std = table.class_mean[row], table.class_std[row]
        own = together.codes[together.class_position == position]
        assert (abs(own - mean) <= 0.5 * std + 1e-5 * (1 + abs(mean))).all()
        assert (abs(own - mean) >= 0.499 * std).any()  # a wall was met


def test_chains_start_at_draws_from_the_prior_that_batching_does_not_change():
    codes = np.asarray(starting_codes(chain_keys(5, 71, 0, 40), 192))
    # 7680 draws; a wrong variance of 10 % would give p < 1e-6. False alarm: 1 in 10^4, once.
    assert stats.kstest(codes.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(codes)[np.triu_indices(40, 1)]).max() < 0.4  # 5.5 standard errors
    later = np.asarray(starting_codes(chain_keys(5, 71, 30, 10), 192))
    np.testing.assert_array_equal(later, codes[30:])


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, 64),
        ({"start_candidates": 7}, 7),
        ({"preset": "dgn-am"}, 1),
        ({"preset": "paper-hmc"}, 1),
    ],
)
def test_how_many_candidates_a_start_has_is_in_the_record(bundle, given, count):
    plan = prepare(make_settings({"classes": "beacon", **given}), bundle)
    assert describe(plan).settings.start_candidates == count


def test_chains_start_where_their_class_is_likelier_than_at_a_draw_from_the_prior(bundle):
    options = SMALL | {"budget": 1, "step_size": 1e-12}
    names = ["goldfish", "beacon"]
    usual, chosen = (
        sample(bundle, names, **(options | {"start_candidates": count})).log_likelihood
        for count in (1, 64)
    )
    # Independent draws, of which one is the best of 64: the usual one is better once in 65 times,
    # or somewhat more often, as the best is not always taken; twice in four is 6 in 65²: 0.1 %.
    assert (chosen > usual).sum() >= 3


def test_densities_are_those_of_the_networks_called_directly(bundle, two_classes):
    codes = two_classes.codes
    images = bundle.generator.apply(bundle.generator.params, codes)
    log_p = np.asarray(bundle.classifier.apply(bundle.classifier.params, images))
    index = [bundle.classifier.labels.find(name).index for name in ("goldfish", "beacon")]
    expected = log_p[np.arange(4), np.repeat(index, 2)]
    np.testing.assert_allclose(two_classes.log_likelihood, expected, atol=1e-4)
    weight = bundle.card.likelihood_weight
    log_prior = stats.norm.logpdf(codes.astype(np.float64)).sum(1)
    np.testing.assert_allclose(two_classes.log_density, weight * expected + log_prior, atol=2e-3)
    # compiled as another program, a pixel may round the other way
    gap = np.abs(to_uint8(images).astype(int) - two_classes.images.astype(int))
    assert gap.max() <= 1
    assert (gap > 0).mean() < 0.01


def test_traces_end_where_the_chains_are(two_classes):
    traces = two_classes.traces
    assert traces.step.tolist() == list(range(1, 21))
    np.testing.assert_array_equal(traces.log_likelihood[:, -1], two_classes.log_likelihood)
    np.testing.assert_allclose(traces.squared_norm[:, -1], (two_classes.codes**2).sum(1), rtol=1e-5)
    own = two_classes.record.classes[1]
    after_warmup = traces.acceptance[2:, two_classes.record.warmup_steps :]
    assert own.acceptance == pytest.approx(after_warmup.mean(), abs=1e-5)
    assert own.chains == (0, 1)


def test_a_class_gives_the_same_pictures_alone_or_among_others(bundle, two_classes):
    alone = sample(bundle, "beacon", seed=3, **SMALL)
    np.testing.assert_array_equal(alone.codes, two_classes.codes[2:])
    np.testing.assert_array_equal(alone.images, two_classes.images[2:])
    other = sample(bundle, "beacon", seed=4, **SMALL)
    assert (other.codes != alone.codes).any(axis=1).all()


def test_chains_beyond_those_asked_for_are_thrown_away(bundle, two_classes):
    batched = sample(bundle, "beacon", seed=3, **{**SMALL, "num_chains": 3, "chain_group": 2})
    assert len(batched) == 3
    assert batched.chain.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(batched.codes[:2], two_classes.codes[2:])
    total = batched.record.gradient_evaluations.total
    assert total == 4 * 21  # the thrown-away chain cost as much as the others


def test_an_interrupt_gives_what_is_there(bundle, two_classes):
    def on_block(block):
        if block.step >= 10 and block.jobs[0].label.name == "beacon":
            raise KeyboardInterrupt

    partial = sample(bundle, ["goldfish", "beacon"], seed=3, on_block=on_block, **SMALL)
    assert partial.record.status == "interrupted"
    assert [job.steps for job in partial.record.classes] == [(20, 20), (10, 10)]
    np.testing.assert_array_equal(partial.codes[:2], two_classes.codes[:2])
    trace, whole = partial.traces.log_density, two_classes.traces.log_density
    np.testing.assert_array_equal(trace[2:, :10], whole[2:, :10])
    assert np.isnan(trace[2:, 10:]).all()


def test_map_climbs_and_stays_in_the_box_of_its_class(bundle):
    options = {"clip_sigmas": 0.5, "step_size": 0.02, "likelihood_weight": 1.0}
    climbed = sample(bundle, "beacon", "map", num_chains=2, budget=15, **options)
    table = bundle.code_statistics
    row = table.labels.find("beacon").index
    mean, std = table.class_mean[row], table.class_std[row]
    slack = 1e-5 * (1 + abs(mean))
    assert (climbed.codes >= mean - 0.5 * std - slack).all()
    assert (climbed.codes <= mean + 0.5 * std + slack).all()
    assert (climbed.log_density > climbed.traces.log_density[:, 0]).all()
    assert climbed.record.classes[0].acceptance is None
    assert climbed.record.classes[0].clip_scope == "class"


def test_a_class_that_only_lite0_knows_is_judged_by_lite0(bundle):
    plan = prepare(make_settings({"classes": "lipstick", "method": "map"}), bundle)
    (job,) = plan.jobs
    assert job.classifier.name == "lite0"
    assert job.label.index == 629  # nets.md: DGN-AM's unit of lipstick
    assert job.clip_scope == "all"
    assert any("lite0, whose gradients take about 10 times" in note for note in plan.notes)
    assert any("statistics" in note for note in plan.notes)
    with pytest.raises(UsageError, match="lipstick"):
        prepare(make_settings({"classes": "lipstick", "classifier": "tiny64"}), bundle)
    with pytest.raises(UsageError, match="no statistics of lipstick"):
        prepare(make_settings({"classes": "lipstick", "clip_scope": "class"}), bundle)


def test_one_class_under_two_names_is_refused(bundle):
    with pytest.raises(UsageError, match="both beacon"):
        prepare(make_settings({"classes": ["beacon", "n02814860"]}), bundle)


def test_the_box_comes_from_the_statistics_that_are_asked_for(bundle, tmp_path):
    size = bundle.code_size
    mean, std = np.linspace(-1, 1, size, dtype=np.float32), np.full(size, 0.5, np.float32)
    file = tmp_path / "box.npz"
    Statistics(mean - 2 * std, mean + 2 * std, mean, std).save(file)

    def box(**options):
        made = make_settings({"classes": "beacon", "method": "mala", **options})
        return prepare(made, bundle).jobs[0].bounds

    np.testing.assert_allclose(box(statistics=str(file))[1], mean + 1.0, rtol=1e-6)
    np.testing.assert_allclose(box(statistics=str(file), clip_sigmas=4.0)[0], mean - 2.0, rtol=1e-6)
    whole = bundle.code_statistics
    np.testing.assert_allclose(
        box(clip_scope="all", clip_sigmas=2.0)[1], whole.mean + 2 * whole.std, rtol=1e-6
    )
    np.savetxt(tmp_path / "bounds.txt", np.full(size + 1, 3.0))
    with pytest.raises(UsageError, match=str(size + 1)):
        box(statistics=str(tmp_path / "bounds.txt"))


def test_keys_of_chains_and_classes_all_differ():
    keys = [np.asarray(jax.random.key_data(chain_keys(0, c, 0, 50))) for c in (0, 1, 71)]
    rows = np.concatenate(keys)
    assert len(np.unique(rows, axis=0)) == 150


def test_too_many_chains_for_the_memory_is_a_clear_error(bundle, monkeypatch):
    def no_memory(*_args, **_kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr("gradgen.runs.sample.run_chains", no_memory)
    with pytest.raises(GradgenError, match="`chain_batch` to a smaller number, such as 8"):
        sample(bundle, "beacon")
