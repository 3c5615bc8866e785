"""The kernels of Triton against their definitions in torch, by Triton's interpreter on a CPU.

`make gpu` runs them on a card (`tests/test_cuda.py`). Triton comes with torch's builds for NVIDIA
GPUs; with the CPU build, `pip install triton` brings it.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
import torch

from rar_nb import gpu_kernels
from rar_nb.fast_sampling import DEFAULT_PLAN, choose_kernels, span_step
from rar_nb.gpu_kernels import differences
from tests.benchmarks.machine import ROOT
from tests.doors import refuses

PROGRAM = """
import json, torch
from rar_nb.gpu_kernels import differences
print(json.dumps([[name, known, differences("cpu", getattr(torch, name), known)]
                  for name in ("float32", "bfloat16") for known in (0, 1, 63, 64, 65, 99)]))
"""


def interpreted(program: str):
    """What a program prints as JSON when Triton's interpreter runs its kernels."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("there is no Triton")
    env = os.environ | {"TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=env, cwd=ROOT,
                           text=True, capture_output=True)  # fmt: skip
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_the_kernels_do_what_torch_does():
    """With every number of known keys at which the walk through them begins or ends a stride."""
    for name, known, shares in interpreted(PROGRAM):
        limit = 2e-6 if name == "float32" else 0.012  # two steps of bf16, of 2⁻⁸
        assert max(shares) < limit, (name, known, shares)


SIZES = """
import itertools, json, torch
import torch.nn.functional as F
from rar_nb.gpu_kernels import FewRowsLinear, attend_step
from rar_nb.kernels import attend_step as torch_attend_step
torch.manual_seed(0)
shares = {}
for rows, inputs, outputs in ((1, 300, 50), (2, 256, 64), (3, 2100, 7), (4, 48, 33)):
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    exact = F.linear(x.double(), weight.double(), bias.double())
    error = (FewRowsLinear(weight, bias, rows)(x) - exact).abs().max() / exact.abs().max()
    shares[f"{rows} rows, {inputs} inputs"] = error.item()
for d, known in itertools.product((5, 64, 88), (0, 130, 257)):
    qkv, norms, memory = torch.randn(1, 6 * d), torch.randn(4, d), torch.randn(2, 1, 2, 258, d)
    position, found = torch.tensor([known]), []
    for attend in (torch_attend_step, attend_step):
        keys, values = memory.clone()
        found.append(torch.cat([attend(qkv, norms, keys, values, position).flatten(),
                                keys.flatten(), values.flatten()]))
    one, other = found
    shares[f"head of {d}, {known} keys"] = ((one - other).abs().max() / one.abs().max()).item()
print(json.dumps(shares))
"""


def test_sizes_that_are_no_powers_of_two():
    """Sizes of the published models' heads and products, and such as fit no stride."""
    for name, share in interpreted(SIZES).items():
        assert share < 2e-6, (name, share)


@pytest.mark.parametrize(
    "capability, interpreting, early",
    [((9, 0), "0", True), ((8, 9), "0", False), ((9, 0), "1", False)],
)
def test_kernels_start_early_where_the_card_can(monkeypatch, capability, interpreting, early):
    """Whatever other cards can: here, those beside it are of an older kind."""
    capabilities = {torch.device("cuda:1"): capability}
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capabilities.get(device, (8, 0))
    )
    monkeypatch.setenv("TRITON_INTERPRET", interpreting)
    monkeypatch.setattr(gpu_kernels, "gdc_wait", object())
    gpu_kernels.starting.cache_clear()
    for device, its in (("cuda:0", False), ("cuda:1", early), ("cuda:2", False), ("cpu", False)):
        found = gpu_kernels.starting(torch.device(device))
        assert found["EARLY"] == its and found.get("launch_pdl", False) == its
    gpu_kernels.starting.cache_clear()


POISONED = """
import json, torch
from rar_nb import gpu_kernels
from rar_nb.gpu_kernels import FewRowsLinear, attend_step, modulated_norm
torch.manual_seed(0)
x, branch, table, which = *torch.randn(2, 3, 48), torch.randn(4, 3, 48), torch.tensor([3, 0, 2])
qkv, norms, memory, known = torch.randn(3, 144), torch.randn(4, 16), torch.randn(2, 3, 3, 99, 16), 9
weight, bias = torch.randn(40, 48), torch.randn(40)
old, usual, found = [], gpu_kernels.wait_for_others, []


def late(EARLY):
    for tensor in old:
        tensor.fill_(torch.nan)


def run(kernel, *given):
    found.clear()
    for wait in (usual, late):
        gpu_kernels.wait_for_others = wait
        copies = [t.clone() for t in given]
        found.append(kernel(*copies))
    return torch.equal(*found)


def norm(x, branch, table):
    old[:] = [table]
    return modulated_norm(x, branch, table.unbind(1), which, torch.float32)


def attention(qkv, norms, keys, values):
    old[:] = [norms, keys[:, :, :known], values[:, :, :known]]
    return attend_step(qkv, norms, keys, values, torch.tensor([known]))


def product(x, weight, bias):
    linear = FewRowsLinear(weight, bias, 3)
    old[:] = [linear.bias]
    return linear(x)


x, branch, qkv, bias = x[:1], branch[:1], qkv[:1], bias[:16]  # one program, before which all is old
memory, which, weight = memory[:, :1, :1], which[:1], weight[:16]
qkv = qkv[:, :48]
print(json.dumps(dict(norm=run(norm, x, branch, table), product=run(product, x, weight, bias),
                      attention=run(attention, qkv, norms, *memory))))
"""


def test_what_is_old_is_read_before_the_wait():
    """What changes afterwards, and did not hang on the kernel before, changes nothing."""
    assert interpreted(POISONED) == dict(norm=True, attention=True, product=True)


def test_a_product_reads_whole_tensors():
    """The kernel steps from number to number, so gaps between them must be gone."""
    weight, bias = torch.randn(4, 3).t(), torch.randn(6)[::2]
    product = gpu_kernels.FewRowsLinear(weight, bias, 1)
    for found, given in ((product.weight, weight), (product.bias, bias)):
        assert found.is_contiguous() and torch.equal(found, given)


def test_each_product_knows_the_next_one():
    products = [gpu_kernels.FewRowsLinear(torch.zeros(2, 3), torch.zeros(2), 1) for _ in range(3)]
    gpu_kernels.read_ahead(products)
    assert [product.ahead for product in products] == [*products[1:], None]


def test_few_rows_have_a_product_of_their_own():
    for rows in (1, 2, 4, 5, 512):
        kind, given = gpu_kernels.choose_linear(torch.bfloat16, rows)
        assert given == rows and (kind is gpu_kernels.FewRowsLinear) == (rows <= 4)


def test_without_a_gpu_torch_does_the_work():
    found, why = gpu_kernels.load_gpu_kernels()
    if torch.cuda.is_available():
        assert found is not None, why
    else:
        assert found is None and "as there is no" in why


def a_machine_with_gpus(monkeypatch, count: int = 1):
    """What `load_gpu_kernels` gives on each of its cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_kernels, "triton", object())
    found = []
    for card in range(count):
        monkeypatch.setattr(torch.cuda, "current_device", lambda card=card: card)
        found.append(gpu_kernels.load_gpu_kernels())
    gpu_kernels.kernels_on.cache_clear()
    return found


def test_a_kernel_that_fails_is_not_used(monkeypatch):
    def fails(device, dtype):
        raise OSError("no compiler")

    monkeypatch.setattr(gpu_kernels, "differences", fails)
    with pytest.warns(UserWarning, match="OSError: no compiler"):
        assert a_machine_with_gpus(monkeypatch)[0][0] is None
    for wrong in (torch.float32, torch.bfloat16):

        def differ(device, dtype, wrong=wrong):
            return [0.0, 0.1 if dtype == wrong else 1e-7]

        monkeypatch.setattr(gpu_kernels, "differences", differ)
        with pytest.warns(UserWarning, match=f"in {wrong} differ by 0.1"):
            assert a_machine_with_gpus(monkeypatch)[0][0] is None
    monkeypatch.setattr(gpu_kernels, "differences", lambda device, dtype: [0.0, math.nan])
    with pytest.warns(UserWarning, match="differ by nan"):
        assert a_machine_with_gpus(monkeypatch)[0][0] is None
    monkeypatch.setattr(gpu_kernels, "differences", lambda device, dtype: [1e-7])
    assert a_machine_with_gpus(monkeypatch)[0][0] is not None


def test_each_card_is_tried(monkeypatch):
    """One that computes wrong beside two that don't."""
    monkeypatch.setattr(
        gpu_kernels, "differences", lambda device, dtype: [0.5 if device == "cuda:1" else 0.0]
    )
    with pytest.warns(UserWarning, match="differ by 0.5"):
        found = a_machine_with_gpus(monkeypatch, 3)
    assert [kernels is not None for kernels, _ in found] == [True, False, True]


def test_which_kernels_and_how_many_recordings():
    cpu, cuda, meta = map(torch.device, ("cpu", "cuda", "meta"))
    assert choose_kernels(DEFAULT_PLAN, torch.zeros(1, device=meta), 16) is None
    assert choose_kernels(DEFAULT_PLAN._replace(kernels=False), torch.zeros(1), 16) is None
    assert choose_kernels(DEFAULT_PLAN, torch.zeros(1).double(), 16) is None
    assert span_step(DEFAULT_PLAN, cpu, True) == 1
    assert span_step(DEFAULT_PLAN, cuda, True) == 0  # one recording for all steps
    assert span_step(DEFAULT_PLAN, cuda, False) == 64
    assert span_step(DEFAULT_PLAN._replace(span=7), cuda, True) == 7


@pytest.mark.parametrize(
    "name, values",
    [
        ("known", [-1, 100, 1.5]),
        ("dtype", [torch.int64, torch.float64]),
        ("device", ["cpu", "nonsense"]),
    ],
)
def test_kernels_are_compared_on_a_gpu_and_within_their_memory(name, values):
    """A key too many would be written into the memory of others."""
    for value in values:
        refuses(lambda value=value: differences(**dict(device="cuda") | {name: value}), f"{name} =")
