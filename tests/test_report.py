"""What an evaluation leaves behind: the sweep, the metadata, the protocol and the page."""

import json
from dataclasses import replace
from datetime import date

import matplotlib.pyplot as plt
import mistune
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from rar_nb.pretrained.presets import PRESETS, get_preset, override
from rar_nb.reports.published import read_measurements
from rar_nb.reports.report import (
    AXES,
    differences,
    evaluation_table,
    imagenet_entries,
    losses_at_turns,
    plot_agreement,
    plot_images,
    plot_nearest,
    plot_sweep,
    plot_training,
    read_set,
    report_page,
    run_images,
    run_metadata,
    run_sweep,
    stack_pictures,
    sweep_points,
)
from rar_nb.sampler import SampleConfig
from rar_nb.style import markdown_code, markdown_table, markdown_text, one_line, save_png, use_style
from rar_nb.support import InvalidValue
from rar_nb.trainer import TrainConfig

OFFICIAL = "6726825d" + "0" * 56  # a hash that begins as that of Inception's published weights
REFERENCE = "/data/VIRTUAL_imagenet256_labeled.npz"
METADATA = {
    "date": "2026-01-31",
    "device": "1 × made up",
    "commit": "0123abc",
    "changed": False,
    "versions": {"python": "3.11", "torch-fidelity": "0.4.0"},
}
PROXY = {
    "samples": 500,
    "real_images": 1000,
    "num_classes": 10,
    "classifier_accuracy_on_validation": 0.976,
    "samples_of_the_class_asked_for": 0.95,
    "proxy_fid_samples": 12.3,
    "proxy_fid_reconstructions": 4.5,
    "proxy_fid_real_against_real": 0.6,
    "psnr_of_validation_reconstructions": 21.0,
    "median_distance_of_samples": 0.2,
    "median_distance_of_validation": 0.19,
}


@pytest.fixture(autouse=True)
def figures():
    use_style()
    yield
    plt.close("all")


def made_up(point, picture):
    g, p, t = (getattr(point, name) for name in AXES)
    return {"FID": 2 + (g - 4) ** 2 + 2 * np.log2(p) ** 2 * (g > 0) + 30 * (t - 1) ** 2}


POINTS = sweep_points(SampleConfig(), [0, 2, 4, 8], [0.5, 1, 2], [1.0, 1.1])


def test_all_combinations_are_swept():
    assert len(POINTS) == 4 * 3 * 2
    assert len({tuple(getattr(point, name) for name in AXES) for point in POINTS}) == 24
    kept = sweep_points(SampleConfig(guidance_power=1.5, temperature=1.02), [3.0])
    assert kept == [SampleConfig(guidance_scale=3.0, guidance_power=1.5, temperature=1.02)]
    with pytest.raises(ValueError, match="guidance_scale = -1"):
        sweep_points(SampleConfig(), [-1])


def test_a_sweep_goes_on_where_it_stopped(tmp_path):
    measured = []

    def until_power_cut(point, picture):
        if len(measured) == 7:
            raise RuntimeError("power cut")
        measured.append(point)
        return made_up(point, picture)

    with pytest.raises(RuntimeError, match="power cut"):
        run_sweep(POINTS, until_power_cut, tmp_path, {"seed": 0})
    assert len(list(tmp_path.iterdir())) == 7, "nothing is left of the point that failed"
    later = []

    def measure(point, picture):
        later.append(point)
        return made_up(point, picture)

    rows = run_sweep(POINTS, measure, tmp_path, {"seed": 0})
    assert len(measured) + len(later) == 3 * 3 * 2 + 2, "without guidance there is no power"
    assert [row["FID"] for row in rows] == [made_up(point, None)["FID"] for point in POINTS]
    assert [[row[name] for name in AXES] for row in rows] == [
        [getattr(point, name) for name in AXES] for point in POINTS
    ]


@pytest.mark.parametrize("identity", [{"seed": 1}, {"seed": 0, "model_sha256": "f"}])
def test_another_model_or_seed_is_another_sweep(tmp_path, identity):
    run_sweep(POINTS[:1], made_up, tmp_path, {"seed": 0})
    measured = run_sweep(POINTS[:1], lambda *args: {"FID": 99.0}, tmp_path, identity)
    assert measured[0]["FID"] == 99.0 and len(list(tmp_path.iterdir())) == 2


def test_other_settings_are_other_points(tmp_path):
    for k, change in enumerate(({"num_samples": 10}, {"guidance_schedule": "linear"})):
        run_sweep([replace(POINTS[5], **change)], made_up, tmp_path, {})
        assert len(list(tmp_path.iterdir())) == k + 1


@pytest.mark.parametrize("lower", [True, False])
def test_the_best_point_is_marked(tmp_path, lower):
    rows = run_sweep(POINTS, made_up, tmp_path, {})
    best = (min if lower else max)(rows, key=lambda row: row["FID"])
    fig = plot_sweep(rows, "FID", "FID (made up)", lower)
    marked = [(ax, patch) for ax in fig.axes for patch in ax.patches]
    assert len(marked) == 1
    ax, patch = marked[0]
    assert ax.get_title(loc="left") == f"temperature {best['temperature']:g}"
    column = round(patch.get_x() + patch.get_width() / 2)
    row = round(patch.get_y() + patch.get_height() / 2)
    assert [0, 2, 4, 8][column] == best["guidance_scale"]
    assert [0.5, 1, 2][row] == best["guidance_power"]


def test_one_setting_is_a_line(tmp_path):
    rows = run_sweep(sweep_points(SampleConfig(), [0, 2, 4]), made_up, tmp_path, {})
    line, mark = plot_sweep(rows, "FID").axes[0].lines
    assert list(line.get_xdata()) == [0, 2, 4] and list(mark.get_xdata()) == [4]


def test_metadata_name_what_is_needed_to_measure_again():
    found = run_metadata("cpu", processes=2)
    assert found["device"].startswith("2 × ") and date.fromisoformat(found["date"])
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert json.loads(json.dumps(found)) == found, "plain values"


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, []),
        ({"guidance_scale": 3.0}, ["guidance_scale is 3.0, not 15.5"]),
        ({"guidance_schedule": "linear"}, ["guidance_schedule is linear, not pow_cosine"]),
        ({"sample_precision": "bf16"}, ["sample_precision is bf16, not tf32"]),
        ({"batch_size": 1024}, ["batch_size is 1024, not 2048"]),
        ({"hidden_size": 512}, ["hidden_size is 512, not 1024"]),
    ],
)
def test_what_differs_from_the_published_protocol(change, expected):
    run = get_preset("rar_l", **change)
    assert differences(run, 50_000, REFERENCE, OFFICIAL) == expected


def test_other_images_and_weights_are_differences():
    found = differences(PRESETS["rar_l_512"], 49_000, REFERENCE, "0" * 64)
    assert len(found) == 3 and "49,000 images, not 50,000" in found
    assert any("not VIRTUAL_imagenet512.npz" in text for text in found)
    assert differences(PRESETS["digits"], 50_000, None, OFFICIAL) == [
        "digits is no recipe of the paper"
    ]


def test_guidance_that_is_not_printed_is_no_difference():
    chosen = get_preset("table2_0_100", guidance_scale=2.5)
    assert differences(chosen, 50_000, REFERENCE, OFFICIAL) == []
    page = page_of(chosen, metrics={"num_samples": 50_000, "FID": 2.7}, against="ADM's images")
    assert "as far as it is printed" in page
    constant = override(chosen, guidance_schedule="constant", adaln=True)  # these are printed
    assert differences(constant, 50_000, REFERENCE, OFFICIAL) == [
        "adaln is True, not False",
        "guidance_schedule is constant, not linear",
    ]
    numbers = {"num_samples": 50_000, "FID": 2.7}
    (entry,) = imagenet_entries(chosen, numbers, REFERENCE, OFFICIAL, METADATA, "again")
    assert entry["preset"] == "table2_0_100"


def test_entries_can_be_read_beside_the_published_numbers(tmp_path):
    numbers = {"num_samples": 50_000, "FID": 1.8, "IS": 290.0, "KID": 0.1}
    entries = imagenet_entries(PRESETS["rar_l"], numbers, REFERENCE, OFFICIAL, METADATA, "again")
    (tmp_path / "mine.json").write_text(json.dumps(entries))
    found = read_measurements(tmp_path)["rar_l"]
    assert {metric: entry["value"] for metric, entry in found.items()} == {"FID": 1.8, "IS": 290.0}


def test_no_entry_without_the_protocol_or_a_commit():
    few = {"num_samples": 49_000, "FID": 1.8}
    assert imagenet_entries(PRESETS["rar_l"], few, REFERENCE, OFFICIAL, METADATA, "again") == []
    with pytest.raises(ValueError, match="commit"):
        imagenet_entries(PRESETS["rar_l"], few | {"num_samples": 50_000}, REFERENCE, OFFICIAL,
                         METADATA | {"commit": ""}, "again")  # fmt: skip


def page_of(run, **options):
    return report_page(run, METADATA, 7260.0, "papermill …", "Some images", **options)


def test_the_page_says_all_that_is_needed():
    rows = [{"guidance_scale": 2.0, "FID": 6.8, "picture": "a.png"}]
    page = page_of(
        PRESETS["rar_l"],
        metrics={"num_samples": 50_000, "FID": 1.8, "recall": 0.6},
        against=REFERENCE,
        rows=rows,
        pictures={"Samples": "evaluation/samples.png"},
    )
    for text in (
        "# Evaluation: imagenet\n",
        "The preset is rar_l",
        "in 121.0 minutes",
        "| FID | 1.80 |",
        "| recall | 0.600 |",
        "This is the published protocol",
        "![samples of the run, sorted by class](evaluation/samples.png)",
        "| guidance scale | FID |",
        "| train | anneal_start | 200 |",
        "| commit | 0123abc |",
        "    papermill …",
    ):
        assert text in page
    assert "proxy" not in page and "a.png" not in page


def test_the_page_says_how_many_images_and_which_weights():
    weights = {"SHA-256 of the generator": "a" * 64}
    page = report_page(
        PRESETS["digits"],
        METADATA | {"weights": weights},
        60.0,
        "papermill …",
        "Some images",
        metrics={"num_samples": 50_000, "num_real": 10_000, "FID": 1.8},
        against="with_images.npz",
        proxy=PROXY,
        rows=[{"guidance_scale": 2.0, "FID": 6.8, "picture": "a.png"}],
        judge="one that was trained here, on 270 training images",
        sweep_samples=200,
    )
    for text in (
        "in 1.0 minutes, not counting what an earlier call had finished.",
        "against with_images.npz. Real images compared with: 10,000.",
        "The classifier is one that was trained here, on 270 training images.",
        "Each point was measured with 200 images of its own",
        f"| SHA-256 of the generator | {'a' * 64} |",
    ):
        assert text in page, text


def test_the_table_says_how_the_real_images_were_divided():
    table = evaluation_table(PROXY | {"samples": 25, "real_images": 300})
    assert "of real against real, 25 against the other 275." in table
    table = evaluation_table(PROXY | {"samples": 500, "real_images": 300})
    assert "of real against real, 150 against the other 150." in table


def test_the_page_is_named_after_the_data():
    run = get_preset("small_64", data="/photos/my cats")
    assert page_of(run).startswith("# Evaluation: my cats\n")


def test_the_page_says_what_differs():
    page = page_of(
        PRESETS["digits"],
        metrics={"num_samples": 1000, "FID": 9.0},
        against="a folder",
        notes=["1,000 images", "another Inception"],
    )
    assert "**Not the published protocol**" in page and "1,000 images; another Inception." in page
    assert "This is the published" not in page


def test_a_proxy_is_called_one():
    table = evaluation_table(PROXY)
    assert "**proxy FID**" in table and "Not comparable with any published FID" in table
    assert " FID" not in table.replace("proxy FID", "").replace("published FID", "")
    assert "97.6% right" in table and "95.0% of the class asked for" in table
    assert "held" not in table
    assert table in page_of(PRESETS["digits"], proxy=PROXY)


@pytest.mark.parametrize(
    "num_classes, accuracy, words",
    [
        (
            3,
            0.41,
            "right about 41.0% of the real validation images, and guessing would be right "
            "about 33.3%",
        ),
        (2, 0.75, "guessing would be right about 50.0%"),
        (1000, 0.30, "guessing would be right about 0.1%"),
        (1, 1.0, "With a single class there is nothing to tell apart"),
        (2, 0.76, None),
        (1000, 0.51, None),
    ],
)
def test_a_classifier_that_knows_little_is_no_judge(num_classes, accuracy, words):
    """It has less than half of the way from guessing to being always right behind it."""
    table = evaluation_table(
        {**PROXY, "num_classes": num_classes, "classifier_accuracy_on_validation": accuracy}
    )
    assert ("Take these numbers with care" in table) == (words is not None)
    assert words is None or words in table


def test_a_changed_checkout_is_mentioned():
    page = report_page(PRESETS["digits"], METADATA | {"changed": True}, 1.0, "", "")
    assert "| commit | 0123abc and changed files |" in page
    page = report_page(PRESETS["digits"], METADATA | {"commit": ""}, 1.0, "", "")
    assert "not a git checkout" in page


def test_the_curves_are_those_of_the_metrics():
    rows = [{"step": 10 * k, "loss": 5 - k, "r": 1 - k / 4} for k in range(5)]
    rows.append({"step": 40, "random_loss": 2.0, "raster_loss": 1.5})
    top, bottom = plot_training(rows).axes
    curves = {line.get_label(): list(line.get_ydata()) for line in top.lines}
    assert curves == {
        "training": [5, 4, 3, 2, 1],
        "validation, random order": [2.0],
        "validation, raster order": [1.5],
    }
    assert list(bottom.lines[0].get_ydata()) == [1, 0.75, 0.5, 0.25, 0]
    assert plot_training(rows[:1]).axes, "a run that has just begun"


@pytest.mark.parametrize(
    "final_order, labels",
    [
        ("spiral_in", {"validation, random order": 2.0, "validation, spiral_in order": 1.5}),
        ("random", {"validation, random order, which is also the final one": 2.0}),
    ],
)
def test_the_curves_bear_the_name_of_the_final_order(final_order, labels):
    rows = [{"step": 40, "random_loss": 2.0, "raster_loss": 1.5}]
    lines = plot_training(rows, final_order).axes[0].lines[1:]  # the first one is the training's
    assert {line.get_label(): line.get_ydata()[0] for line in lines} == labels


END = "100, about when training ends"


@pytest.mark.parametrize(
    "every, anneal, final_order, said",
    [
        (20, (50, 75), "raster", ["40, about when r begins", "80, about when r reaches", END]),
        (100, (50, 75), "raster", ["not measured near step 50, when", "near step 75, when", END]),
        (10, (0, 0), "raster", [END]),  # never random, so no turn
        (10, (0, 40), "z_curve", ["40, about when r reaches 0", END]),
        (10, (50, 50), "raster", ["50, about when r begins", "50, about when r reaches", END]),
        (10, (5, 75), "raster", ["not measured near step 5, when", "80, about", END]),
        (10, (50, 300), "raster", ["50, about when r begins", END]),  # it never reaches 0
        (10, (50, 75), "random", [END]),
    ],
    ids=str,
)
def test_losses_are_those_near_the_turns_of_r(every, anneal, final_order, said):
    """In a run of 100 steps, and never that of the untrained model."""
    rows = [{"step": step, "raster_loss": step / 1000} for step in range(0, 101, every)]
    train = TrainConfig(100, 0, *anneal, steps_per_epoch=1)
    rows.append({"step": 7, "loss": 9})
    first, *lines = losses_at_turns(rows, train, final_order).splitlines()
    assert first == f"Validation loss in {final_order} order, in nats per token:"
    assert len(lines) == len(said) and all(words in line for words, line in zip(said, lines))
    for line in lines:
        if "about" in line:
            loss, step = line.split(",")[0].split(" at step ")
            assert float(loss) == int(step) / 1000 > 0
    assert losses_at_turns(rows[-1:], train) == ""


def test_copies_lie_at_distance_zero():
    images = torch.randint(0, 256, (40, 1, 6, 6), generator=torch.Generator().manual_seed(0)).byte()
    ax = plot_nearest(images[:20], images[20:], images[:20]).axes[0]
    copies, others = (patch.get_xy() for patch in ax.patches)
    assert copies[:, 1].max() == pytest.approx(1), "all copies are in one bin"
    first = copies[copies[:, 1] == copies[:, 1].max(), 0].min()
    assert first == 0 < others[others[:, 1] > 0, 0].min()


# Words from outside, broken files, wrong arguments

NASTY = [
    "$a_{$", "<script>alert('x')</script>", "a | b", "`x` ``y``", "two\nlines\r\nmore", "**b** _i_",
    "[link](javascript:alert(1))", "![x](http://e.org/a.png)", "\\", "\\$", "$x$ $y", "~~gone~~",
    "&lt;b&gt;", "\u202eright to left", "\x00\x1b[31m", "\udcff", "emoji 🐈‍⬛", "", " ", "# head",
    "x" * 500, "漢字", "%s {0} {x}", "{{", "'\"", "---", "<img src=x onerror=alert(1)>", "_", "^^",
]  # fmt: skip


def rendered(page):
    """As GitHub and Jupyter do it, with tags let through: what a browser would see."""
    markdown = mistune.create_markdown(escape=False, plugins=["table", "strikethrough"])
    return BeautifulSoup(markdown(page), "html.parser")


def shown(word):
    """What remains of a word on one line in a browser."""
    return " ".join(one_line(word).split())


def test_words_from_outside_stand_for_themselves_on_a_page():
    cells = [[markdown_text(word), markdown_code(word), "end"] for word in NASTY]
    soup = rendered(markdown_table(["text", "code", "end"], cells))
    tags = {tag.name for tag in soup.find_all(True)}
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td", "code", "span"}
    rows = soup.tbody.find_all("tr")
    assert len(rows) == len(NASTY)
    for row, word in zip(rows, NASTY):
        text, code, end = row.find_all("td")
        assert " ".join(text.get_text().split()) == shown(word)
        if code.code:  # there is no code without a character in it
            found = code.get_text().replace(r"\|", "|")  # as GitHub does, and mistune doesn't
            assert " ".join(found.split()) == shown(word)
        assert end.get_text() == "end"
        for dollar in text.find_all("span"):  # in an element of its own, it can't open a formula
            assert dollar.get_text() == "$"
        assert "$" not in "".join(text.find_all(string=True, recursive=False))


@pytest.mark.parametrize("word", NASTY)
def test_a_report_with_such_names(word):
    name = word.encode("utf-8", "replace").decode()  # as `RunConfig` takes no halves of characters
    run = replace(PRESETS["digits"], preset=name, data="/data/" + name.replace("/", ""))
    page = page_of(
        run,
        metrics={"num_samples": 1000, "FID": 9.0},
        against=word,
        notes=[f"compared with {word}"],
        proxy=PROXY,
        rows=[{"guidance_scale": 2.0, word: 6.8, "picture": "a.png"}],
    )
    page.encode()  # can be written
    soup = rendered(page)
    allowed = {
        "h1",
        "h2",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "strong",
        "pre",
        "code",
    }
    assert {tag.name for tag in soup.find_all(True)} <= allowed | {"span"}
    assert len(soup.find_all("h2")) == 5 and len(soup.find_all("table")) == 5
    preset = next(row for row in soup.find_all("tr") if "preset" in row.get_text())
    assert " ".join(preset.find_all("td")[2].get_text().split()) == shown(name)


def test_a_command_with_line_breaks_stays_one_block():
    page = report_page(PRESETS["digits"], METADATA, 1.0, "papermill -p data 'a\n\n<script>b'", "")
    assert not rendered(page).find_all("script") and "papermill" in rendered(page).pre.get_text()


@pytest.mark.filterwarnings("ignore:Glyph")  # the font has no Chinese and no cats
def test_every_figure_with_such_names():
    n = len(NASTY)
    images = torch.zeros(n * 2, 1, 8, 8).byte()
    rows = [{"guidance_scale": g, "guidance_power": p, "temperature": 1.0, "m": g + p}
            for g in (0.0, 2.0) for p in (1.0, 2.0)]  # fmt: skip
    for some in [NASTY[k : k + 10] for k in range(0, n, 10)]:
        plot_images(images, len(some), some[0], some, some[:2]).canvas.draw()
        plot_agreement([0.5] * len(some), some).canvas.draw()
    for word in NASTY:
        plot_sweep(rows, "m", word).canvas.draw()
        plot_sweep(rows[::2], "m", word).canvas.draw()
        plt.close("all")
    fig = plot_images(images, 2, "$a_{$", ["$a_{$", "\\$x$"])
    fig.canvas.draw()
    shown_labels = [label.get_text() for label in fig.axes[0].get_xticklabels()]
    assert [text.replace(r"\$", "$") for text in shown_labels] == ["$a_{$", "\\$x$"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\0" * 300, b"[]", b"null", b"\xff\xfe", b'{"numbers": {"FID": 1.0}}',
     b'{"settings": {}, "identity": {}, "numbers": {"FID": "low"}}'],
)  # fmt: skip
def test_a_damaged_point_is_measured_again(tmp_path, capsys, content):
    before = run_sweep(POINTS[:2], made_up, tmp_path, {"seed": 0})
    files = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    broken = min(files)
    broken.write_bytes(content)
    measured = []

    def measure(point, picture):
        measured.append(point)
        return made_up(point, picture)

    assert run_sweep(POINTS[:2], measure, tmp_path, {"seed": 0}) == before
    assert {path: path.read_bytes() for path in files} == files
    assert len(measured) == 1 and str(broken) in capsys.readouterr().out


def test_a_point_of_another_sweep_under_this_name(tmp_path, capsys):
    run_sweep(POINTS[:1], made_up, tmp_path, {"seed": 0})
    file = next(tmp_path.glob("*.json"))
    other = json.loads(file.read_text()) | {"identity": {"seed": 1}, "numbers": {"FID": -1.0}}
    file.write_text(json.dumps(other))
    assert run_sweep(POINTS[:1], made_up, tmp_path, {"seed": 0})[0]["FID"] > 0
    assert "another sweep" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_lost_picture_is_made_again(tmp_path, damage):
    def measure(point, picture):
        save_png(Image.new("L", (40, 40), 7), picture)
        return made_up(point, picture)

    run_sweep(POINTS[:1], measure, tmp_path, {})
    picture = next(tmp_path.glob("*.png"))
    before = picture.read_bytes()
    picture.unlink()
    if damage == "cut":
        picture.write_bytes(before[:50])
    run_sweep(POINTS[:1], measure, tmp_path, {})
    assert picture.read_bytes() == before


def test_read_set_names_the_image(tmp_path):
    for i, image in enumerate(
        [Image.new("L", (8, 8)), Image.new("RGB", (8, 8)), Image.new("L", (9, 8))]
    ):
        save_png(image, tmp_path / f"{i:06d}.png")
    (tmp_path / "000003.png").write_bytes(b"")
    assert read_set(tmp_path, [0, 0], 1).shape == (2, 1, 8, 8)
    for numbers, message in [
        ([0, 1], "mode of .*000001.png = 'RGB'"),
        ([0, 2], "shapes of images"),
        ([0, 3], "000003.png.*whole PNG"),
        ([4], "000004.png"),
        ([], "numbers"),
    ]:
        with pytest.raises(InvalidValue, match=message):
            read_set(tmp_path, numbers, 1)


IMAGES = torch.zeros(4, 1, 8, 8).byte()
ROWS = [{"guidance_scale": 1.0, "guidance_power": 1.0, "temperature": 1.0, "FID": 2.0}]


@pytest.mark.parametrize(
    "call",
    [
        lambda: plot_images([1, 2], 2),
        lambda: plot_images(IMAGES.float(), 2),
        lambda: plot_images(IMAGES[:0], 2),
        lambda: plot_images(IMAGES, 0),
        lambda: plot_images(IMAGES, "2"),
        lambda: plot_images(IMAGES, 2, 5),
        lambda: plot_images(IMAGES, 2, "a", "names"),
        lambda: plot_images(IMAGES, 2, "a", [1, 2]),
        lambda: plot_images(IMAGES[:, :, 0], 2),
        lambda: plot_agreement([], []),
        lambda: plot_agreement([0.5], ["a", "b"]),
        lambda: plot_sweep([], "FID"),
        lambda: plot_sweep(ROWS, "KID"),
        lambda: plot_sweep(ROWS, None),
        lambda: plot_sweep("rows", "FID"),
        lambda: plot_sweep([{"FID": 1.0}], "FID"),
        lambda: plot_nearest(IMAGES, IMAGES, IMAGES[..., :4]),
        lambda: plot_nearest(IMAGES, IMAGES, IMAGES[:0]),
        lambda: plot_nearest(IMAGES, IMAGES.numpy(), IMAGES),
        lambda: plot_training("metrics.jsonl"),
        lambda: plot_training([1, 2]),
        lambda: evaluation_table({}),
        lambda: evaluation_table({**PROXY, "samples": "many"}),
        lambda: sweep_points(SampleConfig(), 4),
        lambda: sweep_points(SampleConfig(), ["4"]),
        lambda: sweep_points(SampleConfig(), [float("nan")]),
        lambda: sweep_points(SampleConfig(), [1], [0]),
        lambda: sweep_points(None, [1]),
        lambda: stack_pictures([]),
        lambda: stack_pictures(["/no/such.png"]),
    ],
)
def test_wrong_arguments_give_one_error(call):
    with pytest.raises(InvalidValue):
        call()


def test_a_run_with_nan_in_its_losses_can_be_plotted():
    rows = [{"step": k, "loss": float("nan") if k > 2 else 5.0 - k, "r": 1.0} for k in range(6)]
    plot_training(rows).canvas.draw()
    plot_training([]).canvas.draw()


def test_a_class_without_samples_is_left_out_of_the_bars():
    plot_agreement([0.5, float("nan")], ["a", "b"]).canvas.draw()
    plot_agreement([float("nan")], ["a"]).canvas.draw()


# The images of a run


@pytest.fixture
def of_digits():
    return get_preset("digits")


def test_the_images_of_a_run(of_digits):
    train, validation = run_images(of_digits, [str(c) for c in range(10)])
    assert (len(train), len(validation)) == (4500, 500)
    assert len(run_images(of_digits)[0]) == 4500


@pytest.mark.parametrize(
    "change, names, message",
    [
        (dict(data="/no/such/folder"), None, "If the images of this run have moved, give their"),
        (dict(num_classes=9), None, r"channels and classes of data = \(1, 10\)"),
        (
            dict(),
            list("012345678x"),
            r"classes of data = \['9'\].*that the generator was trained",
        ),
        (dict(), list("9876543210"), "in the order of the run's labels"),
        (dict(), list("0123456789a"), "in the order of the run's labels"),
    ],
)
def test_images_that_are_not_the_runs(of_digits, change, names, message):
    with pytest.raises(InvalidValue, match=message):
        run_images(override(of_digits, **change), names)
