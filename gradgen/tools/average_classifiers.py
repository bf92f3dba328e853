"""Averages the weights of several stages of one classifier's training. For developers only.

    python -m gradgen.tools.average_classifiers DATA --from tiny64 --out OUT.msgpack A.msgpack ...

Stages that went on from each other lie in one basin, and the mean of their weights is better than
each of them (Izmailov et al. 2018, "Averaging weights leads to wider optima"). Takes checkpoints of
`gradgen train` and the bundle that their training began from, which counts as the first stage. What
it writes is the last checkpoint with the mean as its averaged weights, and batch norms' statistics
taken anew: put in place as OUT/checkpoints/classifier.msgpack, `gradgen train` goes on with the
generator.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gradgen import runtime

runtime.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx, serialization  # noqa: E402

from gradgen.models.layers import BatchNorm  # noqa: E402
from gradgen.models.tiny64 import IMAGE_SIZE, Encoder  # noqa: E402
from gradgen.training import export, loop, warmstart  # noqa: E402
from gradgen.training.data import Dataset, load_datasets  # noqa: E402
from gradgen.weights.store import write_atomically  # noqa: E402

BATCH_SIZE, NUM_BATCHES = 1000, 10  # training images that the norms' statistics are taken from


def average(stages: list[Any]) -> Any:
    """The mean of pytrees of one structure."""
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *stages)


def take_statistics(encoder: Encoder, train: Dataset) -> None:
    """Set every norm's running mean and variance to the means over batches, in place."""
    total: Any = None
    for layer in _norms(encoder):
        layer.momentum = 0.0  # a batch's own statistics
    for start in range(NUM_BATCHES):
        encoder(loop.to_images(jnp.asarray(train.images[start :: len(train) // BATCH_SIZE])))
        found = nnx.to_pure_dict(nnx.state(encoder, nnx.BatchStat))
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    nnx.update(encoder, jax.tree.map(lambda values: values / NUM_BATCHES, total))


def _norms(encoder: Encoder) -> list[BatchNorm]:
    return [layer for _, layer in nnx.iter_modules(encoder) if isinstance(layer, BatchNorm)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--from", dest="start", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    train, val = load_datasets(options.data, IMAGE_SIZE)
    few = loop.to_images(jnp.asarray(train.images[:: len(train) // BATCH_SIZE]))
    first = warmstart.load_start(options.start).modules.encoder
    encoder = warmstart.add_batch_norms(first, few, len(train.classes))
    stages = [nnx.to_pure_dict(nnx.state(encoder, nnx.Param))]
    checkpoint: Any = None
    for path in options.checkpoints:
        checkpoint = serialization.msgpack_restore(path.read_bytes())
        params = checkpoint["state"]["average"]["params"]
        stages.append(serialization.from_state_dict(stages[0], params))
    nnx.update(encoder, jax.tree.map(jnp.asarray, average(stages)))
    take_statistics(encoder, train)
    checkpoint["state"]["average"] = serialization.to_state_dict(
        {
            "params": nnx.to_pure_dict(nnx.state(encoder, nnx.Param)),
            "statistics": nnx.to_pure_dict(nnx.state(encoder, nnx.BatchStat)),
        }
    )
    write_atomically(options.out, serialization.msgpack_serialize(checkpoint))
    loop.use_running_statistics(encoder)
    _, metrics = export.measure_classifier(encoder, val)
    print(f"{options.out}: {metrics}")


if __name__ == "__main__":
    main()
