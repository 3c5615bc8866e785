"""The published tables: a result lands in its own cells, and what is no ADM evaluation in none."""

import json
from dataclasses import replace

import pytest
import torch

from rar_nb.orders import SCAN_ORDERS
from rar_nb.pretrained.presets import ABLATIONS, PRESETS
from rar_nb.reports.published import (
    REFERENCES,
    RESULTS,
    TABLES,
    as_markdown,
    millions,
    provenance,
    read_measurements,
)
from rar_nb.transformer import RAR

LINES = [(name, row) for name, table in TABLES.items() for row in table.rows if row.preset]
GOOD = dict(
    kind="imagenet_fid",
    preset="rar_l",
    metric="FID",
    value=1.74,
    num_samples=50_000,
    reference=REFERENCES[256],
    device="a device",
    commit="0123abc",
    date="2026-01-31",
    command="made up for this test",
)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def last_cells(measured):
    """{(table, model, epochs): text of the column 'measured here'}"""
    found = {}
    for name, table in TABLES.items():
        lines = [
            line for line in as_markdown(table, measured).splitlines() if line.startswith("|")
        ][2:]
        assert len(lines) == len(table.rows)
        for row, line in zip(table.rows, lines):
            found[name, row.model, row.epochs] = line.split("|")[-2].strip()
    return found


def test_empty_cells_stay_empty(tmp_path):
    assert read_measurements(tmp_path / "absent") == {}
    assert set(last_cells(read_measurements(tmp_path)).values()) == {""}
    assert provenance({}).startswith("Nothing yet")


def test_the_committed_results_can_be_read():
    read_measurements(RESULTS)


def test_a_result_lands_in_its_own_cells_only(tmp_path):
    write(tmp_path, "a.json", GOOD)
    write(
        tmp_path,
        "folder/b.json",
        [
            {**GOOD, "metric": "IS", "value": 301.24},
            {**GOOD, "preset": "rar_xl_512", "value": 1.8, "reference": REFERENCES[512]},
        ],
    )
    write(tmp_path, "folder/c.json", {**GOOD, "preset": "table2_0_100", "value": 2.5})
    write(tmp_path, "folder/d.json", {**GOOD, "preset": "table2_200_300", "value": 2.19})
    write(tmp_path, "too/deep/d.json", {**GOOD, "preset": "rar_b"})
    filled = {key: text for key, text in last_cells(read_measurements(tmp_path)).items() if text}
    assert filled == {
        ("imagenet_256", "RAR-L", None): "FID 1.74 · IS 301.2",
        ("training_length", "RAR-L", 400): "FID 1.74 · IS 301.2",
        ("speed", "RAR-L", None): "FID 1.74 · IS 301.2",
        ("imagenet_512", "RAR-XL", None): "FID 1.80",
        ("annealing", "0–100", None): "FID 2.50",
        ("annealing", "200–300", None): "FID 2.19",  # the one run that is in both tables
        ("scan_orders", "raster", None): "FID 2.19",
    }


def test_published_numbers_do_not_change_with_results(tmp_path):
    write(tmp_path, "a.json", GOOD)
    for table in TABLES.values():
        before, after = (
            as_markdown(table, m).splitlines() for m in ({}, read_measurements(tmp_path))
        )
        assert [line.rsplit("|", 2)[0] for line in before] == [
            line.rsplit("|", 2)[0] for line in after
        ]


@pytest.mark.parametrize(
    "row", LINES, ids=lambda pair: f"{pair[0]}-{pair[1].model}-{pair[1].epochs}"
)
def test_every_line_of_ours_can_be_filled(row, tmp_path):
    name, row = row
    write(
        tmp_path,
        "a.json",
        {
            **GOOD,
            "preset": row.preset,
            "reference": REFERENCES[TABLES[name].image_size],
            "value": 9.87,
        },
    )
    assert last_cells(read_measurements(tmp_path))[name, row.model, row.epochs] == "FID 9.87"


@pytest.mark.parametrize(
    "content",
    [
        {**GOOD, "kind": "proxy_fid"},
        {**GOOD, "kind": None},
        {"metric": "FID", "preset": "rar_l", "value": 1.0},
        [],
        3,
        None,
        {"proxy_fid_samples": 12.3},
        [{**GOOD, "kind": "speed"}, "text", 1.5],
    ],
)
def test_other_kinds_are_left_alone(content, tmp_path):
    write(tmp_path, "a.json", content)
    assert read_measurements(tmp_path) == {}


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(metric="proxy FID"), "FID, IS, precision, recall; a proxy"),
        (dict(num_samples=5000), "50000, as published"),
        (dict(num_samples=None), "50000, as published"),
        (dict(reference="ImageNet validation set"), "'VIRTUAL_imagenet256_labeled.npz'"),
        (dict(preset="rar_l_512"), "'VIRTUAL_imagenet512.npz'"),
        (dict(preset="rar_m"), "one of rar_b, rar_l"),
        (dict(preset=["rar_l"]), "a text"),
        (dict(variant="anneal 0-100"), "a preset of its own"),
        (dict(value="1.7"), "a number above 0"),
        (dict(value=float("nan")), "a number above 0"),
        (dict(value=0), "a number above 0"),
        (dict(metric="recall", value=58.0), "at most 1"),
        (dict(commit="main"), "7 to 40 hexadecimal digits"),
        (dict(date="31 January"), "2026-01-31"),
        (dict(device=" "), "a text that is not empty"),
    ],
)
def test_what_is_no_adm_evaluation_is_refused(change, message, tmp_path):
    write(tmp_path, "some.json", {**GOOD, **change})
    with pytest.raises(ValueError) as error:
        read_measurements(tmp_path)
    assert message in str(error.value) and str(tmp_path / "some.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in GOOD if name != "kind"])
def test_a_missing_field_is_named(name, tmp_path):
    write(tmp_path, "some.json", {key: value for key, value in GOOD.items() if key != name})
    with pytest.raises(ValueError, match=f"{name!r} is missing") as error:
        read_measurements(tmp_path)
    assert "some.json" in str(error.value)


def test_a_broken_file_is_named(tmp_path):
    write(tmp_path, "cut.json", json.dumps(GOOD)[:50])
    with pytest.raises(ValueError, match="cut.json is not JSON"):
        read_measurements(tmp_path)
    (tmp_path / "cut.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cut.json is not JSON"):
        read_measurements(tmp_path)


def test_two_measurements_of_one_cell_are_refused(tmp_path):
    write(tmp_path, "a.json", GOOD)
    write(tmp_path, "b.json", {**GOOD, "value": 1.7})
    with pytest.raises(ValueError, match="a.json.* has it, too"):
        read_measurements(tmp_path)


PARAMS = sorted({(row.preset, row.params) for _, row in LINES if row.params})


@pytest.mark.parametrize("preset, params", PARAMS)
def test_printed_parameters_are_our_models(preset, params):
    # The paper repeats the count at 256 px for 512 px; 461.67 million is printed as 461M.
    with torch.device("meta"):
        model = RAR(replace(PRESETS[preset].model, num_tokens=256))
    counted = sum(p.numel() for p in model.parameters()) / 1e6
    assert abs(counted - millions(params)) < (1 if params.endswith("M") else 2)


def test_every_published_rar_is_compared():
    assert {preset for preset, _ in PARAMS} == {
        "rar_b",
        "rar_l",
        "rar_xl",
        "rar_xxl",
        "rar_l_512",
        "rar_xl_512",
        "rar_xxl_512",
        "rar_l_llamagen",
        "rar_l_200ep",
        "rar_l_300ep",
    }


def fids(name):
    return {row.model: row.fid for row in TABLES[name].rows}


def test_what_the_paper_claims_can_be_read_off():
    windows = fids("annealing")
    baselines = [windows.pop("0–0 (raster)"), windows.pop("400–400 (random)")]
    assert max(windows.values()) < min(baselines)
    assert min(windows, key=windows.get) == "200–300"
    orders = fids("scan_orders")
    assert min(orders, key=orders.get) == "raster" and set(orders) == set(SCAN_ORDERS)
    for name in ("imagenet_256", "imagenet_512"):
        ours = [row.fid for row in TABLES[name].rows if row.preset]
        assert ours == sorted(ours, reverse=True), "larger is better"


def test_windows_are_all_that_fit_into_400_epochs():
    windows = [row.anneal for row in TABLES["annealing"].rows]
    ends = range(0, 500, 100)
    assert windows == [(a, b) for a in ends for b in ends if a <= b]


def test_the_tables_are_complete():
    for name in ("imagenet_256", "annealing", "scan_orders"):
        for row in TABLES[name].rows:
            if row.preset:
                assert 0.5 < row.recall < 0.65 and 0.79 < row.precision < 0.86, row.model
    printed = {row.model: row for row in TABLES["imagenet_256"].rows}
    speeds = TABLES["speed"].rows
    assert len(speeds) == 11 and all(row.steps and row.speed and row.fid for row in speeds)
    for row in speeds:
        if row.preset:
            assert (row.params, row.fid) == (printed[row.model].params, printed[row.model].fid)


# Read off arXiv 2411.00776v1: FID, Inception score, precision, recall.
TABLE_2 = """
0 0 3.08 245.3 0.85 0.52
0 100 2.68 237.3 0.84 0.54
0 200 2.41 251.5 0.84 0.54
0 300 2.40 258.4 0.84 0.54
0 400 2.43 265.3 0.84 0.53
100 100 2.48 247.5 0.84 0.54
100 200 2.28 253.1 0.83 0.55
100 300 2.33 258.4 0.83 0.54
100 400 2.39 266.5 0.84 0.54
200 200 2.39 259.7 0.84 0.54
200 300 2.18 269.7 0.83 0.55
200 400 2.55 241.6 0.84 0.54
300 300 2.41 269.1 0.84 0.53
300 400 2.74 236.4 0.83 0.54
400 400 3.01 305.6 0.84 0.52
"""
TABLE_3 = """
raster 2.18 269.7 0.83 0.55
spiral_in 2.50 256.1 0.84 0.54
spiral_out 2.46 256.6 0.84 0.54
z_curve 2.29 262.7 0.83 0.55
subsample 2.39 258.0 0.84 0.54
alternate 2.48 270.9 0.84 0.53
"""


def numbers(row):
    return [row.fid, row.inception_score, row.precision, row.recall]


def test_each_row_of_table_2_names_the_run_that_reproduces_it():
    rows = TABLES["annealing"].rows
    for row, printed in zip(rows, TABLE_2.split("\n")[1:-1], strict=True):
        start, end, *values = map(float, printed.split())
        train = PRESETS[row.preset].train
        assert (train.anneal_start, train.anneal_end) == row.anneal == (start, end)
        assert numbers(row) == values and train.epochs == 400


def test_each_row_of_table_3_names_the_run_that_reproduces_it():
    rows = TABLES["scan_orders"].rows
    for row, printed in zip(rows, TABLE_3.split("\n")[1:-1], strict=True):
        order, *values = printed.split()
        assert PRESETS[row.preset].model.final_order == row.model == order
        assert numbers(row) == [float(value) for value in values]
        assert row.anneal is None and PRESETS[row.preset].train.anneal_start == 200


def test_rows_of_the_ablations_have_presets_of_the_same_recipe():
    presets = [row.preset for name in ("annealing", "scan_orders") for row in TABLES[name].rows]
    assert set(presets) == set(ABLATIONS) and len(presets) == len(ABLATIONS) + 1


def test_every_table_names_its_numbering():
    sources = {name: table.source for name, table in TABLES.items()}
    assert sources == {
        "imagenet_256": "arXiv v1, Table 4",
        "annealing": "arXiv v1, Table 2",
        "scan_orders": "arXiv v1, Table 3",
        "speed": "arXiv v1, Table 5",
        "imagenet_512": "arXiv v1, supplement, Table 2; at ICCV Table 7",
        "same_tokenizer": "arXiv v1, supplement, Table 3; at ICCV Table 8",
        "training_length": "arXiv v1, supplement, Table 4; at ICCV Table 9",
    }
    for table in TABLES.values():
        assert f"({table.source})" in as_markdown(table)


def test_every_published_number_is_shown():
    text = as_markdown(TABLES["scan_orders"], {})
    assert "| z_curve | 2.29 | 262.7 | 0.83 | 0.55 | `table3_z_curve` |  |" in text
    assert "without adaLN" in text and text.count("**0.55**") == 1  # only raster is the recipe
    text = as_markdown(TABLES["speed"], {})
    assert "| VAR-d30 | 2.0B | 10 | 1.92 | 17.3 |  |  |" in text and "$" not in text
