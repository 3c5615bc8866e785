"""How a batch is shared, and what happens when it does not fit."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.presets import DeviceConfig, get_preset, override
from rar_nb.runs.devices import (
    PARENT,
    accumulation,
    fast_attention,
    find_device_batch_size,
    halvings,
    is_sharded,
    make_accelerator,
    prepare,
    train_step,
    uncompiled,
    working_blocks,
)
from rar_nb.support import PROJECT
from rar_nb.trainer import make_batch
from rar_nb.transformer import RAR, rar_loss
from tests.doors import refuses

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


def test_fast_attention_computes_the_same_and_leaves_no_trace():
    q = torch.randn(2, 4, 51, 32)
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    flash = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    with fast_attention(make_accelerator("bf16", cpu=True)):
        plain = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert torch.allclose(plain, flash, atol=1e-5)
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == before


def test_checkpointing_keeps_less_and_computes_the_same():
    sizes, generator = [], torch.Generator().manual_seed(0)
    tokens = torch.randint(8, (4, 49), generator=generator)
    orders = torch.arange(49).expand(4, -1)
    condition = torch.full((4,), RUN.model.null_id)

    def gradients(checkpointing):
        torch.manual_seed(0)
        model = RAR(RUN.model)
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


@pytest.mark.parametrize("status", [0, 1])
def test_a_process_ends_when_its_parent_is_gone(status):
    """Without a parent in the environment nothing happens."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = (
        os.environ | {"PYTHONPATH": str(PROJECT)} | ({PARENT: str(gone.pid)} if status else {})
    )
    code = "from rar_nb.runs.devices import end_with_parent; end_with_parent(); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == ((1, "") if status else (0, "alive\n"))


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
        for step in range(5, 10):
            train_step(accelerator, prepared, optimizer, run, data, step)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    length = RUN.model.num_tokens
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(RUN.model.codebook_size, (320, 1, length), generator=generator)
    data = TokenData(tokens, torch.arange(320) % RUN.model.num_classes)
    whole = weights(64)
    assert torch.equal(weights(64), whole)
    difference = (weights(16) - whole).abs().max().item()
    assert difference <= largest and (dropout == 0 or difference > 1e-4)
