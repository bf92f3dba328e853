"""The order in which a training sees its photographs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradgen.errors import UsageError


def batches(count: int, batch_size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of indices, each epoch in a new order; ``start`` skips that many batches.

    The order of epoch e depends on (seed, e) only, so that a resumed run sees what it would have.
    """
    per_epoch = count // batch_size
    if per_epoch == 0:
        raise UsageError(f"{count} training images are fewer than a batch of {batch_size}")
    epoch, first = divmod(start, per_epoch)
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for index in range(first, per_epoch):
            yield np.sort(order[index * batch_size : (index + 1) * batch_size])
        epoch, first = epoch + 1, 0
