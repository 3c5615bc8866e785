"""Sets of images: the same files whoever samples them and whenever, and ADM's file."""

import json
import subprocess
import sys
import zipfile
from dataclasses import fields, replace
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image

import rar_nb.runs.image_sets as image_sets
import rar_nb.sampler as sampler
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import PRESETS, get_preset, override, save_run_config
from rar_nb.pretrained.vq_models import MaskGITVQ
from rar_nb.reports.fidelity import RGBImages
from rar_nb.runs.image_sets import (
    generate,
    launch,
    main,
    open_model,
    pack_npz,
    remove_set,
    set_request,
)
from rar_nb.runs.launch import launch_command
from rar_nb.sampler import SampleConfig
from rar_nb.style import is_whole_png
from rar_nb.tokenizer import GreyTokenizer, TokenizerConfig, make_tokenizer
from rar_nb.transformer import RAR, ModelConfig

COLOUR = TokenizerConfig("grey", channels=3, codebook_size=8)
TWENTY = SampleConfig(4.0, 1.0, num_samples=20, sample_batch_size=6)


def make_model(seed=0, num_tokens=16, codebook_size=8):
    torch.manual_seed(seed)
    model = RAR(
        ModelConfig(
            codebook_size, num_tokens, 4, hidden_size=32, num_layers=2, num_heads=2, mlp_size=64
        )
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


def files(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*.png")}


def test_image_i_follows_from_seed_and_number(model, tmp_path):
    """Written anew: token by token from Philox noise and a model's softmax, for image 13 alone."""
    sample = replace(TWENTY, guidance_scale=0.0)
    generate(model, GreyTokenizer(), tmp_path / "s", sample, seed=3)
    noise = np.random.Generator(np.random.Philox(key=(3, 13))).random(16, dtype=np.float32)
    tokens, condition = (
        torch.zeros(1, 16, dtype=torch.long),
        model.config.condition_id(torch.tensor([13 // 5])),
    )  # 5 a class
    with torch.no_grad():
        for k in range(16):
            p = model(tokens, condition, torch.arange(16)[None])[0, k].double().softmax(0).cumsum(0)
            tokens[0, k] = int((p <= float(noise[k]) * p[-1]).sum())
    levels = (
        (tokens[0].view(4, 4).float() / 7 * 255)
        .to(torch.uint8)
        .repeat_interleave(4, 0)
        .repeat_interleave(4, 1)
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "s" / "000013.png")), levels.numpy()
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_same_files_for_any_number_of_processes(model, tmp_path, count):
    generate(model, GreyTokenizer(), tmp_path / "one", TWENTY, seed=1)
    shares = [
        generate(model, GreyTokenizer(), tmp_path / "many", TWENTY, seed=1, share=(i, count))
        for i in reversed(range(count))
    ]
    assert sum(shares) == 20 and max(shares) - min(shares) <= 6
    assert (
        files(tmp_path / "one") == files(tmp_path / "many") and len(files(tmp_path / "one")) == 20
    )


def test_a_run_that_was_killed_goes_on(model, tmp_path, monkeypatch):
    generate(model, GreyTokenizer(), tmp_path / "whole", TWENTY)
    saved, save = [], image_sets.save_png

    def save_some(image, path):
        if len(saved) == 9:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    monkeypatch.setattr(image_sets, "save_png", save_some)
    with pytest.raises(KeyboardInterrupt):
        generate(model, GreyTokenizer(), tmp_path / "again", TWENTY)
    assert len(files(tmp_path / "again")) == 9
    monkeypatch.undo()
    assert generate(model, GreyTokenizer(), tmp_path / "again", TWENTY) == 11
    assert generate(model, GreyTokenizer(), tmp_path / "again", TWENTY) == 0
    assert files(tmp_path / "again") == files(tmp_path / "whole")


def test_only_missing_batches_are_sampled(model, tmp_path, monkeypatch):
    generate(model, GreyTokenizer(), tmp_path, TWENTY)
    (tmp_path / "000019.png").unlink()
    sizes, sample_tokens = [], sampler.sample_tokens

    def note(model, classes, *rest):
        sizes.append(len(classes))
        return sample_tokens(model, classes, *rest)

    monkeypatch.setattr(sampler, "sample_tokens", note)
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY) == 1
    assert sizes == [2]  # the last batch, with the shape it always has


def test_mode_of_the_model_is_restored(tmp_path):
    model = make_model().train()
    generate(model, GreyTokenizer(), tmp_path, TWENTY)
    assert model.training


@pytest.mark.parametrize(
    "name,change",
    [
        ("seed", {"seed": 2}),
        ("guidance_scale", {"sample": replace(TWENTY, guidance_scale=5.0)}),
        ("num_samples", {"sample": replace(TWENTY, num_samples=24)}),
        ("temperature", {"sample": replace(TWENTY, temperature=0.9)}),
        ("guidance_power", {"sample": replace(TWENTY, guidance_power=2.0)}),
        ("sample_batch_size", {"sample": replace(TWENTY, sample_batch_size=5)}),
        ("guidance_schedule", {"sample": replace(TWENTY, guidance_schedule="linear")}),
        ("sample_precision", {"sample": replace(TWENTY, sample_precision="bf16")}),
        ("model_sha256", {"model": make_model(1)}),
        ("tokenizer", {"tokenizer": type("Other", (GreyTokenizer,), {})()}),
    ],
)
def test_another_request_in_the_same_folder(model, tmp_path, name, change):
    given = dict(model=model, tokenizer=GreyTokenizer(), folder=tmp_path, sample=TWENTY, seed=1)
    generate(**given)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=f"^{name} = .*name another folder"):
        generate(**(given | change))
    assert files(tmp_path) == before


def test_foreign_images_and_bad_shares(model, tmp_path):
    Image.new("L", (16, 16)).save(tmp_path / "000000.png")
    with pytest.raises(ValueError, match="without images"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)
    for share in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="number of"):
            generate(model, GreyTokenizer(), tmp_path / "s", TWENTY, share=share)
    with pytest.raises(ValueError, match="num_samples = 21 .*multiple of the number of classes, 4"):
        generate(model, GreyTokenizer(), tmp_path / "s", replace(TWENTY, num_samples=21))


def test_a_set_in_auto_is_the_set_of_what_auto_means(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    generate(model, GreyTokenizer(), tmp_path, replace(TWENTY, sample_precision="auto"))
    assert json.loads((tmp_path / "generate.json").read_text())["sample_precision"] == "no"
    assert generate(model, GreyTokenizer(), tmp_path, replace(TWENTY, sample_precision="no")) == 0


def test_the_folder_says_what_was_asked_for(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path, TWENTY, seed=9)
    asked = json.loads((tmp_path / "generate.json").read_text())
    assert (
        asked["seed"] == 9
        and asked["num_samples"] == 20
        and asked["num_classes"] == 4
        and len(asked["model_sha256"]) == 64
    )


def everything(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def damage(kind, file):
    whole = file.read_bytes()
    if kind == "text":
        file.write_text("no image")
    elif kind == "link to nowhere":
        file.unlink()
        file.symlink_to(file.parent / "nowhere")
    elif kind == "zeros":
        file.write_bytes(bytes(len(whole)))  # what a file system may leave after a power cut
    else:
        file.write_bytes(whole[: dict(empty=0, half=len(whole) // 2, end=-12, byte=-1)[kind]])


@pytest.mark.parametrize(
    "kind", ["empty", "half", "end", "byte", "text", "zeros", "link to nowhere"]
)
def test_half_written_images_are_made_again(model, tmp_path, kind):
    assert generate(model, GreyTokenizer(), tmp_path / "set", TWENTY) == 20
    before, file = everything(tmp_path / "set"), tmp_path / "set" / "000007.png"
    assert is_whole_png(file)
    damage(kind, file)
    assert not is_whole_png(file)
    if kind not in ("end", "byte"):  # of these all pixels are there
        with pytest.raises(ValueError, match="000007.png can't be read|image 7 is not there"):
            pack_npz(tmp_path / "set", tmp_path / "set.npz")
    assert generate(model, GreyTokenizer(), tmp_path / "set", TWENTY) == 1
    assert (
        everything(tmp_path / "set") == before
        and generate(model, GreyTokenizer(), tmp_path / "set", TWENTY) == 0
    )


@pytest.mark.parametrize("kind", ["empty", "half", "text", "zeros"])
def test_metrics_name_a_damaged_image_and_ignore_unfinished_ones(model, tmp_path, kind):
    generate(model, GreyTokenizer(COLOUR), tmp_path, TWENTY)
    for left in (
        ".000003.png-abcdefgh.part",
        ".000003-abcdefgh.png",
    ):  # of a killed process, as they are named now and were once
        (tmp_path / left).write_bytes((tmp_path / "000003.png").read_bytes()[:50])
    images = RGBImages(tmp_path)
    assert len(images) == 20 and [tuple(images[i].shape) for i in range(20)] == [(3, 16, 16)] * 20
    damage(kind, tmp_path / "000007.png")
    with pytest.raises(ValueError, match="000007.png can't be read as an image"):
        [RGBImages(tmp_path)[i] for i in range(20)]


def test_a_set_is_removed_without_what_others_put_there(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path / "set", TWENTY)
    generate(model, GreyTokenizer(), tmp_path / "pure", TWENTY)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    before = everything(tmp_path / "set")
    remove_set(tmp_path / "link")
    assert everything(tmp_path / "set") == before and not (tmp_path / "link").exists()
    (tmp_path / "set" / "deeper").mkdir()
    for name in ("holiday.png", "deeper/000000.png"):
        (tmp_path / "set" / name).write_text("theirs")
    remove_set(tmp_path / "set")
    assert set(everything(tmp_path / "set")) == {"holiday.png", "deeper/000000.png"}
    remove_set(tmp_path / "pure")
    assert not (tmp_path / "pure").exists()
    with pytest.raises(ValueError, match="generate.json"):
        remove_set(tmp_path / "set")


def test_every_setting_identifies_the_set(model):
    """A field that is added to `SampleConfig` must not be forgotten."""
    request = set_request(model, GreyTokenizer(), TWENTY, 0)
    assert {f.name for f in fields(SampleConfig)} <= set(request)


# The program


def test_every_setting_is_an_option():
    options = set(signature(main).parameters)
    assert {f.name for f in fields(SampleConfig)} <= options
    assert options >= {"run_dir", "preset", "model", "tokenizer", "folder", "seed", "cpu"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--preset", "tiny"], "error: folder is missing"),
        (["--folder", "{}"], "error: run_dir, preset = (None, None) is not allowed"),
        (["--folder", "{}", "--run_dir", "{}/none"], "config.json"),
    ],
)
def test_bad_input_ends_the_program_with_one_line(tmp_path, options, message):
    command = [sys.executable, "-m", "rar_nb.runs.image_sets", "--cpu"]
    command += [option.format(tmp_path / "set") for option in options]
    ended = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in ended.stderr.splitlines() if "Warning" not in line]
    assert ended.returncode == 2 and message in lines[-1] and lines[-1].startswith("error: ")
    assert "Traceback" not in ended.stderr and not (tmp_path / "set").exists()


# The file for ADM


def read_like_adm(path):
    """As the evaluator's streaming reader: the zip entry's header, then batches of raw bytes."""
    with zipfile.ZipFile(path) as z, z.open("arr_0.npy") as f:
        assert np.lib.format.read_magic(f) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(f)
        assert not fortran and not dtype.hasobject
        batches = []
        for start in range(0, shape[0], 8):
            n = min(8, shape[0] - start)
            batches.append(
                np.frombuffer(f.read(n * int(np.prod(shape[1:])) * dtype.itemsize), dtype).reshape(
                    n, *shape[1:]
                )
            )
        assert f.read() == b""
        return np.concatenate(batches)


@pytest.mark.parametrize("channels", [1, 3])
def test_packed_set(model, tmp_path, channels):
    tokenizer = GreyTokenizer(replace(COLOUR, channels=channels))
    generate(model, tokenizer, tmp_path / "s", TWENTY, seed=4)
    path = pack_npz(tmp_path / "s", tmp_path / "out" / "s.npz")
    straight = np.stack(
        [np.asarray(Image.open(tmp_path / "s" / f"{i:06d}.png").convert("RGB")) for i in range(20)]
    )
    shuffled = np.random.RandomState(0).permutation(20)
    assert (
        shuffled[:8] == [18, 1, 19, 8, 10, 17, 6, 13]
    ).all()  # the permutation that is documented, as numbers
    packed = read_like_adm(path)
    assert packed.dtype == np.uint8 and packed.shape == (20, 16, 16, 3)
    np.testing.assert_array_equal(packed, straight[shuffled])
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], packed)
        np.testing.assert_array_equal(arrays["arr_1"], shuffled // 5)
    assert pack_npz(tmp_path / "s", tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_packing_what_is_not_a_whole_set(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path / "s", TWENTY, share=(0, 2))
    with pytest.raises(ValueError, match="= 8 .*image 6 is not there"):
        pack_npz(tmp_path / "s", tmp_path / "s.npz")
    generate(model, GreyTokenizer(), tmp_path / "s", TWENTY)
    Image.new("L", (15, 16)).save(tmp_path / "s" / "000003.png")
    with pytest.raises(ValueError, match="shape of image 3"):
        pack_npz(tmp_path / "s", tmp_path / "s.npz")
    with pytest.raises(ValueError, match="generate.json"):
        pack_npz(tmp_path, tmp_path / "s.npz")
    with pytest.raises(ValueError, match="ends in .npz"):
        pack_npz(tmp_path / "s", tmp_path / "s.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


# Several processes

RUN = get_preset("tiny", num_samples=30, sample_batch_size=7)


def random_model(config, seed=0):
    torch.manual_seed(seed)
    model = RAR(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, and the set that one process samples from it."""
    folder = tmp_path_factory.mktemp("run")
    model, tokenizer = random_model(RUN.model), make_tokenizer(RUN.tokenizer)
    save_run_config(RUN, folder / "config.json")
    save_weights(model, folder / "model.safetensors")
    save_weights(tokenizer, folder / "tokenizer.safetensors")
    generate(model, tokenizer, folder / "one", RUN.sample, seed=3)
    return folder


def test_two_processes_sample_the_same_images_as_one(folder):
    launch(folder / "two", RUN.sample, seed=3, processes=2, cpu=True, run_dir=folder)
    assert files(folder / "two") == files(folder / "one") and len(files(folder / "one")) == 30
    log = (folder / "two" / "launch.log").read_text()
    assert "3/3" in log and "5/5" not in log, (
        "the first process samples batches 0, 2 and 4 of the five"
    )


def test_checkpoint_files_give_the_same_images_as_the_run(folder):
    source = dict(
        preset="tiny",
        model=folder / "model.safetensors",
        tokenizer=folder / "tokenizer.safetensors",
    )
    main(folder=folder / "files", num_samples=30, sample_batch_size=7, seed=3, cpu=True, **source)
    assert files(folder / "files") == files(folder / "one")


def test_a_failing_child_is_reported(folder, tmp_path):
    with pytest.raises(
        RuntimeError,
        match="num_samples = 31 is not allowed: it must be a multiple of the number of classes, 10",
    ):
        launch(
            tmp_path / "set",
            override(RUN, num_samples=31).sample,
            processes=1,
            cpu=True,
            run_dir=folder,
        )


def test_the_command_names_what_is_sampled(tmp_path):
    command = launch_command(
        "rar_nb.runs.image_sets",
        8,
        preset="rar_b",
        model="rar_b.bin",
        tokenizer=None,
        folder=tmp_path,
        num_samples=50_000,
    )
    assert (
        command[0] == sys.executable
        and "--multi_gpu" in command
        and "--cpu" not in command
        and "--tokenizer" not in command
    )
    assert command[command.index("-m", 3) + 1] == "rar_nb.runs.image_sets"
    assert (
        command[command.index("--num_samples") + 1] == "50000"
        and command[command.index("--num_processes") + 1] == "8"
    )


def test_a_published_checkpoint(tmp_path, monkeypatch):
    """The released layout, made smaller: <preset>.bin with a bare state_dict, and MaskGIT-VQ."""
    small = override(PRESETS["rar_b"], num_layers=1, hidden_size=32, mlp_size=32, num_heads=2)
    monkeypatch.setitem(PRESETS, "rar_b", small)
    model, tokenizer = random_model(small.model), MaskGITVQ()
    torch.save(model.state_dict(), tmp_path / "rar_b.bin")
    torch.save(tokenizer.state_dict(), tmp_path / "maskgit-vqgan-imagenet-f16-256.bin")
    run, its_tokenizer, its_model = open_model(
        preset="rar_b", model=tmp_path, tokenizer=str(tmp_path)
    )
    assert run == small and run.sample.num_samples == 50_000
    for a, b in ((its_model, model), (its_tokenizer, tokenizer)):
        assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())
    del small, its_tokenizer
    with pytest.raises(ValueError, match="holds neither rar_l.bin"):
        open_model(preset="rar_l", model=tmp_path, tokenizer=str(tmp_path))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({}, "one of them"),
        (dict(run_dir="a", preset="rar_b"), "one of them"),
        (dict(run_dir="a", model="b"), "left out beside run_dir"),
        (dict(preset="digits"), "the two files of a run of digits"),
        (dict(preset="rar_z"), "preset = 'rar_z'"),
        (dict(run_dir="/no/such/run"), "/no/such/run/config.json"),
    ],
)
def test_what_cannot_be_opened(wrong, message):
    with pytest.raises(ValueError) as error:
        open_model(**wrong)
    assert message in str(error.value)


def test_the_program_has_a_help():
    command = [sys.executable, "-m", "rar_nb.runs.image_sets", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for f in fields(SampleConfig):
        assert f"--{f.name}" in text
