"""Tests the parts of the training loop against closed forms, and that a training resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from gradgen.errors import GradgenError
from gradgen.training import classifier, loop
from gradgen.training.whitening import fit_whitening, whiten


def test_cosine_rises_then_falls_to_zero():
    values = np.array([float(loop.cosine(jnp.float32(p))) for p in (0, 0.015, 0.03, 0.515, 1.0)])
    # halfway through the fall half a cosine is 1/2; the rise starts a little above 0
    np.testing.assert_allclose(values[2:], [1, 0.5, 0], atol=1e-6)
    assert 0 < values[0] < values[1] < 1


def test_average_of_a_constant_is_the_constant_and_early_values_are_forgotten():
    average = {"w": jnp.float32(100.0)}
    for step in range(60):
        average = loop.ema_update(average, {"w": jnp.float32(1.0)}, jnp.int32(step), 0.9)
    # product of the rates min(0.9, (1 + t) / (10 + t)) over 60 steps, times the initial gap of 99
    left = 99 * np.prod([min(0.9, (1 + t) / (10 + t)) for t in range(60)])
    assert float(average["w"]) == pytest.approx(1 + left, rel=1e-5)


def test_random_crops_are_windows_of_the_mirrored_image():
    images = jax.random.normal(jax.random.key(0), (4, 6, 6, 3))
    cropped = np.asarray(loop.crop_at_random(jax.random.key(1), images, 2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for image, candidates in zip(cropped, padded, strict=True):
        windows = [candidates[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
        assert any(np.array_equal(image, window) for window in windows)


def test_random_flips_mirror_about_half_of_the_images():
    images = jnp.arange(1000 * 4.0).reshape(1000, 1, 4, 1)
    flipped = np.asarray(loop.flip_at_random(jax.random.key(0), images))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    same = (flipped == images).all((1, 2, 3))
    assert (mirrored | same).all()
    assert abs(mirrored.sum() - 500) < 4 * np.sqrt(250)  # four standard deviations: 6e-5


def counting(state, batch, progress):
    value = state["value"] + batch
    return {"step": state["step"] + 1, "value": value}, {"value": value}


def numbers(start):
    while True:
        yield jnp.float32(start + 1)
        start += 1


def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path):
    start = {"step": jnp.int32(0), "value": jnp.float32(0)}

    def stop(step, progress, rate, metrics):
        if step == 60:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        loop.fit(counting, start, numbers, minutes=1, checkpoint=path, on_report=stop)

    def stop_later(step, progress, rate, metrics):
        if step == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.fit(counting, start, numbers, minutes=1, checkpoint=path, on_report=stop_later)
    state, elapsed = loop._read_checkpoint(path, start)
    assert loop.seconds_done(path) == elapsed > 0
    assert loop.seconds_done(tmp_path / "none") == 0
    assert int(state["step"]) == 100
    assert float(state["value"]) == sum(range(1, 101))
    assert elapsed > 0


def test_whoever_looks_sees_what_has_been_written(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    start = {"step": jnp.int32(0), "value": jnp.float32(0)}
    path, seen = tmp_path / "checkpoint", []

    def look(state):
        kept, _ = loop._read_checkpoint(path, start)
        assert int(kept["step"]) == int(state["step"])
        seen.append(int(state["step"]))

    loop.fit(counting, start, numbers, minutes=1e-4, checkpoint=path, on_checkpoint=look)
    assert seen[0] == 20 and len(seen) >= 2


def test_a_used_up_budget_trains_no_more(tmp_path):
    start = {"step": jnp.int32(0), "value": jnp.float32(0)}
    path = tmp_path / "checkpoint"
    done = loop.fit(counting, start, numbers, minutes=1e-4, checkpoint=path)
    again = loop.fit(counting, start, numbers, minutes=1e-4, checkpoint=path)
    assert int(done["step"]) == int(again["step"]) > 0


def test_divergence_is_one_clear_error(tmp_path):
    def diverging(state, batch, progress):
        return {**state, "step": state["step"] + 1}, {"loss": jnp.float32(np.nan)}

    with pytest.raises(GradgenError, match="diverged at step 20"):
        loop.fit(diverging, {"step": jnp.int32(0)}, numbers, minutes=1,
                 checkpoint=tmp_path / "checkpoint")  # fmt: skip


def test_a_foreign_checkpoint_is_one_clear_error(tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(b"nonsense")
    with pytest.raises(GradgenError, match="is not a checkpoint"):
        loop.fit(counting, {"step": jnp.int32(0)}, numbers, minutes=1, checkpoint=path)
    with pytest.raises(GradgenError, match="is not a checkpoint"):
        loop.seconds_done(path)


def overconfident(rng, n=4000, classes=5, true_temperature=2.5):
    """Logits whose labels are drawn from softmax(logits / true_temperature)."""
    logits = rng.normal(size=(n, classes)) * 4
    p = special.softmax(logits / true_temperature, axis=1)
    labels = (p.cumsum(1) < rng.random((n, 1))).sum(1)
    return logits, labels


def test_temperature_is_the_one_that_scipy_finds():
    logits, labels = overconfident(np.random.default_rng(0))

    def loss(log_t):
        log_p = special.log_softmax(logits / np.exp(log_t), axis=1)
        return -log_p[np.arange(len(labels)), labels].mean()

    expected = np.exp(optimize.minimize_scalar(loss, bracket=(-1, 2), tol=1e-10).x)
    assert classifier.fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(2.5, rel=0.1)


def test_codes_of_photographs_are_white_and_near_those_that_would_draw_them():
    """fc6 holds z under noise; photographs' codes are as N(0, I) as drawn pictures' z."""
    rng = np.random.default_rng(0)
    mixing, offset = rng.normal(size=(5, 12)), rng.normal(size=12)
    z = rng.normal(size=(2000, 5)).astype(np.float32)

    def fc6_of(z):
        return (z @ mixing + offset + rng.normal(0, 0.5, (len(z), 12))).astype(np.float32)

    own = rng.normal(size=(2000, 5)).astype(np.float32)
    photographs = fc6_of(own)
    whitening = fit_whitening(photographs, fc6_of(z), z)
    codes = whiten(photographs, whitening)
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(codes.T, bias=True), np.eye(5), atol=1e-3)
    for unit in range(5):
        assert np.corrcoef(codes[:, unit], own[:, unit])[0, 1] > 0.9
    assert 0.8 < whitening.kept < 1
