"""Settings of a run: defaults that depend on each other, refusals, JSON and back."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradgen.errors import UsageError
from gradgen.settings import SampleSettings, make_settings


def test_map_clips_by_default_and_the_samplers_do_not():
    assert make_settings({"classes": "beacon", "method": "map"}).clip_mode == "project"
    assert make_settings({"classes": "beacon", "method": "mala"}).clip_mode == "none"
    assert make_settings({"classes": "beacon"}).clip_mode == "none"
    assert make_settings({"classes": "beacon", "method": "map"}, clip=False).clip_mode == "none"


@pytest.mark.parametrize(
    "option",
    [{"clip_sigmas": 2.0}, {"clip_scope": "all"}, {"statistics": "f.npz"}, {"clip_mode": "reject"}],
)
def test_an_option_about_clipping_turns_clipping_on(option):
    made = make_settings({"classes": ["beacon"], "method": "mala", **option})
    assert made.clip_mode == option.get("clip_mode", "project")
    with pytest.raises(UsageError, match="contradicts"):
        make_settings({"classes": ["beacon"], **option}, clip=False)


def test_dgn_am_is_map_with_200_iterations():
    made = make_settings({"classes": ["beacon"], "preset": "dgn-am"})
    assert (made.method, made.budget, made.clip_mode) == ("map", 200, "project")
    assert make_settings({"classes": ["beacon"], "preset": "dgn-am", "budget": 9}).budget == 9
    with pytest.raises(UsageError, match="preset"):
        make_settings({"classes": ["beacon"], "preset": "dgn-am", "method": "hmc"})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"budget": 0}, "budget 0"),
        ({"budget": -3}, "budget -3"),
        ({"budget": True}, "budget True"),
        ({"budget": 9, "num_integration_steps": 10}, "leapfrog"),
        ({"num_chains": 0}, "num-chains 0"),
        ({"chain_batch": 0}, "chain-batch 0"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**32}, "seed"),
        ({"step_size": math.nan}, "step-size nan"),
        ({"step_size": math.inf}, "step-size inf"),
        ({"step_size": 0.0}, "step-size 0"),
        ({"step_size": "big"}, "step-size big"),
        ({"step_decay": -0.1}, "step-decay -0.1"),
        ({"step_decay_offset": 0}, "step-decay-offset 0"),
        ({"noise_scale": -1.0}, "noise-scale"),
        ({"noise_decay": math.nan}, "noise-decay"),
        ({"step_jitter": 1.0}, "step-jitter 1.0"),
        ({"clip_sigmas": 0.0}, "clip-sigmas"),
        ({"clip_scope": "some"}, "clip-scope 'some'"),
        ({"clip_mode": "hard"}, "clip-mode 'hard'"),
        ({"method": "gibbs"}, "method 'gibbs'"),
        ({"preset": "dgn", "method": "map"}, "preset 'dgn'"),
        ({"likelihood_weight": -1.0}, "likelihood-weight"),
        ({"target_acceptance": 1.0}, "target-acceptance"),
        ({"warmup_fraction": 1.0}, "warmup-fraction"),
        ({"trace_length": 1}, "trace-length"),
        ({"classes": []}, "no class"),
        ({"classes": ["beacon", "beacon"]}, "twice"),
        ({"tempo": 3}, "unknown option tempo"),
    ],
)
def test_what_makes_no_sense_is_one_line_that_names_the_option(option, words):
    with pytest.raises(UsageError) as caught:
        make_settings({"classes": ["beacon"], **option})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.builds(
        SampleSettings,
        classes=st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True).map(tuple),
        method=st.sampled_from(["map", "mala", "hmc"]),
        likelihood_weight=st.none() | st.floats(0, 100),
        budget=st.integers(10, 10**9),
        step_size=st.none() | st.floats(1e-12, 1e6),
        clip_mode=st.sampled_from(["none", "project", "reject"]),
        seed=st.integers(0, 2**32 - 1),
    )
)
@settings(max_examples=50, deadline=None)
def test_json_and_back_is_the_same_record(made):
    assert SampleSettings.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_differences_name_each_setting_and_both_values():
    one = make_settings({"classes": ["beacon"], "budget": 100})
    other = make_settings({"budget": 200, "step_size": 0.1}, base=one)
    assert one.differences(other) == ["budget: 100, not 200", "step_size: auto, not 0.1"]
    assert one.differences(make_settings({}, base=one)) == []


def test_a_record_of_a_newer_version_is_refused():
    values = make_settings({"classes": ["beacon"]}).to_json()
    with pytest.raises(UsageError, match=r"run\.json has settings .* temperature_ladder"):
        SampleSettings.from_json({**values, "temperature_ladder": 3}, "run.json")
    with pytest.raises(UsageError, match="names no classes"):
        SampleSettings.from_json({"budget": 3})
