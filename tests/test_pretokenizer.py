"""Token data sets from folders of images: any number of processes, kills, torn files."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.script import anno_parser
from PIL import Image
from safetensors.torch import load_file, save_file

import rar_nb.runs.pretokenizer as pretokenizer
from rar_nb.data.images import center_crop, load_rgb
from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import RunConfig, save_run_config
from rar_nb.pretrained.vq_models import MaskGITVQ
from rar_nb.runs.pretokenizer import (
    PretokenizeConfig,
    check_place,
    finish,
    open_part,
    prepare,
    pretokenize_folder,
    read_record,
    shard_edges,
    write_shards,
)
from rar_nb.support import InvalidValue, import_torchvision
from rar_nb.tokenizer import TokenizerConfig, make_tokenizer, to_float
from tests.forks import CONTEXT, FORKS, fork, start_server

torchvision = import_torchvision()
TORN = "b/04.png"  # of 23 images, number 12 in the list
ABOUT = TokenizerConfig(
    "vqgan", image_size=32, channels=3, stride=8, codebook_size=64, codebook_dim=8, width=8
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_run_config(RunConfig("tiny", tokenizer=ABOUT), folder / "config.json")
    save_weights(make_tokenizer(ABOUT), folder / "tokenizer.safetensors")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """8, 9 and 6 smooth colour images of unlike sizes in three classes; one of them is cut off."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, count in dict(a=8, b=9, c=6).items():
        (folder / name).mkdir()
        for i in range(count):
            small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            small.resize((40 + 3 * i, 90 - 4 * i), Image.Resampling.BICUBIC).save(
                folder / name / f"{i:02d}.png"
            )
    (folder / TORN).write_bytes((folder / TORN).read_bytes()[:900])
    return folder


@pytest.fixture
def config(run, images, tmp_path):
    def make(out="tokens", **changes):
        given = dict(
            data=str(images),
            tokenizer=str(run),
            part="all",
            shard_images=6,
            batch_size=20,
            max_failed_share=0.1,
            cpu=True,
        )
        return PretokenizeConfig(out=str(tmp_path / out), **(given | changes))

    return make


@pytest.mark.parametrize("split", [False, True])
def test_all_images_need_no_validation_images(run, config, tmp_path, split):
    """A class with one image is tokenized where nothing is set aside."""
    folder = tmp_path / "few" / "train" if split else tmp_path / "few"
    for name, count in dict(a=1, b=3).items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 40), (60 * i, 9, 200)).save(folder / name / f"{i}.png")
    found = pretokenize_folder(config(data=str(tmp_path / "few")), progress=False)
    assert found.labels.tolist() == [0, 1, 1, 1] and found.index["num_classes"] == 2
    with pytest.raises(InvalidValue, match="number of images of class 'a' = 1"):
        open_part(config(data=str(tmp_path / "few"), part="train"), 32)


def content(folder):
    return {p.name: p.read_bytes() for p in Path(folder).glob("[!.]*")}  # without the lock


def expected(run, images, kind):
    """The same by hand: torchvision's ten crops, the tokenizer on one image at a time."""
    tokenizer, tokens, labels = make_tokenizer(ABOUT).eval(), [], []
    tokenizer.load_state_dict(load_file(run / "tokenizer.safetensors"))
    for path in sorted(images.glob("*/*.png")):
        if path == images / TORN:
            continue
        if kind == "ten":
            crops = torchvision.transforms.TenCrop(32)(center_crop(load_rgb(path), 35))
        else:
            centre = center_crop(load_rgb(path), 32)
            crops = [centre, centre.transpose(Image.Transpose.FLIP_LEFT_RIGHT)][
                : dict(centre=2, one=1)[kind]
            ]
        pixels = torch.stack([torch.from_numpy(np.array(c)).permute(2, 0, 1) for c in crops])
        tokens.append(tokenizer.encode(to_float(pixels, tokenizer.value_range)))
        labels.append("abc".index(path.parent.name))
    return torch.stack(tokens), torch.tensor(labels)


@pytest.mark.parametrize("kind", ["ten", "centre", "one"])
def test_tokens_and_labels_against_torchvision(run, images, config, kind):
    data = pretokenize_folder(config(crops=kind), progress=False)
    tokens, labels = expected(run, images, kind)
    assert torch.equal(data.tokens, tokens) and torch.equal(data.labels, labels)
    assert len(data.tokens.unique()) > 5, "a tokenizer that says always the same would test nothing"
    assert (data.index["codebook_size"], data.index["num_classes"], data.index["tokenizer"]) == (
        64,
        3,
        "vqgan",
    )


def test_torn_image_is_named_and_has_no_row(images, config, capsys):
    data = pretokenize_folder(config(), progress=False)
    assert str(images / TORN) in capsys.readouterr().out
    record = json.loads((Path(config().out) / "skipped.json").read_text(encoding="utf-8"))
    assert (record["images"], record["skipped"]) == (23, 1) and record["files"][0]["file"] == str(
        images / TORN
    )
    assert len(data) == 22 and data.labels.bincount().tolist() == [8, 8, 6]
    assert [s["rows"] for s in data.index["shards"]] == [
        5,
        6,
        5,
        6,
    ]  # images 0-4, 5-10, 11-16 (one torn), 17-22


def test_too_many_torn_images(config):
    strict = config(max_failed_share=0.04)
    with pytest.raises(
        ValueError,
        match=r"share of images that failed = '1/23 so far' .*max_failed_share = 0.04.*04.png",
    ):
        pretokenize_folder(strict, progress=False)
    with pytest.raises(ValueError, match="index"):
        TokenData.open(strict.out)
    assert (
        len(pretokenize_folder(config(max_failed_share=0.05), progress=False)) == 22
    )  # allowing more goes on in the same folder


def test_share_counts_what_all_processes_skipped(config, images):
    """Each process is below the limit, together they are above it."""
    config = config(max_failed_share=0.05)
    prepare(config)
    for k in range(2):
        write_shards(config, (k, 2))
    for k in (0, 3):  # as if another image had failed in shards of either process
        record = Path(config.out) / f"shard-{k:05d}.json"
        record.write_text(
            json.dumps(
                json.loads(record.read_text(encoding="utf-8"))
                | dict(skipped=[dict(file="x.png", reason="torn")])
            )
        )
    with pytest.raises(ValueError, match=r"'3/23'.*skipped.json"):
        finish(config)
    assert (
        json.loads((Path(config.out) / "skipped.json").read_text(encoding="utf-8"))["skipped"] == 3
    )


def test_first_image_of_a_class_may_be_torn(run, images, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in (1, 2, 3):
            (tmp_path / "images" / name / f"{i}.png").write_bytes(
                (images / name / f"0{i}.png").read_bytes()
            )
    (tmp_path / "images" / "b" / "1.png").write_bytes(b"not an image")
    data = pretokenize_folder(
        PretokenizeConfig(
            str(tmp_path / "images"),
            str(tmp_path / "t"),
            str(run),
            part="all",
            max_failed_share=0.5,
            cpu=True,
        ),
        progress=False,
    )
    assert data.labels.tolist() == [0, 0, 0, 1, 1]


def test_one_and_two_processes_and_workers_same_bytes(config):
    pretokenize_folder(config("one"), progress=False)
    pretokenize_folder(config("two"), processes=2, progress=False)
    pretokenize_folder(config("workers", workers=2), progress=False)
    one = content(config("one").out)
    assert len(one) == 3 + 2 * 4
    assert content(config("two").out) == one and content(config("workers").out) == one


def test_accelerate_launch_same_bytes(run, images, config):
    pretokenize_folder(config("one"), progress=False)
    options = dict(
        data=images,
        tokenizer=run,
        part="all",
        shard_images=6,
        batch_size=20,
        max_failed_share=0.1,
        out=config("launched").out,
    )
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "rar_nb.runs.pretokenizer",
        "--cpu",
        *(str(x) for k, v in options.items() for x in (f"--{k}", v)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "22 images of 10 crops, 1 skipped" in done.stdout
    assert content(config("launched").out) == content(config("one").out)


def be_slow(config):
    """In a process of its own: so that there is time to kill it."""
    whole = pretokenizer.crop_tokens

    def slow(*given):
        time.sleep(0.3)
        return whole(*given)

    pretokenizer.crop_tokens = slow
    pretokenize_folder(config, progress=False)


def test_killed_and_continued(run, images, config):
    killed = config("killed", shard_images=2)
    child = fork(be_slow, killed)
    while not (Path(killed.out) / "shard-00002.json").exists():
        assert child.is_alive()
        time.sleep(0.02)
    child.kill()
    child.join()
    finished = [k for k in range(12) if read_record(killed.out, k)]
    assert 3 <= len(finished) < 12 and not (Path(killed.out) / "tokens.json").exists()
    (Path(killed.out) / ".tokens-00007.npy-abcdefgh.part").write_bytes(
        b"half"
    )  # what a kill in the middle of writing leaves
    inodes = {k: (Path(killed.out) / f"tokens-{k:05d}.npy").stat().st_ino for k in finished}
    pretokenize_folder(killed, progress=False)
    assert inodes == {k: (Path(killed.out) / f"tokens-{k:05d}.npy").stat().st_ino for k in finished}
    pretokenize_folder(config("unhurt", shard_images=2), progress=False)
    assert content(killed.out) == content(config("unhurt").out)


def test_damaged_shard_is_made_again(config):
    pretokenize_folder(config("unhurt"), progress=False)
    damaged = config("damaged")
    prepare(damaged)
    write_shards(damaged)
    path = Path(damaged.out) / "tokens-00001.npy"
    path.write_bytes(path.read_bytes()[:-2] + b"\0\1")
    pretokenize_folder(damaged, progress=False)
    assert content(damaged.out) == content(config("unhurt").out)


def test_finished_folder_is_only_opened(config):
    pretokenize_folder(config(), progress=False)
    before = {p: p.stat().st_mtime_ns for p in Path(config().out).glob("[!.]*")}
    assert len(pretokenize_folder(config(), progress=False)) == 22
    assert {p: p.stat().st_mtime_ns for p in Path(config().out).glob("[!.]*")} == before


def test_one_process_opens_everything_once(config, monkeypatch):
    """A listing of a million files takes minutes.

    `finish` checks what was just written as it makes the index, and a finished folder by it."""
    opened, verified, open_both, verify = [], [], pretokenizer.open_both, TokenData.verify
    monkeypatch.setattr(pretokenizer, "open_both", lambda c: (opened.append(c), open_both(c))[1])
    monkeypatch.setattr(TokenData, "verify", lambda self: (verified.append(self), verify(self)))
    pretokenize_folder(config(), progress=False)
    assert (len(opened), len(verified)) == (1, 0)
    pretokenize_folder(config(), progress=False)
    assert (len(opened), len(verified)) == (2, 1)
    tokens = Path(config().out) / "tokens-00001.npy"
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"\x03")
    with pytest.raises(ValueError, match="SHA-256 of .*tokens-00001.npy"):
        pretokenize_folder(config(), progress=False)


@pytest.mark.parametrize(
    "change",
    [
        dict(crops="centre"),
        dict(shard_images=7),
        dict(batch_size=30),
        dict(image_size=40),
        dict(part="train"),
        dict(tf32=True),
    ],
    ids=lambda c: next(iter(c)),
)
def test_other_arguments_in_the_same_folder(config, change):
    prepare(config())
    before = content(config().out)
    name = "images" if "part" in change else next(iter(change))
    with pytest.raises(ValueError, match=f"^{name} = .*name another folder"):
        pretokenize_folder(config(**change), progress=False)
    assert content(config().out) == before


def test_other_images_or_tokenizer_in_the_same_folder(run, images, config, tmp_path):
    prepare(config())
    other = tmp_path / "other"
    save_run_config(RunConfig("tiny", tokenizer=ABOUT), other / "config.json")
    save_weights(make_tokenizer(ABOUT), other / "tokenizer.safetensors")
    with pytest.raises(ValueError, match="^tokenizer_sha256 = "):
        prepare(config(tokenizer=str(other)))
    moved = tmp_path / "moved"
    for path in images.glob("*/*.png"):
        (moved / path.parent.name).mkdir(parents=True, exist_ok=True)
        (moved / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert len(prepare(config(data=str(moved)))[0]) == 23  # the same images elsewhere are the same
    (moved / "a" / "00.png").rename(moved / "a" / "0.png")
    with pytest.raises(ValueError, match="^images_sha256 = "):
        prepare(config(data=str(moved)))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(data="/no/such/data"), "data = '/no/such/data' is not allowed"),
        (
            dict(tokenizer="/no/such/run"),
            "tokenizer = '/no/such/run' is not allowed: it must be one of maskgit_vq, ",
        ),
        (dict(tokenizer="maskgit_vq", weights="/no/such.bin"), "no/such.bin"),
        (
            dict(image_size=30),
            "image_size = 30 is not allowed: it must be a multiple of the tokenizer's stride, 8",
        ),
        (dict(data="digits"), "channels of the images = 1"),
    ],
    ids=str,
)
def test_refused_before_anything_is_written(config, change, message):
    change = dict(part="train") | change
    with pytest.raises(ValueError) as error:
        pretokenize_folder(config(**change), progress=False)
    assert message in str(error.value)
    assert not Path(config().out).exists()


def test_foreign_tokens_are_kept(config):
    TokenData(torch.zeros(3, 1, 4, dtype=torch.int64), torch.arange(3)).save(config().out, 10, 3)
    before = content(config().out)
    with pytest.raises(
        ValueError, match="folder = .*one without tokens, or with their pretokenize.json"
    ):
        prepare(config())
    assert content(config().out) == before


def test_published_tokenizer_from_a_file(images, tmp_path):
    torch.manual_seed(0)
    tokenizer = MaskGITVQ().eval()
    save_file(tokenizer.state_dict(), tmp_path / "maskgit-vqgan-imagenet-f16-256.safetensors")
    data = pretokenize_folder(
        PretokenizeConfig(
            str(images),
            str(tmp_path / "t"),
            weights=str(tmp_path),
            part="validation",
            crops="one",
            image_size=32,
            cpu=True,
        ),
        progress=False,
    )
    last = center_crop(load_rgb(images / "c" / "05.png"), 32)
    assert torch.equal(
        data.tokens[-1],
        tokenizer.encode(
            to_float(torch.from_numpy(np.array(last)).permute(2, 0, 1)[None], (0.0, 1.0))
        ),
    )
    assert (data.index["tokenizer"], data.index["codebook_size"], data.num_tokens) == (
        "maskgit_vq",
        1024,
        4,
    )


@pytest.mark.parametrize("images, most", [(1, 5), (5, 5), (6, 5), (1_281_167, 2**14), (17, 4)])
def test_shard_edges_properties(images, most):
    edges = shard_edges(images, most)
    sizes = np.diff(edges)
    assert (
        (edges[0], edges[-1]) == (0, images)
        and sizes.min() >= 1
        and sizes.max() <= most
        and sizes.max() - sizes.min() <= 1
    )
    assert len(sizes) == -(-images // most)


# The program

OPTIONS = dict(part="all", shard_images=6, batch_size=20, max_failed_share=0.1, cpu=True)


def test_every_field_is_an_option_with_the_same_default():
    parameters = dict(inspect.signature(pretokenizer.main).parameters)
    parameters.pop("processes")
    fields = {f.name: f.default for f in dataclasses.fields(PretokenizeConfig)}
    assert list(parameters) == list(fields)
    for name, parameter in parameters.items():
        if name not in ("data", "out"):  # these have no default
            assert parameter.default == fields[name]


def test_options_of_the_command_line():
    parser = anno_parser(pretokenizer.main)
    given = vars(
        parser.parse_args(
            [
                "--data",
                "a",
                "--out",
                "b",
                "--image_size",
                "64",
                "--max_failed_share",
                "0.5",
                "--tf32",
                "--processes",
                "2",
            ]
        )
    )
    assert (
        given["image_size"],
        given["max_failed_share"],
        given["tf32"],
        given["cpu"],
        given["processes"],
    ) == (64, 0.5, True, False, 2)
    for option in parser._actions:
        assert option.help, f"{option.dest} is not documented"
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", "b"])


def test_main_can_be_called(run, images, tmp_path, capsys):
    pretokenizer.main(data=str(images), tokenizer=str(run), out=str(tmp_path / "t"), **OPTIONS)
    assert "22 images of 10 crops, 1 skipped" in capsys.readouterr().out
    with pytest.raises(
        InvalidValue, match="crops = 'five' is not allowed: it must be one of ten, centre, one"
    ):
        pretokenizer.main(data=str(images), out=str(tmp_path / "t"), crops="five")


def test_the_program_ends_with_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "rar_nb.runs.pretokenizer",
        "--data",
        "digits",
        "--out",
        str(tmp_path / "t"),
        "--crops",
        "five",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "error: crops = 'five' is not allowed: it must be one of ten, centre, one\n"
    )
    assert not (tmp_path / "t").exists()


def test_bad_input_in_a_process_of_several_is_one_line(config, monkeypatch):
    """The processes are forked ones here, where that is safe."""
    if FORKS:
        start_server()
        spawn = partial(pretokenizer.multiprocessing.start_processes, start_method="forkserver")
        monkeypatch.setattr(pretokenizer.multiprocessing, "spawn", spawn)
    with pytest.raises(
        InvalidValue,
        match=r"^share of images that failed = '1/23 so far' is not.*04.png can't be read.*$",
    ) as error:
        pretokenize_folder(config(max_failed_share=0.04), processes=2, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(crops="five"), "crops = 'five' is not allowed: it must be one of ten, centre, one"),
        (
            dict(part="held_out"),
            "part = 'held_out' is not allowed: it must be 'train', 'validation' or 'all'",
        ),
        (
            dict(max_failed_share=2),
            "max_failed_share = 2 is not allowed: it must be a number of at most 1.0",
        ),
        (dict(batch_size=0), "batch_size = 0 is not allowed: it must be a number above 0"),
        (dict(workers=-1), "workers = -1 is not allowed: it must be a number of at least 0"),
        (dict(out=""), "out = '' is not allowed: it must be text of at least 1 character"),
        (
            dict(tokenizer="runs/mine", weights="a.bin"),
            "weights = 'a.bin' is not allowed: "
            "it must be left out for the tokenizer of a run's folder",
        ),
    ],
    ids=str,
)
def test_fields_are_checked(wrong, message):
    with pytest.raises(InvalidValue) as error:
        PretokenizeConfig(**dict(data="digits", out="out") | wrong)
    assert str(error.value) == message


def test_crops_of_each_kind():
    image = torch.arange(61 * 61).view(1, 1, 61, 61)
    two = pretokenizer.cut(image, "centre", 61)
    assert (
        two.shape == (1, 2, 1, 61, 61)
        and torch.equal(two[:, 1].flip(-1), two[:, 0])
        and torch.equal(two[:, 0], image)
    )
    assert torch.equal(pretokenizer.cut(image, "one", 61), image[:, None])
    assert pretokenizer.cut(image, "ten", 56).shape == (1, 10, 1, 56, 56)
    assert [pretokenizer.opened_size(kind, 256) for kind in pretokenizer.CROPS] == [281, 256, 256]


def test_leftovers_of_a_killed_process_go_and_other_files_stay(config):
    prepare(config())
    folder = Path(config().out)
    ours = [
        ".tokens-00007.npy-abcdefgh.part",
        ".shard-00000.json-a1b2c3d4.part",
        ".pretokenize.json-abcdefgh.part",
    ]
    theirs = [".notes.txt-mine.part", ".tokens-00007.npy", "mine.part", ".hidden"]
    for name in ours + theirs:
        (folder / name).write_bytes(b"half")
    prepare(config())
    kept = ["pretokenize.json", ".pretokenize.lock", *theirs]
    assert sorted(p.name for p in folder.iterdir()) == sorted(kept)


# One job at a time


def no_listing(*given, **options):
    pytest.fail("images were listed")


def be_the_first_job(config, at_work, go_on):
    """In a process of its own: it waits until the second one has been refused."""
    whole = pretokenizer.crop_tokens

    def wait_first(*given):
        at_work.set()
        go_on.wait()
        return whole(*given)

    pretokenizer.crop_tokens = wait_first
    pretokenize_folder(config, progress=False)


def test_a_second_job_gets_an_error_that_names_the_first(config, monkeypatch):
    """Whoever comes second is refused, and what the first one makes is right."""
    both = config("both", shard_images=3)
    at_work, go_on = CONTEXT.Event(), CONTEXT.Event()
    child = fork(be_the_first_job, both, at_work, go_on)
    while not at_work.wait(0.1):
        assert child.is_alive()
    before = content(both.out)
    with monkeypatch.context() as m:
        m.setattr(pretokenizer, "PATIENCE", 0)
        m.setattr(pretokenizer, "open_data", lambda *a, **k: pytest.fail("images were listed"))
        message = rf"{both.out} is in use by process {child.pid} on .*wait until it ends"
        for job in (prepare, pretokenize_folder):
            with pytest.raises(InvalidValue, match=message):
                job(both)
    assert content(both.out) == before
    go_on.set()
    child.join()
    pretokenize_folder(config("alone", shard_images=3), progress=False)
    assert child.exitcode == 0 and content(both.out) == content(config("alone").out)
    assert len(pretokenize_folder(both, progress=False)) == 22  # the lock is free again


def test_the_lock_is_released_when_a_job_fails(config):
    with pytest.raises(InvalidValue, match="share of images that failed"):
        pretokenize_folder(config(max_failed_share=0.0), progress=False)
    assert not (Path(config().out) / ".pretokenize.owner.json").exists()
    assert len(pretokenize_folder(config(), progress=False)) == 22


# The place, and what lies in it


@pytest.mark.parametrize("out", ["file", "file/tokens", "n" * 300, "a\0b", "dangling"])
def test_a_place_that_is_no_folder(config, tmp_path, monkeypatch, out):
    """Named before anything is opened, and nothing is made."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "below")
    monkeypatch.setattr(
        pretokenizer, "open_data", lambda *a, **k: pytest.fail("images were listed")
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidValue, match=r"can't be written|that this machine can have") as error:
        pretokenize_folder(config(out), progress=False)
    assert "\n" not in str(error.value) and sorted(tmp_path.iterdir()) == before


def test_a_place_that_may_not_be_written_to(config, monkeypatch):
    monkeypatch.setattr(pretokenizer.os, "access", lambda *a: False)  # root may write everywhere
    with pytest.raises(InvalidValue, match="Permission denied.: name a place where you may write"):
        check_place(config().folder)


def test_home_in_the_name_of_the_place(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = dataclasses.replace(config(), out="~/mine")
    assert len(pretokenize_folder(mine, progress=False)) == 22
    assert (tmp_path / "mine" / "tokens.json").exists() and not Path("~").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(data="/no/such/data"), "data = '/no/such/data'"),
        (dict(image_size=40), "multiple of the tokenizer's stride, 16"),
        (dict(data="digits", part="train"), "channels of the images = 1"),
    ],
    ids=str,
)
def test_the_hub_is_asked_last(config, monkeypatch, change, message):
    fail = lambda *a, **k: pytest.fail("weights were asked for")
    monkeypatch.setattr(MaskGITVQ, "from_pretrained", fail)
    with pytest.raises(InvalidValue, match=message):
        prepare(config(tokenizer="maskgit_vq", **change))


def damaged(content):
    yield from (b"", content[: len(content) // 2], b"\0" * len(content), b"[]", b"{}", b"\xff")


def test_a_damaged_request_is_named(config):
    prepare(config())
    path = Path(config().out) / "pretokenize.json"
    whole = path.read_bytes()
    for found in damaged(whole):
        path.write_bytes(found)
        with pytest.raises(InvalidValue, match="pretokenize.json .*start anew in another folder"):
            pretokenize_folder(config(), progress=False)
    path.write_bytes(whole)
    prepare(config())


def test_a_shard_with_a_damaged_record_is_made_again(config):
    prepare(config())
    write_shards(config())
    path = Path(config().out) / "shard-00001.json"
    whole, tokens = path.read_bytes(), path.with_name("tokens-00001.npy")
    record = json.loads(whole)
    elsewhere = [dict(entry, file="../" + entry["file"]) for entry in record["files"]]
    foreign = [record | dict(files=files) for files in ([], elsewhere, record["files"][:1])]
    for found in (*damaged(whole), *(json.dumps(r).encode() for r in foreign)):
        path.write_bytes(found)
        assert read_record(config().out, 1) is None
    before = tokens.stat().st_ino
    pretokenize_folder(config(), progress=False)
    assert tokens.stat().st_ino != before
    pretokenize_folder(config("unhurt"), progress=False)
    assert content(config().out) == content(config("unhurt").out)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid some of these names")
def test_classes_and_images_with_odd_names(run, tmp_path, capsys):
    names = ["$a_{$", "<script>", os.fsdecode(b"caf\xe9"), "a\nb", "x" * 250]
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 40), (i, 0, 0)).save(
                tmp_path / "images" / name / f"{name[:9]}{i}.png"
            )
    torn = tmp_path / "images" / "a\nb" / "a\nb1.png"
    torn.write_bytes(b"torn")
    pretokenizer.main(
        data=str(tmp_path / "images"), tokenizer=str(run), out=str(tmp_path / "t"), **OPTIONS
    )
    printed = capsys.readouterr().out
    assert "skipped" in printed and r"a\x0ab1.png: can't be read" in printed
    assert "14 images of 10 crops, 1 skipped" in printed
    request = json.loads((tmp_path / "t" / "pretokenize.json").read_text(encoding="utf-8"))
    assert request["classes"] == ["$a_{$", "<script>", r"a\x0ab", r"caf\xe9", "x" * 250]


@pytest.mark.parametrize(
    "call",
    [
        lambda: pretokenize_folder("digits"),
        lambda: pretokenize_folder(None),
        lambda: pretokenize_folder(dict(data="digits", out="t")),
        lambda: prepare("digits"),
        lambda: PretokenizeConfig(data=3, out="t"),
        lambda: PretokenizeConfig(data="digits"),
        lambda: PretokenizeConfig(data="digits", out=["t"]),
        lambda: PretokenizeConfig(data="digits", out="t", crops=10),
        lambda: PretokenizeConfig(data="digits", out="t", batch_size="all"),
        lambda: PretokenizeConfig(data="digits", out="t", max_failed_share=float("nan")),
        lambda: PretokenizeConfig(data="digits", out="t", cpu="perhaps"),
        lambda: pretokenizer.main(data="digits", out="t", shard_images=1.5),
    ],
)
def test_wrong_types_are_refused_in_one_line(call):
    with pytest.raises(InvalidValue) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("processes, progress", [(0, True), ("2", True), (1.0, True), (1, "no")])
def test_processes_and_progress_are_checked(config, processes, progress):
    with pytest.raises(InvalidValue, match="^(processes|progress) = "):
        pretokenize_folder(config(), processes, progress)
    assert not Path(config().out).exists()
