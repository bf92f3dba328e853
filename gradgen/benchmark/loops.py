"""Compiled loops over gradients, over our chains, over BlackJAX's chains and over a product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.benchmark.timing import Loop
from gradgen.inference import hmc, mala
from gradgen.inference.kernel import init
from gradgen.inference.types import Evaluation
from gradgen.runs.target import Target

# The warm-up finds step sizes of this order. The cost does not depend on them.
STEP_SIZES = {"mala": 0.05, "hmc": 0.1}
MATRIX_SIDE = {"cpu": 2048, "accelerator": 8192}
# These are the forward pass and the backward pass to the codes. No gradient of weights is needed.
GRADIENT_PASSES = 2


def gradient_and_chains(
    target: Target, z: Array, gradients: int, num_integration_steps: int
) -> dict[str, Loop]:
    """Make the loops of plain gradients and of our chains.

    The loops of chains take an additional gradient for their first state, as a run does.

    Args:
        target: the density of the samples.
        z: (chains, code), the codes at the start of each loop.
        gradients: gradient evaluations in a loop, a multiple of ``num_integration_steps``.
        num_integration_steps: leapfrog steps of HMC.
    """
    label = jnp.int32(0)

    def evaluator(params: Any) -> Callable[[Array], Any]:
        return lambda z: target.value_and_grad(params, label, z)

    def gradient_loop(value_and_grad: Callable[..., Evaluation], density: bool = True) -> Loop:
        def loop(params: Any, z: Array) -> Any:
            def step(z: Array, _: Array) -> tuple[Array, Array | None]:
                evaluation = value_and_grad(params, label, z)
                # The step moves z, or XLA would see that each round computes the same.
                moved = z + 1e-6 * evaluation.gradient
                return moved, evaluation.log_density if density else None

            return jax.lax.scan(step, z, jnp.arange(gradients))

        return _compiled(loop, target.params, z, gradients)

    # The loop does not return the float32 density beside a coarse gradient, so XLA leaves it out.
    coarse = partial(target.mixed_value_and_grad, "bfloat16")

    def mala_loop(params: Any, z: Array) -> Any:
        evaluate = evaluator(params)

        def step(state: Any, t: Array) -> tuple[Any, Any]:
            return mala.mala_step(_keys_at(t, len(z)), state, evaluate, STEP_SIZES["mala"])

        return jax.lax.scan(step, init(z, evaluate), jnp.arange(gradients))

    def hmc_loop(params: Any, z: Array) -> Any:
        evaluate = evaluator(params)

        def step(state: Any, t: Array) -> tuple[Any, Any]:
            return hmc.hmc_step(
                _keys_at(t, len(z)), state, evaluate, STEP_SIZES["hmc"], num_integration_steps
            )

        iterations = jnp.arange(gradients // num_integration_steps)
        return jax.lax.scan(step, init(z, evaluate), iterations)

    return {
        "gradient": gradient_loop(target.value_and_grad),
        "bfloat16 gradient": gradient_loop(coarse, density=False),
        "MALA": _compiled(mala_loop, target.params, z, gradients + 1),
        "HMC": _compiled(hmc_loop, target.params, z, gradients + 1),
    }


def blackjax_chains(
    target: Target, z: Array, gradients: int, num_integration_steps: int
) -> dict[str, Loop]:
    """Make the loops of the same chains by BlackJAX, an independent library.

    The arguments are those of :func:`gradient_and_chains`.

    Raises:
        ImportError: BlackJAX is not installed.
    """
    import blackjax

    label = jnp.int32(0)

    def loop(make: Callable[[Callable[[Array], Array]], Any], iterations: int) -> Any:
        def run(params: Any, z: Array) -> Any:
            def log_density(z: Array) -> Array:
                return target.log_density(params, label, z[None])[0][0]

            algorithm = make(log_density)

            def step(state: Any, t: Array) -> tuple[Any, Array]:
                state, info = jax.vmap(algorithm.step)(_keys_at(t, len(z)), state)
                return state, info.acceptance_rate

            return jax.lax.scan(step, jax.vmap(algorithm.init)(z), jnp.arange(iterations))

        return run

    mala_loop = loop(lambda density: blackjax.mala(density, STEP_SIZES["mala"]), gradients)
    hmc_loop = loop(
        lambda density: blackjax.hmc(
            density, STEP_SIZES["hmc"], jnp.ones(z.shape[1]), num_integration_steps
        ),
        gradients // num_integration_steps,
    )
    return {
        "BlackJAX MALA": _compiled(mala_loop, target.params, z, gradients + 1),
        "BlackJAX HMC": _compiled(hmc_loop, target.params, z, gradients + 1),
    }


def matrix_product(repeats: int = 4) -> tuple[Loop, float]:
    """Make a loop of products of large square float32 matrices.

    Returns:
        The loop, and the floating-point operations of a product.
    """
    side = MATRIX_SIDE["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    matrix = jax.random.normal(jax.random.key(0), (side, side)) / side**0.5

    def run(matrix: Array, start: Array) -> Array:
        return jax.lax.fori_loop(0, repeats, lambda _, product: matrix @ product, start)

    return _compiled(run, matrix, matrix, repeats), 2.0 * side**3


def gradient_flops(multiply_adds: float, num_chains: int) -> float:
    """Count the floating-point operations that a gradient of all chains needs at least.

    Args:
        multiply_adds: of a forward pass of generator and classifier, for a picture.
        num_chains: how many chains there are.
    """
    return 2.0 * multiply_adds * GRADIENT_PASSES * num_chains


def _keys_at(step: Array, chains: int) -> Array:
    return jax.random.split(jax.random.fold_in(jax.random.key(1), step), chains)


def _compiled(function: Callable[..., Any], params: Any, z: Array, evaluations: int) -> Loop:
    jitted = jax.jit(function)
    return Loop(lambda: jax.block_until_ready(jitted(params, z)), evaluations)
