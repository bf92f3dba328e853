"""What critics see of pictures: changed at random, photographs and g(z) alike."""

import jax
import jax.numpy as jnp
import numpy as np

from gradgen.training import augmentation


def pictures(n=6, size=16):
    return jnp.tanh(jax.random.normal(jax.random.key(0), (n, size, size, 3)))


def test_photographs_and_drawn_pictures_are_changed_in_the_same_way():
    """The change is a function of key and place alone: equal pictures stay equal."""
    images, key = pictures(), jax.random.key(1)
    first, second = augmentation.augment(key, images), augmentation.augment(key, images + 0.0)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - images).max() > 0.1
    other = augmentation.augment(jax.random.key(2), images)
    assert np.abs(other - first).max() > 0.1
    # and of its own picture: the others may be what they like
    alone = augmentation.augment(key, images.at[1:].set(0.5))
    np.testing.assert_allclose(alone[0], first[0], atol=1e-6)


def test_a_shifted_picture_is_a_window_of_the_mirrored_one():
    images = pictures()
    shifted = np.asarray(augmentation._shift(jax.random.key(3), images, 2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    for image, candidates in zip(shifted, padded, strict=True):
        windows = [candidates[i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert any(np.allclose(image, window, atol=1e-6) for window in windows)


def test_a_square_is_cut_out_of_about_half():
    images = jnp.ones((400, 16, 16, 3))
    cut = np.asarray(augmentation._cut_out(jax.random.key(4), images, 5)) == 0
    sizes = cut[..., 0].sum((1, 2))
    assert abs((sizes > 0).sum() - 200) < 4 * 10  # four standard deviations of 400 fair coins
    assert sizes.max() == 25  # a square that lies inside the picture
    rows, columns = cut[..., 0].any(2).sum(1), cut[..., 0].any(1).sum(1)
    np.testing.assert_array_equal(rows * columns, sizes)


def test_colours_change_but_grey_stays_grey():
    grey = jnp.broadcast_to(pictures()[..., :1], (6, 16, 16, 3))
    changed = np.asarray(augmentation._recolour(jax.random.key(5), grey))
    np.testing.assert_allclose(changed.std(-1), 0, atol=1e-6)
    assert np.abs(changed.mean((1, 2, 3)) - np.asarray(grey).mean((1, 2, 3))).max() > 0.05


def test_gradients_go_through():
    images, key = pictures(), jax.random.key(6)
    slope = jax.grad(lambda images: augmentation.augment(key, images).sum())(images)
    # a picture loses at most the square and what is shifted out
    assert (np.abs(slope) > 1e-3).mean() > 0.5
