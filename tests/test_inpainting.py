"""Filling holes: orders by hand and by brute force, losses against single images, the panel."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rar_nb.orders import SCAN_ORDERS, raster_order, scan_order
from rar_nb.play import inpainting
from rar_nb.play.inpainting import (
    HOW,
    METHODS,
    Inpainting,
    as_mask,
    class_probabilities,
    export_digits,
    fill_digit,
    fill_hole,
    fill_order,
    hole_loss,
    step_losses,
    validation_digits,
)
from rar_nb.play.watch import BUNDLED, MODELS, cached_model, cached_run
from rar_nb.sampler import SampleConfig, final_orders, image_noise, sample_tokens
from rar_nb.transformer import RAR
from tests.doors import refuses
from tests.panels import own_run, starts_with_its_panel

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
def test_a_models_own_order_is_the_one_it_was_annealed_to(final_order, monkeypatch):
    model = ending_in(final_order)
    monkeypatch.setattr(inpainting, "cached_model", lambda name: model)
    tokens, label = validation_digits()[1].rows([110])
    filling = fill_digit(tokens[0], SMALL, "spiral", int(label), 2.0, 5, "annealed", own=True)
    order = final_orders(model.config, 5, [0])
    loss = hole_loss(ANY_ORDER, tokens, label, SMALL, order).item()
    assert filling.loss == pytest.approx(loss, abs=1e-5)


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


def answer_to(panel, **request) -> list[np.ndarray]:
    """What the browser gets."""
    sent = []
    panel.send = lambda content, buffers=None: sent.append((content, buffers))
    panel.answer(panel, dict(request, number=7), [])
    ((content, buffers),) = sent
    assert content == dict(number=7)
    return [np.frombuffer(buffer, np.float32) for buffer in buffers]


@pytest.mark.parametrize("model, own", METHODS)
def test_the_kernel_fills_what_the_panel_shows(model, own):
    panel = Inpainting()
    wish = dict(digit=110, hole=list(BAND), how="spiral", seed=3)
    (label,), pixels = answer_to(panel, kind="digit", digit=110)
    (classes,) = answer_to(panel, kind="classes", **wish)
    filled, images, (loss,) = answer_to(
        panel, kind="fill", **wish, guidance_scale=2.0, label=int(label), model=model, own=own
    )
    tokens, labels = validation_digits()[1].rows([110])
    assert label == labels[0] and np.array_equal(pixels * 255, validation_digits()[0][110].ravel())
    order = fill_order(BAND, 7, "spiral", 3)
    guess = class_probabilities(ANY_ORDER, tokens[0], order, 28)
    assert classes == pytest.approx(guess.numpy(), abs=1e-6)
    order = raster_order(49) if own else order
    sample = SampleConfig(guidance_scale=2.0, guidance_power=0.5)
    expected = fill_hole(cached_model(model), tokens[0], BAND, order, int(label), sample, 3)
    assert filled.reshape(4, 49).tolist() == expected.tolist()
    decoded = cached_run(str(BUNDLED))[1].decode(expected)
    np.testing.assert_array_equal(images, decoded.numpy().ravel())
    true_loss = hole_loss(cached_model(model), tokens, labels, BAND, order).item()
    assert loss == pytest.approx(true_loss, abs=1e-6)


def test_a_problem_is_told_to_the_browser():
    panel, sent = Inpainting(), []
    panel.send = lambda content, buffers=None: sent.append(content)
    panel.answer(panel, dict(kind="digit", digit=500, number=1), [])
    panel.answer(panel, dict(kind="paint", number=2), [])
    assert "digit = 500" in sent[0]["problem"] and "kind = 'paint'" in sent[1]["problem"]


def test_the_picture_follows_the_state():
    states = [dict(), dict(guess=True, digit=5), dict(hole=[]), dict(hole=range(49), how="random")]
    pictures = {Inpainting(**state).png() for state in states}
    assert len(pictures) == 4 and all(png.startswith(b"\x89PNG") for png in pictures)


def test_another_tokenizer_makes_other_tokens(tmp_path, monkeypatch):
    """Of the same folder, if a run was trained anew in it."""
    folder = own_run(tmp_path / "run")
    monkeypatch.setattr(inpainting, "pretokenize", lambda tokenizer, data: tokenizer)
    first = validation_digits(folder)[1]
    assert validation_digits(folder)[1] is first
    os.utime(folder / "tokenizer.safetensors", (1, 1))
    assert validation_digits(folder)[1] is not first


def test_a_page_gets_all_validation_digits(tmp_path):
    export_digits(tmp_path)
    images, data = validation_digits()
    with Image.open(tmp_path / "digits.png") as picture:
        assert np.array_equal(np.asarray(picture).reshape(images.shape), images)
    found = json.loads((tmp_path / "digits.json").read_text())
    tokens, labels = data.rows(range(500))
    assert found == dict(labels=labels.tolist(), tokens=tokens.tolist())


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
        (lambda: Inpainting(digit=500), "digit = 500"),
        (lambda: Inpainting(hole=[1, 1]), "hole = [1, 1]"),
        (lambda: Inpainting(guidance_scale=float("nan")), "guidance_scale = nan"),
        (lambda: export_digits(3), "folder = 3"),
    ],
)
def test_doors(call, words):
    refuses(call, words)
