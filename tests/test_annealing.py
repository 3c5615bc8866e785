"""Annealing on screen: r, learning rate and orders of a batch, and what the panel does."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch

from rar_nb.orders import ANNEAL_SCHEDULES, SCAN_ORDERS, scan_order
from rar_nb.play import annealing
from rar_nb.play.annealing import (
    are_random,
    batch_orders,
    plot_annealing,
    run_of,
    schedules,
    tile_orders,
)
from rar_nb.play.widgets import figure_png
from rar_nb.pretrained.presets import override
from rar_nb.reports.published import TABLES
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
    first = figure_png(plot_annealing(*PAPER, 350, final_order="mine"))
    monkeypatch.setitem(SCAN_ORDERS, "mine", lambda g: [*range(g * g)])
    again = figure_png(plot_annealing(*PAPER, 350, final_order="mine"))
    assert again != first
    monkeypatch.setitem(SCAN_ORDERS, "mine", lambda g: [*range(g * g)][::-1])
    assert figure_png(plot_annealing(*PAPER, 350, final_order="mine")) == first


def test_tiles_show_rank_and_kind():
    tiles = tile_orders(torch.stack([torch.arange(16), torch.arange(16).flip(0)]), 2)
    assert tiles.shape == (8, 2 * 8 + 3, 3)
    assert tiles[0, 0] == pytest.approx(to_rgb(COLORS["raster"]))
    assert tiles[0, -1] == pytest.approx(to_rgb(COLORS["random"]))
    assert tiles[2:6, 2:6, 0].ravel() == pytest.approx(np.arange(16) / 15)
    assert tiles[2:6, -6:-2, 0].ravel() == pytest.approx(np.arange(15, -1, -1) / 15)


# The picture


@pytest.mark.parametrize(
    "start, end, epochs, batch_size",
    [(0, 0, 20, 16), (20, 20, 20, 2048), (0, 20, 20, 16), (800, 800, 800, 16), (3, 5, 400, 48)],
)
def test_ends_of_the_controls(start, end, epochs, batch_size):
    pictures = {
        figure_png(plot_annealing(start, end, epochs, batch_size, epoch))
        for epoch in (0, epochs // 2, epochs)
    }
    assert len(pictures) == 3


def texts_of(fig):
    return [artist.get_label() for artist in fig.findobj(PathPatch)]


def test_what_is_written():
    fig = plot_annealing(*PAPER, 250, results={(200, 300, 400): "published: FID 2.18"})
    num_random = int(are_random(batch_orders(run_of(*PAPER), 250 * 625)).sum())
    texts = " | ".join(texts_of(fig))
    for part in [
        "step 156,250 of 250,000",
        "FID 2.18",
        "r = 0.50",
        "51% of its peak",
        "r = 50.0% ± 2.2%",
        f"in this batch: {num_random} of 2048",
    ]:
        assert part in texts


def test_a_published_result_belongs_to_the_published_schedule(monkeypatch):
    monkeypatch.setitem(ANNEAL_SCHEDULES, "late", lambda progress: 1 - progress**4)
    results = {(200, 300, 400): "published: FID 2.18"}
    texts = " | ".join(texts_of(plot_annealing(*PAPER, 250, "late", results)))
    assert "r = 0.94" in texts and "no published result" in texts and "2.18" not in texts


def test_a_schedule_registered_anew_is_used(monkeypatch):
    "No picture may come out of a cache that knows the schedule by its name only."
    monkeypatch.setitem(ANNEAL_SCHEDULES, "mine", lambda progress: 1 - progress**2)
    first = figure_png(plot_annealing(*PAPER, 250, "mine"))
    monkeypatch.setitem(ANNEAL_SCHEDULES, "mine", lambda progress: 1 - progress**4)
    assert figure_png(plot_annealing(*PAPER, 250, "mine")) != first


# The panel


@pytest.fixture(scope="module")
def panels():
    return build_panels("11_annealing")


def test_the_panel_comes_first():
    assert starts_with_its_panel("11_annealing")


def test_the_presets_are_the_published_table(panels):
    keys = {value for _, value in panels["preset"].options} - {None}
    results = set(panels["results"])
    assert keys == {(*row.anneal, 400) for row in TABLES["annealing"].rows} <= results
    assert len(keys) == 15
    assert results - keys == {(200, 300, 400, name) for name in SCAN_ORDERS if name != "raster"}


def test_the_panel_shows_where_the_annealing_ends():
    panels = build_panels("11_annealing")
    panel, order, preset = (panels[name] for name in ("panel", "order", "preset"))
    for name, fid in dict(spiral_in="2.50", z_curve="2.29").items():
        order.value = name
        assert f"published, to {name}: FID {fid}" in " | ".join(texts_of(panel.figure))
        assert preset.value is None and panel.message.value == ""
    panels["end"].value = 310
    assert "no published result" in " | ".join(texts_of(panel.figure))
    preset.value = (200, 300, 400)  # a row of the table, which ends in raster
    assert order.value == "raster" and panel.canvas.png == panel.first
    assert "published: FID 2.18" in " | ".join(texts_of(panel.figure))


def test_a_registered_schedule_appears_in_the_panel(monkeypatch):
    monkeypatch.setitem(ANNEAL_SCHEDULES, "late", lambda progress: 1 - progress**4)
    panels = build_panels("11_annealing")
    before = panels["panel"].canvas.png
    panels["schedule"].value = "late"
    assert panels["panel"].canvas.png != before and panels["panel"].message.value == ""


def test_controls_move_each_other(panels):
    start, end, epochs, epoch = (panels[name] for name in ("start", "end", "epochs", "epoch"))
    preset, panel = panels["preset"], panels["panel"]

    def is_at(*values):
        return (start.value, end.value, epochs.value) == values and panel.message.value == ""

    for _, key in preset.options[1::3]:
        preset.value = key
        assert is_at(*key)
    preset.value = (400, 400, 400)
    start.value = 350
    assert preset.value is None and is_at(350, 400, 400)
    end.value = 200  # takes the start with it
    assert preset.value == (200, 200, 400) and is_at(200, 200, 400)
    epochs.value = 100
    assert is_at(100, 100, 100) and (epoch.max, epoch.value) == (100, 100)
    preset.value, epoch.value = (200, 300, 400), 240
    assert panel.canvas.png == panel.first


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: annealing.run_of(300, 200, 400, 64), "anneal_start = 300.0 is not allowed"),
        (lambda: annealing.run_of(200, 300, 400, 0), "batch_size = 0"),
        (lambda: annealing.run_of(200, 300, 400, 64, "steep"), "anneal_schedule = 'steep'"),
        (lambda: annealing.run_of(200, 300, 400, 64, final_order="zig"), "final_order = 'zig'"),
        (lambda: annealing.plot_annealing(0, 1, 400, 64, 1, final_order="random"), "scan order"),
        (lambda: annealing.schedules("rar_l"), "run = 'rar_l'"),
        (lambda: annealing.batch_orders(annealing.run_of(0, 1, 400, 64), -1), "step = -1"),
        (lambda: annealing.tile_orders(torch.zeros(2, 4), 2), "orders = float32 [2, 4]"),
        (lambda: annealing.tile_orders(torch.arange(4)[None], 0), "columns = 0"),
        (lambda: annealing.plot_annealing(0, 1, 400, 64, -1), "epoch = -1"),
    ],
)
def test_doors(call, words):
    refuses(call, words)
