"""Training of the discriminator that scores pictures."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.datasets import Dataset
from gradgen.models.tiny64 import Discriminator, DiscriminatorSizes
from gradgen.training import loop, realism


@pytest.mark.slow
def test_photographs_are_told_from_drawn_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_STEPS", 5)
    rng = np.random.default_rng(0)
    stripes = (128 + 90 * np.sin(np.arange(64) / 2))[:, None, None] + rng.normal(
        0, 10, (16, 64, 64, 3)
    )
    photographs = np.clip(stripes, 0, 255).astype(np.uint8)
    drawn = np.clip(rng.normal(128, 60, (16, 64, 64, 3)), 0, 255).astype(np.uint8)
    train = Dataset(photographs, np.zeros(16, np.int32), ("a", "b"), "test")

    def stop(step, progress, rate, figures):
        if step == 40:
            raise KeyboardInterrupt

    settings = realism.DiscriminatorSettings(minutes=60.0, batch_size=8, learning_rate=2e-3)
    start = Discriminator(DiscriminatorSizes(8), rngs=nnx.Rngs(0))
    arguments = (train, drawn, start)
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        realism.train_discriminator(*arguments, settings, checkpoint, stop)
    used_up = realism.DiscriminatorSettings(minutes=1e-6, batch_size=8)
    trained, facts = realism.train_discriminator(*arguments, used_up, checkpoint)
    assert facts == {"steps": 40, "photographs": 320}
    flat = np.full((4, 64, 64, 3), 90, np.uint8)
    on_real, on_drawn, on_flat = (
        np.asarray(trained(loop.to_images(jnp.asarray(images))))
        for images in (photographs, drawn, flat)
    )
    assert on_real.min() > max(on_drawn.mean(), on_flat.max())
