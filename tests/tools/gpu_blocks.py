"""The kernels of 36_gpu_blocks against formulas in float64.

    TRITON_INTERPRET=1 python -m tests.tools.gpu_blocks float32 bfloat16 blocks dropout

prints errors as JSON: relative to the length of the exact result or gradient. With
`RAR_NB_TEST_DEVICE=cuda` in place of the interpreter, the same is computed on a GPU.
"""

import json
import math
import os
import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from rar_nb.runs import gpu_blocks
from rar_nb.runs.gpu_blocks import (
    Dice,
    Gelu,
    Heads,
    Modulate,
    Residual,
    Silu,
    gpu_block,
    gpu_final_norm,
    multiplier,
    read_key,
    roll,
)
from rar_nb.transformer import RAR, Block, Conditioning, FinalNorm, ModelConfig

DEVICE = torch.device(os.environ.get("RAR_NB_TEST_DEVICE", "cpu"))
NONE = Dice(None)
BITS = 2**32 - 1


def mixed(x: int) -> int:
    """lowbias32, as its author gives it."""
    x ^= x >> 16
    x = x * 0x7FEB352D & BITS
    x ^= x >> 15
    x = x * 0x846CA68B & BITS
    return x ^ x >> 16


def faces(seed: int, index: torch.Tensor) -> torch.Tensor:
    """What the dice show, in integers of 64 bits; as 36_gpu_blocks describes the hash."""
    low, high = mixed(seed & BITS), mixed(seed >> 32)
    x = (index & BITS) ^ low
    x = (x ^ (x >> 16)) * 0x7FEB352D & BITS
    x = (x ^ (x >> 15)) ^ ((high + (index >> 32) * 0x9E3779B9) & BITS)
    x = x * 0x846CA68B & BITS
    return (x ^ (x >> 16)) >> 8


def multipliers(dice: Dice, shape) -> torch.Tensor:
    """What dropout multiplies a tensor of this shape by, in float64."""
    if dice.seed is None:
        return torch.ones(shape, dtype=torch.float64, device=DEVICE)
    numbers = faces(int(dice.seed), torch.arange(math.prod(shape))).view(shape)
    return ((numbers >= dice.least) * (2**24 / (2**24 - dice.least))).to(DEVICE)


def random(*shape: int, at: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + 1000 * at)
    return torch.randn(shape, generator=generator).to(DEVICE)


def far(found, exact) -> float:
    return float(((found.double() - exact).norm() / (exact.norm() + 1e-9)).detach())


def both_ways(ours, formula, inputs) -> list[float]:
    """Errors of all values and gradients, for inputs as they are and in float64."""
    given = [x.detach().clone().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    values = [x if isinstance(x, tuple) else (x,) for x in (ours(*given), formula(*exact))]
    weights = [random(*x.shape, at=1) for x in values[1]]
    for result in values:
        sum((x.to(x.dtype) * w.to(x.dtype)).sum() for x, w in zip(result, weights)).backward()
    grads = [far(a.grad, b.grad) for a, b in zip(given, exact)]
    return [*map(far, *values), *grads]


# Each function


def layer_norm(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias, 1e-6)


def modulated_errors(images, n, width, dtype, dropout):
    """All three functions that share a table, and all that they hand on."""
    first, last = roll(dropout, DEVICE, 2)
    shape = images, n, width

    def with_bias(x, bias):
        return x + bias.to(x.dtype).detach()

    def ours(x, p, q, table, b1, b2, b3, bp, bq, w1, v1, w2, v2):
        table = with_bias(table, torch.cat([b1, b2, b3]))
        y, x, table = Modulate.apply(x, None, None, table, b1, (0, 0, 1), w1, v1, NONE)
        z, x, table = Modulate.apply(
            x, with_bias(p, bp), bp, table, b2, (2, 3, 4), w2, v2, first)
        return y, z, Residual.apply(x, with_bias(q, bq), bq, table, b3, 5, last)

    def formula(x, p, q, table, b1, b2, b3, bp, bq, w1, v1, w2, v2):
        s1, c1, g1, s2, c2, g2 = (table + torch.cat([b1, b2, b3])).chunk(6, -1)
        y = layer_norm(x, w1, v1) * (1 + c1) + s1
        x = x + g1 * multipliers(first, shape) * (p + bp)
        z = layer_norm(x, w2, v2) * (1 + c2) + s2
        return y, z, x + g2 * multipliers(last, shape) * (q + bq)

    vectors = [random(parts * width, at=parts) for parts in (2, 3, 1, 1, 1)]
    norms = [1 + random(width, at=2) / 8, random(width), 1 + random(width, at=3) / 8, random(width)]
    inputs = [random(*shape), random(*shape, at=2).to(dtype), random(*shape, at=3).to(dtype),
              random(images, n, 6 * width).to(dtype), *vectors, *norms]  # fmt: skip
    return both_ways(ours, formula, inputs)


def last_norm_errors(images, n, width, dtype):
    def ours(x, table, bias):
        table = table + bias.to(dtype).detach()
        return Modulate.apply(x, None, None, table, bias, (0, 1, 0), None, None, NONE)[0]

    def formula(x, table, bias):
        scale, shift = (table + bias).chunk(2, -1)
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    inputs = random(images, n, width), random(images, n, 2 * width).to(dtype), random(2 * width)
    return both_ways(ours, formula, inputs)


def gelu_errors(images, n, width, dtype, dropout):
    (dice,) = roll(dropout, DEVICE)
    return both_ways(
        lambda x, bias: Gelu.apply(x + bias.to(dtype).detach(), bias, dice),
        lambda x, bias: F.gelu(x + bias) * multipliers(dice, x.shape),
        [3 * random(images, n, width).to(dtype), random(width)])  # fmt: skip


def heads_errors(images, n, heads, d, dtype):
    def formula(x, bias, norms):
        q, k, v = (x + bias).view(images, n, 3, heads, d).permute(2, 0, 3, 1, 4)
        return layer_norm(q, norms[0], norms[1]), layer_norm(k, norms[2], norms[3]), v

    return both_ways(
        lambda x, bias, norms: Heads.apply(x + bias.to(dtype).detach(), bias, norms), formula,
        [random(images, n, 3 * heads * d).to(dtype), random(3 * heads * d),
         1 + random(4, d) / 8])  # fmt: skip


def functions(name: str) -> list:
    """(what, in which precision, errors) for sizes that end nowhere evenly. With the interpreter,
    32 programs share the rows of narrow tensors and two those of RAR-XXL's."""
    found, dtype = [], getattr(torch, name)
    sizes = (2, 17, 3, 16, 0.25), (3, 1, 5, 7, 0.0), (1, 2, 16, 48, 0.1), (1, 3, 16, 88, 0.25)
    for images, n, heads, d, dropout in sizes:
        width = heads * d
        what = f"{images} × {n}, {heads} heads of {d}, dropout {dropout}"
        ours = modulated_errors(images, n, width, dtype, dropout)
        found.append((f"norms and residuals, {what}", name, ours))
        ours = gelu_errors(images, n, 4 * width - 1, dtype, dropout)
        found.append((f"gelu, {what}", name, ours))
        found.append((f"last norm, {what}", name, last_norm_errors(images, n, width, dtype)))
        found.append((f"heads, {what}", name, heads_errors(images, n, heads, d, dtype)))
    found.append(("silu", name, both_ways(
        lambda x: Silu.apply(x, dtype), F.silu, [3 * random(3, 700)])))  # fmt: skip
    return found


# The block


def made_up_block(images, n, heads, d, hidden, rows=None, dropout=0.0):
    """A block and a last norm whose parameters have grown; what they read; and weights."""
    width = heads * d
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RAR(ModelConfig(8, 16, 2, width, 1, heads, hidden, dropout=dropout))
        for p in model.parameters():
            p.data += torch.randn_like(p) / (1 if p.ndim == 1 else 2 * math.sqrt(width))
    vectors = random(images if rows is None else 1 + max(rows), n, width, at=1)
    rows = None if rows is None else torch.tensor(rows, device=DEVICE)
    return model.to(DEVICE).train(), random(images, n, width), vectors, rows


def gradients(made, ways, dtype=torch.float32, bf16=False) -> dict[str, torch.Tensor]:
    """Results and gradients of a block and a last norm."""
    model, x, vectors, rows = made
    parts = dict(block=model.blocks[0], final=model.adaln_before_head)
    model.to(dtype).zero_grad()
    x, vectors = (t.detach().to(dtype).requires_grad_() for t in (x, vectors))
    torch.manual_seed(1)  # what is dropped
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        out = ways[0](parts["block"], x, Conditioning(vectors, rows))
        last = ways[1](parts["final"], out, Conditioning(vectors, rows))
    assert out.dtype == dtype and last.dtype in (torch.bfloat16 if bf16 else dtype, dtype)
    ((out + last) * random(*out.shape, at=2).to(dtype)).sum().backward()
    found = dict(out=out.detach(), last=last.detach(), x=x.grad, vectors=vectors.grad)
    for part, module in parts.items():
        found |= {f"{part}.{name}": p.grad for name, p in module.named_parameters()}
    return {name: value.clone() for name, value in found.items() if "k_norm.bias" not in name}


def formula_with_dropout(block, x, c):
    """`Block.forward` with the decisions of `roll`, and no dropout in attention."""
    first, second, third = roll(block.mlp.dropout, DEVICE, 3)
    shift1, scale1, gate1, shift2, scale2, gate2 = c.modulation(block.adaLN_modulation, 6)
    attn, mlp, rate = block.attn, block.mlp, block.attn.dropout
    attn.dropout = 0.0
    branch = attn(block.norm1(x) * (1 + scale1) + shift1)
    attn.dropout = rate
    x = x + gate1 * branch * multipliers(first, x.shape)
    hidden = F.gelu(mlp.fc1(block.norm2(x) * (1 + scale2) + shift2))
    hidden = hidden * multipliers(second, hidden.shape)
    return x + gate2 * mlp.fc2(hidden) * multipliers(third, x.shape)


def without_dropout(q, k, v, dropout):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def errors(found, exact) -> list[float]:
    return [far(found[name], exact[name]) for name in exact]


def blocks() -> list:
    """As `functions`, for whole blocks; in bf16 with the errors of torch after ours."""
    ours, plain = (gpu_block, gpu_final_norm), (Block.forward, FinalNorm.forward)
    found = []
    sizes = (2, 5, 3, 16, 100, None), (3, 3, 5, 8, 64, [1, 0, 1]), (1, 2, 16, 88, 300, None)
    for images, n, heads, d, hidden, rows in sizes:
        made = made_up_block(images, n, heads, d, hidden, rows)
        exact = gradients(made, plain, torch.float64)
        name = f"block, {images} × {n}, {heads} heads of {d}, rows {rows}"
        found.append((name, "float32", errors(gradients(made, ours), exact)))
        quick = errors(gradients(made, ours, bf16=True), exact)
        found.append((name, "bfloat16", quick, errors(gradients(made, plain, bf16=True), exact)))
    return found


def blocks_with_dropout() -> list:
    """As `blocks`; and the same once more with checkpointing, to the last bit."""
    ours, found = (gpu_block, gpu_final_norm), []
    made = made_up_block(2, 7, 3, 16, 100, dropout=0.3)
    attend, gpu_blocks.attend = gpu_blocks.attend, without_dropout
    exact = gradients(made, (formula_with_dropout, FinalNorm.forward), torch.float64)
    found.append(("block with dropout", "float32", errors(gradients(made, ours), exact)))
    gpu_blocks.attend = attend
    again = partial(checkpoint, gpu_block, use_reentrant=False)
    once = {name: value.double() for name, value in gradients(made, ours).items()}
    twice = gradients(made, (again, gpu_final_norm))
    found.append(("block that is computed again", "float32", errors(twice, once)))
    return found


# Dropout

if gpu_blocks.triton is not None:
    import triton
    import triton.language as tl

    @triton.jit
    def show(seed, first, least, out, SIZE: tl.constexpr):
        column = tl.arange(0, SIZE)
        low, high = read_key(seed, True)
        start = tl.load(first)
        tl.store(out + column, multiplier(low, high, start, column, least, True))


def dropout() -> list:
    """Of the kernels' decisions and those of `faces`, how many differ; also far into a tensor."""
    found = []
    for seed in (0, 1, 2**40 + 12345, 2**63 - 1):
        for first in (0, 1000, 2**31 - 100, 2**32, 5 * 2**32 + 2**31 + 7):
            out, least = torch.empty(512, device=DEVICE), round(0.3 * 2**24)
            numbers = torch.tensor([[seed], [first]], device=DEVICE)
            show[1,](numbers[0], numbers[1], least, out, SIZE=512)
            exact = (faces(seed, first + torch.arange(512)) >= least) / 0.7
            wrong = (out.cpu() - exact).abs().max().item()
            found.append((f"seed {seed}, number {first}", "float32", [wrong]))
    return found


if __name__ == "__main__":
    names = dict(
        float32=partial(functions, "float32"), bfloat16=partial(functions, "bfloat16"),
        blocks=blocks, blocks_with_dropout=blocks_with_dropout, dropout=dropout)  # fmt: skip
    print(json.dumps([result for name in sys.argv[1:] for result in names[name]()]))
