"""Tests that the wanted file of a zip or tar is found, whatever else the archive holds."""

import io
import random
import tarfile
import zipfile

import pytest

from gradgen.errors import GradgenError
from gradgen.weights import archive
from gradgen.weights.archive import extract_member

WANTED = "release/fc6/generator.caffemodel"
CONTENT = random.Random(0).randbytes(10_000)


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(params=["zip", "tar.gz", "tar"])
def make(request, tmp_path):
    def build(members):
        if request.param == "zip":
            return make_zip(tmp_path / "a.zip", members)
        mode = "w:gz" if request.param == "tar.gz" else "w"
        return make_tar(tmp_path / f"a.{request.param}", members, mode)

    return build


def take(path, tmp_path, member="fc6/generator.caffemodel"):
    (tmp_path / "out").mkdir(exist_ok=True)
    target = tmp_path / "out" / "member"
    extract_member(path, member, target)
    return target.read_bytes()


def nothing_but(tmp_path, path):
    found = [p for p in tmp_path.rglob("*") if p.is_file()]
    return found == [path]


def test_the_member_comes_out_and_nothing_else(make, tmp_path):
    others = [("../evil", b"x"), ("/abs/evil", b"x"), ("release/fc7/generator.caffemodel", b"no")]
    path = make([*others, (WANTED, CONTENT), ("release/README", b"hello")])
    assert take(path, tmp_path) == CONTENT
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [path.name, "member"]
    assert not (tmp_path.parent / "evil").exists()


def test_a_name_that_climbs_is_never_the_member(make, tmp_path):
    path = make([("../fc6/generator.caffemodel", CONTENT)])
    with pytest.raises(GradgenError, match=r"no files fc6/generator\.caffemodel; it has: \.\./"):
        take(path, tmp_path)
    assert nothing_but(tmp_path, path)


def test_a_member_that_is_not_there_is_one_line_with_what_is(make, tmp_path):
    path = make([("release/fc7/generator.caffemodel", b"x")])
    with pytest.raises(GradgenError, match=r"it has: release/fc7/generator\.caffemodel"):
        take(path, tmp_path)


def test_two_members_of_that_name_are_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", [(WANTED, b"1"), ("b/fc6/generator.caffemodel", b"2")])
    with pytest.raises(GradgenError, match="holds 2 files"):
        take(path, tmp_path)


def test_a_link_is_not_followed(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", [(WANTED, None)])
    with pytest.raises(GradgenError, match="is not a file"):
        take(path, tmp_path)


def test_a_bomb_is_not_unpacked(make, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST_MEMBER", 1_000_000)
    path = make([(WANTED, bytes(1_000_001))])
    with pytest.raises(GradgenError, match="unpacks to 1000001 bytes"):
        take(path, tmp_path)
    assert nothing_but(tmp_path, path)


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST_MEMBER", 1_000_000)
    path = make_zip(tmp_path / "a.zip", [(WANTED, bytes(3_000_000))])
    content = path.read_bytes().replace((3_000_000).to_bytes(4, "little"), bytes([9, 0, 0, 0]))
    path.write_bytes(content)
    with pytest.raises(GradgenError):
        take(path, tmp_path)
    assert nothing_but(tmp_path, path)


def test_a_bomb_before_the_member_stops_the_walk(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST_TAR", 1_000_000)
    path = make_tar(tmp_path / "a.tar.gz", [("bomb", bytes(2_000_000)), (WANTED, CONTENT)])
    with pytest.raises(GradgenError, match="unpacks to more than"):
        take(path, tmp_path)


@pytest.mark.parametrize("cut", [0, 10, 200, 1000])
def test_a_truncated_archive_is_one_clear_error(make, tmp_path, cut):
    path = make([("release/README", CONTENT), (WANTED, CONTENT)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(GradgenError, match=path.name):
        take(path, tmp_path)
    assert nothing_but(tmp_path, path)


def test_a_damaged_member_is_one_clear_error(tmp_path):
    path = make_zip(tmp_path / "a.zip", [(WANTED, CONTENT)])
    content = bytearray(path.read_bytes())
    content[80] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(GradgenError, match="is broken"):
        take(path, tmp_path)
    assert nothing_but(tmp_path, path)
