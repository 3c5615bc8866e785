"""How a batch is shared, and what happens when it does not fit."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.cuda._utils import _get_device_index

from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.presets import DeviceConfig, get_preset, override
from rar_nb.runs import devices, image_sets, pretokenizer
from rar_nb.runs.devices import (
    PARENT,
    Batches,
    Team,
    accumulation,
    count_threads,
    end_with_parent,
    find_device_batch_size,
    free_cores,
    free_threads,
    halvings,
    is_sharded,
    make_accelerator,
    prepare,
    train_step,
    uncompiled,
    update,
    working_blocks,
)
from rar_nb.runs.pretokenizer import PretokenizeConfig
from rar_nb.support import PROJECT
from rar_nb.trainer import learning_rate_at, make_batch
from rar_nb.transformer import RAR, rar_loss
from tests.doors import refuses
from tests.forks import CONTEXT, fork

RUN = get_preset("tiny", steps_per_epoch=5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_accumulation_reaches_the_batch_exactly_or_raises(processes, size, batch_size):
    if batch_size % (processes * size) == 0:
        assert accumulation(batch_size, processes, size) * processes * size == batch_size
    else:
        with pytest.raises(ValueError, match="is not allowed"):
            accumulation(batch_size, processes, size)


def test_accumulation_names_what_does_not_fit():
    with pytest.raises(
        ValueError, match="batch_size = 2048 .* a multiple of the number of devices, 6"
    ):
        accumulation(2048, 6, 128)
    with pytest.raises(ValueError, match="device_batch_size = 96 .* a divisor of 256"):
        accumulation(2048, 8, 96)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(0, 2**32 - 1))
def test_processes_share_one_batch(step, processes, seed):
    """Everything is cut from the whole batch, and a process reads no row but its own."""
    ids = torch.arange(100)[:, None, None].expand(100, 3, 49) * 3 + torch.arange(3)[None, :, None]
    data, read = TokenData(ids, torch.arange(100) % 10), []
    run = get_preset("tiny", class_dropout=0.5, codebook_size=300)
    rows = data.rows

    def counted(indices, crops):
        read.append(len(indices))
        return rows(indices, crops)

    data.rows = counted
    arguments = data, run.model, run.train, seed, step
    shares = [make_batch(*arguments, rank, processes) for rank in range(processes)]
    for whole, *parts in zip(make_batch(*arguments), *shares):
        assert torch.equal(torch.cat(parts), whole)
    assert read == [32 // processes] * processes + [32]


def test_precision_and_sharing_on_one_process():
    assert make_accelerator("bf16", cpu=True).mixed_precision == "bf16"
    alone = make_accelerator("no", cpu=True, sharded=True)  # nobody to share with
    assert alone.mixed_precision == "no" and alone.distributed_type == "NO"
    assert [is_sharded(DeviceConfig(strategy=s), 10) for s in ("ddp", "fsdp", "auto")] == [
        False,
        True,
        False,
    ]
    assert is_sharded(DeviceConfig(), 955_000_000)


# Fast blocks


def made_up_data(images=320):
    generator = torch.Generator().manual_seed(0)
    length = RUN.model.num_tokens
    tokens = torch.randint(RUN.model.codebook_size, (images, 1, length), generator=generator)
    return TokenData(tokens, torch.arange(images) % RUN.model.num_classes)


def grown_model(dropout=0.0, **changes):
    """A model whose adaLN does something, as after some training."""
    torch.manual_seed(0)
    model = RAR(override(RUN, dropout=dropout, **changes).model)
    for name, p in model.named_parameters():
        if "adaLN" in name or "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(p, mean=float("norm.weight" in name), std=0.2)
    return model


def made_up_batch(images):
    data, run = made_up_data(), override(RUN, batch_size=images)
    return make_batch(data, run.model, run.train, run.seed, step=0)


PLAIN = dict(adaln=False, target_aware=False)  # an ordinary ViT


def test_without_a_compiler_blocks_run_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch, "compile", None)
    model = grown_model()
    with working_blocks(model, DeviceConfig(compile=True)):
        assert not any("forward" in vars(block) for block in model.blocks)
    assert "needs a C++ compiler (g++ or clang++), and there is none" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["adaln", "plain"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_one_compilation_serves_all_blocks_and_steps(monkeypatch, precision, changes):
    """By torch's front end; after the first step, compiling anything more is an error."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    run = override(RUN, compile=True, device_batch_size=32, precision=precision, **changes)
    accelerator, model = make_accelerator(precision, cpu=True), grown_model(**changes)
    with working_blocks(model, run.devices, accelerator):
        prepared, optimizer, _ = prepare(accelerator, model, run)
        prepared.train()
        batches = Batches(accelerator, run, made_up_data())
        for step in range(4):
            with torch._dynamo.config.patch(error_on_recompile=step > 0):
                train_step(accelerator, prepared, optimizer, run, batches, step)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


# Threads


def test_threads_that_share_a_micro_step(set_threads):
    one, run = make_accelerator("no", cpu=True), RUN
    set_threads(4)
    assert count_threads(one, run, 10**6, 64) == 4
    assert count_threads(one, run, 10**6, 24) == 3  # at least 8 images each
    assert count_threads(one, run, 10**6, 20) == 2
    assert count_threads(one, run, 10**6, 31) == count_threads(one, run, 10**6, 8) == 1
    assert count_threads(one, run, 10**8, 64) == 1  # a second copy of all gradients
    for changes in (dict(dropout=0.1), dict(compile=True), dict(checkpointing=True)):
        assert count_threads(one, override(run, **changes), 10**6, 64) == 1


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["adaln", "plain"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_team_learns_what_one_model_learns(precision, changes):
    """The same gradients up to rounding, the same bits each time, and no further parameters."""
    data, run = made_up_data(), override(RUN, device_batch_size=16, **changes)

    def trained(threads):
        accelerator, model = make_accelerator(precision, cpu=True), grown_model(**changes)
        with working_blocks(model, run.devices, accelerator):
            prepared, optimizer, _ = prepare(accelerator, model, run)
            assert accelerator.gradient_accumulation_steps == 2
            if threads > 1:
                alone = prepared.model if isinstance(prepared, Team) else prepared
                prepared = Team(alone, accelerator, threads)
            assert list(map(id, prepared.parameters())) == list(map(id, model.parameters()))
            prepared.train()
            batches = Batches(accelerator, run, data)
            losses = [train_step(accelerator, prepared, optimizer, run, batches, step)[0]
                      for step in range(5)]  # fmt: skip
        if threads > 1:
            (other,) = prepared.twins
            for p, q in zip(model.parameters(), other.parameters()):
                assert p.data_ptr() == q.data_ptr() and p is not q
            assert other.training and not prepared.eval().twins[0].training
        return torch.stack(losses), torch.cat([p.detach().flatten() for p in model.parameters()])

    one, two, again = trained(1), trained(2), trained(2)
    assert torch.equal(two[0], again[0]) and torch.equal(two[1], again[1])
    assert torch.allclose(one[0], two[0], rtol=0, atol=1e-5 if precision == "no" else 5e-3)


def test_threads_of_a_team_compute_alone_and_others_as_before(set_threads):
    """On a machine with one core, too, where torch would use one thread in any case."""
    accelerator = make_accelerator("no", cpu=True)
    set_threads(3)
    team = Team(accelerator.prepare(grown_model()), accelerator, 2)
    inside = [team.pool.submit(torch.get_num_threads) for _ in range(2)]
    assert [job.result() for job in inside] == [1, 1]
    assert torch.get_num_threads() == 3


def test_threads_share_as_few_classes_as_they_can():
    """Every image is computed once, with its own class and order."""
    accelerator, taken = make_accelerator("no", cpu=True), {}
    team = Team(accelerator.prepare(grown_model()), accelerator, 3)
    compute = team.part

    def part(model, tokens, condition, orders):
        taken[id(model)] = tokens, condition, orders
        return compute(model, tokens, condition, orders)

    team.part = part
    batch = made_up_batch(24)
    team.backward(*batch)
    parts = [taken[id(model)] for model in (team.model, *team.twins)]
    classes = [set(condition.tolist()) for _, condition, _ in parts]
    assert sum(map(len, classes)) <= len(set.union(*classes)) + len(parts) - 1
    given, dealt = (
        sorted(row for t, c, o in some for row in torch.cat([t, c[:, None], o], 1).tolist())
        for some in ([batch], parts)
    )
    assert dealt == given


def test_an_error_in_a_thread_reaches_the_caller():
    accelerator, model = make_accelerator("no", cpu=True), grown_model()
    team = Team(accelerator.prepare(model), accelerator, 2)
    tokens, condition, orders = made_up_batch(8)
    with pytest.raises(ValueError, match="shape of tokens"):
        team.backward(tokens[:, :7], condition, orders)


# Batches


def test_the_thread_that_makes_batches_takes_the_gpu_of_the_process(monkeypatch):
    """accelerate calls a single GPU 'cuda', without a number, which torch does not take here."""
    taken = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: taken.append(_get_device_index(device))
    )
    accelerator = SimpleNamespace(device=torch.device("cuda"))
    batches = Batches(accelerator, get_preset("tiny"), None)
    assert batches.pool.submit(int).result() == 0
    assert taken == [0]


def test_the_next_batch_is_made_while_one_is_used():
    data, run, one = made_up_data(), override(RUN, epochs=1), make_accelerator("no", cpu=True)
    read, rows = [], data.rows

    def counted(indices, crops):
        read.append(len(indices))
        return rows(indices, crops)

    data.rows = counted
    batches, steps = Batches(one, run, data), run.train.total_steps
    for step in (0, 1, 3, steps - 1):  # 3 comes unexpectedly
        expected = make_batch(data, run.model, run.train, run.seed, step)
        assert all(map(torch.equal, batches.at(step), expected))
        if step < steps - 1:
            batches.ahead[1].result()
            assert batches.ahead[0] == step + 1
    assert batches.ahead[0] == steps - 1, "there is no batch after the last"
    data.rows = None
    with pytest.raises(TypeError):
        batches.at(2)


# One step


def test_a_step_waits_for_nothing():
    """In a process of its own: `tests.tools.waits` registers a device."""
    command = [sys.executable, "-m", "tests.tools.waits"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    expected = ["index", "_local_scalar_dense", "nonzero", "_to_copy"]
    assert [name in found for name, found in zip(expected, report["seen"], strict=True)] == [
        True] * 4, "the watcher sees what would wait"  # fmt: skip
    assert len(report["steps"]) == 4
    for case in report["steps"]:
        assert [step["found"] for step in case["steps"]] == [[], []]
        for step in case["steps"]:
            assert step["operations"] > 1000
            assert [shape for _, shape in step["results"]] == [[], []]
            assert all(device.startswith(case["device"]) for device, _ in step["results"])


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("norm", [1.0, float("nan"), float("inf")])
def test_an_apple_gpu_is_kept_from_steps_with_a_bad_norm(device, norm, monkeypatch):
    """Its AdamW takes no notice of `found_inf`, which keeps the others' from them."""
    made, steps = torch.full, []
    monkeypatch.setattr(torch, "full", lambda *args, device, **more: made(*args, **more))
    adamw = SimpleNamespace(param_groups=[{}])
    optimizer = SimpleNamespace(optimizer=adamw, step=lambda: steps.append(adamw.found_inf.item()))
    given = torch.tensor(norm)
    given = SimpleNamespace(device=torch.device(device), isfinite=given.isfinite)
    update(optimizer, given, learning_rate=0.1)
    bad = not math.isfinite(norm)
    assert steps == ([] if bad and device == "mps" else [float(bad)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_bad_norm_changes_nothing(bad):
    accelerator, model = make_accelerator("no", cpu=True), grown_model()
    prepared, optimizer, _ = prepare(accelerator, model, override(RUN, device_batch_size=32))

    def everything():
        return [p.detach().clone() for p in model.parameters()], copy.deepcopy(
            optimizer.optimizer.state_dict()["state"])  # fmt: skip

    def step(norm):
        for p in model.parameters():
            p.grad = torch.full_like(p, norm)
        update(optimizer, torch.tensor(norm), learning_rate=0.1)

    step(1.0)
    weights, state = everything()
    step(bad)
    after, state_after = everything()
    assert all(map(torch.equal, weights, after))
    for moments, others in zip(state.values(), state_after.values()):
        assert all(torch.equal(moments[name], others[name]) for name in moments)
    step(1.0)
    assert not all(map(torch.equal, weights, everything()[0]))


def test_the_learning_rate_is_that_of_the_step():
    accelerator, model = make_accelerator("no", cpu=True), grown_model()
    run = override(RUN, device_batch_size=32)
    prepared, optimizer, _ = prepare(accelerator, model, run)
    batches = Batches(accelerator, run, made_up_data())
    for step in (0, 3):
        train_step(accelerator, prepared.train(), optimizer, run, batches, step)
        rates = [float(group["lr"]) for group in optimizer.optimizer.param_groups]
        assert rates == pytest.approx([learning_rate_at(step, run.train)] * 2)


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["adaln", "plain"])
def test_checkpointing_keeps_less_and_computes_the_same(changes):
    sizes, generator = [], torch.Generator().manual_seed(0)
    tokens = torch.randint(8, (4, 49), generator=generator)
    orders = torch.arange(49).expand(4, -1)
    condition = torch.full((4,), RUN.model.null_id)

    def gradients(checkpointing):
        torch.manual_seed(0)
        model = RAR(override(RUN, **changes).model)
        sizes.append(0)

        def count(tensor):
            sizes[-1] += tensor.numel()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with working_blocks(model, DeviceConfig(checkpointing=checkpointing)), hooks:
            loss = rar_loss(model(tokens, condition, orders), tokens, orders)
            loss.backward()
        assert not any("forward" in vars(block) for block in model.blocks)
        return [p.grad for p in model.parameters()]

    for a, b in zip(gradients(False), gradients(True)):
        assert torch.allclose(a, b, atol=1e-7)
    assert sizes[1] < sizes[0]


def test_uncompiled_is_for_compiled_blocks_only():
    with uncompiled(DeviceConfig()), uncompiled(DeviceConfig(compile=True)):
        pass


def limited(limit, tried, error=RuntimeError):
    """A model whose head has memory for `limit` images."""

    def check(head, inputs):
        tried.append(len(inputs[0]))
        if tried[-1] > limit:
            raise error("CUDA error: out of memory. Tried to allocate 3 TiB")

    model = RAR(RUN.model)
    model.lm_head.register_forward_pre_hook(check)
    return model


def test_halvings():
    assert list(halvings(96)) == [48, 24, 12, 6, 3, 0] and list(halvings(1)) == [0]


def test_the_largest_batch_that_fits():
    tried, one = [], make_accelerator("no", cpu=True)
    model, state = limited(20, tried), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert find_device_batch_size(model, one, 96) == 12 and tried == [96, 48, 24, 12]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and not [p for p in model.parameters() if p.grad is not None]
    assert torch.equal(torch.get_rng_state(), state), "random numbers must not move"
    with pytest.raises(
        ValueError, match="cpu has not enough memory for any even share of batch_size = 96"
    ):
        find_device_batch_size(limited(0, []), one, 96)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    model = RAR(RUN.model)
    model.lm_head.register_forward_pre_hook(lambda head, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find_device_batch_size(model, make_accelerator("no", cpu=True), 32)


def live_on(environment, alive):
    """In a process of its own."""
    os.environ.update(environment)
    end_with_parent()
    alive.set()


@pytest.mark.parametrize("status", [0, 1])
def test_a_process_ends_when_its_parent_is_gone(status):
    """Without a parent in the environment nothing happens."""
    gone, alive = subprocess.Popen([sys.executable, "-c", ""]), CONTEXT.Event()
    gone.wait()
    process = fork(live_on, {PARENT: str(gone.pid)} if status else {}, alive)
    process.join()
    assert (process.exitcode, alive.is_set()) == (status, not status)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: accumulation(64, 0, 8), "processes = 0"),
        (lambda: accumulation(64.0, 2, 8), "batch_size = 64.0"),
        (lambda: accumulation(64, 2, -8), "device_batch_size = -8"),
        (lambda: make_accelerator("fp8"), "precision = 'fp8' is not allowed: it must be 'bf16'"),
        (lambda: is_sharded(None, 1), "config = None"),
        (lambda: find_device_batch_size(None, None, 8), "model = None"),
        (lambda: prepare(None, None, None), "accelerator = None"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


@pytest.mark.parametrize("dropout, largest", [(0.0, 1e-4), (0.1, 1.0)])
def test_only_dropout_cares_how_a_batch_is_shared(dropout, largest):
    """What the section on determinism says: rounding without dropout, other masks with it."""

    def weights(device_batch_size):
        run = override(RUN, dropout=dropout, device_batch_size=device_batch_size, batch_size=64)
        torch.manual_seed(0)
        accelerator, model = make_accelerator("no", cpu=True), RAR(run.model)
        prepared, optimizer, _ = prepare(accelerator, model, run)
        prepared.train()
        batches = Batches(accelerator, run, data)
        for step in range(5, 10):
            train_step(accelerator, prepared, optimizer, run, batches, step)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    data = made_up_data()
    whole = weights(64)
    assert torch.equal(weights(64), whole)
    difference = (weights(16) - whole).abs().max().item()
    assert difference <= largest and (dropout == 0 or difference > 1e-4)


# A machine that others use, too


@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize("idle", [0.0, 0.9, 1.4, 2.2, 64.0])  # cores; a container sees its host's
def test_threads_leave_busy_cores_alone(most, idle, monkeypatch, capsys, set_threads):
    clock = iter([100.0, 100.0 + 0.3 * idle])
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(idle=next(clock)))
    monkeypatch.setattr(devices.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(devices, "cores", lambda: 64)
    set_threads(most)
    with pytest.raises(KeyError), free_threads():
        used = torch.get_num_threads()
        raise KeyError
    assert used == {0.0: 1, 0.9: 1, 1.4: 1, 2.2: min(2, most), 64.0: most}[idle]
    assert torch.get_num_threads() == most, "as before"
    assert (f"{used} of {most} threads" in capsys.readouterr().out) == (used < most)


def test_a_container_gets_no_more_threads_than_cores(monkeypatch, capsys, set_threads):
    """Its machine, which it sees, has more of them, and they are idle."""
    monkeypatch.setattr(devices, "free_cores", lambda: 60.0)
    monkeypatch.setattr(devices, "cores", lambda: 2)
    set_threads(4)
    with free_threads():
        assert torch.get_num_threads() == 2
    assert "2 of 4 threads" in capsys.readouterr().out


def test_only_who_computes_alone_watches_the_machine(monkeypatch, set_threads):
    monkeypatch.setattr(devices, "free_cores", lambda: pytest.fail("several processes, or a GPU"))
    set_threads(3)
    with free_threads(alone=False):
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize("work", ["images", "tokens"])
def test_the_programs_leave_busy_cores_alone(work, monkeypatch, tmp_path, set_threads):
    """Of a run of digits a set is sampled, and from its tokenizer tokens are made."""
    used, run = [], str(PROJECT / "data" / "digits_run")
    monkeypatch.setattr(devices, "free_cores", lambda: 1.2)
    for module, name in ((image_sets, "generate"), (pretokenizer, "write_shards")):
        monkeypatch.setattr(module, name, lambda *_, **__: used.append(torch.get_num_threads()))
    set_threads(2)
    if work == "images":
        nothing = dict.fromkeys(("preset", "model", "tokenizer", "classes"))
        image_sets.sample_set(str(tmp_path), run, seed=0, cpu=True, **nothing)
    else:
        config = PretokenizeConfig("digits", str(tmp_path), tokenizer=run, cpu=True)
        pretokenizer.work(0, 1, config, progress=False)
    assert used == [1] and torch.get_num_threads() == 2
    if work == "tokens":
        pretokenizer.work(0, 2, config, progress=False)
        assert used == [1, 2], "two processes share the machine already"


def test_idle_cores_are_counted():
    assert 0 <= free_cores(0.1) <= os.cpu_count() + 0.5
