"""Images in, whatever they come from: modes, files, crops, folders and torchvision's formats."""

import errno
import hashlib
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

import rar_nb.data.images as images_module
from rar_nb.data.images import (
    Digits,
    ImageData,
    ahead,
    center_crop,
    check_readable,
    find_images,
    images_hash,
    load_rgb,
    one_behind,
    open_data,
    open_folder,
    split_validation,
    ten_crop,
    ten_crop_size,
    to_host,
    to_rgb,
)
from rar_nb.pretrained.presets import get_preset, resolve
from rar_nb.support import InvalidValue, import_torchvision
from rar_nb.tokenizer import stack_images

torchvision = import_torchvision()


def picture(width, height, seed=0):
    """A smooth colour image without symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    a, b, c = np.random.default_rng(seed).uniform(2, 7, 3)
    waves = np.stack([np.sin(a * x + b * y), np.cos(c * x * y + a), np.sin(b * x - c * y)], -1)
    return Image.fromarray(((waves + 1) * 127.5).astype(np.uint8))


def save_folder(root, classes=("cat", "dog"), count=3, size=(20, 17)):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(*size, seed=10 * c + i).save(root / name / f"{i}.png")
    return root


# Crops


def adm_center_crop(image, size):
    """ADM's steps on arrays: halvings are means of 2 x 2 pixels, Pillow does the bicubic step."""
    a = np.asarray(image).astype(np.int64)
    while min(a.shape[:2]) >= 2 * size:
        a = a[: a.shape[0] // 2 * 2, : a.shape[1] // 2 * 2]
        a = (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2] + 2) // 4
    scale = size / min(a.shape[:2])
    width, height = round(a.shape[1] * scale), round(a.shape[0] * scale)
    a = np.asarray(
        Image.fromarray(a.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    )
    top, left = (a.shape[0] - size) // 2, (a.shape[1] - size) // 2
    return a[top : top + size, left : left + size]


@pytest.mark.parametrize(
    "width,height", [(300, 200), (200, 300), (128, 128), (66, 250), (64, 64), (130, 64)]
)
def test_center_crop_on_even_sides(width, height):
    ours = np.asarray(center_crop(picture(width, height), 32)).astype(int)
    assert ours.shape == (32, 32, 3)
    # Pillow rounds between its two passes, so a mean of four may differ by one, once a halving
    assert np.abs(ours - adm_center_crop(picture(width, height), 32)).max() <= 3


@pytest.mark.parametrize(
    "width,height",
    [(301, 199), (199, 301), (563, 281), (97, 97), (31, 45), (5, 3), (1, 1), (3, 50)],
)
@pytest.mark.parametrize("size", [32, 33])
def test_center_crop_of_odd_and_tiny_images(width, height, size):
    """By a ramp across the longer side: what remains is its middle, to within a pixel's step."""
    across = np.arange(width) / max(1, width - 1) * 255
    image = Image.fromarray(np.broadcast_to(across, (height, width)).astype(np.uint8))
    crop = center_crop(image, size)
    assert crop.size == (size, size) and crop.mode == "L"
    if width > 40:
        middle = np.asarray(crop)[size // 2].astype(float)
        share = min(1, height / width)  # of the ramp that a crop of full height shows
        step = 255 / width * max(1, height / size)
        assert abs(middle.mean() - 127.5) < 2 + step
        assert abs((middle[-1] - middle[0]) - 255 * share) < 6 + 2 * step


@pytest.mark.parametrize("size", [16, 48, 64, 256])
def test_ten_crops_are_torchvisions(size):
    image = center_crop(picture(301, 333), ten_crop_size(size))
    theirs = [np.asarray(x) for x in torchvision.transforms.functional.ten_crop(image, size)]
    ours = ten_crop(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], size)
    assert ours.shape == (1, 10, 3, size, size) and ours.dtype == torch.uint8
    np.testing.assert_array_equal(ours[0].permute(0, 2, 3, 1).numpy(), np.stack(theirs))


def test_sizes_of_ten_crops():
    assert [ten_crop_size(s) for s in (10, 64, 256, 384, 512)] == [11, 70, 281, 422, 563]


# One form

COLOR = (200, 100, 50)


def in_mode(mode):
    """A 5 x 4 image of one colour in `mode`, and the RGB it must become on white (within 2)."""
    rgb = Image.new("RGB", (5, 4), COLOR)
    grey = 120  # modes without colour get this value, and no conversion of COLOR
    if mode == "RGB":
        return rgb, COLOR
    if mode in ("1", "L", "LA"):
        return Image.new("L", (5, 4), grey if mode != "1" else 255).convert(mode), (
            grey if mode != "1" else 255,
        ) * 3
    if mode == "I;16":
        return Image.fromarray(np.full((4, 5), grey * 257, np.uint16)), (grey,) * 3
    if mode == "I":
        return Image.fromarray(np.full((4, 5), grey * 257, np.int32)), (grey,) * 3
    if mode == "P":
        return rgb.convert("P", palette=Image.Palette.ADAPTIVE), COLOR
    if mode == "P transparent":
        p = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
        p.info["transparency"] = bytes(256)  # every entry is invisible
        return p, (255, 255, 255)
    if mode == "RGBA":
        return Image.new("RGBA", (5, 4), (*COLOR, 51)), tuple(255 - (255 - c) // 5 for c in COLOR)
    if mode == "LA transparent":
        return Image.new("LA", (5, 4), (grey, 51)), (255 - (255 - grey) // 5,) * 3
    if mode in ("CMYK", "YCbCr", "HSV"):
        return rgb.convert(mode), COLOR


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "mode",
    [
        "RGB",
        "1",
        "L",
        "LA",
        "I;16",
        "I",
        "P",
        "P transparent",
        "RGBA",
        "LA transparent",
        "CMYK",
        "YCbCr",
        "HSV",
    ],
)
def test_any_mode_to_rgb(mode):
    image, expected = in_mode(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (5, 4) and np.asarray(rgb).dtype == np.uint8
    assert np.abs(np.asarray(rgb).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    "ending,mode",
    [
        ("png", "1"),
        ("png", "L"),
        ("png", "LA"),
        ("png", "LA transparent"),
        ("png", "I;16"),
        ("png", "P"),
        ("png", "P transparent"),
        ("png", "RGB"),
        ("png", "RGBA"),
        ("jpg", "L"),
        ("jpg", "RGB"),
        ("jpg", "CMYK"),
        ("tif", "I;16"),
        ("tif", "CMYK"),
        ("bmp", "P"),
        ("webp", "RGBA"),
        ("pgm", "I;16"),
    ],
)
def test_any_file_to_rgb(tmp_path, ending, mode):
    image, expected = in_mode(mode)
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    image.save(tmp_path / f"x.{ending}", **options)
    rgb = load_rgb(tmp_path / f"x.{ending}")
    assert rgb.mode == "RGB" and rgb.size == (5, 4)
    assert np.abs(np.asarray(rgb).astype(int) - expected).max() <= 4  # JPEG


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.arange(0, 65536, 7, dtype=np.uint16)[:9000].reshape(90, 100)
    Image.fromarray(values).save(tmp_path / "deep.png")
    ours = np.asarray(load_rgb(tmp_path / "deep.png"))
    np.testing.assert_array_equal(ours[..., 0], np.floor(values / 65535 * 255 + 0.5))
    assert (ours == ours[..., :1]).all()
    with pytest.raises(ValueError, match="0 to 65,535"):
        to_rgb(Image.fromarray(np.array([[0, 70_000]], np.int32)))


def png(bits, kind, pixels, transparent):
    """A PNG, 2 x 1, whose tRNS chunk names one transparent value; Pillow can't write them all."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 2, 1, bits, kind, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"tRNS", transparent),
        (b"IDAT", zlib.compress(b"\0" + pixels)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


@pytest.mark.parametrize(
    "bits,kind,pixels,transparent,second",
    [
        (8, 0, bytes([10, 200]), b"\0\x0a", 200),
        (16, 0, struct.pack(">2H", 257, 514), struct.pack(">H", 257), 2),
        (8, 2, bytes([1, 2, 3, 9, 9, 9]), struct.pack(">3H", 1, 2, 3), 9),
    ],
    ids=["grey", "grey of 16 bits", "RGB"],
)
def test_a_transparent_value_becomes_white(tmp_path, bits, kind, pixels, transparent, second):
    (tmp_path / "x.png").write_bytes(png(bits, kind, pixels, transparent))
    assert np.asarray(load_rgb(tmp_path / "x.png")).tolist() == [[[255] * 3, [second] * 3]]


# Where the stored image's top left corner is seen, by EXIF's orientation: (right?, bottom?).
# From 5 on, the sides are swapped.
CORNERS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize(
    "ending,mode",
    [
        ("jpg", "RGB"),
        ("png", "RGB"),
        ("png", "I;16"),
        ("webp", "RGB"),
        ("tif", "RGB"),
        ("tif", "L"),
        ("tif", "I;16"),
    ],
)
def test_exif_orientation_is_applied(tmp_path, ending, mode, orientation):
    """Once: Pillow has applied that of TIFF files by itself when their pixels are read."""
    stored = np.zeros((16, 32), np.uint16 if mode == "I;16" else np.uint8)
    stored[:8, :16] = 65535 if mode == "I;16" else 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored) if mode != "RGB" else Image.fromarray(stored).convert("RGB")
    image.save(tmp_path / f"x.{ending}", exif=exif)
    seen = load_rgb(tmp_path / f"x.{ending}")
    assert seen.size == ((32, 16) if orientation < 5 else (16, 32))
    corners = {
        (right, bottom)
        for right in (0, 1)
        for bottom in (0, 1)
        if seen.getpixel((right * (seen.width - 1), bottom * (seen.height - 1)))[0] > 128
    }
    assert corners == {CORNERS[orientation]}


def test_damaged_exif_data_is_no_reason_to_lose_an_image(tmp_path):
    picture(20, 10).save(tmp_path / "x.png", exif=b"Exif\0\0not a TIFF header")
    with pytest.warns(UserWarning, match="x.png: the EXIF data is damaged"):
        assert load_rgb(tmp_path / "x.png").size == (20, 10)


def test_every_byte_of_the_pixels_of_a_png_counts(tmp_path):
    """Pillow reads pixels without looking at their checksum, so that a flipped bit would pass."""
    name = tmp_path / "x.png"
    picture(8, 6).save(name, compress_level=0)  # the pixels as they are
    sound = name.read_bytes()
    pixels = load_rgb(name).tobytes()
    for place in range(sound.index(b"IDAT"), sound.index(b"IEND") - 4):
        name.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(InvalidValue, match=f"{name} can't be read as an image"):
            load_rgb(name)
    name.write_bytes(sound)
    assert load_rgb(name).tobytes() == pixels


@pytest.mark.parametrize("damage", ["empty", "text", "half png", "half jpg", "flipped"])
def test_damaged_files_are_named(tmp_path, damage):
    name = tmp_path / ("x.jpg" if "jpg" in damage else "x.png")
    picture(64, 48).save(name)
    content = bytearray(name.read_bytes())
    if damage == "empty":
        content = b""
    if damage == "text":
        content = b"not an image at all"
    if "half" in damage:
        content = content[: len(content) // 2]
    if damage == "flipped":
        content[len(content) // 2] ^= 255
    name.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} can't be read as an image"):
        load_rgb(name)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_no_other_program_is_started(tmp_path, monkeypatch, ending):
    """Pillow goes by the content, and for EPS it calls Ghostscript."""
    name = tmp_path / f"x.{ending}"
    picture(20, 10).save(name, format="EPS")
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was called")
    )
    with pytest.raises(ValueError, match=f"{name} can't be read as an image"):
        load_rgb(name)


def test_an_image_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    def claim(width, height):
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        content = (
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", 13)
            + header
            + struct.pack(">I", zlib.crc32(header))
        )
        data = b"IDAT" + zlib.compress(b"")
        (tmp_path / "x.png").write_bytes(
            content + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
        )

    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were read"))
    message = f"x.png has more than {images_module.MAX_PIXELS:,} pixels.*scale it down"
    for width, height in ((30_000, 30_000), (images_module.MAX_PIXELS + 1, 1)):
        claim(width, height)
        with pytest.raises(ValueError, match=message):
            load_rgb(tmp_path / "x.png")
        with monkeypatch.context() as m, pytest.raises(ValueError, match=message):
            m.setattr(Image, "MAX_IMAGE_PIXELS", None)  # ours holds by itself
            load_rgb(tmp_path / "x.png")


def test_a_large_photograph_is_no_bomb(tmp_path, monkeypatch):
    picture(40, 30).save(tmp_path / "x.png")
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 1000
    )  # Pillow warns above it, and refuses above its double
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_rgb(tmp_path / "x.png").size == (40, 30)


ENDINGS = dict(JPEG="jpg", PNG="png", PPM="ppm", BMP="bmp", TIFF="tif", WEBP="webp", GIF="gif")


def file_of(kind, width=20, height=10, **options):
    """The bytes of a picture in one of the formats."""
    file = io.BytesIO()
    picture(width, height).save(file, kind, **options)
    return file.getvalue()


def enlarged(kind):
    """A file whose header claims some 65,000 x 65,000 pixels, or the most its format can."""
    content = file_of(kind) if kind != "WEBP" else animation(kind)
    if kind == "PPM":
        return content.replace(b"20 10", b"65000 65000")
    side = {"JPEG": ">HH", "GIF": "<HH", "BMP": "<ii"}
    places = {"JPEG": b"\x00\x0a\x00\x14", "GIF": b"\x14\0\x0a\0", "BMP": b"\x14\0\0\0\x0a\0\0\0"}
    if kind in places:
        return content.replace(places[kind], struct.pack(side[kind], 65000, 65000))
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
        start = content.index(b"IHDR")
        return (
            content[:start] + header + struct.pack(">I", zlib.crc32(header)) + content[start + 21 :]
        )
    if kind == "TIFF":
        for tag in (256, 257):  # width and height
            start = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
            content = content[:start] + struct.pack("<I", 65000) + content[start + 4 :]
        return content
    start = content.index(b"VP8X") + 12
    return content[:start] + (16382).to_bytes(3, "little") * 2 + content[start + 6 :]


def animation(kind, frames=50):
    file = io.BytesIO()
    pictures = [picture(20, 10, seed) for seed in range(frames)]
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:])
    return file.getvalue()


@pytest.mark.parametrize("kind", images_module.FORMATS)
def test_the_limit_holds_for_every_format(tmp_path, monkeypatch, kind):
    name = tmp_path / f"x.{ENDINGS[kind]}"
    name.write_bytes(file_of(kind))
    assert load_rgb(name).size == (20, 10)
    name.write_bytes(enlarged(kind))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # ours holds by itself
    with pytest.raises(InvalidValue, match=f"{name.name} has more than 178,956,970 pixels"):
        load_rgb(name)


def test_tiles_that_are_larger_than_the_image(tmp_path):
    """Each tile of a TIFF is unpacked whole: here half a gigabyte for 10 x 10 pixels."""
    tile = zlib.compress(bytes(1000))
    numbers = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 2**15, 323: 2**14}
    numbers |= {324: 8 + 2 + 12 * 10 + 4, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in numbers.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(numbers)) + entries + bytes(4) + tile
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(InvalidValue, match="x.tif has more than 178,956,970 pixels"):
        load_rgb(tmp_path / "x.tif")


def test_an_image_that_scaling_would_blow_up(tmp_path):
    """Two pixels wide, it would be 256 wide and 5 million high."""
    Image.new("RGB", (2, 40_000)).save(tmp_path / "x.png")
    with pytest.raises(InvalidValue, match=r"size of the image = \(2, 40000\).*less elongated"):
        center_crop(load_rgb(tmp_path / "x.png"), 256)
    (tmp_path / "data" / "cat").mkdir(parents=True)
    for i in range(2):
        (tmp_path / "x.png").rename(tmp_path / "data" / "cat" / f"{i}.png")
        Image.new("RGB", (2, 100)).save(tmp_path / "x.png")
    with pytest.raises(InvalidValue, match="size of .*cat/0.png = .*less elongated"):
        check_readable(open_data(str(tmp_path / "data"), image_size=256)[0])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_only_the_first_picture_is_read(tmp_path, monkeypatch, kind):
    (tmp_path / "x").write_bytes(animation(kind))
    with Image.open(tmp_path / "x") as image:
        assert image.n_frames == 50
        monkeypatch.setattr(type(image), "seek", lambda *a: pytest.fail("another frame was read"))
    ours = np.asarray(load_rgb(tmp_path / "x")).astype(int)
    assert np.abs(ours - np.asarray(picture(20, 10))).mean() < 12  # a GIF has 256 colours


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_that_unpacks_to_gigabytes(tmp_path, kind):
    """A hundred megabytes of zeros beside the pixels, in 100 kB."""
    packed = zlib.compress(bytes(10**8))
    content = kind + {b"iTXt": b"a\0\1\0\0\0"}.get(kind, b"a\0\0") + packed
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    image = file_of("PNG")
    (tmp_path / "x.png").write_bytes(image[:33] + chunk + image[33:])
    with pytest.raises(InvalidValue, match="x.png can't be read as an image .*too large"):
        load_rgb(tmp_path / "x.png")


@pytest.mark.parametrize("kind", [*images_module.FORMATS, "EPS", "PDF", "ICO", "TGA", "damaged"])
def test_no_image_starts_a_program(tmp_path, monkeypatch, kind):
    fail = lambda *a, **k: pytest.fail("a program was started")
    for module, name in ((subprocess, "Popen"), (os, "system"), (os, "popen"), (os, "posix_spawn")):
        monkeypatch.setattr(module, name, fail)
    content = file_of("JPEG")[:300] if kind == "damaged" else file_of(kind)
    for ending in ENDINGS.values():
        (tmp_path / f"x.{ending}").write_bytes(content)
        if kind in images_module.FORMATS:  # whatever it is called
            assert load_rgb(tmp_path / f"x.{ending}").size == (20, 10)
        else:
            with pytest.raises(InvalidValue, match=f"x.{ending} can't be read as an image"):
                load_rgb(tmp_path / f"x.{ending}")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(images_module.FORMATS))
def test_damaged_images_are_errors_of_ours(tmp_path_factory, data, kind):
    """A changed file is an image of at most the limit, or is named."""
    content = bytearray(file_of(kind))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, min(len(content), 120) - 1))  # mostly headers
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    name = tmp_path_factory.mktemp("fuzz") / f"x.{ENDINGS[kind]}"
    name.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = load_rgb(name)
        except InvalidValue as error:
            assert str(name) in str(error)
            return
    assert image.mode == "RGB" and image.width * image.height <= images_module.MAX_PIXELS


# Folders


def arrange(root, *paths):
    """A small image at each of `paths`."""
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(20, 17, seed=i).save(root / path, format="PNG")
    return root


def many(*folders, count=3):
    return [f"{folder}/{i}.png" for folder in folders for i in range(count)]


@pytest.fixture
def no_waiting():
    """A pipe that is opened would wait for ever."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still waiting"))
    signal.alarm(30)
    yield
    signal.alarm(0)


def test_train_alone_is_the_training_split(tmp_path):
    train, validation = open_data(
        str(arrange(tmp_path, *many("train/cat", "train/dog", count=20))), image_size=16
    )
    assert train.classes == validation.classes == ["cat", "dog"]
    assert np.bincount(train.targets).tolist() == [18, 18] and np.bincount(
        validation.targets
    ).tolist() == [2, 2]


@pytest.mark.parametrize("split", ["val", "valid", "validation", "test", "Val", "TEST"])
def test_names_of_the_validation_split(tmp_path, split):
    arrange(
        tmp_path, *many("train/cat", "train/dog"), *many(f"{split}/cat", f"{split}/dog", count=2)
    )
    train, validation = open_data(str(tmp_path), image_size=16)
    assert train.classes == validation.classes == ["cat", "dog"] and (
        len(train),
        len(validation),
    ) == (6, 4)
    assert validation.name(3) == str(tmp_path / split / "dog" / "1.png")


def test_beside_val_the_test_split_is_not_read(tmp_path):
    """ImageNet's has no classes."""
    arrange(
        tmp_path,
        *many("train/cat", "train/dog"),
        *many("val/cat", "val/dog", count=1),
        *many("test"),
    )
    assert [len(part) for part in open_data(str(tmp_path), image_size=16)] == [6, 2]


def test_a_class_may_be_called_train(tmp_path):
    train, _ = open_data(str(arrange(tmp_path, *many("bus", "train"))), image_size=16)
    assert train.classes == ["bus", "train"]


AMBIGUOUS = {
    "nested": (
        many("outer/inner/cat"),
        "outer = 'the subfolders inner'.*folder/class/image.*give that folder as data",
    ),
    "one level too high": (
        many("outer/cat", "outer/dog"),
        "outer = 'the subfolders cat, dog'.*give that folder as data",
    ),
    "nested in train": (
        many("train/animal/cat", "train/animal/dog"),
        "animal = 'the subfolders cat, dog'",
    ),
    "images and a folder in a class": (
        many("cat", "cat/more", "dog"),
        "cat = 'the subfolders more'",
    ),
    "train beside another": (
        many("train/cat", "train/dog", "extra"),
        "train = 'the subfolders cat, dog'",
    ),
    "images beside classes": (
        many("cat", "dog") + ["stray.png"],
        "'images beside class folders: stray.png'",
    ),
    "images beside splits": (
        many("train/cat", "val/cat") + ["train/stray.png"],
        "train = 'images beside class folders: stray.png'",
    ),
    "images alone": (
        ["a.png", "b.png", "c.png", "d.png", "e.png"],
        "'images without class folders: a.png, b.png, c.png and 2 more'",
    ),
    "splits of images": (many("train", "test"), "train = 'images without class folders: 0.png.*'"),
    "no train": (many("val/cat", "test/cat"), "'the splits test, val'.*a folder train"),
    "two for validation": (
        many("train/cat", "val/cat", "valid/cat"),
        "'the splits train, val, valid'",
    ),
    "two trains": (many("train/cat", "Train/cat"), "'the splits Train, train'"),
    "fewer classes": (
        many("train/cat", "train/dog", "val/cat"),
        r"classes of .*val = \['cat'\].*train, \['cat', 'dog'\]",
    ),
    "more classes": (
        many("train/cat", "test/cat", "test/dog"),
        r"classes of .*test = \['cat', 'dog'\].*train, \['cat'\]",
    ),
    "empty": ([], "folder .* = 'empty'.*one subfolder a class"),
    "hidden only": (many(".cache/cat"), "folder .* = 'empty'.*one subfolder a class"),
    "a class of hidden images": (many("cat") + ["dog/.a.png"], "dog = 'empty'.*at least one image"),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_an_error(tmp_path, kind):
    paths, message = AMBIGUOUS[kind]
    with pytest.raises(ValueError, match=message) as error:
        open_data(str(arrange(tmp_path, *paths)), image_size=16)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


HIDDEN = many(".ipynb_checkpoints", ".hidden/cat", "cat/.ipynb_checkpoints", "dog/__MACOSX") + [
    "cat/.0.png",
    "dog/._1.png",
    ".x.png",
]


@pytest.mark.parametrize("split", ["", "train/"])
def test_hidden_files_and_folders_are_ignored(tmp_path, split):
    arrange(tmp_path, *[split + path for path in many("cat", "dog")])
    expected = [stack_images(part) for part in open_data(str(tmp_path), image_size=16)]
    arrange(tmp_path, *[split + path for path in HIDDEN], *many(".git", ".ipynb_checkpoints"))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / split / "cat" / name).write_text("not an image")
    (tmp_path / "README.txt").write_text("other files beside the classes do no harm")
    for part, images in zip(open_data(str(tmp_path), image_size=16), expected, strict=True):
        assert part.classes == ["cat", "dog"] and torch.equal(stack_images(part), images)


def test_find_images_at_any_depth_without_what_is_hidden(tmp_path):
    arrange(tmp_path / "real", *many("cat", "dog/deeper", count=6), *HIDDEN)
    os.mkfifo(tmp_path / "real" / "pipe.png")
    (tmp_path / "real" / "list.txt").write_text("not an image")
    files = [str(tmp_path / "real" / path) for path in many("cat", "dog/deeper", count=6)]
    assert find_images(tmp_path / "real") == files


def test_links_to_class_folders_and_images_are_followed(tmp_path):
    """As in torchvision, whose order of classes and images is ours."""
    arrange(tmp_path / "store", *many("x", "y", count=12))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "data" / "a").mkdir()
    for i in range(12):
        (tmp_path / "data" / "a" / f"{i}.PNG").symlink_to(tmp_path / "store" / "y" / f"{i}.png")
    arrange(tmp_path / "data", *many("B"))
    train, _ = open_data(str(tmp_path / "data"), image_size=16)
    theirs = torchvision.datasets.ImageFolder(tmp_path / "data")
    assert (
        train.classes == theirs.classes == ["B", "a", "b"]
        and train.data.source.samples == theirs.samples
    )


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device", "broken link"])
def test_only_regular_files_are_opened(tmp_path, kind, no_waiting, monkeypatch):
    arrange(tmp_path, *many("cat", "dog"))
    monkeypatch.chdir(tmp_path / "cat")  # a socket's name must be short
    if kind == "named pipe":
        os.mkfifo("x.png")
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind("x.png")
    if kind in ("device", "broken link"):
        os.symlink("/dev/zero" if kind == "device" else "nowhere.png", "x.png")
    with pytest.raises(ValueError, match=rf"cat = 'with x.png \({kind}\)'.*take it out"):
        open_data(str(tmp_path), image_size=16)
    with pytest.raises(ValueError, match=f"x.png = '{kind}'.*a regular file"):
        load_rgb(tmp_path / "cat" / "x.png")
    (tmp_path / "cat" / "x.png").rename(tmp_path / "x.png")
    open_data(str(tmp_path), image_size=16)  # beside the classes it is no image


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names of any bytes")
def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9")  # Latin-1
    train, validation = open_data(
        str(arrange(tmp_path, *many(f"{name}/{name}", "dog")).joinpath(name)), image_size=16
    )
    assert train.classes == ["caf\\xe9"] and len(stack_images(train)) == 2
    bad = arrange(tmp_path / "data", *many("dog", name), f"dog/{name}.png") / "dog" / f"{name}.png"
    train, _ = open_data(str(tmp_path / "data"), image_size=16)
    assert train.classes == ["caf\\xe9", "dog"] and len(images_hash(train)) == 64
    bad.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"caf.xe9.png can't be read as an image") as error:
        load_rgb(bad)
    str(error.value).encode()  # can be printed and saved
    os.mkfifo(tmp_path / "data" / name / name)
    with pytest.raises(ValueError, match=r"named pipe") as error:
        open_data(str(tmp_path / "data"))
    str(error.value).encode()


def test_home_in_the_folders_name(tmp_path, monkeypatch):
    arrange(tmp_path, *many("pictures/cat", "pictures/dog"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_data("~/pictures", image_size=16)[0]) == 4
    with pytest.raises(ValueError, match="data = '~nobody-of-this-name/x'"):
        open_data("~nobody-of-this-name/x")


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    arrange(tmp_path, *many("cat", "dog"))
    real = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")  # root may list everything
        return real(path)

    monkeypatch.setattr(images_module.os, "scandir", refuse)
    with pytest.raises(ValueError, match="dog can't be listed .Permission denied"):
        open_data(str(tmp_path), image_size=16)


def test_folder_without_parts(tmp_path):
    train, validation = open_data(str(save_folder(tmp_path, count=20)), image_size=16)
    assert train.classes == validation.classes == ["cat", "dog"]
    assert np.bincount(train.targets).tolist() == [18, 18] and np.bincount(
        validation.targets
    ).tolist() == [2, 2]
    assert stack_images(validation).shape == (4, 3, 16, 16)
    assert validation.data.name(int(validation.indices[0])).endswith(
        "8.png"
    )  # names are sorted as text, so 8 and 9 are last
    np.testing.assert_array_equal(
        validation[0][0].permute(1, 2, 0).numpy(),
        np.asarray(center_crop(picture(20, 17, seed=8), 16)),
    )


def test_folder_with_train_and_val(tmp_path):
    save_folder(tmp_path / "train", count=4)
    save_folder(tmp_path / "val", count=1)
    train, validation = open_data(str(tmp_path), image_size=16)
    assert (len(train), len(validation)) == (8, 2)


def test_val_with_other_classes(tmp_path):
    """Labels are places in the sorted list of classes, so they would mean something else."""
    save_folder(tmp_path / "train", classes=("cat", "dog"))
    save_folder(tmp_path / "val", classes=("ant", "dog"))
    with pytest.raises(ValueError, match="classes of .*val"):
        open_data(str(tmp_path), image_size=16)


def test_mixed_sizes_and_modes(tmp_path):
    save_folder(tmp_path)
    for i, mode in enumerate(["1", "L", "I;16", "P transparent", "RGBA"]):
        in_mode(mode)[0].resize((9 + i, 40), Image.Resampling.NEAREST).save(
            tmp_path / "cat" / f"z{i}.png"
        )
    train, validation = open_data(str(tmp_path), image_size=12)
    assert stack_images(train).shape[1:] == stack_images(validation).shape[1:] == (3, 12, 12)
    with pytest.raises(ValueError, match=r"size of .*\.png = .*give image_size"):
        stack_images(open_data(str(tmp_path))[0])


def test_empty_class_folder(tmp_path):
    (save_folder(tmp_path) / "emu").mkdir()
    with pytest.raises(ValueError, match="emu"):
        open_data(str(tmp_path), image_size=16)


def test_other_file_in_a_class_folder(tmp_path):
    save_folder(tmp_path)
    (tmp_path / "dog" / ".hidden").write_text("left out, like macOS's .DS_Store")
    open_data(str(tmp_path), image_size=16)
    (tmp_path / "dog" / "notes.txt").write_text("about dogs")
    with pytest.raises(ValueError, match="notes.txt.*take it out"):
        open_data(str(tmp_path), image_size=16)


def test_corrupt_image_in_a_folder(tmp_path):
    save_folder(tmp_path, count=30)
    bad = tmp_path / "cat" / "15.png"
    bad.write_bytes(bad.read_bytes()[:100])
    train, _ = open_data(str(tmp_path), image_size=16)
    with pytest.raises(ValueError, match=f"{bad} can't be read"):
        stack_images(train)


def test_class_with_one_image(tmp_path):
    save_folder(tmp_path, count=3)
    for i in (0, 1):
        (tmp_path / "cat" / f"{i}.png").unlink()
    with pytest.raises(InvalidValue, match="class 'cat' = 1 .*more than 1.*last 1.*add images"):
        open_data(str(tmp_path), image_size=16)
    save_folder(tmp_path / "split" / "train", count=1)
    save_folder(tmp_path / "split" / "val", count=1)
    assert len(open_data(str(tmp_path / "split"), image_size=16)[0]) == 2  # nothing is set aside


@pytest.mark.parametrize("counts", [(2, 9, 10), (19, 20, 21), (100, 2, 35), (3,)])
def test_a_tenth_of_each_class_is_set_aside(tmp_path, counts):
    """Of each class its own tenth, whatever the sizes of the others; at least one image."""
    for c, count in enumerate(counts):
        (tmp_path / str(c)).mkdir()
        for i in range(count):
            Image.new("RGB", (2, 2), (c, i, 0)).save(tmp_path / str(c) / f"{i:03d}.bmp")
    train, validation = open_data(str(tmp_path), image_size=2)
    expected = [max(1, count // 10) for count in counts]
    assert np.bincount(validation.targets).tolist() == expected
    assert np.bincount(train.targets).tolist() == [n - m for n, m in zip(counts, expected)]
    last = [(c, i) for c, (n, m) in enumerate(zip(counts, expected)) for i in range(n - m, n)]
    assert [tuple(image[:2, 0, 0].tolist()) for image, _ in validation] == last


NAMES = [
    "$a_{$",
    "<script>alert(1)<",
    "a\nb\x1b[31m",
    "%s{0}",
    "x" * 250,
    "ü\u200d🦊",
    "'\"`",
    "-rf",
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid some of these names")
def test_names_that_mean_something_elsewhere(tmp_path):
    """Each is one line of text that can be printed, and a class of its own."""
    data = open_data(str(save_folder(tmp_path, classes=NAMES)), image_size=16)[0]
    assert len(set(data.classes)) == len(NAMES) and "x" * 250 in data.classes
    for i in range(len(data)):
        data.name(i).encode()
    text = "".join(data.classes) + "".join(data.name(i) for i in range(len(data)))
    assert not set(text) & set(map(chr, range(32)))
    (tmp_path / NAMES[2] / "0.png").write_bytes(b"torn")
    with pytest.raises(InvalidValue, match="x0ab.x1b") as error:
        check_readable(data)
    assert "\n" not in str(error.value)


def test_damaged_images_are_found_before_a_run(tmp_path, capsys):
    save_folder(tmp_path, count=20)
    parts = open_data(str(tmp_path), image_size=16)
    for part in parts:
        check_readable(part)
        check_readable(part, workers=2, progress=True)
    assert "check" in capsys.readouterr().err
    for i in (15, 16, 18, 19, 8):
        (tmp_path / "dog" / f"{i}.png").write_bytes(b"torn")
    with pytest.raises(InvalidValue) as error:
        check_readable(parts[0])
    first, *others = (str(tmp_path / "dog" / f"{i}.png") for i in (15, 16, 18, 19))
    assert str(error.value).startswith(
        f"4 of 36 images can't be used. The first is {first}: can't be read as an image"
    )
    assert all(name in str(error.value) for name in others)
    with pytest.raises(InvalidValue) as parallel:
        check_readable(parts[0], workers=2)
    assert str(parallel.value) == str(error.value)
    with pytest.raises(InvalidValue, match="^1 of 4 images can't be used. .*dog/8.png"):
        check_readable(parts[1])


def test_images_of_other_sizes_are_found_too(tmp_path):
    save_folder(tmp_path, classes=["cat"], size=(16, 16))
    picture(15, 16).save(tmp_path / "cat" / "00.png")  # the second
    with pytest.raises(InvalidValue, match="00.png.*give image_size"):
        check_readable(open_data(str(tmp_path))[0])


def test_images_hash_by_hand(tmp_path):
    """Values of existing runs must stay: classes as JSON, then a line for each image."""
    train, _ = open_data(str(save_folder(tmp_path / "one")), image_size=16)
    lines = "".join(f"{c} {i}.png\n" for c in (0, 1) for i in (0, 1))
    expected = hashlib.sha256((json.dumps(["cat", "dog"]) + lines).encode()).hexdigest()
    assert images_hash(train) == expected
    (tmp_path / "one").rename(tmp_path / "two")
    moved, _ = open_data(str(tmp_path / "two"), image_size=32)  # elsewhere, and scaled otherwise
    assert images_hash(moved) == expected
    (tmp_path / "two" / "cat" / "0.png").rename(tmp_path / "two" / "cat" / "00.png")
    others = [open_data(str(tmp_path / "two"), image_size=16)[0], moved.data]
    (tmp_path / "two" / "dog").rename(tmp_path / "two" / "wolf")
    others.append(open_data(str(tmp_path / "two"), image_size=16)[0])
    assert len({expected, *map(images_hash, others)}) == 4
    assert len({images_hash(part) for part in open_data("digits")}) == 2


WRONG_TYPES = [
    lambda: open_data(3),
    lambda: open_data(None),
    lambda: open_data(["digits"]),
    lambda: open_data("digits", image_size="big"),
    lambda: open_data("digits", image_size=2.5),
    lambda: open_data("digits", image_size=True),
    lambda: open_data("digits", image_size=0),
    lambda: open_data("digits", image_size=10**9),
    lambda: open_data("digits", root=5),
    lambda: open_data("mnist", download="no"),
    lambda: open_data("digits", 28, "data", False, "more"),
    lambda: open_data("digits", sizes=28),
    lambda: open_data("a\0b"),
    lambda: open_data("x" * 5000),
    lambda: open_data(""),
    lambda: open_folder(None),
    lambda: open_folder("x" * 5000),
    lambda: open_folder("/dev/null"),
    lambda: load_rgb("x" * 5000),
    lambda: load_rgb("/"),
    lambda: load_rgb(None),
    lambda: Digits(3),
    lambda: find_images(None),
    lambda: center_crop(Image.new("L", (4, 4)), 0),
    lambda: center_crop(Image.new("L", (4, 4)), 2.5),
    lambda: ten_crop(torch.zeros(1, 1, 8, 8), "4"),
    lambda: ImageData([]),
    lambda: ImageData("digits"),
    lambda: ImageData(Digits(), "28"),
    lambda: ImageData(Digits(), channels=2),
    lambda: split_validation(ImageData(Digits()), "a tenth"),
    lambda: split_validation(ImageData(Digits()), 0),
    lambda: check_readable("digits"),
    lambda: check_readable(ImageData(Digits()), workers=-1),
    lambda: check_readable(ImageData(Digits()), workers="all"),
    lambda: images_hash(None),
    lambda: images_module.Part(ImageData(Digits()), [5000]),
]


@pytest.mark.parametrize("number", range(len(WRONG_TYPES)))
def test_wrong_types_are_refused_in_one_line(number):
    with pytest.raises(InvalidValue) as error:
        WRONG_TYPES[number]()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("targets", [[0, 2], [-1, 0], [0], [[0], [1]]])
def test_targets_must_be_classes(targets):
    """A class above the others would be trained as the null class."""

    class Two(list):
        classes = ["a", "b"]

    source = Two([(Image.new("L", (4, 4)), 0)] * 2)
    source.targets = targets
    with pytest.raises(InvalidValue, match="targets"):
        ImageData(source)


def test_stride_that_does_not_divide():
    with pytest.raises(ValueError, match="image_size = 30 .*multiple of the tokenizer's stride, 4"):
        resolve(get_preset("digits"), 5000, 10, 1, 30)


# torchvision's file formats, made here; nothing is downloaded


def idx(array):
    """MNIST's format: two zero bytes, type 8 (uint8), dimensions, sizes (big endian), values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("name,folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files(tmp_path, name, folder):
    """torchvision checks only that the unpacked files are there, so these need no checksum."""
    rng, raw = np.random.default_rng(0), tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    made = {}
    for part, n in (("train", 30), ("t10k", 10)):
        made[part] = (
            rng.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            np.arange(n, dtype=np.uint8) % 10,
        )
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(made[part][0]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(made[part][1]))
    for data, part in zip(open_data(name, root=tmp_path), ("train", "t10k")):
        assert data.channels == 1 and len(data.classes) == 10
        np.testing.assert_array_equal(stack_images(data)[:, 0].numpy(), made[part][0])
        np.testing.assert_array_equal(data.targets, made[part][1])


def test_cifar10_files(tmp_path, monkeypatch):
    """torchvision checks MD5 sums of the real files; here its table gets those of the made ones."""
    kind, rng, folder = (
        torchvision.datasets.CIFAR10,
        np.random.default_rng(0),
        tmp_path / "cifar-10-batches-py",
    )
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    pixels = {
        name: rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    }
    listed = [
        write(name, {"data": values, "labels": list(range(10))}) for name, values in pixels.items()
    ]
    meta = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(kind, "train_list", listed[:5])
    monkeypatch.setattr(kind, "test_list", listed[5:])
    monkeypatch.setattr(kind, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    train, validation = open_data("cifar10", root=tmp_path)
    assert (len(train), len(validation), train.channels, train.size) == (50, 10, 3, 32)
    np.testing.assert_array_equal(stack_images(validation).flatten(1).numpy(), pixels["test_batch"])
    np.testing.assert_array_equal(
        stack_images(train)[10:20].flatten(1).numpy(), pixels["data_batch_2"]
    )
    (folder / "data_batch_3").write_bytes(b"half a download")
    with pytest.raises(ValueError, match="download=True"):
        open_data("cifar10", root=tmp_path)


def test_a_data_set_that_cannot_be_fetched(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network in this test\nand so on")

    monkeypatch.setattr(torchvision.datasets, "MNIST", no_network)
    with pytest.raises(InvalidValue, match=r"\(no network in this test\); check the net") as error:
        open_data("mnist", root=tmp_path, download=True)
    assert error.value.__cause__ is None and error.value.__suppress_context__


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_data_set_for_which_there_is_no_place(tmp_path, monkeypatch, code):
    def unwritable(*_, **__):
        raise OSError(code, os.strerror(code), "MNIST")

    monkeypatch.setattr(torchvision.datasets, "MNIST", unwritable)
    with pytest.raises(InvalidValue, match=f"{os.strerror(code)}: 'MNIST'.*somebody who may write"):
        open_data("mnist", root=tmp_path, download=True)


def test_damaged_files_of_a_named_data_set(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{name}-ubyte").write_bytes(b"\0\0\x08\x03 half a download")
    for download, remedy in ((False, "set download=True"), (True, "check the network")):
        with pytest.raises(InvalidValue, match=f"data = 'mnist' is not in .*{remedy}") as error:
            open_data("mnist", root=tmp_path, download=download)
        assert "\n" not in str(error.value)


def test_image_data_keeps_grey_data_grey():
    class Grey(list):
        classes, targets = ["a"], [0, 0]

    deep = Image.fromarray(np.full((6, 6), 200 * 257, np.uint16))
    data = ImageData(Grey([(deep, 0), (Image.new("L", (6, 6), 7), 0)]))
    assert data.channels == 1 and stack_images(data)[:, 0, 0, 0].tolist() == [200, 7]


def test_grey_pixels_are_kept_and_transparent_ones_become_white():
    class Grey(list):
        classes, targets = ["a"], [0, 0]

    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain, transparent = Image.fromarray(pixels), Image.fromarray(pixels)
    transparent.info["transparency"] = 7
    one, other = stack_images(ImageData(Grey([(plain, 0), (transparent, 0)])))
    assert torch.equal(one[0], torch.from_numpy(pixels))
    assert other.flatten()[7] == 255
    assert torch.equal(other.flatten()[8:], one.flatten()[8:])


# The bundled digits, and the split


def test_bundled_digits(tmp_path):
    digits = Digits()
    assert len(digits) == 5000 and np.bincount(digits.targets).tolist() == [500] * 10
    assert digits[0][0].size == (28, 28) and digits[0][0].mode == "L"
    with pytest.raises(ValueError, match="nowhere.npz"):
        Digits(tmp_path / "nowhere.npz")
    half = images_module.DIGITS.read_bytes()[:-1]
    (tmp_path / "half.npz").write_bytes(half)
    with pytest.raises(ValueError, match="SHA-256 of .*half.npz.*git checkout"):
        Digits(tmp_path / "half.npz")


def test_split_is_a_partition_with_the_last_of_each_class():
    data = ImageData(Digits())
    train, validation = split_validation(data, 50)
    assert np.bincount(validation.targets).tolist() == [50] * 10
    assert sorted([*train.indices, *validation.indices]) == list(range(5000))
    for c in range(10):
        assert (
            train.indices[train.targets == c].max()
            < validation.indices[validation.targets == c].min()
        )
    assert torch.equal(validation[3][0], data[int(validation.indices[3])][0])
    with pytest.raises(ValueError, match="more than 500"):
        split_validation(data, 500)


def test_ten_crops_come_from_where_the_recipe_says():
    """Pixels that know where they came from, at ImageNet's sizes."""
    places = torch.arange(281 * 281).view(1, 1, 281, 281)
    crops = ten_crop(places, 256)[0, :, 0]
    assert crops[:5, 0, 0].tolist() == [0, 25, 25 * 281, 25 * 281 + 25, 12 * 281 + 12]
    assert torch.equal(
        crops[5].flip(-1), crops[1]
    )  # the mirrored image's left is the image's right
    assert (
        crops[9, 0, -1].item() == 12 * 281 + 13
    )  # 25 is odd, so the mirrored centre is a pixel further right
    with pytest.raises(ValueError, match="size = 282"):
        ten_crop(places, 282)


def test_center_crop_keeps_a_constant():
    assert np.unique(center_crop(Image.new("L", (37, 91), 77), 24)).tolist() == [77]


@pytest.mark.parametrize(
    "value,expected", [(0, 0), (128, 0), (129, 1), (257, 1), (32896, 128), (65535, 255)]
)
def test_sixteen_bits_are_rounded(value, expected):
    assert (
        to_rgb(Image.fromarray(np.array([[value]], np.uint16))).getpixel((0, 0)) == (expected,) * 3
    )


def test_unknown_range_of_values():
    with pytest.raises(ValueError, match="'F'"):
        to_rgb(Image.new("F", (2, 2)))


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_image_size_is_checked(size):
    with pytest.raises(ValueError, match="image_size"):
        ImageData(Digits(), size)


def test_unknown_names_and_missing_downloads(tmp_path):
    message = "data = 'imagenette' is not allowed: it must be one of digits, mnist, .* folder"
    with pytest.raises(ValueError, match=message):
        open_data("imagenette")
    with pytest.raises(ValueError, match="download=True"):
        open_data("mnist", root=tmp_path)


def test_errors_are_one_line_in_a_notebook(tmp_path):
    """`InvalidValue` has a rendering of its own; a plain `ValueError` would show its traceback."""
    (tmp_path / "x.png").write_bytes(b"torn")
    for action in (lambda: load_rgb(tmp_path / "x.png"), lambda: open_data("mnist", root=tmp_path)):
        with pytest.raises(InvalidValue):
            action()


# Reading ahead, and from the device to the host


def test_batches_are_made_ahead_in_another_thread():
    """In order, by one other thread, at most two more than were asked for, and all of them."""
    made, threads = [], set()

    def make():
        for k in range(7):
            threads.add(threading.current_thread())
            made.append(k)
            yield k

    found = []
    for k in ahead(make()):
        found.append(k)
        time.sleep(0.01)  # so that the other thread may get ahead
        assert len(made) <= k + 3
    assert found == list(range(7)) and len(threads) == 1
    assert threading.main_thread() not in threads and not threads.pop().is_alive()
    assert list(ahead([])) == []


def test_what_fails_ahead_fails_here():
    def make():
        yield 1
        raise InvalidValue("the second batch")

    batches = ahead(make())
    assert next(batches) == 1
    with pytest.raises(InvalidValue, match="^the second batch$"):
        next(batches)


def test_reading_ahead_ends_with_whoever_asked():
    """After a break, no thread reads on."""
    made = []
    batches = ahead(made.append(k) or k for k in range(1000))
    assert next(batches) == 0
    batches.close()
    assert len(made) <= 4


def test_results_are_fetched_one_behind():
    """In order, and the next is begun before one is waited for; at the end the last is fetched."""
    log = []

    def begin(count):
        for k in range(count):
            log.append(f"begin {k}")
            yield lambda k=k: (log.append(f"wait {k}"), torch.tensor(k))[1]

    assert [int(x) for x in one_behind(begin(3))] == [0, 1, 2]
    assert log == ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "wait 2"]
    assert list(one_behind(begin(0))) == [] and len(list(one_behind(begin(1)))) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_tensor_arrives_as_it_was(device):
    """What happens to it afterwards on its device comes too late."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    x = torch.randint(256, (5, 3, 64, 64), dtype=torch.uint8, device=device)
    expected = x.cpu().clone()
    arrive = to_host(x)
    if device == "cuda":
        x.zero_()
    assert arrive().device.type == "cpu" and torch.equal(arrive(), expected)


# What Part and ImageData refuse


@pytest.mark.parametrize(
    "indices, words",
    [
        (np.arange(5000) % 2 == 0, "bool [5000] of True, False, True, False"),
        (torch.arange(5000) == 3, "bool [5000]"),
        ([0.9, 1.9], "float64 [2] of 0.9, 1.9"),
        ([[0, 1], [2, 3]], "int64 [2, 2]"),
        (3, "int64 []"),
    ],
)
def test_a_part_takes_whole_numbers_only(indices, words):
    """A mask would be read as the numbers 0 and 1."""
    with pytest.raises(InvalidValue, match="np.flatnonzero makes them of a mask") as error:
        images_module.Part(ImageData(Digits()), indices)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "indices", [[7, 3], (7, 3), np.array([7, 3], np.uint8), torch.tensor([7, 3])]
)
def test_a_part_takes_any_list_of_numbers(indices):
    data = ImageData(Digits())
    part = images_module.Part(data, indices)
    assert part.indices.tolist() == [7, 3] and torch.equal(part[1][0], data[3][0])
    assert len(images_module.Part(data, [])) == 0


def test_colour_behind_grey_images_is_refused():
    """Unless somebody said that it may be dropped; grey that is stored as RGB is grey, also where
    a conversion has rounded."""

    class Mixed(list):
        classes, targets = ["a", "b"], [0, 1, 0, 1]

    grey, red = Image.new("L", (4, 4), 100), Image.new("RGB", (4, 4), (255, 0, 0))
    nearly = Image.new("RGB", (4, 4), (100, 101, 99))
    source = Mixed([(grey, 0), (grey, 1), (red, 0), (nearly, 1)])
    data = ImageData(source)
    assert data.channels == 1 and data[3][0].unique().tolist() == [100]
    with pytest.raises(InvalidValue, match="image 2 = 'colour' .*channels=3 .*channels=1 to drop"):
        data[2]
    assert ImageData(source, channels=1)[2][0].unique().tolist() == [76]
    assert ImageData(source, channels=3)[2][0].shape == (3, 4, 4)
