"""The quick blocks against plain torch: values, gradients, special cases, and who uses them."""

import math
import shutil
from functools import partial
from types import MethodType

import pytest
import torch
import torch.nn.functional as F

from rar_nb.compiled import call, compiler
from rar_nb.pretrained.presets import DeviceConfig, get_preset
from rar_nb.runs import quick_blocks
from rar_nb.runs.devices import make_accelerator, twin, working_blocks
from rar_nb.runs.quick_blocks import (
    GatedAttention,
    GatedMLP,
    Loops,
    compiled_block,
    fast_block,
    load_block_kernels,
    present_conditions,
    quick_dropout,
    roll,
    short_attention,
    use_quick_blocks,
)
from rar_nb.transformer import RAR, Block, Conditioning, attend, rar_loss
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


# The two halves of a block against their formulas


def layer_norm(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias, 1e-6)


def multipliers(shape, dropout):
    """What dropout multiplies the next numbers by: 0, or a number that keeps the mean."""
    dice, least = roll(shape, dropout)
    if dice is None:
        return torch.ones(shape)
    share = (least + 2**15) / 2**16
    return (dice >= least) / (1 - share)


def attention_formula(rows, heads, dropout, x, table, weight, bias, w1, b1, norms, w2, b2):
    """x + gate ⊙ (W_o Attention(W_qkv y + b_qkv) + b_o), as 35_quick_blocks writes it."""
    (b, n, width), d = x.shape, norms.shape[1]
    shift, scale, gate = table[rows].chunk(3, -1)
    y = (1 + scale) * layer_norm(x, weight, bias) + shift
    q, k, v = (y @ w1.T + b1).view(b, n, 3, heads, d).permute(2, 0, 3, 1, 4)
    q, k = layer_norm(q, norms[0], norms[1]), layer_norm(k, norms[2], norms[3])
    hidden = torch.full((n, n), -math.inf, dtype=x.dtype).triu(1)
    weights = (q @ k.transpose(2, 3) / math.sqrt(d) + hidden).softmax(-1)
    weights = weights * multipliers(weights.shape, dropout)
    branch = (weights @ v).transpose(1, 2).reshape(b, n, width) @ w2.T + b2
    return x + gate * (branch * multipliers((b * n, width), dropout).view(branch.shape))


def mlp_formula(rows, dropout, x, table, weight, bias, w1, b1, w2, b2):
    """x + gate ⊙ (W₂ GELU(W₁ y + b₁) + b₂), as 35_quick_blocks writes it."""
    shift, scale, gate = table[rows].chunk(3, -1)
    hidden = F.gelu(((1 + scale) * layer_norm(x, weight, bias) + shift) @ w1.T + b1)
    entries = len(x) * x.shape[1]
    hidden = hidden * multipliers((entries, len(w1)), dropout).view(hidden.shape)
    branch = hidden @ w2.T + b2
    return x + gate * (branch * multipliers((entries, len(b2)), dropout).view(branch.shape))


def attention_inputs(images, length, heads, d, table_rows):
    width = heads * d
    return [random(images, length, width), random(table_rows, length, 3 * width),
            1 + 0.1 * random(width), random(width).flip(0),
            random(3 * width, width) / math.sqrt(width), random(3 * width),
            random(4, d), random(width, width).T.contiguous(), 3 * random(width)]  # fmt: skip


def mlp_inputs(images, length, width, hidden, table_rows):
    return [random(images, length, width), random(table_rows, length, 3 * width),
            1 + 0.1 * random(width), random(width).flip(0),
            random(hidden, width) / math.sqrt(width), random(hidden),
            random(width, hidden) / math.sqrt(hidden), 3 * random(width)]  # fmt: skip


def half_errors(ours, formula, inputs, rows):
    """As `both_ways`, for a half of a block: the table's rows come after the table."""

    def seeded(function):
        def run(x, table, *others):
            torch.manual_seed(1)  # what is dropped
            return function(x, table, *others)

        return run

    return both_ways(
        seeded(lambda x, table, *others: ours(x, table, rows, *others)),
        seeded(formula), inputs)  # fmt: skip


def attention_errors(inputs, rows, heads, dropout=0.0):
    lib = library(inputs[6].shape[1])
    return half_errors(
        lambda *given: GatedAttention.apply(*given, heads, dropout, lib),
        partial(attention_formula, rows, heads, dropout), inputs, rows)  # fmt: skip


def mlp_errors(inputs, rows, dropout=0.0):
    return half_errors(
        lambda *given: GatedMLP.apply(*given, dropout, library()),
        partial(mlp_formula, rows, dropout), inputs, rows)  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("head_dim", [8, 20, 33, 48])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 51, 258])
def test_attention(head_dim, length):
    inputs = attention_inputs(images=2, length=length, heads=3, d=head_dim, table_rows=2)
    errors = attention_errors(inputs, torch.arange(2), heads=3)
    of_norms = errors.pop(7)
    assert max(errors) < 1e-4 and errors[0] < 1e-5
    assert of_norms < 1e-4 or length == 1  # a single entry sees itself, whatever the norms are


@needs_compiler
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("width", [8, 33, 128])
def test_mlp(width, shared):
    """Images may share the rows of a table, and then their gradients are added up."""
    rows = torch.tensor([2, 0, 2, 2, 1]) if shared else torch.arange(5)
    # The table's last row belongs to nobody.
    inputs = mlp_inputs(5, 19, width, hidden=3 * width + 1, table_rows=int(rows.max()) + 2)
    assert max(mlp_errors(inputs, rows)) < 1e-5


@needs_compiler
def test_attention_with_shared_rows():
    rows = torch.tensor([2, 0, 2, 2, 1])
    inputs = attention_inputs(5, 19, heads=4, d=8, table_rows=4)
    assert max(attention_errors(inputs, rows, heads=4)) < 1e-4


@needs_compiler
@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("length", [1, 3, 19, 51])
def test_gradients_with_dropout(length, dropout):
    """Whatever is dropped in the forward pass is dropped in the backward pass, too."""
    rows = torch.tensor([1, 0, 1])
    inputs = attention_inputs(3, length, heads=2, d=8, table_rows=2)
    errors = attention_errors(inputs, rows, 2, dropout)
    assert all(error < 1e-4 for k, error in enumerate(errors) if k != 7 or length > 1)
    assert max(mlp_errors(mlp_inputs(3, length, 16, 40, table_rows=2), rows, dropout)) < 1e-5


@needs_compiler
def test_gelu():
    """The value, and the derivative in the place of the input."""
    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.tensor([0.0, -1e30, 1e30, 88.0])])
    exact = x.double().requires_grad_()
    F.gelu(exact).sum().backward()
    slope, value = x.clone()[:, None], torch.empty(len(x), 1)
    call(library(), "gelu", x.dtype, slope, torch.zeros(1), None, 0, value, len(x), 1)
    assert (value[:, 0] - F.gelu(x.double())).abs().max() < 1e-6
    assert (slope[:, 0] - exact.grad).abs().max() < 2e-6


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_not_hidden(dtype):
    """A run that diverges is noticed by its loss."""
    lib, rows, ones = library(), torch.arange(2), torch.ones(16)
    loops = Loops(lib, torch.zeros(2, 7, 48, dtype=dtype), rows)
    for bad in (math.nan, math.inf):
        x = random(2, 7, 16)
        x[1, 3, 5] = bad
        y, _ = loops.norm(x, ones, ones)
        assert y.view(2, 7, 16)[1, 3].isnan().all() and y.isnan().sum() == 16
        branch = x.flatten(0, 1).to(dtype)
        assert not loops.residual(x, branch, ones, None, 0)[1, 3, 5].isfinite()
        slope, value = branch.clone(), torch.empty_like(branch)
        call(lib, "gelu", dtype, slope, torch.zeros(16), None, 0, value, 14, 16)
        assert not value[10, 5].isfinite() and value.isfinite().sum() == 14 * 16 - 1
        qkv, out = random(2, 7, 48), torch.empty(2, 7, 16, dtype=dtype)
        qkv[1, 3, 5] = bad
        call(lib, "attention", dtype, qkv.to(dtype), torch.zeros(48), torch.ones(4, 8), None, 0,
             out, 2, 2, 7)  # fmt: skip
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


@pytest.mark.parametrize("bf16", [False, True])
def test_weights_with_gaps_between_their_numbers(bf16):
    """Loops step from number to number. All parameters: transposed, or every other number."""
    model, batch = grown_model(), made_up_batch(4)
    for forward in ways(model):
        use(model, forward)
        expected, other = gradients(model, batch, bf16), grown_model()
        for p in other.parameters():
            p.data = p.data.mT.contiguous().mT if p.ndim > 1 else p.data.repeat_interleave(2)[::2]
        use(other, forward)
        found = gradients(other, batch, bf16)
        assert torch.allclose(
            found, expected, rtol=0.02 if bf16 else 1e-5, atol=1e-3 if bf16 else 1e-6
        )


@needs_compiler
@pytest.mark.parametrize("images", [4, 32])
def test_the_whole_quick_model_computes_the_same(images):
    """Its last norm, too."""
    model, batch = grown_model(), made_up_batch(images)
    exact, plain = gradients(model, batch, False), gradients(model, batch, True)
    use_quick_blocks(model, bf16=True)
    assert "forward" in vars(model.adaln_before_head)
    assert torch.allclose(gradients(model, batch, False), exact, rtol=1e-4, atol=1e-6)
    quick = gradients(model, batch, True)
    assert (quick - exact).norm() < 1.25 * (plain - exact).norm()


@needs_compiler
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_number_of_threads_changes_no_bit_between_the_products(bf16, dropout, set_threads):
    """Each sum belongs to one thread, and so it is added up in one order."""
    dtype, rows, lib = torch.bfloat16 if bf16 else torch.float32, torch.arange(32) % 11, library(16)
    table, ones, x = random(11, 51, 192).to(dtype), torch.ones(64), random(32, 51, 64)
    branch, dout = random(32 * 51, 64).to(dtype), random(32, 51, 64).flip(0)
    qkv, norms, loops = random(32, 51, 192).to(dtype), random(4, 16), Loops(lib, table, rows)
    dice, least = roll((32, 51, 64), dropout)
    of_weights, _ = roll((32, 4, 51, 51), dropout)
    results = []
    for threads in (1, 3, 3):
        set_threads(threads)
        y, stats = loops.norm(x, ones, ones)
        out = loops.residual(x, branch, ones, dice, least)
        dbranch, dtable = loops.residual_back(branch, ones, dice, least, dout)
        gradients = loops.norm_back(x, ones, ones, stats, y, dout, dtable)
        slope, value = branch.clone(), torch.empty_like(branch)
        loops.call("gelu", slope, ones, dice, least, value, *slope.shape)
        mixed, dqkv, dnorms = torch.empty_like(y), torch.empty_like(qkv), torch.zeros(128, 4, 16)
        given = qkv, torch.ones(192), norms, of_weights, least
        loops.call("attention", *given, mixed, 32, 4, 51)
        loops.call("attention_back", *given, branch, dqkv, dnorms, 32, 4, 51)
        results.append([y, out, dbranch, *gradients, slope, value, mixed, dqkv, dnorms])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@needs_compiler
def test_longer_sequences_are_left_to_torch(monkeypatch):
    model, batch = grown_model(), made_up_batch(4)
    exact = gradients(model, batch, False)
    monkeypatch.setattr(quick_blocks, "LONGEST", 50)  # the sequence has 51 entries
    for half in ("GatedAttention", "GatedMLP"):
        monkeypatch.setattr(quick_blocks, half, None)
    use_quick_blocks(model, bf16=False)
    assert torch.allclose(gradients(model, batch, False), exact, rtol=1e-4, atol=1e-6)


class Memory:
    """A cache that has seen nothing yet."""

    def extend(self, k, v):
        return k, v


@needs_compiler
def test_steps_of_sampling_are_left_to_torch(monkeypatch):
    model = grown_model()
    block, d = model.blocks[0], model.config.hidden_size
    x, c = torch.randn(2, 3, d), Conditioning(torch.randn(2, 3, d))
    exact = block(x, c, Memory())
    monkeypatch.setattr(quick_blocks, "GatedAttention", None)
    use_quick_blocks(model, bf16=False)
    assert torch.equal(block(x, c, Memory()), exact)


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


@pytest.mark.parametrize("way", [fast_block, "compiled"])
def test_dropout_drops_in_training_only_and_on_average_nothing(way):
    """After each dropout comes a linear, so the mean over many masks is the branch without.

    With two branches in a row that is not so: one of them has a gate of 0 at a time."""
    model = grown_model(dropout=0.2)
    if way == "compiled":
        if compiler() is None:
            pytest.skip("there is no C++ compiler")
        head_dim = model.config.hidden_size // model.config.num_heads
        way = partial(compiled_block, library=library(head_dim))
    block, d = model.blocks[0], model.config.hidden_size
    c = Conditioning(torch.randn(1, 9, d, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(1, 9, d, generator=torch.Generator().manual_seed(1))
    for closed in (slice(2 * d, 3 * d), slice(5 * d, 6 * d)):  # the gate of attention, of the MLP
        linear = block.adaLN_modulation[1]
        kept = linear.weight.data.clone(), linear.bias.data.clone()
        linear.weight.data[closed] = linear.bias.data[closed] = 0
        with torch.no_grad():
            plain = Block.forward(block.eval(), x, c)
            assert torch.allclose(way(block, x, c), plain, atol=1e-6)
            block.train()
            torch.manual_seed(0)
            many = torch.stack([way(block, x, c) for _ in range(1000)])
            error = (many.mean(0) - plain).abs() / (many.std(0) / math.sqrt(1000) + 1e-6)
        assert many.std(0).min() > 0 and error.max() < 5
        linear.weight.data, linear.bias.data = kept


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
    traces = {"forward", "conditions"}
    assert not any(traces & set(vars(module)) for module in model.modules()), "no trace is left"


def test_only_the_classes_of_the_batch_get_vectors():
    """Each image's vectors are those that it had before."""
    model = grown_model()
    condition = model.config.condition_id(torch.tensor([7, 3, 3, 7, 0, 3] * 3))
    condition[5] = model.config.null_id
    found, usual = present_conditions(model, condition), model.conditions(condition)
    assert len(found.vectors) == 4 < len(usual.vectors) == model.config.num_classes + 1
    assert torch.equal(found.vectors[found.rows], usual.vectors[usual.rows])
    assert present_conditions(grown_model(adaln=False), condition) is None


def test_twins_compute_only_the_classes_of_their_images_too():
    model = grown_model()
    use_quick_blocks(model, bf16=True)
    copy = twin(model)
    conditions = [m.conditions for m in (model, copy)]
    assert [m.__self__ for m in conditions] == [model, copy]
    assert all(m.__func__ is present_conditions for m in conditions)


def test_what_others_have_wrapped_stays_wrapped():
    """accelerate, too, gives the whole model a `forward` of its own."""
    model = grown_model()
    model.forward = theirs = MethodType(RAR.forward, model)
    with working_blocks(model, DeviceConfig(), make_accelerator("no", cpu=True)):
        assert "forward" not in vars(twin(model)), "only quick parts are handed on"
    assert vars(model)["forward"] is theirs


def test_inside_torch_compile_there_is_no_cpp():
    model = RAR(RUN.model)
    use_quick_blocks(model, bf16=False, compiles=True)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert "conditions" not in vars(model), "all batches have the same shapes"
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
    inputs = [x.requires_grad_() for x in mlp_inputs(1, 2, 8, 8, table_rows=1)]
    y = GatedMLP.apply(*inputs[:2], torch.zeros(1, dtype=torch.int64), *inputs[2:], 0.0, library())
    (first,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
