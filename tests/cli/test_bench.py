"""The benchmark on a Gaussian that counts how often it is evaluated."""

import json
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

from gradgen.cli import app as program
from gradgen.cli import bench
from gradgen.inference.types import Evaluation


@pytest.fixture
def counted(monkeypatch):
    """A standard normal in place of the posterior; how many chains it was evaluated for."""
    import gradgen.bundle
    import gradgen.target

    calls = Counter()

    def value_and_grad(params, class_index, z):
        jax.debug.callback(lambda: calls.update(["evaluations"]))
        log_density = -0.5 * jnp.sum(z**2, axis=-1)
        return Evaluation(log_density, -z, log_density)

    target = SimpleNamespace(params={}, value_and_grad=value_and_grad)
    monkeypatch.setattr(
        gradgen.bundle, "load_bundle", lambda name: SimpleNamespace(name="normal", code_size=5)
    )
    monkeypatch.setattr(gradgen.target, "make_target", lambda bundle: target)
    return target, calls


def test_every_loop_takes_the_evaluations_that_it_is_charged_for(counted):
    target, calls = counted
    loops = bench._loops(target, gradients=12, iterations=4, num_integration_steps=3)
    taken = {}
    for name, loop in loops.items():
        calls.clear()
        jax.block_until_ready(loop({}, jnp.zeros((2, 5))))
        jax.effects_barrier()
        taken[name] = calls["evaluations"]
    assert taken == {"gradient": 12, "MALA": 13, "HMC": 13}


def test_ratios_are_taken_turn_by_turn():
    # The machine was three times slower in the second turn; MALA costs 10 % more in each.
    seconds = {"gradient": [1.0, 3.0], "MALA": [1.1 * 11 / 10, 3.3 * 11 / 10]}
    summary = bench._summary(seconds, {"gradient": 9.0, "MALA": 9.0}, gradients=10, num_chains=4)
    assert summary["MALA"]["ratio_to_gradient"] == pytest.approx(1.1)
    assert summary["gradient"]["ms_per_evaluation"] == pytest.approx(200.0)
    assert summary["gradient"]["chain_evaluations_per_second"] == pytest.approx(20.0)
    assert summary["MALA"]["fastest_ms_per_evaluation"] == pytest.approx(110.0)


def test_the_command_prints_json_or_a_table(counted):
    arguments = ["bench", "--gradients", "7", "-L", "3", "--repeats", "2", "--num-chains", "2"]
    result = CliRunner().invoke(program.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["gradients_a_chain"] == 6, "whole HMC iterations"
    assert list(record["loops"]) == ["gradient", "MALA", "HMC"]
    assert record["loops"]["gradient"]["ratio_to_gradient"] == 1.0
    assert "HMC" in CliRunner().invoke(program.app, arguments).stdout
