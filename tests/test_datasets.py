"""Tests the reading of labelled photographs from folders and from shards."""

import io

import numpy as np
import pytest
from PIL import Image

from gradgen.datasets import load_datasets
from gradgen.errors import GradgenError, UsageError


def write_image(path, colour, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_class_folders_are_read_and_every_twentieth_image_is_held_out(tmp_path):
    for index in range(20):
        write_image(tmp_path / "red" / f"{index:02d}.png", (255, 0, 0))
        write_image(tmp_path / "blue" / f"{index:02d}.png", (0, 0, 255), size=(40, 20))
    train, val = load_datasets(tmp_path, 8)
    assert train.classes == val.classes == ("blue", "red")
    assert (len(train), len(val)) == (38, 2)
    assert train.images.shape == (38, 8, 8, 3)
    np.testing.assert_array_equal(train.images[train.labels == 0, ..., 2], 255)
    np.testing.assert_array_equal(train.images[train.labels == 1, ..., 0], 255)
    np.testing.assert_array_equal(np.sort(val.labels), [0, 1])


def test_train_and_val_folders_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            for index in range(count):
                write_image(tmp_path / part / name / f"{index}.png", (1, 2, 3))
    train, val = load_datasets(tmp_path, 8)
    assert (len(train), len(val)) == (6, 4)


def test_shards_of_jpegs_are_read(tmp_path):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    blobs = []
    for colour in colours:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "JPEG", quality=95)
        blobs.append(buffer.getvalue())
    arrays = {
        "jpeg": np.frombuffer(b"".join(blobs), np.uint8),
        "offset": np.cumsum([0, *map(len, blobs)]),
        "label": np.array([0, 1, 1], np.int16),
    }
    for name in ("train-0.npz", "train-1.npz", "val.npz"):
        np.savez(tmp_path / name, **arrays)
    (tmp_path / "classes.txt").write_text("n01\tred\nn02\tother\n")
    train, val = load_datasets(tmp_path, 8)
    assert train.classes == ("n01 red", "n02 other")
    assert (len(train), len(val)) == (6, 3)
    np.testing.assert_array_equal(train.labels, [0, 1, 1, 0, 1, 1])
    # JPEG at quality 95 moves a flat colour by a few levels at most
    assert np.abs(train.images[:3, 4, 4].astype(int) - colours).max() < 8


def test_a_folder_without_classes_is_one_clear_error(tmp_path):
    with pytest.raises(UsageError, match="one folder of images per class"):
        load_datasets(tmp_path, 8)
    with pytest.raises(UsageError, match="is not a folder"):
        load_datasets(tmp_path / "missing", 8)


def test_a_broken_image_is_named(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / name / "0.png", (0, 0, 0))
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(GradgenError, match=r"a/1\.png"):
        load_datasets(tmp_path, 8)


def test_photographs_are_decoded_with_the_checks_of_all_pictures(tmp_path):
    """Sixteen bits, transparency and a rotation in the EXIF data, which Pillow alone ignores."""
    for name in ("a", "b"):
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", (0, 0, 0))
    deep = np.full((8, 8), 40000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "b" / "2.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "b" / "3.png")
    turned = Image.new("RGB", (8, 8), (0, 0, 0))
    turned.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "b" / "4.png", exif=exif)
    train, val = load_datasets(tmp_path, 8)
    images = [*val.images, *train.images]
    assert any((image == round(40000 * 255 / 65535)).all() for image in images)
    assert any((image == 255).all() for image in images)
    assert any((image[:4] == 0).all() and (image[4:] == 255).all() for image in images)


def test_a_broken_photograph_inside_a_shard_is_counted_out(tmp_path):
    arrays = {"jpeg": np.zeros(4, np.uint8), "offset": np.array([0, 4]), "label": np.zeros(1, int)}
    np.savez(tmp_path / "train-0.npz", **arrays)
    (tmp_path / "classes.txt").write_text("n01\tred\n")
    with pytest.raises(GradgenError, match=r"image 0 is not a picture.*remove it"):
        load_datasets(tmp_path, 8)
