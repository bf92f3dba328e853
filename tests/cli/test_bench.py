"""Tests the benchmark with a Gaussian that counts its evaluations, and its parts with tiny64."""

import json
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from gradgen.benchmark import loops, mixing, scaling, startup, suite
from gradgen.benchmark.timing import Loop, Timings, in_turns
from gradgen.cli import app as program
from gradgen.cli import bench
from gradgen.evaluation import precision
from gradgen.inference.types import Evaluation
from gradgen.networks.load import load_bundle
from gradgen.weights.cards import Card


@pytest.fixture
def counted(monkeypatch):
    """A standard normal in place of the posterior; how often a gradient of it was taken."""
    calls = Counter()

    def value_and_grad(params, class_index, z):
        jax.debug.callback(lambda: calls.update(["gradients"]))
        log_density = -0.5 * jnp.sum(z**2, axis=-1)
        return Evaluation(log_density, -z, log_density)

    @jax.custom_vjp
    def density(z):
        return -0.5 * jnp.sum(z**2, axis=-1)

    def backward(z, cotangent):
        jax.debug.callback(lambda: calls.update(["gradients"]))
        return (-z * cotangent[:, None],)

    density.defvjp(lambda z: (density(z), z), backward)

    def log_density(params, class_index, z):
        return density(z), density(z)

    target = SimpleNamespace(
        params={},
        value_and_grad=value_and_grad,
        mixed_value_and_grad=lambda precision, *arguments: value_and_grad(*arguments),
        log_density=log_density,
    )
    bundle = SimpleNamespace(
        name="normal",
        code_size=5,
        multiply_adds=1e3,
        card=Card("normal", "bundle"),
        generator=SimpleNamespace(params=nnx.State({"layers": {"fc": nnx.Param(jnp.zeros(1))}})),
        classifier=SimpleNamespace(params=nnx.State({})),
    )
    monkeypatch.setattr(suite, "load_bundle", lambda name: bundle)
    monkeypatch.setattr(suite, "make_target", lambda bundle: target)
    monkeypatch.setitem(loops.MATRIX_SIDE, "cpu", 64)
    return target, calls


@pytest.mark.parametrize("make", [loops.gradient_and_chains, loops.blackjax_chains])
def test_every_loop_takes_the_evaluations_that_it_is_charged_for(counted, make):
    target, calls = counted
    timed = make(target, jnp.zeros((2, 5)), 12, 3)
    for name, loop in timed.items():
        calls.clear()
        loop.run()
        jax.effects_barrier()
        assert calls["gradients"] == loop.evaluations, name
        assert loop.evaluations == (12 if "gradient" in name else 13)


def test_ratios_are_taken_turn_by_turn():
    # The machine was three times slower in the second turn; MALA costs 10 % more in each.
    timings = Timings({"gradient": [1.0, 3.0], "MALA": [1.1, 3.3]}, {})
    assert timings.ratio("MALA", "gradient") == pytest.approx(1.1)
    assert timings.median("gradient") == 2.0


def test_loops_are_timed_in_turns():
    seen = []
    timed = {name: Loop(lambda name=name: seen.append(name), 4) for name in "ab"}
    timings = in_turns(timed, 2)
    assert seen == ["a", "b"] * 3  # the first is compilation
    assert len(timings.each["a"]) == len(timings.each["b"]) == 2


def test_achieved_operations_are_compared_with_the_products():
    # a gradient of 2e9 operations in 2 s, a product of 1e9 in 0.5 s: 1 against 2 GFLOP/s
    times = {"gradient": [2.0], "MALA": [2.0], "HMC": [3.0], suite.MATRIX_PRODUCT: [0.5]}
    measured = suite.Measured(Timings(times, dict.fromkeys(times, 9.0)), 2e9, 1e9, None, {})
    found = suite.summary(measured, num_chains=4)
    assert found["ratios"] == {
        "MALA / gradient": 1.0,
        "HMC / gradient": 1.5,
        "FLOP/s: gradient / matrix product": pytest.approx(0.5),
    }
    assert found["gradient_gflops"] == pytest.approx(1.0)
    assert found["matrix_product_gflops"] == pytest.approx(2.0)
    assert found["loops"]["HMC"]["chain_evaluations_per_second"] == pytest.approx(4 / 3)
    assert loops.gradient_flops(126e6, 16) == pytest.approx(8.064e9)  # 2 · 2 · 126e6 · 16


def test_the_command_prints_json_or_tables(counted, capsys):
    arguments = ["bench", "--part=loops", "--gradients=7", "-L3", "--repeats=2", "--num-chains=2"]
    result = CliRunner().invoke(program.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["gradients_a_chain"] == 6, "whole HMC iterations"
    assert list(record)[2] == "ratios"
    assert {"gradient", "MALA", "HMC", "BlackJAX MALA", "BlackJAX HMC"} <= set(record["loops"])
    assert record["goals"].keys() == record["ratios"].keys()
    assert record["goals"]["MALA / gradient"] == "≤ 1.02"
    assert "PyTorch" in record["skipped"]  # not installed, or the normal is not written down in it
    bench.show(record)
    shown = capsys.readouterr().out
    assert "MALA / BlackJAX MALA" in shown and "chain gradients / s" in shown


def test_an_unknown_part_is_refused(capsys):
    assert program.main(["bench", "--part", "lops"]) == 2
    assert "loops, scaling, startup" in capsys.readouterr().err


def test_pytorchs_gradient_is_ours():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'gradgen[bench]'")
    from gradgen.benchmark import torch_networks

    bundle = load_bundle("tiny64")
    z = jax.random.normal(jax.random.key(0), (2, bundle.code_size))
    timed = torch_networks.gradient_loops(bundle, z, 1)  # raises where they differ
    assert timed["PyTorch"].evaluations == 1


@pytest.mark.slow
def test_a_figure_of_scaling_is_taken_in_processes_of_their_own(monkeypatch):
    small = [
        ("devices", [scaling.Case("tiny64", 4, 2, num_devices=2, group_size=2)]),
        ("processes", [scaling.Case("tiny64", 1, 2)] * 2),
    ]
    monkeypatch.setattr(scaling, "cases", lambda bundle, on_cpu: small)
    devices, processes = scaling.measure("tiny64", on_cpu=True)
    assert (devices["varied"], devices["value"], devices["num_chains"]) == ("devices", 2, 4)
    assert (processes["varied"], processes["value"], processes["num_chains"]) == ("processes", 2, 2)
    for row in (devices, processes):
        assert row["ms_per_step"] == pytest.approx(1e3 * row["seconds"] / 2)
        assert 0.05 < row["peak_memory_gb"] < 20


def test_precisions_are_compared_by_the_chains_means():
    row = precision._row("step size", np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    assert (row["float32"], row["bfloat16"], row["difference"]) == (2.0, 4.0, 2.0)
    assert row["standard_error"] == pytest.approx((1 / 3 + 4 / 3) ** 0.5)


@pytest.mark.slow
def test_coarse_gradients_leave_acceptance_and_samples_as_they_are(capsys):
    rows = precision.measure("tiny64", classes=2, chains=8, budget=200)
    assert [row["figure"] for row in rows][:2] == ["acceptance rate", "step size"]
    for row in rows:
        assert row["standard_error"] > 0, row  # the runs differ, so this compares two of them
        # 16 chains each: beyond 5 standard errors with a probability below 1e-3 (Student's t)
        assert abs(row["difference"]) < 5 * row["standard_error"], row
    bench.show({"precision": rows})
    assert "bfloat16" in capsys.readouterr().out


@pytest.mark.slow
def test_start_up_is_timed():
    found = startup.measure("tiny64", pictures=8)
    assert found["help_seconds"] < found["first_picture_warm_cache_seconds"]
    assert found["first_picture_warm_cache_seconds"] < found["first_picture_cold_cache_seconds"]
    assert found["scored_pictures_per_second"] > 0


def test_effective_samples_a_gradient_tell_methods_apart():
    """A normal in 20 dimensions, two of which are ten times narrower. MALA's steps are as short as
    these, so that it crawls through the others."""
    scales = jnp.ones(20).at[:2].set(0.1)

    def value_and_grad(params, z):
        log_density = -0.5 * jnp.sum((z / scales) ** 2, axis=-1)
        return Evaluation(log_density, -z / scales**2, log_density)

    z0 = jax.random.normal(jax.random.key(0), (8, 20)) * scales
    found = mixing.of_target(value_and_grad, None, z0, jax.random.key(1), budget=1500)
    assert set(found) == {"HMC", "HMC, L = 10", "MALA", "BlackJAX NUTS"}
    each = {name: figures["ess_per_gradient"] for name, figures in found.items()}
    assert each["HMC"] > 3 * each["MALA"] and each["BlackJAX NUTS"] > 3 * each["MALA"]
    # at most an independent draw from each trajectory, of about 1.57 / 0.15 steps
    assert 0.01 < each["HMC"] < 0.2
    row = mixing._row("HMC", [{"ess_per_gradient": x, "ess_per_second": 2.0} for x in (1, 5, 3)])
    assert (row["ess_per_gradient"], row["smallest"], row["largest"]) == (3, 1, 5)
