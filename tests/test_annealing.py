"""Annealing on screen: r, learning rate and orders of a batch. (What the panel does with them is in
`test_live_panels.py`.)"""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from rar_nb.data.images import DATA
from rar_nb.orders import ANNEAL_SCHEDULES, SCAN_ORDERS, scan_order
from rar_nb.play import annealing
from rar_nb.play.annealing import (
    Annealing,
    are_random,
    batch_orders,
    run_of,
    schedules,
    tile_orders,
)
from rar_nb.pretrained.presets import load_run_config, override
from rar_nb.reports.published import TABLES
from rar_nb.runs.run_folders import read_metrics
from rar_nb.style import COLORS
from rar_nb.trainer import TrainConfig, random_ratio_at, step_generator
from tests.doors import refuses
from tests.panels import build_panels, starts_with_its_panel

PAPER = (200, 300, 400, 2048)


# The run


def test_the_published_run_has_the_default_settings():
    assert run_of(*PAPER).train == TrainConfig()


def test_r_and_learning_rate_of_the_published_run():
    when, r, rate = schedules(run_of(*PAPER))
    at = {
        epoch: int(np.flatnonzero(when == epoch)[0]) for epoch in (0, 50, 100, 200, 250, 300, 400)
    }
    assert [r[at[epoch]] for epoch in (0, 200, 250, 300, 400)] == [1, 1, 0.5, 0, 0]
    assert [rate[at[epoch]] for epoch in (0, 50, 100, 400)] == pytest.approx(
        [0, 0.5, 1, 1e-5 / 4e-4]
    )
    assert rate[at[250]] == pytest.approx((1 + 0.025) / 2)  # half of the cosine


def test_a_shorter_run_keeps_its_share_of_warm_up():
    train = run_of(100, 150, 200, 1024).train
    assert (train.warmup_epochs, train.steps_per_epoch) == (50, 1251)


def test_an_annealing_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="anneal_end = 200"):
        run_of(300, 200, 400, 2048)


@pytest.mark.parametrize("epochs", [20, 400])
def test_r_of_the_baselines(epochs):
    raster, always = (run_of(e, e, epochs, 2048).train for e in (0, epochs))
    steps = range(0, raster.total_steps, 997)
    assert {random_ratio_at(step, raster) for step in steps} == {0}
    assert {random_ratio_at(step, always) for step in steps} == {1}


# Orders of a batch


def test_share_of_random_orders_follows_r():
    run = run_of(*PAPER)
    assert are_random(batch_orders(run, 0)).all()
    assert not are_random(batch_orders(run, 300 * 625)).any()
    share = np.mean([are_random(batch_orders(run, 250 * 625 + s)).float().mean() for s in range(8)])
    assert share == pytest.approx(
        0.5, abs=4 * (0.25 / (8 * 2048)) ** 0.5
    )  # four standard deviations


@pytest.mark.parametrize("name", SCAN_ORDERS)
def test_orders_of_a_batch_end_in_the_final_one(name):
    """Against the model's own, and counted one by one."""
    run = override(run_of(200, 300, 400, 64, final_order=name), num_tokens=16)
    step = 250 * run.train.steps_per_epoch
    orders = batch_orders(run, step)
    r, generator = random_ratio_at(step, run.train), step_generator(run.seed, step)
    assert torch.equal(orders, run.model.orders(64, r, generator))
    final = scan_order(name, 4)
    kinds = are_random(orders, final)
    assert kinds.tolist() == [order != final[0].tolist() for order in orders.tolist()]
    assert 0 < kinds.sum() < 64
    tiles = tile_orders(orders, 1, final=final)
    blue = [tuple(tiles[11 * k, 0]) == to_rgb(COLORS["raster"]) for k in range(64)]
    assert blue == (~kinds).tolist()


def test_an_order_registered_anew_is_used(monkeypatch):
    monkeypatch.setitem(SCAN_ORDERS, "mine", lambda g: [*range(g * g)][::-1])
    first = Annealing(final_order="mine", epoch=350.0).png()
    monkeypatch.setitem(SCAN_ORDERS, "mine", lambda g: [*range(g * g)])
    again = Annealing(final_order="mine", epoch=350.0).png()
    assert again != first
    monkeypatch.setitem(SCAN_ORDERS, "mine", lambda g: [*range(g * g)][::-1])
    assert Annealing(final_order="mine", epoch=350.0).png() == first


def test_tiles_show_rank_and_kind():
    tiles = tile_orders(torch.stack([torch.arange(16), torch.arange(16).flip(0)]), 2)
    assert tiles.shape == (8, 2 * 8 + 3, 3)
    assert tiles[0, 0] == pytest.approx(to_rgb(COLORS["raster"]))
    assert tiles[0, -1] == pytest.approx(to_rgb(COLORS["random"]))
    assert tiles[2:6, 2:6, 0].ravel() == pytest.approx(np.arange(16) / 15)
    assert tiles[2:6, -6:-2, 0].ravel() == pytest.approx(np.arange(15, -1, -1) / 15)


# The panel


def test_the_panel_comes_first():
    assert starts_with_its_panel("11_annealing")


@pytest.fixture(scope="module")
def panel():
    return build_panels("11_annealing")["panel"]


def test_the_choices_are_the_published_tables(panel):
    ends = {(row["start"], row["end"]) for row in panel.results if row["final_order"] == "raster"}
    assert ends == {row.anneal for row in TABLES["annealing"].rows} and len(ends) == 15
    orders = {row["final_order"]: row["text"] for row in panel.results[15:]}
    assert set(orders) == set(SCAN_ORDERS) - {"raster"}
    assert "FID 2.50" in orders["spiral_in"] and "FID 2.29" in orders["z_curve"]
    (chosen,) = [row for row in panel.results[:15] if (row["start"], row["end"]) == (200, 300)]
    assert "FID 2.18" in chosen["text"]


def test_the_panel_starts_as_its_run_was_trained(panel):
    assert panel.run().train == TrainConfig() and panel.epoch == 240
    digits = Annealing("digits")
    assert digits.run() == load_run_config(DATA / "digits_run" / "config.json")
    panel.batch_size = 16
    assert panel.run().train.steps_per_epoch == 80072  # whole batches of 1,281,167 images
    panel.batch_size = 2048


def test_a_schedule_registered_anew_is_used(monkeypatch):
    monkeypatch.setitem(ANNEAL_SCHEDULES, "mine", lambda progress: 1 - progress**2)
    first = Annealing(schedule="mine")
    assert first.schedules["mine"][500] == 0.75 and first.schedules["linear"] is None
    monkeypatch.setitem(ANNEAL_SCHEDULES, "mine", lambda progress: 1 - progress**4)
    assert Annealing(schedule="mine").schedules["mine"][500] == 1 - 0.5**4


def test_the_losses_are_those_of_the_bundled_run(panel):
    raster, random = (dict(map(tuple, panel.measured["curves"][k])) for k in ("raster", "random"))
    rows = read_metrics(DATA / "digits_run" / "metrics.jsonl")
    last = [row for row in rows if "raster_loss" in row][-1]
    assert (raster[9.0], random[9.0]) == (last["raster_loss"], last["random_loss"])
    assert raster[9.0] < random[9.0] - 0.5  # what the annealing is for


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: annealing.run_of(300, 200, 400, 64), "anneal_start = 300.0 is not allowed"),
        (lambda: annealing.run_of(200, 300, 400, 0), "batch_size = 0"),
        (lambda: annealing.run_of(200, 300, 400, 64, "steep"), "anneal_schedule = 'steep'"),
        (lambda: annealing.run_of(200, 300, 400, 64, final_order="zig"), "final_order = 'zig'"),
        (lambda: Annealing(final_order="random"), "final_order = 'random'"),
        (lambda: Annealing("imagenet"), "setting = 'imagenet'"),
        (lambda: Annealing(anneal_start=350.0), "anneal_start = 350.0 is not allowed"),
        (lambda: Annealing(schedule="steep"), "anneal_schedule = 'steep'"),
        (lambda: annealing.schedules("rar_l"), "run = 'rar_l'"),
        (lambda: annealing.batch_orders(annealing.run_of(0, 1, 400, 64), -1), "step = -1"),
        (lambda: annealing.tile_orders(torch.zeros(2, 4), 2), "orders = float32 [2, 4]"),
        (lambda: annealing.tile_orders(torch.arange(4)[None], 0), "columns = 0"),
        (lambda: Annealing(epoch=-1.0), "epoch = -1"),
    ],
)
def test_doors(call, words):
    refuses(call, words)
