"""Tests a run's folder: its files, resuming with the same bits, recipes with the same pixels."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageSequence

from gradgen.errors import GradgenError, UsageError
from gradgen.images import decode, read_recipe, save_png
from gradgen.runs import folder as folders
from gradgen.runs import run
from gradgen.runs.folder import clear_run, locked
from gradgen.runs.record import Gradients, read_record, write_record
from gradgen.runs.sample import sample

pytestmark = pytest.mark.usefixtures("tiny")
GIVEN = {
    "start_candidates": 4,
    "classes": ("red", "blue"),
    "bundle": "tiny",
    "method": "mala",
    "budget": 20,
    "num_chains": 2,
    "block_size": 5,
    "seed": 7,
}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A run that nothing disturbed: (folder, samples)."""
    begun = run.begin(GIVEN, out=tmp_path_factory.mktemp("whole") / "run", command=["gradgen"])
    return begun.folder, begun.execute()


def arrays(folder):
    with np.load(folder / "chains.npz") as stored:
        return dict(stored)


def assert_same_results(folder, other):
    mine, theirs = arrays(folder), arrays(other)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    names = read_record(other).pictures
    assert read_record(folder).pictures == names
    for name in names:
        np.testing.assert_array_equal(decode(folder / name), decode(other / name))


def stop_after(count):
    """A question that is answered yes from its count-th time on."""
    left = iter([False] * (count - 1))
    return lambda: next(left, True)


def test_a_run_is_a_folder_that_says_how_it_was_made(whole):
    folder, samples = whole
    pictures = [f"{name}-0{i}.png" for name in ("red", "blue") for i in (0, 1)]
    others = ["grid.png", "trace.png", "run.json", "chains.npz", "states"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(pictures + others)
    record = read_record(folder)
    assert record.finished
    assert record.command == ("gradgen",)
    assert record.settings.budget == 20
    assert record.settings.likelihood_weight > 0
    assert record.gradient_evaluations == Gradients(per_chain=21, total=84)
    assert len(record.bundle.generator.sha256) == 64
    assert record.device.platform
    diagnostics = record.classes[0].diagnostics
    assert set(diagnostics) == {
        *("log_density", "log_likelihood", "squared_norm"),
        *(f"projection_{i}" for i in range(4)),
        *(f"log_probabilities_{i}" for i in range(2)),
    }
    assert (record.classes[0].divergent, record.classes[0].nan_proposals) == (0, 0)
    assert diagnostics["log_density"]["r_hat"] > 0.5
    for index, name in enumerate(pictures):
        with Image.open(folder / name) as image:
            assert image.size == (8, 8)
        np.testing.assert_array_equal(decode(folder / name), samples.images[index])
    np.testing.assert_array_equal(arrays(folder)["codes"], samples.codes)
    with Image.open(folder / "grid.png") as grid:
        assert grid.height == 2 * 128 + 3 * 2  # two rows, enlarged, padded


def test_python_and_a_run_give_the_same(whole):
    options = {**GIVEN}
    drawn = sample(options.pop("bundle"), options.pop("classes"), **options)
    np.testing.assert_array_equal(drawn.codes, whole[1].codes)
    np.testing.assert_array_equal(drawn.images, whole[1].images)


@pytest.mark.parametrize("blocks", [1, 6])
def test_an_interrupted_run_resumes_to_the_very_same_bits(whole, tmp_path, blocks):
    # block 1 ends within the warm-up of the first class, block 6 in the middle of the second
    begun = run.begin(GIVEN, out=tmp_path / "run")
    partial = begun.execute(stop=stop_after(blocks))
    assert partial.record.status == "interrupted"
    assert len(list((tmp_path / "run").glob("*-0?.png"))) == (2 if blocks < 5 else 4)
    resumed = run.resume(tmp_path / "run", {"budget": 20, "classes": ["red", "blue"]})
    assert len(resumed.checkpoints) == 1
    assert len(resumed.finished) == (blocks > 4)
    created = read_record(tmp_path / "run").created
    assert resumed.execute().record.created == created
    assert_same_results(tmp_path / "run", whole[0])
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_run_that_was_killed_resumes_from_its_last_checkpoint(whole, tmp_path):
    begun = run.begin(GIVEN, out=tmp_path / "run")
    seen = []

    def crash(block):
        seen.append(block.step)
        if len(seen) == 7:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        begun.execute(on_progress=crash)
    assert read_record(tmp_path / "run").status == "running"
    resumed = run.resume(tmp_path / "run", {})
    again = []
    resumed.execute(on_progress=lambda block: again.append(block.step))
    assert again == [20]  # of the second class; everything before was kept
    assert_same_results(tmp_path / "run", whole[0])


def test_resuming_with_other_options_is_refused_and_names_them(tmp_path):
    run.begin(GIVEN, out=tmp_path / "run")  # not even started
    with pytest.raises(UsageError, match="`budget`: 30, not 20; `seed`: 8, not 7"):
        run.resume(tmp_path / "run", {"budget": 30, "seed": 8, "num_chains": 2})
    with pytest.raises(UsageError, match="`clip_mode`: project, not none"):
        run.resume(tmp_path / "run", {}, clip=True)
    with pytest.raises(UsageError, match=r"run\.json"):
        run.resume(tmp_path, {})


def test_a_finished_run_has_nothing_to_resume(whole):
    record = run.resume(whole[0], {})
    assert record.finished


def test_other_weights_are_refused_unless_forced(tmp_path):
    folder = run.begin(GIVEN, out=tmp_path / "run").folder
    record = read_record(folder)
    changed = replace(record.classes[0].classifier, sha256="0" * 64)
    classes = (replace(record.classes[0], classifier=changed), *record.classes[1:])
    write_record(folder, replace(record, classes=classes))
    with pytest.raises(GradgenError, match=r"classifier tiny was 000000000000…, is .*--force"):
        run.resume(folder, {})
    assert any("not the weights" in note for note in run.resume(folder, {}, force=True).notes)


def test_a_broken_checkpoint_is_one_clear_error(tmp_path):
    begun = run.begin(GIVEN, out=tmp_path / "run")
    begun.execute(stop=stop_after(1))
    state = begun.folder / "checkpoint" / "state-0000000.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(GradgenError, match=r"state-0000000\.npz is a broken checkpoint"):
        run.resume(begun.folder, {})


def test_a_recipe_makes_the_same_pixels_again(whole, tmp_path):
    picture = whole[0] / "blue-01.png"
    begun = run.from_recipe(picture, {}, out=tmp_path / "again")
    samples = begun.execute()
    assert run.same_pixels(picture, samples.images[0]) == (True, "")
    assert [p.name for p in (tmp_path / "again").glob("blue*")] == ["blue-01.png"]
    # and the copy's own recipe is as good as the first
    again = read_recipe(tmp_path / "again" / "blue-01.png")
    first = read_recipe(picture)
    for recipe in (again, first):
        del recipe["created"]
    assert again == first


def test_the_recipe_of_an_interrupted_runs_picture_stops_where_it_did(whole, tmp_path):
    begun = run.begin(GIVEN, out=tmp_path / "run")
    begun.execute(stop=stop_after(2))
    picture = tmp_path / "run" / "red-01.png"
    assert read_recipe(picture)["steps"] == 10
    samples = run.from_recipe(picture, {}, out=tmp_path / "again").execute()
    assert samples.record.classes[0].steps == (10,)
    assert run.same_pixels(picture, samples.images[0])[0]
    assert not run.same_pixels(whole[0] / "red-01.png", samples.images[0])[0]


def test_recipes_that_cannot_be_followed_are_refused(whole, tmp_path):
    picture = whole[0] / "blue-00.png"
    recipe = read_recipe(picture)
    with pytest.raises(UsageError, match="`seed`: 8, not 7"):
        run.from_recipe(picture, {"seed": 8}, out=tmp_path / "x")

    def altered(**changes):
        save_png(tmp_path / "altered.png", decode(picture), {**recipe, **changes})
        return tmp_path / "altered.png"

    other = {**recipe["weights"], "generator": {"name": "tiny/generator", "sha256": "f" * 64}}
    with pytest.raises(GradgenError, match=r"other weights \(generator tiny/generator was fff"):
        run.from_recipe(altered(weights=other), {}, out=tmp_path / "x")
    with pytest.raises(UsageError, match="gradgen recipe 9"):
        run.from_recipe(altered(format="gradgen recipe 9"), {}, out=tmp_path / "x")
    with pytest.raises(GradgenError, match="recipe of .* is broken: weights"):
        run.from_recipe(altered(weights=3), {}, out=tmp_path / "x")
    with pytest.raises(GradgenError, match="no chain 99"):
        run.from_recipe(altered(chain=99), {}, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_in_use_is_never_overwritten_silently(tmp_path):
    folder = tmp_path / "run"
    run.begin(GIVEN, out=folder).execute(stop=stop_after(5))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        run.begin(GIVEN, out=folder)
    assert (folder / "blue-00.png").exists()
    run.begin(GIVEN, out=folder, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "run.json"]
    with pytest.raises(UsageError, match="is a file"):
        run.begin(GIVEN, out=folder / "notes.txt")


def test_replacing_a_run_never_reaches_outside_its_folder(tmp_path):
    outside = tmp_path / "precious.png"
    outside.write_bytes(b"keep")
    folder = run.begin(GIVEN, out=tmp_path / "run").folder
    pictures = ("../precious.png", str(outside))
    write_record(folder, replace(read_record(folder), pictures=pictures))
    clear_run(folder)
    assert outside.read_bytes() == b"keep"


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    begun = run.begin(GIVEN, out=tmp_path / "run")
    (begun.folder / "checkpoint").mkdir()
    with locked(begun.folder), pytest.raises(UsageError, match="another process"):
        begun.execute()


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (folders.new_folder("20260101-000000-beacon-hmc-0") for _ in range(2))
    assert first != second
    assert second.name == "20260101-000000-beacon-hmc-0-2"


def test_run_json_is_strict_json(whole):
    def refuse(name):
        raise AssertionError(name)

    json.loads((whole[0] / "run.json").read_text(), parse_constant=refuse)


def test_a_picture_of_a_later_group_is_made_again_with_its_group_only(tmp_path):
    given = {**GIVEN, "classes": ("blue",), "num_chains": 3, "chain_group": 2}
    run.begin(given, out=tmp_path / "run").execute()
    picture = tmp_path / "run" / "blue-02.png"
    begun = run.from_recipe(picture, {}, out=tmp_path / "again")
    assert [(group.start, group.size) for group in begun.plan.groups] == [(2, 2)]
    samples = begun.execute()
    assert samples.picture_names() == ["blue-02.png"]
    assert run.same_pixels(picture, samples.images[0])[0]


def frames_of(path):
    with Image.open(path) as picture:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]


def test_an_animation_shows_every_chain_from_its_start_to_its_end(tmp_path):
    given = {**GIVEN, "classes": ("red",), "step_size": 0.05}
    del given["block_size"]
    samples = run.begin(given, out=tmp_path / "run", animate=True).execute()
    frames = frames_of(tmp_path / "run" / "animation.webp")
    # the start, and a frame for every step; the encoder merges those that look alike to it, as they
    # do where both chains rejected
    assert 16 <= len(frames) <= 21
    last = np.asarray(samples.grid(), float)
    assert frames[-1].shape == last.shape
    # lossy, but nearer to the end than anything before it
    distance = [np.abs(frame - last).mean() for frame in frames]
    assert np.argmin(distance) == len(frames) - 1 and distance[0] > 2 * distance[-1]
    assert not (tmp_path / "run" / "checkpoint").exists()
    from gradgen.images import find_images

    assert {path.name for path in find_images([tmp_path / "run"])} == set(samples.picture_names())


def test_an_animation_goes_on_after_an_interruption(tmp_path):
    begun = run.begin({**GIVEN, "block_size": 5}, out=tmp_path / "run", animate=True)
    begun.execute(stop=stop_after(2))
    assert len(frames_of(tmp_path / "run" / "animation.webp")) == 3
    run.resume(tmp_path / "run", {}).execute()
    whole = frames_of(tmp_path / "run" / "animation.webp")
    run.begin({**GIVEN, "block_size": 5}, out=tmp_path / "other", animate=True).execute()
    other = frames_of(tmp_path / "other" / "animation.webp")
    assert len(whole) == len(other) == 5
    np.testing.assert_array_equal(whole, other)


def test_an_animation_has_a_bounded_number_of_frames(tmp_path):
    given = {**GIVEN, "classes": ("red",), "step_size": 0.05, "budget": 150, "block_size": 1}
    run.begin(given, out=tmp_path / "run", animate=True).execute()
    assert 40 < len(frames_of(tmp_path / "run" / "animation.webp")) <= 62


def test_a_run_that_was_animated_leaves_nothing_behind_when_it_is_replaced(tmp_path):
    folder = run.begin(GIVEN, out=tmp_path / "run").folder
    for name in ("animation.webp", "diagnosis.png", "diagnosis-blue.png"):
        (folder / name).write_bytes(b"of the old run")
    run.begin(GIVEN, out=folder, force=True)
    assert [path.name for path in folder.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("environment", "threads"),
    [({"NPROC": "1"}, 1), ({"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}, 1), ({}, None)],
)
def test_the_threads_that_are_recorded_are_those_that_compute(environment, threads):
    code = (
        "import jax, jax.numpy as jnp, os; from gradgen.runs.plan import cpu_threads\n"
        "x = jnp.ones((500, 500)); (x @ x).block_until_ready()\n"
        "tasks = '/proc/self/task'\n"
        "names = [open(f'{tasks}/{t}/comm').read() for t in os.listdir(tasks)]\n"
        "print(cpu_threads(), sum('XLAEigen' in name for name in names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told, seen = map(int, done.stdout.split())
    assert told == (threads or len(os.sched_getaffinity(0)))
    if "XLA_FLAGS" not in environment:  # the pool is there all the same, and idle
        assert seen == told
