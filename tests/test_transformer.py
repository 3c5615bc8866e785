"""The transformer against formulas, closed forms and properties that any causal model has."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rar_nb.orders import permute, sample_orders, unpermute
from rar_nb.pretrained.presets import PRESETS
from rar_nb.sampler import GrowingCache
from rar_nb.support import InvalidValue
from rar_nb.transformer import (
    MLP,
    RAR,
    Attention,
    Block,
    Conditioning,
    FinalNorm,
    ModelConfig,
    attend,
    rar_loss,
)
from tests.doors import refuses

ours = settings(deadline=None, max_examples=30, derandomize=True)
seeds = st.integers(0, 2**32 - 1)

L, V, C, D, HEADS = 9, 11, 5, 24, 3
CONFIG = ModelConfig(
    codebook_size=V,
    num_tokens=L,
    num_classes=C,
    hidden_size=D,
    num_layers=2,
    num_heads=HEADS,
    mlp_size=40,
)


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that hide nothing: a new model's adaLN is zero and its blocks are the identity."""
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    return module.double().eval().requires_grad_(False)


MODEL = randomize(RAR(CONFIG))


def inputs(seed: int, batch: int, shared: bool = False):
    """Tokens, conditions (classes and the null class) and orders."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (batch, L), generator=generator)
    condition = CONFIG.condition_id(0) + torch.randint(C + 1, (batch,), generator=generator)
    orders = torch.rand(1 if shared else batch, L, generator=generator).argsort(1)
    return tokens, condition, orders


# Sizes


def test_rows_of_the_embedding_table():
    """Tokens 0 … 10, an unused mask token 11, classes 12 … 16, the null class 17."""
    assert [CONFIG.condition_id(c) for c in (0, C - 1)] == [12, 16]
    assert (CONFIG.null_id, CONFIG.num_embeddings, CONFIG.grid_size) == (17, 18, 3)
    assert torch.equal(CONFIG.condition_id(torch.arange(2)), torch.tensor([12, 13]))


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("num_tokens", 50, "a square number"),
        ("num_heads", 7, "a multiple of num_heads = 7"),
        ("codebook_size", 0, "at least 1"),
        ("hidden_size", 64.0, "a whole number"),
        ("dropout", 1.0, "below 1"),
        ("dropout", float("nan"), "must be"),
    ],
)
def test_sizes_are_checked(name, value, allowed):
    with pytest.raises(InvalidValue, match=allowed):
        ModelConfig(**{name: value})


# Layers against their formulas


def attention_by_hand(layer: Attention, x: torch.Tensor) -> torch.Tensor:
    """Head by head and entry by entry, from the formula."""
    n, d = len(x), D // HEADS
    q, k, v = (layer.qkv(x).view(n, 3, HEADS, d)[:, part] for part in range(3))
    out = torch.zeros(n, HEADS, d, dtype=x.dtype)
    for head in range(HEADS):
        for i in range(n):
            scores = [
                layer.q_norm(q[i, head]) @ layer.k_norm(k[j, head]) / math.sqrt(d)
                for j in range(i + 1)
            ]
            weights = torch.stack(scores).softmax(0)
            out[i, head] = sum(w * v[j, head] for j, w in enumerate(weights))
    return layer.proj(out.view(n, D))


@ours
@given(seed=seeds, n=st.integers(1, 8))
def test_attention_is_the_formula(seed, n):
    layer = randomize(Attention(CONFIG))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, D, dtype=torch.float64, generator=generator)
    expected = torch.stack([attention_by_hand(layer, image) for image in x])
    torch.testing.assert_close(layer(x), expected)


def test_a_single_query_sees_every_key():
    q, k, v = torch.randn(3, 1, 2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(attend(q[:, :, -1:], k, v), attend(q, k, v)[:, :, -1:])


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_scores_stay_bounded_however_large_the_weights(scale):
    """Without a learned scale, |q̂| = |k̂| = √d, so softmax weights differ by e^(2√d) at most."""
    layer = Attention(CONFIG).double()
    layer.qkv.weight.data *= scale
    q, k, _ = layer.qkv(torch.randn(50, D, dtype=torch.float64)).view(50, 3, HEADS, -1).unbind(1)
    scores = torch.einsum("ihd,jhd->hij", layer.q_norm(q), layer.k_norm(k))
    d = D // HEADS
    assert scores.abs().max() / math.sqrt(d) <= math.sqrt(d)


def test_mlp_is_the_formula():
    layer, x = randomize(MLP(CONFIG)), torch.randn(4, D, dtype=torch.float64)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    torch.testing.assert_close(layer(x), hidden @ layer.fc2.weight.T + layer.fc2.bias)


def test_block_is_the_formula():
    """The released split: shift, scale, gate of the attention, then of the MLP."""
    block = randomize(Block(CONFIG))
    x, c = torch.randn(2, 3, L, D, dtype=torch.float64)
    linear = block.adaLN_modulation[1]
    beta1, gamma1, alpha1, beta2, gamma2, alpha2 = (
        F.silu(c) @ linear.weight[part * D : (part + 1) * D].T
        + linear.bias[part * D : (part + 1) * D]
        for part in range(6)
    )
    h = x + alpha1 * block.attn((1 + gamma1) * block.norm1(x) + beta1)
    expected = h + alpha2 * block.mlp((1 + gamma2) * block.norm2(h) + beta2)
    torch.testing.assert_close(block(x, Conditioning(c)), expected)


def test_the_last_norm_reads_its_scale_first():
    norm = FinalNorm(CONFIG).requires_grad_(False)
    linear = norm.adaLN_modulation[1]
    linear.weight.zero_()
    linear.bias.copy_(torch.cat([torch.full((D,), 2.0), torch.full((D,), 0.5)]))
    x = torch.randn(2, 4, D)
    expected = 3 * F.layer_norm(x, [D], eps=1e-6) + 0.5
    torch.testing.assert_close(norm(x, Conditioning(torch.randn(2, 4, D))), expected)


# The model


@ours
@given(
    seed=seeds,
    batch=st.integers(1, 3),
    step=st.integers(0, L - 1),
    change=st.integers(1, V - 1),
    shared=st.booleans(),
)
def test_a_token_changes_nothing_before_it(seed, batch, step, change, shared):
    """The token of step k is seen by the logits of step k + 1 and later ones, in any order."""
    tokens, condition, orders = inputs(seed, batch, shared)
    changed = permute(tokens, orders)
    changed[:, step] = (changed[:, step] + change) % V
    changed = unpermute(changed, orders.expand(batch, -1))
    before, after = (MODEL(t, condition, orders) for t in (tokens, changed))
    assert torch.equal(before[:, : step + 1], after[:, : step + 1])
    moved = (before - after)[:, step + 1 :].abs().amax(2)
    assert (moved > 1e-9).all()


@ours
@given(seed=seeds, batch=st.integers(1, 3))
def test_an_order_acts_through_the_position_tables_alone(seed, batch):
    """Rename all places, in the tokens, the tables and the orders: the logits stay."""
    tokens, condition, orders = inputs(seed, batch)
    renamed = torch.randperm(L, generator=torch.Generator().manual_seed(seed))
    other = RAR(CONFIG).double().eval().requires_grad_(False)
    other.load_state_dict(MODEL.state_dict())
    for table in ("pos_embed", "target_aware_pos_embed"):
        getattr(other, table)[0, 2 + renamed] = getattr(MODEL, table)[0, 2 : 2 + L]
    moved = torch.empty_like(tokens)
    moved[:, renamed] = tokens
    assert torch.equal(other(moved, condition, renamed[orders]), MODEL(tokens, condition, orders))


@ours
@given(seed=seeds, batch=st.integers(1, 4), shared=st.booleans())
def test_one_entry_at_a_time_with_a_cache_is_the_whole_sequence(seed, batch, shared):
    tokens, condition, orders = inputs(seed, batch, shared)
    cache = [GrowingCache() for _ in MODEL.blocks]
    positions, c = MODEL.positions(orders), MODEL.conditions(condition)
    entries = [MODEL.start(condition), *MODEL.embeddings(permute(tokens, orders)).split(1, 1)]
    features, s = [], 0
    for entry in entries:
        here = slice(s, s + entry.shape[1])
        vectors = Conditioning(c.vectors[:, here])
        features.append(MODEL.features(entry + positions[:, here], vectors, cache))
        s = here.stop
    logits = MODEL.lm_head(torch.cat(features, 1))[:, 1:]
    assert cache[-1].keys.shape[2] == L + 2
    torch.testing.assert_close(logits, MODEL(tokens, condition, orders))


@ours
@given(seed=seeds, batch=st.integers(C + 2, 20))
def test_images_of_a_class_may_share_their_conditioning(seed, batch):
    tokens, condition, orders = inputs(seed, batch)
    c = MODEL.conditions(condition)
    assert len(c.vectors) == C + 1 and len(c.rows) == batch
    alone = [
        MODEL(tokens[b : b + 1], condition[b : b + 1], orders[b : b + 1]) for b in range(batch)
    ]
    assert MODEL.conditions(condition[:1]).rows is None
    torch.testing.assert_close(MODEL(tokens, condition, orders), torch.cat(alone))


def test_sharing_begins_where_it_saves_work():
    assert MODEL.conditions(torch.full((C + 1,), CONFIG.null_id)).rows is None
    assert MODEL.conditions(torch.full((C + 2,), CONFIG.null_id)).rows is not None


def test_fsdp_finds_the_tensors_of_a_conditioning():
    c = Conditioning(torch.randn(2, 3, 4), torch.tensor([0, 1, 1]))
    leaves = torch.utils._pytree.tree_leaves(((c,), {}))
    assert [id(leaf) for leaf in leaves] == [id(c.vectors), id(c.rows)]


def test_a_new_model_is_its_embeddings_and_its_head():
    """All gates are closed: the blocks pass on what they read, and the last norm is plain."""
    torch.manual_seed(0)
    new = RAR(CONFIG).eval().requires_grad_(False)
    tokens, condition, orders = inputs(0, 3)
    x = torch.cat([new.start(condition), new.embeddings(permute(tokens, orders))], 1)
    x = F.layer_norm(x + new.positions(orders), [D], eps=1e-6)
    torch.testing.assert_close(new(tokens, condition, orders), new.lm_head(x)[:, 1:])


def test_initial_weights():
    torch.manual_seed(0)
    for name, p in RAR(CONFIG).named_parameters():
        if "adaLN" in name or name == "cls_token" or name.endswith("bias"):
            assert (p == 0).all(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        else:
            assert abs(p.std().item() - 0.02) < 0.02 * 5 / math.sqrt(2 * p.numel()), name
            assert abs(p.mean().item()) < 0.02 * 5 / math.sqrt(p.numel()), name


def test_dropout_acts_in_training_only():
    model, batch = randomize(RAR(replace(CONFIG, dropout=0.5))), inputs(0, 2)
    assert torch.equal(model(*batch), model(*batch))
    model.train()
    assert not torch.equal(model(*batch), model(*batch))


@pytest.mark.parametrize(
    "change, name",
    [
        ({"tokens": torch.zeros(2, 16, dtype=torch.long)}, "shape of tokens"),
        ({"tokens": torch.zeros(L, dtype=torch.long)}, "shape of tokens"),
        ({"condition": torch.tensor([12])}, "shape of condition"),
        ({"condition": torch.tensor([[12], [12]])}, "shape of condition"),
        ({"orders": torch.arange(L)}, "shape of orders"),
        ({"orders": torch.arange(L).repeat(3, 1)}, "shape of orders"),
    ],
)
def test_wrong_shapes_are_named(change, name):
    tokens, condition, orders = inputs(0, 2)
    with pytest.raises(InvalidValue, match=f"{name} = .* it must be"):
        MODEL(**{"tokens": tokens, "condition": condition, "orders": orders} | change)


# The loss


@ours
@given(seed=seeds, batch=st.integers(1, 3), shared=st.booleans())
def test_loss_token_by_token(seed, batch, shared):
    tokens, _, orders = inputs(seed, batch, shared)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, L + 1, V, generator=generator)
    total = 0.0
    for b in range(batch):
        for step, place in enumerate(orders[b % len(orders)].tolist()):
            total -= logits[b, step].log_softmax(0)[tokens[b, place]].item()
    loss = rar_loss(logits, tokens, orders)
    assert loss.item() == pytest.approx(total / (batch * L), abs=1e-5)
    logits[:, -1] = 1e9  # the output at the last token predicts nothing
    assert torch.equal(rar_loss(logits, tokens, orders), loss)


def test_loss_is_float32_for_logits_of_any_precision():
    tokens, _, orders = inputs(0, 2)
    loss = rar_loss(torch.zeros(2, L + 1, V, dtype=torch.bfloat16), tokens, orders)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(V), abs=1e-6)


@pytest.mark.parametrize("size", [4, 1024])
def test_a_new_model_loses_ln_v(size):
    torch.manual_seed(0)
    model = RAR(
        ModelConfig(
            codebook_size=size,
            num_tokens=16,
            num_classes=10,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            mlp_size=256,
        )
    ).eval()
    tokens, orders = torch.randint(size, (64, 16)), sample_orders(64, 16, 1.0)
    condition = model.config.condition_id(torch.randint(10, (64,)))
    with torch.no_grad():
        loss = rar_loss(model(tokens, condition, orders), tokens, orders)
    assert loss.item() == pytest.approx(math.log(size), abs=0.1)


# Sizes of the published models


@pytest.mark.parametrize(
    "name, millions",
    [  # counted in the authors' implementation
        ("rar_b", 260.92),
        ("rar_l", 461.67),
        ("rar_xl", 955.43),
        ("rar_xxl", 1498.52),
        ("rar_l_llamagen", 493.14),
        ("rar_l_512", 464.03),
    ],
)
def test_parameter_counts(name, millions):
    config = PRESETS[name].model
    with torch.device("meta"):
        counted = sum(p.numel() for p in RAR(config).parameters())
    assert counted / 1e6 == pytest.approx(millions, abs=0.005)
    d, m, head = config.hidden_size, config.mlp_size, config.hidden_size // config.num_heads
    block = 4 * (d * d + d) + (2 * d * m + d + m) + 6 * (d * d + d) + 4 * d + 4 * head
    tables = d * (
        1 + 2 * (config.num_tokens + 1024) + config.num_tokens + 100 + config.num_embeddings
    )
    final = 2 * (d * d + d) + config.codebook_size * (d + 1)
    assert counted == config.num_layers * block + tables + final


# What the doors refuse


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(tokens=[[0] * L]), "it must be an int64 tensor"),
        (dict(tokens=torch.zeros(2, L)), "dtype of tokens = torch.float32"),
        (dict(tokens=torch.full((2, L), V)), f"range of tokens = ({V}, {V})"),
        (dict(condition=torch.tensor([3, 4])), "as `config.condition_id` makes it of a class"),
        (dict(condition=torch.tensor([12, 18])), "range of condition = (12, 18)"),
        (dict(orders=torch.full((1, L), -1)), "range of orders = (-1, -1)"),
        (dict(orders=torch.arange(L, device="meta")[None]), "device of orders = 'meta'"),
        (dict(orders=None), "orders = None"),
    ],
)
def test_the_model_is_a_door(change, words):
    good = dict(zip(("tokens", "condition", "orders"), inputs(0, 2)))
    refuses(lambda: MODEL(**good | change), words)


LOGITS, (TOKENS, _, ORDERS) = torch.zeros(2, L + 1, V), inputs(0, 2)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: RAR(None), "config = None is not allowed: it must be a ModelConfig"),
        (lambda: RAR({"hidden_size": 64}), "it must be a ModelConfig"),
        (lambda: CONFIG.condition_id(C), f"class = {C} is not allowed"),
        (lambda: CONFIG.condition_id(-1), "class = -1"),
        (lambda: CONFIG.condition_id(torch.tensor([0, C])), f"range of classes = (0, {C})"),
        (lambda: CONFIG.condition_id(torch.tensor([0.5])), "whole numbers"),
        (lambda: CONFIG.condition_id("cat"), "class = 'cat'"),
        (lambda: rar_loss(LOGITS[:, 1:], TOKENS, ORDERS), "[B, L + 1, V] and [B, L]"),
        (lambda: rar_loss(LOGITS, TOKENS + V, ORDERS), "the ids that have logits"),
        (lambda: rar_loss(LOGITS, TOKENS.float(), ORDERS), "an int64 tensor"),
        (lambda: rar_loss(LOGITS[:0], TOKENS[:0], ORDERS), "shapes of logits and tokens"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


def test_compiled_code_skips_the_checks():
    """They would break its graph: `fullgraph` raises if anything does."""

    def whole(tokens, condition, orders):
        return rar_loss(MODEL(tokens, condition, orders), tokens, orders)

    compiled = torch.compile(whole, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*inputs(0, 2)), whole(*inputs(0, 2)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32])
def test_rows_of_classes_do_not_wrap_around(dtype):
    rows = ModelConfig().condition_id(torch.tensor([0, 5, 127], dtype=dtype))
    assert rows.dtype == torch.int64 and rows.tolist() == [1025, 1030, 1152]


@pytest.mark.parametrize("name", ["codebook_size", "num_classes"])
def test_tokens_and_labels_fit_into_16_bits(name):
    """As they are stored: what goes beyond would be refused after the work."""
    assert getattr(ModelConfig(**{name: 2**16}), name) == 2**16
    refuses(lambda: ModelConfig(**{name: 2**16 + 1}), f"{name} = 65537 is not allowed")
