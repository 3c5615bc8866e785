"""The run notebooks, headless, as a user runs them: from another folder, with few steps."""

import json
import re

import nbformat
import pytest
import torch
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from rar_nb.data.images import Digits, open_data
from rar_nb.data.tokens import pretokenize
from rar_nb.pretrained.presets import load_run_config, read_identity, save_run_config
from rar_nb.runs.run_folders import curve, open_run, read_metrics, save_tokens
from rar_nb.runs.safekeeping import newest_checkpoint
from tests.kernels import execute, printed

SMALL = dict(preset="tiny", cpu=True, num_samples=100)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """20 digits of each class as PNG files: a classifier needs a minute to learn from all."""
    folder, digits = tmp_path_factory.mktemp("digits"), Digits()
    for c in range(10):
        (folder / str(c)).mkdir()
        for i in range(20):
            digits[500 * c + i][0].save(folder / str(c) / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    """A run made in a folder that is not the project's, by a relative path."""
    folder = tmp_path_factory.mktemp("elsewhere")
    execute(
        "train", folder / "out.ipynb", as_a_user_does=True, run_dir="mine", data=images, **SMALL
    )
    return folder / "mine"


def test_a_run_is_one_folder(run):
    config, tokenizer, model = open_run(run)
    assert config == load_run_config(run / "config.json")
    steps = config.train.total_steps
    rows = read_metrics(run / "metrics.jsonl")
    assert {row["step"] for row in rows} == set(range(steps + 1))
    grids = sorted(p.name for p in (run / "samples").glob("*.png"))
    assert grids == [
        "final.png",
        "progress.png",
        "step_000000.png",
        "step_000010.png",
        "step_000020.png",
    ]
    for name in grids:
        assert Image.open(run / "samples" / name).width > 100
    numbers = json.loads((run / "evaluation.json").read_text())
    assert (
        numbers["samples"] == 100
        and numbers["proxy_fid_samples"] > numbers["proxy_fid_real_against_real"]
    )


def test_training_learns(run):
    loss = [
        row["raster_loss"] for row in read_metrics(run / "metrics.jsonl") if "raster_loss" in row
    ]
    assert loss[-1] < loss[0] - 0.1


def test_same_parameters_same_run(run, images, tmp_path):
    """Also in two pieces, the first of which ends before the first step, with a checkpoint."""
    again = dict(run_dir=str(tmp_path / "again"), data=images, **SMALL)
    execute("train", tmp_path / "out.ipynb", max_minutes=0, **again)
    assert newest_checkpoint(tmp_path / "again" / "checkpoints").step == 0
    assert not (tmp_path / "again" / "model.safetensors").exists()
    execute("train", tmp_path / "out.ipynb", resume=True, **again)
    for file in ("tokenizer", "before_annealing", "model"):
        assert (tmp_path / "again" / f"{file}.safetensors").read_bytes() == (
            run / f"{file}.safetensors"
        ).read_bytes()
    names = (
        "config.json",
        "evaluation.json",
        "identity.json",
        "metrics.jsonl",
        "before_annealing.safetensors",
        "model.safetensors",
        "samples",
        "tokenizer.safetensors",
        "tokens",
        "train.log",
    )
    assert sorted(p.name for p in (tmp_path / "again").glob("[!.]*")) == sorted(names)
    before, after = (read_identity(folder) for folder in (run, tmp_path / "again"))
    assert before == after and before["classes"] == [str(c) for c in range(10)]


def test_the_tokenizer_is_announced_and_obeys_the_time_limit(images, tmp_path):
    """Its row among the costs, how to go on (once), and a checkpoint when the time is up."""
    small = dict(kind="conv_vq", codebook_size=8, width=8, vq_steps=3, vq_batch_size=4)
    given = dict(run_dir=str(tmp_path / "run"), data=images, changes=small, max_minutes=0)
    with pytest.raises(PapermillExecutionError, match="stopped after 1 of 3 steps .the time is up"):
        execute("train", tmp_path / "out.ipynb", **given, **SMALL)
    assert newest_checkpoint(tmp_path / "run" / "tokenizer_checkpoints").step == 1
    said = printed(nbformat.read(tmp_path / "out.ipynb", 4))
    assert "| **training the tokenizer** | estimate | **" in said
    assert said.count("resume") == said.count("the same command with -p resume True goes on\n") == 1


def test_tokens_in_place_of_images_on_two_devices(run, images, tmp_path):
    """No images at hand, two processes in a child of the notebook: the losses stay the same."""
    config, tokenizer, model = open_run(run)
    train_images, validation_images = open_data(images)
    save_tokens(
        tmp_path / "tokens",
        config,
        tokenizer,
        pretokenize(tokenizer, train_images),
        pretokenize(tokenizer, validation_images),
    )
    done = execute(
        "train",
        tmp_path / "out.ipynb",
        run_dir="two",
        tokens="tokens",
        tokenizer_from=str(run),
        devices=2,
        **SMALL,
    )
    for name in ("loss", "raster_loss"):
        (steps, values), (again_steps, again) = (
            curve(read_metrics(folder / "metrics.jsonl"), name)
            for folder in (run, tmp_path / "two")
        )
        assert steps == again_steps and max(abs(x - y) for x, y in zip(values, again)) < 1e-5
    assert "2 × cpu × 16 images" in (tmp_path / "two" / "train.log").read_text()
    assert printed(done).count("skipped: this run has tokens, but no images\n") == 4
    assert not (tmp_path / "two" / "evaluation.json").exists()
    assert (tmp_path / "two" / "samples" / "final.png").exists()


def test_overwrite_keeps_the_tokens_it_learns_from(run, images, tmp_path):
    """They lie in the old run's own folder; of all else there only what a user put there stays."""
    config, tokenizer, model = open_run(run)
    train_images, validation_images = open_data(images)
    save_tokens(
        tmp_path / "mine" / "tokens",
        config,
        tokenizer,
        pretokenize(tokenizer, train_images),
        pretokenize(tokenizer, validation_images),
    )
    save_run_config(config, tmp_path / "mine" / "config.json")
    for name in ("evaluation.json", "report.md", "train.log", "holiday.png"):
        (tmp_path / "mine" / name).write_text("old")
    before = {p: p.read_bytes() for p in (tmp_path / "mine" / "tokens").rglob("*") if p.is_file()}
    execute(
        "train",
        tmp_path / "out.ipynb",
        run_dir="mine",
        tokens="mine/tokens",
        tokenizer_from=str(run),
        overwrite=True,
        **SMALL,
    )
    assert (
        before
        == {p: p.read_bytes() for p in (tmp_path / "mine" / "tokens").rglob("*") if p.is_file()}
        and len(before) == 6
    )
    names = (
        "before_annealing.safetensors",
        "config.json",
        "holiday.png",
        "identity.json",
        "metrics.jsonl",
        "model.safetensors",
        "samples",
        "tokenizer.safetensors",
        "tokens",
        "train.log",
    )
    assert sorted(p.name for p in (tmp_path / "mine").glob("[!.]*")) == sorted(names)


def test_resume_refuses_another_run(run, images, tmp_path):
    with pytest.raises(PapermillExecutionError) as error:
        execute(
            "train",
            tmp_path / "out.ipynb",
            run_dir=str(run),
            data=images,
            resume=True,
            batch_size=16,
            **SMALL,
        )
    assert (
        "this is not the run in" in error.value.evalue
        and "train.batch_size = 32 there, 16 here" in error.value.evalue
    )


def test_a_run_starts_from_another_one(run, images, tmp_path):
    """Fine-tuning: the first validation loss is the last one of the run that it starts from, whose
    tokenizer it has, too."""
    done = execute(
        "train",
        tmp_path / "out.ipynb",
        run_dir=str(tmp_path / "b"),
        data=images,
        tokenizer_from=str(run),
        init_from=str(run),
        epochs=1,
        **SMALL,
    )
    first, last = (
        [row for row in read_metrics(folder / "metrics.jsonl") if "raster_loss" in row]
        for folder in (tmp_path / "b", run)
    )
    assert first[0]["raster_loss"] == last[-1]["raster_loss"]
    name = "tokenizer.safetensors"
    assert (tmp_path / "b" / name).read_bytes() == (run / name).read_bytes()
    assert "the rows of all 10 classes among them" in printed(done)
    assert load_run_config(tmp_path / "b" / "config.json").init_from == str(run)


def test_colour_folder(tmp_path):
    """One's own images: a folder of photographs of another size, in colour."""
    generator = torch.Generator().manual_seed(0)
    for c, colour in enumerate([(200, 30, 30), (30, 30, 200)]):
        (tmp_path / "images" / f"class{c}").mkdir(parents=True)
        for i in range(40):
            noise = torch.randint(0, 55, (45, 40, 3), generator=generator).byte()
            Image.fromarray((noise + torch.tensor(colour).byte()).numpy()).save(
                tmp_path / "images" / f"class{c}" / f"{i}.png"
            )
    done = execute(
        "train",
        tmp_path / "out.ipynb",
        data=str(tmp_path / "images"),
        image_size=32,
        run_dir=str(tmp_path / "run"),
        **SMALL,
    )
    config, tokenizer, model = open_run(tmp_path / "run")
    assert (config.tokenizer.channels, config.model.num_tokens, config.model.num_classes) == (
        3,
        64,
        2,
    )
    assert "skipped" not in printed(done)  # nothing is stored to which it could be compared


def test_evaluate(run, tmp_path):
    trained = json.loads((run / "evaluation.json").read_text())
    execute(
        "evaluate",
        tmp_path / "out.ipynb",
        run_dir=str(run),
        num_samples=50,
        sweep=[0, 3.5],
        sweep_samples=20,
        guidance_scale=1.5,
    )
    numbers = json.loads((run / "evaluation.json").read_text())
    assert (
        numbers["samples"] == 50
        and numbers["sample"]["guidance_scale"] == 1.5
        and trained["samples"] == 100
    )
    assert [row["guidance_scale"] for row in numbers["sweep"]] == [0, 3.5]
    assert (run / "evaluation" / "guidance.png").is_file()


def test_random_orders_to_the_end_and_in_the_report(images, tmp_path):
    """What is printed, plotted and sampled follows `final_order`."""
    changes, folder = {"final_order": "random"}, tmp_path / "run"
    given = dict(run_dir=str(folder), data=images, changes=changes)
    said = printed(execute("train", tmp_path / "train.ipynb", **given, **SMALL))
    assert "none: all orders stay random, also those of the samples" in said
    assert "Validation loss in random order" in said and "about when r" not in said
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "raster_loss" in row]
    assert rows and all(row["raster_loss"] == row["random_loss"] for row in rows)
    execute("evaluate", tmp_path / "out.ipynb", run_dir=str(folder), sweep=[2.0], sweep_samples=10,
            cpu=True)  # fmt: skip
    page = (folder / "report.md").read_text()
    assert ", random order, guidance" in page
    assert re.search(r"final_order *\| *random ", page)
    (request,) = (folder / "evaluation").glob("images-*/generate.json")
    assert json.loads(request.read_text())["final_order"] == "random"
    (point,) = (folder / "evaluation" / "sweep").glob("*.json")
    assert json.loads(point.read_text())["identity"]["final_order"] == "random"


@pytest.mark.parametrize("no", [{}, dict(overwrite="false")], ids=["left out", "the word false"])
def test_train_keeps_an_earlier_run(run, tmp_path, no):
    before = {p: p.read_bytes() for p in run.rglob("[!.]*") if p.is_file()}
    with pytest.raises(PapermillExecutionError, match="overwrite=True"):
        execute("train", tmp_path / "out.ipynb", run_dir=str(run), **SMALL, **no)
    assert before == {p: p.read_bytes() for p in run.rglob("[!.]*") if p.is_file()}


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(run_dir="/no/such/run"), "run_dir = '/no/such/run' is not allowed: it must be the"),
        (
            dict(guidance_scale=-1),
            "guidance_scale = -1 is not allowed: it must be a number of at least 0",
        ),
        (
            dict(sweep_samples=0),
            "sweep_samples = 0 is not allowed: it must be a whole number of at least 1",
        ),
        (
            dict(sweep="all"),
            "sweep = 'all' is not allowed: it must be a list of numbers; "
            "papermill takes one as -y '{sweep: [0, 2, 4]}'",
        ),
        (
            dict(guidance=3),
            "parameter = 'guidance' is not allowed: did you mean 'guidance_scale'? It must be",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_evaluate_refuses_wrong_parameters(run, tmp_path, wrong, message):
    with pytest.raises(PapermillExecutionError) as error:
        execute(
            "evaluate",
            tmp_path / "out.ipynb",
            as_a_user_does="run_dir" in wrong,
            **({"run_dir": str(run)} | wrong),
        )
    assert message in error.value.evalue
