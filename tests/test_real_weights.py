"""Tests that networks with the published weights see what their authors say they see.

The tests need ``gradgen weights fetch caffenet alexnet googlenet`` and photographs that are not
part of the project. Without them the tests are skipped, and the reason is given.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradgen.images import decode
from gradgen.labels import imagenet_labels
from gradgen.networks.load import load_classifier
from gradgen.weights.registry import read_registry

PHOTOGRAPHS = Path(__file__).parents[1].parent / "shared" / "data" / "imagenet-samples"
# Top-1 of the centre crop on ImageNet's validation set, as Caffe's model zoo publishes it.
PUBLISHED = {"caffenet": 0.574, "alexnet": 0.571, "googlenet": 0.687}


def centre_crop(path, size):
    """Caffe's: the whole picture squeezed to 256 x 256, then the centre."""
    squeezed = decode(path).resize((256, 256), Image.Resampling.BILINEAR)
    margin = (256 - size) // 2
    cropped = squeezed.crop((margin, margin, margin + size, margin + size))
    return np.asarray(cropped, np.float32) / 127.5 - 1


@pytest.mark.real_weights
@pytest.mark.parametrize("name", PUBLISHED)
def test_top_1_accuracy_on_photographs_is_at_least_the_published_one_less_3_points(name):
    """At least: these photographs are likely from the training set, where networks do better."""
    if not read_registry()[name].fetched:
        pytest.skip(f"the weights of {name} are not here: gradgen weights fetch {name} --only")
    photographs = sorted(PHOTOGRAPHS.glob("n*.jpg"))
    if not photographs:
        pytest.skip(f"no photographs in {PHOTOGRAPHS}")
    classifier = load_classifier(name)
    labels = imagenet_labels()
    hits = []
    for start in range(0, len(photographs), 16):
        paths = photographs[start : start + 16]
        images = np.stack([centre_crop(path, classifier.input_size) for path in paths])
        best = np.asarray(classifier.apply(classifier.params, images)).argmax(1)
        hits += [labels[i].synset == path.name[:9] for i, path in zip(best, paths, strict=True)]
    assert np.mean(hits) > PUBLISHED[name] - 0.03
