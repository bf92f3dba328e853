"""Tests the lists of class labels, and how a class is found from what a person types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradgen.errors import UsageError
from gradgen.labels import Label, Labels, UnknownClassError, find_class, imagenet_labels
from gradgen.networks.catalog import find_bundle

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.mark.parametrize(
    ("query", "index"),
    [
        # DGN-AM's published unit numbers for its ImageNet classes (Nguyen et al. 2016)
        ("mask", 643),
        ("library", 624),
        ("leaf beetle", 304),
        ("lipstick", 629),
        ("beacon", 437),
        # and the two ends of the list
        ("tench", 0),
        ("toilet tissue", 999),
    ],
)
def test_imagenet_indices_are_those_published_for_known_classes(query, index):
    assert imagenet_labels().find(query).index == index


def test_imagenet_list_is_1000_distinct_synsets_in_sorted_order():
    synsets = [label.synset for label in imagenet_labels()]
    assert len(synsets) == 1000
    assert synsets == sorted(set(synsets))
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in synsets)


def tiny_labels():
    """The 200 classes of Tiny ImageNet, which tiny64 was trained on."""
    return find_bundle("tiny64").labels


def test_every_tiny_imagenet_class_is_an_imagenet_class_of_the_same_names():
    assert len(tiny_labels()) == 200
    for label in tiny_labels():
        same = imagenet_labels().by_synset(label.synset)
        assert same is not None and same.names == label.names


def test_the_lists_are_the_source_lists_line_by_line():
    shared = {
        "labels/imagenet-1k-synsets.txt": imagenet_labels(),
        "data/tiny-imagenet/classes.txt": tiny_labels(),
    }
    for name, labels in shared.items():
        if not (SHARED / name).exists():
            pytest.skip(f"{SHARED / name} is not on this machine")
        lines = (SHARED / name).read_text(encoding="utf-8").splitlines()
        assert [line.replace("\t", " ") for line in lines] == [str(label) for label in labels]


@pytest.mark.parametrize(
    "query",
    [
        "n02814860",
        "N02814860",
        "437",
        437,
        " beacon ",
        "Beacon",
        "lighthouse",
        "beacon light",
        "beacon_light",
        "BEACON-LIGHT",
        "beacon, lighthouse, beacon light, pharos",
    ],
)
def test_beacon_is_found_by_synset_index_and_name(query):
    assert imagenet_labels().find(query).synset == "n02814860"


def test_apostrophes_and_full_stops_do_not_matter():
    assert imagenet_labels().find("jack o lantern").name == "jack-o'-lantern"
    assert imagenet_labels().find("RV").synset == imagenet_labels().find("R.V.").synset


@pytest.mark.parametrize(
    ("query", "synsets"),
    [("crane", {"n02012849", "n03126707"}), ("maillot", {"n03710637", "n03710721"})],
)
def test_the_two_cranes_and_the_two_maillots_are_ambiguous_and_listed(query, synsets):
    with pytest.raises(UsageError) as raised:
        imagenet_labels().find(query)
    assert set(re.findall(r"n\d{8}", str(raised.value))) == synsets
    assert "\n" not in str(raised.value)
    for synset in synsets:
        assert imagenet_labels().find(synset).name == query


def test_all_of_a_class_s_names_tell_the_second_maillot_from_the_first():
    assert imagenet_labels().find("maillot, tank suit").synset == "n03710721"


def test_a_whole_name_wins_over_a_longer_name_that_contains_it():
    # "bow" is a class, and "bow tie" and "rainbow"-like names contain it
    assert imagenet_labels().find("bow").name == "bow"


def test_the_first_name_wins_where_it_is_only_a_further_name_of_another_class():
    # "tub, vat" and "bathtub, bathing tub, bath, tub"
    assert imagenet_labels().find("tub").names == ("tub", "vat")
    # "panther" is a further name of two classes and the first of none
    with pytest.raises(UsageError, match="2 classes"):
        imagenet_labels().find("panther")


@pytest.mark.parametrize(
    ("query", "near"),
    [("alley", "valley"), ("man", "man-eater"), ("sun", "sunscreen"), ("lighth", "lighthouse")],
)
def test_words_are_not_matched_inside_but_proposed(query, near):
    with pytest.raises(UnknownClassError, match=rf"did you mean .*\b{near}\b"):
        imagenet_labels().find(query)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("white shark", "great white shark"),
        ("white-shark", "great white shark"),
        ("great white", "great white shark"),
        ("fire salamander", "European fire salamander"),
        ("two piece", "bikini"),
        ("guinea", "guinea pig"),
    ],
)
def test_whole_words_of_a_name_find_it(query, name):
    assert imagenet_labels().find(query).name == name


def test_hyphens_bind_a_word_and_slashes_do_not():
    labels = Labels.from_lines(["big cat", "cat-o-nine-tails", "church/outdoor", "scatter"])
    assert labels.find("cat").name == "big cat"
    assert labels.find("cat o nine tails").index == 1
    assert labels.find("church").index == 2
    assert labels.search("nine") == [] and labels.search("cat") == [labels[0]]


def test_further_names_count_by_the_words_that_they_end_in():
    labels = Labels.from_lines(
        ["tabby, tabby cat", "sunscreen, sun blocker", "lion, king of beasts"]
    )
    assert labels.find("cat").name == "tabby" and labels.find("beasts").name == "lion"
    for query in ("sun", "king"):
        with pytest.raises(UnknownClassError):
            labels.find(query)


def test_a_users_own_plain_name_wins_over_imagenets_of_the_same_spelling():
    mine = Labels.from_lines(["crane", "my teapot"], "mine")
    assert find_class("crane", (mine, imagenet_labels())) == (0, mine[0])
    # one that ImageNet's classes were given with is as ambiguous as before
    theirs = Labels.from_lines(["n03126707 crane"], "theirs")
    with pytest.raises(UsageError, match="means 2 classes"):
        find_class("crane", (theirs, imagenet_labels()))


def test_the_same_class_in_another_list_is_known_by_its_synset_or_its_name():
    tiny = tiny_labels()
    assert tiny.same(imagenet_labels().find("n01443537")).name == "goldfish"
    assert tiny.same(Label(7, "", ("Goldfish",))).name == "goldfish"
    assert tiny.same(Label(7, "", ("gold",))) is None
    # two cranes: the bird is not the machine, although both are called so
    assert tiny.same(imagenet_labels().find("n02012849")) is None
    assert tiny.same(Label(0, "", ("crane",))).synset == "n03126707"


def test_a_part_of_many_names_lists_a_few_and_says_how_many_more():
    with pytest.raises(UsageError, match=r"'terrier' means \d+ classes.*and \d+ more"):
        imagenet_labels().find("terrier")


def test_a_misspelt_class_lists_the_near_names():
    with pytest.raises(UsageError, match=r"did you mean .*lipstick"):
        imagenet_labels().find("lipstik")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("qqqqqqqq", "no class 'qqqqqqqq' in ImageNet: 'gradgen classes' lists them all"),
        ("1000", r"outside 0…999"),
        ("-1", r"outside 0…999"),
        ("n99999999", "n99999999 is not among the classes of ImageNet"),
        ("", "no class given"),
        ("   ", "no class given"),
        ("___", "no class '___'"),
        (",", "no class ','"),
    ],
)
def test_what_is_no_class_is_one_clear_line(query, message):
    with pytest.raises(UsageError, match=message) as raised:
        imagenet_labels().find(query)
    assert "\n" not in str(raised.value)


def test_every_class_is_found_by_its_index_its_synset_and_all_its_names():
    for labels in (imagenet_labels(), tiny_labels()):
        for label in labels:
            assert labels.find(label.index) == label
            assert labels.find(label.synset) == label
        shared_text = {", ".join(label.names) for label in labels if len(label.names) > 1}
        for text in shared_text:
            assert ", ".join(labels.find(text).names) == text


def test_search_gives_every_class_that_has_all_the_words():
    found = imagenet_labels().search("salamander")
    assert [label.name for label in found] == ["European fire salamander", "spotted salamander"]
    assert [label.synset for label in imagenet_labels().search("shark great")] == ["n01484850"]
    assert [label.index for label in imagenet_labels().search("437")] == [437]
    assert [label.index for label in imagenet_labels().search("N02814860")] == [437]
    assert imagenet_labels().search("xyzzy") == []
    assert imagenet_labels().search("1000") == []
    assert len(imagenet_labels().search("")) == 1000


def test_find_class_prefers_the_first_list_but_a_better_match_more():
    lists = (tiny_labels(), imagenet_labels())
    assert find_class("beacon", lists) == (0, tiny_labels().find("n02814860"))
    assert find_class("lipstick", lists) == (1, imagenet_labels()[629])
    # Tiny ImageNet has a bow tie and no bow: a whole name in the second list beats a part
    assert tiny_labels().find("bow").name == "bow tie"
    assert find_class("bow", lists) == (1, imagenet_labels().find("n02879718"))
    assert find_class(629, lists) == (1, imagenet_labels()[629])
    assert find_class(7, lists) == (0, tiny_labels()[7])
    with pytest.raises(UsageError, match=r"tiny64 or ImageNet.*did you mean"):
        find_class("lipstik", lists)
    # Tiny ImageNet has the lifting crane only; the name is no less ambiguous for that
    assert tiny_labels().find("crane").synset == "n03126707"
    with pytest.raises(UsageError, match=r"n03126707.*n02012849"):
        find_class("crane", lists)
    # a part of names: the earlier list decides
    assert find_class("salamander", lists)[0] == 0


def test_lines_with_spaces_tabs_or_no_synset_make_labels_and_come_back():
    lines = ["n02814860\tbeacon, lighthouse", "", "n01443537 goldfish", "my own class\n"]
    labels = Labels.from_lines(lines, title="mine")
    names = [label.names for label in labels]
    assert names == [("beacon", "lighthouse"), ("goldfish",), ("my own class",)]
    assert [label.synset for label in labels] == ["n02814860", "n01443537", ""]
    again = Labels.from_lines(str(label) for label in labels)
    assert again == labels and hash(again) == hash(labels)
    assert labels.find("my own").index == 2


def test_slugs_are_safe_in_file_names():
    labels = Labels.from_lines(["n00000001 jack-o'-lantern", "n00000002 R.V.", "n00000003 灯台"])
    assert [label.slug for label in labels] == ["jack-o-lantern", "r-v", "class-2"]
    assert all(re.fullmatch(r"[a-z0-9-]+", label.slug) for label in imagenet_labels())
