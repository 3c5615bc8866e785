"""Every printed command is collected and run, or at least read by the program that it calls."""

import configparser
import importlib
import inspect
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from fastcore.script import anno_parser
from papermill.cli import _resolve_type
from papermill.cli import papermill as papermill_program

from rar_nb.data.images import Digits
from rar_nb.pretrained.presets import (
    PRESETS,
    SAMPLING,
    TRACKERS,
    balance,
    get_preset,
    load_run_config,
    resolve,
)
from rar_nb.support import ALLOWED, check_parameters
from tests.kernels import NBS, execute, printed

ROOT = NBS.parent
WITH_PARAMETERS = ["train", "evaluate", "pretokenize", "your_images", "study_run"]
PROGRAMS = (
    r"(?:papermill|accelerate launch|rar-\w+|python -m|python(?= tests/)|make|pip install|-p|-y)"
    r" [^`]*"
)


def pages():
    """(name, text) of all that people read: Markdown files, notebooks, docstrings and messages."""
    for path in (ROOT / "README.md", ROOT / "results" / "README.md", ROOT / "data" / "README.md"):
        yield str(path.relative_to(ROOT)), path.read_text()
    for path in sorted((ROOT / "tests" / "benchmarks").glob("*.py")):
        yield path.name, path.read_text().replace("OMP_NUM_THREADS=1 ", "")
    for path in sorted(NBS.glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            yield path.stem, "".join(cell["source"])


def commands(start):
    """(page, command) for each command that starts so, as a line or between backticks."""
    found = set()
    for page, text in pages():
        text = re.sub(r"\s*\\\n\s*", " ", text)  # a line that goes on
        for command in re.findall(rf"^    ({PROGRAMS}?)$", text, re.M) + re.findall(
            rf"`({PROGRAMS}?)`", text
        ):
            if command.startswith(start) and not re.search(
                r"[{]\w+[}]", command
            ):  # a message still to be filled in
                found.add((page, command.strip()))
    return sorted(found)


def read(words):
    """What papermill makes of a command's words: the notebook's name, and the parameters."""
    given = papermill_program.make_context("papermill", list(words)).params
    values = {name: _resolve_type(value) for name, value in given["parameters"]} | dict(
        given["parameters_raw"]
    )
    for text in given["parameters_yaml"]:
        values |= yaml.safe_load(text)
    return Path(given["notebook_path"]).stem, values


def parameters_of(name):
    """The notebook's globals after its cell of parameters."""
    cells = json.loads((NBS / f"{name}.ipynb").read_text())["cells"]
    notebook = {}
    exec(
        next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])),
        notebook,
    )
    return notebook


def accept(name, values):
    """Check parameters as the notebook does, and return them all."""
    notebook = parameters_of(name) | values
    check_parameters(notebook, set(notebook) - {"known"})
    if name in ("train", "your_images"):
        fields = (
            "epochs",
            "batch_size",
            "learning_rate",
            "guidance_scale",
            "num_samples",
            "seed",
            "trackers",
        )
        get_preset(
            notebook["preset"],
            notebook["changes"],
            **{field: notebook.get(field) for field in fields},
        )
    return notebook


PAPERMILL, OPTIONS = commands("papermill "), commands(("-p ", "-y "))


def test_commands_are_found():
    assert {page for page, _ in PAPERMILL} >= {
        "README.md",
        "index",
        "results/README.md",
        *WITH_PARAMETERS,
    }
    assert (
        len(PAPERMILL) >= 10
        and len(OPTIONS) >= 7
        and any("changes" in command for _, command in OPTIONS)
    )


@pytest.mark.parametrize("page, command", [found for found in PAPERMILL if "…" not in found[1]])
def test_papermill_commands(page, command):
    program, *words = shlex.split(command)
    name, values = read(words)
    assert name in WITH_PARAMETERS and f"nbs/{name}.ipynb" in words and values
    assert "--log-output" in words, (
        "without it a terminal shows neither the estimate of costs nor a bar"
    )
    accept(name, values)


@pytest.mark.parametrize("page, options", OPTIONS)
def test_options(page, options):
    """On a notebook's own page they are for that notebook; elsewhere for some of them."""
    _, values = read(["x.ipynb", *shlex.split(options.replace("FOLDER", "folder"))])
    for name in (
        [page]
        if page in WITH_PARAMETERS
        else [name for name in WITH_PARAMETERS if set(values) <= set(parameters_of(name))][:1]
        or ["train"]
    ):
        accept(name, values)


def test_options_in_messages():
    """What a refused value is told to be, as `-y` with a list and with fields."""
    found = [options for text in ALLOWED.values() for options in re.findall(r"-y '.*?'", text)]
    assert len(found) == 2
    for options in found:
        _, values = read(["x.ipynb", *shlex.split(options)])
        accept("evaluate" if "sweep" in values else "train", values)


def test_papermill_in_the_makefile():
    found = re.findall(r"\$\(BIN\)/papermill (.*)", (ROOT / "Makefile").read_text())
    assert len(found) == 2
    for command in found:
        assert accept(*read(shlex.split(command)))


def test_changes_of_your_images():
    """The published tokenizer with a small generator; steps are counted from the images."""
    options = next(
        command
        for page, command in OPTIONS
        if page == "your_images" and "steps_per_epoch" in command
    )
    given = accept("your_images", read(["x.ipynb", *shlex.split(options)])[1])
    run = resolve(get_preset(given["preset"], given["changes"]), 3000, 3, 3, 256)
    assert (
        run.train.batch_size,
        run.train.steps_per_epoch,
        run.model.hidden_size,
        run.model.num_layers,
    ) == (256, 11, 384, 12)


SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "settings.ini")
SCRIPTS = dict(script.split("=") for script in SETTINGS["DEFAULT"]["console_scripts"].split())


def program_of(words):
    """The module that a command runs, and the options that it gives it."""
    if words[0] == "accelerate":
        given = launch_command_parser().parse_args(
            words[2:] if "-m" in words else [*words[2:], "-m", "rar_nb.runs.training"]
        )  # or only an option is named
        return given.training_script, given.training_script_args
    if words[0] == "python":
        return words[2], words[3:]
    return SCRIPTS[words[0]].removesuffix(":main"), words[1:]


@pytest.mark.parametrize(
    "page, command", commands(("accelerate launch -", "python -m rar_nb", "rar-"))
)
def test_programs(page, command):
    name, options = program_of(shlex.split(command))
    parser = anno_parser(inspect.unwrap(importlib.import_module(name).main))
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    assert end.value.code == 0
    if options:
        parser.parse_args(options)


def test_targets_of_make():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    found = {command.split()[1] for _, command in commands("make ")}
    assert found >= {"train", "evaluate", "test", "lab"} and found <= set(targets)


def test_benchmarks():
    found = {command for _, command in commands("python tests/")}
    assert len(found) >= 2
    for command in found:
        program = (ROOT / command.split()[1]).read_text()
        assert all(f'"{option}"' in program for option in re.findall(r"--\w+", command))


def test_pip():
    assert {command for _, command in commands("pip install ")} <= {
        "pip install -e '.[dev]'",
        *(f"pip install {name}" for name in TRACKERS),
    }
    assert '"dev": settings["dev_requirements"]' in (ROOT / "setup.py").read_text()


TINY = dict(preset="tiny", cpu=True)


def make_folder(folder, classes):
    digits = Digits()
    for c in range(classes):
        (folder / f"class {c}").mkdir(parents=True)
        for i in range(60 // classes + 2):
            digits[500 * c + i][0].save(folder / f"class {c}" / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize("classes", [1, 7])
def test_own_images(classes, tmp_path):
    """A folder with any number of classes is trained on, then README's command evaluates it."""
    evaluate = next(
        read(shlex.split(command)[1:])[1]
        for page, command in PAPERMILL
        if page == "README.md" and "nbs/evaluate.ipynb" in command
    )
    train = dict(image_size=32, run_dir=evaluate["run_dir"])
    train["data"] = make_folder(tmp_path / "images", classes)
    shown = printed(execute("train", tmp_path / "train.ipynb", price=2.5, **train | TINY))
    assert (f"num_samples: {-(-100 // classes) * classes} in place of 100" in shown) == (
        classes != 1
    )
    assert (
        "| parameters | counted |" in shown
        and "| price of training in dollars | estimate |" in shown
        and "IPython.core" not in shown
        and "$" not in shown
    )
    assert "RAR:" in shown, "a bar"
    evaluate |= {"sweep": [0, 2]} if classes == 1 else {}  # all scales go the way of one of these
    shown = printed(execute("evaluate", tmp_path / "evaluate.ipynb", cpu=True, **evaluate))
    assert (f"sweep_samples: {-(-200 // classes) * classes} in place of 200" in shown) == (
        classes != 1
    )
    again = shlex.split(
        (tmp_path / train["run_dir"] / "report.md").read_text().split("\n    papermill ")[-1]
    )
    name, values = read(again)
    sweep = [0, 2] if classes == 1 else [0, 2, 4, 6, 8]
    assert name == "evaluate" and accept(name, values)["sweep"] == sweep


def test_your_images(tmp_path, monkeypatch):
    """The command for a folder of one's own; what a person adds to it reaches the run.

    Its code is run here, not in a kernel, so that the kernels which it starts can be forked ones;
    nbval runs it as it stands."""
    given = next(
        read(shlex.split(command)[1:])[1] for page, command in PAPERMILL if page == "your_images"
    )
    assert given.keys() == {"folder", "preset", "image_size", "run_dir"}
    given |= TINY | dict(
        folder=make_folder(tmp_path / "images", 3),
        image_size=16,
        num_samples=31,
        epochs=1,
        changes={"num_layers": 1, "steps_per_epoch": None},
    )
    runs = []

    def forked(notebook, out, parameters, progress_bar, stdout_file, stderr_file, log_output):
        runs.append(Path(notebook).stem)
        accept(runs[-1], parameters)
        execute(runs[-1], Path(out), **parameters)

    monkeypatch.chdir(tmp_path)
    notebook = parameters_of("your_images") | given
    cells = [
        cell
        for cell in json.loads((NBS / "your_images.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            continue
        exec("".join(cell["source"]), notebook)
        notebook["papermill"] = SimpleNamespace(
            execute_notebook=forked
        )  # which its first cell imported
    run = load_run_config(tmp_path / given["run_dir"] / "config.json")
    assert (
        run.preset,
        run.tokenizer.image_size,
        run.sample.num_samples,
        run.model.num_layers,
        run.train.epochs,
        run.train.steps_per_epoch,
    ) == ("tiny", 16, 33, 1, 1, 1)
    assert runs == ["train", "evaluate"] and (tmp_path / given["run_dir"] / "report.md").exists()


@pytest.mark.parametrize("classes", [1, 3, 7, 101])
def test_every_preset_has_the_same_number_of_each_class(classes, capsys):
    for name in set(PRESETS) - set(SAMPLING):
        asked, run = (
            PRESETS[name],
            resolve(PRESETS[name], 10_000, classes, 3, PRESETS[name].tokenizer.image_size),
        )
        assert (
            0 <= run.sample.num_samples - asked.sample.num_samples < classes
            and run.sample.num_samples % classes == 0
        )
    capsys.readouterr()
    assert balance("sweep_samples", 200, classes) % classes == 0
    assert capsys.readouterr().out.count("\n") == (200 % classes != 0)
