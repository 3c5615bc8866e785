"""The pictures of scan_orders and annealing: what is written into them, where they can be clicked, and the ends of every control."""
import json
from pathlib import Path

import pytest

from rar_nb import scan_orders
from rar_nb.play.annealing import draw_annealing, run_of
from rar_nb.trainer import random_ratio_at
from rar_nb.play.scan_orders import NAMES, draw_comparison, draw_figure_1, draw_walk, named_order
from rar_nb.play.widgets import cell_at, figure_png

GOLDEN = json.loads((Path(__file__).parent / "golden" / "scan_orders.json").read_text())


def test_figure_1_prints_the_published_numbers(monkeypatch):
    written = []
    monkeypatch.setattr(scan_orders, "write_texts", lambda ax, texts, *args: written.append((ax, texts)) if texts else None)
    fig = draw_figure_1()
    for ax, texts in written:
        order = GOLDEN["16x16"][ax.get_title(loc="left")]
        assert [16 * y + x for x, y, k in sorted(texts, key=lambda text: text[2])] == order
    assert {ax for ax, _ in written} == set(fig.axes) and len(fig.axes) == 6


@pytest.mark.parametrize("grid_size", [4, 8, 16])
def test_each_cell_can_be_clicked(grid_size):
    fig = draw_comparison((), grid_size)
    left, bottom, width, height = fig.axes[0].get_position().bounds # aspect is kept: the grid is as wide as it is high
    for i in range(grid_size**2):
        x, y = left + width * (i % grid_size + 0.5) / grid_size, 1 - bottom - height + height * (i // grid_size + 0.5) / grid_size
        assert cell_at(fig, x, y, grid_size) == i
    assert cell_at(fig, 0.7, 0.5, grid_size) is None


@pytest.mark.parametrize("grid_size", [4, 16])
@pytest.mark.parametrize("name", NAMES)
def test_walk_changes_with_its_step_and_order(name, grid_size):
    last = grid_size**2
    pictures = {figure_png(draw_walk(name, grid_size, 1, step)) for step in (0, 1, last)}
    assert len(pictures) == 3
    assert (figure_png(draw_walk(name, grid_size, 2, 1)) in pictures) == (name != "random") # only random depends on the seed


def test_comparison_of_the_beginning_and_the_whole():
    order = named_order("random", 4, 3)
    assert len({figure_png(draw_comparison(order[:n], 4)) for n in (0, 1, 2, 9, 16)}) == 5


@pytest.mark.parametrize("start, end, epochs, batch_size", [(0, 0, 20, 16), (20, 20, 20, 2048), (0, 20, 20, 16), (800, 800, 800, 16), (3, 5, 400, 48)])
def test_annealing_at_the_ends_of_its_controls(start, end, epochs, batch_size):
    pictures = {figure_png(draw_annealing(start, end, epochs, batch_size, epoch)) for epoch in (0, epochs // 2, epochs)}
    assert len(pictures) == 3


def test_r_of_the_baselines():
    for epochs in (20, 400):
        steps = range(0, run_of(0, 0, epochs, 2048).train.total_steps, 997)
        assert {random_ratio_at(step, run_of(0, 0, epochs, 2048).train) for step in steps} == {0}
        assert {random_ratio_at(step, run_of(epochs, epochs, epochs, 2048).train) for step in steps} == {1}
