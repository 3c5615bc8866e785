"""Orders: properties of permutations, the distribution of the random ones, annealing, and the
paper's scan orders."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rar_nb.orders import (
    ANNEAL_SCHEDULES,
    SCAN_ORDERS,
    inverse,
    permute,
    random_ratio,
    raster_order,
    sample_orders,
    scan_order,
    unpermute,
)
from rar_nb.support import InvalidValue
from tests.doors import refuses

GOLDEN = json.loads((Path(__file__).parent / "golden" / "scan_orders.json").read_text())

ours = settings(deadline=None, max_examples=40, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
sizes = {"batch": st.integers(1, 5), "length": st.integers(1, 40)}


def orders_of(seed, batch, length):
    scores = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed))
    return scores.argsort(1)


# Orders of a batch


@ours
@given(seed=seeds, r=st.floats(0, 1), **sizes)
def test_a_batch_of_orders_row_by_row(seed, batch, length, r):
    """As the published code makes them: one image after the other, random or raster."""
    orders = sample_orders(batch, length, r, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, length, generator=generator)
    for row, chosen, order in zip(scores, torch.rand(batch, generator=generator), orders):
        random = sorted(range(length), key=lambda i, row=row: float(row[i]))
        assert order.tolist() == (random if chosen < r else list(range(length)))


def test_equal_scores_keep_their_places(monkeypatch):
    """So that the orders of a step are the same on every device."""
    monkeypatch.setattr(torch, "rand", lambda *shape, generator=None: torch.zeros(*shape))
    assert sample_orders(2, 300, 1.0).tolist() == [list(range(300))] * 2


# An order is an array


@ours
@given(seed=seeds, trailing=st.lists(st.integers(1, 3), max_size=2), **sizes)
def test_permute_and_back(seed, batch, length, trailing):
    shape = (batch, length, *trailing)
    x = torch.arange(math.prod(shape)).view(shape)
    orders = orders_of(seed, batch, length)
    assert torch.equal(unpermute(permute(x, orders), orders), x)
    assert torch.equal(permute(unpermute(x, orders), orders), x)
    permuted = permute(x, orders)
    for b, k in itertools.product(range(batch), range(length)):
        assert torch.equal(permuted[b, k], x[b, orders[b, k]])  # the definition


@ours
@given(seed=seeds, **sizes)
def test_one_order_serves_a_whole_batch(seed, batch, length):
    x = torch.arange(batch * length).view(batch, length)
    order = orders_of(seed, 1, length)
    assert torch.equal(permute(x, order), permute(x, order.repeat(batch, 1)))
    assert torch.equal(unpermute(x, order), unpermute(x, order.repeat(batch, 1)))


@ours
@given(seed=seeds, **sizes)
def test_inverse(seed, batch, length):
    orders = orders_of(seed, batch, length)
    identity = raster_order(length).expand(batch, -1)
    assert torch.equal(permute(orders, inverse(orders)), identity)
    assert torch.equal(permute(inverse(orders), orders), identity)
    assert torch.equal(inverse(inverse(orders)), orders)
    for b, k in itertools.product(range(batch), range(length)):
        assert inverse(orders)[b, orders[b, k]] == k  # the rank of the cell visited at step k is k


@ours
@given(seed=seeds, **sizes)
def test_permute_carries_gradients_back_to_their_places(seed, batch, length):
    x = torch.zeros(batch, length, 2, requires_grad=True)
    orders = orders_of(seed, batch, length)
    weights = torch.arange(batch * length * 2.0).view(batch, length, 2)
    (permute(x, orders) * weights).sum().backward()
    assert torch.equal(x.grad, unpermute(weights, orders))


# Random with probability r


@ours
@given(seed=seeds, r=st.floats(0, 1))
def test_share_of_raster_orders(seed, r):
    n = 4000
    orders = sample_orders(n, 16, r, torch.Generator().manual_seed(seed))
    assert orders.dtype == torch.int64
    assert torch.equal(orders.sort(1).values, raster_order(16).expand(n, -1))
    # 16! orders make a random raster order impossible
    share = (orders == raster_order(16)).all(1).double().mean().item()
    assert abs(share - (1 - r)) <= 5 * (r * (1 - r) / n) ** 0.5  # exact at r = 0 and at r = 1


def test_random_orders_are_uniform():
    n, r = 48_000, 0.5
    orders = sample_orders(n, 4, r, torch.Generator().manual_seed(0))
    counts = Counter(map(tuple, orders.tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert counts.pop((0, 1, 2, 3)) / n == pytest.approx(1 - r + r / 24, abs=0.01)
    others = np.array(list(counts.values()))
    expected = n * r / 24
    chi_squared = ((others - expected) ** 2 / expected).sum()
    assert chi_squared < 49.7  # 99.9 % of the distribution with 23 degrees of freedom


def test_images_of_a_batch_have_orders_of_their_own():
    orders = sample_orders(200, 49, 1.0, torch.Generator().manual_seed(1))
    assert len(orders.unique(dim=0)) == 200


def test_orders_are_repeatable_and_depend_on_the_generator_alone():
    first, second, other = (
        sample_orders(6, 9, 0.7, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_r_decides_how_many_orders_are_random_but_not_which_random_orders():
    few, many = (sample_orders(64, 49, r, torch.Generator().manual_seed(2)) for r in (0.3, 0.9))
    random_in_few = (few != raster_order(49)).any(1)
    assert 0 < random_in_few.sum() < 64
    assert torch.equal(few[random_in_few], many[random_in_few])


@pytest.mark.parametrize("r", [-0.1, 1.1, math.nan, math.inf])
def test_r_is_a_probability(r):
    with pytest.raises(InvalidValue, match=f"r = {r}"):
        sample_orders(2, 4, r)


# Annealing


@ours
@given(step=st.floats(0, 500), start=st.integers(0, 400), width=st.integers(0, 400))
def test_random_ratio_is_equation_5(step, start, width):
    end = start + width
    r = random_ratio(step, start, end)
    if step < start:
        assert r == 1
    elif step >= end:
        assert r == 0
    else:
        assert r == pytest.approx(1 - (step - start) / (end - start))


@pytest.mark.parametrize("name", list(ANNEAL_SCHEDULES))
def test_schedules_fall_from_one_to_zero(name):
    ratios = [random_ratio(step, 20, 120, name) for step in range(141)]
    assert ratios[0] == ratios[20] == 1 and ratios[120] == ratios[-1] == 0
    assert all(0 <= b <= a <= 1 for a, b in itertools.pairwise(ratios))


def test_the_published_annealing():
    assert [random_ratio(e, 200, 300) for e in (0, 200, 250, 300, 400)] == [1, 1, 0.5, 0, 0]
    assert [random_ratio(e, 100, 100) for e in (99, 100, 101)] == [1, 0, 0]  # a jump


def test_a_schedule_is_registered_with_one_assignment(monkeypatch):
    monkeypatch.setitem(ANNEAL_SCHEDULES, "quadratic", lambda progress: (1 - progress) ** 2)
    assert [random_ratio(e, 0, 10, "quadratic") for e in (0, 5, 10)] == [1, 0.25, 0]


def test_an_unknown_schedule_is_refused_with_the_names_of_all():
    with pytest.raises(InvalidValue, match="'cubic' is not allowed.*one of linear"):
        random_ratio(0, 1, 2, "cubic")


# Scan orders


@pytest.mark.parametrize("grid", list(GOLDEN))
@pytest.mark.parametrize(
    "name", ["raster", "spiral_in", "spiral_out", "z_curve", "subsample", "alternate"]
)
def test_scan_orders_are_the_published_ones(grid, name):
    order = scan_order(name, int(grid.split("x")[0]))
    assert order.dtype == torch.int64 and order.tolist() == [GOLDEN[grid][name]]


def test_every_published_order_is_registered():
    assert set(SCAN_ORDERS) == set(GOLDEN["16x16"])


@pytest.mark.parametrize("g", [1, 2, 3, 4, 5, 7, 8, 13, 16])
@pytest.mark.parametrize("name", list(SCAN_ORDERS))
def test_scan_orders_visit_every_cell_once(name, g):
    assert sorted(SCAN_ORDERS[name](g)) == list(range(g * g))


def jumps(name, g):
    i, j = np.divmod(np.array(SCAN_ORDERS[name](g)), g)
    return np.hypot(np.diff(i), np.diff(j))


@pytest.mark.parametrize("g", [2, 3, 4, 7, 16])
def test_jumps(g):
    for name in ("spiral_in", "spiral_out", "alternate"):
        assert set(jumps(name, g)) == {1}
    raster = g * (g - 1) + (g - 1) * math.hypot(g - 1, 1)  # steps to the right, and returns
    assert jumps("raster", g).sum() == pytest.approx(raster)


@pytest.mark.parametrize("g", [2, 4, 8, 16])
def test_jumps_of_the_z_curve_follow_the_zeros_of_the_step(g):
    # To step k it goes 1 in one direction and back 2^m - 1 in the other, by the zeros k ends in
    zeros = [(k & -k).bit_length() - 1 for k in range(1, g * g)]
    expected = [math.hypot(1, 2 ** ((z + 1) // 2) - 1) for z in zeros]
    np.testing.assert_allclose(jumps("z_curve", g), expected)


@pytest.mark.parametrize("g", [4, 7, 8])
@pytest.mark.parametrize("name", list(SCAN_ORDERS))
def test_no_order_knows_more_neighbours_in_all(name, g):
    ranks = inverse(scan_order(name, g))[0].view(g, g)
    known = 0
    for i, j, (di, dj) in itertools.product(range(g), range(g), [(0, 1), (1, 0), (0, -1), (-1, 0)]):
        a, b = i + di, j + dj
        if 0 <= a < g and 0 <= b < g:
            known += int(ranks[a, b] < ranks[i, j])
    assert known == 2 * g * (g - 1)


def test_a_scan_order_is_registered_with_one_assignment(monkeypatch):
    def columns(g):
        return [i * g + j for j in range(g) for i in range(g)]

    monkeypatch.setitem(SCAN_ORDERS, "columns", columns)
    assert scan_order("columns", 3).tolist() == [[0, 3, 6, 1, 4, 7, 2, 5, 8]]


@pytest.mark.parametrize("wrong", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]])
def test_an_order_that_is_no_permutation_is_refused(monkeypatch, wrong):
    monkeypatch.setitem(SCAN_ORDERS, "wrong", lambda g: wrong)
    with pytest.raises(InvalidValue, match="a permutation of 0 … 3"):
        scan_order("wrong", 2)


def test_an_unknown_scan_order_is_refused_with_the_names_of_all():
    with pytest.raises(InvalidValue, match="'diagonal' is not allowed.*raster, spiral_in"):
        scan_order("diagonal", 4)


# What the doors refuse

TOKENS = torch.zeros(2, 4, dtype=torch.long)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: scan_order("raster", -3), "grid_size = -3 is not allowed: it must be a number"),
        (lambda: scan_order("raster", 2.0), "grid_size = 2.0"),
        (lambda: scan_order("raster", 10**6), "at most 1024"),
        (lambda: scan_order(None, 4), "name = None"),
        (lambda: sample_orders(-1, 4, 0.5), "batch_size = -1"),
        (lambda: sample_orders(2, 0, 0.5), "num_tokens = 0"),
        (lambda: sample_orders(2, 4, 0.5, generator=7), "generator = 7"),
        (lambda: raster_order(0), "num_tokens = 0"),
        (lambda: random_ratio(5, 10, 3), "end = 3.0 is not allowed: it must be at least start"),
        (lambda: random_ratio(math.nan, 0, 1), "step = nan is not allowed: it must be a finite"),
        (lambda: random_ratio("5", 0, 1), "step = '5'"),
        (lambda: permute([[1, 2]], TOKENS), "x = [[1, 2]]"),
        (lambda: permute(TOKENS, torch.arange(4)), "an int64 tensor [B, L] or [1, L]"),
        (lambda: permute(TOKENS, raster_order(4).float()), "orders = float32 [1, 4]"),
        (lambda: permute(TOKENS, raster_order(9)), "shape of orders = (1, 9)"),
        (lambda: permute(TOKENS, raster_order(4) + 1), "raster indices from 0 to L - 1"),
        (lambda: permute(TOKENS, raster_order(4, torch.device("meta"))), "device of orders"),
        (lambda: unpermute(TOKENS, torch.zeros(1, 4).long()), "permutations of 0 … L - 1"),
        (lambda: inverse(torch.tensor([[0, 0, 1]])), "permutations of 0 … L - 1"),
        (lambda: inverse([0, 1]), "orders = [0, 1]"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


@pytest.mark.parametrize("order", [lambda g: None, lambda g: ["a"] * g * g, lambda g: [0.5]])
def test_a_registered_function_that_gives_no_order_is_named(monkeypatch, order):
    monkeypatch.setitem(SCAN_ORDERS, "mine", order)
    refuses(lambda: scan_order("mine", 2), "scan order 'mine' = ")


@pytest.mark.parametrize("final", [torch.arange(5)[None], torch.arange(4).expand(3, 4)])
def test_a_final_order_of_another_shape(final):
    refuses(lambda: sample_orders(2, 4, 0.5, final=final), "shape of final = ")


def test_a_final_order_for_each_image():
    final = torch.tensor([[3, 2, 1, 0], [0, 2, 1, 3]])
    assert torch.equal(sample_orders(2, 4, 0.0, final=final), final)


def test_orders_of_as_many_images_as_imagenet_has():
    assert sample_orders(1_281_167, 1, 0.0).shape == (1_281_167, 1)
