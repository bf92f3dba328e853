"""Tests which bundle a class gets where nobody names a bundle."""

import json

import pytest

import gradgen
from gradgen.cli.app import main
from gradgen.errors import UsageError
from gradgen.evidence.expression import Class
from gradgen.networks.catalog import choose_bundle, chosen_from, find_bundle
from gradgen.runs import run
from gradgen.runs.plan import choose_for, prepare
from gradgen.runs.settings import make_settings

TEN64 = find_bundle("ten64").labels
TINY64 = find_bundle("tiny64").labels
SHORT = {"method": "map", "num_chains": 1, "budget": 1}


def test_each_class_gets_the_first_bundle_that_has_its_synset_id():
    own = {label.synset for label in TEN64}
    assert len(own) == 10 and own < {label.synset for label in TINY64}
    for label in TINY64:
        chosen = choose_bundle([label.synset]).name
        assert chosen == ("ten64" if label.synset in own else "tiny64")


@pytest.mark.parametrize(
    ("classes", "name", "reason"),
    [
        (["beacon"], "ten64", "it knows beacon"),
        (["Lighthouse", "school bus"], "ten64", "it knows Lighthouse, school bus"),
        (["beacon", "goose"], "tiny64", "ten64 does not know goose"),
        (["lipstick"], "tiny64", "ten64 does not know lipstick, and tiny64 does not know lipstick"),
        ([], "tiny64", "no class is asked for"),
    ],
)
def test_several_classes_get_the_first_bundle_that_has_them_all(classes, name, reason):
    choice = choose_bundle(classes)
    assert (choice.name, choice.reason) == (name, reason)


@pytest.mark.parametrize("index", [0, 3, 150])
def test_an_index_keeps_counting_among_tiny64s_classes(index):
    """What it means must not hang on how many bundles there are."""
    chosen = choose_bundle([index]).name
    assert find_bundle(chosen).labels[index].synset == TINY64[index].synset


def test_words_that_several_classes_share_stay_ambiguous():
    """tiny64 knows more than one class of such a name, ten64 a single one."""
    with pytest.raises(UsageError, match="means 2 classes"):
        TINY64.find("butterfly")
    assert TEN64.find("butterfly").name == "monarch"
    assert choose_bundle(["butterfly"]).name == "tiny64"


def test_a_composed_class_gets_the_first_bundle_that_has_all_that_it_names():
    assert choose_for(["beacon & pizza"]).name == "ten64"
    assert choose_for(["goldfish | !lemon:2", str(Class("teapot") & "pizza")]).name == "ten64"
    assert choose_for(["beacon & !pier"]).name == "tiny64"


def test_another_generator_is_put_into_the_default_bundle():
    choice = choose_for(["beacon"], "deepsim-fc6")
    assert (choice.name, "deepsim-fc6" in choice.reason) == ("tiny64", True)


def test_a_plan_and_its_record_name_the_bundle_that_was_chosen():
    plan = prepare(make_settings({"classes": "beacon"}))
    assert plan.settings.bundle == plan.bundle.name == "ten64"
    assert plan.choice is not None and plan.choice.name == "ten64"
    named = prepare(make_settings({"classes": "beacon", "bundle": "tiny64"}))
    assert named.bundle.name == "tiny64" and named.choice is None


def test_a_run_says_what_it_chose_and_resumes_with_it(tmp_path, capsys):
    arguments = ["-c", "beacon", "-m", "map", "-n", "1", "-b", "1", "--out", str(tmp_path / "run")]
    assert main(["sample", *arguments]) == 0
    assert "; bundle ten64 (it knows beacon); " in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["bundle"] == "ten64"
    again = run.from_recipe(tmp_path / "run" / "beacon-00.png", {}, out=tmp_path / "again")
    assert again.plan.bundle.name == "ten64" and again.plan.choice is None


def test_python_chooses_for_none_and_takes_what_is_named():
    assert gradgen.sample(None, "beacon", **SHORT).record.settings.bundle == "ten64"
    assert gradgen.sample("tiny64", "beacon", **SHORT).record.settings.bundle == "tiny64"


def test_the_list_of_classes_shows_both_bundles_in_their_order(capsys):
    assert main(["classes", "beacon"]) == 0
    shown = capsys.readouterr()
    assert shown.out.split()[:3] == [*(entry.name for entry in chosen_from()), "lite0"]
    assert "the first bundle that knows it, ten64 before tiny64" in shown.err
