"""Expected curves: the band by hand, what counts as normal, and what may be compared."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rar_nb.pretrained.presets import (
    PRESETS,
    get_preset,
    override,
    resolve,
    save_run_config,
)
from rar_nb.reports import expected as module
from rar_nb.reports.expected import (
    SLACK,
    Closeness,
    band,
    closeness,
    collect,
    expected_curve,
    expected_sentence,
    main,
    plot_expected,
    read_expected,
    train_command,
    why_not_comparable,
    widened,
)
from rar_nb.runs import launch
from rar_nb.runs.run_folders import read_metrics
from rar_nb.support import PROJECT, InvalidValue, Stopped, write_json


@pytest.fixture(scope="module")
def run():
    return resolve(get_preset("tiny"), 4500, 10, 1, 28)


def rows_of(run, seed, shift=0.0):
    """Metrics as a run writes them; `shift`: added to the losses of the second half."""
    rng, total = np.random.default_rng(seed), run.train.total_steps
    rows = []
    for step in range(total + 1):
        loss = 3 * np.exp(-step / 10) + 1 + rng.normal(0, 0.05) + (shift if step > total / 2 else 0)
        if step > 0:
            rows.append(dict(step=step, loss=loss))
        if step % 5 == 0:
            rows.append(dict(step=step, raster_loss=loss + 0.1))
    return rows


@pytest.fixture(scope="module")
def stored(run):
    return expected_curve({seed: rows_of(run, seed) for seed in range(5)}, run, "0123abc", "here")


@pytest.fixture
def folder(stored, tmp_path):
    write_json(stored, tmp_path / "tiny.json")
    return tmp_path


def test_band_by_hand():
    found = band([([1, 2, 4], [3.0, 1.0, 0.0]), ([2, 4, 9], [2.0, 6.0, 0.0]), ([4, 2], [5.0, 9.0])])
    assert found == dict(steps=[2, 4], low=[1.0, 0.0], median=[2.0, 5.0], high=[9.0, 6.0])
    low, high = widened(found)
    assert low == pytest.approx([1 - 8 - 2 * SLACK, 0 - 6 - 5 * SLACK])
    assert high == pytest.approx([9 + 8 + 2 * SLACK, 6 + 6 + 5 * SLACK])


@pytest.mark.parametrize("curves", [[([1], [1.0]), ([2], [1.0])], [([1], [float("nan")])]])
def test_band_refuses_what_has_none(curves):
    with pytest.raises(InvalidValue, match="finite numbers"):
        band(curves)


def test_stored_is_what_is_read_again(stored, folder):
    assert read_expected("tiny", folder) == stored == json.loads(json.dumps(stored))
    assert read_expected("digits", folder) is None
    assert stored["seeds"] == [0, 1, 2, 3, 4] and stored["loss"]["steps"][-1] == stored["steps"]
    path = folder / "tiny.json"
    path.write_text(json.dumps(stored | dict(loss=stored["loss"] | dict(low=[1.0]))))
    with pytest.raises(InvalidValue, match="one length"):
        read_expected("tiny", folder)


def test_too_few_or_unfinished_runs(run):
    rows = {seed: rows_of(run, seed) for seed in range(3)}
    with pytest.raises(InvalidValue, match="at least 3"):
        expected_curve({0: rows[0], 1: rows[1]}, run, "", "")
    with pytest.raises(InvalidValue, match="last step of seed 1"):
        expected_curve(rows | {1: rows[1][:-4]}, run, "", "")


def test_other_seeds_are_normal(run, stored):
    """Of a hundred runs that differ in nothing but the seed, none or few are told otherwise."""
    found = [closeness(rows_of(run, seed), stored["loss"], "loss") for seed in range(10, 110)]
    assert sum(not c.is_normal for c in found) <= 3
    assert found[0].points == run.train.total_steps


@pytest.mark.parametrize("shift, side", [(0.8, "above"), (-0.8, "below"), (float("nan"), "above")])
def test_what_is_not_normal(run, stored, shift, side):
    rows = rows_of(run, 7, shift)
    found = closeness(rows, stored["loss"], "loss")
    assert not found.is_normal and found.outside == run.train.total_steps // 2 + 1
    assert found.above == (side == "above")
    text = expected_sentence(rows, stored)
    assert text.count("not as expected") == 2 and f"{side} it, at step {found.outside}" in text


def test_borders_of_normal():
    of = dict(steps=list(range(20)), low=[1.0] * 20, median=[1.0] * 20, high=[1.0] * 20)
    at_the_end = 1 + SLACK
    for wrong, is_normal in ((0, True), (1, True), (2, False)):
        rows = [dict(step=k, loss=at_the_end + 0.001 * (k < wrong)) for k in range(20)]
        assert closeness(rows, of, "loss").is_normal == is_normal
    assert Closeness(0.95, 20, 3, True).is_normal


def test_a_run_that_has_hardly_begun(run, stored):
    rows = rows_of(run, 7)
    assert closeness(rows[:1], stored["loss"], "loss") is None
    assert "not measured at any step" in expected_sentence([], stored)
    assert closeness(rows[:4], stored["loss"], "loss").points < 4


def test_only_equal_configurations_are_compared(run, folder):
    assert why_not_comparable(run, folder) == ""
    assert why_not_comparable(replace(run, seed=7), folder) == ""
    assert why_not_comparable(override(run, guidance_scale=9.0, checkpoint_every=5), folder) == ""
    for change in (dict(num_layers=3), dict(learning_rate=0.1), dict(batch_size=16)):
        (name,) = change
        assert f"{name} = {change[name]!r} in place of" in why_not_comparable(
            override(run, change), folder
        )
    assert "reports.expected --preset digits" in why_not_comparable(get_preset("digits"), folder)


def test_fields_that_are_newer_than_the_file(run, folder, stored):
    """They count as they are in the preset."""
    old = {name: value for name, value in stored["config"].items() if name != "model.dropout"}
    write_json(stored | dict(config=old), folder / "tiny.json")
    assert why_not_comparable(run, folder) == ""
    assert "dropout = 0.5" in why_not_comparable(override(run, dropout=0.5), folder)


def test_the_curve_bears_the_name_of_the_final_order(run, tmp_path):
    spiral = override(run, final_order="spiral_in")
    rows = rows_of(run, 9)
    curves = {seed: rows_of(run, seed) for seed in range(5)}
    stored = expected_curve(curves, spiral, "0123abc", "here")
    assert "The validation loss in spiral_in order is as expected" in expected_sentence(
        rows, stored
    )
    write_json(stored, tmp_path / "tiny.json")
    axes = plot_expected(rows, "tiny", tmp_path).axes
    titles = [ax.get_title() or ax.get_title("left") for ax in axes]  # where the style puts them
    assert titles == ["Training loss", "Validation loss in spiral_in order"]
    assert "model.final_order = 'raster' in place of 'spiral_in'" in why_not_comparable(
        run, tmp_path
    )


def test_plot(run, folder):
    for rows in ([], rows_of(run, 7), rows_of(run, 7)[:1]):
        figure = plot_expected(rows, "tiny", folder)
        assert [ax.get_title() or ax.get_title("left") for ax in figure.axes] == [
            "Training loss",
            "Validation loss in raster order",
        ]
        plt.close(figure)
    with pytest.raises(InvalidValue, match="reports.expected --preset digits"):
        plot_expected([], "digits", folder)


# The command


def fake_run(folder, run, seed, done=True):
    folder.mkdir(parents=True, exist_ok=True)
    save_run_config(replace(run, seed=seed), folder / "config.json")
    lines = [json.dumps(row) for row in rows_of(run, seed)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if done:
        (folder / "model.safetensors").write_bytes(b"")


def test_collect_finished_runs(tmp_path, run):
    for seed in (1, 2, 3):
        fake_run(tmp_path / "runs" / str(seed), run, seed)
    main(preset="tiny", seeds="1,2,3", runs=str(tmp_path / "runs"), out=str(tmp_path / "out"))
    found = read_expected("tiny", tmp_path / "out")
    assert found["seeds"] == [1, 2, 3] and found["config"]["model.num_layers"] == 2
    fake_run(tmp_path / "runs" / "3", override(run, num_layers=3), 3)
    with pytest.raises(InvalidValue, match="that of seed 1, but for the seed"):
        collect("tiny", tmp_path / "runs", [1, 2, 3])
    fake_run(tmp_path / "runs" / "3", run, 4)
    with pytest.raises(InvalidValue, match="as the folder's name says"):
        collect("tiny", tmp_path / "runs", [1, 2, 3])


def test_missing_runs_are_done(tmp_path, run, monkeypatch):
    """Finished ones are left alone, one that was begun goes on, and a failure ends the command."""
    fake_run(tmp_path / "1", run, 1)
    fake_run(tmp_path / "2", run, 2, done=False)
    called = []

    def papermill(words):
        called.append(words)
        seed = int(words[words.index("seed") + 1])
        if seed != 4:
            fake_run(tmp_path / str(seed), run, seed)
        return type("Done", (), dict(returncode=int(seed == 4)))

    monkeypatch.setattr(module.subprocess, "run", papermill)
    with pytest.raises(Stopped, match="seed 4 has not finished"):
        main(preset="tiny", seeds="1,2,3,4", runs=str(tmp_path), out=str(tmp_path))
    assert [words[words.index("seed") + 1] for words in called] == ["2", "3", "4"]
    assert ["resume" in words for words in called] == [True, False, False]
    assert not (tmp_path / "tiny.json").exists()


def test_no_run_is_begun_where_only_the_library_is(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "PROJECT", tmp_path)
    with pytest.raises(InvalidValue, match="a wheel brings none"):
        main(preset="tiny", seeds="1,2,3", runs=str(tmp_path / "runs"), out=str(tmp_path))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("seeds", ["1,2", "1,1,2", "1,two,3", ""])
def test_seeds_that_make_no_band(tmp_path, seeds):
    with pytest.raises(InvalidValue, match="different whole numbers"):
        main(preset="tiny", seeds=seeds, runs=str(tmp_path))


def test_the_notebook_takes_these_parameters(tmp_path):
    words = train_command("digits", 3, tmp_path, "digits")
    notebook = json.loads((PROJECT / "nbs" / "train.ipynb").read_text())
    parameters = next(
        "".join(c["source"])
        for c in notebook["cells"]
        if "parameters" in c["metadata"].get("tags", [])
    )
    names = [words[k + 1] for k, word in enumerate(words) if word == "-p"]
    assert names == ["preset", "seed", "run_dir", "data"]
    assert all(f"\n{name}: " in "\n" + parameters for name in names)


# The stored curve of the digits


def test_the_run_of_the_readme_is_as_expected():
    """Its seed is none of the band's."""
    stored, kept = read_expected("digits"), PROJECT / "results" / "digits"
    assert len(stored["seeds"]) >= 5 and PRESETS["digits"].seed not in stored["seeds"]
    assert why_not_comparable(resolve(PRESETS["digits"], 4500, 10, 1, 28)) == ""
    rows = read_metrics(kept / "metrics.jsonl")
    for name in ("loss", "raster_loss"):
        assert closeness(rows, stored[name], name).is_normal
    record = json.loads((kept / "run.json").read_text())["raster_loss_on_validation_digits"]
    measured = {str(row["step"]): row["raster_loss"] for row in rows if "raster_loss" in row}
    assert record == measured


def test_folders_are_tried_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(module.subprocess, "run", lambda words: pytest.fail("a run was begun"))
    (tmp_path / "file").write_text("")
    for wrong in (dict(out=tmp_path / "file" / "x"), dict(runs=tmp_path / "file" / "x")):
        places = dict(runs=tmp_path, out=tmp_path) | wrong
        with pytest.raises(InvalidValue, match="part of this path is a file"):
            main(preset="tiny", **places)
    with pytest.raises(InvalidValue, match="seeds"):
        main(preset="tiny", seeds=f"1,2,{2**32}")
