"""A run's folder: what it holds, what it refuses, and what is never deleted from it."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

import rar_nb.runs.run_folders as run_folders
from rar_nb.data.tokens import content_hash
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import (
    LATER,
    get_preset,
    load_run_config,
    override,
    read_identity,
    save_run_config,
)
from rar_nb.runs.run_folders import (
    RUN_FILES,
    Metrics,
    check_tokens,
    check_trackers,
    commit,
    curve,
    flat_config,
    git_commit,
    go_on,
    has_run,
    keep_identity,
    keep_request,
    load_latest,
    new_run_folder,
    open_run,
    open_tokenizer,
    open_tokens,
    read_metrics,
    remove_files,
    require_same_run,
    resolve_tokens,
    save_tokenizer,
    save_tokens,
    seal,
    verify_tokens,
)
from rar_nb.runs.safekeeping import write_checkpoint
from rar_nb.support import InvalidValue, write_json
from rar_nb.tokenizer import GreyTokenizer, make_tokenizer
from rar_nb.transformer import RAR
from tests.forks import held_elsewhere
from tests.tools.runs import rar_train, save_made_up_tokens

HASH = "0123456789abcdef"
OF_A_RUN = [
    "metrics.jsonl",
    "evaluation.json",
    "report.md",
    "train.log",
    "model.safetensors",
    "tokenizer.safetensors",
    "before_annealing.safetensors",
    "checkpoint.safetensors",
    "checkpoints/step_001000.json",
    "checkpoints/step_001000.safetensors",
    "tokenizer_checkpoints/step_000100.json",
    "identity.json",
    "changes.jsonl",
    "samples/step_000000.png",
    "samples/step_001000.png",
    "samples/progress.png",
    "samples/final.png",
    "tokens/train/tokens.json",
    "tokens/train/tokens-00000.npy",
    "tokens/train/labels-00000.npy",
    "tokens/val/pretokenize.json",
    "tokens/val/skipped.json",
    "tokens/val/shard-00003.json",
    "evaluation/samples.png",
    "evaluation/sweep.png",
    "evaluation/guidance.png",
    "evaluation/training.png",
    "evaluation/imagenet_fid.json",
    f"evaluation/images-{HASH[:12]}/generate.json",
    f"evaluation/images-{HASH[:12]}/000017.png",
    f"evaluation/images-{HASH[:12]}/launch.log",
    f"evaluation/sweep/{HASH}.json",
    f"evaluation/sweep/{HASH}.png",
    f"evaluation/sweep/images-{HASH[:12]}/000000.png",
    f"evaluation/features/{HASH * 4}.safetensors",
    "rar_nb/events.out.tfevents.1.host.2.0",
    "rar_nb/1700000000.5/hparams.yml",
    "samples/.final.png-abcd_123.part",
    ".model.safetensors-abcdefgh.part",
]
OF_THE_USER = [
    "notes.txt",
    "train.ipynb",
    "evaluate.ipynb",
    "mymodel.safetensors",
    "samples/holiday.png",
    "samples/old/step_000000.png",
    "images/a/000000.png",
    "tokens/mine.npy",
    "tokens/train/mine.npy",
    "evaluation/thoughts.md",
    f"evaluation/images-{HASH[:12]}/holiday.png",
    "evaluation/images-mine/000000.png",
    "evaluation/000000.png",
    "evaluation/evaluate.ipynb",
]


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def everything(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def run(tmp_path):
    """A folder with all that a run writes, and with a user's own files among it."""
    save_run_config(get_preset("tiny"), tmp_path / "run" / "config.json")
    fill(tmp_path / "run", OF_A_RUN + OF_THE_USER)
    return tmp_path / "run"


# What is deleted


def test_overwrite_leaves_the_users_files_and_nothing_of_the_old_run(run):
    new_run_folder(run, overwrite=True)
    assert everything(run) == {name: name.encode() for name in OF_THE_USER}
    folders = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_dir()}
    theirs = {p.as_posix() for name in OF_THE_USER for p in Path(name).parents} - {"."}
    assert folders == theirs, "no empty folder stays"


@pytest.mark.parametrize("name", OF_A_RUN)
def test_every_name_of_a_run_is_known(name):
    assert RUN_FILES.fullmatch(name)
    assert not any(RUN_FILES.fullmatch(theirs) for theirs in OF_THE_USER)


def test_without_overwrite_a_run_stays(run):
    before = everything(run)
    with pytest.raises(ValueError, match="overwrite=True"):
        new_run_folder(run)
    assert everything(run) == before


@pytest.mark.parametrize(
    "metadata, is_ours",
    [
        ({"papermill": {"input_path": "nbs/evaluate.ipynb"}}, True),
        ({"papermill": {"input_path": "/somewhere/evaluate.ipynb"}}, True),
        ({"papermill": {"input_path": "my/own.ipynb"}}, False),
        ({"papermill": {"input_path": None}}, False),
        ({"papermill": {}}, False),
        ({}, False),
        (None, False),
    ],
)
def test_an_evaluation_goes_only_if_papermill_made_it_of_ours(tmp_path, metadata, is_ours):
    save_run_config(get_preset("tiny"), tmp_path / "config.json")
    report = tmp_path / "evaluate.ipynb"
    report.write_text(json.dumps({"cells": [], "metadata": metadata}))
    new_run_folder(tmp_path, overwrite=True)
    assert report.exists() == (not is_ours)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", [name for name in OF_A_RUN if not name.endswith(".part")])
def test_a_folder_that_is_no_run_loses_nothing(tmp_path, name, overwrite):
    """A file that looks like a run's would be replaced later, so the folder is refused now."""
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


@pytest.mark.parametrize(
    "content", ['{"architectures": ["BertModel"], "hidden_size": 768}', "{}", "[]", "not JSON", ""]
)
def test_another_programs_config_is_no_licence_to_delete(tmp_path, content):
    fill(tmp_path, ["model.safetensors"])
    (tmp_path / "config.json").write_text(content)
    before = everything(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ValueError):
            new_run_folder(tmp_path, overwrite)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "link",
    [
        "samples",
        "tokens",
        "tokens/train",
        "evaluation",
        "evaluation/sweep",
        f"evaluation/images-{HASH[:12]}",
        "model.safetensors",
        "samples/final.png",
    ],
)
def test_links_are_unlinked_and_never_followed(tmp_path, link):
    """Also where the folder behind the link holds files with the names of a run's."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    fill(
        elsewhere,
        [
            "final.png",
            "step_000000.png",
            "000000.png",
            "generate.json",
            "tokens.json",
            f"{HASH}.json",
            "train/tokens.json",
            "tokens-00000.npy",
        ],
    )
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


@pytest.mark.parametrize("given", ["tokens", "tokens/train"])
@pytest.mark.parametrize("linked", [False, True])
def test_tokens_that_the_new_run_learns_from_stay(tmp_path, given, linked):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    save_made_up_tokens(elsewhere if linked else run / "tokens", 64)
    if linked:
        run.mkdir()
        (run / "tokens").symlink_to(elsewhere)
    kept = {
        name: content
        for name, content in everything(run / "tokens").items()
        if given == "tokens" or name.startswith("train/")
    }
    if given == "tokens":  # with no overwrite at all
        rar_train(
            "--run_dir",
            run,
            "--tokens",
            run / given,
            "--preset",
            "tiny",
            "--changes",
            '{"epochs": 1}',
            "--cpu",
        )
    else:
        save_run_config(get_preset("tiny"), run / "config.json")
    new_run_folder(run, overwrite=True, tokens=run / given)
    assert kept.items() <= everything(run / "tokens").items() and len(kept) in (3, 6)
    assert not (run / "model.safetensors").exists()


@pytest.mark.parametrize(
    "place, name",
    [
        (".", "training"),
        ("evaluation", "evaluation"),
        (f"evaluation/images-{HASH[:12]}", "set-1"),
        ("tokens/train", "pretokenize"),
    ],
)
def test_a_run_is_not_replaced_while_a_job_is_at_work(tmp_path, place, name):
    """Wherever it works; what a killed job leaves behind is no obstacle."""
    fill(tmp_path, ["model.safetensors", f"{place}/.set-7.lock", f"{place}/.{name}.owner.json"])
    save_run_config(get_preset("tiny"), tmp_path / "config.json")
    with held_elsewhere(tmp_path / place, name) as number:
        before = everything(tmp_path)
        with pytest.raises(InvalidValue, match=f"is in use by process {number} on"):
            new_run_folder(tmp_path, overwrite=True)
        after = everything(tmp_path)
        assert all(after[file] == before[file] for file in before if "owner" not in file)
    new_run_folder(tmp_path, overwrite=True)
    assert not (tmp_path / "model.safetensors").exists()
    assert place == "." or not (tmp_path / place).exists()


def test_remove_files_leaves_folders_that_are_in_use(tmp_path):
    fill(tmp_path, ["a/b/ours", "a/theirs", "c/ours"])
    remove_files([tmp_path / "a/b/ours", tmp_path / "c/ours"], tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "a",
        "a/theirs",
    ]


# What is kept


def test_metrics_survive_a_kill(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in range(3):
        metrics.log(step=step, loss=2.0 - step)
    with metrics.path.open("a") as file:
        file.write('{"step": 3')  # killed in the midst of a line
    assert read_metrics(metrics.path) == metrics.rows and curve(metrics.rows, "r") == ([], [])
    resumed = Metrics(metrics.path, keep=2)
    resumed.log(step=2, r=1.0)
    assert read_metrics(metrics.path) == [*metrics.rows[:2], dict(step=2, r=1.0)] == resumed.rows
    with pytest.raises(ValueError, match="a run's folder holds one as metrics.jsonl"):
        read_metrics(tmp_path / "none.jsonl")


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step": 3}x\n', "\0" * 50, "\0" * 50 + "\n"])
def test_a_torn_end_is_left_out_and_a_damaged_line_is_named(tmp_path, torn, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "loss": 1.5}\n' + torn)
    assert read_metrics(path) == [dict(step=1), dict(step=2, loss=1.5)]
    assert capsys.readouterr().out == ""
    path.write_text('{"step": 1}\n["step"]\n{"step": 3}\n')
    assert read_metrics(path) == [dict(step=1), dict(step=3)]
    assert f"line 2 of {path} is damaged and left out" in capsys.readouterr().out


def test_metrics_in_memory_keep_no_rows_of_a_file():
    """In every process but the first there is no file, whatever the checkpoint counts."""
    metrics = Metrics(None, keep=7)
    metrics.log(step=8)
    assert metrics.rows == [dict(step=8)]


def test_flat_config_names_every_field():
    flat = flat_config(get_preset("tiny"))
    assert flat["preset"] == "tiny" and flat["train.batch_size"] == 32
    assert flat["devices.strategy"] == "auto" and not any(
        isinstance(v, dict) for v in flat.values()
    )


def test_trackers_that_are_not_installed(monkeypatch):
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setattr(f"rar_nb.runs.run_folders.is_{name}_available", lambda: False)
        with pytest.raises(ValueError, match=f"run `pip install {name}`"):
            check_trackers([name])


def test_a_run_is_opened_and_recognised(tmp_path, capsys):
    run = get_preset("tiny", steps_per_epoch=5)
    model, tokenizer = RAR(run.model), make_tokenizer(run.tokenizer)
    folder = new_run_folder(tmp_path / "mine")
    assert not has_run(folder, run)
    save_run_config(run, folder / "config.json")
    save_tokenizer(tokenizer, folder)
    with pytest.raises(ValueError, match="neither model.safetensors nor a checkpoint"):
        load_latest(RAR(run.model), folder)
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    write_checkpoint(folder / "checkpoints", 3, tensors, {})
    assert torch.equal(load_latest(RAR(run.model), folder).lm_head.weight, model.lm_head.weight)
    with pytest.raises(ValueError, match="is not finished: resume it"):
        open_run(folder)
    save_weights(model, folder / "model.safetensors")
    again, _, opened = open_run(folder)
    assert again == run and not opened.training
    assert torch.equal(opened.lm_head.weight, model.lm_head.weight)
    assert has_run(folder, override(run, compile=True, device_batch_size=4))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name, value",
    [
        ("final_order", "spiral_in"),
        ("target_aware", False),
        ("adaln", False),
        ("init_from", "runs/another"),
    ],
)
def test_what_a_checkpoint_did_not_know_yet_is_compared_too(name, value):
    """A configuration of an earlier version stands for what all runs were then."""
    run = get_preset("tiny", steps_per_epoch=5)
    today = flat_config(run)
    earlier = {field: old for field, old in today.items() if field.split(".")[-1] not in LATER}
    assert len(earlier) == len(today) - len(LATER)
    assert require_same_run(earlier, today, "there") == {}
    renamed = flat_config(get_preset("small_64")) | {"preset": "rar_xs"}  # its name until then
    earlier_64 = {field: renamed[field] for field in earlier}
    assert require_same_run(earlier_64, flat_config(get_preset("small_64")), "there") == {}
    with pytest.raises(ValueError, match=rf"{name} = .* there, {value!r} here"):
        require_same_run(earlier, flat_config(override(run, {name: value})), "there")


def test_all_differences_are_named_and_some_are_allowed(tmp_path, capsys):
    run = get_preset("tiny", steps_per_epoch=5)
    save_run_config(run, tmp_path / "config.json")
    with pytest.raises(ValueError) as error:
        has_run(tmp_path, override(run, batch_size=16, seed=43, learning_rate=1e-3))
    assert "seed = 42 there, 43 here" in str(error.value)
    assert "train.batch_size = 32 there, 16 here" in str(error.value)
    assert "learning_rate" not in str(error.value)
    slower = override(run, learning_rate=1e-3, min_learning_rate=0.0, guidance_scale=3.0)
    assert has_run(tmp_path, slower)
    assert "train.learning_rate: 0.004 until now, 0.001 from here on" in capsys.readouterr().out
    go_on(tmp_path, run)  # nothing changes, so nothing is noted
    assert not (tmp_path / "changes.jsonl").exists()
    go_on(tmp_path, slower)
    row = json.loads((tmp_path / "changes.jsonl").read_text())
    assert row["step"] == 0 and row["changes"]["sample.guidance_scale"] == [2.0, 3.0]
    assert load_run_config(tmp_path / "config.json") == slower


def test_changes_are_noted_at_the_step_that_the_run_goes_on_from(tmp_path):
    """The newest checkpoint is damaged, so the run goes on from the one before it."""
    run = get_preset("tiny", steps_per_epoch=5)
    save_run_config(run, tmp_path / "config.json")
    for step in (10, 20):
        write_checkpoint(tmp_path / "checkpoints", step, {"w": torch.ones(3)}, {})
    (tmp_path / "checkpoints" / "step_000020.safetensors").write_bytes(b"x")
    go_on(tmp_path, override(run, learning_rate=1e-3))
    assert json.loads((tmp_path / "changes.jsonl").read_text())["step"] == 10


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.safetensors"])
def test_one_flipped_bit_in_a_finished_run_is_noticed(tmp_path, name):
    run = get_preset("tiny", steps_per_epoch=5)
    save_run_config(run, tmp_path / "config.json")
    save_tokenizer(make_tokenizer(run.tokenizer), tmp_path)
    save_weights(RAR(run.model), tmp_path / "model.safetensors")
    seal(tmp_path / "model.safetensors")
    open_run(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 4
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} has changed since it was written"):
        open_run(tmp_path)


def test_a_run_knows_what_it_learns_from(tmp_path):
    keep_identity(tmp_path, classes=["cat", "dog"], images="a" * 64, tokens=None)
    keep_identity(tmp_path, classes=["cat", "dog"], tokens="b" * 64)
    assert read_identity(tmp_path) == dict(classes=["cat", "dog"], images="a" * 64, tokens="b" * 64)
    with pytest.raises(ValueError, match="gone: dog; new: dogs; 2 then, 2 now"):
        keep_identity(tmp_path, classes=["cat", "dogs"])
    with pytest.raises(ValueError, match="tokens .hash bbbbbbbbbbbb… then, cccccccccccc"):
        keep_identity(tmp_path, tokens="c" * 64)
    (tmp_path / "identity.json").write_text('{"classes": 3}')
    with pytest.raises(ValueError, match="identity.json does not hold what it should .classes"):
        keep_identity(tmp_path, tokens="b" * 64)


@pytest.mark.parametrize("what", ["another tokenizer", "a flipped bit"])
def test_tokens_are_verified_before_a_run(tmp_path, what):
    run, tokenizer = get_preset("tiny", steps_per_epoch=5), GreyTokenizer()
    save_made_up_tokens(tmp_path / "made", 64)
    data, validation = open_tokens(tmp_path / "made")
    save_tokens(tmp_path / "tokens", run, tokenizer, data, validation)
    verify_tokens(tmp_path, *open_tokens(tmp_path / "tokens"))
    if what == "another tokenizer":
        keep = {"tokenizer": "f" * 64}
        write_json(read_identity(tmp_path) | keep, tmp_path / "identity.json")
        message = "has changed since it began: tokenizer"
    else:
        shard = tmp_path / "tokens" / "val" / "tokens-00000.npy"
        content = bytearray(shard.read_bytes())
        content[-2] ^= 1
        shard.write_bytes(content)
        message = "SHA-256"
    with pytest.raises(ValueError, match=message):
        verify_tokens(tmp_path, *open_tokens(tmp_path / "tokens"))


@pytest.mark.parametrize("what", ["tokenizer", "classes"])
def test_validation_tokens_are_of_the_same_kind(tmp_path, what):
    """All sizes are the same, so nothing else would notice."""
    save_made_up_tokens(tmp_path / "made", 64)
    for part, data in zip(("train", "val"), open_tokens(tmp_path / "made")):
        other = part == "val" and what == "tokenizer"
        data.save(tmp_path / part, 8, 10, "grey", ("b" if other else "a") * 64)
        names = [f"class {c}" for c in range(10)]
        if part == "val" and what == "classes":
            names[3:5] = names[4], names[3]
        write_json(dict(classes=names, images=64), tmp_path / part / "pretokenize.json")
    message = {
        "tokenizer": "tokenizer of .*val = 'bbbbbbbbbbbb' .*that of .*train, aaaaaaaaaaaa",
        "classes": "class 3 in .*val = 'class 4' .*'class 3', as in .*train",
    }[what]
    with pytest.raises(InvalidValue, match=message):
        open_tokens(tmp_path)


def test_a_run_knows_the_names_of_the_classes_of_its_tokens(tmp_path):
    save_made_up_tokens(tmp_path / "tokens", 64)
    names = [f"class {c}" for c in range(10)]
    write_json(dict(classes=names), tmp_path / "tokens" / "train" / "pretokenize.json")
    verify_tokens(tmp_path, *open_tokens(tmp_path / "tokens"))
    assert read_identity(tmp_path)["classes"] == names


def test_a_tokenizer_that_was_put_beside_a_generator(tmp_path):
    """rar-train makes a run without one, from tokens; nobody has sealed what is put there."""
    save_run_config(get_preset("tiny", kind="conv_vq"), tmp_path / "config.json")
    torch.manual_seed(0)
    own, other = (make_tokenizer(get_preset("tiny", kind="conv_vq").tokenizer) for _ in "ab")
    keep_identity(tmp_path, tokens="a" * 64, tokenizer=content_hash(own.state_dict()))
    with pytest.raises(InvalidValue, match="its tokenizer.safetensors; .*--tokenizer_from RUN"):
        open_tokenizer(tmp_path)
    save_weights(other, tmp_path / "tokenizer.safetensors")
    with pytest.raises(InvalidValue, match="of the tokenizer whose tokens the run has learned"):
        open_tokenizer(tmp_path)
    save_weights(own, tmp_path / "tokenizer.safetensors")
    assert open_tokenizer(tmp_path)[0].kind == "conv_vq"


def test_tokens_of_another_run_are_not_taken_for_this_ones(tmp_path):
    save_made_up_tokens(tmp_path, 64)
    run, data = get_preset("tiny"), open_tokens(tmp_path)[0]
    with pytest.raises(ValueError, match="images, crops and tokenizer of .*move that folder away"):
        save_tokens(tmp_path, run, GreyTokenizer(), data)
    for _ in range(2):  # the second time they are there
        assert save_tokens(tmp_path / "new", run, GreyTokenizer(), data) == tmp_path / "new"
    assert open_tokens(tmp_path / "new")[1] is None


def test_tokens_must_fit_the_generator(tmp_path):
    save_made_up_tokens(tmp_path)
    data = open_tokens(tmp_path)[0]
    assert resolve_tokens(get_preset("tiny", steps_per_epoch=5), data).train.total_steps == 20
    with pytest.raises(
        ValueError, match="codebook_size of the tokens = 8 is not allowed: it must be 128"
    ):
        check_tokens(get_preset("digits"), data)


def test_a_request_keeps_a_folder_to_one_content(tmp_path):
    def ask(**request):
        keep_request(tmp_path / "new" / "request.json", request, "images", "*.png")

    ask(seed=1, width=8)
    ask(seed=1, width=8, height=None)  # the same as if it were not there
    with pytest.raises(ValueError, match="width = None is not allowed: it must be 8, for which"):
        ask(seed=1)
    with pytest.raises(ValueError, match="seed = 2 is not allowed: it must be 1, for which"):
        ask(seed=2, width=8)
    with pytest.raises(ValueError, match="height = 8 is not allowed: it must be None"):
        ask(seed=1, width=8, height=8)
    (tmp_path / "new" / "request.json").unlink()
    (tmp_path / "new" / "0.png").touch()
    with pytest.raises(ValueError, match="one without images, or with their request.json"):
        ask(seed=1)


@pytest.mark.parametrize("ignored", [True, False])
def test_a_copy_in_another_repository_does_not_take_its_commit(tmp_path, monkeypatch, ignored):
    """A wheel in the environment of somebody's project, or a copy without its history."""
    command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / ".gitignore").write_text(".venv/\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*command, *words], check=True)
    copy = tmp_path / (".venv" if ignored else "copy")
    (copy / "rar_nb").mkdir(parents=True)
    (copy / "rar_nb" / "__init__.py").touch()
    monkeypatch.setattr(run_folders, "PROJECT", copy)
    monkeypatch.delenv("RAR_NB_COMMIT", raising=False)
    assert (git_commit(), commit()) == (("", False), "unknown")


def test_git_may_speak_another_language(tmp_path, monkeypatch):
    """Bytes that are no UTF-8, such as the name of a file."""
    (tmp_path / "git").write_text("#!/bin/sh\nprintf ' M f\\374r\\n'\n")
    (tmp_path / "git").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run_folders.git("status") == "M f\ufffdr"


def test_the_commit_is_gits(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    monkeypatch.setattr(run_folders, "PROJECT", tmp_path)
    monkeypatch.delenv("RAR_NB_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (git_commit(), commit()) == (("", False), "unknown"), "no repository"
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    assert git_commit() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("2")
    assert git_commit() == (git("rev-parse", "HEAD"), True)
    assert commit() == git("rev-parse", "HEAD") + "+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == ("", False), "no git"
    monkeypatch.setenv("RAR_NB_COMMIT", "0123abc+")
    assert (git_commit(), commit()) == (("0123abc", True), "0123abc+"), "a copy without history"
