"""Filling holes: orders by hand and by brute force, losses against single images, the panel."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from rar_nb.orders import SCAN_ORDERS, raster_order, scan_order
from rar_nb.play import inpainting
from rar_nb.play.inpainting import (
    HOW,
    MODELS,
    as_mask,
    cached_filling,
    cached_model,
    class_probabilities,
    fill_hole,
    fill_order,
    hole_loss,
    step_losses,
    validation_digits,
)
from rar_nb.play.watch import BUNDLED, cached_run
from rar_nb.play.widgets import Pixels
from rar_nb.sampler import SampleConfig, final_orders, image_noise, sample_tokens
from rar_nb.tokenizer import to_uint8
from rar_nb.transformer import RAR
from tests.doors import refuses
from tests.panels import build_panels, starts_with_its_panel

MIDDLE = tuple(7 * i + j for i in range(1, 6) for j in range(1, 6))
SMALL = tuple(7 * i + j for i in range(2, 5) for j in range(2, 5))
SCATTERED = tuple(torch.randperm(49, generator=torch.Generator().manual_seed(1))[:25].tolist())
BAND = tuple(range(14, 35))
ANY_ORDER = cached_model("any order")
ORDER = fill_order(MIDDLE, 7, "nearest first")
TOKENS, LABELS = validation_digits()[1].rows(range(0, 500, 10))


@pytest.mark.parametrize("how", HOW)
def test_known_cells_come_first(how):
    order = fill_order(MIDDLE, 7, how)
    assert torch.equal(order.sort(1).values, raster_order(49))
    assert order[0, :24].tolist() == [i for i in range(49) if i not in MIDDLE]


def test_orders_by_hand():
    assert fill_order(MIDDLE, 7, "nearest first")[0, -1] == 24  # the centre comes last
    assert fill_order((0, 1, 3), 2, "spiral").tolist() == [[2, 0, 3, 1]]
    nothing_known = fill_order(tuple(range(4)), 2, "nearest first")
    assert torch.equal(nothing_known, raster_order(4))


@pytest.mark.parametrize("seed", range(3))
def test_nearest_first_by_brute_force(seed):
    hole = torch.randperm(49, generator=torch.Generator().manual_seed(seed))[:20].tolist()
    known = [divmod(i, 7) for i in range(49) if i not in hole]
    order = fill_order(tuple(hole), 7, "nearest first")[0, 29:].tolist()
    distances = [min((i // 7 - r) ** 2 + (i % 7 - c) ** 2 for r, c in known) for i in order]
    assert distances == sorted(distances)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="cell of the hole = 49"):
        fill_order((49,), 7, "random")
    with pytest.raises(ValueError, match="how = 'zigzag'"):
        fill_order((1,), 7, "zigzag")
    with pytest.raises(ValueError, match="model = 'none'"):
        cached_model("none")


def test_classes_are_guessed_from_known_tokens_only():
    hidden = torch.where(as_mask(MIDDLE, 49), (TOKENS[7] + 5) % 128, TOKENS[7])
    guess = class_probabilities(ANY_ORDER, TOKENS[7], ORDER, 24)
    torch.testing.assert_close(class_probabilities(ANY_ORDER, hidden, ORDER, 24), guess)
    uniform = class_probabilities(ANY_ORDER, TOKENS[7], ORDER, 0)
    torch.testing.assert_close(uniform, torch.full((10,), 0.1, dtype=uniform.dtype))


def test_most_guesses_are_right():
    guesses = [class_probabilities(ANY_ORDER, row, ORDER, 24).argmax() for row in TOKENS]
    assert (torch.stack(guesses) == LABELS).float().mean() > 0.7


def test_the_loss_of_a_whole_image_is_the_mean_over_its_steps():
    whole = hole_loss(ANY_ORDER, TOKENS[:3], LABELS[:3], tuple(range(49)), ORDER)
    for i in range(3):
        condition = ANY_ORDER.config.condition_id(LABELS[i : i + 1])
        alone = step_losses(ANY_ORDER, TOKENS[i : i + 1], condition, ORDER)
        torch.testing.assert_close(whole[i], alone.mean(), atol=1e-4, rtol=0)


def test_filling_keeps_what_is_known_and_differs_in_the_hole():
    sample = SampleConfig(guidance_scale=2.0, guidance_power=0.5)
    filled = fill_hole(ANY_ORDER, TOKENS[7], MIDDLE, ORDER, int(LABELS[7]), sample, seed=0)
    known = ~as_mask(MIDDLE, 49)
    assert torch.equal(filled[:, known], TOKENS[7][known].expand(4, -1))
    assert len({tuple(row.tolist()) for row in filled}) == 4


def ending_in(final_order: str) -> RAR:
    """The weights for any order in a model that samples in this one."""
    model = RAR(replace(ANY_ORDER.config, final_order=final_order)).eval()
    model.load_state_dict(ANY_ORDER.state_dict())
    return model


@pytest.mark.parametrize("final_order", [*SCAN_ORDERS, "random"])
def test_without_an_order_a_hole_is_filled_in_the_final_one(final_order):
    """As if it were given; random orders are those of the images that the seed numbers."""
    model, label = ending_in(final_order), int(LABELS[7])
    sample = SampleConfig(2.0, 0.5, sample_precision="no")
    filled = fill_hole(model, TOKENS[7], BAND, None, label, sample, seed=3)
    known = torch.where(as_mask(BAND, 49), -1, TOKENS[7]).expand(4, -1)
    if final_order == "random":
        orders = final_orders(model.config, 3, range(4))
    else:
        orders = scan_order(final_order, 7)
    noise = image_noise(3, range(4), 49)
    expected = sample_tokens(ANY_ORDER, [label] * 4, sample, noise, orders, known)
    assert torch.equal(filled, expected)


@pytest.mark.parametrize("final_order", ["spiral_in", "random"])
def test_the_third_method_is_the_models_final_order(final_order, monkeypatch):
    models = {name: cached_model(name) for name in MODELS} | {"annealed": ending_in(final_order)}
    monkeypatch.setattr(inpainting, "cached_model", models.get)
    filling = inspect.unwrap(cached_filling)(110, SMALL, "spiral", 5, 2.0, False)
    titles = [method.title for method in filling.methods]
    assert titles[1:] == ["annealed, spiral", f"annealed, {final_order} order"]
    tokens, label = validation_digits()[1].rows([110])
    order = final_orders(models["annealed"].config, 5, [0])
    loss = hole_loss(ANY_ORDER, tokens, label, SMALL, order).item()
    assert filling.methods[2].loss == pytest.approx(loss, abs=1e-5)


def mean_loss(name, how, hole):
    order = raster_order(49) if how == "raster" else fill_order(hole, 7, how)
    return hole_loss(cached_model(name), TOKENS, LABELS, hole, order).mean()


@pytest.mark.parametrize("hole", [SMALL, BAND, SCATTERED], ids=["small", "band", "scattered"])
def test_an_annealed_model_has_forgotten_other_orders(hole):
    forgotten = mean_loss("annealed", "nearest first", hole)
    assert forgotten > mean_loss("any order", "nearest first", hole) + 0.1


@pytest.mark.parametrize("hole", [SMALL, SCATTERED], ids=["small", "scattered"])
def test_looking_ahead_wins_inside_a_hole(hole):
    ahead = mean_loss("any order", "nearest first", hole)
    assert mean_loss("annealed", "raster", hole) > ahead + 0.1


def test_raster_order_is_what_the_annealed_model_does_best():
    losses = {name: mean_loss(name, "raster", tuple(range(49))) for name in MODELS}
    assert min(losses, key=losses.get) == "annealed"


# The panel


def test_the_notebook_starts_with_its_panel():
    assert starts_with_its_panel("14_inpainting")


def test_a_click_erases_and_the_button_fills():
    panel = build_panels("14_inpainting")["inpainting"]
    hole, fill = panel.controls["hole"], panel.children[2].children[0]
    first = panel.canvas.png

    def num_images():
        return len(panel.figure.findobj(Pixels))

    panel.canvas.press(0.02, 0.12)  # the top left cell
    assert hole.value == (*BAND, 0) and num_images() == 2  # not filled yet
    fill.click()
    assert num_images() == 2 + 12
    panel.canvas.press(0.02, 0.12)
    fill.click()
    assert panel.canvas.png == first
    hole.value = ()
    assert num_images() == 2  # nothing to fill


def test_the_panel_shows_what_fill_hole_makes():
    filling = cached_filling(110, BAND, "nearest first", 0, 2.0, False)
    tokens, label = validation_digits()[1].rows([110])
    assert filling.label == int(label) and filling.probabilities.sum() == pytest.approx(1)
    order = fill_order(BAND, 7, "nearest first")
    sample = SampleConfig(guidance_scale=2.0, guidance_power=0.5)
    again = fill_hole(ANY_ORDER, tokens[0], BAND, order, int(label), sample, 0)
    tokenizer = cached_run(str(BUNDLED))[1]
    images = to_uint8(tokenizer.decode(again), tokenizer.value_range).numpy()
    np.testing.assert_array_equal(filling.methods[0].images, images)
    guessed = cached_filling(110, BAND, "nearest first", 0, 2.0, True)
    assert guessed.label == filling.probabilities.argmax() and guessed.guessed


# What the doors refuse

WHOLE, FIRST_ORDER = torch.zeros(49, dtype=torch.long), torch.arange(49)[None]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: inpainting.cached_model("best"), "model = 'best' is not allowed: it must be one"),
        (lambda: inpainting.cached_model("annealed", "/no/such/run"), "/no/such/run"),
        (lambda: inpainting.fill_order((49,), 7, "random"), "cell of the hole = 49"),
        (lambda: inpainting.fill_order((1,), 7, "best first"), "how = 'best first'"),
        (lambda: inpainting.fill_order([1], 7, "random"), "hole = [1] is not allowed"),
        (lambda: inpainting.as_mask((-1,), 49), "cell of the hole = -1"),
        (lambda: inpainting.fill_hole(None, WHOLE, (1,), None, 1, None, 0), "model = None"),
        (
            lambda: inpainting.hole_loss(ANY_ORDER, WHOLE[None], LABELS[:1], (), FIRST_ORDER),
            "hole = () is not allowed: it must be at least one cell",
        ),
        (
            lambda: inpainting.class_probabilities(ANY_ORDER, WHOLE, FIRST_ORDER, 50),
            "num_known = 50",
        ),
        (
            lambda: inpainting.plot_filling(np.zeros((28, 28), np.uint8), (1,), FIRST_ORDER),
            "uint8 [C, S, S]",
        ),
    ],
)
def test_doors(call, words):
    refuses(call, words)
