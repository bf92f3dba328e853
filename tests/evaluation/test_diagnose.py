"""Tests the diagnosis of runs with known chains: independent, slow, far apart or stuck."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gradgen.cli import app as program
from gradgen.errors import GradgenError, UsageError
from gradgen.evaluation.diagnose import diagnose, longer_budget
from gradgen.files import npz_bytes
from gradgen.inference.diagnostics import LARGE_R_HAT, summarise
from gradgen.runs.record import (
    BundleRecord,
    ClassRecord,
    NetworkRecord,
    RunRecord,
    write_record,
)
from gradgen.runs.results import Chains
from gradgen.runs.settings import SampleSettings
from tests import fakes

CHAINS, POINTS, WARMUP = 4, 400, 100


def autoregressive(rng, shape, phi):
    """AR(1) with variance 1; its effective sample size is n (1 - phi) / (1 + phi)."""
    draws = np.empty(shape)
    draws[:, 0] = rng.standard_normal(shape[0])
    for t in range(1, shape[1]):
        draws[:, t] = phi * draws[:, t - 1] + (1 - phi**2) ** 0.5 * rng.standard_normal(shape[0])
    return draws


def write_run(folder, density, method="hmc", acceptance=0.8, classes=1, faults=(0, 0), **settings):
    """A run's folder with these log densities (chains, points) after a wild warm-up."""
    rng = np.random.default_rng(1)
    shape = density.shape
    steps = np.arange(1, shape[1] + 1)
    wild = np.where(steps <= WARMUP, 50 * rng.standard_normal(shape), 0)
    traces = fakes.traces(
        steps,
        log_density=density + wild,
        log_likelihood=rng.standard_normal(shape) - 5 + wild,
        squared_norm=192 + rng.standard_normal(shape) + wild,
        projections=rng.standard_normal((*shape, 2)),
        acceptance=np.full(shape, acceptance),
        step_size=np.full(shape, 0.1),
    )
    per_class = shape[0] // classes
    none = np.zeros(shape[0])
    chains = Chains(
        codes=none[:, None],
        log_likelihood=none,
        log_density=none,
        class_position=np.arange(shape[0]) // per_class,
        chain=np.arange(shape[0]) % per_class,
        traces=traces,
    )
    network = NetworkRecord("tiny64", "0" * 64)
    jobs = tuple(
        ClassRecord(
            query=f"class {number}",
            name=f"class {number}",
            slug=f"class-{number}",
            synset="",
            index=number,
            classifier=network,
            likelihood_weight=1.0,
            num_chains=per_class,
            chains=tuple(range(per_class)),
            steps=(shape[1],) * per_class,
            acceptance_by_chain=(acceptance,) * per_class,
            log_likelihood_by_chain=(0.0,) * per_class,
            step_size_by_chain=(0.1,) * per_class,
            divergent=faults[0],
            nan_proposals=faults[1],
        )
        for number in range(classes)
    )
    names = tuple(job.name for job in jobs)
    record = RunRecord(
        status="finished",
        created="2026-01-01T00:00:00+00:00",
        settings=SampleSettings(classes=names, method=method, **settings),
        bundle=BundleRecord("tiny64", network),
        classes=jobs,
        warmup_steps=WARMUP,
    )
    folder.mkdir()
    (folder / "chains.npz").write_bytes(npz_bytes(chains.to_arrays()))
    write_record(folder, record)
    return folder


def draws(phi=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return autoregressive(rng, (CHAINS, WARMUP + POINTS), phi)


def advice(folder):
    return " | ".join(diagnose(folder).classes[0].advice)


def test_white_chains_agree_and_are_worth_every_draw(tmp_path):
    found = diagnose(write_run(tmp_path / "run", draws())).classes[0]
    assert found.agree and found.worst_r_hat < 1.02
    # the estimate's relative error is some 10 % for 1600 white draws
    assert 0.7 < found.figures["log_density"]["ess_bulk"] / (CHAINS * POINTS) < 1.3
    assert found.advice == ()
    assert found.series["log_density"].shape == (CHAINS, POINTS)  # without the wild warm-up


def test_the_effective_sample_size_of_slow_chains_is_the_known_one(tmp_path):
    found = diagnose(write_run(tmp_path / "run", draws(phi=0.8))).classes[0]
    expected = CHAINS * POINTS * (1 - 0.8) / (1 + 0.8)
    assert 0.6 < found.figures["log_density"]["ess_bulk"] / expected < 1.6
    assert "the smallest effective sample size" in " ".join(found.advice)


def test_chains_that_are_apart_are_told_so_with_what_to_do(tmp_path):
    apart = draws() + 3 * np.arange(CHAINS)[:, None]
    text = advice(write_run(tmp_path / "hmc", apart))
    assert "the chains disagree on log_density" in text and "say to 96000" in text
    assert "num_integration_steps" not in text
    short = advice(write_run(tmp_path / "short", apart, num_integration_steps=10))
    assert "drop `num_integration_steps=10`" in short
    assert "`method=hmc`" in advice(write_run(tmp_path / "mala", apart, method="mala"))
    assert diagnose(tmp_path / "hmc").classes[0].agree is False


def test_chains_of_the_budget_that_is_proposed_agree():
    """AR(1) chains too short to agree, and as many times longer as the advice says."""
    long_enough = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        before = summarise(autoregressive(rng, (8, 100), 0.9))["r_hat"]
        longer = longer_budget(100, before)
        assert before > LARGE_R_HAT and 200 <= longer <= 1600
        after = summarise(autoregressive(rng, (8, longer), 0.9))["r_hat"]
        long_enough.append(after <= LARGE_R_HAT)
    # Of the seeds 1000 to 1099, 96 % agreed: fewer than 16 of 20 has a probability of 1e-3.
    assert np.sum(long_enough) >= 16


def test_faults_are_counted_in_words(tmp_path):
    run = write_run(tmp_path / "run", draws(), faults=(3, 2))
    text = advice(run)
    assert "3 proposals diverged" in text and "2 proposals had a density that is no number" in text
    told = diagnose(run).to_json()["classes"][0]
    assert (told["divergent"], told["nan_proposals"]) == (3, 2)


def test_annealed_noise_is_named_as_the_cause_of_a_low_acceptance(tmp_path):
    """And nothing is said that would make it worse: a longer budget, a smaller step."""
    run = write_run(tmp_path / "run", draws(), "mala", 0.004, noise_decay=0.55)
    text = advice(run)
    assert "the noise is annealed to 0.0084" in text and "`noise_floor=0.9`" in text
    assert "far below the mean" not in text and "a smaller `step_size`, or" not in text


@pytest.mark.parametrize(
    ("acceptance", "settings", "message"),
    [
        (0.2, {}, "acceptance 0.20 is low"),
        (0.99, {}, "acceptance 0.99 is high"),
        (0.8, {"clip_mode": "project"}, "not from the posterior"),
    ],
)
def test_settings_that_harm_are_named(tmp_path, acceptance, settings, message):
    assert message in advice(write_run(tmp_path / "run", draws(), "hmc", acceptance, **settings))


def test_a_chain_that_never_moved_is_named(tmp_path):
    density = draws()
    density[2] = 1.0
    assert "chain 2 never moved" in advice(write_run(tmp_path / "run", density))


def test_a_short_or_single_chain_cannot_be_judged(tmp_path):
    short = draws()[:, : WARMUP + 5]
    assert "only 5 points" in advice(write_run(tmp_path / "short", short))
    assert "one chain cannot be compared" in advice(write_run(tmp_path / "one", draws()[:1]))


def test_the_command_writes_plot_and_netcdf_and_json(tmp_path, capsys):
    arviz = pytest.importorskip("arviz")
    run = write_run(tmp_path / "run", draws(), classes=2)
    assert program.main(["diagnose", str(run), "--json", "--netcdf", str(tmp_path / "r.nc")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["class"] for one in told["classes"]] == ["class 0", "class 1"]
    assert all((tmp_path / "run" / f"diagnosis-class-{i}.png").is_file() for i in (0, 1))
    data = arviz.from_netcdf(tmp_path / "r.nc")
    assert data.posterior["squared_norm"].shape == (CHAINS, POINTS)
    np.testing.assert_array_equal(data.sample_stats["class_index"][:, 0], [0, 0, 1, 1])
    assert "rank-normalised" in told["r_hat"]
    assert program.main(["diagnose", str(run), "--no-plot"]) == 0
    assert "the chains agree" in capsys.readouterr().err


def test_a_file_of_chains_is_judged_as_the_run_that_it_is_of(tmp_path, capsys):
    run = write_run(tmp_path / "run", draws() + np.arange(CHAINS)[:, None], classes=2)
    of_run = diagnose(run, netcdf=tmp_path / "run.nc")
    of_file = diagnose(tmp_path / "run.nc")
    assert [each.name for each in of_file.classes] == ["class 0", "class 1"]
    for expected, found in zip(of_run.classes, of_file.classes, strict=True):
        assert found.figures.keys() == expected.figures.keys()
        for name, figures in expected.figures.items():
            assert found.figures[name] == pytest.approx(figures, rel=1e-6), name
    assert program.main(["diagnose", str(tmp_path / "run.nc")]) == 0
    assert "the chains disagree on log_density" in capsys.readouterr().err


def test_a_file_of_another_library_is_judged_by_its_variables(tmp_path):
    arviz = pytest.importorskip("arviz")
    rng = np.random.default_rng(0)
    drawn = {"mu": draws(), "theta": rng.standard_normal((CHAINS, WARMUP + POINTS, 2))}
    arviz.from_dict(posterior=drawn).to_netcdf(str(tmp_path / "other.nc"))
    (found,) = diagnose(tmp_path / "other.nc").classes
    assert found.name == "other" and set(found.figures) == {"mu", "theta[0]", "theta[1]"}
    assert found.figures["mu"]["ess_bulk"] == pytest.approx(arviz.ess(drawn["mu"]))
    assert found.agree and found.advice == ()
    (tmp_path / "broken.nc").write_bytes(b"no chains")
    with pytest.raises(GradgenError, match=r"broken\.nc is no NetCDF file"):
        diagnose(tmp_path / "broken.nc")


def test_what_cannot_be_diagnosed_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="samples nothing"):
        diagnose(write_run(tmp_path / "map", draws(), method="map"))
    with pytest.raises(UsageError, match="is not the folder of a run"):
        diagnose(tmp_path)
    run = write_run(tmp_path / "run", draws())
    (run / "chains.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(GradgenError, match="is broken"):
        diagnose(run)
    (run / "chains.npz").unlink()
    with pytest.raises(UsageError, match="--resume"):
        diagnose(run)


def test_the_command_turns_arguments_into_options(tmp_path, capsys):
    apart = draws() + 3 * np.arange(CHAINS)[:, None]
    run = write_run(tmp_path / "run", apart, num_integration_steps=10)
    assert program.main(["diagnose", str(run), "--no-plot"]) == 0
    told = capsys.readouterr().err
    assert "raise --budget (now 6000)" in told and "drop --num-integration-steps 10" in told
    assert "`" not in told


def test_diagnosing_does_not_start_jax(tmp_path):
    run = write_run(tmp_path / "run", draws())
    script = (
        "import sys; from gradgen.cli.app import main; "
        f"code = main(['diagnose', {str(run)!r}]); "
        "print('jax' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert (run / "diagnosis.png").is_file()
