"""What holds on a CPU holds on a GPU: run there by `make gpu`, skipped where there is none.

`RAR_NB_TEST_DEVICE=cpu python -m pytest -m cuda tests/test_cuda.py` runs the same code on a CPU,
which shows that the tests themselves work.
"""

import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rar_nb.data.images import open_data
from rar_nb.data.tokens import TokenData, pretokenize
from rar_nb.fast_sampling import Plan
from rar_nb.gpu_kernels import choose_linear
from rar_nb.kernels import PlainLinear
from rar_nb.orders import permute, sample_orders
from rar_nb.pretrained.presets import get_preset
from rar_nb.runs.devices import Batches, make_accelerator, prepare, train_step, working_blocks
from rar_nb.runs.gpu_blocks import differences, use_gpu_blocks
from rar_nb.runs.run_folders import open_run
from rar_nb.runs.training import train_run
from rar_nb.sampler import (
    SampleConfig,
    fast_state,
    image_noise,
    sample_tokens,
    textbook_tokens,
)
from rar_nb.support import Stopped, float32_products
from rar_nb.transformer import RAR, rar_loss
from tests import test_golden
from tests.benchmarks.precision import distances, predictions
from tests.test_gpu_blocks import check

ROOT = Path(__file__).parent.parent
DEVICE = torch.device(os.environ.get("RAR_NB_TEST_DEVICE", "cuda"))
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(),
        reason="no GPU that torch can use",
    ),
]


golden, published = test_golden.golden, test_golden.model  # fixtures


@pytest.fixture(scope="module")
def digits():
    """The bundled run: its configuration, its tokenizer and its trained generator."""
    run, tokenizer, generator = open_run(ROOT / "data" / "digits_run")
    return run, tokenizer.to(DEVICE).eval(), generator.to(DEVICE).eval()


# The same numbers as the published implementation


@torch.no_grad()
@pytest.mark.parametrize("precision, tolerance", [("no", 1e-4), ("tf32", 2e-2)])
def test_golden_logits_and_loss(golden, published, precision, tolerance):
    """In float32 as closely as on a CPU; TF32 rounds operands to 10 bits, a part in 2,000."""
    tokens, orders = golden["tokens"].to(DEVICE), golden["orders"].to(DEVICE)
    condition = golden["condition_train"].to(DEVICE)
    with float32_products(tf32=precision == "tf32"):
        logits = published.to(DEVICE)(tokens, condition, orders)
    expected = golden["train_logits"].to(DEVICE)
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)
    loss = rar_loss(logits, tokens, orders).item()
    assert loss == pytest.approx(golden["loss"], abs=tolerance)


@pytest.mark.parametrize("precision, tolerance", [("no", 1e-4), ("tf32", 2e-2)])
def test_golden_guided_logits(golden, published, precision, tolerance):
    c, tokens = golden["config"], golden["tokens"].to(DEVICE)
    sample = SampleConfig(c["guidance_scale"], c["guidance_scale_pow"], c["temperature"],
                          sample_precision=precision)  # fmt: skip
    logits = predictions(published.to(DEVICE), golden["classes"], sample, tokens, tokens.shape[1])
    expected = golden["guided_logits"].to(DEVICE)
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)


# Precision


@pytest.mark.parametrize("precision, limit", [("tf32", 0.005), ("bf16", 0.03)])
def test_rounding_changes_few_samples(digits, precision, limit):
    """Total variation distance of a trained model's predictions from those in float32."""
    run, _, generator = digits
    sample, classes = replace(run.sample, sample_precision="no"), torch.arange(50) % 10
    tokens = sample_tokens(generator, classes, sample, image_noise(5, range(50), 49)).to(DEVICE)
    exact = predictions(generator, classes, sample, tokens, 49)
    rounded = predictions(
        generator, classes, replace(sample, sample_precision=precision), tokens, 49
    )
    changed = distances(exact, rounded)["samples_that_change"]
    assert changed < limit
    if precision == "bf16":  # otherwise nothing was rounded
        assert changed > 1e-5


# Sampling


def sampled(digits, sampler, precision, batch=20):
    run, _, generator = digits
    sample = replace(run.sample, sample_precision=precision)
    noise = image_noise(3, range(batch), run.model.num_tokens)
    return sampler(generator, torch.arange(batch) % 10, sample, noise).cpu()


@pytest.mark.parametrize("batch", [1, 2, 20])  # one or two images have products of their own
def test_the_fast_sampler_gives_the_textbooks_tokens(digits, batch):
    ours = sampled(digits, sample_tokens, "no", batch)
    assert torch.equal(ours, sampled(digits, textbook_tokens, "no", batch))


def test_the_device_gives_the_cpus_tokens(digits):
    """One token in a thousand may land on the other side of a border between two."""
    run, _, generator = digits
    ours = sampled(digits, sample_tokens, "no")
    try:
        theirs = sampled((run, None, generator.cpu()), textbook_tokens, "no")
    finally:
        generator.to(DEVICE)
    same_images = (ours == theirs).all(1).float().mean()
    assert same_images >= 0.9


def test_sampling_again_gives_the_same(digits):
    """What is kept from one batch to the next (cache, packed weights, graphs) leaves no trace."""
    first = sampled(digits, sample_tokens, "bf16")
    sampled(digits, sample_tokens, "bf16", batch=7)
    assert torch.equal(sampled(digits, sample_tokens, "bf16"), first)


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_recorded_step_gives_the_same_as_one_that_is_not(digits, precision, batch):
    """Also where each kernel starts before the one before it has ended."""
    unrecorded = partial(sample_tokens, plan=Plan(graphs=False))
    found = sampled(digits, sample_tokens, precision, batch)
    for _ in range(3):  # all steps from graphs
        assert torch.equal(sampled(digits, sample_tokens, precision, batch), found)
    assert torch.equal(sampled(digits, unrecorded, precision, batch), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rows, inputs, outputs", [(1, 768, 2304), (2, 1408, 1500), (3, 6144, 1408), (4, 3072, 768)]
)
def test_products_of_few_rows(dtype, rows, inputs, outputs):
    """With the sizes of the published models, against float64."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(DEVICE, dtype)
                       for shape in ((rows, inputs), (outputs, inputs), (outputs,)))  # fmt: skip
    exact = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
    kind, _ = choose_linear(dtype, rows) if DEVICE.type == "cuda" else (PlainLinear, rows)
    found = kind(weight, bias, rows, gelu=True)(x)
    limit = 1e-5 if dtype == torch.float32 else 4e-3  # half of the last bit is 2⁻⁹
    assert (found - exact).abs().max() < limit * exact.abs().max()


def test_a_changed_weight_is_seen(digits):
    """Nothing that was packed or recorded outlives the weights that it came from."""
    first = sampled(digits, sample_tokens, "no")
    weight = digits[2].blocks[0].mlp.fc1.weight
    with torch.no_grad():
        weight.mul_(-1)
        changed = sampled(digits, sample_tokens, "no")
        expected = sampled(digits, textbook_tokens, "no")
        weight.mul_(-1)
    assert torch.equal(changed, expected) and not torch.equal(changed, first)
    assert torch.equal(sampled(digits, sample_tokens, "no"), first)


@contextmanager
def no_waiting():
    """Within, torch raises if the host waits for the GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graphs", [False, True])
def test_nothing_in_a_sampling_step_waits_for_the_device(digits, graphs):
    run, _, generator = digits
    noise = image_noise(3, range(4), run.model.num_tokens)
    state = fast_state(generator, [0, 1, 2, 3], run.sample, noise, plan=Plan(graphs=graphs))
    with state.products():
        for _ in range(3):  # the second records
            state.next_token()
        with no_waiting():
            for _ in range(20):
                state.next_token()
    assert (state.tokens[:, :23] >= 0).all() and (state.tokens[:, 23:] < 0).all()


# Training


def made_up_tokens(run, images=64):
    generator = torch.Generator().manual_seed(0)
    sizes = run.model.codebook_size, run.model.num_classes
    tokens = torch.randint(sizes[0], (images, 1, run.model.num_tokens), generator=generator)
    return TokenData(tokens, torch.randint(sizes[1], (images,), generator=generator), *sizes)


def trainer(run):
    """A model that is ready to be trained, and what takes one step of it."""
    torch.manual_seed(run.seed)
    accelerator = make_accelerator("no", cpu=DEVICE.type == "cpu")
    model = RAR(run.model)
    prepared, optimizer, _ = prepare(accelerator, model, run)
    prepared.train()
    batches = Batches(accelerator, run, made_up_tokens(run))
    return model, partial(train_step, accelerator, prepared, optimizer, run, batches)


def test_a_step_that_is_not_finite_is_skipped():
    model, take = trainer(get_preset("tiny", device_batch_size=32))
    take(5)
    before = [p.clone() for p in model.parameters()]
    handle = model.lm_head.register_forward_hook(lambda module, inputs, output: output * torch.inf)
    _, norm = take(6)
    handle.remove()
    assert not norm.isfinite()
    assert all(map(torch.equal, before, model.parameters()))
    _, norm = take(7)
    assert norm.isfinite()
    assert not all(map(torch.equal, before, model.parameters()))
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("quick", [False, True])
def test_nothing_in_a_training_step_waits_for_the_device(quick):
    model, take = trainer(get_preset("tiny", device_batch_size=16, dropout=0.1))
    if quick:
        use_kernels(model, bf16=False)
    take(3)
    with no_waiting():
        take(4)
        take(5)


def use_kernels(model, bf16: bool):
    if DEVICE.type == "cpu":
        pytest.skip("the kernels need a GPU")
    used, what = use_gpu_blocks(model, bf16)
    assert used, what


@pytest.mark.parametrize("bf16", [False, True])
def test_kernels_of_the_blocks(bf16):
    if DEVICE.type == "cpu":
        pytest.skip("the kernels need a GPU")
    assert differences(DEVICE, bf16) < (0.02 if bf16 else 1e-5)


@pytest.mark.parametrize(
    "name", ["float32", "bfloat16", "blocks", "blocks_with_dropout", "dropout"])  # fmt: skip
def test_kernels_of_the_blocks_compute_the_formulas(name):
    if DEVICE.type == "cpu":
        pytest.skip("the kernels need a GPU")
    check(name, TRITON_INTERPRET="0", RAR_NB_TEST_DEVICE="cuda")


def test_training_uses_the_kernels():
    """And its losses are those of blocks in plain torch, up to rounding to bf16."""
    if DEVICE.type == "cpu":
        pytest.skip("the kernels need a GPU")
    losses = []
    for quick in (True, False):
        run = get_preset("tiny", dict(device_batch_size=32, precision="bf16", dropout=0.0,
                                      quick_blocks=quick))  # fmt: skip
        torch.manual_seed(0)
        accelerator, model = make_accelerator("bf16"), RAR(run.model)
        with working_blocks(model, run.devices, accelerator):
            assert all(("forward" in vars(block)) == quick for block in model.blocks)
            prepared, optimizer, _ = prepare(accelerator, model, run)
            batches = Batches(accelerator, run, made_up_tokens(run))
            take = partial(train_step, accelerator, prepared.train(), optimizer, run, batches)
            losses.append(torch.stack([take(step)[0] for step in range(10)]))
    torch.testing.assert_close(*losses, atol=0.01, rtol=0)


@pytest.mark.parametrize("quick", [False, True])
def test_a_step_on_the_device_is_a_step_on_the_cpu(quick):
    """Gradients of the same batch, in float32."""
    run = get_preset("tiny", dropout=0.0)
    torch.manual_seed(0)
    model = RAR(run.model)
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)  # gates that are not 0
    tokens, labels = made_up_tokens(run).rows(range(8))
    orders = sample_orders(8, run.model.num_tokens, 1.0, torch.Generator().manual_seed(0))
    assert not torch.equal(permute(tokens, orders), tokens)
    grads = []
    for device in (torch.device("cpu"), DEVICE):
        model.zero_grad()
        model.to(device)
        if quick and grads:
            use_kernels(model, bf16=False)
        inputs = [x.to(device) for x in (tokens, run.model.condition_id(labels), orders)]
        with float32_products(tf32=False):
            rar_loss(model(*inputs), inputs[0], inputs[2]).backward()
        grads.append({name: p.grad.cpu().clone() for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5, rtol=1e-3, msg=name)


def test_resuming_is_exact(tmp_path, monkeypatch):
    """To the last bit, with dropout, if torch uses deterministic kernels."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    changes = dict(epochs=2, dropout=0.1, eval_every=5, device_batch_size=32)
    run = get_preset("tiny", changes)
    data = made_up_tokens(run)

    def trained(**options):
        torch.manual_seed(0)
        model = RAR(run.model)
        train_run(run, model, data, progress=False, cpu=DEVICE.type == "cpu", **options)
        return [p.detach().cpu() for p in model.parameters()]

    def stop(step, model):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    torch.use_deterministic_algorithms(True)
    try:
        whole = trained()
        with pytest.raises(Stopped):
            trained(folder=tmp_path, on_eval=stop)
        resumed = trained(folder=tmp_path, resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, whole, resumed))


# Tokens


def test_pretokenizing_gives_the_cpus_tokens(digits):
    """One id in a thousand may differ: where two codes are equally near."""
    run, tokenizer, _ = digits
    data = open_data("digits")[1]
    ours = pretokenize(tokenizer, data, shifts=1, batch_size=50).tokens
    try:
        theirs = pretokenize(tokenizer.cpu(), data, shifts=1, batch_size=50).tokens
    finally:
        tokenizer.to(DEVICE)
    assert (ours == theirs).float().mean() > 0.999
