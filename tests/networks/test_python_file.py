"""Bundles from Python files: run when they are named, and never because a record names them."""

import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest

from gradgen import load_bundle, load_weights
from gradgen.cli.app import main
from gradgen.errors import GradgenError, UsageError
from gradgen.evaluation.compare import compare
from gradgen.images import read_recipe
from gradgen.networks.catalog import find_bundle
from gradgen.runs import run
from gradgen.runs.record import read_record
from gradgen.weights.store import save_arrays
from tests.own_networks import plane

GIVEN = {"classes": "alpha & !beta", "method": "mala", "num_chains": 3, "budget": 40}
SMALL = {**GIVEN, "block_size": 10, "seed": 4}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file whose function makes the bundle of tests/own_networks.py, which it stands beside."""
    folder = tmp_path_factory.mktemp("code")
    shutil.copy(Path(__file__).parents[1] / "own_networks.py", folder / "own_networks_here.py")
    file = folder / "mine.py"
    file.write_text("import own_networks_here\n\ndef bundle():\n"
                    "    return own_networks_here.plane()\n")  # fmt: skip
    return file


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A finished run of the file's bundle: (folder, samples)."""
    begun = run.begin(SMALL | {"bundle": str(source)}, out=tmp_path_factory.mktemp("run") / "run")
    return begun.folder, begun.execute()


def written(tmp_path, text):
    file = tmp_path / "written.py"
    file.write_text(textwrap.dedent(text))
    return file


def test_the_same_file_is_the_same_bundle_and_another_text_another(source):
    assert load_bundle(source) is load_bundle(f"{source}:bundle")
    assert load_bundle(source).name == find_bundle(str(source)).name == "plane"


def test_a_run_of_a_file_records_its_hash_and_a_picture_is_made_again(whole, source, tmp_path):
    folder, samples = whole
    record = read_record(folder)
    assert record.bundle.file.name == "mine.py" and len(record.bundle.file.sha256) == 64
    assert record.classes[0].name == "alpha & !beta" and record.classes[0].expression == "0 & !1"
    picture = folder / "alpha-and-not-beta-02.png"
    with pytest.raises(UsageError, match="only if you name it"):
        run.from_recipe(picture, {}, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    again = run.from_recipe(picture, {"bundle": str(source)}, out=tmp_path / "again").execute()
    np.testing.assert_array_equal(again.codes[0], samples.codes[2])
    np.testing.assert_array_equal(again.images[0], samples.images[2])


def test_a_recipe_is_shown_without_running_its_code(whole, source, capsys):
    folder, _ = whole
    text = source.read_text()
    source.write_text("raise SystemExit('this was run')\n")
    try:
        assert main(["show", str(folder / "alpha-and-not-beta-00.png")]) == 0
        assert main(["sample", "--recipe", str(folder / "alpha-and-not-beta-00.png")]) == 2
    finally:
        source.write_text(text)
    shown = capsys.readouterr()
    assert "mine.py" in shown.out
    assert f"--bundle {source}" in shown.err.replace("\n", "") and "this was run" not in shown.err
    with pytest.raises(UsageError, match="only if you name it"):
        compare([folder])


def test_an_interrupted_run_goes_on_to_the_same_bits_once_the_file_is_named(
    whole, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "CHECKPOINT_INTERVAL", 0.0)
    begun = run.begin(SMALL | {"bundle": str(source)}, out=tmp_path / "run")
    answers = iter([False, True])
    assert not begun.execute(stop=lambda: next(answers, True)).record.finished
    with pytest.raises(UsageError, match="only if you name it"):
        run.resume(begun.folder, {})
    moved = tmp_path / "elsewhere.py"
    shutil.copy(source.parent / "own_networks_here.py", tmp_path)
    shutil.copy(source, moved)
    resumed = run.resume(begun.folder, {"bundle": str(moved)})
    assert resumed.gradients[0] > 1
    np.testing.assert_array_equal(resumed.execute().codes, whole[1].codes)


def test_a_loaded_bundle_needs_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_INTERVAL", 0.0)
    bundle = plane()
    whole = run.begin(SMALL, out=tmp_path / "whole", bundle=bundle).execute()
    begun = run.begin(SMALL, out=tmp_path / "begun", bundle=bundle)
    answers = iter([False, True])
    begun.execute(stop=lambda: next(answers, True))
    resumed = run.resume(tmp_path / "begun", {}, bundle=bundle).execute()
    np.testing.assert_array_equal(resumed.codes, whole.codes)
    picture = tmp_path / "whole" / "alpha-and-not-beta-01.png"
    again = run.from_recipe(picture, {}, out=tmp_path / "again", bundle=bundle).execute()
    np.testing.assert_array_equal(again.images[0], whole.images[1])


def test_a_changed_file_is_reported(whole, source, tmp_path):
    folder, _ = whole
    changed = tmp_path / "mine.py"
    shutil.copy(source.parent / "own_networks_here.py", tmp_path)
    changed.write_text(source.read_text() + "\n# more\n")
    picture, given = folder / "alpha-and-not-beta-00.png", {"bundle": str(changed)}
    with pytest.raises(GradgenError, match=r"other code \(code mine.py was"):
        run.from_recipe(picture, given, out=tmp_path / "out")
    forced = run.from_recipe(picture, given, out=tmp_path / "out", force=True)
    assert any("code mine.py was" in note for note in forced.notes)


def test_the_recipe_names_the_file_and_no_more(whole):
    recipe = read_recipe(whole[0] / "alpha-and-not-beta-00.png")
    assert recipe["weights"]["file"]["name"] == "mine.py"
    assert recipe["settings"]["classes"] == ["0 & !1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def other():\n    pass\n", "has no function 'bundle'"),
        ("def bundle():\n    return 3\n", r"bundle\(\) returns int"),
        ("x = 1\ndef bundle():\n    return [][x]\n", "line 3: IndexError"),
        ("x = \n", "line 1: SyntaxError"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError"),
        (
            "import gradgen\ndef bundle():\n"
            "    return gradgen.load_weights('weights.pt')\n", "line 3: weights.pt is a pickle",
        ),
    ],
)  # fmt: skip
def test_code_that_fails_is_one_line_with_its_place(tmp_path, text, says):
    with pytest.raises(GradgenError, match=says):
        load_bundle(written(tmp_path, text))


def test_a_file_that_is_not_there_is_one_line():
    with pytest.raises(UsageError, match="no such file; 'gradgen new-bundle"):
        load_bundle("nowhere/there.py")


def test_the_template_works_as_it_is(tmp_path, capsys):
    file = tmp_path / "template.py"
    assert main(["new-bundle", str(file)]) == 0
    assert main(["new-bundle", str(file)]) == 2  # it is there
    out = tmp_path / "out"
    command = ["sample", "--bundle", str(file), "--class", "red", "-n", "2", "--budget", "40"]
    assert main([*command, "--out", str(out)]) == 0
    record = read_record(out)
    assert record.finished and record.classes[0].name == "red"
    assert record.classes[0].log_likelihood > np.log(0.25)  # surer than of no evidence
    assert "template.py" in capsys.readouterr().err


def test_weights_are_safetensors_alone(tmp_path):
    arrays = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_arrays(tmp_path / "own.safetensors", arrays, half=False)
    np.testing.assert_array_equal(
        load_weights(tmp_path / "own.safetensors")["kernel"], arrays["kernel"]
    )
    (tmp_path / "own.bin").write_bytes(b"anything")
    with pytest.raises(UsageError, match="is a pickle"):
        load_weights(tmp_path / "own.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"anything")
    with pytest.raises(GradgenError, match="not a readable safetensors file"):
        load_weights(tmp_path / "broken.safetensors")
