"""The blocks for a GPU: their kernels by Triton's interpreter on a CPU, and who uses them.

`tests.tools.gpu_blocks` compares the kernels with formulas; tests/test_cuda.py does so on a card.
Triton comes with torch's builds for NVIDIA GPUs; with the CPU build, `pip install triton` brings
it.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from torch._subclasses.fake_tensor import FakeTensorMode

from rar_nb.pretrained.presets import DeviceConfig
from rar_nb.runs import devices, gpu_blocks
from rar_nb.runs.devices import make_accelerator, working_blocks
from rar_nb.runs.gpu_blocks import differences, gpu_block, gpu_final_norm, roll, use_gpu_blocks
from rar_nb.runs.quick_blocks import use_quick_blocks
from rar_nb.transformer import RAR, Block, Conditioning, FinalNorm
from tests.benchmarks.machine import ROOT
from tests.doors import refuses
from tests.test_devices import PLAIN, grown_model
from tests.tools.changed import CHANGES, change
from tests.tools.gpu_blocks import faces

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="there is no Triton")  # fmt: skip


def compared(name: str, **env) -> list:
    """What `tests.tools.gpu_blocks` finds, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.tools.gpu_blocks", name]
    found = subprocess.run(command, env=os.environ | env, cwd=ROOT, text=True, capture_output=True)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def check(name: str, **env):
    """The kernels are as close to the formulas as rounding lets them be.

    The interpreter cuts off what bf16 has no bits for, where a GPU rounds, so its errors are up to
    twice as large."""
    results = compared(name, **env)
    assert results
    for what, precision, errors, *of_torch in results:
        assert all(map(math.isfinite, errors)), (what, errors)
        if of_torch:
            assert max(errors) < 2 * max(of_torch[0]), (what, errors)
        else:
            assert max(errors) < (1e-5 if precision == "float32" else 0.01), (what, errors)


@needs_triton
@pytest.mark.parametrize(
    "name", ["float32", "bfloat16", "blocks", "blocks_with_dropout", "dropout"])  # fmt: skip
def test_the_kernels_compute_the_formulas(name):
    check(name, TRITON_INTERPRET="1", RAR_NB_TEST_DEVICE="cpu")


# Dropout


def deviations(kept, share: float) -> float:
    """How far a share of decisions is from what it should be, in standard deviations."""
    return abs(kept.double().mean() - share).item() / math.sqrt(share * (1 - share) / kept.numel())


@pytest.mark.parametrize("dropout", [0.001, 0.1, 0.5])
@pytest.mark.parametrize("width", [768, 1000, 3072])
def test_what_is_dropped_looks_random(dropout, width):
    """The share, and pairs in a row, in a column, with the next seed, and far away."""
    torch.manual_seed(0)
    dice = roll(dropout, torch.device("cpu"))[0]
    seed, least = int(dice.seed), dice.least
    assert least == round(dropout * 2**24)
    index = torch.arange(1000 * width)
    kept = (faces(seed, index) >= least).view(1000, width)
    other = (faces(seed + 1, index) >= least).view(1000, width)
    distant = (faces(seed, index + 2**32) >= least).view(1000, width)
    upper = (faces(seed + 2**32, index) >= least).view(1000, width)
    assert deviations(kept, 1 - dropout) < 4.5
    for column in (1, 2, 7, 8, 64):
        assert deviations(kept[:, column:] & kept[:, :-column], (1 - dropout) ** 2) < 4.5
    for row in (1, 2, 258):
        assert deviations(kept[row:] & kept[:-row], (1 - dropout) ** 2) < 4.5
    for stranger in (other, distant, upper):
        assert deviations(kept & stranger, (1 - dropout) ** 2) < 4.5
    of_rows, of_columns = kept.double().sum(1).var(), kept.double().sum(0).var()
    for variance, count, many in ((of_rows, width, 1000), (of_columns, 1000, width)):
        exact = count * dropout * (1 - dropout)
        kurtosis = 2 + (1 - 6 * dropout * (1 - dropout)) / exact
        assert abs(variance / exact - 1) < 4.5 * math.sqrt(kurtosis / many)


def test_dice_follow_from_torchs_random_numbers():
    torch.manual_seed(3)
    first = roll(0.5, torch.device("cpu"), 3)
    torch.manual_seed(3)
    again = roll(0.5, torch.device("cpu"), 3)
    seeds = [int(dice.seed) for dice in first]
    assert seeds == [int(dice.seed) for dice in again] and len(set(seeds)) == 3
    state = torch.get_rng_state()
    assert [dice.seed for dice in roll(0.0, torch.device("cpu"), 2)] == [None, None]
    assert torch.equal(torch.get_rng_state(), state)
    assert roll(0.99999999, torch.device("cpu"))[0].least < 2**24, "something is always kept"


# Who uses them


def test_without_a_gpu_torch_does_the_work():
    found, why = gpu_blocks.load_gpu_blocks(True)
    if torch.cuda.is_available():
        assert found, why
    else:
        assert not found and "as there is no" in why


def a_machine_with_gpus(monkeypatch, bf16: bool, count: int = 1):
    """What `load_gpu_blocks` gives on each of its cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_blocks, "triton", object())
    found = []
    for card in range(count):
        monkeypatch.setattr(torch.cuda, "current_device", lambda card=card: card)
        found.append(gpu_blocks.load_gpu_blocks(bf16))
    gpu_blocks.blocks_on.cache_clear()
    return found


def test_kernels_that_fail_are_not_used(monkeypatch):
    def fails(device, bf16):
        raise OSError("no compiler")

    monkeypatch.setattr(gpu_blocks, "differences", fails)
    assert "OSError: no compiler" in a_machine_with_gpus(monkeypatch, True)[0][1]
    for bf16, largest, used in (
        (False, 1e-6, True), (False, 0.01, False), (True, 0.01, True), (True, 0.1, False),
        (True, math.nan, False)):  # fmt: skip
        monkeypatch.setattr(gpu_blocks, "differences", lambda device, bf16, d=largest: d)
        assert a_machine_with_gpus(monkeypatch, bf16)[0][0] == used


def test_each_card_is_tried(monkeypatch):
    """One that computes wrong beside two that don't."""
    monkeypatch.setattr(gpu_blocks, "differences", lambda device, bf16: float(device.index == 1))
    found = a_machine_with_gpus(monkeypatch, True, 3)
    assert [used for used, _ in found] == [True, False, True]


def test_norms_are_given_to_the_kernel_without_gaps(monkeypatch):
    """It steps from number to number. A stand-in for the kernel sees what it would get."""
    given = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **options: given.append(args)

    monkeypatch.setattr(gpu_blocks, "norm_row", Kernel())
    monkeypatch.setattr(gpu_blocks, "triton", SimpleNamespace(next_power_of_2=lambda n: n))
    x, table, weight, bias = torch.randn(1, 2, 8), torch.randn(1, 2, 24), *torch.randn(8, 2).t()
    no_branch = gpu_blocks.Dice(None)
    gpu_blocks.Modulate.apply(x, None, None, table, bias, (0, 1, 2), weight, bias, no_branch)
    for found, expected in zip(given[0][4:6], (weight, bias), strict=True):
        assert found.is_contiguous() and torch.equal(found, expected)


def test_nan_is_the_largest_difference(monkeypatch):
    """In whichever of the results and gradients it stands."""
    monkeypatch.setattr(gpu_blocks, "check_triton", lambda device: None)
    for place in range(3):
        found = [torch.ones(2) for _ in range(3)]
        found[place][1] = math.nan
        passes = iter([found, [torch.ones(2).double() for _ in range(3)]])
        monkeypatch.setattr(gpu_blocks, "one_pass", lambda *given, passes=passes: next(passes))
        assert math.isnan(differences("cpu", bf16=False))


def test_models_that_do_not_fit_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(gpu_blocks, "load_gpu_blocks", lambda bf16: (True, "compiled"))
    for model, widest in ((grown_model(**PLAIN), 4096), (grown_model(), 8)):
        monkeypatch.setattr(gpu_blocks, "WIDEST", widest)
        used, what = use_gpu_blocks(model, bf16=True)
        assert not used and f"at most {widest} columns" in what
        assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_model_is_trained_as_it_is(what, monkeypatch):
    """The kernels take the weights, and would never call what was changed."""
    monkeypatch.setattr(gpu_blocks, "load_gpu_blocks", lambda bf16: (True, "compiled"))
    model = change(grown_model(), what)
    used, why = use_gpu_blocks(model, bf16=True)
    assert not used and "changed" in why
    use_quick_blocks(model, bf16=True)
    assert not any("forward" in vars(module) for module in model.modules())


def test_conditions_for_all_images_at_once_are_left_to_torch():
    """torch repeats a row where there is only one; the kernels would read beyond it."""
    model = grown_model().eval()
    block, x = model.blocks[0], torch.randn(2, 3, model.config.hidden_size)
    for shape in ((1, 3), (2, 1), (1, 1)):
        c = Conditioning(torch.randn(*shape, x.shape[2]))
        assert torch.equal(gpu_block(block, x, c), Block.forward(block, x, c))


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("kind", [DistributedType.NO, DistributedType.MULTI_GPU,
                                  DistributedType.FSDP])  # fmt: skip
@pytest.mark.parametrize("compiles", [False, True])
def test_training_on_gpus_uses_them(kernels, kind, compiles, monkeypatch, capsys):
    """With one GPU and with DDP, unless blocks are compiled by torch or the weights are shared."""
    monkeypatch.setattr(gpu_blocks, "load_gpu_blocks", lambda bf16: (kernels, "in torch, as told"))
    model, made = grown_model(), make_accelerator("no", cpu=True)
    accelerator = SimpleNamespace(device=torch.device("cuda"), mixed_precision="bf16",
                                  distributed_type=kind, is_main_process=True)  # fmt: skip
    devices.choose_blocks(model, accelerator, compiles)
    used = [vars(block).get("forward") for block in model.blocks]
    tried = kind != DistributedType.FSDP and not compiles
    if kernels and tried:
        assert all(f.__func__ is gpu_block for f in used)
        assert model.adaln_before_head.forward.__func__ is gpu_final_norm
    else:
        assert used == [None] * len(used) and "forward" not in vars(model.adaln_before_head)
    assert ("computed in torch, as told" in capsys.readouterr().out) == (tried and not kernels)
    with working_blocks(model, DeviceConfig(quick_blocks=False), made):
        pass
    assert not any("forward" in vars(module) for module in model.modules()), "no trace is left"


class Memory:
    """A cache that has seen nothing yet."""

    def extend(self, k, v):
        return k, v


def test_what_kernels_cannot_compute_is_left_to_torch(monkeypatch):
    """Sampling with a cache, blocks without adaLN, other numbers, and tensors without any."""
    model = grown_model().eval()
    block, final, d = model.blocks[0], model.adaln_before_head, model.config.hidden_size
    x, c = torch.randn(2, 3, d), Conditioning(torch.randn(2, 3, d))
    assert torch.equal(gpu_block(block, x, c, Memory()), Block.forward(block, x, c, Memory()))
    plain = grown_model(**PLAIN).eval()
    block0, final0 = plain.blocks[0], plain.adaln_before_head
    assert torch.equal(gpu_block(block0, x, None), Block.forward(block0, x, None))
    assert torch.equal(gpu_final_norm(final0, x, None), FinalNorm.forward(final0, x, None))
    model.double()
    x, c = x.double(), Conditioning(c.vectors.double())
    assert torch.equal(gpu_block(block, x, c), Block.forward(block, x, c))
    assert torch.equal(gpu_final_norm(final, x, c), FinalNorm.forward(final, x, c))
    monkeypatch.setattr(RAR, "init_weights", lambda self: None)
    with FakeTensorMode():
        model = RAR(model.config)
        x, c = torch.randn(2, 3, d), Conditioning(torch.randn(2, 3, d))
        out = gpu_final_norm(model.adaln_before_head, gpu_block(model.blocks[0], x, c), c)
    assert out.shape == x.shape


@pytest.mark.parametrize("device", ["cpu", "nonsense", None])
def test_kernels_are_compared_on_a_gpu(device):
    refuses(lambda: differences(device, True), "device =")
