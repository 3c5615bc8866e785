"""What is deleted: nothing that we did not write, nothing without `overwrite`, and then all of the old run."""
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rar_nb.config as config
from rar_nb.config import ModelConfig, SampleConfig, get_preset, save_run_config, write_beside
from rar_nb.data import TokenData
from rar_nb.fidelity import RGBImages
from rar_nb.sampler import generate, pack_npz, remove_set
from rar_nb.style import is_whole_png
from rar_nb.tokenizer import GreyTokenizer
from rar_nb.trainer import RUN_FILES, main, new_run_folder, open_tokens, save_tokens
from rar_nb.transformer import RAR

HASH = "0123456789abcdef"
OF_A_RUN = [
    "metrics.jsonl", "evaluation.json", "report.md", "train.log", "model.safetensors", "tokenizer.safetensors", "before_annealing.safetensors",
    "checkpoint.safetensors", "samples/step_000000.png", "samples/step_001000.png", "samples/progress.png", "samples/final.png",
    "tokens/train/tokens.json", "tokens/train/tokens-00000.npy", "tokens/train/labels-00000.npy", "tokens/val/pretokenize.json", "tokens/val/skipped.json",
    "tokens/val/shard-00003.json", "evaluation/samples.png", "evaluation/sweep.png", "evaluation/guidance.png", "evaluation/training.png",
    "evaluation/imagenet_fid.json", f"evaluation/images-{HASH[:12]}/generate.json", f"evaluation/images-{HASH[:12]}/000017.png",
    f"evaluation/images-{HASH[:12]}/launch.log", f"evaluation/sweep/{HASH}.json", f"evaluation/sweep/{HASH}.png",
    f"evaluation/sweep/images-{HASH[:12]}/000000.png", f"evaluation/features/{HASH * 4}.safetensors", "rar_nb/events.out.tfevents.1.host.2.0",
    "rar_nb/1700000000.5/hparams.yml", "samples/.final.png-abcd_123.part", ".model.safetensors-abcdefgh.part",
]  # fmt: skip
OF_THE_USER = [
    "notes.txt", "train.ipynb", "mymodel.safetensors", "samples/holiday.png", "samples/old/step_000000.png", "images/a/000000.png", "tokens/mine.npy",
    "tokens/train/mine.npy", "evaluation/thoughts.md", f"evaluation/images-{HASH[:12]}/holiday.png", "evaluation/images-mine/000000.png", "evaluation/000000.png",
]  # fmt: skip


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def run(tmp_path):
    """A folder with all that a run writes, and with a user's own files among it."""
    save_run_config(get_preset("tiny"), tmp_path / "run" / "config.json")
    fill(tmp_path / "run", OF_A_RUN + OF_THE_USER)
    return tmp_path / "run"


def test_overwrite_leaves_the_users_files_and_nothing_of_the_old_run(run):
    new_run_folder(run, overwrite=True)
    assert everything(run) == {name: name.encode() for name in OF_THE_USER}
    folders = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_dir()}
    assert folders == {p.as_posix() for name in OF_THE_USER for p in Path(name).parents} - {"."}, "no empty folder stays"


@pytest.mark.parametrize("name", OF_A_RUN)
def test_every_name_of_a_run_is_known(name):
    assert RUN_FILES.fullmatch(name) and not any(RUN_FILES.fullmatch(theirs) for theirs in OF_THE_USER)


def test_without_overwrite_a_run_stays(run):
    before = everything(run)
    with pytest.raises(ValueError, match="overwrite=True"):
        new_run_folder(run)
    assert everything(run) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", [name for name in OF_A_RUN if not name.endswith(".part")])
def test_a_folder_that_is_no_run_loses_nothing(tmp_path, name, overwrite):
    """Not even if it holds a file that looks like a run's: it would be replaced later, so it is refused now."""
    fill(tmp_path, [name, *OF_THE_USER])
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="a folder without .*no config.json"):
        new_run_folder(tmp_path, overwrite)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_run_among_a_users_files(tmp_path, overwrite):
    fill(tmp_path, OF_THE_USER)
    assert new_run_folder(tmp_path, overwrite) == tmp_path.resolve()
    assert everything(tmp_path) == {name: name.encode() for name in OF_THE_USER}


@pytest.mark.parametrize("content", ['{"architectures": ["BertModel"], "hidden_size": 768}', "{}", "[]", "not JSON", ""])
def test_another_programs_config_is_no_licence_to_delete(tmp_path, content):
    fill(tmp_path, ["model.safetensors"])
    (tmp_path / "config.json").write_text(content)
    before = everything(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ValueError):
            new_run_folder(tmp_path, overwrite)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("link", ["samples", "tokens", "tokens/train", "evaluation", "evaluation/sweep", f"evaluation/images-{HASH[:12]}", "model.safetensors", "samples/final.png"])
def test_links_are_unlinked_and_never_followed(tmp_path, link):
    """Also where the folder behind the link holds files with the names of a run's."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    fill(elsewhere, ["final.png", "step_000000.png", "000000.png", "generate.json", "tokens.json", f"{HASH}.json", "train/tokens.json", "tokens-00000.npy"])
    before = everything(elsewhere)
    (run / link).parent.mkdir(parents=True)
    (run / link).symlink_to(elsewhere / "final.png" if "." in link else elsewhere)
    with pytest.raises(ValueError, match="a folder without"):  # not known as a run yet
        new_run_folder(run, overwrite=True)
    assert (run / link).is_symlink()
    save_run_config(get_preset("tiny"), run / "config.json")
    new_run_folder(run, overwrite=True)
    assert not (run / link).is_symlink() and (run / "samples").is_dir()
    assert everything(elsewhere) == before and everything(run) == {}


def save_some_tokens(folder):
    ids = torch.randint(8, (64, 1, 49), generator=torch.Generator().manual_seed(0))
    for part in ("train", "val"):
        TokenData(ids, torch.arange(64) % 10).save(folder / part, 8, 10)


@pytest.mark.parametrize("given", ["tokens", "tokens/train"])
@pytest.mark.parametrize("linked", [False, True])
def test_tokens_that_the_new_run_learns_from_stay(tmp_path, given, linked):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    save_some_tokens(elsewhere if linked else run / "tokens")
    if linked:
        run.mkdir()
        (run / "tokens").symlink_to(elsewhere)
    kept = {name: content for name, content in everything(run / "tokens").items() if given == "tokens" or name.startswith("train/")}
    command = ["--run_dir", str(run), "--tokens", str(run / given), "--preset", "tiny", "--changes", '{"epochs": 1}', "--cpu"]
    if given == "tokens":
        main(command)  # with no overwrite at all
    else:
        save_run_config(get_preset("tiny"), run / "config.json")
    new_run_folder(run, overwrite=True, tokens=run / given)
    assert kept.items() <= everything(run / "tokens").items() and len(kept) in (3, 6)
    assert not (run / "model.safetensors").exists()


def test_tokens_of_another_run_are_not_taken_for_this_ones(tmp_path):
    save_some_tokens(tmp_path)
    run, data = get_preset("tiny"), open_tokens(tmp_path)[0]
    with pytest.raises(ValueError, match="images, crops and tokenizer of .*move that folder away"):
        save_tokens(tmp_path, run, GreyTokenizer(), data)
    assert save_tokens(tmp_path / "new", run, GreyTokenizer(), data) == save_tokens(tmp_path / "new", run, GreyTokenizer(), data)


# Sets of images

TWELVE = SampleConfig(4.0, 1.0, num_samples=12, sample_batch_size=6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return RAR(ModelConfig(8, 16, 4, hidden_size=32, num_layers=1, num_heads=2, mlp_size=64)).eval()


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


@pytest.mark.parametrize("kind", ["empty", "half", "end", "byte", "text", "zeros", "link to nowhere"])
def test_half_written_images_are_made_again(model, tmp_path, kind):
    assert generate(model, GreyTokenizer(), tmp_path / "set", TWELVE) == 12
    before, file = everything(tmp_path / "set"), tmp_path / "set" / "000007.png"
    assert is_whole_png(file)
    damage(kind, file)
    assert not is_whole_png(file)
    if kind not in ("end", "byte"):  # of these all pixels are there
        with pytest.raises(ValueError, match="000007.png can't be read|image 7 is not there"):
            pack_npz(tmp_path / "set", tmp_path / "set.npz")
    assert generate(model, GreyTokenizer(), tmp_path / "set", TWELVE) == 1
    assert everything(tmp_path / "set") == before and generate(model, GreyTokenizer(), tmp_path / "set", TWELVE) == 0


@pytest.mark.parametrize("kind", ["empty", "half", "text", "zeros"])
def test_metrics_name_a_damaged_image_and_ignore_unfinished_ones(model, tmp_path, kind):
    generate(model, GreyTokenizer(channels=3), tmp_path, TWELVE)
    for left in (".000003.png-abcdefgh.part", ".000003-abcdefgh.png"):  # of a killed process, as they are named now and were once
        (tmp_path / left).write_bytes((tmp_path / "000003.png").read_bytes()[:50])
    images = RGBImages(tmp_path)
    assert len(images) == 12 and [tuple(images[i].shape) for i in range(12)] == [(3, 16, 16)] * 12
    damage(kind, tmp_path / "000007.png")
    with pytest.raises(ValueError, match="000007.png can't be read as an image"):
        [RGBImages(tmp_path)[i] for i in range(12)]


def test_a_set_is_removed_without_what_others_put_there(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path / "set", TWELVE)
    generate(model, GreyTokenizer(), tmp_path / "pure", TWELVE)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    before = everything(tmp_path / "set")
    remove_set(tmp_path / "link")
    assert everything(tmp_path / "set") == before and not (tmp_path / "link").exists()
    fill(tmp_path / "set", ["holiday.png", "deeper/000000.png"])
    remove_set(tmp_path / "set")
    assert set(everything(tmp_path / "set")) == {"holiday.png", "deeper/000000.png"}
    remove_set(tmp_path / "pure")
    assert not (tmp_path / "pure").exists()
    with pytest.raises(ValueError, match="generate.json"):
        remove_set(tmp_path / "set")


# Files in one step

def test_a_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace

    def note_fsync(handle):
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def note_replace(*names):
        steps.append("rename")
        replace(*names)

    monkeypatch.setattr(config.os, "fsync", note_fsync)
    monkeypatch.setattr(config.os, "replace", note_replace)
    with write_beside(tmp_path / "a.png") as beside:
        assert beside.suffix == ".part" and beside.name.startswith(".")  # no glob for images finds it
        beside.write_text("new")
    assert steps == ["file", "rename", "folder"] and (tmp_path / "a.png").read_text() == "new"


def test_a_link_is_replaced_by_the_file_and_its_target_stays(tmp_path):
    (tmp_path / "theirs").write_text("old")
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    with write_beside(tmp_path / "ours") as beside:
        beside.write_text("new")
    assert (tmp_path / "theirs").read_text() == "old" and (tmp_path / "ours").read_text() == "new" and not (tmp_path / "ours").is_symlink()


def test_unfinished_shards_of_a_killed_process_are_removed_but_no_others(tmp_path):
    """By the pretokenizer, in its own folder: `.notes-to-self` is no shard of ours."""
    from rar_nb.pretokenizer import PretokenizeConfig, pretokenize_folder

    save_run_config(get_preset("tiny"), tmp_path / "run" / "config.json")
    from rar_nb.checkpoints import save_weights
    from rar_nb.vq_models import make_tokenizer

    save_weights(make_tokenizer(get_preset("tiny").tokenizer), tmp_path / "run" / "tokenizer.safetensors")
    asked = PretokenizeConfig("digits", str(tmp_path / "out"), str(tmp_path / "run"), part="held_out", crops="one", cpu=True)
    fill(tmp_path / "out", [".notes-to-self", ".tokens-00000.npy-abcdefgh.part", ".diary-abcdefgh.part"])
    data = pretokenize_folder(asked, progress=False)
    assert len(data) > 0 and np.all(data.labels.numpy() < 10)
    assert {name for name in everything(tmp_path / "out") if name.startswith(".")} == {".notes-to-self", ".diary-abcdefgh.part"}
    assert json.loads((tmp_path / "out" / "skipped.json").read_text())["skipped"] == 0
