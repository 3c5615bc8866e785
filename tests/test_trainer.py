"""The recipe: schedules against closed forms, batches against their parts, and one loop against
the distributed one."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from rar_nb import trainer
from rar_nb.data.tokens import TokenData
from rar_nb.orders import raster_order
from rar_nb.pretrained.presets import get_preset, resolve
from rar_nb.runs.training import train_run
from rar_nb.trainer import (
    TrainConfig,
    batch_indices,
    learning_rate,
    learning_rate_at,
    make_batch,
    make_optimizer,
    parameter_groups,
    random_ratio_at,
    seed_dropout,
    set_learning_rate,
    step_generator,
    train,
    validation_loss,
)
from rar_nb.transformer import RAR, ModelConfig
from tests.doors import refuses
from tests.tools.steps import Steps

PAPER = TrainConfig()


@pytest.fixture(scope="module")
def data():
    """320 made-up images of 49 tokens, two crops each, whose ids depend on the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (320,), generator=generator)
    tokens = labels[:, None, None] + torch.randint(3, (320, 2, 49), generator=generator)
    return TokenData(tokens % 8, labels)


def small_run(data, **changes):
    return resolve(get_preset("tiny", **changes), len(data), 10, 1, 28)


def new_model(run):
    torch.manual_seed(run.seed)
    return RAR(run.model)


# The recipe


@pytest.mark.parametrize(
    "values, message",
    [
        (
            dict(anneal_start=300, anneal_end=200),
            "anneal_start = 300.0 .* at most anneal_end = 200",
        ),
        (dict(warmup_epochs=401), "warmup_epochs = 401.0 .* at most epochs = 400"),
        (dict(min_learning_rate=1.0), "min_learning_rate = 1.0 .* at most learning_rate"),
        (dict(anneal_schedule="cosine"), "anneal_schedule = 'cosine' .* one of linear"),
        (dict(beta2=1.0), "beta2 = 1.0"),
        (dict(precision="fp16"), "precision = 'fp16'"),
    ],
)
def test_values_that_contradict_the_recipe_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_steps_are_unknown_before_the_data_is():
    with pytest.raises(ValueError, match="steps_per_epoch = None .* `resolve`"):
        assert TrainConfig(steps_per_epoch=None).total_steps


def test_length_of_the_published_run():
    assert PAPER.total_steps == 250_000
    assert PAPER.total_steps * PAPER.batch_size == 400 * 1_280_000


# Schedules


@pytest.mark.parametrize(
    "epoch, expected",
    [
        (0, 0.0),
        (25, 1e-4),
        (50, 2e-4),
        (100, 4e-4),
        (250, 2.05e-4),
        (400, 1e-5),
        (200, 1e-5 + 3.9e-4 * 0.75),
        (300, 1e-5 + 3.9e-4 * 0.25),  # cos(π/3) = 1/2
    ],
)
def test_learning_rate_of_the_published_run(epoch, expected):
    assert learning_rate_at(625 * epoch, PAPER) == pytest.approx(expected, abs=1e-12)


def test_learning_rate_without_warmup_and_after_the_end():
    assert learning_rate(0, 0, 10, 1.0, 0.0) == 1.0
    assert learning_rate(99, 0, 10, 1.0, 0.25) == 0.25
    assert learning_rate(10, 10, 10, 1.0, 0.25) == 1.0  # all of the run is warm-up


@pytest.mark.parametrize(
    "epoch, r",
    [
        (0, 1.0),
        (199, 1.0),
        (200, 1.0),
        (225, 0.75),
        (250, 0.5),
        (299, 0.01),
        (300, 0.0),
        (400, 0.0),
    ],
)
def test_randomness_of_the_published_run(epoch, r):
    assert random_ratio_at(625 * epoch, PAPER) == pytest.approx(r, abs=1e-12)


def test_baselines_of_the_papers_ablation():
    raster = replace(PAPER, anneal_start=0, anneal_end=0)
    random = replace(PAPER, anneal_start=400, anneal_end=400)
    steps = range(0, 250_000, 12_345)
    assert {random_ratio_at(s, raster) for s in steps} == {0.0}
    assert {random_ratio_at(s, random) for s in steps} == {1.0}


# The optimizer


def test_what_decays_of_one_block():
    model = RAR(ModelConfig(8, 49, 10, hidden_size=32, num_layers=1, num_heads=2, mlp_size=64))
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, others = ([names[id(p)] for p in g["params"]] for g in parameter_groups(model, 0.03))
    assert decayed == [
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "blocks.0.adaLN_modulation.1.weight",
        "lm_head.weight",
    ]
    assert sorted(decayed + others) == sorted(names.values())


def test_frozen_parameters_are_in_no_group():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    model[0].requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    assert [len(g["params"]) for g in groups] == [1, 1]
    assert groups[0]["params"][0] is model[1].weight


def test_adamw_of_the_recipe():
    optimizer = make_optimizer(nn.Linear(2, 3), PAPER)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.03, 0.0]
    assert {g["betas"] for g in optimizer.param_groups} == {(0.9, 0.96)}
    set_learning_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5]


def test_only_the_first_group_shrinks_without_a_gradient():
    """AdamW's decay multiplies by 1 − ηλ, whatever the gradient."""
    layer = nn.Linear(2, 3)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = make_optimizer(layer, replace(PAPER, weight_decay=0.2))
    set_learning_rate(optimizer, 0.5)
    layer.weight.grad, layer.bias.grad = torch.zeros(3, 2), torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before[0] * 0.9)
    assert torch.equal(layer.bias.detach(), before[1])


# Batches


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_shares_make_the_whole_batch(data, processes):
    run = small_run(data, anneal_start=0, anneal_end=4)
    whole = make_batch(data, run.model, run.train, 3, step=10)
    shares = [
        make_batch(data, run.model, run.train, 3, 10, rank, processes) for rank in range(processes)
    ]
    for expected, *parts in zip(whole, *shares):
        assert {len(part) for part in parts} == {len(expected) // processes}
        assert torch.equal(torch.cat(parts), expected)


def test_a_batch_is_what_it_says(data):
    """Each row is a crop of the image that `batch_indices` names, with its class or none."""
    run = small_run(data, class_dropout=0.5)
    tokens, condition, orders = make_batch(data, run.model, run.train, 3, step=12)
    indices = batch_indices(12, 320, 32, run.train.steps_per_epoch, 3)
    assert torch.equal(orders.sort(1).values, raster_order(49).expand(32, -1))
    crops = data.tokens[indices]
    assert (crops == tokens[:, None]).all(2).any(1).all()
    is_null = condition == run.model.null_id
    assert 4 < is_null.sum() < 28  # Binomial(32, 1/2), more than four standard deviations
    assert torch.equal(condition[~is_null], run.model.condition_id(data.labels[indices])[~is_null])


def test_orders_may_be_made_elsewhere(data):
    """Only the orders are; on another device there is nothing but the sorting."""
    run = small_run(data)
    arguments = data, run.model, run.train, run.seed, 3
    here, there = make_batch(*arguments), make_batch(*arguments, device=torch.device("meta"))
    assert all(torch.equal(a, b) for a, b in zip(here[:2], there[:2]))
    assert there[2].is_meta and there[2].shape == here[2].shape


def test_a_batch_follows_from_its_step(data):
    run = small_run(data)
    first, again, other = (make_batch(data, run.model, run.train, 3, s) for s in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))
    last = make_batch(data, run.model, run.train, 3, 19)[2]
    assert torch.equal(last, raster_order(49).expand(32, -1))


@pytest.mark.parametrize("other", [0, 1, 41, 43, 2**32 - 1])
def test_seeds_give_other_random_choices(other):
    """Orders, crops and hidden classes follow from the seed, not from the step alone."""
    choices = [torch.rand(1000, generator=step_generator(seed, 7)) for seed in (42, other)]
    assert (choices[0] == choices[1]).float().mean() < 0.01


@pytest.mark.parametrize("seed,rank", [(0, 0), (41, 0), (42, 1), (42, 7)])
def test_dropout_differs_by_seed_and_process(seed, rank):
    masks = []
    with torch.random.fork_rng():
        for given in ((42, 0), (seed, rank)):
            seed_dropout(given[0], 7, given[1])
            masks.append(torch.rand(1000))
    assert (masks[0] == masks[1]).float().mean() < 0.01


def test_no_step_repeats_another():
    seeds = [
        step_generator(seed, step).initial_seed()
        for seed in (41, 42, 43)
        for step in range(0, 250_000, 1000)
    ]
    assert len(set(seeds)) == len(seeds)


def test_another_seed_shows_other_images(data):
    run = small_run(data)
    tokens = [make_batch(data, run.model, run.train, seed, 0)[0] for seed in (3, 4)]
    assert not torch.equal(*tokens)


def test_an_epoch_shows_every_image_once(data):
    seen = np.concatenate([batch_indices(20 + s, 320, 32, 10, seed=1) for s in range(10)])
    assert sorted(seen) == list(range(320))


def test_data_of_another_size_is_refused(data):
    run = small_run(data)
    with pytest.raises(ValueError, match="num_tokens of the data = 49 .* 64, the model's"):
        make_batch(data, replace(run.model, num_tokens=64), run.train, 0, 0)


# The loop


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_simple_loop_is_the_distributed_one(data, dropout, monkeypatch, one_thread):
    """Losses and weights, bit for bit, on one thread, where both use the same kernel of AdamW."""
    monkeypatch.setattr(trainer, "make_optimizer", partial(make_optimizer, fused=True))
    exact = dict(quick_blocks=False, log_every=1)
    run = small_run(data, epochs=4, steps_per_epoch=5, dropout=dropout, **exact)
    simple, distributed = new_model(run), new_model(run)
    losses = train(simple, data, run.train, run.seed)
    metrics = train_run(run, distributed, data, progress=False, cpu=True)
    assert losses == [row["loss"] for row in metrics.rows if "loss" in row] and len(losses) == 20
    for (name, a), b in zip(simple.state_dict().items(), distributed.state_dict().values()):
        assert torch.equal(a, b), name
    assert losses[-1] < losses[0] - 0.2  # and it learns


def test_the_fused_optimizer_differs_by_rounding(data, one_thread):
    """The plain loop as it is, against the fast step: 20 losses to 1e-6."""
    run = small_run(data, epochs=4, steps_per_epoch=5, log_every=1, quick_blocks=False)
    losses = train(new_model(run), data, run.train, run.seed)
    rows = train_run(run, new_model(run), data, progress=False, cpu=True).rows
    fast = torch.tensor([row["loss"] for row in rows if "loss" in row])
    assert torch.allclose(fast, torch.tensor(losses), rtol=0, atol=1e-6)


@pytest.mark.parametrize("quick_blocks", [True, False])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_steps_of_the_benchmarks_are_those_of_the_loops(
    data, precision, quick_blocks, one_thread
):
    """`textbook_step` of tests.tools.steps is what `train` does, bit for bit, and the fast step is
    close to it."""
    own = dict(precision=precision, quick_blocks=quick_blocks)
    run = small_run(data, epochs=2, steps_per_epoch=5, dropout=0.0, **own)
    losses = train(new_model(run), data, run.train, run.seed)
    with Steps(run, data) as steps:
        both = [(steps.textbook(step), steps.fast(step)) for step in range(10)]
    assert [textbook for textbook, _ in both] == losses
    tolerance = 1e-6 if precision == "no" else 5e-3
    assert all(abs(textbook - fast) < tolerance for textbook, fast in both)


def test_dropout_is_there_and_follows_from_the_seed(data):
    def losses(seed, dropout):
        run = small_run(data, epochs=1, steps_per_epoch=3, warmup_epochs=0, dropout=dropout)
        torch.manual_seed(0)
        return train(RAR(run.model), data, run.train, seed)

    assert losses(1, 0.2) == losses(1, 0.2)
    assert losses(1, 0.2) != losses(1, 0.0)


def test_steps_are_reported_and_the_model_is_left_in_eval_mode(data):
    run, calls = small_run(data, epochs=1, steps_per_epoch=3), []
    model = new_model(run)
    losses = train(model, data, run.train, on_step=lambda *call: calls.append(call))
    assert calls == list(zip([1, 2, 3], losses)) and not model.training


def test_a_loss_that_is_not_finite_ends_the_run(data):
    run = small_run(data, epochs=1)
    model = new_model(run)
    nn.init.constant_(model.lm_head.weight, math.nan)
    with pytest.raises(ValueError, match="loss = nan .* at step 0 .* lower learning_rate"):
        train(model, data, run.train)


# Validation


def test_a_new_model_knows_nothing(data):
    model = new_model(small_run(data))
    for r in (0.0, 1.0):
        assert validation_loss(model, data, r) == pytest.approx(math.log(8), abs=0.05)


def test_validation_loss_by_hand(data):
    """Mean over images of the mean over tokens of −log p, one image at a time."""
    model = new_model(small_run(data))
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    model.train()
    total = 0.0
    with torch.no_grad():
        for tokens, label in zip(data.tokens[:, 0], data.labels):
            condition = model.config.condition_id(label[None])
            logp = model.eval()(tokens[None], condition, raster_order(49))[0, :-1].log_softmax(-1)
            total -= logp.gather(1, tokens[:, None]).mean().item()
    model.train()
    for size in (320, 100, 7):
        assert validation_loss(model, data, 0.0, size) == pytest.approx(total / 320, abs=1e-5)
    assert model.training


def test_random_orders_of_validation_are_always_the_same(data):
    model = new_model(small_run(data))
    torch.manual_seed(1)
    first = validation_loss(model, data, 1.0)
    torch.manual_seed(2)
    assert validation_loss(model, data, 1.0) == first


def test_step_generators_repeat():
    a, b, c = (torch.rand(5, generator=step_generator(1, step)) for step in (9, 9, 10))
    assert torch.equal(a, b) and not torch.equal(a, c)


# What the doors refuse


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(model="rar_b"), "model = 'rar_b' is not allowed: it must be a RAR"),
        (dict(data=[1, 2]), "data = [1, 2] is not allowed: it must be tokenized images"),
        (dict(config={"epochs": 1}), "it must be a TrainConfig"),
        (dict(seed=-1), "seed = -1"),
        (dict(seed=2**32), "seed = 4294967296"),
        (dict(on_step="print"), "on_step = 'print'"),
        (
            dict(data=TokenData(torch.zeros(4, 1, 49).long(), torch.tensor([0, 1, 2, 10]))),
            "num_classes of the data = 11 is not allowed: it must be at most 10",
        ),
        (
            dict(data=TokenData(torch.full((4, 1, 49), 8), torch.zeros(4).long())),
            "codebook_size of the data = 9 is not allowed: it must be at most 8",
        ),
        (
            dict(data=TokenData(torch.zeros(4, 1, 16).long(), torch.zeros(4).long())),
            "num_tokens of the data = 16",
        ),
    ],
)
def test_training_is_a_door(data, change, words):
    """Nothing is trained on what does not suit the model, and the model is left alone."""
    run = small_run(data)
    good = dict(model=new_model(run), data=data, config=run.train)
    before = good["model"].lm_head.weight.clone()
    refuses(lambda: train(**good | change), words)
    assert torch.equal(good["model"].lm_head.weight, before)
    if "model" in change or "data" in change:
        arguments = dict(model=good["model"], data=data) | change
        refuses(lambda: validation_loss(**arguments, r=0.0), words.split(" = 'rar_b'")[0])


def test_data_in_files_is_taken_at_its_word(tmp_path, data):
    """Nothing is read from the disk to find that the numbers of codes or classes do not suit."""
    run = small_run(data)
    saved = data.save(tmp_path / "tokens", codebook_size=8, num_classes=11)
    for file in (tmp_path / "tokens").glob("*.npy"):
        file.unlink()
    refuses(lambda: train(new_model(run), saved, run.train), "num_classes of the data = 11")


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(step=-1), "step = -1"),
        (dict(step=0.5), "step = 0.5"),
        (dict(rank=2, processes=2), "rank = 2 is not allowed: it must be below processes = 2"),
        (dict(processes=0), "processes = 0"),
        (dict(processes=10**6), "processes = 1000000 is not allowed: it must be at most"),
        (dict(model=None), "model = None"),
        (dict(data=None), "data = None"),
    ],
)
def test_a_batch_is_a_door(data, change, words):
    run = small_run(data)
    good = dict(data=data, model=run.model, train=run.train, seed=1, step=0)
    refuses(lambda: make_batch(**good | change), words)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: learning_rate(-1, 1, 2, 1.0, 0.0), "step = -1"),
        (lambda: learning_rate(1, 1, math.nan, 1.0, 0.0), "total = nan"),
        (lambda: learning_rate_at("1", TrainConfig()), "step = '1'"),
        (lambda: learning_rate_at(1, None), "it must be a TrainConfig"),
        (lambda: random_ratio_at(-1, TrainConfig()), "step = -1"),
        (lambda: step_generator(-1, 0), "seed = -1"),
        (lambda: step_generator(1, 2**32), "step = 4294967296"),
        (lambda: make_optimizer(None, TrainConfig()), "it must be a Module"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


def test_validation_loss_of_more_than_a_million_images():
    """ImageNet has 1,281,167 in its training set."""
    count = 2**20 + 1
    data = TokenData(np.zeros((count, 1, 1), np.uint16), np.zeros(count, np.uint16))
    model = RAR(ModelConfig(8, 1, 3, 8, 1, 1, 8)).eval()
    short = TokenData(np.zeros((1, 1, 1), np.uint16), np.zeros(1, np.uint16))
    expected = validation_loss(model, short, 0.0)
    assert validation_loss(model, data, 0.0, batch_size=2**16) == pytest.approx(expected, rel=1e-4)
