"""What panels are made of: fast text and images, grids of cells, clicks, controls, themes."""

import colorsys
import io

import ipywidgets
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.textpath import TextPath
from PIL import Image

from rar_nb.play.widgets import (
    PAGE,
    Cells,
    Panel,
    Pixels,
    cell_at,
    cell_box,
    darken,
    draw_cells,
    figure_png,
    new_canvas,
    new_figure,
    player,
    slider,
    step_to,
    text_outline,
    write,
)
from rar_nb.style import COLORS
from rar_nb.support import require
from tests.panels import build_panels, starts_with_its_panel


def pixels_of(fig, dark=False):
    return np.asarray(Image.open(io.BytesIO(figure_png(fig, dark))))


# Text


def ink(**options):
    """Left, right, top and bottom of an H that is written in the middle, in pixels."""
    fig = new_figure(300 / 80, 1)
    write(fig, 0.5, 0.5, "H", **options)
    dark = pixels_of(fig).mean(-1) < 128
    columns, rows = np.flatnonzero(dark.any(0)), np.flatnonzero(dark.any(1))
    return columns[0], columns[-1], rows[0], rows[-1]


@pytest.mark.parametrize("text", ["RAR 0.5", "in raster order", "fjord: [26, 27)"])
def test_text_is_as_wide_as_matplotlib_makes_it(text):
    """Up to kerning, which moves some letters together."""
    expected = TextPath((0, 0), text, size=1).vertices[:, 0].max()
    assert text_outline(text)[0][:, 0].max() == pytest.approx(expected, abs=0.1)


def test_text_stands_where_it_should():
    assert ink(ha="left")[0] == pytest.approx(150, abs=2.1)
    assert ink(ha="right")[1] == pytest.approx(149, abs=2.1)
    assert np.mean(ink(ha="center")[:2]) == pytest.approx(149.5, abs=1.1)


@pytest.mark.parametrize(
    "va, top, bottom", [("baseline", 24, 40), ("top", 40, 56), ("center", 32, 48)]
)
def test_text_stands_as_high_as_it_should(va, top, bottom):
    """A capital of 20 points at 80 dots an inch is 16 pixels high."""
    assert ink(fontsize=20, va=va)[2:] == pytest.approx((top, bottom), abs=1.1)


def test_a_space_is_wide_and_nothing_is_nothing():
    assert text_outline(" ")[2] > 0.2
    fig = new_figure(1, 1)
    write(fig, 0.5, 0.5, "")
    assert (pixels_of(fig) == 255).all()


# Images and cells


def test_pixels_are_repeated():
    fig, ax = new_canvas(4, 2, 0.5)
    ramp = np.arange(0, 256, 16, dtype=np.uint8).reshape(1, 4, 4)
    colored = np.stack([ramp[0], ramp[0].T, 255 - ramp[0]])
    ax.add_artist(Pixels(ramp, -0.5, -0.5, 2, 2))
    ax.add_artist(Pixels(colored, 1.5, -0.5, 2, 2))
    shown = pixels_of(fig)
    assert shown.shape == (80, 160, 3)
    np.testing.assert_array_equal(shown[10::20, 10:80:20, 0], ramp[0])
    np.testing.assert_array_equal(shown[10::20, 90::20], np.moveaxis(colored, 0, -1))


def test_cells_have_their_colours():
    fig = new_figure(3, 3)
    colors = ["known"] * 6 + ["next"] + ["#e6e6e6"] * 9
    draw_cells(fig.add_axes((0, 0, 1, 1)), colors, {0: 0}, {6: "real"})
    shown = pixels_of(fig)
    for i, color in enumerate(colors):
        inside = shown[60 * (i // 4) + 8, 60 * (i % 4) + 8] / 255
        assert inside == pytest.approx(to_rgb(COLORS.get(color, color)), abs=0.01)


def test_cells_must_be_a_square():
    with pytest.raises(ValueError, match="number of cells = 5"):
        draw_cells(new_canvas(2, 2)[1], ["known"] * 5)


# A dark theme


@pytest.mark.parametrize("name", COLORS)
def test_hues_keep_their_meaning_in_the_dark(name):
    rgb = np.round(255 * np.array(to_rgb(COLORS[name]))).astype(np.uint8).reshape(1, 1, 3)
    dark = darken(rgb, np.zeros((1, 1), bool))
    before, after = (colorsys.rgb_to_hls(*(c[0, 0] / 255)) for c in (rgb, dark))
    if before[2] > 0:
        assert after[0] == pytest.approx(before[0], abs=0.01)
    assert after[1] == pytest.approx((PAGE + (255 - PAGE) * (1 - before[1])) / 255, abs=0.01)


def test_images_are_the_same_in_the_dark_and_paper_is_not():
    fig, ax = new_canvas(4, 2, 0.5)
    image = np.arange(0, 256, 16, dtype=np.uint8).reshape(1, 4, 4)
    ax.add_artist(Pixels(image, 1.5, -0.5, 2, 2))
    light, dark = pixels_of(fig), pixels_of(fig, dark=True)
    np.testing.assert_array_equal(dark[:, 80:], light[:, 80:])
    assert (light[:, :80] == 255).all() and (dark[:, :80] == PAGE).all()


def test_a_panel_follows_the_theme_of_its_page():
    step = slider("step", 5, 0, 16)
    panel = Panel(plot_step, dict(step=step))
    light = panel.canvas.png
    panel.canvas.dark = True
    assert panel.canvas.png == figure_png(plot_step(5), dark=True) != light
    step.value = 6
    assert panel.canvas.png == figure_png(plot_step(6), dark=True)
    panel.set(step=5)
    panel.canvas.dark = False
    assert panel.canvas.png == light


# Clicks


def test_cells_and_points_belong_together():
    fig = new_figure(4, 2)
    draw_cells(fig.add_axes((0, 0, 0.5, 1)), ["quiet"] * 9)
    assert cell_at(fig, 0.75, 0.5, 3) is None
    for cell in range(9):
        left, top, width, height = cell_box(fig, cell, 3)
        assert cell_at(fig, left + width / 2, top + height / 2, 3) == cell
        assert (width, height) == pytest.approx((1 / 6, 1 / 3))


@pytest.mark.parametrize(
    "cell, key, expected",
    [
        (4, "ArrowUp", 1),
        (4, "ArrowDown", 7),
        (4, "ArrowLeft", 3),
        (4, "ArrowRight", 5),
        (0, "ArrowUp", 0),
        (0, "ArrowLeft", 0),
        (8, "ArrowRight", 8),
        (8, "ArrowDown", 8),
    ],
)
def test_arrow_keys(cell, key, expected):
    assert step_to(cell, key, 3) == expected


def test_dragging_goes_on_with_what_the_click_did():
    cells = Cells()
    for cell, drag in ((4, False), (5, True), (5, True), (2, True)):
        cells.click(cell, drag)
    assert cells.value == (4, 5, 2)
    for cell, drag in ((5, False), (4, True), (8, True)):
        cells.click(cell, drag)
    assert cells.value == (2,)


# Panels


def plot_step(step):
    require(step < 8, "step", step, "below 8")
    fig = new_figure(4, 4)
    draw_cells(fig.add_axes((0, 0, 1, 1)), ["known"] * step + ["quiet"] * (16 - step))
    return fig


def test_the_notebook_starts_with_its_panel():
    assert starts_with_its_panel("15_widgets")


def test_clicks_and_keys_change_what_is_marked():
    names = build_panels("15_widgets")
    panel, marked = names["panel"], names["marked"]
    first = panel.canvas.png
    panel.canvas.press(0.05, 0.1)
    assert marked.value == (0,) and panel.canvas.png != first
    panel.canvas.press(0.05, 0.1)
    assert marked.value == () and panel.canvas.png == first
    for key in ("ArrowDown", "ArrowRight", " "):
        panel.key_pressed(None, dict(key=key), None)
    assert marked.value == (5,)
    assert panel.canvas.frame == cell_box(panel.figure, 5, 4)
    panel.set(step=9, grid_size=8)
    assert panel.canvas.png == figure_png(names["plot_progress"](9, 8, (5,)))


@pytest.mark.parametrize("seed", range(5))
def test_a_drag_arrives_in_order_however_its_reports_arrive(seed):
    """Reports are lost, doubled and shuffled. The last one, never lost, has what misses."""
    rng, cells = np.random.default_rng(seed), Cells()
    plotted = []

    def plot(cells):
        plotted.append(cells)
        fig, ax = new_canvas(8, 8)
        draw_cells(ax, ["quiet"] * 64)
        return fig

    panel = Panel(plot, dict(cells=cells), on_click=cells.click, grid_size=8)
    path = rng.permutation(64)[:20].tolist()
    presses = [
        [number, (i % 8 + 0.5) / 8, (i // 8 + 0.5) / 8, number > 1]
        for number, i in enumerate(path, 1)
    ]
    reports = [presses[:end] for end in range(1, 20)]
    for k in rng.integers(19, size=30):  # at random, some twice, some never
        panel.canvas.set_state({"presses": reports[k]})
        assert cells.value == tuple(path[: panel.canvas.seen])  # what has come, in its order
    panel.canvas.set_state({"presses": presses})
    assert cells.value == tuple(path) and panel.canvas.seen == 20
    again = len(plotted)
    panel.canvas.set_state({"presses": reports[3]})  # an old one, long after
    assert cells.value == tuple(path) and len(plotted) == again
    panel.canvas.press(*presses[0][1:3])  # from Python, too: a second click takes the cell out
    assert cells.value == tuple(path[1:])


def test_all_presses_of_a_report_are_plotted_once():
    names = build_panels("15_widgets")
    panel, marked = names["panel"], names["marked"]
    pictures = []
    panel.canvas.observe(lambda change: pictures.append(change.new), "png")
    points = [(0.05, 0.1), (0.15, 0.1), (0.25, 0.1)]
    presses = [[k, x, y, k > 1] for k, (x, y) in enumerate(points, 1)]
    panel.canvas.set_state({"presses": presses})
    assert marked.value == (0, 1, 2) and len(pictures) == 1


def test_a_panel_saves_its_first_view():
    step = slider("step", 5, 0, 16)
    panel = Panel(plot_step, dict(step=step))
    first = panel.canvas.png
    step.value = 6
    assert panel._repr_mimebundle_()["image/png"] == first != panel.canvas.png


def test_values_that_do_not_go_together_get_a_message():
    step = slider("step", 5, 0, 16)
    panel = Panel(plot_step, dict(step=step))
    before = panel.canvas.png
    step.value = 8
    assert "step = 8 is not allowed" in panel.message.value and panel.canvas.png == before
    step.value = 5
    assert panel.message.value == ""


def test_any_other_error_is_shown_and_raised():
    step = slider("step", 5, 0, 16)
    panel = Panel(lambda step: plot_step(step) if step < 7 else {}["1 < 2"], dict(step=step))
    with pytest.raises(KeyError):
        step.value = 7
    assert "KeyError: '1 &lt; 2'" in panel.message.value


def test_controls_are_as_wide_as_the_picture():
    step = slider("step", 5, 0, 16)
    panel = Panel(plot_step, dict(step=step), rows=[[step, player(step)]])
    (row,) = [child for child in panel.children if isinstance(child, ipywidgets.HBox)]
    assert row.layout.width == f"{pixels_of(panel.figure).shape[1]}px"


def test_whole_and_real_sliders_and_a_player_with_their_limits():
    whole, real = slider("n", 5, 0, 16), slider("x", 0.5, 0.0, 1.0, 0.1)
    assert isinstance(whole, ipywidgets.IntSlider) and isinstance(real, ipywidgets.FloatSlider)
    play = player(whole)
    whole.max = 30
    assert (play.min, play.max) == (0, 30)
