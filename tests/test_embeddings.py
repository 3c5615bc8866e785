"""What an entry carries: its own place, the place it must predict, class and step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rar_nb.embeddings import (
    conditioning,
    drop_classes,
    position_embedding,
    position_ids,
    target_ids,
)
from rar_nb.support import InvalidValue
from tests.doors import refuses

ours = settings(deadline=None, max_examples=40, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def random_orders(seed: int, batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, length, generator=generator).argsort(1)


def random_tables(seed: int, length: int, width: int = 4) -> torch.Tensor:
    """`pos_embed` and `target_aware_pos_embed`, with spare rows as in the released models."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, length + 5, width, generator=generator, dtype=torch.float64)


@ours
@given(seed=seeds, batch=st.integers(1, 4), length=st.integers(1, 30))
def test_rows_entry_by_entry(seed, batch, length):
    orders = random_orders(seed, batch, length)
    for order, own, target in zip(orders.tolist(), position_ids(orders), target_ids(orders)):
        assert own.tolist() == [0, 1] + [2 + place for place in order]
        assert target.tolist() == [0] + [2 + place for place in order] + [0]


@ours
@given(seed=seeds, batch=st.integers(1, 4), length=st.integers(1, 20))
def test_equation_4_entry_by_entry(seed, batch, length):
    orders, (own, target) = random_orders(seed, batch, length), random_tables(seed, length)
    embedded = position_embedding(orders, own, target)
    assert embedded.shape == (batch, length + 2, 4)
    for order, rows in zip(orders.tolist(), embedded):
        expected = [own[0, 0], own[0, 1], *(own[0, 2 + place] for place in order)]
        for step, place in enumerate(order):  # entry step + 1 predicts the token of `step`
            expected[step + 1] = expected[step + 1] + target[0, 2 + place]
        torch.testing.assert_close(rows, torch.stack(expected))


@ours
@given(seed=seeds, known=st.integers(0, 6))
def test_only_the_target_tells_two_orders_apart(seed, known):
    """The paper's τ_a and τ_b, with any common beginning of `known` places."""
    first = random_orders(seed, 1, 9)
    second = first.clone()
    second[0, known:] = second[0, known:].flip(0)
    own, target = random_tables(seed, 9)
    nothing = torch.zeros_like(target)
    for table, same in ((nothing, True), (target, False)):
        a, b = (position_embedding(order, own, table)[0, known + 1] for order in (first, second))
        assert torch.equal(a, b) is same


@ours
@given(seed=seeds, length=st.integers(1, 20))
def test_in_one_order_a_single_table_does_the_work_of_two(seed, length):
    order, (own, target) = random_orders(seed, 1, length), random_tables(seed, length)
    merged = own.clone()
    merged[0, position_ids(order)[0]] = position_embedding(order, own, target)[0]
    one = position_embedding(order, merged, torch.zeros_like(target))
    assert torch.equal(one, position_embedding(order, own, target))


def test_rows_without_a_target_are_not_trained():
    """`cls` and the last token use row 0 as a stand-in; it must not learn from them."""
    own, target = random_tables(0, 9)
    target.requires_grad_()
    position_embedding(random_orders(0, 3, 9), own, target).sum().backward()
    used = target.grad[0].abs().sum(1) > 0
    assert used.nonzero().flatten().tolist() == list(range(2, 11))


@ours
@given(seed=seeds, classes=st.integers(1, 5), length=st.integers(1, 12))
def test_conditioning_is_class_plus_step(seed, classes, length):
    generator = torch.Generator().manual_seed(seed)
    embedded = torch.randn(classes, 4, generator=generator)
    steps = torch.randn(1, 20, 4, generator=generator)
    c = conditioning(embedded, steps, length)
    assert c.shape == (classes, length, 4)
    for n in range(classes):
        for s in range(length):
            assert torch.equal(c[n, s], embedded[n] + steps[0, s])


@ours
@given(seed=seeds, probability=st.floats(0, 1))
def test_share_of_dropped_classes(seed, probability):
    n, null_id = 4000, 99
    condition = torch.arange(n) % 7
    before = condition.clone()
    generator = torch.Generator().manual_seed(seed)
    dropped = drop_classes(condition, null_id, probability, generator)
    assert torch.equal(condition, before)  # the argument is left alone
    is_null = dropped == null_id
    assert torch.equal(dropped[~is_null], condition[~is_null])
    share = is_null.double().mean().item()
    assert abs(share - probability) <= 5 * (probability * (1 - probability) / n) ** 0.5


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_probability_is_checked(probability):
    with pytest.raises(InvalidValue, match="probability = .* from 0 to 1"):
        drop_classes(torch.arange(3), 99, probability)


ORDERS, TABLE = torch.arange(9)[None], torch.zeros(1, 11, 4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: position_ids([0, 1]), "orders = [0, 1] is not allowed: it must be a Tensor"),
        (lambda: position_ids(torch.arange(9)), "an int64 tensor [B, L] or [1, L]"),
        (lambda: target_ids(ORDERS - 1), "raster indices from 0 to L - 1"),
        (lambda: position_embedding(ORDERS, TABLE, TABLE[:, :10]), "N of at least 11"),
        (lambda: position_embedding(ORDERS, TABLE[0], TABLE), "shape of a table of positions"),
        (lambda: position_embedding(ORDERS, TABLE.long(), TABLE), "a tensor of floats"),
        (lambda: position_embedding(ORDERS.to("meta"), TABLE, TABLE), "device of orders = 'meta'"),
        (lambda: drop_classes([1, 2], 9, 0.1), "condition = [1, 2]"),
        (lambda: drop_classes(ORDERS, 9, 0.1), "an int64 tensor [B]"),
        (lambda: drop_classes(ORDERS[0], -1, 0.1), "null_id = -1"),
        (lambda: drop_classes(ORDERS[0], 9, float("nan")), "probability = nan"),
    ],
)
def test_doors(call, words):
    refuses(call, words)
