"""The study's report: its statistics against closed forms, its words and verdicts at their borders,
and all of it where files are missing."""

import itertools
import json
import math
import re
import statistics

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar_nb.reports import study_figures as study
from rar_nb.reports.study import (
    FAILS,
    HOLDS,
    MARGIN,
    MISSING,
    UNCLEAR,
    Comparison,
    mean_interval,
    sign_flip_test,
    small_gain,
    t_probability,
    t_quantile,
    verdict,
)
from rar_nb.reports.study_figures import (
    PARTS,
    by_seed,
    claims_table,
    commands,
    find_cell,
    gap_curve,
    headline_cells,
    headline_sentence,
    loss_by_cell,
    mean_curve,
    measured,
    number,
    read_runs,
    read_tuned,
)
from rar_nb.runs import study as driver
from rar_nb.support import InvalidValue
from tests.tools import rule
from tests.tools.study import write_study

PLOTS = {
    "plot_headline": "headline",
    "plot_training_curves": "headline",
    "plot_gap": "headline",
    "plot_twice": "headline",
    "plot_loss_map": "headline",
    "plot_length_and_data": "length",
    "plot_windows": "windows",
    "plot_orders": "orders",
    "plot_target": "target",
    "plot_sizes": "sizes",
    "plot_size_measures": "sizes",
    "plot_long_dropout": "long_dropout",
    "plot_situations": "headline",
}
TABLES = ["overview", "headline_table", "twice_table", "predictions_table", "windows_table"]
TABLES += ["orders_table", "target_table", "no_dropout_table", "long_dropout_table"]
TABLES += ["claims_table", "differences_table", "best_dropout_table"]
differences = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return read_runs(folder)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def pair(values, other=0.0):
    return Comparison(dict(enumerate(values)), dict.fromkeys(range(len(values)), other))


def without(runs, part):
    return [run for run in runs if run["part"] != part]


# Statistics


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 40.0])
def test_t_in_closed_form(t):
    assert t_probability(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-12)
    assert t_probability(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-12)
    x = t / math.sqrt(4 + t * t)
    assert t_probability(t, 4) == pytest.approx(x * (1.5 - x * x / 2), abs=1e-12)


@pytest.mark.parametrize("df", range(1, 13))
def test_t_is_the_integral_of_its_density(df):
    factor = math.gamma((df + 1) / 2) / math.gamma(df / 2) / math.sqrt(df * math.pi)
    x = np.linspace(0, 2.7, 20_001)
    density = factor * (1 + x * x / df) ** (-(df + 1) / 2)
    area = (density[1:] + density[:-1]).sum() * x[1]  # of both halves, by trapezoids
    assert t_probability(2.7, df) == pytest.approx(area, abs=1e-8)


@pytest.mark.parametrize(
    "df, confidence, printed",  # as in any table of Student's distribution
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (4, 0.95, 2.776), (9, 0.95, 2.262), (4, 0.99, 4.604)],
)
def test_t_quantile_is_the_printed_one(df, confidence, printed):
    assert t_quantile(df, confidence) == pytest.approx(printed, abs=5e-4)
    assert t_probability(t_quantile(df, confidence), df) == pytest.approx(confidence, abs=1e-12)


def test_one_seed_has_no_interval():
    with pytest.raises(InvalidValue, match="two seeds"):
        t_quantile(0)
    alone = pair([1.0])
    assert all(math.isnan(x) for x in (*alone.interval(), alone.p_value, alone.effect))
    assert alone.mean == 1.0


def test_interval_and_effect_by_hand():
    one, other = {0: 2.0, 1: 3.0, 2: 5.0, 7: 1.0}, {2: 1.0, 0: 1.0, 1: 1.0, 9: 0.0}
    found = Comparison(one, other)
    d = [1.0, 2.0, 4.0]
    half = 4.302652729911275 * statistics.stdev(d) / math.sqrt(3)
    assert found.seeds == [0, 1, 2] and found.left_out == [7, 9]
    assert found.differences == d
    assert found.interval() == pytest.approx((7 / 3 - half, 7 / 3 + half))
    assert found.effect == pytest.approx(7 / 3 / statistics.stdev(d))
    t = found.effect * math.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert mean_interval(dict(enumerate(d))) == pytest.approx((7 / 3, *found.interval()))


def test_no_scatter():
    sure, equal = pair([-1.0, -1.0, -1.0]), pair([0.0, 0.0])
    assert sure.interval() == (-1.0, -1.0) and sure.p_value == 0 and sure.effect == -math.inf
    assert equal.interval() == (0.0, 0.0) and equal.p_value == 1 and equal.effect == 0


@given(differences)
def test_interval_excludes_zero_exactly_where_p_is_small(d):
    found = pair(d)
    low, high = found.interval()
    if abs(found.p_value - 0.05) > 1e-9:
        assert (low > 0 or high < 0) == (found.p_value < 0.05)


@given(differences)
def test_sign_flips_by_brute_force(d):
    """All subsets are negated; whole numbers, so that equal sums are equal."""
    d = [round(4 * x) for x in d]
    size = abs(sum(d))
    sums = [
        abs(sum(d) - 2 * sum(chosen))
        for n in range(len(d) + 1)
        for chosen in itertools.combinations(d, n)
    ]
    assert sign_flip_test(d) == sum(s >= size for s in sums) / 2 ** len(d)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_least_p_of_sign_flips(n):
    assert sign_flip_test([0.1 + 0.01 * k for k in range(n)]) == 2 / 2**n
    assert sign_flip_test([0.1, 0.2, 0.3][:n]) == sign_flip_test([-0.1, -0.2, -0.3][:n])


def test_too_many_signs():
    with pytest.raises(InvalidValue, match="from 1 to 20"):
        sign_flip_test([1.0] * 21)


# Verdicts


def around(mean, seeds=5, confidence=0.95, reach=1.0):
    """A comparison whose interval reaches exactly `reach` to each side of `mean`."""
    shape = np.arange(seeds) - (seeds - 1) / 2
    half = t_quantile(seeds - 1, confidence) * np.std(shape, ddof=1) / math.sqrt(seeds)
    return pair((mean + reach / half * shape).tolist())


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_verdict_of_one_difference_at_its_borders(seeds):
    assert verdict([around(-1.001, seeds)]) == HOLDS
    assert verdict([around(-0.999, seeds)]) == UNCLEAR
    assert verdict([around(0.999, seeds)]) == UNCLEAR
    assert verdict([around(1.001, seeds)]) == FAILS


def test_an_interval_that_ends_at_zero_shows_nothing():
    assert verdict([pair([0.0, 0.0, 0.0])]) == UNCLEAR


def test_verdict_of_several_differences():
    assert verdict([around(-1.001)] * 3) == HOLDS  # no correction
    assert verdict([around(-1.001), around(-0.999)]) == UNCLEAR
    strict = around(1.001, confidence=1 - 0.05 / 3)
    nearly = around(0.999, confidence=1 - 0.05 / 3)  # clear alone, but it is one of three
    assert verdict([around(-2), around(-2), strict]) == FAILS
    assert verdict([around(-2), around(-2), nearly]) == UNCLEAR
    assert verdict([nearly]) == FAILS


def test_verdict_without_measurements():
    assert verdict([]) == MISSING
    assert verdict([around(-2), Comparison({0: 1.0}, {1: 1.0})]) == MISSING
    assert verdict([pair([-5.0])]) == UNCLEAR  # one pair of seeds


@pytest.mark.parametrize("gain", [-1.0, 0.0, 1.0])
def test_next_to_nothing(gain):
    """`random` gains a little more, or a little less, than a quarter of what `annealed` gains."""
    raster = {k: 3.0 + 0.1 * k for k in range(5)}
    annealed = {k: value - gain for k, value in raster.items()}
    limit = MARGIN * max(0.0, gain)
    for more, expected in ((-0.01, HOLDS), (0.01, FAILS)):
        random = {k: value - limit - more for k, value in raster.items()}
        assert verdict(small_gain(raster, random, annealed)) == expected
    assert small_gain(raster, raster, {}) == []


def test_printed_numbers_of_the_claims():
    claims = study.paper_claims()
    assert claims["a"].paper == "raster 3.08, random 3.01, annealed 2.18 to 2.74"
    assert claims["b"].paper == "2.18; other windows 2.28 to 2.74"
    assert claims["c1"].paper == "raster 2.18, others 2.29 to 2.50"
    assert claims["f"].paper.startswith("RAR-B 1.95") and claims["f"].paper.endswith("1.48")


def test_claims_of_made_up_runs(runs):
    """The made-up numbers were chosen so: annealed best, random in between, larger better."""
    for measure in ("validation_loss", "proxy_fid_unseen"):
        lines = str(claims_table(runs, measure, merged=1e-6)).splitlines()[2:]
        assert [line[3:5].strip(")") for line in lines] == ["a", "b", "c1", "c2", "d", "e", "f"]
        assert lines[0].count(HOLDS) == 2 and lines[4].count(HOLDS) == 2
    lines = str(claims_table(runs, "validation_loss")).splitlines()[2:]
    assert lines[-1].count(HOLDS) == 2 and len(lines) == 6
    assert lines[0].count(r"\*") == 2 and r"\*" not in lines[1].replace("**", "")
    assert str(claims_table([], merged=0.1)).count(FAILS) == 2


# Reading


def test_all_files_are_read(folder, runs):
    assert len(runs) == len(list((folder / "raw").glob("*/*.json")))
    assert {run["part"] for run in runs} == set(PARTS)
    assert read_runs(folder / "absent") == []
    assert read_tuned(folder)["annealed"]["dropout"] == 0.1 and read_tuned(folder / "raw") == {}


def test_parts_are_those_of_the_driver(runs):
    assert set(PARTS) == set(driver.PARTS)
    for part in PARTS:
        made = {run["cell"] for run in runs if run["part"] == part}
        assert made == {name for name, cell in driver.CELLS.items() if cell.part == part}
    assert set(study.STRATEGIES) == set(driver.STRATEGIES)


def test_what_a_run_writes_is_what_is_read(tmp_path):
    """The contract with the driver, by a run at toy sizes."""
    place = driver.find_place(tmp_path / "results", tmp_path / "work", driver.TINY)
    raw = driver.run_cell("annealed_dropout_0.1", 100, place, driver.TINY, progress=False)
    (run,) = read_runs(place.results)
    assert run["curve"] == raw["curve"] and run["real"] == raw["real"]
    twice = [f"{name}_{kind}" for name in study.TWICE for kind in ("seen", "unseen")]
    for name in ("gap", *study.HEADLINE, *twice):
        assert math.isfinite(measured(run, name)) and math.isfinite(measured(run, name, "best"))
    steps, gap = gap_curve(run)
    assert len(steps) == len(gap) > 0 and np.isfinite(gap).all()


@pytest.mark.parametrize(
    "path, change, error",
    [
        ("raw/raster/0.json", "not JSON", "again"),
        ("raw/raster/0.json", dict(curve=None), "curve"),
        ("raw/raster/0.json", dict(part="heart"), "one of tuning"),
        ("raw/raster/9.json", dict(), "move the file"),
        ("raw/other/0.json", dict(), "move the file"),
        ("tuned.json", dict(raster=dict(dropout=-1, guidance_scale=1)), "dropout of raster"),
        ("tuned.json", dict(spiral=dict(dropout=0.1, guidance_scale=1)), "strategy in"),
    ],
)
def test_damaged_files_are_named(tmp_path, path, change, error):
    write_study(tmp_path, parts=["headline", "tuning"], seeds=dict(raster=[0]))
    good = json.loads((tmp_path / "raw/raster/0.json").read_text())
    path = tmp_path / path
    path.parent.mkdir(exist_ok=True)
    if path.name == "tuned.json":
        good = json.loads(path.read_text())
    path.write_text(change if isinstance(change, str) else json.dumps(good | change))
    with pytest.raises(InvalidValue, match=error) as raised:
        read_runs(tmp_path)
        read_tuned(tmp_path)
    assert str(path) in str(raised.value)


def test_measurements_of_a_run(runs):
    run = find_cell(runs, "headline", strategy="annealed")[3]
    chosen, plain = run["final"]["sets"][1], run["final"]["sets"][0]
    assert measured(run, "proxy_fid_seen") == chosen["proxy_fid_seen"] != plain["proxy_fid_seen"]
    assert measured(run, "gap", "best") == pytest.approx(0.1 / 3)
    with pytest.raises(InvalidValue, match="once at the guidance scale of the run, 5"):
        measured(run | dict(config=dict(sample=dict(guidance_scale=5.0))), "recall_seen")
    with pytest.raises(InvalidValue, match="'final' or 'best'"):
        measured(run, "gap", "seed")
    with pytest.raises(InvalidValue, match="name more factors"):
        find_cell(runs, "headline")
    with pytest.raises(InvalidValue, match="one of tuning"):
        find_cell(runs, "heart")


def test_commands_of_cells(runs):
    text = commands([find_cell(runs, "target", strategy="random"), {}])
    assert text == (
        "- `papermill nbs/study_run.ipynb out.ipynb -p cell random_target_unaware -p seed 0`"
        " (also with seed 1, 2)"
    )


# Words


def test_numbers():
    assert [number(x) for x in (2.0649, 0.12345, -0.5, math.nan)] == [
        "2.06",
        "0.123",
        "−0.500",
        "–",
    ]
    assert number(1.5, True) == "+1.50" and study.p_text(0.0001) == "p < 0.001"
    assert study.p_text(0.0625) == "p = 0.0625"


def test_headline_sentence_has_the_numbers_of_the_files(folder, runs):
    losses = {
        name: [
            json.loads((folder / "raw" / name / f"{seed}.json").read_text())["final"]
            for seed in range(5)
        ]
        for name in ("annealed", "raster")
    }
    d = [a["validation_loss"] - b["validation_loss"] for a, b in zip(*losses.values())]
    half = 2.7764451 * statistics.stdev(d) / math.sqrt(5)
    mean = statistics.mean(d)
    sentence = headline_sentence(runs)
    assert (
        f"validation loss {-mean:.3f} nats a token lower than that of raster training" in sentence
    )
    for x in (mean - half, mean + half):
        assert f"{x:+.3f}".replace("-", "−") in sentence
    assert f"effect size {mean / statistics.stdev(d):.1f}".replace("-", "−") in sentence
    assert "5 seeds" in sentence and "sign flips p = 0.0625" in sentence
    base = driver.CELLS["annealed"]
    assert f"{base.passes:g} passes over {base.images:,} digits" in sentence
    assert "always-random training*" in sentence
    assert "*" not in headline_sentence(runs, "proxy_fid_unseen")


def test_differences_table_agrees_with_the_headline_sentence(runs):
    rows = [line for line in str(study.differences_table(runs)).splitlines() if line[:2] == "| "]
    first, others = rows[2].split(" | "), rows[3:]  # rows 0 and 1 are the head
    low, high = re.search("difference (.*?) to (.*?);", headline_sentence(runs)).groups()
    assert first[0] == "| validation loss, finished" and f"({low} to {high})" in first[1]
    assert first[1].startswith("−" + re.search(r"loss (\S+) nats", headline_sentence(runs))[1])
    assert len(others) == 5 and [row.count("*") for row in rows[2:]] == [1, 1, 0, 0, 0, 0]
    only_raster = [run for run in runs if run["factors"]["strategy"] == "raster"]
    assert str(study.differences_table(only_raster)).startswith("not measured yet")


def test_each_strategy_is_taken_at_its_best_dropout(runs):
    changed = []
    for run in runs:
        factors = run["factors"]
        if run["part"] == "long_dropout" and factors["passes"] == 100:  # 0.5 and 0.3 are best
            best = factors["dropout"] == dict(raster=0.5, annealed=0.3)[factors["strategy"]]
            loss = 1.0 + run["seed"] / 10 * (factors["strategy"] == "raster") + 5 * (not best)
            run = run | dict(final=run["final"] | dict(validation_loss=loss))
        changed.append(run)
    raster, annealed, pair = study.best_dropout_pairs(changed)[2000, 100]
    assert (raster, annealed) == (0.5, 0.3) and pair.seeds == [0, 1, 2]
    assert pair.differences == pytest.approx([0.0, -0.1, -0.2])
    budgets = [(2000, passes) for passes in (10, 25, 50, 100, 200)]
    assert list(study.best_dropout_pairs(runs)) == [(500, 200), *budgets, (4500, 22)]
    table = str(study.best_dropout_table(changed))
    assert "| 2,000 × 100 | 0.5 / 0.3 | 3 | −0.100 (" in table


def test_the_figure_of_all_situations_shows_the_differences_of_the_tables(runs):
    labels = [study.budget_text(budget) for budget in study.best_dropout_pairs(runs)]
    found = study.situations(runs)
    assert list(found) == [*labels, "2,000 × 50, no dropout"]
    figure = study.plot_situations(runs)
    for ax, measure in zip(figure.axes, ("validation_loss", "proxy_fid_unseen")):
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        shown = {(round(line.get_ydata()[0]), line.get_mfc() == "white"): line for line in dots}
        for row, (annealed, raster) in enumerate(found.values()):
            for when in ("final", "best"):
                pair = Comparison(*(by_seed(cell, measure, when) for cell in (annealed, raster)))
                line = shown[row, when == "best"]
                assert line.get_xdata()[0] == pair.mean
                assert (line.get_color() == "k") == (not study.is_clear(pair))


def write_tried(folder, strategy, seed, loss, lowest, fid=1.0, epochs=36):
    evaluation = dict(proxy_fid_samples=fid, samples_of_the_class_asked_for=0.9, sample={})
    run = dict(strategy=strategy, epochs=epochs, seed=seed, validation_loss=loss)
    run |= dict(lowest_loss=lowest, evaluation=evaluation, commit="0123abc")
    (folder / f"{strategy[:3]}_{epochs}_{seed}.json").write_text(json.dumps(run))


def test_the_rule_compares_by_seed_and_says_how_far_raster_training_rose(tmp_path, runs):
    for seed in range(3):
        write_tried(tmp_path, "raster, 0.3", seed, 3.0 + seed, 2.5 + seed, fid=2.0)
        write_tried(tmp_path, "annealed, 0.1", seed, 2.75 + seed, 2.75 + seed)
    write_tried(tmp_path, "raster, 0.3", 0, 3.0, 3.0, epochs=144)  # without a partner
    tried = study.read_tried(tmp_path)
    points = study.rule_points(runs, tried)
    rise, compared = points["drawings, 540 × 36"]
    assert rise == 0.5 and compared.differences == [-0.25] * 3
    assert [name for name in points if name.startswith("drawings")] == ["drawings, 540 × 36"]
    raster = study.by_dropout(runs, "raster")
    for budget, (dropout, _, pair) in study.best_dropout_pairs(runs).items():
        cell = raster[budget][dropout].values()
        rises = [run["final"]["validation_loss"] - run["best"]["validation_loss"] for run in cell]
        expected = pytest.approx(statistics.mean(rises)), pair
        assert points[f"digits, {study.budget_text(budget)}"] == expected
    table = str(study.tried_table(tried))
    assert "| 36 | 3 | 0.500 | 4.00 / 3.75 | −0.250 (−0.250 to −0.250) | 2.00 / 1.00 |" in table
    assert "90% / 90%" in table and "144" not in table
    figure = study.plot_rule(runs, tried)
    assert len(figure.axes[0].texts) == len(points)


def test_a_damaged_file_of_the_rule_is_named(tmp_path):
    (tmp_path / "raster.json").write_text("{}")
    with pytest.raises(ValueError, match=r"raster\.json .*tests\.tools\.rule"):
        study.read_tried(tmp_path)


def test_the_drawings_of_the_rule_are_those_of_your_images(tmp_path):
    rule.make_drawings(tmp_path / "drawings")
    assert sorted(p.name for p in (tmp_path / "drawings").iterdir()) == ["house", "sun", "tree"]
    assert len(list((tmp_path / "drawings").glob("*/*"))) == 600


def test_headline_sentence_goes_either_way(runs):
    swapped = []
    for run in runs:
        name = dict(raster="annealed", annealed="raster").get(run["factors"]["strategy"], "random")
        swapped.append(run | dict(factors=run["factors"] | dict(strategy=name)))
    assert "higher than that of raster training" in headline_sentence(swapped)
    same = [
        run | dict(final=runs[0]["final"] | dict(validation_loss=2.0 + run["seed"] / 10))
        for run in runs
    ]
    sentence = headline_sentence(same)
    assert sentence.count("not clearly different") == 2 and "lower" not in sentence


def test_pairs_are_matched_by_seed(tmp_path):
    seeds = dict(raster=[4, 2, 0], annealed=[0, 1, 2, 3], random=[7])
    write_study(tmp_path, ["headline"], seeds)
    runs = read_runs(tmp_path)
    cells = headline_cells(runs)
    found = Comparison(
        *(study.by_seed(cells[k], "validation_loss") for k in ("annealed", "raster"))
    )
    assert found.seeds == [0, 2] and found.left_out == [1, 3, 4]
    assert headline_sentence(runs).startswith("not measured yet")  # no pair with `random`
    write_study(tmp_path, ["headline"], seeds | dict(random=[2]))
    sentence = headline_sentence(read_runs(tmp_path))
    assert "2 seeds, 3 without a partner left out" in sentence
    assert "one pair of seeds, so there is no interval" in sentence


# Curves and maps


def test_gap_compares_like_with_like():
    """Straight lines: validation 3 in the final order and 4 in random ones, training 2."""
    steps = [0.0, 10.0, 20.0, 30.0, 40.0]
    run = dict(
        curve=dict(step=[10, 20, 30, 40], loss=[2.0] * 4, r=[1.0, 0.5, 0.0, 0.0]),
        validation=dict(step=steps, raster_loss=[3.0] * 5, random_loss=[4.0] * 5),
    )
    found, gap = gap_curve(run)
    assert found.tolist() == steps[1:] and gap.tolist() == [2.0, 1.5, 1.0, 1.0]


def test_mean_curve_keeps_common_steps():
    cell = {
        0: dict(curve=dict(step=[1, 2, 4], loss=[1.0, 2.0, 4.0])),
        1: dict(curve=dict(step=[2, 3, 4], loss=[4.0, 9.0, 5.0])),
    }
    steps, mean, low, high = mean_curve(cell, "curve", "loss")
    assert steps.tolist() == [2, 4] and mean.tolist() == [3.0, 4.5]
    assert low.tolist() == [2.0, 4.0] and high.tolist() == [4.0, 5.0]


def test_loss_map_is_annealed_minus_raster():
    def cell(offset):
        losses = [[k + offset * (k == 3) + seed for k in range(9)] for seed in range(3)]
        return {seed: dict(final=dict(loss_by_cell=found)) for seed, found in enumerate(losses)}

    pairs = loss_by_cell(cell(-0.5), cell(0), "final")
    assert [p.mean for p in pairs] == [-0.5 if k == 3 else 0 for k in range(9)]
    assert [k for k, p in enumerate(pairs) if study.is_clear(p)] == [3]


# Parts that are missing


def draw(name, runs):
    return getattr(study, name)(runs)


@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_says_what_is_missing(name, runs, capsys):
    assert isinstance(draw(name, runs), plt.Figure)
    assert capsys.readouterr().out == ""
    part = PLOTS[name]
    assert draw(name, []) is None
    assert f"not measured yet: python -m rar_nb.runs.study --part {part}" in capsys.readouterr().out
    if part != "length" and name != "plot_situations":  # which still have what others measured
        assert draw(name, without(runs, part)) is None


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", [*PLOTS, *TABLES])
def test_no_part_is_needed_by_the_others(name, part, runs, capsys):
    draw(name, without(runs, part))
    draw(name, [run for run in runs if run["part"] == part])


@pytest.mark.parametrize("name", [*PLOTS, *TABLES])
def test_one_seed_is_enough_to_see_something(name, runs):
    assert draw(name, [run for run in runs if run["seed"] in (0, 100)]) is not None


@pytest.mark.parametrize("name", TABLES)
def test_tables_name_the_command(name, runs):
    assert "not measured yet" in str(draw(name, [])) or name == "overview"
    text = str(draw(name, runs))
    assert "not measured yet" not in text and "nan" not in text and "$" not in text


def test_pictures_and_tuning(folder, runs, tmp_path, capsys):
    assert len(study.plot_order_samples(runs, folder / "samples").axes) == 6
    assert study.plot_order_samples(runs, tmp_path) is None
    assert study.plot_tuning(without(runs, "tuning"), read_tuned(folder)) is None
    assert capsys.readouterr().out.count("not measured yet") == 2
    losses, gaps, sweeps = study.plot_tuning(runs, read_tuned(folder)).axes
    assert [len(ax.lines) for ax in (losses, gaps, sweeps)] == [9, 6, 6]
    losses, gaps, sweeps = study.plot_tuning(runs, {}).axes  # nothing was chosen yet
    assert [len(ax.lines) for ax in (losses, gaps, sweeps)] == [6, 3, 0]


def test_one_row_of_panels_if_only_data_is_measured(runs, capsys):
    figure = study.plot_length_and_data(without(runs, "length"))
    assert isinstance(figure, plt.Figure) and "--part length" in capsys.readouterr().out


@pytest.mark.parametrize("part, factor", [("length", "passes"), ("sizes", "hidden_size")])
def test_tables_along_a_factor(part, factor, runs):
    text = str(study.along_table(runs, part, factor))
    strategies = {"length": ("raster", "annealed", "random"), "sizes": ("raster", "annealed")}[part]
    cells = [cell for cell in driver.CELLS.values() if cell.part in (part, "headline")]
    values = sorted({getattr(cell, factor) for cell in cells})
    labels = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert labels[2:] == [f"{v:,g}, {s}" for v in values for s in strategies]
    assert f"--part {part}" in str(study.along_table(without(runs, part), part, factor))


def with_change(run, changes):
    """A run with other values, named by paths such as 'final.sets'."""
    run = json.loads(json.dumps(run))
    for path, value in changes.items():
        *above, name = path.split(".")
        place = run
        for step in above:
            place = place[step]
        place[name] = value
    return run


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"factors.images": 1000}, "images in"),  # of another base setting
        ({"shared": {"tokenizer": "another"}}, "shared in"),
        ({"factors.dropout": 0.5}, "dropout in"),  # tuned anew
        ({"part": "windows"}, "part in"),
        ({"factors.anneal": [0.5]}, "factors.anneal"),
        ({"final.validation_loss": float("nan")}, "finite"),
        ({"final.sets": []}, "guidance scales of final"),
        ({"config": {}}, "config.sample"),
        ({"config.sample.guidance_scale": 7.5}, "guidance scales of final"),
        ({"best.loss_by_cell": [1.0] * 48}, "square grid"),
        ({"curve.loss": [1.0]}, "lists of one length"),
        ({"validation": dict(step=[], raster_loss=[], random_loss=[])}, "lists of one length"),
    ],
)
@pytest.mark.parametrize("place", ["annealed/0", "annealed_to_spiral_in/1"])
def test_runs_of_another_setting_are_refused(tmp_path, place, changes, error):
    write_study(tmp_path, parts=["headline", "orders"])
    read_runs(tmp_path)
    path = tmp_path / "raw" / f"{place}.json"
    path.write_text(json.dumps(with_change(json.loads(path.read_text()), changes)))
    with pytest.raises(InvalidValue, match=error) as raised:
        read_runs(tmp_path)
    assert str(path) in str(raised.value)


def test_a_part_made_with_another_base_setting_is_refused(tmp_path):
    write_study(tmp_path, parts=["headline", "orders"])
    for path in (tmp_path / "raw").glob("annealed_to_*/*.json"):  # all of the part
        run = json.loads(path.read_text())
        path.write_text(json.dumps(with_change(run, {"factors.passes": 100.0})))
    with pytest.raises(InvalidValue, match=r"passes in .*annealed_to.*raw/annealed/\d.json"):
        read_runs(tmp_path)


def test_curves_without_a_common_step_are_refused():
    cell = {seed: dict(curve=dict(step=[seed], loss=[1.0])) for seed in (1, 2)}
    with pytest.raises(InvalidValue, match="steps of curve"):
        mean_curve(cell, "curve", "loss")
