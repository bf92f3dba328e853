"""Tests decoding on pictures that are built by hand, byte by byte, and never on our own output."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from gradgen import images
from gradgen.errors import GradgenError, UsageError


def png_bytes(width, height, bit_depth, colour_type, raw, *extra_chunks):
    """A PNG written by hand from its specification: one filter byte 0 before each row."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(kind, data) for kind, data in extra_chunks)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def decoded(path):
    return np.asarray(images.decode(path))


def test_an_eight_bit_grey_png_repeats_its_value_in_three_channels(tmp_path):
    path = tmp_path / "grey.png"
    path.write_bytes(png_bytes(2, 1, 8, 0, b"\x00\x0a\xf0"))
    assert decoded(path).tolist() == [[[10] * 3, [240] * 3]]


def test_a_one_bit_picture_is_black_and_white(tmp_path):
    path = tmp_path / "bits.pbm"
    path.write_bytes(b"P4\n8 1\n\xa0")  # PBM: 1 is black
    assert decoded(path)[0, :, 0].tolist() == [0, 255, 0, 255, 255, 255, 255, 255]


def test_a_palette_png_with_transparency_is_laid_on_white(tmp_path):
    path = tmp_path / "palette.png"
    palette = bytes([255, 0, 0, 0, 0, 255, 10, 20, 30])
    raw = b"\x00\x00\x01\x02"
    chunks = [(b"PLTE", palette), (b"tRNS", bytes([255, 0, 128]))]
    path.write_bytes(png_bytes(3, 1, 8, 3, raw, *chunks))
    pixels = decoded(path)[0]
    assert pixels[0].tolist() == [255, 0, 0]
    assert pixels[1].tolist() == [255, 255, 255]
    expected = np.array([10, 20, 30]) * 128 / 255 + 255 * (1 - 128 / 255)
    assert np.abs(pixels[2] - expected).max() <= 1


def test_alpha_is_composited_on_white(tmp_path):
    path = tmp_path / "alpha.png"
    path.write_bytes(png_bytes(2, 1, 8, 6, bytes([0, 200, 100, 0, 64, 0, 0, 0, 0])))
    pixels = decoded(path)[0]
    expected = np.array([200, 100, 0]) * 64 / 255 + 255 * (1 - 64 / 255)
    assert np.abs(pixels[0] - expected).max() <= 1
    assert pixels[1].tolist() == [255, 255, 255]


def test_grey_with_alpha_is_composited_on_white(tmp_path):
    path = tmp_path / "la.png"
    path.write_bytes(png_bytes(2, 1, 8, 4, bytes([0, 0, 255, 0, 0])))
    assert decoded(path)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_a_transparent_colour_of_an_rgb_png_is_white(tmp_path):
    path = tmp_path / "trns.png"
    key = (b"tRNS", struct.pack(">HHH", 1, 2, 3))
    path.write_bytes(png_bytes(2, 1, 8, 2, bytes([0, 1, 2, 3, 9, 9, 9]), key))
    assert decoded(path)[0].tolist() == [[255, 255, 255], [9, 9, 9]]


def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path):
    values = [0, 300, 500, 65535]  # 500 >> 8 would be 1
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(4, 1, 16, 0, b"\x00" + struct.pack(">4H", *values)))
    expected = [round(v / 257) for v in values]
    assert decoded(path)[0, :, 1].tolist() == expected


def test_sixteen_bit_rgb_is_read(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(1, 1, 16, 2, b"\x00" + struct.pack(">3H", 0, 32896, 65535)))
    assert np.abs(decoded(path)[0, 0].astype(int) - [0, 128, 255]).max() <= 1


def test_a_sixteen_bit_tiff_and_a_float_tiff_are_read(tmp_path):
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    assert decoded(tmp_path / "deep.tiff")[0, :, 0].tolist() == [0, 100, 255]
    Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)).save(tmp_path / "float.tiff")
    assert decoded(tmp_path / "float.tiff")[0, :, 0].tolist() == [0, 51, 255]


def test_a_float_tiff_without_a_known_range_is_refused(tmp_path):
    Image.fromarray(np.array([[0.0, 4000.0]], np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(images.ImageError, match=r"float.tiff has values 0…4000"):
        images.decode(tmp_path / "float.tiff")


def test_cmyk_is_converted(tmp_path):
    cmyk = np.zeros((16, 32, 4), np.uint8)
    cmyk[:, :16] = (0, 255, 255, 0)  # no cyan, all magenta and yellow: red
    cmyk[:, 16:] = (0, 0, 0, 255)  # black ink only
    path = tmp_path / "print.jpg"
    Image.fromarray(cmyk, "CMYK").save(path, quality=100)
    pixels = decoded(path).astype(int)
    assert np.abs(pixels[4, 4] - [255, 0, 0]).max() <= 8
    assert np.abs(pixels[4, 28] - [0, 0, 0]).max() <= 8


# What a viewer must do to show orientation 1…8 upright (EXIF 2.3, tag 0x0112), in NumPy.
TO_UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    stored = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(stored).save(path, exif=exif)
    np.testing.assert_array_equal(decoded(path), TO_UPRIGHT[orientation](stored))


def test_only_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert decoded(path)[0, 0].tolist() == [200, 0, 0]


def test_a_huge_header_is_refused_before_any_pixel_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(60000, 60000, 8, 0, b""))
    with pytest.raises(images.ImageError, match=r"bomb.png is too large.*decompression bomb"):
        images.decode(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_just_above_the_limit_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(images.MAX_PIXELS + 1, 1, 8, 0, b""))
    with pytest.raises(images.ImageError, match="too large"):
        images.decode(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_a_truncated_file_is_one_clear_error(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(images.ImageError, match=f"cut.{suffix}") as caught:
        images.decode(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_pictures_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, reason in [
        ("empty.png", "is empty"),
        ("text.jpg", "is not a picture"),
        ("vector.eps", "is not a picture"),
        ("gone.png", "is missing"),
        (".", "is a folder"),
    ]:
        with pytest.raises(images.ImageError, match=reason):
            images.decode(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken TIFF tags
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_an_image_error_and_nothing_else(tmp_path_factory, data):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(
        buffer, data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    )
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x.img"
    path.write_bytes(bytes(content))
    try:
        assert images.decode(path).mode == "RGB"
    except images.ImageError as error:
        assert "x.img" in str(error)  # noqa: PT017


def test_resizing_keeps_the_centre_square():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # the centre square and nothing else
    square = np.asarray(images.resize_square(Image.fromarray(wide), 8))
    assert square.shape == (8, 8, 3)
    assert (square[:, 1:-1] > 200).all()


@pytest.mark.parametrize("size", [(80, 100), (100, 80), (64, 128)])
def test_resizing_equals_scaling_the_whole_picture_and_cutting_it_then(size):
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    picture = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
    scale = 32 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    whole = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 32) // 2, (height - 32) // 2
    cut = np.asarray(whole.crop((left, top, left + 32, top + 32)), int)
    square = np.asarray(images.resize_square(picture, 32), int)
    # Pillow rounds between its two passes, and its coefficients to 8 bits.
    assert np.abs(square - cut).max() <= 1


def test_resizing_is_antialiased():
    # A one-pixel checkerboard scaled down to a quarter is grey; point sampling gives 0 or 255.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(images.resize_square(Image.fromarray(board).convert("RGB"), 16))
    assert np.abs(small.astype(float) - 127.5).max() < 3


def test_a_strip_is_not_blown_up_whole():
    strip = Image.new("RGB", (20000, 2), (7, 8, 9))
    assert np.asarray(images.resize_square(strip, 64))[0, 0].tolist() == [7, 8, 9]


def test_loading_gives_the_program_its_range(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(1, 1, 8, 2, bytes([0, 0, 51, 255])))
    loaded = images.load_image(path, 4)
    assert loaded.shape == (4, 4, 3)
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded[0, 0], [-1.0, -0.6, 1.0], atol=1e-6)


def test_every_byte_survives_the_way_to_floats_and_back():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(images.from_uint8(every)), every)
    assert images.to_uint8(np.array([-7.0, 7.0])).tolist() == [0, 255]


def test_arrays_are_taken_as_they_are():
    byte = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(np.asarray(images.decode(byte)), byte)
    np.testing.assert_array_equal(np.asarray(images.decode(images.from_uint8(byte))), byte)
    assert np.asarray(images.decode(byte[..., :1])).shape == (2, 2, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2, 5), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 2, 3), np.int64),
        np.full((2, 2, 3), 255.0),
        np.full((2, 2, 3), np.nan),
    ],
)
def test_arrays_that_make_no_sense_are_usage_errors(wrong):
    with pytest.raises(UsageError):
        images.decode(wrong)


# --- finding ---


@pytest.fixture
def tree(tmp_path):
    for name in ["b/2.jpg", "b/10.PNG", "b/c/3.webp", "b/notes.txt", "b/.hidden.png", "a.png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found]


def test_folders_are_searched_to_their_depths(tree):
    found = names(images.find_images([tree]), tree)
    assert found == ["a.png", "b/10.PNG", "b/2.jpg", "b/c/3.webp"]


def test_files_globs_and_folders_mix_and_each_file_comes_once(tree):
    given_paths = [tree / "b" / "2.jpg", f"{tree}/**/*.webp", tree / "b", tree / "b" / "notes.txt"]
    found = names(images.find_images(given_paths), tree)
    assert found == ["b/2.jpg", "b/c/3.webp", "b/10.PNG", "b/notes.txt"]
    assert len(images.find_images([tree / "a.png", tree / "a.png"])) == 1


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    folder = tmp_path / "photos [2019]"
    folder.mkdir()
    (folder / "x.png").touch()
    assert images.find_images([folder]) == [folder / "x.png"]


def test_links_in_circles_end(tree):
    (tree / "b" / "round").symlink_to(tree, target_is_directory=True)
    assert len(images.find_images([tree])) == 4


def test_pictures_of_kinds_that_cannot_be_read_are_counted(tree):
    for name in ("one.HEIC", "b/two.heic", "b/.hidden.heic", "b/c/three.jxl"):
        (tree / name).touch()
    unreadable = []
    assert len(images.find_images([tree, tree / "b"], unreadable)) == 4
    assert names(unreadable, tree) == ["one.HEIC", "b/two.heic", "b/c/three.jxl"]
    (tree / "only").mkdir()
    (tree / "only" / "x.heic").touch()
    with pytest.raises(UsageError, match="1 of kinds that cannot be read, such as HEIC"):
        images.find_images([tree / "only"])


def test_a_runs_own_plots_are_not_among_its_pictures(tmp_path):
    for name in ["run.json", "grid.png", "trace.png", "chain-00.png"]:
        (tmp_path / name).touch()
    assert names(images.find_images([tmp_path]), tmp_path) == ["chain-00.png"]
    assert len(images.find_images([tmp_path / "grid.png"])) == 1


@pytest.mark.parametrize("missing", ["nowhere", "*.nothing", "void"])
def test_nothing_found_is_a_usage_error_that_names_it(tmp_path, missing):
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError, match=missing.replace("*", r"\*")):
        images.find_images([tmp_path / missing])


# --- grids and recipes ---


def test_a_grid_places_every_picture_row_by_row():
    tiles = np.stack([np.full((4, 6, 3), v, np.uint8) for v in (10, 20, 30)])
    grid = np.asarray(images.image_grid(tiles, columns=2, pad=1))
    assert grid.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert (grid[1:5, 1:7] == 10).all()
    assert (grid[1:5, 8:14] == 20).all()
    assert (grid[6:10, 1:7] == 30).all()
    assert (grid[6:10, 8:] == 255).all()


def test_labels_stand_left_of_their_rows_and_nearest_scaling_keeps_pixels():
    tiles = np.zeros((2, 32, 32, 3), np.float32)  # mid grey
    grid = np.asarray(images.image_grid(tiles, 1, ["beacon", "a much longer label"], scale=2))
    left = grid.shape[1] - 64 - 2
    margin = grid[:, :left]
    for row in range(2):
        assert (margin[2 + row * 66 : 66 + row * 66] < 128).any(), "no ink beside the row"
    assert (margin[:, 0] == 255).all(), "a label is cut off"
    checker = (np.indices((2, 2)).sum(0)[..., None] * np.ones(3) % 2 * 255).astype(np.uint8)
    enlarged = images.image_grid(
        checker[None], 1, pad=0, scale=3, resample=Image.Resampling.NEAREST
    )
    np.testing.assert_array_equal(np.asarray(enlarged), checker.repeat(3, 0).repeat(3, 1))


def test_a_grid_with_the_wrong_number_of_labels_is_refused():
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        images.image_grid(np.zeros((3, 4, 4, 3)), 2, ["one"])
    with pytest.raises(ValueError, match="n > 0"):
        images.image_grid(np.zeros((0, 4, 4, 3)), 2)


def test_a_recipe_comes_back_from_its_picture(tmp_path):
    recipe = {"class": "crème brûlée", "seed": 2**63, "step_size": 0.1 + 0.2, "clip": None}
    pixels = np.random.default_rng(0).uniform(-1, 1, (8, 8, 3)).astype(np.float32)
    images.save_png(tmp_path / "deep" / "x.png", pixels, recipe)
    assert images.read_recipe(tmp_path / "deep" / "x.png") == recipe
    np.testing.assert_array_equal(decoded(tmp_path / "deep" / "x.png"), images.to_uint8(pixels))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.png"], "a temporary file is left"


def test_the_recipe_is_an_itxt_chunk_that_others_can_read(tmp_path):
    images.save_png(tmp_path / "x.png", np.zeros((2, 2, 3)), {"ä": 1})
    content = (tmp_path / "x.png").read_bytes()
    start = content.index(b"iTXt")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    keyword, rest = content[start + 4 : start + 4 + length].split(b"\0", 1)
    assert keyword == b"gradgen"
    assert rest[:4] == b"\0\0\0\0", "uncompressed, no language, no translated keyword"
    assert json.loads(rest[4:].decode("utf-8")) == {"ä": 1}


def test_pictures_without_a_recipe_are_usage_errors(tmp_path):
    images.save_png(tmp_path / "plain.png", np.zeros((2, 2, 3)))
    Image.new("RGB", (2, 2)).save(tmp_path / "photo.jpg")
    for name in ["plain.png", "photo.jpg"]:
        with pytest.raises(UsageError, match=f"{name} carries no recipe"):
            images.read_recipe(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        images.read_recipe(tmp_path / "gone.png")


def test_a_recipe_in_a_truncated_png_is_an_error_of_one_line(tmp_path):
    pixels = np.random.default_rng(0).uniform(-1, 1, (32, 32, 3))
    images.save_png(tmp_path / "x.png", pixels, {"a": 1})
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GradgenError, match=r"x.png is broken"):
        images.read_recipe(tmp_path / "x.png")


def test_images_need_no_jax():
    code = "import sys, gradgen.images; sys.exit('jax' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


MEMORY = """
import resource, sys
import numpy as np
from PIL import Image, PngImagePlugin
from gradgen import images
Image.MAX_IMAGE_PIXELS = None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = images.decode(sys.argv[1])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(made.size[0] * made.size[1], grown * 1024)
"""


@pytest.mark.parametrize("mode", ["F", "I;16", "RGBA", "P"])
def test_decoding_takes_no_more_than_nine_bytes_a_pixel(tmp_path, mode):
    side = 3000
    values = np.zeros((side, side), np.float32 if mode == "F" else np.uint16)
    picture = Image.fromarray(values) if mode in ("F", "I;16") else Image.new(mode, (side, side))
    options = {"transparency": 0} if mode == "P" else {}
    path = tmp_path / ("large.tif" if mode == "F" else "large.png")
    picture.save(path, **options)
    said = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    ).stdout
    pixels, grown = map(int, said.split())
    assert pixels == side**2
    assert grown < 9 * pixels + 20e6  # so that MAX_PIXELS stay below a gigabyte


def test_files_of_too_many_bytes_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "large.png"
    images.save_png(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), {})
    for read in (images.decode, images.read_recipe):
        with pytest.raises(images.ImageError, match=r"large\.png is too large: .* bytes"):
            read(path)


def test_greedy_formats_have_half_the_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    for suffix, side, fine in (("png", 10, True), ("webp", 10, False), ("webp", 7, True)):
        path = tmp_path / f"a.{suffix}"
        Image.new("RGB", (side, side)).save(path)
        if fine:
            images.decode(path)
        else:
            with pytest.raises(images.ImageError, match="too large"):
                images.decode(path)


@pytest.mark.parametrize("strip", [1, 3, 1000])
def test_strips_leave_no_seams(monkeypatch, strip):
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (10, 7, 4), np.uint8), "RGBA")
    white = Image.new("RGBA", rgba.size, (255,) * 4)
    expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    monkeypatch.setattr(images, "STRIP_ROWS", strip)
    np.testing.assert_array_equal(np.asarray(images.decode(rgba)), expected)
    deep = Image.fromarray(rng.integers(0, 65536, (10, 7), np.uint16))
    grey = np.rint(np.asarray(deep) / 257).astype(np.uint8)  # 65535 = 255 * 257
    np.testing.assert_array_equal(np.asarray(images.decode(deep))[..., 1], grey)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1]", "its recipe: the JSON in it is not an object"),
        (b'{"seed": %s}' % (b"7" * 5000), "a whole number of 5000 digits"),
        (b"[" * 100_000, "nested too deep"),
        (rb'{"class": "\ud800"}', "lone surrogate"),
        (b'{"budget": NaN}', "NaN is no number of JSON"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "longer than|too large"),
    ],
)
def test_hostile_recipes_are_one_clear_error(tmp_path, text, message):
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"iTXt", b"gradgen\0\0\0\0\0" + text)
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, pnginfo=chunks)
    with pytest.raises(GradgenError, match=message) as caught:
        images.read_recipe(path)
    assert "\n" not in str(caught.value)
