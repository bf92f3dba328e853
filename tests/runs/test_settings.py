"""Tests a run's settings: defaults that depend on each other, refusals, and JSON."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradgen.errors import UsageError
from gradgen.images import read_recipe
from gradgen.inference import SamplerSettings
from gradgen.inference.settings import METHODS, setting, settings_of
from gradgen.networks.load import load_bundle
from gradgen.runs.plan import describe, prepare
from gradgen.runs.results import collect
from gradgen.runs.sample import run_batches, sample
from gradgen.runs.settings import PAPER_PRESETS, SampleSettings, make_settings

EARLIER = Path(__file__).parents[1] / "data/earlier"


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


def test_the_papers_presets_are_settings_with_6000_gradients_and_beta_1():
    made = {name: make_settings({"classes": "beacon", "preset": name}) for name in PAPER_PRESETS}
    for each in made.values():
        assert (each.budget, each.likelihood_weight, each.preset) == (6000, 1.0, None)
        assert each.start_candidates == 1
    assert [each.method for each in made.values()] == ["map", "mala", "mala", "hmc"]
    assert [each.clip_mode for each in made.values()] == [*("project", "none", "project", "none")]
    for name in ("paper-mala", "paper-mala-clip"):
        assert (made[name].noise_decay, made[name].step_decay) == (0.55, 0.55)
    assert made["paper-hmc"].num_integration_steps == 10 and made["paper-hmc"].step_decay == 0


def test_what_is_given_goes_before_a_papers_preset():
    given = {"classes": "beacon", "preset": "paper-mala-clip", "budget": 50, "noise_decay": 0.1}
    made = make_settings(given, clip=False)
    assert (made.budget, made.noise_decay, made.clip_mode) == (50, 0.1, "none")
    assert make_settings({"classes": "beacon", "preset": "paper-hmc"}, clip=True).clip_mode == (
        "project"
    )
    longer = make_settings({"classes": "b", "preset": "paper-hmc", "trajectory_length": 2.0})
    assert longer.has_trajectories
    with pytest.raises(UsageError, match=r"`preset=paper-hmc` is a form of hmc, not of mala"):
        make_settings({"classes": "beacon", "preset": "paper-hmc", "method": "mala"})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"until_r_hat": 1.0}, "`until_r_hat` 1.0: must be a number above 1"),
        ({"until_r_hat": 1.01, "num_chains": 1}, "compares the chains of a group"),
        ({"budget": 0}, "`budget` 0"),
        ({"budget": -3}, "`budget` -3"),
        ({"budget": True}, "`budget` True"),
        ({"budget": 9, "num_integration_steps": 10}, "leapfrog"),
        ({"trajectory_length": 2.0, "num_integration_steps": 10}, "both say how far"),
        ({"num_chains": 0}, "`num_chains` 0"),
        ({"chain_batch": 0}, "`chain_batch` 0"),
        ({"seed": -1}, "`seed` -1"),
        ({"seed": 2**32}, "`seed`"),
        ({"step_size": math.nan}, "`step_size` nan"),
        ({"step_size": math.inf}, "`step_size` inf"),
        ({"step_size": 0.0}, "`step_size` 0"),
        ({"step_size": "big"}, "`step_size` 'big': must be a number above 0, or auto"),
        ({"step_decay": -0.1}, "`step_decay` -0.1"),
        ({"step_decay_offset": 0}, "`step_decay_offset` 0"),
        ({"noise_scale": -1.0, "method": "mala"}, "`noise_scale`"),
        ({"noise_decay": math.nan, "method": "mala"}, "`noise_decay`"),
        ({"step_jitter": 1.0}, "`step_jitter` 1.0"),
        ({"clip_sigmas": 0.0}, "`clip_sigmas`"),
        ({"clip_scope": "some"}, "`clip_scope` 'some'"),
        ({"clip_mode": "hard"}, "`clip_mode` 'hard'"),
        ({"method": "gibbs"}, "`method` 'gibbs'"),
        ({"preset": "dgn", "method": "map"}, "`preset` 'dgn'"),
        ({"likelihood_weight": -1.0}, "`likelihood_weight`"),
        ({"target_acceptance": 1.0}, "`target_acceptance`"),
        ({"warmup_fraction": 1.0}, "`warmup_fraction`"),
        ({"trace_length": 1}, "`trace_length`"),
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
    assert one.differences(other) == ["`budget`: 100, not 200", "`step_size`: auto, not 0.1"]
    assert one.differences(make_settings({}, base=one)) == []


def test_a_record_of_a_newer_version_is_refused():
    values = make_settings({"classes": ["beacon"]}).to_json()
    with pytest.raises(UsageError, match=r"run\.json has settings .*temperature_ladder"):
        SampleSettings.from_json({**values, "temperature_ladder": 3}, "run.json")
    with pytest.raises(UsageError, match="names no classes"):
        SampleSettings.from_json({"budget": 3})


# --- options that do nothing for the method ---


@pytest.mark.parametrize(
    ("method", "option", "owners"),
    [
        ("mala", {"num_integration_steps": 5}, "hmc"),
        ("mala", {"step_jitter": 0.1}, "hmc"),
        ("hmc", {"noise_decay": 0.5}, "mala"),
        ("hmc", {"noise_scale": 1.0}, "mala"),
        ("map", {"target_acceptance": 0.7}, "mala and hmc"),
        ("map", {"warmup_fraction": 0.2}, "mala and hmc"),
        ("map", {"clip_mode": "reject"}, "mala and hmc"),
        ("map", {"preset": "dgn-am", "step_decay": 0.5}, "map, mala and hmc"),
    ],
)
def test_an_option_that_the_method_does_not_look_at_is_refused_with_its_methods(
    method, option, owners
):
    (name,) = set(option) - {"preset"}
    with pytest.raises(UsageError) as caught:
        make_settings({"classes": "beacon", "method": method, **option})
    assert f"`{name}" in str(caught.value)
    assert str(caught.value).endswith(f"it belongs to {owners}")
    with pytest.raises(UsageError, match="does nothing for"):
        sample("tiny64", "beacon", method, **option)


@pytest.mark.parametrize("method", METHODS)
def test_each_methods_own_options_are_taken(method):
    own = {
        name: known.default
        for name, known in settings_of(SampleSettings).items()
        if method in known.methods and known.default is not None
    }
    assert own
    made = make_settings({"classes": "beacon", "method": method, **own})
    assert {name: getattr(made, name) for name in own} == own


def test_a_recorded_setting_of_another_method_is_no_error():
    recorded = make_settings({"classes": "beacon", "method": "mala"}).to_json()
    assert recorded["trajectory_length"] == 1.57
    back = SampleSettings.from_json(recorded)
    assert make_settings({"trajectory_length": 1.57}, base=back) == back


def test_a_preset_refuses_another_method_that_is_named_and_takes_none_as_map():
    with pytest.raises(UsageError, match=r"`preset=dgn-am` is a form of map, not of hmc"):
        sample("tiny64", "beacon", method="hmc", preset="dgn-am")
    with pytest.raises(UsageError, match=r"`preset=dgn-am` is a form of map, not of mala"):
        sample("tiny64", "beacon", "mala", preset="dgn-am")
    made = sample("tiny64", "beacon", preset="dgn-am", num_chains=1, budget=1)
    assert made.record.settings.method == "map"


# --- records ---


def test_a_run_and_a_recipe_of_an_earlier_version_are_read_as_they_were_written():
    for recorded in (
        json.loads((EARLIER / "begun" / "run.json").read_text())["settings"],
        read_recipe(EARLIER / "beacon-00.png")["settings"],
    ):
        made = SampleSettings.from_json(recorded)
        written = made.to_json()
        assert {name: written[name] for name in recorded} == recorded
        for name in set(written) - set(recorded):  # settings that came later
            usual = settings_of(SampleSettings)[name].default
            assert written[name] == (1 if name == "start_candidates" else usual)
        # leapfrog steps are what they were, whatever a newer version's default is
        assert made.num_integration_steps == recorded["num_integration_steps"]
        assert not made.has_trajectories


def test_the_kernels_settings_are_a_part_of_the_runs_and_not_a_copy():
    assert issubclass(SampleSettings, SamplerSettings)
    assert not set(vars(SampleSettings)["__annotations__"]) & set(settings_of(SamplerSettings))


def test_a_short_name_of_a_precision_is_written_out():
    made = make_settings({"classes": "beacon", "gradient_precision": "bf16"})
    assert made.gradient_precision == "bfloat16"


# --- a new setting is one line ---


@dataclass(frozen=True, kw_only=True)
class WithDummy(SampleSettings):
    """The settings with one more."""

    dummy_pressure: float = setting(
        2.5, help="A pressure that nothing looks at.", panel="Steps", flags=("-p",), above=0
    )


def test_a_new_setting_is_known_to_option_record_and_recipe(capsys, tmp_path):
    from typer.testing import CliRunner

    from gradgen.cli.help import App
    from gradgen.cli.options import takes_settings

    taken = []
    app = App(name="dummy", help="A program with one command.")
    app.command()(takes_settings(WithDummy)(lambda given: taken.append(given)))
    runner = CliRunner()
    shown = runner.invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    assert "--dummy-pressure, -p <float>" in shown
    assert "A pressure that nothing looks at. [default: 2.5]" in shown
    assert runner.invoke(app, ["--class", "beacon", "-p", "3", "-m", "mala"]).exit_code == 0
    assert taken == [{"classes": ("beacon",), "dummy_pressure": 3.0, "method": "mala"}]

    with pytest.raises(UsageError, match=r"`dummy_pressure` -1: must be a number above 0"):
        make_settings({**taken[0], "dummy_pressure": -1}, kind=WithDummy)
    small = {"budget": 20, "num_chains": 2, "block_size": 5}
    plan = prepare(make_settings({**taken[0], **small}, kind=WithDummy), load_bundle("tiny64"))
    samples = collect(plan, describe(plan), run_batches(plan, range(len(plan.groups))), 1.0)
    samples.save(tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    recipe = read_recipe(tmp_path / "run" / "beacon-00.png")["settings"]
    assert recorded["dummy_pressure"] == recipe["dummy_pressure"] == 3.0
    assert WithDummy.from_json(recorded) == plan.settings
    assert WithDummy.from_json(recorded).differences(
        WithDummy.from_json({**recorded, "dummy_pressure": 4.0})
    ) == ["`dummy_pressure`: 3.0, not 4.0"]
