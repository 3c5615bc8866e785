"""A set of images by several processes: `accelerate launch -m rar_nb.sampler`, from a run's folder and from a published checkpoint's files."""
import sys

import pytest
import torch

from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import PRESETS, get_preset, override, save_run_config
from rar_nb.runs.launch import launch_command
from rar_nb.runs.image_sets import generate, launch, main, open_model
from rar_nb.transformer import RAR
from rar_nb.pretrained.vq_models import MaskGITVQ
from rar_nb.tokenizer import make_tokenizer

RUN = get_preset("tiny", num_samples=30, sample_batch_size=7)


def make_model(config, seed=0):
    torch.manual_seed(seed)
    model = RAR(config)
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, and the set that one process draws of it."""
    folder = tmp_path_factory.mktemp("run")
    model, tokenizer = make_model(RUN.model), make_tokenizer(RUN.tokenizer)
    save_run_config(RUN, folder / "config.json")
    save_weights(model, folder / "model.safetensors")
    save_weights(tokenizer, folder / "tokenizer.safetensors")
    generate(model, tokenizer, folder / "one", RUN.sample, seed=3)
    return folder


def files(folder): return {p.name: p.read_bytes() for p in folder.glob("*.png")}


def test_two_processes_draw_the_same_images_as_one(folder):
    launch(folder / "two", RUN.sample, seed=3, processes=2, cpu=True, run_dir=folder)
    assert files(folder / "two") == files(folder / "one") and len(files(folder / "one")) == 30
    log = (folder / "two" / "launch.log").read_text()
    assert "3/3" in log and "5/5" not in log, "the first process draws batches 0, 2 and 4 of the five"


def test_checkpoint_files_give_the_same_images_as_the_run(folder):
    arguments = ["--preset", "tiny", "--model", folder / "model.safetensors", "--tokenizer", folder / "tokenizer.safetensors"]
    settings = ["--folder", folder / "files", "--num_samples", "30", "--sample_batch_size", "7", "--seed", "3", "--cpu"]
    main([str(a) for a in arguments + settings])
    assert files(folder / "files") == files(folder / "one")


def test_a_failing_child_is_reported(folder, tmp_path):
    with pytest.raises(RuntimeError, match="num_samples = 31 is not allowed: it must be a multiple of the number of classes, 10"):
        launch(tmp_path / "set", override(RUN, num_samples=31).sample, processes=1, cpu=True, run_dir=folder)


def test_the_command_names_what_is_drawn(tmp_path):
    command = launch_command("rar_nb.sampler", 8, preset="rar_b", model="rar_b.bin", tokenizer=None, folder=tmp_path, num_samples=50_000)
    assert command[0] == sys.executable and "--multi_gpu" in command and "--cpu" not in command and "--tokenizer" not in command
    assert command[command.index("-m", 3) + 1] == "rar_nb.sampler"
    assert command[command.index("--num_samples") + 1] == "50000" and command[command.index("--num_processes") + 1] == "8"


def test_a_published_checkpoint(tmp_path, monkeypatch):
    """The released layout, made smaller: <preset>.bin with a bare state_dict, and MaskGIT-VQ's file."""
    small = override(PRESETS["rar_b"], num_layers=1, hidden_size=32, mlp_size=32, num_heads=2)
    monkeypatch.setitem(PRESETS, "rar_b", small)
    model, tokenizer = make_model(small.model), MaskGITVQ()
    torch.save(model.state_dict(), tmp_path / "rar_b.bin")
    torch.save(tokenizer.state_dict(), tmp_path / "maskgit-vqgan-imagenet-f16-256.bin")
    run, its_tokenizer, its_model = open_model(preset="rar_b", model=tmp_path, tokenizer=str(tmp_path))
    assert run == small and run.sample.num_samples == 50_000
    for a, b in ((its_model, model), (its_tokenizer, tokenizer)):
        assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())
    del small, its_tokenizer
    with pytest.raises(ValueError, match="holds neither rar_l.bin"):
        open_model(preset="rar_l", model=tmp_path, tokenizer=str(tmp_path))


@pytest.mark.parametrize("wrong, message", [
    ({}, "one of them"),
    (dict(run_dir="a", preset="rar_b"), "one of them"),
    (dict(run_dir="a", model="b"), "left out beside run_dir"),
    (dict(preset="digits"), "the two files of a run of digits"),
    (dict(preset="rar_z"), "preset = 'rar_z'"),
    (dict(run_dir="/no/such/run"), "/no/such/run/config.json"),
])
def test_what_cannot_be_opened(wrong, message):
    with pytest.raises(ValueError) as error: open_model(**wrong)
    assert message in str(error.value)


def test_the_program_has_a_help(capsys):
    with pytest.raises(SystemExit) as end: main(["--help"])
    assert end.value.code == 0 and "--guidance_scale" in capsys.readouterr().out
