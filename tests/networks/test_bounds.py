"""Tests that both kinds of tables of bounds answer the same questions in the same way."""

import numpy as np
import pytest

from gradgen.errors import UsageError
from gradgen.labels import Label, Labels, imagenet_labels
from gradgen.networks.bounds import CodeStatistics, PublishedBounds, WeightedStatistics, mixture

LABELS = Labels.from_lines(["n02814860 beacon, lighthouse", "my class"])
MEASURED = CodeStatistics(
    class_mean=np.array([[0.0, 1.0], [3.0, 4.0]], np.float32),
    class_std=np.array([[1.0, 0.5], [2.0, 2.0]], np.float32),
    mean=np.array([1.0, 2.0], np.float32),
    std=np.array([1.5, 2.5], np.float32),
    labels=LABELS,
    source="mine",
)
PUBLISHED = PublishedBounds({3.0: np.array([12.0, 7.0], np.float32)}, "somebody")


def test_a_class_has_its_own_box_in_whatever_list_it_is_named():
    for beacon in (LABELS[0], imagenet_labels().find("n02814860")):
        assert MEASURED.knows(beacon)
        box = MEASURED.bounds(beacon, 2)
        assert (box.scope, box.fell_back) == ("class", False)
        assert box.lower.tolist() == [-2, 0] and box.upper.tolist() == [2, 2]
    assert MEASURED.bounds(LABELS[1], 1).upper.tolist() == [5, 6]


def test_the_same_index_in_another_list_is_another_class():
    tench = imagenet_labels()[0]
    assert not MEASURED.knows(tench) and not MEASURED.knows(Label(1, "", ("another",)))


def test_a_class_that_is_not_there_falls_back_on_all_unless_its_own_is_asked_for():
    lipstick = imagenet_labels().find("lipstick")
    box = MEASURED.bounds(lipstick, 2)
    assert (box.scope, box.fell_back) == ("all", True)
    assert box.lower.tolist() == [-2, -3] and box.upper.tolist() == [4, 7]
    asked = MEASURED.bounds(lipstick, 2, "all")
    assert not asked.fell_back and asked.upper.tolist() == box.upper.tolist()
    with pytest.raises(UsageError, match="mine has no statistics of lipstick"):
        MEASURED.bounds(lipstick, 2, "class")
    assert not MEASURED.bounds(None, 2).fell_back


def test_published_bounds_are_all_classes_alike_and_for_some_deviations_only():
    box = PUBLISHED.bounds(LABELS[0], 3.0)
    assert (box.scope, box.fell_back, box.mean) == ("all", False, None)
    assert box.lower.tolist() == [0, 0] and box.upper.tolist() == [12, 7]
    assert not PUBLISHED.knows(LABELS[0])
    with pytest.raises(UsageError, match="one set of bounds for all classes.*beacon"):
        PUBLISHED.bounds(LABELS[0], 3.0, "class")
    with pytest.raises(UsageError, match=r"are for 3 standard deviations, not 2\.5"):
        PUBLISHED.bounds(LABELS[0], 2.5)


WEIGHTED = WeightedStatistics(
    class_mean=np.array([[4.0, -1.0], [4.0, -1.0]], np.float32),
    class_std=np.array([[1.0, 2.0], [1.0, 2.0]], np.float32),
    effective=np.array([45.0, 12.0], np.float32),
    expected=np.array([9.0, 3.0], np.float32),
    mean=np.array([1.0, 2.0], np.float32),
    std=np.array([1.5, 2.5], np.float32),
    labels=Labels.from_lines(["n02814860 beacon", "n03676483 lipstick"]),
    source="mine",
)


def test_a_class_with_enough_photographs_has_its_own_moments():
    box = WEIGHTED.bounds(imagenet_labels().find("n02814860"), 1)
    assert box.lower.tolist() == [3, -3] and box.upper.tolist() == [5, 1]
    assert box.origin == {
        "source": "photographs",
        "effective_photographs": 45.0,
        "expected_photographs": 9.0,
        "own_share": 1.0,
    }


def test_a_class_with_few_is_mixed_with_all_by_their_number_over_30():
    box = WEIGHTED.bounds(imagenet_labels().find("lipstick"), 1)
    assert box.origin["own_share"] == pytest.approx(0.4)
    rng = np.random.default_rng(0)
    own = rng.random(400_000) < 0.4
    draws = np.where(own, rng.normal(4, 1, own.shape), rng.normal(1, 1.5, own.shape))
    assert box.mean[0] == pytest.approx(draws.mean(), abs=0.02)
    assert box.std[0] == pytest.approx(draws.std(), abs=0.02)
    np.testing.assert_allclose(box.upper, box.mean + box.std, rtol=1e-6)


def test_weighted_photographs_are_of_imagenets_classes_only():
    assert not WEIGHTED.knows(Label(0, "", ("beacon",)))
    with pytest.raises(UsageError, match="mine has no statistics of tench"):
        WEIGHTED.bounds(imagenet_labels()[0], 1)
    assert WEIGHTED.bounds(None, 1).upper.tolist() == [2.5, 4.5]


@pytest.mark.parametrize(("share", "expected"), [(1.0, (4.0, 1.0)), (0.0, (1.0, 1.5))])
def test_a_mixture_of_a_single_part_is_that_part(share, expected):
    found = mixture(share, np.float64(4), np.float64(1), np.float64(1), np.float64(1.5))
    assert found == pytest.approx(expected)
