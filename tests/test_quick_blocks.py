"""The quick blocks against plain torch: values, gradients, special cases, and who uses them."""

import math
import shutil
from functools import partial
from types import MethodType

import pytest
import torch
import torch.nn.functional as F

from rar_nb.compiled import compiler
from rar_nb.pretrained.presets import DeviceConfig, get_preset
from rar_nb.runs import quick_blocks
from rar_nb.runs.devices import make_accelerator, working_blocks
from rar_nb.runs.quick_blocks import (
    CausalAttention,
    Gelu,
    ModulatedNorm,
    Residual,
    compiled_attention,
    compiled_block,
    fast_block,
    load_block_kernels,
    quick_dropout,
    quick_mlp,
    short_attention,
    use_quick_blocks,
)
from rar_nb.transformer import RAR, Block, attend, rar_loss
from tests.test_devices import PLAIN, grown_model, made_up_batch

RUN = get_preset("tiny", steps_per_epoch=5)
needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


def library(head_dim: int = 8):
    found, what = load_block_kernels(head_dim)
    assert found is not None, what
    return found


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def both_ways(ours, formula, inputs, dtype=torch.float32):
    """Relative errors of the value and of all gradients; the formula is computed in float64."""
    ours_in = [x.detach().clone().requires_grad_() for x in inputs]
    exact_in = [x.detach().double().requires_grad_() for x in inputs]
    found, exact = ours(*ours_in), formula(*exact_in)
    assert found.shape == exact.shape and found.dtype == dtype
    weights = random(*exact.shape)
    (found.float() * weights).sum().backward()
    (exact * weights).sum().backward()
    pairs = [(found, exact), *((a.grad, b.grad) for a, b in zip(ours_in, exact_in))]
    return [((a.double() - b).norm() / (b.norm() + 1e-9)).item() for a, b in pairs]


# Every loop against its formula


@needs_compiler
@pytest.mark.parametrize("head_dim", [8, 20, 33, 48])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 51, 258])
def test_attention(head_dim, length):
    heads, images = 3, 2

    def formula(qkv, norms):
        q, k, v = qkv.view(images, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        q = F.layer_norm(q, (head_dim,), norms[0], norms[1], 1e-6)
        k = F.layer_norm(k, (head_dim,), norms[2], norms[3], 1e-6)
        hidden = torch.full((length, length), -math.inf, dtype=q.dtype).triu(1)
        weights = (q @ k.transpose(2, 3) / math.sqrt(head_dim) + hidden).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(images, length, heads * head_dim)

    def ours(qkv, norms):
        return CausalAttention.apply(qkv, norms, heads, library(head_dim))

    inputs = [random(images, length, 3 * heads * head_dim), random(4, head_dim)]
    value, of_qkv, of_norms = both_ways(ours, formula, inputs)
    assert value < 1e-5 and of_qkv < 1e-4
    assert of_norms < 1e-4 or length == 1  # a single entry sees itself, whatever the norms are


@needs_compiler
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("width", [8, 33, 128])
def test_norm_and_residual(width, shared):
    """Images may share the rows of a table, and then their gradients are added up."""
    images, length = 5, 19
    rows = torch.tensor([2, 0, 2, 2, 1]) if shared else torch.arange(images)
    x, branch = random(images, length, width), random(images, length, width).flip(0)
    table = random(int(rows.max()) + 2, length, 3 * width)  # its last row belongs to nobody
    weight, bias = random(width), random(width).flip(0)

    def norm(x, table, weight, bias):
        shift, scale, _ = table.chunk(3, -1)
        normal = F.layer_norm(x, (width,), weight, bias, 1e-6)
        return normal * (1 + scale[rows]) + shift[rows]

    def our_norm(x, table, weight, bias):
        shift, scale, _ = table.chunk(3, -1)
        return ModulatedNorm.apply(x, shift, scale, weight, bias, rows, library())

    def residual(x, branch, table):
        return x + branch * table.chunk(3, -1)[2][rows]

    def our_residual(x, branch, table):
        return Residual.apply(x, branch, table.chunk(3, -1)[2], rows, library())

    assert max(both_ways(our_norm, norm, [x, table, weight, bias])) < 1e-5
    assert max(both_ways(our_residual, residual, [x, branch, table])) < 1e-5


@needs_compiler
def test_gelu():
    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.tensor([0.0, -1e30, 1e30, 88.0])])
    found = Gelu.apply(x, library())
    assert (found.double() - F.gelu(x.double())).abs().max() < 1e-6
    assert max(both_ways(lambda x: Gelu.apply(x, library()), F.gelu, [x[:-4]])) < 1e-6


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_not_hidden(dtype):
    """A run that diverges is noticed by its loss."""
    lib, rows = library(), torch.arange(2)
    table = torch.zeros(2, 7, 16, dtype=dtype)
    for bad in (math.nan, math.inf):
        x = random(2, 7, 16)
        x[1, 3, 5] = bad
        ones = torch.ones(16)
        y = ModulatedNorm.apply(x, table, table, ones, ones, rows, lib)
        assert y[1, 3].isnan().all() and y.isnan().sum() == 16
        assert not Residual.apply(x, table, table, rows, lib)[1, 3, 5].isfinite()
        assert not Gelu.apply(x.to(dtype), lib)[1, 3, 5].isfinite()
        qkv = random(2, 7, 48)
        qkv[1, 3, 5] = bad
        out = CausalAttention.apply(qkv.to(dtype), torch.ones(4, 8), 2, lib)
        assert out[1, 3, :8].isnan().all() and out[0].isfinite().all()
        assert out[1, :3].isfinite().all(), "nothing looks ahead"


# The block


def gradients(model, batch, bf16):
    """Logits and all gradients of one pass, as one vector of float32."""
    model.zero_grad()
    tokens, condition, orders = batch
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(tokens, condition, orders)
    rar_loss(logits, tokens, orders).backward()
    return torch.cat([x.detach().float().flatten()
                      for x in (logits, *(p.grad for p in model.parameters()))])  # fmt: skip


def use(model, forward):
    for block in model.blocks:
        block.forward = MethodType(forward, block)


def ways(model):
    head_dim = model.config.hidden_size // model.config.num_heads
    yield fast_block
    if compiler() is not None:
        yield partial(compiled_block, library=library(head_dim))


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["adaln", "plain"])
@pytest.mark.parametrize("images", [4, 32])  # 32 images of 11 classes share their conditioning
def test_quick_blocks_compute_the_same(images, changes):
    """In float32 up to rounding; in bf16 no further from float32 than the plain blocks are."""
    model, batch = grown_model(**changes), made_up_batch(images)
    exact, plain = gradients(model, batch, False), gradients(model, batch, True)
    for forward in ways(model):
        use(model, forward)
        assert torch.allclose(gradients(model, batch, False), exact, rtol=1e-4, atol=1e-6)
        quick = gradients(model, batch, True)
        assert (quick - exact).norm() < 1.25 * (plain - exact).norm() < 0.05 * exact.norm()


@needs_compiler
@pytest.mark.parametrize("bf16", [False, True])
def test_the_number_of_threads_changes_no_bit_between_the_products(bf16, set_threads):
    """Each sum belongs to one thread, and so it is added up in one order."""
    dtype, rows = torch.bfloat16 if bf16 else torch.float32, torch.arange(32) % 11
    x, table, ones = random(32, 51, 64), random(11, 51, 64).to(dtype), torch.ones(64)
    qkv, norms = random(32, 51, 192).to(dtype), random(4, 16)
    results = []
    for threads in (1, 3, 3):
        set_threads(threads)
        given = [t.clone().requires_grad_() for t in (x, table, ones, qkv, norms)]
        y = ModulatedNorm.apply(*given[:2], given[1], given[2], ones, rows, library(16))
        z = Residual.apply(given[0], y, given[1], rows, library(16))
        out = CausalAttention.apply(given[3], given[4], 4, library(16))
        (z.sum() + (out * y).float().sum()).backward()
        results.append([z, out, *(t.grad for t in given)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@needs_compiler
def test_longer_sequences_and_caches_are_left_to_torch(monkeypatch):
    model, batch = grown_model(), made_up_batch(4)
    exact = gradients(model, batch, False)
    monkeypatch.setattr(quick_blocks, "LONGEST", 50)  # the sequence has 51 entries
    monkeypatch.setattr(quick_blocks, "call", None)
    use_quick_blocks(model, bf16=False)
    assert torch.equal(gradients(model, batch, False), exact)


# Dropout


@pytest.mark.parametrize("length", [1, 2, 51, 258])
def test_short_attention_is_attention(length):
    q, k, v = torch.randn(3, 2, 4, length, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(short_attention(q, k, v), attend(q, k, v), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999999])
def test_quick_dropout(share):
    """The share, the mean, and independence of neighbours, which come from one random number."""
    torch.manual_seed(0)
    x = torch.ones(400_001)
    kept = (quick_dropout(x, share) > 0).float()
    assert abs(kept.mean() - (1 - share)) < 0.003
    if 0 < share < 0.9:
        assert quick_dropout(x, share).unique().tolist() == pytest.approx([0, 1 / (1 - share)])
        for distance in (1, 2, 3, 4):
            both = (kept[distance:] * kept[:-distance]).mean()
            assert abs(both - (1 - share) ** 2) < 0.005
    torch.manual_seed(0)
    assert torch.equal((quick_dropout(x, share) > 0).float(), kept), "it follows from the seed"


def test_short_attention_drops_weights():
    torch.manual_seed(0)
    q, v = torch.zeros(1, 1, 300, 8), torch.ones(1, 1, 300, 8)
    dropped = short_attention(q, q, v, dropout=0.5)
    assert abs(dropped[0, 0, 200:].mean().item() - 1) < 0.05 and dropped.std() > 0.01


@needs_compiler
@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_dropout_drops_in_training_only_and_on_average_nothing(part):
    """After each dropout comes a linear, so the mean over many masks is the branch without."""
    block = grown_model(dropout=0.2).blocks[0]
    lib = library(block.attn.q_norm.weight.numel())
    ours, plain = {
        "attention": (lambda x: compiled_attention(block.attn, x, lib), block.attn),
        "mlp": (lambda x: quick_mlp(block.mlp, x, lambda y: Gelu.apply(y, lib)), block.mlp),
    }[part]
    torch.manual_seed(0)
    x = torch.randn(1, 9, block.norm1.weight.numel())
    with torch.no_grad():
        block.eval()
        assert torch.allclose(ours(x), plain(x), atol=1e-6)
        block.train()
        many = torch.stack([ours(x) for _ in range(1000)])
        block.eval()
        error = (many.mean(0) - plain(x)).abs() / (many.std(0) / math.sqrt(1000) + 1e-6)
    assert many.std(0).min() > 0 and error.max() < 5


# Who uses them


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("has_compiler", [True, False])
def test_quick_blocks_are_used_where_there_are_any(precision, has_compiler, monkeypatch):
    accelerator, model = make_accelerator(precision, cpu=True), grown_model()
    if not has_compiler:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        load_block_kernels.cache_clear()
    elif compiler() is None:
        pytest.skip("there is no C++ compiler")
    with working_blocks(model, DeviceConfig(), accelerator):
        used = [vars(block).get("forward") for block in model.blocks]
    if has_compiler:
        assert all(f.__func__.func is compiled_block for f in used)
    elif precision == "bf16":
        assert all(f.__func__ is fast_block for f in used)
    else:
        assert used == [None] * len(used)
    load_block_kernels.cache_clear()
    with working_blocks(model, DeviceConfig(quick_blocks=False), accelerator):
        assert all(block.forward.__func__ is Block.forward for block in model.blocks)
    assert not any("forward" in vars(block) for block in model.blocks), "no trace is left"


def test_inside_torch_compile_there_is_no_cpp():
    model = RAR(RUN.model)
    use_quick_blocks(model, bf16=False, compiles=True)
    assert not any("forward" in vars(block) for block in model.blocks)
    use_quick_blocks(model, bf16=True, compiles=True)
    assert all(block.forward.__func__ is fast_block for block in model.blocks)


@needs_compiler
def test_other_numbers_are_left_to_torch():
    """The loops know float32 and bf16 only, and second derivatives are refused."""
    model, batch = grown_model().double(), made_up_batch(4)
    tokens, condition, orders = batch
    exact = model(tokens, condition, orders)
    use_quick_blocks(model, bf16=False)
    assert torch.equal(model(tokens, condition, orders), exact)
    x = random(3).requires_grad_()
    (first,) = torch.autograd.grad(Gelu.apply(x, library()).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
