"""One training, whatever the devices, whatever interrupts it, and what its program refuses.

The runs start as a user starts them, through `accelerate launch`. It shards on GPUs only, so
for FSDP a small script makes it take the two CPU processes for GPUs; the rest is FSDP's own code.
"""

import json
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

import rar_nb.runs.training as training
from rar_nb import trainer
from rar_nb.data.images import Digits, ImageData
from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.checkpoints import load_weights
from rar_nb.pretrained.presets import (
    get_preset,
    load_run_config,
    override,
    read_identity,
    save_run_config,
)
from rar_nb.runs.devices import make_accelerator
from rar_nb.runs.launch import follow, launch_command
from rar_nb.runs.run_folders import (
    curve,
    keep_identity,
    open_run,
    open_tokens,
    read_metrics,
    resolve_tokens,
    save_tokenizer,
)
from rar_nb.runs.safekeeping import (
    SIGNALS,
    check_finite,
    markers,
    newest_checkpoint,
    write_checkpoint,
)
from rar_nb.runs.training import shared_validation_loss, train_run, train_tokenizer_in
from rar_nb.sampler import image_noise, sample_tokens
from rar_nb.support import PROJECT, InvalidValue, Stopped, write_json
from rar_nb.tokenizer import TokenizerConfig, make_tokenizer
from rar_nb.trainer import train, validation_loss
from rar_nb.transformer import RAR
from tests.forks import held_elsewhere, program, python
from tests.tools.runs import rar_train, save_made_up_tokens

CHANGES = {
    "epochs": 10,
    "checkpoint_every": 20,
    "min_learning_rate": 4e-3,
    "warmup_epochs": 0,
    "eval_every": 25,
}  # 50 steps that all count

PRETEND = """
import sys
from accelerate import DistributedType, PartialState
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
import rar_nb.runs.training as training
save = training.save_checkpoint
def save_and_stop(*args):
    save(*args)
    if args[4] == 40:
        sys.exit(0)
training.save_checkpoint = save_and_stop
training.main()
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return save_made_up_tokens(tmp_path_factory.mktemp("tokens"), crops=2)


def command(tokens, folder, *more):
    changes = ["--preset", "tiny", "--changes", json.dumps(CHANGES)]
    return ["--run_dir", str(folder), "--tokens", str(tokens), *changes, "--cpu", *more]


@pytest.fixture(scope="module")
def one(tokens, tmp_path_factory):
    """The run that all others must equal: one process, one micro-step."""
    folder = tmp_path_factory.mktemp("one") / "run"
    rar_train(*command(tokens, folder, "--device_batch_size", "32"))
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


def test_one_process_equals_the_simple_loop(tokens, monkeypatch):
    """To the last bit, with the same kernel of AdamW: losses and weights of 50 steps, dropout."""
    monkeypatch.setattr(trainer, "make_optimizer", partial(trainer.make_optimizer, fused=True))
    data, validation = open_tokens(tokens)
    exact = dict(device_batch_size=32, quick_blocks=False)
    run = resolve_tokens(get_preset("tiny", epochs=10, dropout=0.1, **exact), data)
    torch.manual_seed(run.seed)
    simple = RAR(run.model)
    losses = train(simple, data, run.train, run.seed)
    torch.manual_seed(run.seed)
    model = RAR(run.model)
    rows = train_run(run, model, data, validation, progress=False, cpu=True).rows
    assert curve(rows, "loss") == (list(range(1, 51)), losses)
    weights = model.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in simple.state_dict().items())
    assert not model.training


def test_two_processes_equal_one(tokens, one, tmp_path):
    """DDP, two micro-steps each: the losses of 50 steps to 1e-5."""
    folder, seen = tmp_path / "two", []
    folder.mkdir()
    (folder / "config.json").write_text((one / "config.json").read_text())
    launcher = launch_command(
        "rar_nb.runs.training", 2, cpu=True, run_dir=folder, tokens=tokens, device_batch_size=8
    )
    rows = follow(launcher, folder, lambda rows: seen.append(len(rows)), every=0.5, progress=False)
    log = (folder / "train.log").read_text()
    assert "32 images a step = 2 × cpu × 8 images × 2 micro-steps" in log
    assert rows == read_metrics(folder / "metrics.jsonl") and seen and seen == sorted(seen)
    same_curves(one, folder, 1e-5)
    same_names(folder)


def test_fsdp_equals_one_and_is_resumed_by_one(tokens, one, tmp_path):
    """Two processes share each block's weights until a checkpoint; one alone goes on from it."""
    script, folder = tmp_path / "pretend.py", tmp_path / "run"
    script.write_text(PRETEND)
    launcher = launch_command("rar_nb.runs.training", 2, run_dir=folder, tokens=tokens)
    launcher = launcher[: launcher.index("rar_nb.runs.training") - 1]  # without its -m
    words = command(tokens, folder, "--strategy", "fsdp", "--checkpointing")
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [*launcher, str(script), *words], capture_output=True, text=True, env=environment
    )
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest is not None and newest.step == 40, done.stderr[-3000:]
    assert "FSDP" in done.stderr  # its warning about views
    assert not (folder / "model.safetensors").exists()
    rar_train(*command(tokens, folder, "--resume"))
    same_curves(one, folder, 1e-5)
    same_names(folder)
    assert not (folder / "checkpoints").exists()


def test_interrupted_equals_uninterrupted(tokens, one, tmp_path, monkeypatch):
    """Killed between two checkpoints, at a step that is no line of the metrics; to the last bit."""
    step_once, run = training.train_step, tmp_path / "run"

    def killed(accelerator, model, optimizer, run, data, step):
        if step == 33:
            raise KeyboardInterrupt
        return step_once(accelerator, model, optimizer, run, data, step)

    monkeypatch.setattr(training, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        rar_train(*command(tokens, run, "--device_batch_size", "32"))
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == 33
    monkeypatch.undo()
    with pytest.raises(ValueError, match="without step_000020.json; go on with --resume"):
        rar_train(*command(tokens, run))
    rar_train(*command(tokens, run, "--device_batch_size", "32", "--resume"))
    same_curves(one, run, 0)
    for file in ("model", "before_annealing"):
        mine, theirs = (place / f"{file}.safetensors" for place in (run, one))
        assert mine.read_bytes() == theirs.read_bytes()
    files = read_identity(run)["files"]
    write_json(dict(files={}), run / "identity.json")  # as if killed just before its last file
    (run / ".identity.json-0a_b1c2d.part").touch()
    rar_train(*command(tokens, run, "--resume"))  # finished: nothing more is trained
    same_curves(one, run, 0)
    name = "model.safetensors"
    assert read_identity(run)["files"] == {name: files[name]} and not list(run.rglob("*.part"))


def test_a_time_limit_stops_with_a_checkpoint(tokens, tmp_path):
    """At a line of the metrics, in order to go on; in vain without a folder to go on from."""
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=1, log_every=2), data)
    rows = train_run(run, RAR(run.model), data, folder=tmp_path, max_minutes=0, cpu=True).rows
    assert rows == [] and newest_checkpoint(tmp_path / "checkpoints").step == 0
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(ValueError, match="folder = None is not allowed: it must be given"):
        train_run(run, RAR(run.model), data, max_minutes=0, cpu=True)


def test_before_annealing(one, tokens):
    """The weights from when r leaves 1, at step 25: their losses are those of the metrics.

    Up to rounding, as the run computed them with quick blocks."""
    run, validation = load_run_config(one / "config.json"), open_tokens(tokens)[1]
    model = load_weights(RAR(run.model), one / "before_annealing.safetensors")
    rows = read_metrics(one / "metrics.jsonl")
    for name, r in (("raster_loss", 0.0), ("random_loss", 1.0)):
        logged = dict(zip(*curve(rows, name)))[25]
        logged = pytest.approx(logged, rel=1e-5)
        assert validation_loss(model, validation, r) == logged
        accelerator = make_accelerator("no", cpu=True)
        assert shared_validation_loss(accelerator, model, validation, r) == logged


@pytest.mark.parametrize(
    "start, end", [(0, 0), (10, 10), (0, 5)], ids=["always raster", "always random", "at once"]
)
def test_no_weights_of_before_annealing_where_there_is_no_before(tokens, tmp_path, start, end):
    data = open_tokens(tokens)[0]
    run = get_preset("tiny", epochs=10, steps_per_epoch=1, anneal_start=start, anneal_end=end)
    run = resolve_tokens(run, data)
    train_run(run, RAR(run.model), data, folder=tmp_path, progress=False, cpu=True)
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == [
        "identity.json",
        "metrics.jsonl",
        "model.safetensors",
    ]


def losses(data, **changes):
    run = resolve_tokens(get_preset("tiny", epochs=2, steps_per_epoch=5, **changes), data)
    torch.manual_seed(0)
    model = RAR(run.model)
    rows = train_run(run, model, data, progress=False, cpu=True).rows
    assert list(model.state_dict()) == list(RAR(run.model).state_dict())
    return torch.tensor(curve(rows, "loss")[1])


@pytest.mark.parametrize(
    "how",
    [
        dict(device_batch_size=4),
        dict(checkpointing=True),
        dict(compile=True),
        dict(compile=True, checkpointing=True, device_batch_size=16),
    ],
    ids=str,
)
def test_how_the_work_is_done_does_not_change_it(tokens, how, monkeypatch):
    """Compiled by torch's front end without its code generator; one graph must serve all blocks."""
    data = open_tokens(tokens)[0]
    expected = losses(data, device_batch_size=32)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    assert torch.allclose(losses(data, **how), expected, rtol=0, atol=2e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == int("compile" in how)


def test_batch_is_found_before_the_run(tokens, capsys):
    """A head with room for 10 images: 32 and 16 fail, 8 passes, and the losses are the same."""
    data, room = open_tokens(tokens)[0], []

    def check(head, inputs):
        if len(inputs[0]) > 10:
            room.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    run = resolve_tokens(get_preset("tiny", epochs=1), data)
    torch.manual_seed(0)
    model = RAR(run.model)
    model.lm_head.register_forward_pre_hook(check)
    found = curve(train_run(run, model, data, cpu=True).rows, "loss")[1]
    printed = capsys.readouterr().out
    assert room == [32, 16] and "32 images a step = 1 × cpu × 8 images × 4 micro-steps" in printed
    torch.manual_seed(0)
    rows = train_run(run, RAR(run.model), data, progress=False, cpu=True).rows
    expected = torch.tensor(curve(rows, "loss")[1])
    assert torch.allclose(torch.tensor(found), expected, rtol=0, atol=2e-6)


def poisoned(steps):
    """`train_step` whose gradients are not finite in some steps."""
    step_once = training.train_step

    def poison(accelerator, model, optimizer, run, data, step):
        if step not in steps:
            return step_once(accelerator, model, optimizer, run, data, step)
        handles = [p.register_hook(lambda g: g * float("nan")) for p in model.parameters()]
        try:
            return step_once(accelerator, model, optimizer, run, data, step)
        finally:
            for handle in handles:
                handle.remove()

    return poison


def test_a_step_with_gradients_that_are_not_finite_is_skipped(tokens, tmp_path, monkeypatch):
    """Its images are lost and nothing else; the last step counts, too, and resuming is exact."""
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=2, log_every=2, checkpoint_every=4), data)
    monkeypatch.setattr(training, "train_step", poisoned({2, 3, 6, 9}))

    def trained(**options):
        torch.manual_seed(0)
        model = RAR(run.model)
        rows = train_run(run, model, data, progress=False, cpu=True, **options).rows
        return model, rows

    model, rows = trained()
    assert [row.get("skipped") for row in rows] == [None, 2, 2, 3, 4]
    assert "loss" not in rows[1] and "loss" in rows[3]
    assert all(p.isfinite().all() for p in model.parameters())
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows

    def stop(step, model):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    run = override(run, eval_every=5)
    with pytest.raises(Stopped, match="stopped after 6 of 10 steps .SIGTERM.; everything is saved"):
        trained(folder=tmp_path, on_eval=stop)
    resumed, resumed_rows = trained(folder=tmp_path, resume=True)
    assert all(map(torch.equal, model.parameters(), resumed.parameters()))
    assert [row.get("skipped") for row in resumed_rows] == [None, 2, 2, 3, 4]


@pytest.mark.parametrize("changes", [dict(learning_rate=1e30, min_learning_rate=1e30), dict()])
def test_a_poisoned_model_is_never_saved(tokens, tmp_path, monkeypatch, changes):
    """Neither as a checkpoint nor as the result; and lowering the learning rate is possible."""
    data = open_tokens(tokens)[0]
    run = get_preset("tiny", epochs=4, checkpoint_every=1, warmup_epochs=0, **changes)
    run = resolve_tokens(run, data)
    if not changes:
        monkeypatch.setattr(training, "train_step", poisoned(range(5, 20)))
    model = RAR(run.model)
    with pytest.raises(InvalidValue, match="has not been for 10 steps, up to step 1.: lower lear"):
        train_run(run, model, data, folder=tmp_path, progress=False, cpu=True)
    assert not (tmp_path / "model.safetensors").exists()
    newest = newest_checkpoint(tmp_path / "checkpoints")
    if changes:
        assert newest is None  # the first step was wrong already
    else:
        assert newest.step == 5
        check_finite(newest.load())
        monkeypatch.undo()
    calmer = override(run, learning_rate=1e-3, min_learning_rate=0.0)
    rows = train_run(
        calmer, RAR(run.model), data, folder=tmp_path, resume=True, progress=False, cpu=True
    ).rows
    assert rows[-1]["step"] == 20 and rows[-1]["loss"] < 2.2


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_finishes_the_step_and_loses_nothing(tokens, one, tmp_path, monkeypatch, name):
    step_once, run = training.train_step, tmp_path / "run"

    def signalled(accelerator, model, optimizer, run, data, step):
        if step == 33:
            os.kill(os.getpid(), getattr(signal, name))
        return step_once(accelerator, model, optimizer, run, data, step)

    monkeypatch.setattr(training, "train_step", signalled)
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped, match=f"after 34 of 50 steps .{name}.*--resume"):
        rar_train(*command(tokens, run, "--device_batch_size", "32"))
    assert [signal.getsignal(number) for number in SIGNALS] == before
    steps = []

    def count(accelerator, model, optimizer, run, data, step):
        steps.append(step)
        return step_once(accelerator, model, optimizer, run, data, step)

    monkeypatch.setattr(training, "train_step", count)
    rar_train(*command(tokens, run, "--device_batch_size", "32", "--resume"))
    assert steps == list(range(34, 50))  # none is repeated
    same_curves(one, run, 0)
    assert (run / "model.safetensors").read_bytes() == (one / "model.safetensors").read_bytes()


def test_a_time_limit_ends_the_program_with_status_75(tokens, tmp_path):
    words = [*command(tokens, tmp_path / "run"), "--max_minutes", 0]
    done = program("rar_nb.runs.training", *words)
    assert done.returncode == 75 and "Traceback" not in done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("stopped after 0 of 50 steps")


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tokens, one, tmp_path, capsys):
    (data, validation), config = open_tokens(tokens), load_run_config(one / "config.json")
    run = override(config, device_batch_size=32, checkpoint_every=5)

    def trained(**options):
        torch.manual_seed(run.seed)
        model = RAR(run.model)
        train_run(run, model, data, validation, tmp_path, progress=False, cpu=True, **options)
        return model

    with pytest.raises(KeyboardInterrupt):
        trained(on_eval=interrupt_at(25))
    folder = tmp_path / "checkpoints"
    assert [path.stem for path in markers(folder)] == ["step_000025", "step_000020"]
    newest = folder / "step_000025.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    (folder / ".step_000030.safetensors-0a_b1c2d.part").touch()  # left by a process that was killed
    model = trained(resume=True)
    assert not list(tmp_path.rglob("*.part"))
    assert "step_000025 is damaged and skipped" in capsys.readouterr().out
    expected = load_weights(RAR(run.model), one / "model.safetensors")
    assert all(map(torch.equal, model.parameters(), expected.parameters()))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("no room"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_memory_is_one_message(tokens, tmp_path, error):
    data = open_tokens(tokens)[0]
    run = get_preset("tiny", epochs=2, eval_every=5, checkpoint_every=4, device_batch_size=32)
    run = resolve_tokens(run, data)

    def fail(step, model):
        if step == 5:
            raise error

    with pytest.raises(InvalidValue, match="memory is full .*lower device_batch_size.*is intact"):
        train_run(run, RAR(run.model), data, folder=tmp_path, on_eval=fail, cpu=True)
    assert newest_checkpoint(tmp_path / "checkpoints").step == 4


def test_a_damaged_checkpoint_is_not_said_to_be_the_last_one(tmp_path):
    """The run went on from step 10, before the damaged one, and its gradients then failed."""
    for step in (10, 20):
        write_checkpoint(tmp_path, step, {"w": torch.ones(3)}, {})
    assert "everything is saved" in training.how_to_go_on(tmp_path, 20, 50, "SIGTERM")
    (tmp_path / "step_000020.safetensors").write_bytes(b"x")
    said = training.how_to_go_on(tmp_path, 15, 50, "SIGTERM")
    assert "the checkpoint of step 10 is the last one" in said


def interrupt_at(when):
    def on_eval(step, model):
        if step == when:
            raise KeyboardInterrupt

    return on_eval


@pytest.mark.parametrize("what", ["seed", "tokens", "model"])
def test_train_run_does_not_go_on_as_another_run(tokens, tmp_path, what):
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=1), data)
    train_run(run, RAR(run.model), data, folder=tmp_path, max_minutes=0, progress=False, cpu=True)
    message = "began with other tokens than these"
    if what == "tokens":
        ids, labels = data.tokens, data.labels
        ids[0, 0, 0] = 7 - ids[0, 0, 0]
        data = TokenData(ids, labels)
    else:
        run = override(run, seed=43) if what == "seed" else override(run, num_layers=3)
        message = "seed = 42 there, 43 here" if what == "seed" else "num_layers = 2 there, 3 here"
    with pytest.raises(InvalidValue, match=message):
        train_run(run, RAR(run.model), data, folder=tmp_path, resume=True, cpu=True)


def test_a_finished_run_is_not_trained_once_more(tokens, tmp_path, monkeypatch):
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=1), data)
    first = RAR(run.model)
    rows = train_run(run, first, data, folder=tmp_path, progress=False, cpu=True).rows
    monkeypatch.setattr(training, "train_step", None)
    again = RAR(run.model)
    assert train_run(run, again, data, folder=tmp_path, resume=True, cpu=True).rows == rows
    assert all(map(torch.equal, first.parameters(), again.parameters()))


def test_a_run_does_not_start_from_the_ids_of_another_tokenizer(tokens, one, tmp_path):
    shutil.copytree(one, tmp_path / "source")
    keep_identity(tmp_path / "source", tokenizer="a" * 64)
    begin = [*command(tokens, tmp_path / "run"), "--max_minutes", "0"]
    start = dict(init_from=str(tmp_path / "source"))
    begin[begin.index("--changes") + 1] = json.dumps(CHANGES | start)
    with pytest.raises(Stopped):  # made-up tokens name no tokenizer, so nothing is known
        rar_train(*begin)
    keep_identity(tmp_path / "run", tokenizer="b" * 64)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(InvalidValue, match="ids of another tokenizer.*give tokenizer_from = "):
        rar_train(*begin, "--resume")


@pytest.mark.parametrize("how", ["interrupted", "finished"])
def test_train_run_does_not_mix_two_runs(tokens, tmp_path, how):
    """Nothing of the earlier run is changed, and with `resume` it goes on."""
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=2, checkpoint_every=4, eval_every=5), data)
    stop = interrupt_at(5 if how == "interrupted" else None)
    go = partial(train_run, data=data, folder=tmp_path, progress=False, cpu=True)
    with pytest.raises(KeyboardInterrupt) if how == "interrupted" else nullcontext():
        go(run, RAR(run.model), on_eval=stop)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    there = "step_000004.json" if how == "interrupted" else "model.safetensors"
    for other in (run, override(run, seed=7)):
        with pytest.raises(InvalidValue, match=f"without {there}; go on .*resume=True.*another fo"):
            go(other, RAR(run.model))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert go(run, RAR(run.model), resume=True).rows[-1]["step"] == run.train.total_steps


def test_a_run_that_ends_while_another_waits_for_it(tokens, tmp_path, monkeypatch):
    """Its result is taken or refused, and never trained once more from the start."""
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=1), data)
    go = partial(train_run, data=data, progress=False, cpu=True)
    first = RAR(run.model)
    rows = go(run, first, folder=tmp_path / "first").rows

    @contextmanager
    def ends(folder, *_, **__):
        shutil.copytree(tmp_path / "first", folder)
        yield

    monkeypatch.setattr(training, "hold", ends)
    again = RAR(run.model)
    assert go(run, again, folder=tmp_path / "resumed", resume=True).rows == rows
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    with pytest.raises(InvalidValue, match="one without model.safetensors"):
        go(run, again, folder=tmp_path / "new")


def test_a_tokenizer_that_was_saved_after_its_last_step(tmp_path):
    """Called once more, all of it is there: its losses, its weights, and it is ready for use."""
    data = ImageData(Digits())
    config = TokenizerConfig(codebook_size=16, width=8, vq_steps=4, vq_batch_size=4)
    whole, again = make_tokenizer(config), make_tokenizer(config)
    expected = train_tokenizer_in(tmp_path, whole, data, progress=False, every=0)
    assert newest_checkpoint(tmp_path / "tokenizer_checkpoints").step == 4
    assert train_tokenizer_in(tmp_path, again, data, progress=False, every=0) == expected
    assert len(expected) == 4 and not again.training
    assert all(map(torch.equal, whole.state_dict().values(), again.state_dict().values()))
    other = make_tokenizer(replace(config, vq_steps=5))
    with pytest.raises(InvalidValue, match="belongs to another tokenizer"):
        train_tokenizer_in(tmp_path, other, data, progress=False)


def test_a_tokenizer_obeys_its_time_limit(tmp_path):
    """Stopped after each step, and resumed each time, it is the one that was trained at once."""
    data = ImageData(Digits())
    config = TokenizerConfig(codebook_size=16, width=8, vq_steps=4, vq_batch_size=4)
    torch.manual_seed(0)
    whole = make_tokenizer(config)
    pieces = make_tokenizer(config)
    pieces.load_state_dict(whole.state_dict())
    expected = train_tokenizer_in(tmp_path / "a", whole, data, progress=False)
    train = partial(train_tokenizer_in, tmp_path / "b", pieces, data, progress=False)
    for done in (1, 2, 3):
        message = rf"stopped after {done} of 4 steps \(the time is up\); everything is saved in .*"
        with pytest.raises(Stopped, match=message + "with resume"):
            train(max_minutes=0)
        assert newest_checkpoint(tmp_path / "b" / "tokenizer_checkpoints").step == done
    assert train(max_minutes=0) == expected  # there is nothing to stop after the last step
    assert all(map(torch.equal, whole.state_dict().values(), pieces.state_dict().values()))
    with pytest.raises(InvalidValue, match="max_minutes = -1.0 .* a number of at least 0"):
        train(max_minutes=-1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"device_batch_size": 5}, "device_batch_size = 5 .*must be a divisor of 32"),
        ({"init_from": "/no/such/run"}, "source = '/no/such/run' .*an existing file or folder"),
        ({"init_from": "ONE", "num_layers": 3}, "num_layers = 3 .*must be 2, as in .*saf"),
        ({"init_from": "OTHER"}, "ids of another tokenizer.*give tokenizer_from = "),
    ],
    ids=str,
)
def test_a_mistake_leaves_no_trace(tokens, one, tmp_path, changes, message):
    """So the corrected command begins the run in the same folder."""
    shutil.copytree(one, tmp_path / "other")
    keep_identity(tmp_path / "other", tokenizer="a" * 64)
    for part in ("train", "val"):
        data = TokenData.open(tokens / part)
        data.save(tmp_path / "tokens" / part, 8, 10, "conv_vq", "b" * 64)
    places = dict(ONE=str(one), OTHER=str(tmp_path / "other"))
    wrong = {name: places.get(value, value) for name, value in changes.items()}
    words = [*command(tmp_path / "tokens", tmp_path / "run"), "--max_minutes", "0"]
    with pytest.raises(InvalidValue, match=message):
        rar_train(*words, "--changes", json.dumps(CHANGES | wrong))
    assert not (tmp_path / "run").exists()
    with pytest.raises(Stopped):
        rar_train(*words)


def test_the_tokenizer_comes_with_the_tokens(tmp_path, capsys):
    """A run from tokens alone can't be sampled; its tokenizer may come later, too."""
    made, other = (tmp_path / name for name in ("made", "other"))
    for seed, folder in enumerate((made, other)):
        torch.manual_seed(seed)
        run = get_preset("tiny", kind="conv_vq", width=8, image_size=28)
        save_run_config(run, folder / "config.json")
        save_tokenizer(make_tokenizer(run.tokenizer), folder)
    save_made_up_tokens(tmp_path / "first", 64)
    for part in ("train", "val"):
        data = TokenData.open(tmp_path / "first" / part)
        data.save(tmp_path / "t" / part, 8, 10, "conv_vq", read_identity(made)["tokenizer"])
    begin = ["--run_dir", str(tmp_path / "run"), "--tokens", str(tmp_path / "t"), "--cpu"]
    begin += ["--preset", "tiny", "--changes", '{"epochs": 1}']
    with pytest.raises(InvalidValue, match="tokenizer_from = .*the tokenizer that made these"):
        rar_train(*begin, "--tokenizer_from", str(other))
    assert not (tmp_path / "run").exists()
    rar_train(*begin, "--tokenizer_from", str(made))
    assert load_run_config(tmp_path / "run" / "config.json").tokenizer.width == 8
    assert open_run(tmp_path / "run")[1].codebook_size == 8
    assert (tmp_path / "run" / "samples" / "step_000000.png").is_file()
    begin[1] = str(tmp_path / "bare")
    rar_train(*begin)
    assert "gets no tokenizer" in capsys.readouterr().out
    rar_train(*begin[:5], "--resume", "--tokenizer_from", str(made))
    assert open_run(tmp_path / "bare")[1].codebook_size == 8


def launched(module, **options):
    """Status and output of two processes, as `accelerate launch` starts them."""
    words = launch_command(f"rar_nb.runs.{module}", 2, cpu=True, **options)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in ("held", "images", "preset")]


@pytest.mark.parametrize("case", ["shares", *SLOW])
def test_several_processes_say_once_what_is_wrong(tokens, tmp_path, case):
    """Whether all of them find it or the first one alone. The one traceback is the launcher's."""
    run = dict(run_dir=tmp_path / "run", tokens=tokens, preset="tiny")
    module, options, message = {
        "shares": ("training", run | dict(changes='{"batch_size": 33}'), "batch_size = 33 is not "),
        "held": ("training", run, f"{tmp_path / 'run'} is in use by process "),
        "images": ("pretokenizer", dict(data="nothing", out=tmp_path / "t"), "data = 'nothing' is"),
        "preset": ("sample", dict(folder=tmp_path / "s", preset="rar_z"), "preset = 'rar_z' is "),
    }[case]
    with held_elsewhere(tmp_path / "run") if case == "held" else nullcontext():
        status, output = launched(module, **options)
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert status != 0 and len(said) == 1 and said[0].startswith(f"error: {message}"), output
    assert output.count("Traceback") <= 1 and "rar_nb/support.py" not in output, output
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_caller_may_sample_meanwhile(tokens):
    """The model is in eval mode then, and in training mode at the next step."""
    data, validation = open_tokens(tokens)
    run, steps = resolve_tokens(get_preset("tiny", epochs=1, dropout=0.1, eval_every=3), data), []

    def on_eval(step, model):
        steps.append(step)
        noise = image_noise(0, range(2), run.model.num_tokens)
        assert sample_tokens(model, [0, 1], run.sample, noise).shape == noise.shape

    train_run(run, RAR(run.model), data, validation, on_eval=on_eval, progress=False, cpu=True)
    assert len(steps) > 2 and steps[0] == 0


def test_a_second_job_is_kept_out(tokens, tmp_path):
    with held_elsewhere(tmp_path / "run") as number:
        with pytest.raises(InvalidValue, match=f"is in use by process {number} on"):
            rar_train(*command(tokens, tmp_path / "run"))
        assert not (tmp_path / "run" / "config.json").exists()
    rar_train(*command(tokens, tmp_path / "run", "--max_minutes", "60"))


def test_the_split_of_the_batch_is_kept(tokens, tmp_path, capsys):
    """With dropout it decides about the masks; the notice comes if it can't be kept."""
    data = open_tokens(tokens)[0]
    run = resolve_tokens(get_preset("tiny", epochs=1, dropout=0.1, device_batch_size=8), data)
    train_run(run, RAR(run.model), data, folder=tmp_path, max_minutes=0, cpu=True)
    free = override(run, {"device_batch_size": None})
    model, whole = RAR(run.model), RAR(run.model)
    train_run(free, model, data, folder=tmp_path, resume=True, cpu=True)
    printed = capsys.readouterr().out
    assert printed.count("× 8 images × 4 micro-steps") == 2 and "dropout" not in printed
    other = tmp_path / "other"
    train_run(run, whole, data, folder=other, max_minutes=0, cpu=True)
    train_run(override(run, device_batch_size=16), whole, data, folder=other, resume=True, cpu=True)
    assert "dropout masks depend on how a batch is split" in capsys.readouterr().out


WRONG = [
    (["--preset", "rar_z"], "preset = 'rar_z' is not allowed"),
    (
        ["--preset", "rar_b", "--changes", '{"batch_size": 32}'],
        "num_tokens of the tokens = 49 is not allowed: it must be 256",
    ),
    (["--tokens", "/no/such/tokens"], "token folder = '/no/such/tokens' is not allowed"),
    (["--changes", '{"epoch": 3}'], "parameter = 'epoch' is not allowed"),
    (["--changes", "epochs=3"], "changes = 'epochs=3' is not allowed: it must be fields by name"),
    (["--changes", "[3]"], "changes = '[3]' is not allowed: it must be fields by name as JSON"),
    (
        ["--device_batch_size", "5"],
        "device_batch_size = 5 is not allowed: it must be a divisor of 32",
    ),
    (
        ["--strategy", "zero"],
        "strategy = 'zero' is not allowed: it must be 'ddp', 'fsdp' or 'auto'",
    ),
    (["--trackers", "mlflow"], "it must be names out of tensorboard, wandb, trackio"),
    (
        ["--max_minutes", "-1"],
        "max_minutes = -1.0 is not allowed: it must be a number of at least 0",
    ),
]


@pytest.mark.parametrize(
    "wrong, message", WRONG, ids=lambda v: None if isinstance(v, str) else v[-1]
)
def test_command_line_refuses(tokens, tmp_path, wrong, message):
    with pytest.raises(ValueError) as error:
        rar_train(*command(tokens, tmp_path / "run"), *wrong)
    assert message in str(error.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("final_order", ["spiral_in", "random"])
def test_a_final_order_in_changes(tokens, tmp_path, final_order):
    """From the command line to config.json; metrics are those of the simple loop in that order."""
    changes = dict(epochs=2, log_every=1, eval_every=10, final_order=final_order)
    rar_train("--run_dir", tmp_path / "run", "--tokens", tokens, "--preset", "tiny", "--cpu",
              "--changes", json.dumps(changes))  # fmt: skip
    run = load_run_config(tmp_path / "run" / "config.json")
    assert run.model.final_order == final_order
    data, validation = open_tokens(tokens)
    torch.manual_seed(run.seed)
    simple = RAR(run.model)
    losses = train(simple, data, run.train, run.seed)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert curve(rows, "loss")[1] == pytest.approx(losses, abs=1e-4)
    measured = curve(rows, "raster_loss")[1][-1]  # the column has this name in every run
    assert measured == pytest.approx(validation_loss(simple, validation, r=0.0), abs=1e-4)
    assert (curve(rows, "random_loss")[1][-1] == measured) == (final_order == "random")
    assert curve(rows, "r")[1][-1] == (final_order == "random")  # what was really trained
    other = ["--changes", json.dumps(changes | {"final_order": "z_curve"})]
    with pytest.raises(ValueError, match=f"model.final_order = '{final_order}' there, 'z_curve'"):
        rar_train("--run_dir", tmp_path / "run", "--tokens", tokens, "--preset", "tiny", "--cpu",
                  "--resume", *other)  # fmt: skip


@pytest.mark.parametrize("change", ["target_aware", "adaln"])
def test_weights_of_another_kind_are_refused_before_a_step(tokens, one, tmp_path, change):
    """A run may start from another one's weights, and in another order, but all must fit."""
    begun = ["--run_dir", tmp_path / "run", "--tokens", tokens, "--preset", "tiny", "--cpu"]
    changes = dict(init_from=str(one), epochs=0.4)
    with pytest.raises(ValueError, match=f"{change} = False .*must be True, as in .*safetensors"):
        rar_train(*begun, "--changes", json.dumps(changes | {change: False}))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    rar_train(*begun[:1], tmp_path / "spiral", *begun[2:],
              "--changes", json.dumps(changes | {"final_order": "spiral_in"}))  # fmt: skip
    assert (tmp_path / "spiral" / "model.safetensors").exists()


def test_a_folder_keeps_its_run(tokens, one, tmp_path):
    with pytest.raises(ValueError, match="a config.json; to begin a new run there, give --preset"):
        rar_train("--run_dir", tmp_path / "none", "--tokens", tokens)
    with pytest.raises(ValueError, match="train.epochs = 10.0 there, 3.0 here"):
        rar_train(*command(tokens, one), "--resume", "--changes", '{"epochs": 3}')


def test_a_damaged_config_is_invalid_input(tokens, tmp_path):
    """So the program ends with one line, and status 2."""
    (tmp_path / "config.json").write_text('{"preset": ')
    with pytest.raises(InvalidValue, match="config.json does not hold what it should"):
        rar_train("--run_dir", tmp_path, "--tokens", tokens)


@pytest.mark.parametrize(
    "words, last_line",
    [
        ("--run_dir run --tokens /no/such", "error: token folder = '/no/such' is not allowed"),
        ("--run_dir run", "training.py: error: the following arguments are required: --tokens"),
        (
            "--run_dir run --tokens t --max_minutes soon",
            "training.py: error: argument --max_minutes",
        ),
    ],
)
def test_the_program_ends_with_one_line(tmp_path, words, last_line):
    """The first of these as a user starts it."""
    run = python if "/no/such" in words else program
    done = run("rar_nb.runs.training", *words.split(), folder=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(last_line)


def test_the_program_has_a_help(capsys):
    with pytest.raises(SystemExit) as end:
        rar_train("--help")
    printed = capsys.readouterr().out
    assert end.value.code == 0
    options = [
        "run_dir",
        "tokens",
        "preset",
        "changes",
        "resume",
        "max_minutes",
        "cpu",
        "device_batch_size",
        "checkpoint_every",
        "strategy",
        "trackers",
        "compile",
        "no-compile",
        "checkpointing",
        "no-checkpointing",
    ]
    assert all(f"--{option}" in printed for option in options)


def test_console_scripts_name_what_exists():
    import importlib
    from configparser import ConfigParser

    settings = ConfigParser(interpolation=None)
    settings.read(PROJECT / "settings.ini", encoding="utf-8")
    scripts = settings["DEFAULT"]["console_scripts"].split()
    assert [script.split("=")[0] for script in scripts] == [
        "rar-train",
        "rar-pretokenize",
        "rar-sample",
    ]
    for script in scripts:
        module, function = script.split("=")[1].split(":")
        assert callable(getattr(importlib.import_module(module), function))
