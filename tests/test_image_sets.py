"""Sets of images: the same files whoever samples them and whenever, and ADM's file."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from PIL import Image

import rar_nb.runs.image_sets as image_sets
import rar_nb.runs.launch as launching
import rar_nb.sampler as sampler
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import PRESETS, get_preset, override, save_run_config
from rar_nb.pretrained.vq_models import MaskGITVQ
from rar_nb.reports.fidelity import RGBImages
from rar_nb.runs.image_sets import (
    class_ids,
    class_names,
    generate,
    launch,
    open_model,
    pack_npz,
    remove_set,
    set_request,
)
from rar_nb.runs.launch import launch_command
from rar_nb.runs.sample import main
from rar_nb.sampler import SampleConfig, sample_images
from rar_nb.style import is_whole_png
from rar_nb.support import InvalidValue, Stopped
from rar_nb.tokenizer import GreyTokenizer, TokenizerConfig, make_tokenizer
from rar_nb.transformer import RAR, ModelConfig
from tests.forks import FORKS, POPEN, fork, held_elsewhere, program, python

COLOUR = TokenizerConfig("grey", channels=3, codebook_size=8)
TWENTY = SampleConfig(4.0, 1.0, num_samples=20, sample_batch_size=6)


def make_model(seed=0, num_tokens=16, codebook_size=8, final_order="raster"):
    torch.manual_seed(seed)
    model = RAR(
        ModelConfig(
            codebook_size,
            num_tokens,
            4,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            mlp_size=64,
            final_order=final_order,
        )
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


def test_images_of_others_are_told_by_folder_name_and_number():
    folder = r"C:\sets\one"
    theirs = [r"C:\sets\one\000002.png", r"C:\sets\one\cat.png", r"C:\sets\one\a\000001.png"]
    ours = [r"C:\sets\one\000000.png", r"C:\sets\one\000001.png"]
    assert image_sets.foreign_images(theirs + ours, PureWindowsPath(folder), 2) == theirs
    theirs, ours = ([path[2:].replace("\\", "/") for path in paths] for paths in (theirs, ours))
    assert image_sets.foreign_images(theirs + ours, PurePosixPath("/sets/one"), 2) == theirs


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux says what is open")
@pytest.mark.parametrize("theirs", [False, True])
def test_a_set_can_be_removed_where_no_open_file_can(tmp_path, monkeypatch, theirs):
    """As on Windows."""
    folder, unlink = tmp_path / "set", Path.unlink
    folder.mkdir()
    for name in ("000000.png", "generate.json", ".set-0.lock", ".request.lock"):
        (folder / name).touch()
    if theirs:
        (folder / "theirs.txt").touch()

    def refuse(path, **how):
        if any(os.path.realpath(handle) == str(path) for handle in Path("/proc/self/fd").iterdir()):
            raise PermissionError(errno.EACCES, "The file is being used")
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_set(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "theirs.txt"] * theirs


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


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 6, 20])
def test_random_orders_do_not_depend_on_who_samples(tmp_path, batch_size, count):
    model, sample = make_model(final_order="random"), replace(TWENTY, sample_precision="no")
    generate(model, GreyTokenizer(), tmp_path / "one", replace(sample, sample_batch_size=7), seed=1)
    sample = replace(sample, sample_batch_size=batch_size)
    for i in reversed(range(count)):
        generate(model, GreyTokenizer(), tmp_path / "many", sample, seed=1, share=(i, count))
    assert files(tmp_path / "one") == files(tmp_path / "many")
    images = sample_images(
        model, GreyTokenizer(), torch.arange(4).repeat_interleave(5), sample, seed=1
    )
    for i, image in enumerate(images):
        found = np.asarray(Image.open(tmp_path / "one" / f"{i:06}.png"))
        np.testing.assert_array_equal(found, image[0].numpy())


def test_an_image_in_random_order_follows_from_seed_and_number(tmp_path):
    """Written anew, for image 13: the second half of its noise, sorted, is the order; the first
    half decides about the tokens, step by step."""
    model = make_model(final_order="random")
    generate(model, GreyTokenizer(), tmp_path / "s", replace(TWENTY, guidance_scale=0.0), seed=3)
    noise = np.random.Generator(np.random.Philox(key=(3, 13))).random(32, dtype=np.float32)
    order = torch.from_numpy(noise[16:]).argsort()
    tokens = torch.zeros(1, 16, dtype=torch.long)
    condition = model.config.condition_id(torch.tensor([13 // 5]))
    with torch.no_grad():
        for k in range(16):
            p = model(tokens, condition, order[None])[0, k].double().softmax(0).cumsum(0)
            tokens[0, order[k]] = int((p <= float(noise[k]) * p[-1]).sum())
    cells = (tokens[0].view(4, 4).float() / 7 * 255).to(torch.uint8)
    levels = cells.repeat_interleave(4, 0).repeat_interleave(4, 1)
    found = np.asarray(Image.open(tmp_path / "s" / "000013.png"))
    np.testing.assert_array_equal(found, levels.numpy())


def test_the_final_order_identifies_a_set_unless_it_is_raster(model, tmp_path):
    """The weights are the same; sets of earlier versions, which knew raster only, stay theirs."""
    requests = {
        order: set_request(make_model(final_order=order), GreyTokenizer(), TWENTY, 1)
        for order in ("raster", "spiral_in", "random")
    }
    raster = requests["raster"]
    assert set(raster) == {f.name for f in fields(SampleConfig)} | {
        "seed", "num_classes", "model_sha256", "tokenizer", "tokenizer_sha256"
    }  # fmt: skip
    for order in ("spiral_in", "random"):
        assert requests[order] == raster | {"final_order": order}
    generate(make_model(final_order="random"), GreyTokenizer(), tmp_path, TWENTY, seed=1)
    before = files(tmp_path)
    with pytest.raises(InvalidValue, match="final_order = None .*must be 'random'.*another folder"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY, seed=1)
    assert files(tmp_path) == before


def test_the_program_samples_a_run_in_its_final_order(tmp_path):
    run = get_preset("tiny", final_order="random", num_tokens=16)
    torch.manual_seed(0)
    generator, tokenizer = RAR(run.model).eval(), make_tokenizer(run.tokenizer)
    torch.nn.init.normal_(generator.lm_head.weight)
    save_run_config(run, tmp_path / "config.json")
    save_weights(generator, tmp_path / "model.safetensors")
    save_weights(tokenizer, tmp_path / "tokenizer.safetensors")
    main(folder=tmp_path / "set", run_dir=tmp_path, num_samples=20, sample_batch_size=3, seed=2,
         cpu=True)  # fmt: skip
    classes = torch.arange(10).repeat_interleave(2)
    for i, image in enumerate(sample_images(generator, tokenizer, classes, run.sample, seed=2)):
        found = np.asarray(Image.open(tmp_path / "set" / f"{i:06}.png"))
        np.testing.assert_array_equal(found, image[0].numpy())
    asked = json.loads((tmp_path / "set" / "generate.json").read_text())
    assert asked["final_order"] == "random"


def test_a_run_that_was_killed_goes_on(model, tmp_path, monkeypatch):
    generate(model, GreyTokenizer(), tmp_path / "whole", TWENTY)
    saved, save, one_at_a_time = [], image_sets.save_png, threading.Lock()

    def save_some(image, path, level):
        with one_at_a_time:
            if len(saved) == 9:
                raise KeyboardInterrupt
            saved.append(path)
            save(image, path, level)

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

    def note(model, classes, *rest, **options):
        sizes.append(len(classes))
        return sample_tokens(model, classes, *rest, **options)

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
        ("final_order", {"model": make_model(final_order="spiral_in")}),
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


@pytest.mark.parametrize("name", ["set-0", "set-3", "request", "launch"])
def test_a_set_that_is_being_written_is_not_removed(model, tmp_path, name):
    """Neither its images nor the lock, which still keeps others out; later all of it goes."""
    folder = tmp_path / "set"
    generate(model, GreyTokenizer(), folder, TWENTY, share=(0, 2))
    with held_elsewhere(folder, name) as number:
        before = files(folder)
        for _ in range(2):
            with pytest.raises(InvalidValue, match=f"is in use by process {number} on"):
                remove_set(folder)
        assert files(folder) == before and (folder / f".{name}.lock").exists()
    remove_set(folder)
    assert not folder.exists()


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
        (["--folder", "{}", "--run_dir", "{}/none"], "but there is no such folder"),
    ],
)
def test_bad_input_ends_the_program_with_one_line(tmp_path, options, message):
    """The first of these as a user starts it."""
    run = python if "--preset" in options else program
    words = [option.format(tmp_path / "set") for option in options]
    ended = run("rar_nb.runs.sample", "--cpu", *words)
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
    assert "147/147" in log and "245/245" not in log, (
        "the first process samples batches 0, 2 and 4 of the five, 49 tokens each"
    )


def test_checkpoint_files_give_the_same_images_as_the_run(folder):
    source = dict(
        preset="tiny",
        model=folder / "model.safetensors",
        tokenizer=folder / "tokenizer.safetensors",
    )
    main(folder=folder / "files", num_samples=30, sample_batch_size=7, seed=3, cpu=True, **source)
    assert files(folder / "files") == files(folder / "one")


def test_a_failing_child_is_reported(folder, tmp_path, monkeypatch):
    if FORKS:
        monkeypatch.setattr(launching, "subprocess", POPEN)
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
        "rar_nb.runs.sample",
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
    assert command[command.index("-m", 3) + 1] == "rar_nb.runs.sample"
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
        (dict(run_dir="/no/such/run"), "run_dir = '/no/such/run' is not allowed: it must be the"),
    ],
)
def test_what_cannot_be_opened(wrong, message):
    with pytest.raises(ValueError) as error:
        open_model(**wrong)
    assert message in str(error.value)


def test_the_program_has_a_help():
    text = program("rar_nb.runs.sample", "--help").stdout
    for f in fields(SampleConfig):
        assert f"--{f.name}" in text


# Classes by name

NAMES = ["cat", "caterpillar", "dog", "house", "3", "dog house", "dog house", "Zürich", "a,b"]


@pytest.mark.parametrize(
    "classes, expected",
    [
        (["cat"], [0]),
        ("dog, cat", [2, 0]),
        (["cat", 3, "cat"], [0, 3, 0]),
        (["3"], [4]),  # a name first,
        (["2"], [2]),  # and a number where no class is called so
        (("a,b", "Zürich"), [8, 7]),
        (torch.tensor([5, 1]), [5, 1]),
        (np.array([5, 1]), [5, 1]),
        ([8], [8]),
    ],
)
def test_classes_by_name(classes, expected):
    found = class_ids(classes, NAMES)
    assert found.tolist() == expected and found.dtype == torch.int64


@pytest.mark.parametrize(
    "classes, message",
    [
        (["cta"], "no class 'cta'; the 9 classes include 'cat'"),
        (["CAT"], "no class 'CAT'; the 9 classes include 'cat'"),
        (["zzzzzz"], "no class 'zzzzzz'; the 9 classes include 'cat', 'caterpillar', .*, …"),
        (["dog house"], "its number, as 2 classes have that name: 5, 6"),
        (["9"], "classes = .9. is not allowed: it must be from 0 to 8"),
        (["-1"], "no class '-1'"),
        ([""], "no class ''"),
        ("", "no class ''"),
        ([], "shape of classes"),
        ([9], "from 0 to 8"),
        ([-1], "from 0 to 8"),
        ([1.5], "whole numbers"),
        ([None], "whole numbers"),
        ([True], "whole numbers"),
        (None, "whole numbers"),
        (5, "shape of classes"),
        (["²"], "no class '²'"),
        (["9" * 5000], "no class"),
    ],
)
def test_classes_that_are_not_there(classes, message):
    with pytest.raises(InvalidValue, match=message):
        class_ids(classes, NAMES)


def test_without_names_there_are_only_numbers():
    assert class_ids("3, 0", None).tolist() == [3, 0]
    with pytest.raises(
        InvalidValue, match="class = 'cat' .* its number, as the names .* not known"
    ):
        class_ids("cat", None)


def test_a_set_of_some_classes(model, tmp_path):
    sample = replace(TWENTY, num_samples=6)
    assert generate(model, GreyTokenizer(), tmp_path, sample, classes=[3, 1]) == 6
    whole = sample_images(model, GreyTokenizer(), [3, 3, 3, 1, 1, 1], sample)
    for i, image in enumerate(whole):
        found = np.asarray(Image.open(tmp_path / f"{i:06d}.png"))
        np.testing.assert_array_equal(found, image[0].numpy())
    labels = np.load(pack_npz(tmp_path, tmp_path / "s.npz"))["arr_1"]
    assert sorted(labels) == [1, 1, 1, 3, 3, 3]
    assert generate(model, GreyTokenizer(), tmp_path, sample, classes=torch.tensor([3, 1])) == 0
    for other in ([1, 3], [3], [3, 1, 0]):
        with pytest.raises(InvalidValue, match="^classes = "):
            generate(model, GreyTokenizer(), tmp_path, sample, classes=other)


@pytest.mark.parametrize("classes", [[], [4], [1, 1], ["cat"], [0.0], "0", 3, [-1], {}])
def test_wrong_classes_of_a_set(model, tmp_path, classes):
    with pytest.raises(InvalidValue, match="classes"):
        generate(model, GreyTokenizer(), tmp_path / "s", TWENTY, classes=classes)
    assert not (tmp_path / "s").exists()


def test_a_set_made_before_sets_had_classes_goes_on(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path, TWENTY)
    request = json.loads((tmp_path / "generate.json").read_text())
    del request["classes"]
    (tmp_path / "generate.json").write_text(json.dumps(request))
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY) == 0
    pack_npz(tmp_path, tmp_path / "s.npz")


def test_the_program_takes_names(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("one", "two", "files"))
    given = dict(run_dir=tmp_path / "run", folder=tmp_path / "set", cpu=True)
    with pytest.raises(InvalidValue, match="names of the classes are not known"):
        main(classes="cat", **given)
    names = [f"kind {k}" for k in range(10)]
    (tmp_path / "run" / "identity.json").write_text(json.dumps({"classes": names, "images": "f"}))
    with pytest.raises(InvalidValue, match="no class 'kind10'; the 10 classes include 'kind 1'"):
        main(classes="kind10", **given)
    main(classes="kind 7, kind 2,kind 0, kind 1", **given)
    request = json.loads((tmp_path / "set" / "generate.json").read_text())
    assert request["classes"] == [7, 2, 0, 1] and request["num_samples"] == 32
    assert "num_samples: 32 in place of 30" in capsys.readouterr().out
    assert len(files(tmp_path / "set")) == 32


@pytest.mark.parametrize("content", ["", "[]", '{"classes": "cat"}', '{"classes": [1]}', "\0" * 9])
def test_a_damaged_identity_is_named(tmp_path, content):
    assert class_names(tmp_path) is None and class_names(None) is None
    (tmp_path / "identity.json").write_text('{"files": {}}')
    assert class_names(tmp_path) is None
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(InvalidValue, match="identity.json"):
        class_names(tmp_path)


# Two at once, and jobs that are stopped


def test_a_second_job_is_told_who_is_there(model, tmp_path):
    with held_elsewhere(tmp_path, "set-0") as number:
        with pytest.raises(InvalidValue, match=f"{tmp_path} is in use by process {number} on"):
            generate(model, GreyTokenizer(), tmp_path, TWENTY)
        # Another process of the same job has another lock.
        assert generate(model, GreyTokenizer(), tmp_path, TWENTY, share=(1, 2)) == 8
    refused = pytest.raises(InvalidValue, match="in use by process")
    with held_elsewhere(tmp_path, "launch"), refused:
        launch(tmp_path, TWENTY, cpu=True, run_dir="none")


def be_a_job(folder, place, seed, num_samples):
    """In a process of its own: status 2 for an error of ours, as the program has it."""
    try:
        main(run_dir=folder, folder=place, seed=seed, num_samples=num_samples,
             sample_batch_size=20, cpu=True)  # fmt: skip
    except InvalidValue as error:
        print(error)
        os._exit(2)


def same_set_again(folder, place, seed, num_samples):
    run, tokenizer, generator = open_model(folder)
    sample = replace(run.sample, num_samples=num_samples, sample_batch_size=20)
    return generate(generator, tokenizer, place, sample, seed)


@pytest.mark.skipif(FORKS is None, reason="needs a fork server")
def test_of_two_jobs_at_once_one_gives_up(folder, tmp_path):
    jobs = [fork(be_a_job, folder, tmp_path / "set", seed, 100) for seed in (1, 2)]
    for job in jobs:
        job.join()
    assert sorted(job.exitcode for job in jobs) == [0, 2]
    seed = json.loads((tmp_path / "set" / "generate.json").read_text())["seed"]
    assert seed == (1 if jobs[0].exitcode == 0 else 2)
    same_set_again(folder, tmp_path / "again", seed, 100)
    assert files(tmp_path / "set") == files(tmp_path / "again")


@pytest.mark.skipif(FORKS is None, reason="needs a fork server")
def test_a_set_that_is_killed_goes_on(folder, tmp_path):
    place = tmp_path / "set"
    for count in (1, 45, 90):
        job = fork(be_a_job, folder, place, 3, 200)
        while len(list(place.glob("*.png"))) < count:
            assert job.is_alive()
            time.sleep(0.001)
        job.kill()
        job.join()
    assert 0 < same_set_again(folder, place, 3, 200) <= 200 - 90
    same_set_again(folder, tmp_path / "again", 3, 200)
    assert files(place) == files(tmp_path / "again")


def test_a_program_that_is_stopped_ends_with_a_sentence(folder, tmp_path):
    """SIGTERM ends with the batch, a sentence and status 75."""
    place = tmp_path / "set"
    command = [sys.executable, "-m", "rar_nb.runs.sample", "--cpu", "--run_dir", folder]
    command += ["--folder", place, "--num_samples", 1000, "--sample_batch_size", 20]
    job = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    while not list(place.glob("*.png")):
        assert job.poll() is None
        time.sleep(0.005)
    job.send_signal(signal.SIGTERM)
    out, there = job.communicate()[0], len(files(place))
    assert job.returncode == 75 and there % 20 == 0 and 0 < there < 1000
    assert f"Stopped by SIGTERM: {there} images are in {place}. The same call or command" in out
    assert all(is_whole_png(path) for path in place.glob("*.png"))


@pytest.mark.parametrize("batch", [0, 3])  # of four
def test_an_interrupt_in_a_notebook(tmp_path, monkeypatch, batch):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    model, real, calls = make_model().train(), image_sets.sample_batch, []

    def interrupted(*args, **options):
        if len(calls) == batch:
            signal.raise_signal(signal.SIGINT)
        calls.append(1)
        return real(*args, **options)

    monkeypatch.setattr(image_sets, "sample_batch", interrupted)
    with pytest.raises(Stopped, match="Stopped by SIGINT: (6|20) images are in"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)
    assert len(files(tmp_path)) == min(20, 6 * (batch + 1)) and model.training
    monkeypatch.undo()
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY) == (0 if batch == 3 else 14)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Files are written while the next batch is sampled


def wait_for(condition, seconds=60):
    """Whether `condition()` becomes true in that time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


def watched(monkeypatch, before):
    """Let `before(number)` be called before each batch is sampled; the list of these numbers."""
    numbers, real = [], image_sets.sample_batch

    def sample(*args, **options):
        numbers.append(len(numbers))
        before(numbers[-1])
        return real(*args, **options)

    monkeypatch.setattr(image_sets, "sample_batch", sample)
    return numbers


def test_a_batch_is_written_while_the_next_one_is_sampled(model, tmp_path, monkeypatch):
    """Each batch but the first is sampled only when the files of those before are there."""
    there = []
    watched(monkeypatch, lambda k: there.append(wait_for(lambda: len(files(tmp_path)) == 6 * k)))
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY) == 20
    assert there == [True] * 4


def test_at_most_two_batches_wait(model, tmp_path, monkeypatch):
    """Nothing can be written: three batches are sampled, and the fourth is not begun."""
    go_on, save = threading.Event(), image_sets.save_png
    numbers = watched(monkeypatch, lambda k: None)

    def slow(*args, **options):
        assert go_on.wait(60)
        save(*args, **options)

    monkeypatch.setattr(image_sets, "save_png", slow)
    job = threading.Thread(target=generate, args=(model, GreyTokenizer(), tmp_path, TWENTY))
    job.start()
    assert wait_for(lambda: len(numbers) == 3)
    time.sleep(0.2)
    assert len(numbers) == 3 and not files(tmp_path)
    go_on.set()
    job.join()
    assert len(numbers) == 4 and len(files(tmp_path)) == 20


def test_a_stop_waits_for_the_files(model, tmp_path, monkeypatch):
    save = image_sets.save_png

    def slow(*args, **options):
        time.sleep(0.02)
        save(*args, **options)

    monkeypatch.setattr(image_sets, "save_png", slow)
    watched(monkeypatch, lambda k: signal.raise_signal(signal.SIGTERM) if k == 1 else None)
    with pytest.raises(Stopped, match="Stopped by SIGTERM: 12 images are in"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)
    assert len(files(tmp_path)) == 12 and not list(tmp_path.glob("*.part"))
    assert all(is_whole_png(path) for path in tmp_path.glob("*.png"))


def test_a_disk_that_fills_up(model, tmp_path, monkeypatch):
    """One clear error; what was written is whole, nothing is half written, no thread is left."""
    whole, save, threads = files_of_a_set(model, tmp_path / "whole"), Image.Image.save, set()

    def full_at_eight(image, path, **options):
        threads.add(threading.current_thread())
        if int(Path(path).name[1:7]) >= 8:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", full_at_eight)
    with pytest.raises(InvalidValue, match="000008.png can't be written .No space .*: free some"):
        generate(model, GreyTokenizer(), tmp_path / "set", TWENTY)
    found = files(tmp_path / "set")
    assert len(found) == 8 and found.items() <= whole.items()
    assert not list((tmp_path / "set").glob("*.part"))
    assert threading.main_thread() not in threads and not any(t.is_alive() for t in threads)
    monkeypatch.undo()
    assert generate(model, GreyTokenizer(), tmp_path / "set", TWENTY) == 12
    assert files(tmp_path / "set") == whole


def files_of_a_set(model, folder):
    generate(model, GreyTokenizer(), folder, TWENTY)
    return files(folder)


def test_batches_before_an_error_are_written(model, tmp_path, monkeypatch):
    def broken(k):
        if k == 2:
            raise InvalidValue("the third batch")

    watched(monkeypatch, broken)
    with pytest.raises(InvalidValue, match="the third batch"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)
    assert len(files(tmp_path)) == 12


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_that_were_sampled(model, tmp_path, channels):
    """Whatever the compression."""
    tokenizer = GreyTokenizer(replace(COLOUR, channels=channels))
    generate(model, tokenizer, tmp_path, TWENTY, seed=2)
    labels = torch.arange(4).repeat_interleave(5)
    expected = sample_images(model, tokenizer, labels, TWENTY, seed=2).permute(0, 2, 3, 1)
    for i, pixels in enumerate(expected.squeeze(-1).numpy()):
        image = Image.open(tmp_path / f"{i:06d}.png")
        assert image.mode == ("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_bar_moves_with_each_token(model, tmp_path, monkeypatch, capfd):
    """16 tokens in each of four batches; of those that are there, all at once."""
    generate(model, GreyTokenizer(), tmp_path, TWENTY, share=(1, 2))
    seen = []
    real = image_sets.tqdm.update

    def update(bar, n=1):
        seen.append(n)
        return real(bar, n)

    monkeypatch.setattr(image_sets.tqdm, "update", update)
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY, progress=True) == 12
    assert [n for n in seen if n] == [1] * 16 + [16] + [1] * 16 + [16]
    assert "20 images:   0%|" in capfd.readouterr().err


# Folders that are no set's


@pytest.mark.parametrize(
    "name", ["notes.txt", "photo.jpg", "000001.jpg", "sub/000000.png", "a.png"]
)
def test_a_folder_with_something_else_is_left_alone(model, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"theirs")
    before = everything(tmp_path)
    with pytest.raises(InvalidValue, match=f"but '{name.split('/')[0]}' is in it; name another"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)
    assert everything(tmp_path) == before


def test_hidden_files_and_notes_beside_a_set_are_none_of_our_business(model, tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"theirs")
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY) == 20
    (tmp_path / "notes.txt").write_bytes(b"theirs")
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY) == 0


@pytest.mark.parametrize("name", ["photo.jpg", "000020.png", "more/000000.png", "0.png"])
def test_an_image_that_the_metrics_would_count_is_named(model, tmp_path, name):
    generate(model, GreyTokenizer(), tmp_path, TWENTY)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"theirs")
    with pytest.raises(InvalidValue, match=f"move away .*{name}"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)


def test_where_nothing_can_be_written(model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "set", tmp_path / ("a" * 300)):
        with pytest.raises(InvalidValue, match="can't be written .*name another place|shorter"):
            generate(model, GreyTokenizer(), place, TWENTY)

    def no_space(image, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_space)
    with pytest.raises(InvalidValue, match="000000.png can't be written .No space .*: free some"):
        generate(model, GreyTokenizer(), tmp_path / "set", TWENTY)
    assert not files(tmp_path / "set") and not list((tmp_path / "set").glob("*.part"))
    monkeypatch.undo()
    assert generate(model, GreyTokenizer(), tmp_path / "set", TWENTY) == 20


def test_locks_go_with_the_set(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path / "set", TWENTY, share=(0, 2))
    generate(model, GreyTokenizer(), tmp_path / "set", TWENTY, share=(1, 2))
    (tmp_path / "set" / ".launch.lock").touch()
    remove_set(tmp_path / "set")
    assert not (tmp_path / "set").exists()


# Wrong arguments


@pytest.mark.parametrize(
    "change",
    [
        dict(model=GreyTokenizer(), tokenizer=make_model()),
        dict(model=None),
        dict(model="rar_b"),
        dict(tokenizer=make_tokenizer(replace(COLOUR, codebook_size=9))),
        dict(folder=None),
        dict(folder=5),
        dict(sample={}),
        dict(sample=RAR),
        dict(seed=-1),
        dict(seed="0"),
        dict(seed=0.5),
        dict(share=(0,)),
        dict(share=(1, 1)),
        dict(share="01"),
        dict(progress="yes"),
    ],
    ids=lambda change: "-".join(change),
)
def test_wrong_arguments_give_one_error(model, tmp_path, change):
    given = dict(model=model, tokenizer=GreyTokenizer(), folder=tmp_path / "s", sample=TWENTY)
    with pytest.raises(InvalidValue):
        generate(**(given | change))
    assert not (tmp_path / "s").exists()


def test_a_broken_generator_leaves_no_image(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(InvalidValue, match="lm_head.weight of the generator"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)
    assert not files(tmp_path)


@pytest.mark.parametrize("content", [
    "", "null", "[]", "{}", "\0" * 50, '{"num_samples": 20}',
    '{"num_samples": 20, "num_classes": 0}',
    '{"num_samples": 2.5, "num_classes": 4}',
    '{"num_samples": 20, "num_classes": 4, "classes": [-1]}',
    '{"num_samples": 99999999999999, "num_classes": 1}', '{"num_samples": 20, "num_classes": 3}',
])  # fmt: skip
def test_a_damaged_request_is_named(model, tmp_path, content):
    generate(model, GreyTokenizer(), tmp_path, TWENTY)
    (tmp_path / "generate.json").write_text(content)
    with pytest.raises(InvalidValue):
        pack_npz(tmp_path, tmp_path / "out" / "s.npz")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished(folder, tmp_path):
    save_run_config(RUN, tmp_path / "config.json")
    with pytest.raises(InvalidValue, match="a finished run, .* resume=True, finishes it"):
        open_model(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InvalidValue, match="the folder of a run, but there is no .*config.json"):
        open_model(tmp_path)
    with pytest.raises(InvalidValue, match="run_dir = 5"):
        open_model(5)
