"""The target-aware embedding on screen: its pictures, and two models, with and without it."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from rar_nb.orders import SCAN_ORDERS, raster_order, scan_order
from rar_nb.play import target_aware
from rar_nb.play.target_aware import (
    fold_positions,
    plot_predictions,
    plot_shift,
    predict_next,
    train_on_page,
    two_orders,
)
from rar_nb.play.widgets import figure_png
from rar_nb.style import COLORS
from rar_nb.transformer import RAR, ModelConfig
from tests.doors import refuses
from tests.panels import build_panels, starts_with_its_panel

# The shift


def test_the_arrow_of_the_chosen_step_stands_out():
    order = scan_order("spiral_in", 3)[0].tolist()
    arrows = plot_shift(order, 2).axes[0].collections[-1]
    vermilion = [np.allclose(color, to_rgba(COLORS["next"])) for color in arrows.get_facecolor()]
    assert vermilion == [k == 2 for k in range(9)]


@pytest.mark.parametrize("name", SCAN_ORDERS)
def test_each_step_has_its_picture(name):
    order = scan_order(name, 3)[0].tolist()
    assert len({figure_png(plot_shift(order, step)) for step in range(9)}) == 9


# Two models


def last_loss(target_aware):
    return np.mean(train_on_page(target_aware)[1][-50:])


def test_without_the_second_table_the_loss_stays_at_its_bound():
    assert last_loss(False) == pytest.approx(math.log(math.factorial(9)) / 9, abs=0.03)
    assert last_loss(True) < 0.01


@pytest.mark.parametrize("seed, known", list(product(range(3), range(1, 8))))
def test_two_orders_begin_alike_and_then_part(seed, known):
    first, second = two_orders(seed, known, 0, 1)
    assert first[:known] == second[:known] and first[known] != second[known]
    assert sorted(first) == sorted(second) == list(range(9))
    assert two_orders(seed, known, 0, 9 - known)[1] == first  # counted around


@pytest.mark.parametrize("seed, known", list(product(range(3), range(1, 8))))
def test_one_prediction_without_two_with(seed, known):
    first, second = two_orders(seed, known, 0, 1)
    assert torch.equal(predict_next(False, first, known), predict_next(False, second, known))
    for order in (first, second):
        assert predict_next(True, order, known).argmax() == order[known]


def test_without_it_bets_are_spread_over_what_is_left():
    order = two_orders(0, 2, 0, 1)[0]
    left = predict_next(False, order, 2)[order[2:]]
    assert left.tolist() == pytest.approx([1 / 7] * 7, abs=0.1)


def test_predictions_change_with_every_control():
    first = figure_png(plot_predictions(4, 3, 0, 4))
    others = [(5, 3, 0, 4), (4, 2, 0, 4), (4, 3, 1, 4), (4, 3, 0, 5)]
    assert len({first, *(figure_png(plot_predictions(*values)) for values in others)}) == 5


# One table after the training


@pytest.mark.parametrize("name", SCAN_ORDERS)
def test_folded_tables_serve_their_own_order_only(name):
    torch.manual_seed(0)
    model = RAR(
        ModelConfig(
            codebook_size=64,
            num_tokens=49,
            num_classes=10,
            hidden_size=64,
            num_layers=3,
            num_heads=4,
            mlp_size=128,
        )
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)  # a new model's adaLN is zero, and would hide everything
    before = model.pos_embed.clone()
    folded = fold_positions(model, scan_order(name, 7))
    tokens, condition = torch.randint(64, (8, 49)), model.config.condition_id(torch.arange(8))
    with torch.inference_mode():
        for other in SCAN_ORDERS:
            order = scan_order(other, 7)
            same = torch.equal(model(tokens, condition, order), folded(tokens, condition, order))
            assert same == (other == name)
    assert folded.target_aware_pos_embed is None and torch.equal(model.pos_embed, before)


def test_raster_is_the_default_order():
    torch.manual_seed(0)
    model = RAR(ModelConfig(8, 9, 2, hidden_size=16, num_layers=1, num_heads=2, mlp_size=16)).eval()
    assert torch.equal(
        fold_positions(model).pos_embed, fold_positions(model, raster_order(9)).pos_embed
    )


# The panels


def test_the_panel_comes_first():
    assert starts_with_its_panel("12_target_aware")


def test_a_registered_order_appears_in_the_panel(monkeypatch):
    monkeypatch.setitem(
        SCAN_ORDERS, "columns", lambda g: [i * g + j for j in range(g) for i in range(g)]
    )
    panels = build_panels("12_target_aware")
    before = panels["shift"].canvas.png
    panels["name"].value = "columns"
    assert panels["shift"].canvas.png != before and panels["shift"].message.value == ""


def test_the_ends_of_the_controls():
    panels = build_panels("12_target_aware")
    predictions = panels["predictions"]
    for end in ("min", "max"):
        predictions.set(
            **{name: getattr(control, end) for name, control in predictions.controls.items()}
        )
        assert predictions.message.value == ""
        panels["step"].value = getattr(panels["step"], end)
        assert panels["shift"].message.value == ""


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: target_aware.plot_shift([0, 1, 2], 0), "number of tokens"),
        (lambda: target_aware.plot_shift([0, 0, 1, 2], 0), "a permutation of 0 … 3"),
        (lambda: target_aware.plot_shift([0, 1, 2, 3], 4), "step = 4"),
        (lambda: target_aware.train_on_page("yes"), "target_aware = 'yes'"),
        (lambda: target_aware.train_on_page(True, 0), "steps = 0"),
        (lambda: target_aware.predict_next(True, [0] * 9, 1), "a permutation of 0 … 8"),
        (lambda: target_aware.two_orders(0, 9, 0, 0), "known = 9"),
        (lambda: target_aware.two_orders(-1, 3, 0, 0), "seed = -1"),
        (lambda: target_aware.fold_positions(None), "model = None"),
    ],
)
def test_doors(call, words):
    refuses(call, words)
