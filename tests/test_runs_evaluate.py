"""The evaluate notebook, headless: metrics with a random-weight Inception, a published checkpoint,
several processes, a resumed sweep, the report."""

import json
import os
import signal
import time

import nbformat
import numpy as np
import pytest
import torch
from papermill.exceptions import PapermillExecutionError

import rar_nb.evaluation as evaluation
from rar_nb.data.images import Digits
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import get_preset, save_run_config
from rar_nb.reports.fidelity import random_inception
from rar_nb.runs.safekeeping import hold
from rar_nb.tokenizer import make_tokenizer
from rar_nb.transformer import RAR
from tests.forks import FORKS, fork
from tests.kernels import NBS, execute, printed

RUN = get_preset(
    "tiny", num_samples=20, sample_batch_size=10, channels=3
)  # folders are opened in colour


def evaluate(place, **parameters):
    """Run the notebook from `place`; what it printed."""
    return printed(execute("evaluate", place / "out.ipynb", **parameters))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run in `run`, images in `real` and Inception's weights, outside the project."""
    place, digits = tmp_path_factory.mktemp("elsewhere"), Digits()
    torch.manual_seed(0)
    model = RAR(RUN.model)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    save_run_config(RUN, place / "run" / "config.json")
    save_weights(model, place / "run" / "model.safetensors")
    save_weights(make_tokenizer(RUN.tokenizer), place / "run" / "tokenizer.safetensors")
    random_inception(place / "inception.pth")
    for c in range(10):
        (place / "real" / str(c)).mkdir(parents=True)
        for i in range(12):
            digits[500 * c + i][0].save(place / "real" / str(c) / f"{i}.png")
    for i in range(10):
        (place / "few").mkdir(exist_ok=True)
        digits[500 * i][0].save(place / "few" / f"{i}.png")
    return place


def test_a_checkpoint_with_inception(place):
    """Files instead of a run, FID against a folder; nothing of the proxy."""
    printed = evaluate(
        place,
        as_a_user_does=True,
        preset="tiny",
        model_file="run/model.safetensors",
        tokenizer_file="run/tokenizer.safetensors",
        out_dir="out",
        num_samples=10,
        sample_batch_size=10,
        sample_precision="bf16",
        sweep=[],
        inception="inception.pth",
        reference="few",
    )
    found = json.loads((place / "out" / "evaluation.json").read_text())
    assert found["sample"]["sample_precision"] == "bf16"
    assert all(len(digest) == 64 for digest in found["weights"].values())
    assert found["samples"] == 10 and set(found["metrics"]) == {
        "num_samples",
        "num_real",
        "FID",
        "IS",
        "KID",
        "precision",
        "recall",
    }
    assert found["metrics"]["FID"] > 0 and "proxy_fid_samples" not in found
    page = (place / "out" / "report.md").read_text()
    assert (
        f"| FID | {found['metrics']['FID']:.2f} |" in page
        and "**Not the published protocol**" in page
        and "tiny is no recipe of the paper" in page
        and "in bf16, seed 1" in page
        and "Real images compared with: 10." in page
    )
    assert (
        "proxy" not in page
        and "papermill --log-output nbs/evaluate.ipynb" in page
        and page.startswith("# Evaluation: digits\n")
        and "-p preset tiny" in page
    )
    assert (
        "report.md" in printed and not (place / "out" / "evaluation" / "imagenet_fid.json").exists()
    )
    assert len(list((place / "out" / "evaluation").glob("images-*/*.png"))) == 10


def test_a_sweep_goes_on_and_two_processes_draw_the_same(place):
    """The proxy; the second call draws with two processes and has one more guidance scale."""
    settings = dict(run_dir="run", data="real", cpu=True, sweep_powers=[0.5, 2], sweep_samples=10)
    first = evaluate(place, **settings, sweep=[3], sweep_temperatures=[1.0, 1.2])
    assert first.count("proxy_fid ") == 4 and first.count("temperature 1.2,") == 2
    points = [
        (r["guidance_scale"], r["guidance_power"], r["temperature"])
        for r in json.loads((place / "run" / "evaluation.json").read_text())["sweep"]
    ]
    assert sorted(points) == [(3, 0.5, 1.0), (3, 0.5, 1.2), (3, 2, 1.0), (3, 2, 1.2)]
    before = {p.name: p.read_bytes() for p in (place / "run" / "evaluation").glob("images-*/*.png")}
    for p in list((place / "run" / "evaluation").glob("images-*/*.png"))[::3]:
        p.unlink()
    again = evaluate(place, **settings, sweep=[0, 3], sweep_temperatures=[1.2], processes=2)
    assert (
        again.count("proxy_fid ")
        == again.count("guidance_scale 0,")
        == again.count("temperature 1.2,")
        == 1
    )  # without guidance there is only one power
    assert before == {
        p.name: p.read_bytes() for p in (place / "run" / "evaluation").glob("images-*/*.png")
    }
    found = json.loads((place / "run" / "evaluation.json").read_text())
    rows = {
        (r["guidance_scale"], r["guidance_power"], r["temperature"]): r["proxy_fid"]
        for r in found["sweep"]
    }
    assert len(rows) == 4 and rows[0, 0.5, 1.2] == rows[0, 2, 1.2] and found["metrics"] is None
    assert not list(
        (place / "run" / "evaluation" / "sweep").glob("images-*")
    )  # only numbers and a strip a point stay
    page = (place / "run" / "report.md").read_text()
    assert (
        "in float32, seed 1" in page
        and "The classifier is one that was trained here, on 110 training images." in page
    )
    assert "evaluation/sweep.png" in page and "Not comparable with any published FID" in page
    for name in ("samples.png", "sweep.png", "guidance.png"):
        assert (place / "run" / "evaluation" / name).is_file()


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            dict(run_dir="run", reference="few"),
            "reference = 'few' is not allowed: it must be left out, or accompanied by inception",
        ),
        (dict(run_dir="run", data="digits"), "channels and classes of data = (1, 10)"),
        (dict(run_dir="real"), "the folder of a run, but there is no "),
        (dict(run_dir="run", data="gone"), "have moved, give their folder as data"),
        (dict(run_dir="run", data="real", seed=-1), "seed = -1"),
    ],
)
def test_wrong_parameters(place, tmp_path, wrong, message):
    with pytest.raises(PapermillExecutionError) as error:
        evaluate(place, **wrong)
    assert message in error.value.evalue


def test_a_wrong_reference_stops_before_anything_is_drawn(place, tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros(3))
    with pytest.raises(PapermillExecutionError) as error:
        evaluate(
            place,
            run_dir="run",
            out_dir=str(tmp_path / "out"),
            inception="inception.pth",
            reference=str(tmp_path / "samples.npz"),
        )
    assert (
        "a reference batch with 'mu' and 'sigma'" in error.value.evalue
        and not (tmp_path / "out").exists()
    )


def test_a_second_evaluation_is_told_who_is_there(place):
    held = hold(place / "busy" / "evaluation", name="evaluation")
    with held, pytest.raises(PapermillExecutionError) as error:
        evaluate(place, run_dir="run", data="real", out_dir="busy", sweep=[])
    assert f"in use by process {os.getpid()} on" in error.value.evalue
    assert [file.name for file in (place / "busy").rglob("*.png")] == []


def run_cells(folder, parameters):
    """The notebook's cells in this process, without a kernel."""
    os.chdir(folder)
    import matplotlib

    matplotlib.use("agg")
    evaluation.LEAST_STEPS = 10  # as in kernels.py
    namespace = {"__name__": "__main__"}
    for cell in nbformat.read(NBS / "evaluate.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
            if "parameters" in cell.metadata.get("tags", []):
                namespace |= parameters


def what_it_wrote(folder):
    """All that is the same in each evaluation: without times, and without the state of this
    checkout, which somebody may be working on."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    numbers = json.loads(found.pop("evaluation.json"))
    page = found.pop("report.md").decode().splitlines()
    other = ("seconds", "date", "commit", "changed")
    varies = (" minutes, ", "out_dir", "commit")
    page = [line for line in page if not any(words in line for words in varies)]
    return found, {name: value for name, value in numbers.items() if name not in other}, page


@pytest.mark.skipif(FORKS is None, reason="needs a fork server")
def test_an_evaluation_that_is_killed_goes_on(place):
    """SIGKILL while the set, the first picture of the sweep and its numbers are written, then one
    to the end: all files are those of an evaluation that nobody disturbed."""
    parameters = dict(run_dir="run", data="real", cpu=True, sweep=[0, 3], sweep_samples=10)

    def start(out):
        return fork(run_cells, str(place), parameters | dict(out_dir=out))

    job = start("whole")
    job.join()
    assert job.exitcode == 0
    for pattern in ("images-*/*.png", "samples.png", "sweep/images-*/*.png", "sweep/*.json"):
        job = start("killed")
        while not list((place / "killed" / "evaluation").glob(pattern)):
            assert job.is_alive(), pattern
            time.sleep(0.001)
        os.kill(job.pid, signal.SIGKILL)
        job.join()
        assert job.exitcode == -signal.SIGKILL
    job = start("killed")
    job.join()
    assert job.exitcode == 0
    assert what_it_wrote(place / "killed") == what_it_wrote(place / "whole")
