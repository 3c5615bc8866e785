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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setenv("TRITON_INTERPRET", interpreting)
    monkeypatch.setattr(gpu_kernels, "gdc_wait", object())
    found = gpu_kernels.starting.__wrapped__()
    assert found["EARLY"] == early and found.get("launch_pdl", False) == early


def test_each_product_knows_the_next_one():
    products = [gpu_kernels.FewRowsLinear(torch.zeros(2, 3), torch.zeros(2), 1) for _ in range(3)]
    gpu_kernels.read_ahead(products)
    assert [product.ahead for product in products] == [*products[1:], None]


def test_few_rows_have_a_product_of_their_own():
    for rows in (1, 2, 4, 5, 512):
        kind, given = gpu_kernels.choose_linear(torch.bfloat16, rows)
        assert given == rows and (kind is gpu_kernels.FewRowsLinear) == (rows <= 4)


def test_without_a_gpu_torch_does_the_work():
    found, why = gpu_kernels.load_gpu_kernels.__wrapped__()
    if torch.cuda.is_available():
        assert found is not None, why
    else:
        assert found is None and "as there is no" in why


def test_a_kernel_that_fails_is_not_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_kernels, "triton", object())

    def fails(device, dtype):
        raise OSError("no compiler")

    monkeypatch.setattr(gpu_kernels, "differences", fails)
    with pytest.warns(UserWarning, match="OSError: no compiler"):
        assert gpu_kernels.load_gpu_kernels.__wrapped__()[0] is None
    for wrong in (torch.float32, torch.bfloat16):

        def differ(device, dtype, wrong=wrong):
            return [0.0, 0.1 if dtype == wrong else 1e-7]

        monkeypatch.setattr(gpu_kernels, "differences", differ)
        with pytest.warns(UserWarning, match=f"in {wrong} differ by 0.1"):
            assert gpu_kernels.load_gpu_kernels.__wrapped__()[0] is None
    monkeypatch.setattr(gpu_kernels, "differences", lambda device, dtype: [0.0, math.nan])
    with pytest.warns(UserWarning, match="differ by nan"):
        assert gpu_kernels.load_gpu_kernels.__wrapped__()[0] is None
    monkeypatch.setattr(gpu_kernels, "differences", lambda device, dtype: [1e-7])
    assert gpu_kernels.load_gpu_kernels.__wrapped__()[0] is not None


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
