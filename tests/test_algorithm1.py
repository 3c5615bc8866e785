"""Algorithm 1: the notebook's listings against the library, and what its text claims of RAR."""

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rar_nb.embeddings import target_ids
from rar_nb.orders import permute, random_ratio, raster_order, sample_orders
from rar_nb.pretrained.presets import MODELS, get_preset, resolve
from rar_nb.trainer import TrainConfig, learning_rate_at, parameter_groups
from rar_nb.transformer import RAR, rar_loss

NOTEBOOK = Path(__file__).parent.parent / "nbs" / "algorithm1.ipynb"
V, L, C, START, END = 8, 49, 10, 200, 300


@pytest.fixture(scope="module")
def listings():
    """What the cells tagged `listing` define."""
    names = dict(torch=torch, nn=nn, random=random)
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if "listing" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), names)
    return names


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randint(V, (32, L)), torch.randint(C, (32,)), sample_orders(32, L, 0.5)


@pytest.fixture
def sketch(listings):
    torch.manual_seed(0)
    return listings["load"](listings["literal"])(V, L, C, 32, START, END)


def test_every_mistake_is_real_and_in_this_order(listings, batch):
    tokens, classes, _ = batch
    source, errors = listings["printed"], []
    for _, wrong, right in listings["mistakes"]:
        with pytest.raises(Exception) as error:  # noqa: B017 (which one is what we want to know)
            listings["load"](source)(V, L, C, 32, START, END)(tokens, classes, 0)
        errors.append(error.type)
        assert source.count(wrong) == 1
        source = source.replace(wrong, right)
    assert errors == [RuntimeError, NameError, AttributeError]
    loss = listings["load"](source)(V, L, C, 32, START, END)(tokens, classes, 0)
    assert abs(loss.item() - math.log(V)) < 0.5


def test_repaired_but_without_a_condition_token_nothing_predicts_the_first_token(listings, batch):
    """In raster order the loss does not depend on token 0 as a label: only as an input."""
    tokens, classes, _ = batch
    source = listings["printed"]
    for _, wrong, right in listings["mistakes"]:
        source = source.replace(wrong, right)
    model = listings["load"](source)(V, L, C, 32, START, END)
    with torch.no_grad():
        model.embed.weight.fill_(0.1)  # inputs no longer depend on the tokens
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % V
    assert model(tokens, classes, END) == model(changed, classes, END)


def test_the_condition_token_predicts_the_first_token(sketch, batch):
    tokens, classes, orders = batch
    assert sketch.predict(tokens, classes, orders).shape == (32, L + 1, V)
    with torch.no_grad():
        sketch.embed.weight.fill_(0.1)
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % V
    assert sketch(tokens, classes, END) != sketch(changed, classes, END)


def test_the_sketch_is_causal(sketch, batch):
    """Output k depends on the class and the first k tokens of the order, and on nothing else."""
    tokens, classes, orders = batch
    changed = tokens.scatter(1, orders[:, 20:], (tokens.gather(1, orders[:, 20:]) + 1) % V)
    a, b = (sketch.predict(x, classes, orders) for x in (tokens, changed))
    torch.testing.assert_close(a[:, :21], b[:, :21])
    assert (a[:, 21:] - b[:, 21:]).abs().amax() > 1e-3
    prefix = sketch.predict(tokens, classes, orders[:, :21])[:, 20]
    torch.testing.assert_close(prefix, a[:, 20])


def test_permute_and_shifted_table_are_the_librarys(sketch, batch):
    tokens, _, orders = batch
    assert torch.equal(sketch.permute(tokens, orders), permute(tokens, orders))
    table = sketch.target_pos_embed.detach()
    rows = F.pad(table[0], (0, 0, 2, 0))  # rows 0 and 1 belong to cls and condition
    shifted = sketch.permute(table.repeat(32, 1, 1), orders)
    assert torch.equal(shifted, rows[target_ids(orders)[:, 1:-1]])


@pytest.mark.parametrize("step", [0, START, START + 25, START + 80, END, 400])
def test_share_of_random_orders_is_equation_5(sketch, step):
    random.seed(0)
    orders = sketch.sample_orders(torch.zeros(2000, L), step)
    assert torch.equal(orders.sort(1).values, raster_order(L).expand(2000, -1))
    share = (orders != raster_order(L)).any(1).float().mean().item()
    r = random_ratio(step, START, END)
    assert abs(share - r) <= 4 * math.sqrt(r * (1 - r) / 2000)  # four standard deviations


def test_without_the_table_two_orders_that_part_get_one_prediction(sketch, batch):
    tokens, classes, _ = batch
    straight = raster_order(L)
    parting = torch.cat([straight[:, :10], straight[:, 10:].flip(1)], 1)

    def difference():
        a, b = (
            sketch.predict(tokens[:1], classes[:1], order)[:, 10] for order in (straight, parting)
        )
        return (a - b).abs().max().item()

    assert difference() > 1e-3
    nn.init.zeros_(sketch.target_pos_embed)
    assert difference() == 0


def test_an_order_for_each_image_makes_batches_alike():
    generator = torch.Generator().manual_seed(0)
    for images, deviation in [(64, 0.5 / 8), (1, 0.5)]:  # √(r(1 − r)/n)
        orders = [sample_orders(images, L, 0.5, generator) for _ in range(500)]
        shares = torch.tensor([(x != raster_order(L)).any(1).float().mean() for x in orders])
        assert shares.std().item() == pytest.approx(deviation, abs=0.01)


@pytest.fixture
def released():
    """The released architecture, tiny and new."""
    config = resolve(get_preset("tiny"), 4500, C, 1, 28).model
    torch.manual_seed(0)
    return RAR(config)


def test_a_new_block_is_the_identity_and_only_its_adaln_learns(released, batch):
    tokens, classes, orders = batch
    condition = released.config.condition_id(classes)
    x = torch.randn(2, L + 2, released.config.hidden_size)
    block = released.blocks[0]
    assert torch.equal(block(x, released.conditions(condition[:2])), x)
    rar_loss(released(tokens, condition, orders), tokens, orders).backward()
    learning = {name for name, p in block.named_parameters() if p.grad.abs().max() > 0}
    assert learning == {"adaLN_modulation.1.weight", "adaLN_modulation.1.bias"}


def test_a_third_of_a_block_is_adaln():
    with torch.device("meta"):
        block = RAR(MODELS["rar_b"]).blocks[0]
    sizes = [sum(p.numel() for p in m.parameters()) for m in (block.adaLN_modulation, block)]
    assert sizes[0] / sizes[1] == pytest.approx(6 / 18, abs=0.005)


@torch.no_grad()
def test_norms_bound_the_attention_logits(released):
    attention = copy.deepcopy(released.blocks[0].attn)
    attention.qkv.weight.mul_(10_000)
    x = torch.randn(3, L + 2, released.config.hidden_size)
    heads = attention.qkv(x).view(3, L + 2, 3, attention.num_heads, -1)
    q, k, _ = heads.permute(2, 0, 3, 1, 4)
    d = q.shape[-1]
    plain = (q @ k.mT).abs().max().item() / math.sqrt(d)
    normed = (attention.q_norm(q) @ attention.k_norm(k).mT).abs().max().item() / math.sqrt(d)
    assert normed <= math.sqrt(d) + 1e-4 < 1000 < plain


def test_dropout_is_off_when_it_samples(released, batch):
    tokens, classes, orders = batch
    model = RAR(replace(released.config, dropout=0.1))
    with torch.no_grad():
        for p in model.parameters():
            nn.init.normal_(p, std=0.2)
        for training in (True, False):
            model.train(training)
            a, b = (model(tokens, model.config.condition_id(classes), orders) for _ in range(2))
            assert torch.equal(a, b) == (not training)


def test_rows_that_are_never_read_have_no_gradient(released, batch):
    tokens, classes, orders = batch
    tokens[:V, 0], classes[:C] = torch.arange(V), torch.arange(C)  # every token, every class
    for p in released.parameters():
        nn.init.normal_(p, std=0.2)
    config = released.config
    logits = released(tokens, config.condition_id(classes), orders)
    assert logits.shape == (32, L + 1, V)
    rar_loss(logits, tokens, orders).backward()
    assert released.cls_token.grad.abs().max() > 0  # its output is dropped, but it is heard
    unread = (released.embeddings.weight.grad.abs().amax(1) == 0).nonzero().flatten().tolist()
    assert unread == [V, config.null_id]
    assert int((released.pos_embed.grad.abs().amax(2) > 0).sum()) == L + 2


def test_weight_decay_touches_matrices_only():
    with torch.device("meta"):
        model = RAR(MODELS["rar_b"])
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for p in parameter_groups(model, 0.03)[0]["params"]}
    assert {name for name in decayed if not name.startswith("blocks.")} == {"lm_head.weight"}


def test_an_unread_row_that_decays_would_keep_a_fifth_of_its_size():
    """Mean learning rate in closed form: half the peak in warm-up, (peak + end) / 2 after it."""
    paper = TrainConfig()
    steps = range(0, paper.total_steps, 10)
    total = 10 * sum(learning_rate_at(step, paper) for step in steps)
    assert total == pytest.approx(62_500 * 2e-4 + 187_500 * 2.05e-4, rel=1e-3)
    assert math.exp(-total * paper.weight_decay) == pytest.approx(0.22, abs=0.005)

    row = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([row], lr=4e-4, weight_decay=0.03)
    for _ in range(10):
        row.grad = torch.zeros_like(row)
        optimizer.step()
    torch.testing.assert_close(row.detach(), torch.full_like(row, (1 - 4e-4 * 0.03) ** 10).detach())
