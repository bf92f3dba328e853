"""Recipes and records that make no sense end in one line, and change nothing."""

import copy
import json

import pytest

from gradgen.errors import GradgenError
from gradgen.images import decode, read_recipe, save_png
from gradgen.runs import run
from gradgen.runs.results import read_chains
from tests.faults.runs import SMALL, prepare

GIVEN = SMALL | {"classes": ("red",), "method": "mala"}
FIVE_UNITS = {"sha256": "0" * 64, "lower": "AAAA" * 6 + "AAA=", "upper": "AAAA" * 6 + "AAA="}
SETTINGS = [
    ("bundle", 3), ("bundle", ["tiny"]), ("classes", [3]), ("classes", [["red"]]),
    ("classes", "red"), ("classes", []), ("classes", ["red", "red"]), ("classes", ["\0"]),
    ("classes", ["x" * 10**6]), ("classes", None), ("classes", ["(" * 10**5]),
    ("classes", ["!" * 10**5 + "red"]),
    ("classes", ["red & " * 10**5 + "blue"]), ("classes", ["red:" + "9" * 5000 + " & blue"]),
    ("seed", -1), ("seed", 1.5), ("seed", 10**39),
    ("seed", "7"), ("budget", 10**18), ("budget", "many"), ("budget", True),
    ("method", ["map"]), ("method", {"a": 1}), ("method", "gibbs"), ("num_chains", 10**12),
    ("trace_length", 10**9), ("chain_group", -1), ("step_size", "big"), ("step_size", -1),
    ("likelihood_weight", [1]), ("generator", {"a": 1}), ("an\nunknown\x1b[2J", 3),
    ("x" * 10**6, 3), ("clip_mode", 7),
]  # fmt: skip
BOTH = [(("settings", name), value) for name, value in SETTINGS] + [
    (("settings",), None), (("settings",), [1]), (("settings",), 10**39), (("format",), None),
    (("format",), {"a": list(range(10_000))}), (("versions",), [1]), (("versions",), {"jax": 3}),
    (("device",), "cpu"), (("device", "cores"), "many"), (("created",), 7),
]  # fmt: skip
OF_RECIPES = [
    *BOTH,
    (("chain",), -1), (("chain",), 99), (("chain",), 10**39), (("chain",), "x"),
    (("chain",), 1.5), (("steps",), 0), (("steps",), -3), (("steps",), None), (("weights",), 3),
    (("weights", "generator"), []), (("weights", "generator", "name"), 7),
    (("bounds",), FIVE_UNITS), (("bounds",), {"sha256": 3}), (("result",), None),
    (("class", "index"), "x"),
]  # fmt: skip
OF_RECORDS = [
    *BOTH,
    (("classes",), []), (("classes",), {}), (("classes", 0), 3), (("classes", 0, "index"), "x"),
    (("classes", 0, "bounds"), FIVE_UNITS | {"lower": "!"}), (("only_chain",), -1),
    (("only_chain",), 10**39), (("stop_at",), -1), (("bundle", "generator"), 7),
    (("status",), 3), (("pictures",), "x"), (("silent_hosts",), "x"),
]  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """An interrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        made = run.begin(GIVEN, out=tmp_path_factory.mktemp("begun") / "run")
        made.execute(stop=lambda: True)
    return made.folder


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    prepare(monkeypatch)


def changed(values, path, value):
    values = copy.deepcopy(values)
    place = values
    for key in path[:-1]:
        place = place[key]
    if value is None:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = value
    return values


def assert_one_line(error):
    assert "\n" not in str(error) and "\x1b" not in str(error) and len(str(error)) < 1000


def test_recipes_that_make_no_sense_are_one_line(begun, tmp_path):
    recipe = read_recipe(begun / "red-00.png")
    pixels = decode(begun / "red-00.png")
    for path, value in OF_RECIPES:
        save_png(tmp_path / "a.png", pixels, changed(recipe, path, value))
        with pytest.raises(GradgenError) as caught:
            run.from_recipe(tmp_path / "a.png", {}, out=tmp_path / "out")
            pytest.fail(f"{path} {str(value)[:50]} was taken")
        assert_one_line(caught.value)
    assert not (tmp_path / "out").exists()


def test_records_that_make_no_sense_are_one_line(begun, tmp_path):
    file = begun / "run.json"
    before = file.read_bytes()
    try:
        for path, value in OF_RECORDS:
            content = json.dumps(changed(json.loads(before), path, value)).encode()
            file.write_bytes(content)
            with pytest.raises(GradgenError) as caught:
                run.resume(begun, {})
                pytest.fail(f"{path} {str(value)[:50]} was taken")
            assert_one_line(caught.value)
            assert file.read_bytes() == content
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[]", b"3", b'{"a": NaN}', b'{"format": "\\ud800"}',
        b'{"format": %s}' % (b"9" * 5000), b"[" * 100_000, b'{"a":' * 100_000,
    ],
    ids=lambda content: str(content[:12]),
)  # fmt: skip
def test_records_that_are_no_json_are_one_line(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(GradgenError) as caught:
        run.resume(tmp_path, {})
    assert_one_line(caught.value)


def test_chains_without_arrays_are_one_line(begun, tmp_path):
    (tmp_path / "chains.npz").write_bytes((begun / "chains.npz").read_bytes())
    assert len(read_chains(tmp_path).codes) == 2
    (tmp_path / "chains.npz").write_bytes(b"PK\x05\x06" + bytes(18))  # a zip of nothing
    with pytest.raises(GradgenError, match=r"chains\.npz lacks codes"):
        read_chains(tmp_path)


def test_a_short_trace_does_not_make_long_blocks(tmp_path):
    seen = []
    given = {"bundle": "tiny", "classes": ("red",), "method": "mala", "num_chains": 1, "seed": 1}
    begun = run.begin(given | {"budget": 6000, "trace_length": 10}, out=tmp_path / "run")

    def stop():
        return len(seen) >= 5

    begun.execute(on_progress=lambda block: seen.append(block.step), stop=stop)
    normal = run.begin(given | {"budget": 6000}, out=tmp_path / "normal")
    assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= 50
    again = []
    normal.execute(on_progress=lambda block: again.append(block.step), stop=lambda: len(again) >= 5)
    assert seen[-1] > again[-1] / 2
