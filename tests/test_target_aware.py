"""The target-aware embedding on screen: two models, with and without it, and what the panel
holds."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from rar_nb.orders import SCAN_ORDERS, raster_order, scan_order
from rar_nb.play import target_aware
from rar_nb.play.scan_orders import named_order
from rar_nb.play.target_aware import (
    TargetAware,
    all_predictions,
    fold_positions,
    predict_next,
    train_on_page,
)
from rar_nb.transformer import RAR, ModelConfig
from tests.doors import refuses
from tests.panels import build_panels, starts_with_its_panel

# Two models


def last_loss(target_aware):
    return np.mean(train_on_page(target_aware)[1][-50:])


def test_without_the_second_table_the_loss_stays_at_its_bound():
    assert last_loss(False) == pytest.approx(math.log(math.factorial(9)) / 9, abs=0.03)
    assert last_loss(True) < 0.01


@pytest.mark.parametrize("seed, known", list(product(range(3), range(1, 8))))
def test_one_prediction_without_two_with(seed, known):
    first = list(named_order("random", 3, seed))
    second = [*first[:known], first[known + 1], first[known], *first[known + 2 :]]
    assert torch.equal(predict_next(False, first, known), predict_next(False, second, known))
    for order in (first, second):
        assert predict_next(True, order, known).argmax() == order[known]


def test_without_it_bets_are_spread_over_what_is_left():
    order = list(named_order("random", 3, 0))
    left = predict_next(False, order, 2)[order[2:]]
    assert left.tolist() == pytest.approx([1 / 7] * 7, abs=0.1)


@pytest.mark.parametrize("seed", range(2))
def test_all_predictions_are_those_of_one_by_one(seed):
    order = list(named_order("random", 3, seed))
    found = all_predictions(order)
    for k in range(9):
        assert set(found["with"][k]) == set(map(str, order[k:]))
        for target in order[k:]:
            way = [*order[:k], target, *(i for i in order[k:] if i != target)]
            one = predict_next(True, way, k).tolist(), predict_next(False, way, k).tolist()
            assert found["with"][k][str(target)] == pytest.approx(one[0], abs=1e-4)
            assert found["without"][k] == pytest.approx(one[1], abs=1e-4)


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


# The panel


def test_the_panel_comes_first():
    assert starts_with_its_panel("12_target_aware")


def test_a_registered_order_appears_in_the_panel(monkeypatch):
    monkeypatch.setitem(
        SCAN_ORDERS, "columns", lambda g: [i * g + j for j in range(g) for i in range(g)]
    )
    fork = build_panels("12_target_aware")["fork"]
    assert fork.roads["columns"]["order"] == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_the_panel_is_there_before_anything_is_trained(monkeypatch):
    """The numbers of its usual orders are kept; those of another one are computed."""
    computed = {}
    monkeypatch.setattr(
        target_aware, "all_predictions", lambda order: computed.setdefault(tuple(order), {1: 2})
    )
    assert set(TargetAware().roads) == {*SCAN_ORDERS, *(f"random {k}" for k in range(1, 5))}
    assert not computed
    columns = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    monkeypatch.setitem(SCAN_ORDERS, "columns", lambda g: columns)
    assert TargetAware().roads["columns"] == {1: 2} and list(computed) == [tuple(columns)]


def test_kept_predictions_are_those_of_the_models():
    """As exactly as training is the same on another processor."""
    for name, road in TargetAware().roads.items():
        expected = all_predictions(target_aware.panel_orders()[name])
        assert road["order"] == expected["order"]
        np.testing.assert_allclose(road["without"], expected["without"], atol=0.15)
        for found, wanted in zip(road["with"], expected["with"], strict=True):
            assert found.keys() == wanted.keys()
            for target in found:
                np.testing.assert_allclose(found[target], wanted[target], atol=0.01)


def test_an_order_goes_only_to_a_cell_that_is_left():
    panel = TargetAware("raster", known=3, first=7, second=8)
    assert panel.targets() == (7, 8)
    assert TargetAware("raster", known=8, first=7, second=7).targets() == (8, 8)
    pictures = {panel.png()}
    for name, value in dict(road="z_curve", known=2, first=5, second=4).items():
        setattr(panel, name, value)
        pictures.add(panel.png())
    assert len(pictures) == 5


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: target_aware.train_on_page("yes"), "target_aware = 'yes'"),
        (lambda: target_aware.train_on_page(True, 0), "steps = 0"),
        (lambda: target_aware.predict_next(True, [0] * 9, 1), "a permutation of 0 … 8"),
        (lambda: TargetAware("zigzag"), "road = 'zigzag'"),
        (lambda: TargetAware(known=9), "known = 9"),
        (lambda: TargetAware(first=-1), "first = -1"),
        (lambda: target_aware.fold_positions(None), "model = None"),
    ],
)
def test_doors(call, words):
    refuses(call, words)
