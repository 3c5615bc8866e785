"""Style: grids of images against a hand-made one, PNG files that are whole, tables, the palette."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from rar_nb.style import (
    COLORS,
    Text,
    figure_text,
    image_grid,
    is_whole_png,
    markdown_table,
    save_png,
)
from rar_nb.support import InvalidValue


def test_a_grid_by_hand():
    """Three images of 1×2 in two columns with a gap of 1: every pixel."""
    images = np.array([[[[10, 20]]], [[[30, 40]]], [[[50, 60]]]], np.uint8)
    white = 255
    expected = [
        [white] * 7,
        [white, 10, 20, white, 30, 40, white],
        [white] * 7,
        [white, 50, 60, white, white, white, white],
        [white] * 7,
    ]
    assert np.asarray(image_grid(images, columns=2, gap=1)).tolist() == expected
    doubled = np.asarray(image_grid(torch.from_numpy(images), columns=2, gap=1, scale=2))
    assert doubled.tolist() == np.repeat(np.repeat(expected, 2, 0), 2, 1).tolist()


def test_colour_stays_in_its_channels():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[0, 0] = 200
    images[1, 2] = 100
    grid = np.asarray(image_grid(images, gap=0))
    assert grid.shape == (4, 8, 3)  # no more columns than images
    assert (grid[:, :4] == [200, 0, 0]).all() and (grid[:, 4:] == [0, 0, 100]).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 4, 4), np.float32),
        np.zeros((2, 2, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 3, 4, 4), np.uint8),
    ],
)
def test_what_is_not_a_batch_of_images_is_refused(images):
    with pytest.raises(ValueError, match=r"must be uint8 of shape \[N, 1 or 3, H, W\]"):
        image_grid(images)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(images="text"),
        dict(images=None),
        dict(images=[np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 5), np.uint8)]),
        dict(columns=0),
        dict(columns="3"),
        dict(gap=-1),
        dict(scale=0),
        dict(scale=1.5),
        dict(scale=10**9),
    ],
)
def test_wrong_arguments_of_a_grid(wrong):
    with pytest.raises(InvalidValue, match="images|columns|gap|scale"):
        image_grid(**(dict(images=np.zeros((2, 1, 4, 4), np.uint8)) | wrong))


def test_a_png_where_none_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "image.png", tmp_path, tmp_path / ("a" * 300 + ".png")):
        with pytest.raises(InvalidValue, match="can't be written|it must be "):
            save_png(Image.new("L", (4, 4)), path)


def test_a_png_is_whole_or_not(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
    path = tmp_path / "new" / "image.png"
    save_png(Image.fromarray(noise), path)
    assert is_whole_png(path) and (np.asarray(Image.open(path)) == noise).all()
    content = path.read_bytes()
    cut, broken, jpeg = (tmp_path / name for name in ("cut.png", "broken.png", "jpeg.png"))
    cut.write_bytes(content[:-1])
    broken.write_bytes(content[:1000] + bytes(100) + content[1100:])
    Image.fromarray(noise).save(jpeg, format="JPEG")
    flipped = tmp_path / "flipped.png"  # in the pixels as they are: only a checksum shows it
    Image.fromarray(noise).save(flipped, compress_level=0)
    content = flipped.read_bytes()
    flipped.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    for other in (cut, broken, jpeg, flipped, tmp_path / "none.png", tmp_path):
        assert not is_whole_png(other), other.name


def test_a_table_on_the_page_and_on_a_terminal():
    table = Text(markdown_table(["a", "b"], [[1, "x"], [2.5, "y"]], right=[0]))
    assert table.data.splitlines() == ["| a | b |", "| ---: | --- |", "| 1 | x |", "| 2.5 | y |"]
    assert repr(table) == table.data == table._repr_markdown_()


def test_bars_and_lines_of_a_cell_stay_in_it():
    lines = markdown_table(["a|b", "c"], [["x\ny", "p | q"], ["\\|", "`a|b`"]]).splitlines()
    assert lines[0] == r"| a\|b | c |" and lines[2:] == [r"| x y | p \| q |", r"| \| | `a\|b` |"]


def test_labels_of_figures():
    assert figure_text("cat") == "cat" and figure_text("$a_{$") == r"\$a_{\$"
    assert len(figure_text("x" * 99)) == 28 and figure_text("x" * 99, 99) == "x" * 99
    assert figure_text("a\n\x00\udcffb") == "a  \\udcffb" and figure_text(5) == "5"


def test_no_two_colours_are_alike():
    colours = np.array([to_rgb(colour) for colour in COLORS.values()])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert distances[~np.eye(len(colours), dtype=bool)].min() > 0.2
