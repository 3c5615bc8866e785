"""What stands in a panel's place where nothing runs: grids of cells, and the picture of a panel."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from rar_nb.play.widgets import KernelPanel, LivePanel, draw_cells, new_figure
from rar_nb.style import COLORS
from tests.doors import refuses
from tests.panels import answers, pixels_of


def test_cells_have_their_colours():
    fig = new_figure(3, 3)
    colors = ["known"] * 6 + ["next"] + ["#e6e6e6"] * 9
    draw_cells(fig.add_axes((0, 0, 1, 1)), colors, {0: 0}, {6: "real"})
    shown = pixels_of(fig)
    for i, color in enumerate(colors):
        inside = shown[60 * (i // 4) + 8, 60 * (i % 4) + 8] / 255
        assert inside == pytest.approx(to_rgb(COLORS.get(color, color)), abs=0.01)
    assert (shown[:60, :60].min(-1) < 100).any()  # its number
    frame = shown[60:120, 120]  # the left edge of cell 6
    assert (frame.max(-1) < 100).mean() > 0.8


def test_a_cell_is_where_its_number_is():
    ax = new_figure(3, 3).add_axes((0, 0, 1, 1))
    draw_cells(ax, ["known"] * 9, {i: i for i in range(9)}, {5: "next"})
    assert {(*t.get_position(), t.get_text()) for t in ax.texts} == {
        (i % 3, i // 3, str(i)) for i in range(9)
    }
    (frame,) = ax.patches
    assert frame.get_xy() == (1.5, 0.5)


def test_cells_must_be_a_square():
    ax = new_figure(1, 1).add_axes((0, 0, 1, 1))
    refuses(lambda: draw_cells(ax, ["known"] * 5), "number of cells = 5")


# What a subclass has to bring


def test_a_panel_without_a_picture_says_so():
    with pytest.raises(NotImplementedError, match="LivePanel has no picture"):
        LivePanel().png()


class Doubled(KernelPanel):
    def serve(self, kind, numbers):
        if kind == "wrong":
            raise ValueError("wrong is not allowed")
        if kind == "broken":
            raise KeyError(kind)
        return [2 * np.array(numbers), np.arange(2)]


def test_the_kernel_answers_in_numbers():
    content, buffers = answers(Doubled(), number=7, kind="double", numbers=[1, 2.5])
    assert content == dict(number=7)
    found = [np.frombuffer(buffer, np.float32).tolist() for buffer in buffers]
    assert found == [[2, 5], [0, 1]]


def test_a_problem_is_an_answer_and_a_fault_is_logged_too():
    content, _ = answers(Doubled(), number=1, kind="wrong", numbers=[])
    assert content == dict(number=1, problem="ValueError: wrong is not allowed")
    with pytest.raises(KeyError):
        answers(Doubled(), number=2, kind="broken", numbers=[])
    with pytest.raises(NotImplementedError, match="KernelPanel answers nothing"):
        answers(KernelPanel(), number=3, kind="step")
