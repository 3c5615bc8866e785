"""One training, whatever the devices: two gloo processes against one, interrupted runs, and what a command line may get wrong.

The runs start as a user starts them, through `accelerate launch`. accelerate shards on GPUs only, so for FSDP a small script makes it take
the two CPU processes for GPUs; all that follows is FSDP's own code."""
import json
import os
import subprocess
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from rar_nb.pretrained.checkpoints import load_weights
from rar_nb.support import PROJECT
from rar_nb.pretrained.presets import get_preset, load_run_config, override
from rar_nb.data.tokens import TokenData
from rar_nb.runs.devices import accumulation, find_device_batch_size, make_accelerator, prepare
from rar_nb.runs.run_folders import (
    check_trackers,
    curve,
    load_checkpoint,
    open_tokens,
    read_metrics,
    resolve_tokens,
)
from rar_nb.runs.launch import follow, launch_command
from rar_nb.trainer import validation_loss, make_batch
from rar_nb.runs.training import main, train_run
from rar_nb.transformer import RAR

CHANGES = {"epochs": 10, "checkpoint_every": 20, "min_learning_rate": 4e-3, "warmup_epochs": 0, "eval_every": 25}  # 50 steps that all count

PRETEND = """
import sys
from accelerate import DistributedType, PartialState
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
import rar_nb.trainer as trainer
save = trainer.save_checkpoint
def save_and_stop(*args, **about):
    save(*args, **about)
    if about["step"] == 40: sys.exit(0)
trainer.save_checkpoint = save_and_stop
trainer.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """400 made-up images, two crops each, whose ids depend on the class."""
    folder, generator = tmp_path_factory.mktemp("tokens"), torch.Generator().manual_seed(0)
    labels = torch.randint(10, (400,), generator=generator)
    ids = (labels[:, None, None] + torch.randint(3, (400, 2, 49), generator=generator)) % 8
    TokenData(ids[:320], labels[:320]).save(folder / "train", 8, 10)
    TokenData(ids[320:], labels[320:]).save(folder / "val", 8, 10)
    return folder


def command(tokens, folder, *more):
    return ["--run_dir", str(folder), "--tokens", str(tokens), "--preset", "tiny", "--changes", json.dumps(CHANGES), "--cpu", *more]


@pytest.fixture(scope="module")
def one(tokens, tmp_path_factory):
    """The run that all others must equal: one process, one turn."""
    folder = tmp_path_factory.mktemp("one") / "run"
    main(command(tokens, folder, "--device_batch_size", "32"))
    return folder


def same_curves(a, b, tolerance):
    a, b = read_metrics(a / "metrics.jsonl"), read_metrics(b / "metrics.jsonl")
    for name in ("loss", "raster_loss", "random_loss", "r", "learning_rate"):
        (steps, values), (others_steps, others) = curve(a, name), curve(b, name)
        assert steps == others_steps
        assert max(abs(x - y) for x, y in zip(values, others)) <= tolerance, name
    assert curve(a, "loss")[0] == list(range(1, 51))
    assert curve(a, "loss")[1][-1] < 1.5  # from ln 8 = 2.08


def same_names(folder):
    names = list(RAR(load_run_config(folder / "config.json").model).state_dict())
    for file in ("model", "before_annealing"):
        assert sorted(load_file(folder / f"{file}.safetensors")) == sorted(names)


def test_two_processes_equal_one(tokens, one, tmp_path):
    """DDP, two turns each: the losses of 50 steps to 1e-5. The command is the one that the train notebook gives."""
    run, folder, seen = load_run_config(one / "config.json"), tmp_path / "two", []
    folder.mkdir()
    (folder / "config.json").write_text((one / "config.json").read_text())
    rows = follow([*launch_command("rar_nb.trainer", 2, cpu=True, run_dir=folder, tokens=tokens), "--device_batch_size", "8"], folder, on_rows=lambda rows: seen.append(len(rows)), every=0.5, progress=False)
    assert "32 images a step = 2 × cpu × 8 images × 2 turns" in (folder / "train.log").read_text()
    assert rows == read_metrics(folder / "metrics.jsonl") and seen and seen == sorted(seen)
    same_curves(one, folder, 1e-5)
    same_names(folder)


def test_fsdp_equals_one_and_is_resumed_by_one(tokens, one, tmp_path):
    """Two processes share the weights of each block and stop after the checkpoint at step 40; one process alone goes on from it."""
    script, folder = tmp_path / "pretend.py", tmp_path / "run"
    script.write_text(PRETEND)
    launcher = launch_command("rar_nb.trainer", 2, run_dir=folder, tokens=tokens)
    launcher = launcher[: launcher.index("rar_nb.trainer") - 1]  # without its -m
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([*launcher, str(script), *command(tokens, folder, "--strategy", "fsdp", "--checkpointing")], capture_output=True, text=True, env=environment)
    assert (folder / "checkpoint.safetensors").exists(), done.stderr[-3000:]
    assert "FSDP" in done.stderr  # its warning about views
    assert not (folder / "model.safetensors").exists()
    main(command(tokens, folder, "--resume"))
    same_curves(one, folder, 1e-5)
    same_names(folder)
    assert not (folder / "checkpoint.safetensors").exists()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(0, 2**32 - 1))
def test_processes_share_one_batch(step, processes, seed):
    """Images, crops, orders and dropped labels are those of the whole batch, cut; and a process reads no row but its own."""
    data = TokenData(torch.arange(100)[:, None, None].expand(100, 3, 49) * 3 + torch.arange(3)[None, :, None], torch.arange(100) % 10)
    run = override(resolve_tokens(get_preset("tiny", seed=seed, epochs=10, class_dropout=0.5), index(data)), codebook_size=300)
    read, rows = [], data.rows
    data.rows = lambda indices, crops: (read.append(len(indices)), rows(indices, crops))[1]
    shares = [make_batch(data, run, step, rank, processes) for rank in range(processes)]
    for whole, *parts in zip(make_batch(data, run, step), *shares):
        assert torch.equal(torch.cat(parts), whole)
    assert read == [32 // processes] * processes + [32]


def index(data):
    data.index |= dict(codebook_size=8, num_classes=10)
    return data


def test_interrupted_equals_uninterrupted(tokens, one, tmp_path, monkeypatch):
    """Killed between two checkpoints, at a step that is no line of the metrics; to the last bit."""
    import rar_nb.trainer as trainer

    step_once = trainer.train_step

    def killed(accelerator, model, optimizer, run, data, step):
        if step == 33:
            raise KeyboardInterrupt
        return step_once(accelerator, model, optimizer, run, data, step)

    monkeypatch.setattr(trainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        main(command(tokens, tmp_path / "run", "--device_batch_size", "32"))
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 33
    monkeypatch.undo()
    with pytest.raises(ValueError, match="without checkpoint.safetensors; go on with --resume"):
        main(command(tokens, tmp_path / "run"))
    main(command(tokens, tmp_path / "run", "--device_batch_size", "32", "--resume"))
    same_curves(one, tmp_path / "run", 0)
    for file in ("model", "before_annealing"):
        assert (tmp_path / "run" / f"{file}.safetensors").read_bytes() == (one / f"{file}.safetensors").read_bytes()
    main(command(tokens, tmp_path / "run", "--resume"))  # finished: nothing happens
    same_curves(one, tmp_path / "run", 0)


def test_before_annealing(one, tokens):
    """The weights from when r leaves 1, at step 25: their held-out losses are those of the metrics."""
    run, held = load_run_config(one / "config.json"), open_tokens(tokens)[1]
    model = load_weights(RAR(run.model), one / "before_annealing.safetensors")
    for name, r in (("raster_loss", 0.0), ("random_loss", 1.0)):
        assert validation_loss(model, held, r) == dict(zip(*curve(read_metrics(one / "metrics.jsonl"), name)))[25]


@pytest.mark.parametrize("start, end", [(0, 0), (10, 10), (0, 5)], ids=["always raster", "always random", "at once"])
def test_no_weights_of_before_annealing_where_there_is_no_before(tokens, tmp_path, start, end):
    data, held = open_tokens(tokens)
    run = resolve_tokens(get_preset("tiny", epochs=10, steps_per_epoch=1, anneal_start=start, anneal_end=end), data)
    train_run(run, RAR(run.model), data, folder=tmp_path, progress=False, cpu=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "model.safetensors"]


def losses(data, **changes):
    run = resolve_tokens(get_preset("tiny", epochs=2, steps_per_epoch=5, **changes), data)
    torch.manual_seed(0)
    model = RAR(run.model)
    values = torch.tensor(curve(train_run(run, model, data, progress=False, cpu=True).rows, "loss")[1])
    assert list(model.state_dict()) == list(RAR(run.model).state_dict())
    return values


@pytest.mark.parametrize("how", [dict(device_batch_size=4), dict(checkpointing=True), dict(compile=True), dict(compile=True, checkpointing=True, device_batch_size=16)], ids=str)
def test_how_the_work_is_done_does_not_change_it(tokens, how, monkeypatch):
    """Compiled by torch's front end without its code generator, which takes a minute; one graph must serve all blocks."""
    data = open_tokens(tokens)[0]
    expected = losses(data, device_batch_size=32)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    assert torch.allclose(losses(data, **how), expected, rtol=0, atol=2e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == int("compile" in how)


def test_batch_is_found_before_the_run(tokens, capsys):
    """Training with a head that has room for 10 images: 32 and 16 are tried and fail, 8 passes, and the losses are the same."""
    data, room = open_tokens(tokens)[0], []

    def check(head, inputs):
        if len(inputs[0]) > 10:
            room.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    run = resolve_tokens(get_preset("tiny", epochs=1), data)
    torch.manual_seed(0)
    model = RAR(run.model)
    model.lm_head.register_forward_pre_hook(check)
    rows = train_run(run, model, data, cpu=True).rows
    assert room == [32, 16] and "32 images a step = 1 × cpu × 8 images × 4 turns" in capsys.readouterr().out
    torch.manual_seed(0)
    expected = curve(train_run(run, RAR(run.model), data, progress=False, cpu=True).rows, "loss")
    assert torch.allclose(torch.tensor(curve(rows, "loss")[1]), torch.tensor(expected[1]), rtol=0, atol=2e-6)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tokens):
    run = resolve_tokens(get_preset("tiny"), open_tokens(tokens)[0])
    model = RAR(run.model)
    model.lm_head.register_forward_pre_hook(lambda head, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find_device_batch_size(model, make_accelerator("no", cpu=True), 32)


def test_a_checkpoint_of_another_model_is_refused(tokens, one, tmp_path):
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=1), data)
    train_run(run, RAR(run.model), data, folder=tmp_path, max_minutes=0, progress=False, cpu=True)
    other = override(run, num_layers=3)
    accelerator, model = make_accelerator("no", cpu=True), RAR(other.model)
    prepared, optimizer, said = prepare(accelerator, model, other.train)
    with pytest.raises(ValueError, match="it must be the .* of this run's generator"):
        load_checkpoint(model, optimizer, tmp_path / "checkpoint.safetensors")
    (tmp_path / "checkpoint.safetensors").write_bytes((tmp_path / "checkpoint.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged or cut off"):
        load_checkpoint(model, optimizer, tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--preset", "rar_z"], "preset = 'rar_z' is not allowed"),
        (["--preset", "rar_b", "--changes", '{"batch_size": 32}'], "num_tokens of the tokens = 49 is not allowed: it must be 256"),
        (["--tokens", "/no/such/tokens"], "token folder = '/no/such/tokens' is not allowed"),
        (["--changes", '{"epoch": 3}'], "parameter = 'epoch' is not allowed"),
        (["--device_batch_size", "5"], "device_batch_size = 5 is not allowed: it must be a divisor of 32"),
        (["--strategy", "zero"], "strategy = 'zero' is not allowed: it must be 'ddp', 'fsdp' or 'auto'"),
        (["--trackers", "mlflow"], "trackers = 'mlflow' is not allowed: it must be names out of tensorboard, wandb, trackio"),
        (["--max_minutes", "-1"], "max_minutes = -1.0 is not allowed: it must be a number of at least 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[0],
)
def test_command_line_refuses(tokens, tmp_path, wrong, message):
    with pytest.raises(ValueError) as error:
        main([*command(tokens, tmp_path / "run"), *wrong])
    assert message in str(error.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_folder_keeps_its_run(tokens, one, tmp_path):
    with pytest.raises(ValueError, match="one with a config.json; or else give --preset"):
        main(["--run_dir", str(tmp_path / "none"), "--tokens", str(tokens)])
    with pytest.raises(ValueError, match="train.epochs = 3 is not allowed: it must be 10, as in the run"):
        main([*command(tokens, one), "--resume", "--changes", '{"epochs": 3}'])


def test_trackers_that_are_not_installed(monkeypatch):
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setattr(f"rar_nb.trainer.is_{name}_available", lambda: False)
        with pytest.raises(ValueError, match=f"run `pip install {name}`"):
            check_trackers([name])


def test_a_child_that_dies_tells_why(one, tmp_path):
    (tmp_path / "config.json").write_text((one / "config.json").read_text())
    with pytest.raises(RuntimeError, match="token folder = '/no/such/tokens' is not allowed"):
        follow(launch_command("rar_nb.trainer", 1, cpu=True, run_dir=tmp_path, tokens="/no/such/tokens"), tmp_path, progress=False)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_accumulation_reaches_the_batch_exactly_or_raises(processes, size, batch_size):
    if batch_size % (processes * size) == 0:
        assert accumulation(batch_size, processes, size) * processes * size == batch_size
    else:
        with pytest.raises(ValueError, match="is not allowed"):
            accumulation(batch_size, processes, size)
