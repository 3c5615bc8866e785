"""Scan orders on screen: three numbers about an order, and the pictures. (The panel itself is in
`test_live_panels.py`.)"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from rar_nb.orders import SCAN_ORDERS, sample_orders, scan_order
from rar_nb.play.scan_orders import (
    ScanOrders,
    jumps,
    known_neighbours,
    known_share,
    named_order,
    order_names,
    plot_figure_1,
    plot_order,
    statistics,
)
from rar_nb.play.widgets import new_figure
from rar_nb.style import COLORS
from rar_nb.support import InvalidValue
from tests.doors import refuses
from tests.panels import build_panels, pixels_of, starts_with_its_panel

GOLDEN = json.loads((Path(__file__).parent / "golden" / "scan_orders.json").read_text())


@pytest.fixture
def diagonal(monkeypatch):
    "A seventh order, registered as a reader would."
    monkeypatch.setitem(
        SCAN_ORDERS, "diagonal", lambda g: sorted(range(g * g), key=lambda i: (i // g + i % g, i))
    )
    return "diagonal"


# Orders by name


@pytest.mark.parametrize("name, g", list(product([*SCAN_ORDERS, "random"], [1, 4, 7])))
def test_an_order_visits_each_cell_once(name, g):
    assert sorted(named_order(name, g, seed=3)) == list(range(g * g))


def test_only_random_depends_on_the_seed():
    for name in order_names():
        assert named_order(name, 4, 1) == named_order(name, 4, 1)
        assert (named_order(name, 4, 1) == named_order(name, 4, 2)) == (name != "random")


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="scan order = 'hilbert'.*raster"):
        named_order("hilbert", 4)


def test_a_registered_order_appears_everywhere(diagonal):
    assert diagonal in order_names()
    assert len(plot_figure_1(4).axes) == 7
    assert [ax.get_title(loc="left") for ax in plot_figure_1(4).axes][-1] == diagonal
    assert diagonal in build_panels("10_scan_orders")["walk"].names


# Numbers


@pytest.mark.parametrize("g", [2, 4, 16])
def test_jumps_in_closed_form(g):
    assert jumps(named_order("raster", g), g).sum() == pytest.approx(
        g * (g - 1) + (g - 1) * np.hypot(g - 1, 1)
    )
    for name in ["spiral_in", "spiral_out", "alternate"]:
        assert set(jumps(named_order(name, g), g)) == {1.0}
    # After 2m zeros at the end of step k in binary, the z-curve goes 1 right and 2^m - 1 up;
    # after 2m + 1 zeros it goes 1 down and 2^(m+1) - 1 left.
    zeros = [(k & -k).bit_length() - 1 for k in range(1, g * g)]
    by_hand = [np.hypot(1, 2 ** ((z + 1) // 2) - 1) for z in zeros]
    assert jumps(named_order("z_curve", g), g) == pytest.approx(by_hand)
    longest = np.hypot(g / 2 - 1, g - 1) if g > 2 else 2**0.5
    assert jumps(named_order("subsample", g), g).max() == pytest.approx(longest)


def neighbours_by_hand(order, g):
    "Every pair of cells is looked at."

    def touch(a, b):
        return abs(a // g - b // g) + abs(a % g - b % g) == 1

    return [sum(touch(cell, earlier) for earlier in order[:k]) for k, cell in enumerate(order)]


@pytest.mark.parametrize("name, g", list(product([*SCAN_ORDERS, "random"], [1, 3, 4, 8])))
def test_known_neighbours_by_brute_force(name, g):
    order = named_order(name, g)
    for part in [order, order[:5]]:
        assert list(known_neighbours(part, g)) == neighbours_by_hand(part, g)
    assert known_neighbours(order, g).sum() == 2 * g * (g - 1)  # the sides within the grid


def test_statistics_of_beginnings():
    assert statistics((0, 1, 7), 4) == pytest.approx((np.mean([1, 5**0.5]), 5**0.5, 0.5))
    assert np.isnan(statistics((3,), 4)).all()
    assert np.isnan(statistics((), 4)).all()


def test_a_random_order_jumps_as_far_as_two_cells_lie_apart():
    cells = [divmod(i, 16) for i in range(256)]
    apart = np.mean(
        [np.hypot(a - c, b - d) for (a, b), (c, d) in product(cells, cells) if (a, b) != (c, d)]
    )
    mean = np.mean([statistics(named_order("random", 16, seed), 16)[0] for seed in range(40)])
    assert mean == pytest.approx(apart, abs=0.1)  # standard error 0.04


def test_known_share():
    assert known_share(scan_order("raster", 7), 24).tolist() == [1.0] * 24 + [0.0] * 25
    share = known_share(sample_orders(2000, 49, 1.0, torch.Generator().manual_seed(0)), 24)
    within = (share - 0.5).abs() < 4 * (0.25 / 2000) ** 0.5  # four standard deviations
    assert share[24] == 0 and within.sum() == 48


# Pictures


def test_figure_1_prints_the_published_numbers():
    fig = plot_figure_1()
    assert len(fig.axes) == 6
    for ax in fig.axes:
        cells = {int(t.get_text()): t.get_position() for t in ax.texts}
        order = [16 * cells[k][1] + cells[k][0] for k in range(256)]
        assert order == GOLDEN["16x16"][ax.get_title(loc="left")]


def test_figure_1_can_be_read():
    """In the website's column, which is 704 pixels wide, its letters are nine pixels high, and no
    number touches the next one."""
    fig = plot_figure_1()
    shown, renderer = min(1.0, 704 / fig.bbox.width), FigureCanvasAgg(fig).get_renderer()
    for ax in fig.axes:
        cell = ax.get_window_extent(renderer).width / 16
        for number in ax.texts:
            assert number.get_window_extent(renderer).width < cell - 2
            assert number.get_fontsize() * fig.dpi / 72 * shown >= 9


def test_colours_of_known_next_and_later_cells():
    fig = new_figure(4, 4)
    plot_order(fig.add_axes((0, 0, 1, 1)), named_order("spiral_in", 4), 4, 6)
    image, side = pixels_of(fig) / 255, 80
    found = [image[side * (i // 4) + 4, side * (i % 4) + 4] for i in named_order("spiral_in", 4)]
    assert found[6] == pytest.approx(to_rgb(COLORS["next"]), abs=0.01)
    for k in range(7, 16):
        assert found[k] == pytest.approx(to_rgb("#e6e6e6"), abs=0.01)
    for k in range(6):
        assert found[k][0] < 0.8 < found[k][2]  # blue


def test_a_step_beyond_the_grid_is_refused():
    with pytest.raises(ValueError, match="step = 17"):
        plot_order(new_figure(1, 1).add_axes((0, 0, 1, 1)), named_order("raster", 4), 4, 17)


# The panel


def test_the_panel_comes_first():
    assert starts_with_its_panel("10_scan_orders")


# What the doors refuse, and names that mean something elsewhere


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: named_order("random", 0), "grid_size = 0"),
        (lambda: named_order("zigzag", 4), "scan order = 'zigzag' is not allowed: it must be"),
        (lambda: named_order("raster", 4, -1), "seed = -1"),
        (lambda: jumps([0, 0], 4), "a list of different cells, each from 0 to 15"),
        (lambda: jumps([16], 4), "order = [16]"),
        (lambda: known_neighbours("0123", 4), "order = '0123'"),
        (lambda: statistics(None, 4), "order = None"),
        (lambda: statistics([0.5], 4), "order = [0.5]"),
        (lambda: known_share(torch.zeros(1, 4).long(), 0), "permutations of 0 … L - 1"),
        (lambda: known_share(torch.arange(4)[None], 4), "cell = 4"),
        (lambda: plot_figure_1(65), "at most 64"),
        (lambda: ScanOrders("zigzag"), "order = 'zigzag' is not allowed: it must be one of"),
        (lambda: ScanOrders(grid_size=1), "at least 2"),
        (lambda: ScanOrders(grid_size=33), "below 33"),
        (lambda: ScanOrders(step=-1), "step = -1"),
        (lambda: ScanOrders("yours", 4, cells=(1, 1)), "order = (1, 1)"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


@pytest.mark.parametrize("name", ["$a_{$", "<script>alert(1)</script>", "$x$"])
def test_names_are_text(monkeypatch, name):
    """A formula that is none, and one that is: both are shown as they are written."""
    monkeypatch.setitem(SCAN_ORDERS, name, SCAN_ORDERS["raster"])
    figure = plot_figure_1(2)
    pixels_of(figure)  # matplotlib reads formulas here
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert name in titles and not figure.axes[-1]._left_title.get_parse_math()
    assert ScanOrders(name, 2).png().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_orders_of_ones_own_may_be_arrays_and_a_wrong_one_is_shown(monkeypatch, kind):
    monkeypatch.setitem(SCAN_ORDERS, "mine", lambda g: kind(range(g * g))[[3, 1, 0, 2]])
    assert scan_order("mine", 2).tolist() == [[3, 1, 0, 2]]
    monkeypatch.setitem(SCAN_ORDERS, "mine", lambda g: kind([0] * g))
    with pytest.raises(InvalidValue, match=r"'mine' = \[0, 0\]"):
        scan_order("mine", 2)
