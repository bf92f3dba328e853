"""Diagnostics of runs whose chains are known: white, slow, apart, stuck."""

import json

import numpy as np
import pytest

from gradgen.cli import app as program
from gradgen.errors import GradgenError, UsageError
from gradgen.evaluation.diagnose import autocorrelation, diagnose_run
from gradgen.samples import RECORD_FORMAT, npz_bytes, write_record

CHAINS, POINTS, WARMUP = 4, 400, 100


def autoregressive(rng, shape, phi):
    """AR(1) with variance 1; its effective sample size is n (1 - phi) / (1 + phi)."""
    draws = np.empty(shape)
    draws[:, 0] = rng.standard_normal(shape[0])
    for t in range(1, shape[1]):
        draws[:, t] = phi * draws[:, t - 1] + (1 - phi**2) ** 0.5 * rng.standard_normal(shape[0])
    return draws


def write_run(folder, density, method="hmc", acceptance=0.8, classes=1, **settings):
    """A run's folder with these log densities (chains, points) after a wild warm-up."""
    rng = np.random.default_rng(1)
    shape = density.shape
    steps = np.arange(1, shape[1] + 1)
    wild = np.where(steps <= WARMUP, 50 * rng.standard_normal(shape), 0)
    traces = {
        "step": steps,
        "log_density": density + wild,
        "log_likelihood": rng.standard_normal(shape) - 5 + wild,
        "squared_norm": 192 + rng.standard_normal(shape) + wild,
        "projections": rng.standard_normal((*shape, 2)),
        "acceptance": np.full(shape, acceptance),
        "step_size": np.full(shape, 0.1),
    }
    per_class = shape[0] // classes
    position = np.arange(shape[0]) // per_class
    made = {
        "method": method, "budget": 6000, "num_integration_steps": 10, "clip_mode": "none",
        **settings,
    }  # fmt: skip
    job = {
        "steps": [shape[1]] * per_class,
        "chains": list(range(per_class)),
        "acceptance_by_chain": [acceptance] * per_class,
        "step_size_by_chain": [0.1] * per_class,
    }
    folder.mkdir()
    arrays = {f"trace_{name}": values.astype(np.float32) for name, values in traces.items()}
    (folder / "chains.npz").write_bytes(npz_bytes({**arrays, "class_position": position}))
    record = {
        "format": RECORD_FORMAT,
        "settings": made,
        "warmup_steps": WARMUP,
        "classes": [{"name": f"class {number}", **job} for number in range(classes)],
    }
    write_record(folder, record)
    return folder


def draws(phi=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return autoregressive(rng, (CHAINS, WARMUP + POINTS), phi)


def advice(folder):
    return " | ".join(diagnose_run(folder).classes[0].advice)


def test_white_chains_agree_and_are_worth_every_draw(tmp_path):
    found = diagnose_run(write_run(tmp_path / "run", draws())).classes[0]
    assert found.agree and found.worst_r_hat < 1.02
    # the estimate's relative error is some 10 % for 1600 white draws
    assert 0.7 < found.figures["log_density"]["ess_bulk"] / (CHAINS * POINTS) < 1.3
    assert found.advice == ()
    assert found.series["log_density"].shape == (CHAINS, POINTS)  # without the wild warm-up


def test_the_effective_sample_size_of_slow_chains_is_the_known_one(tmp_path):
    found = diagnose_run(write_run(tmp_path / "run", draws(phi=0.8))).classes[0]
    expected = CHAINS * POINTS * (1 - 0.8) / (1 + 0.8)
    assert 0.6 < found.figures["log_density"]["ess_bulk"] / expected < 1.6
    assert "the smallest effective sample size" in " ".join(found.advice)


def test_chains_that_are_apart_are_told_so_with_what_to_do(tmp_path):
    apart = draws() + 3 * np.arange(CHAINS)[:, None]
    text = advice(write_run(tmp_path / "hmc", apart))
    assert (
        "the chains disagree on log_density" in text and "say to 24000" in text and "-L 20" in text
    )
    assert "--method hmc" in advice(write_run(tmp_path / "mala", apart, method="mala"))
    assert diagnose_run(tmp_path / "hmc").classes[0].agree is False


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


def test_autocorrelation_is_that_of_the_process():
    slow = autoregressive(np.random.default_rng(3), (50, 2000), 0.7)
    found = autocorrelation(slow, 5).mean(0)
    np.testing.assert_allclose(found, 0.7 ** np.arange(6), atol=0.03)  # 100 000 draws


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
    assert program.main(["diagnose", str(run), "--no-plot"]) == 0
    assert "the chains agree" in capsys.readouterr().err


def test_what_cannot_be_diagnosed_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="samples nothing"):
        diagnose_run(write_run(tmp_path / "map", draws(), method="map"))
    with pytest.raises(UsageError, match="is not the folder of a run"):
        diagnose_run(tmp_path)
    run = write_run(tmp_path / "run", draws())
    (run / "chains.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(GradgenError, match="is broken"):
        diagnose_run(run)
    (run / "chains.npz").unlink()
    with pytest.raises(UsageError, match="--resume"):
        diagnose_run(run)
