"""Models of the ablations: another final order, no target-aware embedding, no adaLN."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from rar_nb.data.tokens import TokenData
from rar_nb.fast_sampling import Plan
from rar_nb.orders import SCAN_ORDERS, scan_order
from rar_nb.pretrained.presets import PRESETS, get_preset, sizes_of
from rar_nb.runs.training import train_run
from rar_nb.sampler import (
    SampleConfig,
    final_orders,
    image_noise,
    sample_images,
    sample_tokens,
    textbook_tokens,
)
from rar_nb.support import InvalidValue
from rar_nb.tokenizer import make_tokenizer
from rar_nb.trainer import TrainConfig, make_batch, train, validation_loss
from rar_nb.transformer import RAR, ModelConfig, rar_loss

SIZES = dict(codebook_size=12, num_tokens=16, num_classes=3, hidden_size=32, num_layers=2,
             num_heads=4, mlp_size=48, dropout=0.0)  # fmt: skip
VARIANTS = list(itertools.product((True, False), (True, False)))  # target_aware, adaln
ORDERS = [*SCAN_ORDERS, "random"]


def lively(**changes) -> RAR:
    """A model whose every weight does something."""
    torch.manual_seed(0)
    model = RAR(ModelConfig(**SIZES | changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def made_up(n: int = 40) -> TokenData:
    """Random tokens."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(12, size=(n, 1, 16), dtype=np.uint16)
    return TokenData(tokens, generator.integers(3, size=n), 12, 3)


@pytest.mark.parametrize("target_aware, adaln", VARIANTS)
def test_only_the_parameters_of_the_variant_are_there(target_aware, adaln):
    whole = {name for name, _ in lively().named_parameters()}
    names = {name for name, _ in lively(target_aware=target_aware, adaln=adaln).named_parameters()}
    gone = {n for n in whole if "adaLN" in n or n == "timesteps_embeddings"} if not adaln else set()
    gone |= set() if target_aware else {"target_aware_pos_embed"}
    new = set() if adaln else {f"adaln_before_head.norm_final.{p}" for p in ("weight", "bias")}
    assert names == whole - gone | new


def test_a_plain_block_is_torchs_own():
    """Without adaLN: `nn.TransformerEncoderLayer` with the norm first, once the norms of q and k
    are switched off."""
    config = ModelConfig(**SIZES | dict(adaln=False))
    block = lively(adaln=False).blocks[0]
    block.attn.q_norm = block.attn.k_norm = torch.nn.Identity()
    layer = torch.nn.TransformerEncoderLayer(
        32, 4, 48, 0.0, torch.nn.functional.gelu, 1e-6, batch_first=True, norm_first=True
    ).eval()
    ours = block.state_dict()
    theirs = {
        "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.", "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    layer.load_state_dict({
        a + part: ours[b + part] for a, b in theirs.items() for part in ("weight", "bias")
    })  # fmt: skip
    x = torch.randn(2, 7, config.hidden_size)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(block(x, None), layer(x, mask, is_causal=True))


def test_without_target_aware_is_a_table_of_zeros():
    whole, without = lively(), lively(target_aware=False)
    weights = whole.state_dict()
    weights["target_aware_pos_embed"].zero_()
    without.load_state_dict({n: p for n, p in weights.items() if n != "target_aware_pos_embed"})
    tokens, labels = made_up(5).rows(range(5))
    orders = torch.stack([torch.randperm(16) for _ in range(5)])
    condition = whole.config.condition_id(labels)
    assert torch.equal(*(m(tokens, condition, orders) for m in (whole, without)))


@pytest.mark.parametrize("target_aware, adaln", VARIANTS)
@pytest.mark.parametrize("final_order", ["raster", "z_curve", "random"])
@pytest.mark.parametrize("plan", [Plan(), Plan(kernels=False, packed=False)], ids=["fast", "torch"])
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_both_samplers_agree(target_aware, adaln, final_order, plan, scale):
    model = lively(target_aware=target_aware, adaln=adaln, final_order=final_order)
    sample = SampleConfig(scale, 1.0, sample_precision="no")
    noise, orders = image_noise(3, range(6), 16), final_orders(model.config, 3, range(6))
    classes = [0, 1, 2, 0, 1, 2]
    slow = textbook_tokens(model, classes, sample, noise, orders)
    assert torch.equal(slow, sample_tokens(model, classes, sample, noise, orders, plan=plan))


@pytest.mark.parametrize("final_order", SCAN_ORDERS)
def test_sampling_uses_the_final_order(final_order):
    """As if the order were given; and the raster model samples others."""
    model = lively(final_order=final_order)
    sample, noise = SampleConfig(2.0, 1.0, sample_precision="no"), image_noise(0, range(4), 16)
    ours = sample_tokens(model, [0, 1, 2, 0], sample, noise)
    same = lively()
    assert torch.equal(
        ours, sample_tokens(same, [0, 1, 2, 0], sample, noise, scan_order(final_order, 4))
    )
    raster = sample_tokens(same, [0, 1, 2, 0], sample, noise)
    assert torch.equal(ours, raster) == (final_order == "raster")


def test_random_orders_follow_from_the_image():
    config = ModelConfig(**SIZES | dict(final_order="random"))
    whole = final_orders(config, 5, range(10))
    assert torch.equal(whole.sort(1).values, torch.arange(16).expand(10, 16))
    assert torch.equal(final_orders(config, 5, [7, 2]), whole[[7, 2]])
    assert len(whole.unique(dim=0)) == 10 and not torch.equal(
        final_orders(config, 6, [7]), whole[7:8]
    )
    # The numbers that decide the tokens are not those that decide the order.
    both = image_noise(5, range(10), 32)
    assert torch.equal(both[:, :16], image_noise(5, range(10), 16))


def test_random_orders_must_be_given_or_follow_from_a_seed():
    model = lively(final_order="random")
    noise = image_noise(0, range(2), 16)
    with pytest.raises(InvalidValue, match="orders = None is not allowed.*final_orders"):
        sample_tokens(model, [0, 1], SampleConfig(sample_precision="no"), noise)


def test_an_unknown_order_is_refused():
    with pytest.raises(InvalidValue, match="final_order = 'diagonal'.*random.*SCAN_ORDERS"):
        ModelConfig(**SIZES | dict(final_order="diagonal"))


def test_a_registered_order_can_be_annealed_to(monkeypatch):
    monkeypatch.setitem(SCAN_ORDERS, "backwards", lambda g: [*range(g * g)][::-1])
    config = ModelConfig(**SIZES | dict(final_order="backwards"))
    assert config.orders(2, 0.0).tolist() == [[*range(16)][::-1]] * 2


@pytest.mark.parametrize("final_order", ORDERS)
def test_annealing_ends_in_the_final_order(final_order):
    config = ModelConfig(**SIZES | dict(final_order=final_order))
    recipe = TrainConfig(epochs=4, warmup_epochs=0, anneal_start=1, anneal_end=3,
                         steps_per_epoch=2, batch_size=20, precision="no")  # fmt: skip
    shares = []
    for step in range(8):
        orders = make_batch(made_up(), config, recipe, 0, step)[2]
        assert torch.equal(orders.sort(1).values, torch.arange(16).expand(20, 16))
        final = config.orders(1, 0.0, torch.Generator().manual_seed(9))
        shares.append((orders == final).all(1).float().mean().item())
    assert shares[:3] == [0, 0, 0]
    assert shares[6:] == ([0, 0] if final_order == "random" else [1, 1])


@pytest.mark.parametrize("final_order", ["spiral_in", "random"])
def test_validation_is_in_the_final_order(final_order):
    model, data = lively(final_order=final_order), made_up()
    orders = model.config.orders(len(data), 0.0, torch.Generator().manual_seed(0))
    tokens, labels = data.rows(range(len(data)))
    condition = model.config.condition_id(labels)
    with torch.no_grad():
        expected = rar_loss(model(tokens, condition, orders), tokens, orders)
    assert validation_loss(model, data, 0.0) == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("target_aware, adaln", VARIANTS)
def test_every_variant_learns_the_same_in_both_trainers(target_aware, adaln, tmp_path):
    """The loop of a run gives what the plain loop gives, and the loss falls."""
    changes = dict(target_aware=target_aware, adaln=adaln, final_order="spiral_out")
    run = get_preset("tiny", changes, num_tokens=16, codebook_size=12, num_classes=3)
    torch.manual_seed(0)
    one, data = RAR(run.model), made_up(64)
    other = RAR(run.model)
    other.load_state_dict(one.state_dict())
    losses = train(one, data, run.train, run.seed)
    rows = train_run(run, other, data, progress=False, cpu=True).rows
    found = [row["loss"] for row in rows if "loss" in row]
    assert found == pytest.approx(losses, abs=1e-4) and losses[-1] < losses[0]


@pytest.mark.parametrize("target_aware, adaln", VARIANTS)
def test_a_file_shows_which_variant_it_holds(target_aware, adaln):
    model = lively(target_aware=target_aware, adaln=adaln)
    found = sizes_of(model.state_dict())
    assert dataclasses.replace(found, dropout=0.0) == model.config


@pytest.mark.parametrize("final_order", ["subsample", "random"])
def test_images_do_not_depend_on_the_batch(final_order):
    run = get_preset("tiny", final_order=final_order, sample_batch_size=5, sample_precision="no")
    torch.manual_seed(0)
    model, tokenizer = RAR(run.model).eval(), make_tokenizer(run.tokenizer)
    torch.nn.init.normal_(model.lm_head.weight)
    classes = torch.arange(10)
    together = sample_images(model, tokenizer, classes, run.sample, seed=1)
    alone = get_preset("tiny", sample_batch_size=1, sample_precision="no").sample
    assert torch.equal(together, sample_images(model, tokenizer, classes, alone, seed=1))


def test_published_runs_are_as_they_were():
    for name in ("rar_b", "rar_l", "rar_xl", "rar_xxl"):
        model = PRESETS[name].model
        assert (model.final_order, model.target_aware, model.adaln) == ("raster", True, True)


def test_the_registry_decides_what_raster_is(monkeypatch):
    monkeypatch.setitem(SCAN_ORDERS, "raster", lambda g: [*range(g * g)][::-1])
    assert ModelConfig(**SIZES).orders(1, 0.0).tolist() == [[*range(16)][::-1]]


def test_random_is_no_name_for_a_scan_order(monkeypatch):
    monkeypatch.setitem(SCAN_ORDERS, "random", lambda g: [*range(g * g)])
    with pytest.raises(InvalidValue, match="scan order = 'random'.*another name"):
        ModelConfig(**SIZES)


@pytest.mark.parametrize("final_order", ORDERS)
def test_sampling_leaves_torchs_random_numbers_alone(final_order):
    run = get_preset("tiny", final_order=final_order, sample_precision="no")
    torch.manual_seed(0)
    model, tokenizer = RAR(run.model).eval(), make_tokenizer(run.tokenizer)
    before = torch.get_rng_state()
    sample_images(model, tokenizer, [0, 1, 2], run.sample, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
