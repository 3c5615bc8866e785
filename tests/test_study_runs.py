"""The study's machinery: the same images, budgets and settings for all strategies, a run that can
be stopped and continued without a trace in its numbers, and a driver that does what is left."""

import json
import os
import signal
import time
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from rar_nb.data.images import open_data
from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.presets import get_preset
from rar_nb.reports.study_figures import STUDY
from rar_nb.runs import study
from rar_nb.runs.run_folders import changed_fields, flat_config
from rar_nb.runs.study import (
    CELLS,
    COLOUR,
    FULL,
    PARTS,
    STRATEGIES,
    TINY,
    BestWeights,
    Cloud,
    Place,
    choose_tuned,
    compare,
    judges,
    keep_grid,
    list_cells,
    loss_by_cell,
    own_orders,
    read_raw,
    run_cell,
    run_of,
    run_study,
    runs_of,
    seeds_of,
    split_images,
    write_tuned,
)
from rar_nb.support import PROJECT, InvalidValue, Stopped, write_json
from rar_nb.trainer import random_ratio_at, validation_loss
from rar_nb.transformer import RAR
from tests.forks import program, python
from tests.kernels import execute

TUNED = {name: dict(dropout=0.1, guidance_scale=2.0, why={}) for name in STRATEGIES}
OWN = ("seconds", "date", "commit", "machine")  # what two runs of the same command may differ in


@pytest.fixture(scope="module")
def labels():
    training, validation = open_data("digits")
    return np.concatenate([training.targets, validation.targets])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder of work with the shared tokenizer and classifier in it."""
    folder = tmp_path_factory.mktemp("work")
    study.open_shared(folder / "shared", TINY)
    return folder


@pytest.fixture
def place(tmp_path, work):
    """Results of its own, the shared part in common, dropout and guidance chosen already."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "shared").symlink_to(work / "shared")
    found = Place(tmp_path / "results", tmp_path / "work")
    write_json(TUNED, found.tuned)
    return found


def numbers(raw):
    return {name: value for name, value in raw.items() if name not in OWN}


# The images


@pytest.mark.parametrize("images", [500, 2000, 4500])
def test_the_split_is_balanced_and_disjoint(labels, images):
    split = split_images(labels, 4500, images)
    rows = np.concatenate(list(split.values()))
    assert sorted(rows) == list(range(5000))  # each image has one use
    assert len(split["seen"]) == images and len(split["validation"]) == 500
    assert set(split["validation"]) == set(range(4500, 5000))
    for part in split.values():
        counts = np.bincount(labels[part], minlength=10)
        assert (counts == len(part) // 10).all()


def test_the_split_depends_on_nothing_but_the_number_of_images(labels):
    small, base = (split_images(labels, 4500, images) for images in (500, 2000))
    assert all((split_images(labels, 4500, 2000)[name] == base[name]).all() for name in base)
    assert set(small["seen"]) < set(base["seen"])
    assert set(small["tuning"]) == set(base["tuning"]) and len(base["tuning"]) == 1000


def test_nothing_is_chosen_with_the_images_that_judge(labels):
    split = split_images(labels, 4500, 2000)
    chosen, judged = judges(split, is_tuning=True), judges(split, is_tuning=False)
    for name in ("unseen", "validation"):
        assert set(chosen[name]) <= set(split["tuning"])
        assert not set(chosen[name]) & set(judged["unseen"])
        assert not set(chosen[name]) & set(judged["validation"])
    assert len(chosen["validation"]) == len(judged["validation"])


@pytest.mark.parametrize("images, count", [(500, 500), (2000, 1500), (4500, 500)])
def test_both_references_have_the_same_size(labels, images, count):
    split = split_images(labels, 4500, images)
    rows = judges(split, is_tuning=False)
    assert len(rows["seen"]) == len(rows["unseen"]) == count
    assert set(rows["seen"]) <= set(split["seen"]) and not set(rows["seen"]) & set(rows["unseen"])
    assert (np.bincount(labels[rows["unseen"]]) == count // 10).all()


@pytest.mark.parametrize("images", [5, 4510])
def test_impossible_numbers_of_images_are_refused(labels, images):
    with pytest.raises(InvalidValue, match="images"):
        split_images(labels, 4500, images)


# The cells


def test_the_strategies_differ_in_their_orders_only():
    configs = [flat_config(run_of(CELLS[name], 3, TUNED)) for name in STRATEGIES]
    for config in configs[1:]:
        assert set(changed_fields(configs[0], config)) <= {
            "train.anneal_start",
            "train.anneal_end",
            "model.final_order",
        }


MAY_DIFFER = dict(  # from the headline's cell of the same strategy
    headline=set(),
    tuning={"dropout"},
    length={"passes"},
    data={"images", "passes"},
    windows={"anneal_start", "anneal_end", "final_order"},
    orders={"final_order"},
    target={"target_aware"},
    sizes={"hidden_size"},
    no_dropout={"dropout"},
    long_dropout={"passes", "dropout"},
    few_dropout={"images", "passes", "dropout"},
)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_changes_what_its_part_is_about(name):
    cell = asdict(CELLS[name])
    middle = asdict(CELLS[cell["strategy"]])
    differ = {field for field in cell if cell[field] != middle[field]} - {"part"}
    assert differ <= MAY_DIFFER[cell["part"]] and (differ or cell["part"] == "headline")


@pytest.mark.parametrize("part", PARTS)
def test_budgets_are_equal_within_a_part(part):
    """Raster, annealed and random see as many images, in as many steps."""
    by_setting: dict = {}
    for cell in CELLS.values():
        if cell.part == part:
            run = run_of(cell, 0, TUNED)
            assert run.train.total_steps == cell.steps
            by_setting.setdefault((cell.passes, cell.images), set()).add(cell.steps)
    assert all(len(steps) == 1 for steps in by_setting.values())
    if part == "data":  # less data means more passes, not fewer steps
        assert set.union(*by_setting.values()) == {CELLS["annealed"].steps}


def test_every_image_is_seen_as_often_as_the_cell_says():
    cell = CELLS["annealed"]
    assert cell.steps * 64 == pytest.approx(cell.images * cell.passes, rel=0.001)


def test_the_windows_are_shares_of_the_run():
    run = run_of(CELLS["annealed_from_25_to_50"], 0, TUNED).train
    r = [random_ratio_at(share * run.total_steps, run) for share in (0.2, 0.375, 0.51)]
    assert r == pytest.approx([1, 0.5, 0], abs=0.01)
    for name, share in (("raster", 0.0), ("random", 1.0)):
        run = run_of(CELLS[name], 0, TUNED).train
        assert {random_ratio_at(step, run) for step in range(run.total_steps)} == {share}


def test_all_parts_of_the_paper_are_there():
    ends = {c.final_order for c in CELLS.values() if c.part in ("headline", "orders")}
    assert ends == {"raster", "random", *study.ORDERS} and len(ends) == 7
    assert len(seeds_of("headline")) >= 5 and all(len(seeds_of(p)) >= 3 for p in PARTS[1:])
    others = {seed for part in PARTS[1:] for seed in seeds_of(part)}
    assert not others & set(seeds_of("tuning"))


def test_a_cell_needs_tuned_values():
    with pytest.raises(InvalidValue, match="tuned"):
        run_of(CELLS["raster"], 0)
    assert run_of(CELLS["raster_dropout_0.3"], 100).model.dropout == 0.3


def test_runs_are_done_seed_by_seed():
    runs = runs_of(["headline"])
    assert runs[:4] == [("raster", 0), ("annealed", 0), ("random", 0), ("raster", 1)]
    assert runs_of(["headline"], [1], ["random"]) == [("random", 1)]


# What is measured


def brute_force(samples, real, k=3):
    """The share of samples within a real image's ball: its k-th neighbour, itself not counted."""

    def inside(points, centres):
        hits = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted(
                    float(np.linalg.norm(centre - x)) for j, x in enumerate(centres) if j != i
                )
                if np.linalg.norm(point - centre) <= others[k - 1]:
                    hits += 1
                    break
        return hits / len(points)

    return inside(samples, real), inside(real, samples)


def test_precision_and_recall_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    samples, real = rng.normal(0, 1.5, (30, 2)), rng.normal(1.5, 1.2, (30, 2))
    clouds = [
        Cloud(torch.randint(256, (30, 1, 4, 4), dtype=torch.uint8), torch.tensor(x).float())
        for x in (samples, real)
    ]
    found = compare(*clouds)
    assert (found["precision"], found["recall"]) == pytest.approx(brute_force(samples, real))
    assert 0.2 < found["recall"] < 1 and 0.2 < found["precision"] < 1


def test_samples_that_are_the_reference_are_perfect():
    images = torch.randint(256, (40, 1, 4, 4), dtype=torch.uint8)
    cloud = Cloud(images, torch.randn(40, 5))
    found = compare(cloud, cloud)
    assert found["precision"] == found["recall"] == 1 and found["nearest"] == 0
    assert found["proxy_fid"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("final_order", ["raster", "spiral_in", "random"])
def test_the_mean_over_cells_is_the_loss_in_the_order_of_sampling(final_order):
    torch.manual_seed(0)
    model = RAR(get_preset("tiny", final_order=final_order).model).eval()
    generator = torch.Generator().manual_seed(0)
    data = TokenData(
        torch.randint(8, (30, 1, 49), generator=generator),
        torch.randint(10, (30,), generator=generator),
    )
    found = loss_by_cell(model, data, batch_size=7)
    assert found.mean().item() == pytest.approx(validation_loss(model, data, 0.0), abs=1e-6)
    tokens, labels = data.rows([5])  # one image by hand: the loss of each step at its cell
    orders = own_orders(model, 6)[5:]
    logits = model(tokens, model.config.condition_id(labels), orders).log_softmax(-1)
    one = torch.zeros(49)
    for step, cell in enumerate(orders[0].tolist()):
        one[cell] = -logits[0, step, tokens[0, cell]]
    only = TokenData(data.tokens[:6], data.labels[:6])
    before = TokenData(data.tokens[:5], data.labels[:5])
    ours = 6 * loss_by_cell(model, only) - 5 * loss_by_cell(model, before)
    torch.testing.assert_close(ours.float(), one, atol=1e-4, rtol=0)


class Apple(TorchFunctionMode):
    """Of what lies on Apple's GPU nothing becomes float64; what `cpu` copies, does."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            self.host = args[0].clone()
            return self.host
        if function is torch.Tensor.double and args[0].numel() and args[0].any():
            assert args[0] is self.host, "the MPS framework doesn't support float64"
        return function(*args, **(kwargs or {}))


def test_the_loss_of_each_cell_can_be_measured_on_an_apple_gpu():
    model = RAR(get_preset("tiny").model).eval()
    data = TokenData(torch.randint(8, (5, 1, 49)), torch.randint(10, (5,)))
    with Apple():
        assert loss_by_cell(model, data).isfinite().all()


def test_a_job_can_be_killed_where_there_is_no_sigkill(tmp_path, monkeypatch):
    """As on Windows."""
    sent, job = [], object.__new__(study.Job)
    job.send = lambda number, to_papermill: sent.append((number, to_papermill))
    job.process = SimpleNamespace(wait=lambda: None)
    monkeypatch.delattr(signal, "SIGKILL")
    job.kill()
    assert sent == [(signal.SIGTERM, True)]


def test_the_best_weights_survive(tmp_path):
    model = RAR(get_preset("tiny").model)

    def evaluated(step, loss):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(dict(step=step, raster_loss=loss, random_loss=0.0)) + "\n")
        with torch.no_grad():
            model.cls_token.fill_(step)

    for step, loss in enumerate([3.0, 2.0, 2.5]):
        evaluated(step, loss)
        BestWeights(tmp_path)(step, model)  # a new one each time, as after a stop
    best = BestWeights(tmp_path)
    assert (best.step, best.loss) == (1, 2.0)
    with study.safe_open(best.path, "pt") as file:
        assert (file.get_tensor("cls_token") == 1).all()


def test_the_grid_shows_two_samples_of_each_class(tmp_path):
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    keep_grid(images, tmp_path / "grid.png")
    picture = np.array(Image.open(tmp_path / "grid.png"))[3::6, 3::6]
    assert picture[0].tolist() == list(range(0, 50, 5))
    assert picture[1].tolist() == list(range(1, 50, 5))


# Tuning


def made_up(strategy, dropout, loss, fids):
    sets = [dict(guidance_scale=scale, proxy_fid_unseen=fid) for scale, fid in fids.items()]
    measures = dict(step=1, validation_loss=loss, sets=sets)
    return dict(
        cell=f"{strategy}_dropout_{dropout:g}",
        part="tuning",
        seed=100,
        seconds=1.0,
        factors=dict(strategy=strategy, dropout=dropout),
        final=measures,
        best=measures,
    )


def test_dropout_is_chosen_by_loss_and_guidance_by_proxy_fid():
    raws = [
        made_up("raster", 0.0, 2.5, {0.0: 1.0, 2.0: 0.1}),
        made_up("raster", 0.3, 2.1, {0.0: 3.0, 2.0: 2.0, 4.0: 2.5}),
        made_up("annealed", 0.0, 2.0, {0.0: 5.0, 2.0: 6.0}),
        made_up("annealed", 0.1, 2.0, {0.0: 5.0, 2.0: 4.0}),
        made_up("random", 0.1, 2.6, {0.0: 9.0, 2.0: 8.0, 4.0: 7.0}),
    ]
    tuned = choose_tuned(raws[::-1])
    found = {name: (one["dropout"], one["guidance_scale"]) for name, one in tuned.items()}
    assert found == dict(raster=(0.3, 2.0), annealed=(0.0, 0.0), random=(0.1, 4.0))
    assert tuned["raster"]["why"]["validation_loss_by_dropout"] == {"0": 2.5, "0.3": 2.1}
    with pytest.raises(InvalidValue, match="tuning runs"):
        choose_tuned(raws[:2])


def test_tuned_values_are_written_once_all_tuning_runs_are_there(tmp_path):
    place, runs = Place(tmp_path), runs_of(["tuning"])
    for name, seed in runs:
        assert write_tuned(place) is None and not place.tuned.exists()
        cell = CELLS[name]
        write_json(made_up(cell.strategy, cell.dropout, cell.dropout, {0.0: 1.0}),
                   place.raw(name, seed))  # fmt: skip
    assert {one["dropout"] for one in write_tuned(place).values()} == {0.0}
    before = place.tuned.stat().st_mtime_ns
    assert write_tuned(place) == json.loads(place.tuned.read_text())
    assert place.tuned.stat().st_mtime_ns == before  # never changed afterwards


# One run

MEASURES = {"step", "validation_loss", "training_loss", "loss_by_cell", "sets"}
SET = {"guidance_scale", "class_agreement"} | {
    f"{name}_{kind}"
    for name in ("proxy_fid", "precision", "recall", "nearest")
    for kind in ("seen", "unseen")
}


def check_raw(raw, scales):
    assert set(raw["factors"]) == {
        "strategy",
        "anneal",
        "final_order",
        "target_aware",
        "hidden_size",
        "images",
        "passes",
        "dropout",
    }
    for model in ("final", "best"):
        measured = raw[model]
        assert set(measured) == MEASURES and len(measured["loss_by_cell"]) == 49
        assert np.mean(measured["loss_by_cell"]) == pytest.approx(measured["validation_loss"])
        assert [entry["guidance_scale"] for entry in measured["sets"]] == scales
        assert all(set(entry) == SET for entry in measured["sets"])
    curve, validation = raw["curve"], raw["validation"]
    assert len(curve["step"]) == len(curve["loss"]) == len(curve["r"])
    lowest = np.argmin(validation["raster_loss"])
    assert raw["best"]["step"] == validation["step"][lowest]
    assert raw["best"]["validation_loss"] == pytest.approx(
        validation["raster_loss"][lowest], abs=1e-3
    )
    assert raw["final"]["step"] == curve["step"][-1] == validation["step"][-1]


def test_a_run_by_papermill_leaves_one_file(place):
    out = place.results / "out.ipynb"
    out.parent.mkdir(exist_ok=True)
    options = dict(results=str(place.results), work=str(place.work), tiny=True)
    execute("study_run", out, cell="annealed_to_z_curve", seed=0, **options)
    raw = read_raw(place.raw("annealed_to_z_curve", 0))
    check_raw(raw, [0.0, 2.0])
    assert raw["command"] == (
        "papermill nbs/study_run.ipynb out.ipynb -p cell annealed_to_z_curve -p seed 0 -p tiny True"
    )
    assert raw["machine"]["threads"] == 1 and raw["factors"]["dropout"] == 0.1
    assert raw["config"]["model"]["final_order"] == "z_curve"
    assert (place.results / "samples" / "annealed_to_z_curve.png").exists()
    said = f"New numbers, now stored in {place.results}, made with: {raw['command']}"
    assert said in out.read_text(encoding="utf-8")
    # the same command repeats the numbers without training, and an undisturbed run agrees
    assert run_cell("annealed_to_z_curve", 0, place, TINY) == raw
    place.raw("annealed_to_z_curve", 0).rename(place.results / "moved.json")
    again = run_cell("annealed_to_z_curve", 0, place, TINY, progress=False)  # measures only
    assert numbers(again) == numbers(raw)


def test_the_notebook_says_that_its_numbers_are_stored():
    page = (PROJECT / "nbs" / "study_run.ipynb").read_text(encoding="utf-8")
    assert "\"Stored numbers from results/study, made with: papermill nbs/study_run.ipynb " in page


def test_a_tuning_run_sweeps_guidance(place):
    raw = run_cell("random_dropout_0", 100, place, TINY, progress=False)
    check_raw(raw, list(TINY.sweep))
    assert raw["factors"]["dropout"] == 0 and raw["part"] == "tuning"


@pytest.mark.parametrize("how", ["signal", "crash"])
def test_stopped_and_continued_gives_the_same_numbers(place, monkeypatch, how):
    whole = run_cell("random", 1, place, TINY, progress=False)
    other = Place(place.results / "other", place.work / "other")
    write_json(TUNED, other.tuned)
    other.work.mkdir()
    (other.work / "shared").symlink_to(place.work / "shared")
    keep = BestWeights.__call__

    def stopping(self, step, model):
        keep(self, step, model)
        if step == 4 and how == "crash":
            raise KeyboardInterrupt
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(BestWeights, "__call__", stopping)
        with pytest.raises(Stopped if how == "signal" else KeyboardInterrupt):
            run_cell("random", 1, other, TINY, progress=False)
    assert not other.raw("random", 1).exists()
    rest = run_cell("random", 1, other, TINY, progress=False)
    assert numbers(rest) == numbers(whole)


def test_a_folder_of_another_run_is_refused(place):
    run_cell("raster", 2, place, TINY, progress=False)
    place.raw("raster", 2).unlink()
    write_json({**TUNED, "raster": dict(dropout=0.3, guidance_scale=2.0)}, place.tuned)
    with pytest.raises(InvalidValue, match=r"model.dropout \(0.1 there, 0.3 now\)"):
        run_cell("raster", 2, place, TINY, progress=False)


def test_numbers_of_a_cell_that_has_changed_are_refused(fake, monkeypatch):
    run_study(["headline"], fake, seeds=[0])
    changed = study.replace(CELLS["random"], images=1000)
    monkeypatch.setitem(CELLS, "random", changed)
    for call in (
        lambda: run_study(["headline"], fake, seeds=[0]),
        lambda: run_cell("random", 0, fake),
        lambda: run_cell("raster", 0, fake, TINY),
    ):
        with pytest.raises(InvalidValue, match="remove the file to run that cell again"):
            call()


def test_without_tuned_values_the_remedy_is_named(place):
    place.tuned.unlink()
    with pytest.raises(InvalidValue, match="--part tuning"):
        run_cell("raster", 0, place, TINY)
    with pytest.raises(InvalidValue, match="--part tuning"):
        run_study(["headline"], place)
    with pytest.raises(InvalidValue, match="cell = 'rasta'"):
        run_cell("rasta", 0, place)


# The driver


class FakeJob:
    """A run that ends after a moment, with a file or without one."""

    started: list = []
    fails: set = set()
    seconds = 0.0

    def __init__(self, name, seed, place, scale, device):
        self.name, self.seed, self.raw = name, seed, place.raw(name, seed)
        self.log, self.end = place.results / "log.txt", time.monotonic() + self.seconds
        self.started.append((name, seed))

    def ended(self):
        if time.monotonic() < self.end:
            return False
        if self.name not in self.fails:
            measures = dict(validation_loss=1.0, step=1,
                            sets=[dict(proxy_fid_unseen=2.0, guidance_scale=0.0)])  # fmt: skip
            factors = study.factors_of(CELLS[self.name], 0.1)
            write_json(dict(cell=self.name, part="headline", seed=self.seed, seconds=1.0,
                            final=measures, best=measures, factors=factors), self.raw)  # fmt: skip
        return True

    def stop(self):
        self.end = time.monotonic() + 1e9

    kill = stop

    def why(self):
        return "no reason"


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A study whose runs are fakes, its place, and the list of those that were started."""
    monkeypatch.setattr(study, "Job", FakeJob)
    monkeypatch.setattr(FakeJob, "started", [])
    monkeypatch.setattr(study, "stop_all", lambda jobs: [job.stop() for job in jobs])
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01)))
    place = Place(tmp_path / "results", tmp_path / "work")
    write_json(TUNED, place.tuned)
    return place


def test_the_driver_does_what_is_left(fake, capsys):
    run_study(["headline"], fake, jobs=2, seeds=[0])
    assert FakeJob.started == [("raster", 0), ("annealed", 0), ("random", 0)]
    assert capsys.readouterr().out.count("validation loss") == 3
    fake.raw("annealed", 0).unlink()
    run_study(["headline"], fake, jobs=2, seeds=[0, 1])
    assert FakeJob.started[3:] == [("annealed", 0), ("raster", 1), ("annealed", 1), ("random", 1)]
    assert "0 1 · · ·" in list_cells(fake, ["headline"])
    count = len(FakeJob.started)
    run_study(["headline"], fake, jobs=2, seeds=[0, 1])
    assert len(FakeJob.started) == count


def test_the_driver_goes_on_after_a_failure_and_says_so(fake, monkeypatch, capsys):
    monkeypatch.setattr(FakeJob, "fails", {"annealed"})
    with pytest.raises(Stopped, match="2 of 3 runs are done; what is left: annealed/0"):
        run_study(["headline"], fake, seeds=[0])
    assert "annealed seed 0 has failed (no reason)" in capsys.readouterr().out
    assert len(FakeJob.started) == 3


def test_the_driver_stops_in_time(fake, monkeypatch):
    monkeypatch.setattr(FakeJob, "seconds", 60)
    with pytest.raises(Stopped, match="0 of 15"):
        run_study(["headline"], fake, jobs=2, minutes=0.002)
    assert len(FakeJob.started) == 2


def test_the_driver_stops_at_a_signal(fake, monkeypatch):
    monkeypatch.setattr(FakeJob, "seconds", 60)
    ended = FakeJob.ended

    def signalled(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return ended(self)

    monkeypatch.setattr(FakeJob, "ended", signalled)
    with pytest.raises(Stopped, match="0 of 3"):
        run_study(["headline"], fake, jobs=1, seeds=[4])
    assert FakeJob.started == [("raster", 4)]


def test_a_real_job_is_stopped_and_continued(place):
    """The driver's process: papermill and its kernel, which a signal must reach."""
    job = study.Job("raster", 3, place, TINY, "cpu")
    metrics = place.folder("raster", 3) / "metrics.jsonl"
    last = time.monotonic() + 120
    while not metrics.exists() and not job.ended() and time.monotonic() < last:
        time.sleep(0.02)
    study.stop_all([job])
    assert job.ended() and not study.psutil.pid_exists(job.process.pid)
    if not job.raw.exists():  # it may have been too fast
        run_study(["headline"], place, seeds=[3], cells=["raster"], scale=TINY)
    check_raw(read_raw(job.raw), [0.0, 2.0])


def test_full_and_tiny_have_the_same_cells():
    for cell in CELLS.values():
        small = TINY(cell)
        assert FULL(cell) == cell and small.images * 10 == cell.images
        assert run_of(small, 0, TUNED, TINY).train.total_steps == small.steps > 0


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", dict(factors=3), dict(final={}), dict(cell="random"), dict(seed=1)],
)
def test_files_that_are_no_numbers_of_a_run_are_named(fake, content):
    run_study(["headline"], fake, seeds=[0])
    path = fake.raw("raster", 0)
    good = json.loads(path.read_text())
    path.write_text(content if isinstance(content, str) else json.dumps(good | content))
    for call in (lambda: run_study(["headline"], fake), lambda: run_cell("raster", 0, fake)):
        with pytest.raises(InvalidValue, match="remove the file to run that cell again") as raised:
            call()
        assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "parts, seeds, cells",
    [(["headline"], [7], None), (["tuning"], None, ["annealed"]), (["orders"], [3], None)],
)
def test_nothing_to_do_is_refused(fake, parts, seeds, cells):
    with pytest.raises(InvalidValue, match="at least one run: these parts have the seeds"):
        run_study(parts, fake, seeds=seeds, cells=cells)


def test_a_folder_that_cannot_be_written_is_named_before_the_first_run(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValue, match="part of this path is a file"):
        run_study(["tuning"], fake._replace(results=tmp_path / "file" / "results"))
    assert not FakeJob.started
    with pytest.raises(InvalidValue, match="results = ''"):
        study.find_place("")
    with pytest.raises(InvalidValue, match="minutes = -1"):
        run_study(["tuning"], fake, minutes=-1)


def test_the_list_is_of_what_was_asked_for(fake):
    run_study(["headline"], fake, seeds=[0])
    text = list_cells(fake, ["headline"], [0, 1], ["raster", "random"], study.TINY)
    assert [line.split()[1:] for line in text.splitlines()] == [
        [name, "8", "steps", "0", "·"] for name in ("raster", "random")
    ]


@pytest.mark.parametrize(
    "content, error",
    [
        ("{", "does not hold"),
        ({}, "'raster' is missing"),
        (dict(raster=dict(dropout=5.0, guidance_scale=1.0)), "raster.dropout"),
        (dict(raster=dict(dropout=0.1, guidance_scale=-1.0)), "raster.guidance_scale"),
        (dict(raster=dict(dropout=0.1, guidance_scale=float("nan"))), "raster.guidance_scale"),
    ],
)
def test_damaged_tuned_values_are_named(fake, content, error):
    fake.tuned.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InvalidValue, match=error) as raised:
        run_cell("raster", 0, fake)
    assert str(fake.tuned) in str(raised.value) and "--part tuning" in str(raised.value)


@pytest.mark.parametrize("damage", ["cut", "none", "metrics"])
def test_weights_that_are_not_the_best_ones_are_refused(tmp_path, damage):
    model, rows = RAR(get_preset("tiny").model), []
    for step, loss in enumerate([3.0, 2.0, 2.5]):
        rows.append(dict(step=step, loss=1.0, raster_loss=loss))
        (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[-1]) + "\n")
        BestWeights(tmp_path)(step, model)
    best = BestWeights(tmp_path)
    best.check(rows, 2)
    if damage == "cut":
        best.path.write_bytes(best.path.read_bytes()[:1000])
        with pytest.raises(InvalidValue, match="best.safetensors"):
            BestWeights(tmp_path)
    elif damage == "none":
        best.path.unlink()
        with pytest.raises(InvalidValue, match="to run the cell anew"):
            BestWeights(tmp_path).check(rows, 2)
    else:
        for some in ([], rows[:2], [rows[0], rows[2]]):
            with pytest.raises(InvalidValue, match="to run the cell anew"):
                best.check(some, 2)


def test_the_shared_tokenizer_comes_out_the_same(tmp_path, monkeypatch):
    """Whatever was drawn before: or runs made before and after could not be compared."""
    short = get_preset("digits", vq_steps=2)
    monkeypatch.setattr(study, "get_preset", lambda name, changes: short)
    digits, made = open_data("digits")[0], []
    for k in (1, 2):
        folder = tmp_path / str(k)
        folder.mkdir()
        for name in ("classifier", "tokens"):  # of which nothing is asked here
            (folder / f"{name}.safetensors").touch()
        torch.manual_seed(k)
        study.make_shared(
            folder, FULL, torch.empty(0), torch.empty(0), [digits], torch.device("cpu")
        )
        made.append((folder / "tokenizer.safetensors").read_bytes())
    assert made[0] == made[1]


# Images of one's own


@pytest.mark.parametrize("which", ["training", "validation"])
def test_classes_of_unequal_size_are_dealt_out_equally(labels, which):
    """Each part has as many images of each class as the smallest one gives; none is there twice."""
    less = np.flatnonzero(labels[:4500] == 3)[:60]
    if which == "validation":
        less = 4500 + np.flatnonzero(labels[4500:] == 3)[:7]
    fewer = np.delete(labels, less)
    split = study.split_images(fewer, 4500 - len(less) * (which == "training"), 2000)
    for rows in split.values():
        assert set(np.bincount(fewer[rows], minlength=10)) == {len(rows) // 10}
    assert len(split["validation"]) == (430 if which == "validation" else 500)
    together = np.concatenate(list(split.values()))
    assert len(set(together)) == len(together)


def test_a_class_smaller_than_the_tuning_images_is_dealt_out_once():
    labels = np.repeat(np.arange(10), 60)[np.random.default_rng(0).permutation(600)]
    split = study.split_images(labels, 500, 200, tuning=700)
    together = np.concatenate(list(split.values()))
    assert len(set(together)) == len(together)
    everything = study.split_images(np.tile(np.arange(10), 60), 500, 500)
    with pytest.raises(InvalidValue, match="tuning images = 0 .* one a class besides the 500"):
        study.judges(everything, True)


def folder_of(path, classes=10, size=32, each=4):
    for part in ("train", "val"):
        for c in range(classes):
            (path / part / f"c{c}").mkdir(parents=True)
            for k in range(each):
                pixels = np.random.default_rng(k).integers(0, 255, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / f"c{c}" / f"{k}.png")
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(classes=3), r"classes of '.*' = 3 .* 10, each a subfolder"),
        (dict(size=48), r"= \(3, 48\) is not allowed: it must be \(3, 32\): convert and scale"),
        (dict(), "images = 10000 .* at least 10 and at most 40"),
    ],
)
def test_images_of_no_use_are_refused_before_any_work(tmp_path, monkeypatch, changes, message):
    scale = study.choose_scale(str(folder_of(tmp_path / "images", **changes)))
    place = study.find_place(tmp_path / "results", tmp_path / "work", scale)
    monkeypatch.setattr(study, "train_tokenizer", None)
    for call in (lambda: run_cell("raster_dropout_0", 100, place, scale),
                 lambda: run_study(["tuning"], place, scale=scale)):  # fmt: skip
        with pytest.raises(InvalidValue, match=message):
            call()
    assert not list((tmp_path / "work").rglob("*.safetensors"))
    assert not (tmp_path / "results").exists()


def test_tokens_of_other_images_are_refused(tmp_path):
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4)
    path = tmp_path / "shared" / "tokens.safetensors"
    path.parent.mkdir()
    of = study.content_hash(dict(images=images, labels=labels))
    save_file(dict(tokens=labels[:, None]), path, dict(images=of))
    study.check_tokens_of(path, labels, images, labels)
    for other in (images + 1, images[:3]):
        with pytest.raises(InvalidValue, match="they are of other images; choose another `work`"):
            study.check_tokens_of(path, labels, other, labels[: len(other)])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "/nowhere"], "data = '/nowhere'"),
        (["--data", "/nowhere", "--tiny"], "tiny = True"),
        (["--tiny", "--device", "nonsense"], "device = 'nonsense'"),
        (["--tiny", "--device", "cuda:99"], "device = 'cuda:99'"),
        (["--tiny", "--jobs", "0"], "jobs = 0"),
        (["--tiny", "--minutes", "-1"], "minutes = -1"),
        (["--tiny", "--part", "tunning"], "part = 'tunning'"),
        (["--tiny", "--part", "headline"], "make study"),
    ],
)
def test_the_pool_says_in_one_line_what_is_wrong(tmp_path, words, message):
    """The first of these as a user starts it."""
    run = program if "--tiny" in words else python
    places = ["--results", tmp_path / "results", "--work", tmp_path / "work"]
    done = run("tests.tools.study_pool", *words, *places, folder=study.PROJECT)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")


@pytest.mark.parametrize("scale", [TINY, COLOUR], ids=lambda scale: scale.name)
def test_toy_sizes_and_colour_have_the_warm_up_of_their_preset(scale):
    train = get_preset(scale.preset).train
    assert scale.warmup == pytest.approx(train.warmup_epochs / train.epochs)


def test_every_stored_run_has_the_configuration_that_the_study_gives_it_today():
    """Whatever becomes of the preset: runs that are added later must be comparable."""
    stored_runs = sorted((STUDY / "raw").glob("*/*.json"))
    choices = json.loads((STUDY / "tuned.json").read_text())
    for path in stored_runs:
        stored = json.loads(path.read_text())
        run = run_of(FULL(CELLS[stored["cell"]]), stored["seed"], choices)
        for part in ("model", "tokenizer", "train", "sample"):
            today = asdict(getattr(run, part))
            for name, value in stored["config"][part].items():
                near = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
                assert today[name] == near, (path, name)
    assert len(stored_runs) > 100
