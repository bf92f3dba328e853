"""Chooses the likelihood weight that a bundle's card recommends. For developers only.

    python -m gradgen.tools.choose_likelihood_weight --write

The tool runs short MALA chains of several classes with each weight. It recommends the smallest
weight for whose samples the bundle's own calibrated classifier gives the class more than even odds
(mean log-probability above log 1/2). Of all weights whose pictures show the class, this is the
closest to the posterior. The table also has the figures of the judge, a network that has no part in
training and sampling.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from gradgen import runtime

runtime.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import Array  # noqa: E402

from gradgen.evaluation.compare import JUDGE  # noqa: E402
from gradgen.evaluation.experiments import EMBEDDED_CLASSES  # noqa: E402
from gradgen.evaluation.metrics import top1_and_top5  # noqa: E402
from gradgen.inference import Evaluation, SamplerSettings, run_chains  # noqa: E402
from gradgen.networks.catalog import find_weights  # noqa: E402
from gradgen.networks.interfaces import Bundle  # noqa: E402
from gradgen.networks.load import load_bundle, load_classifier  # noqa: E402
from gradgen.networks.stream import apply_in_batches  # noqa: E402
from gradgen.runs.target import make_target  # noqa: E402
from gradgen.weights.cards import read_card, write_card  # noqa: E402

BATCH_SIZE = 8  # pictures, of which there are few
WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def measure(bundle: Bundle, weight: float, budget: int, chains: int, seed: int) -> dict[str, Any]:
    """Draw samples of all classes with a weight, and rate them by both classifiers.

    Args:
        bundle: whose networks are used.
        weight: the likelihood weight.
        budget: gradient evaluations of a chain.
        chains: number of chains of a class.
        seed: of the chains' random numbers.

    Returns:
        A row of the table: {name of the figure: its value}.
    """
    labels = [bundle.classifier.labels.find(name) for name in EMBEDDED_CLASSES]
    own = jnp.repeat(jnp.array([label.index for label in labels]), chains)
    judge = load_classifier(JUDGE)
    theirs = np.repeat([judge.labels.find(label.synset).index for label in labels], chains)
    target = make_target(bundle, likelihood_weight=weight)
    evaluate = _evaluate_of(bundle)
    keys = jax.random.split(jax.random.key(seed), len(own))
    z0 = jax.random.normal(jax.random.key(seed + 1), (len(own), bundle.code_size))
    settings = SamplerSettings(method="mala", budget=budget)
    result = run_chains(keys, z0, evaluate, (target.params, own), settings)
    codes = np.asarray(result.state.position)
    images = apply_in_batches(bundle.generator.apply, bundle.generator.params, codes, BATCH_SIZE)
    log_p = apply_in_batches(judge.apply, judge.params, images, BATCH_SIZE)
    found = log_p[np.arange(len(theirs)), theirs]
    top1, top5 = top1_and_top5(log_p, theirs)
    return {
        "weight": weight,
        "own_log_probability": float(result.state.log_likelihood.mean()),
        "judge_log_probability": float(found.mean()),
        "judge_top1": top1,
        "judge_top5": top5,
        "acceptance": float(result.acceptance_rate.mean()),
        "step_size": float(result.step_size.mean()),
        "mean_squared_norm": float((result.state.position**2).sum(1).mean()),
    }


def recommended(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Choose the row of the smallest weight with more than even odds.

    If no weight has them, choose the row of the likeliest samples.
    """
    enough = [row for row in table if row["own_log_probability"] > -math.log(2)]
    if enough:
        return min(enough, key=lambda row: row["weight"])
    return max(table, key=lambda row: row["own_log_probability"])


_functions: dict[str, Any] = {}


def _evaluate_of(bundle: Bundle) -> Any:
    """Return the same function for all weights, which are a parameter, so that it compiles once."""
    if bundle.name not in _functions:
        target = make_target(bundle)

        def evaluate(params: tuple[dict[str, Any], Array], z: Array) -> Evaluation:
            return target.value_and_grad(params[0], params[1], z)

        _functions[bundle.name] = evaluate
    return _functions[bundle.name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="tiny64")
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--chains", type=int, default=4, help="a class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the outcome into the card")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    table = []
    for weight in WEIGHTS:
        table.append(measure(bundle, weight, options.budget, options.chains, options.seed))
        print(" ".join(f"{name} {value:.3g}" for name, value in table[-1].items()), flush=True)
    best = recommended(table)
    print(f"recommended: {best['weight']:g}")
    if options.write:
        folder = find_weights(options.bundle)
        recommendation = {
            "likelihood_weight": best["weight"],
            "chosen_by": "python -m gradgen.tools.choose_likelihood_weight "
            f"--budget {options.budget} --chains {options.chains} --seed {options.seed}",
            "measured": table,
        }
        write_card(folder, {**read_card(folder).content, "recommended": recommendation})


if __name__ == "__main__":
    main()
