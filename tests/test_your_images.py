"""your_images: what it passes to the notebooks that it runs, for folders of every kind."""

import json
import logging
import re
from types import SimpleNamespace

import pytest
from papermill.exceptions import PapermillExecutionError

from rar_nb.data.images import Digits
from rar_nb.pretrained.presets import get_preset, resolve
from rar_nb.support import InvalidValue, Stopped
from tests.kernels import NBS
from tests.tools import rule

CELLS = [
    cell
    for cell in json.loads((NBS / "your_images.ipynb").read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
ODD = ["$a_{$", "<script>", "größe 1", "a'b", 'x"y', "%s {0}", "-p", "# title", "\N{CAT FACE}"]


def source(cell):
    return "".join(cell["source"])


def parameters(name):
    """A notebook's globals after its cell of parameters."""
    cells = json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    values = {}
    exec(next(source(c) for c in cells if "parameters" in c["metadata"].get("tags", [])), values)
    return values


def make_folder(folder, names, each=6):
    digits = Digits()
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            digits[(500 * c + i) % 5000][0].save(folder / name / f"{i}.png")
    return str(folder)


def run(until, **given):
    """The notebook up to the cell that contains `until`: its globals, and what it would run."""
    ran, notebook = {}, parameters("your_images") | given

    def note(path, out, values, progress_bar, **_):
        ran[path.stem] = values
        assert out == notebook["run_dir"] / path.name and out.parent.is_dir()  # it stays
        folder = notebook["run_dir"]
        folder.mkdir(parents=True, exist_ok=True)
        if "max_minutes" not in values:
            (folder / "model.safetensors").touch()

    for cell in CELLS:
        if "parameters" not in cell["metadata"].get("tags", []):
            exec(source(cell), notebook)
            notebook["papermill"] = SimpleNamespace(execute_notebook=note)
        if until in source(cell):
            return notebook, ran
    raise AssertionError(until)


@pytest.mark.parametrize("classes", [1, 3, 7, 101])
def test_any_number_of_classes(tmp_path, capsys, classes):
    folder = make_folder(
        tmp_path / "images", [f"class {c}" for c in range(classes)], 120 // classes + 2
    )
    notebook, ran = run(
        "run_notebook('train'", folder=folder, preset="tiny", image_size=28,
        run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    given = ran["train"]
    assert set(given) <= set(parameters("train"))
    assert not [name for name, value in given.items() if value is None]
    names = ("epochs", "batch_size", "learning_rate", "guidance_scale", "num_samples", "seed")
    start = get_preset(given["preset"], given["changes"], **{n: given.get(n) for n in names})
    images = len(notebook["train_images"])
    capsys.readouterr()
    resolved = resolve(start, images, classes, 1, 28)
    assert resolved.sample.num_samples == 100 * classes
    assert "num_samples" not in capsys.readouterr().out  # there was nothing to round


def test_odd_names(tmp_path):
    folder = make_folder(tmp_path / "$images {0}", ODD)
    notebook, ran = run(
        "run_notebook('train'", folder=folder, preset="tiny", image_size=28,
        run_dir=str(tmp_path / "a run"), changes={"batch_size": 8},
    )  # fmt: skip
    assert sorted(notebook["names"]) == sorted(ODD) and ran["train"]["data"] == folder


def test_a_small_folder_gets_smaller_batches(tmp_path, capsys):
    """The largest power of two, and that is said; a size that was asked for is passed on."""
    folder = make_folder(tmp_path / "images", ["a", "b", "c"], 18)
    given = dict(folder=folder, preset="small_64")
    for number, (chosen, expected) in enumerate(
        [({}, 32), (dict(batch_size=16), 16), (dict(batch_size=128), 128),
         (dict(changes={"batch_size": 64}), None), (dict(preset="tiny", image_size=28), None)]
    ):  # fmt: skip
        place = str(tmp_path / f"run{number}")
        _, ran = run("run_notebook('train'", run_dir=place, **given | chosen)
        assert ran["train"].get("batch_size") == expected
        said = ["batch_size: 32 in place of 256, as there are 51 training images"]
        found = re.findall("batch_size.*", capsys.readouterr().out)
        assert found == ([] if chosen else said)


def test_an_earlier_run_keeps_its_notebooks(tmp_path):
    """What train would refuse is refused before papermill writes there."""
    folder = make_folder(tmp_path / "images", ["a", "b"], 40)
    given = dict(folder=folder, preset="tiny", image_size=28, run_dir=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InvalidValue, match="without a run in it.*overwrite=True.*resume=True"):
        run("run_notebook('train'", **given)
    for words in (dict(overwrite=True), dict(resume=True)):
        assert "train" in run("run_notebook('train'", **given, **words)[1]


def test_the_tables_of_train_are_shown(tmp_path, capsys):
    """Papermill writes to its log what a notebook shows, and what it prints once more."""
    folder = make_folder(tmp_path / "images", ["a", "b"], 40)
    given = dict(folder=folder, preset="tiny", image_size=28, run_dir=str(tmp_path / "run"))
    run("run_notebook('train'", **given)
    capsys.readouterr()
    for text in ("<Figure size 760x320 with 1 Axes>", "|  | tiny |\n| --- |", "printed already"):
        logging.getLogger("papermill").info(text)
    assert capsys.readouterr() == ("|  | tiny |\n| --- |\n", "")


ADVICE = dict(
    seed=7,
    learning_rate=1e-3,
    guidance_scale=3.0,
    devices=1,
    init_from="runs/earlier",
    tokenizer_from="runs/earlier",
    tokens="tokens",
    resume=True,
    changes={"vq_steps": 10, "dropout": 0.2},
)


def test_what_its_advice_names_reaches_the_training(tmp_path):
    folder = make_folder(tmp_path / "images", ["a", "b"], 40)
    given = dict(folder=folder, preset="tiny", image_size=28, run_dir=str(tmp_path / "run"))
    _, ran = run("run_notebook('train'", **given, **ADVICE)
    for name, value in ADVICE.items():
        assert ran["train"][name] == value, name


def test_a_demonstration_takes_values_of_ones_own():
    _, ran = run("run_notebook('train'", learning_rate=1e-3, changes={"num_layers": 1})
    given = ran["train"]
    assert given["learning_rate"] == 1e-3 and given["guidance_scale"] == 3.0
    assert given["changes"]["num_layers"] == 1 and given["changes"]["num_heads"] == 3


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(num_samples=0), "num_samples = 0"),
        (dict(learning_rate=-1.0), "learning_rate = -1.0"),
        (dict(seed=2**32), "seed = 4294967296"),
        (dict(image_size=10**12), "image_size = 1000000000000"),
        (dict(image_size=30), "image_size = 30 .*multiple of the tokenizer's stride"),
        (dict(preset="rar_z"), "preset = 'rar_z'"),
        (dict(folder="/no/such"), "folder = '/no/such' is not allowed: it must be an existing fol"),
    ],
)
def test_parameters_are_checked_before_the_folder_is_opened(given, message):
    with pytest.raises(InvalidValue, match=message):
        run("is_demo = ", **given)


def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path):
    folder = make_folder(tmp_path / "images", ["a", "b"], 40)
    given = dict(folder=folder, preset="tiny", image_size=28, run_dir=str(tmp_path / "run"))
    with pytest.raises(InvalidValue, match="run this notebook again with resume=True"):
        run("run_notebook('evaluate'", **given, max_minutes=1.0)


def test_the_rule_is_tried_with_the_model_of_the_notebook(tmp_path):
    """`tests.tools.rule` reads it there, whatever it is."""
    assert rule.MODEL["hidden_size"] == rule.settings_of("smaller")["hidden_size"]
    text = rule.NOTEBOOK.read_text(encoding="utf-8")
    changed = tmp_path / "your_images.ipynb"
    changed.write_text(re.sub(r"hidden_size=\d+", "hidden_size=7", text), encoding="utf-8")
    found = rule.settings_of("smaller", changed)
    assert found == rule.settings_of("smaller") | dict(hidden_size=7)


@pytest.mark.parametrize(
    "ename, raised",
    [
        ("Stopped", Stopped),
        ("InvalidValue", InvalidValue),
        ("KeyError", PapermillExecutionError),
    ],
)
def test_what_train_refuses_is_one_sentence_here(tmp_path, monkeypatch, ename, raised):
    """The traceback of another error is needed, so it stays."""
    folder = make_folder(tmp_path / "images", ["a", "b"], 40)
    given = dict(folder=folder, preset="tiny", image_size=28, run_dir=str(tmp_path / "run"))
    notebook, _ = run("run_notebook('train'", **given)

    def fail(*_, **__):
        raise PapermillExecutionError(4, 4, "train()", ename, "the sentence", ["a", "traceback"])

    notebook["papermill"] = SimpleNamespace(execute_notebook=fail)
    with pytest.raises(raised) as error:
        notebook["run_notebook"]("train", {})
    assert (str(error.value) == "the sentence") == (raised is not PapermillExecutionError)
    assert error.value.__cause__ is None
