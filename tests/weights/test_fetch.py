"""Tests ``gradgen weights`` from end to end, with a server on loopback and a registry of its own.

The networks are GoogLeNet and DCGAN, because they are small. They have their full size and random
weights.
"""

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

import gradgen
from gradgen.cli import app as program
from gradgen.errors import GradgenError, UsageError
from gradgen.weights import registry
from tests import caffe_files
from tests.models.test_dcgan import npy_arrays, write_npy
from tests.web_server import Server


@pytest.fixture(scope="module")
def googlenet():
    weights = caffe_files.googlenet().random_weights()
    extra = {"loss1/classifier": (np.zeros((3, 2)), np.zeros(3))}  # the training file's head
    return caffe_files.caffemodel({**weights, **extra}, "V1", legacy=True)


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("npy")
    return {path.name: path.read_bytes() for path in write_npy(folder, npy_arrays())}


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("release/README", "hello")
        file.writestr("release/fc6/net.caffemodel", content)
    return buffer.getvalue()


def tarred(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as file:
        info = tarfile.TarInfo("places/net.caffemodel")
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path, monkeypatch, googlenet, discriminator):
    """A server, a registry that names it, an empty cache."""
    server = Server()
    files = {"googlenet.caffemodel": googlenet, "all.zip": zipped(googlenet), **discriminator}
    server.files |= files
    urls = [f"{server.url}/{name}" for name in discriminator]
    ids = [
        hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        for content in discriminator.values()
    ]
    (tmp_path / "registry.toml").write_text(
        f"""
[googlenet]
title = "GoogLeNet"
network = "googlenet"
urls = ["{server.url}/googlenet.caffemodel"]
sha1 = "{hashlib.sha1(googlenet).hexdigest()}"
megabytes = 28
licence = "test only"
bundles = ["googlenet"]

[zipped]
title = "GoogLeNet in an archive"
network = "googlenet"
urls = ["{server.url}/all.zip"]
member = "fc6/net.caffemodel"
megabytes = 28
licence = "test only"

[tarred]
title = "GoogLeNet in another archive"
network = "googlenet"
urls = ["{server.url}/all.tar.gz"]
member = "net.caffemodel"
megabytes = 28
licence = "test only"

[dcgan]
title = "DCGAN"
network = "dcgan"
urls = {json.dumps(urls)}
git_blobs = {json.dumps(ids)}
megabytes = 18
licence = "MIT"
bundles = ["googlenet"]
"""
    )
    monkeypatch.setenv("GRADGEN_REGISTRY", str(tmp_path / "registry.toml"))
    monkeypatch.setenv("GRADGEN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GRADGEN_OFFLINE", raising=False)
    monkeypatch.delenv("GRADGEN_MIRROR", raising=False)
    yield server
    server.close()


def run(*arguments):
    return program.main(["weights", *map(str, arguments)])


def test_a_bundle_is_fetched_listed_verified_and_removed(store, capsys):
    assert run("verify") == 0
    assert run("fetch", "googlenet") == 0
    said = capsys.readouterr()
    assert "googlenet: fetched; licence: test only" in said.err
    assert "dcgan needs reference statistics" in said.err
    assert store.asked.total() == 18
    assert run("fetch", "googlenet") == 0  # nothing more to do
    assert store.asked.total() == 18
    capsys.readouterr()

    assert run("list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["googlenet"]["fetched"] and not rows["zipped"]["fetched"]
    assert run("path", "googlenet") == 0
    folder = registry.store_dir() / "googlenet"
    assert capsys.readouterr().out.strip() == str(folder)
    card = json.loads((folder / "card.json").read_text())
    assert card["source"]["urls"] == [f"{store.url}/googlenet.caffemodel"]
    content = store.files["googlenet.caffemodel"]
    assert card["source"]["sha256"] == [hashlib.sha256(content).hexdigest()]
    assert card["licence"] == "test only" and card["converter"].startswith("gradgen ")
    assert list(registry.downloads_dir().glob("*.caffemodel")) == []  # converted, so not kept

    assert run("verify") == 0
    assert capsys.readouterr().out.splitlines() == ["googlenet: good", "dcgan: good"]
    weights = folder / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert run("verify", "googlenet") == 1
    assert "has changed since it was converted" in capsys.readouterr().err
    assert run("remove", "googlenet") == 0
    assert not folder.exists() and (registry.store_dir() / "dcgan").exists()


@pytest.mark.parametrize("name", ["zipped", "tarred"])
def test_an_archives_member_gives_the_same_weights(store, name, googlenet):
    if name == "tarred":
        store.files["all.tar.gz"] = tarred(googlenet)
    assert run("fetch", "googlenet", "--only") == 0
    assert run("fetch", name) == 0
    files = [
        (registry.store_dir() / n / "weights.safetensors").read_bytes() for n in ("googlenet", name)
    ]
    assert files[0] == files[1]


def test_what_fails_is_named_and_the_rest_is_fetched(store, capsys):
    store.files["googlenet.caffemodel"] = store.files["googlenet.caffemodel"][:-100]
    assert run("fetch", "googlenet") == 1
    said = capsys.readouterr().err
    assert "not the published one" in said and said.endswith("error: not fetched: googlenet\n")
    assert (registry.store_dir() / "dcgan" / "card.json").exists()
    assert not (registry.store_dir() / "googlenet").exists()


def test_the_same_from_python(store, tmp_path):
    fetched = gradgen.fetch("googlenet", only=True)
    assert fetched.new == ("googlenet",)
    assert fetched.folders == {"googlenet": registry.store_dir() / "googlenet"}
    pictures = tmp_path / "photographs"
    pictures.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    (pictures / "broken.png").write_bytes(b"nonsense")
    seen = []
    again = gradgen.fetch(
        ["googlenet"], reference=pictures, on_picture=lambda *facts: seen.append(facts)
    )
    assert again.new == ("dcgan",) and again.reference["images"] == 3
    assert [facts[:2] for facts in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "broken.png" in str(seen[3][2]) and seen[0][2] is None
    with pytest.raises(UsageError, match="reference photographs are for dcgan"):
        gradgen.fetch("zipped", reference=pictures)
    store.files.clear()
    with pytest.raises(GradgenError, match=r"^not fetched: zipped: .*; tarred: "):
        gradgen.fetch(["zipped", "tarred"])


def test_a_file_of_ones_own_is_checked_too(store, capsys, tmp_path, googlenet):
    own = tmp_path / "mine.caffemodel"
    own.write_bytes(googlenet)
    assert run("fetch", "googlenet", "--file", own) == 0
    assert store.asked.total() == 0
    own.write_bytes(googlenet[:-4] + b"none")
    assert run("remove", "googlenet") == 0
    assert run("fetch", "googlenet", "--file", own) == 1
    assert "not the published one" in capsys.readouterr().err
    assert run("fetch", "googlenet", "--file", tmp_path / "nonesuch") == 2
    assert run("fetch", "googlenet", "zipped", "--file", own) == 2


def test_an_archive_of_ones_own_gives_its_member(store, tmp_path, googlenet):
    own = tmp_path / "saved without its ending"
    own.write_bytes(zipped(googlenet))
    assert run("fetch", "zipped", "--file", own) == 0
    member = tmp_path / "net.caffemodel"
    member.write_bytes(googlenet)
    assert run("fetch", "tarred", "--file", member) == 0


def test_a_caffemodel_is_known_by_its_layers(store, tmp_path, capsys, googlenet):
    own = tmp_path / "whatever.caffemodel"
    own.write_bytes(googlenet)
    assert run("convert", own, "--out", tmp_path / "there") == 0
    said = capsys.readouterr()
    assert "whatever.caffemodel is googlenet" in said.err
    card = json.loads((tmp_path / "there" / "card.json").read_text())
    assert card["licence"] == "test only"  # the published file, by its checksum
    own.write_bytes(caffe_files.caffemodel({"conv1": (np.zeros((2, 2)), np.zeros(2))}))
    assert run("convert", own) == 1
    assert "its layers begin with conv1" in capsys.readouterr().err
    assert run("convert", own, "--network", "googlenet") == 1
    assert "missing conv1/7x7_s2" in capsys.readouterr().err
    assert run("convert", own, "--network", "nonesuch") == 2


def test_two_that_fetch_at_once_convert_once(store):
    from gradgen.weights.fetch import fetch_network

    entry = registry.read_registry()["googlenet"]
    store.faults["googlenet.caffemodel"] = [("slow", 0.5)]
    done = []
    threads = [threading.Thread(target=lambda: done.append(fetch_network(entry))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False, False, True]
    assert store.asked["googlenet.caffemodel"] == 1


def test_offline_and_unknown_names_are_one_line(store, capsys, monkeypatch):
    assert run("fetch", "googlenet", "--only", "--offline") == 1
    assert "the network is not to be used" in capsys.readouterr().err
    assert run("fetch", "nonesuch") == 2
    assert "bundles: googlenet; networks: googlenet, zipped" in capsys.readouterr().err
    assert run("remove") == 2
    monkeypatch.setenv("GRADGEN_REGISTRY", "/nonesuch.toml")
    assert run("list") == 1


def test_missing_weights_say_how_to_get_them_their_size_and_licence(store):
    with pytest.raises(GradgenError) as caught:
        registry.require("googlenet")
    for part in ("28 MB", "licence: test only", "'gradgen weights fetch googlenet'"):
        assert part in str(caught.value)


def test_partial_downloads_can_be_removed(store, capsys):
    store.faults["googlenet.caffemodel"] = [("break", 1000), 404]
    assert run("fetch", "googlenet", "--only") == 1
    assert [p.name[9:] for p in registry.downloads_dir().glob("*.part")] == [
        "googlenet.caffemodel.part"
    ]
    assert run("remove", "--downloads") == 0
    assert list(registry.downloads_dir().glob("*.part*")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is no registry"),
        ("x = 1", "x is outside any table"),
        ("[x]\nnetwork = 'dcgan'", "x: missing"),
        ("[x]\ncolour = 1", "unknown fields colour"),
        (
            "[x]\ntitle=''\nnetwork='dcgan'\nurls=['a','b']\nmegabytes=1\nlicence=''\n"
            "git_blobs=['c']",
            "as many git_blobs",
        ),
    ],
)
def test_a_registry_that_makes_no_sense_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(GradgenError, match=message):
        registry.read_registry(path)


def test_the_registry_that_comes_with_gradgen_names_known_networks_and_bundles(monkeypatch):
    monkeypatch.delenv("GRADGEN_REGISTRY", raising=False)
    from gradgen.models.published import ARCHITECTURES
    from gradgen.networks.catalog import PAPER_BUNDLES

    entries = registry.read_registry()
    assert set(entries) == set(ARCHITECTURES)
    assert all(entry.network in ARCHITECTURES for entry in entries.values())
    named = {bundle for entry in entries.values() for bundle in entry.bundles}
    assert named == set(PAPER_BUNDLES)
    for bundle, networks in PAPER_BUNDLES.items():
        needed = {entry.name for entry in registry.find_entries(bundle)}
        assert needed == {"deepsim-fc6", "caffenet", "dcgan", bundle}
        parts = (networks.classifier, networks.generator, networks.encoder, networks.discriminator)
        assert needed == set(parts)
    assert len(entries["dcgan"].git_blobs) == 17


def test_what_does_not_convert_is_dropped_and_does_not_count_against_the_good_file(store, capsys):
    pages = [b"the disk of the server is on fire", zipped(b"not a network"), bytes(5000)]
    for page in pages:
        store.faults["all.zip"] = [("page", page)]
        assert run("fetch", "zipped") == 1
        assert "so it was dropped" in capsys.readouterr().err
        assert not (registry.store_dir() / "zipped").exists()
        assert [p.name for p in registry.downloads_dir().iterdir() if p.suffix != ".lock"] == []
    assert run("fetch", "zipped") == 0
    assert run("verify", "zipped") == 0


def test_a_file_that_changed_after_it_proved_itself_is_refused(store, capsys, googlenet):
    assert run("fetch", "zipped") == 0
    assert run("remove", "zipped") == 0
    good = store.files["all.zip"]
    store.files["all.zip"] = zipped(googlenet[:-4] + b"\x00\x00\x80?")  # the last weight is 1
    assert run("fetch", "zipped") == 1
    assert "differs from the one used at first" in capsys.readouterr().err
    store.files["all.zip"] = good
    assert run("fetch", "zipped") == 0


def test_a_full_disk_while_converting_does_not_cost_the_download(store, capsys, monkeypatch):
    from gradgen.weights import convert

    def full(path, *_, **__):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(convert, "save_arrays", full)
        assert run("fetch", "zipped") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert run("fetch", "zipped") == 0
    assert store.asked["all.zip"] == 1


def test_a_network_with_a_number_that_is_not_finite_is_refused_by_name(store, capsys, tmp_path):
    weights = caffe_files.googlenet().random_weights()
    weights["conv2/3x3"][0][3, 1, 0, 2] = np.inf
    own = tmp_path / "mine.caffemodel"
    own.write_bytes(caffe_files.caffemodel(weights))
    assert run("fetch", "tarred", "--file", own) == 1
    said = capsys.readouterr().err
    assert "mine.caffemodel: 1 of the 110592 numbers of layers.conv2/3x3.kernel are" in said
    assert not (registry.store_dir() / "tarred").exists()


FETCH = """
from gradgen.weights.fetch import fetch
print(bool(fetch("zipped", only=True).new))
"""


def test_killed_in_the_middle_it_goes_on_and_two_processes_convert_once(store):
    command = [sys.executable, "-c", FETCH]
    store.faults["all.zip"] = [("slow", 60.0)]
    with subprocess.Popen(command) as process:
        part = None
        while part is None or part.stat().st_size < 10**6:
            assert process.poll() is None
            time.sleep(0.05)
            part = next(iter(registry.downloads_dir().glob("*.part")), None)
        process.send_signal(signal.SIGKILL)
    assert not (registry.store_dir() / "zipped").exists()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0] for process in both) == ["False\n", "True\n"]
    assert store.asked["all.zip"] == 2  # the one that was killed, and one more
    assert run("verify", "zipped") == 0
