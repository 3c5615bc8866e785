"""Properties that hold for any input, searched for a counterexample by hypothesis."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rar_nb.data.tokens import TokenData, convert_jsonl
from rar_nb.orders import permute
from rar_nb.sampler import SampleConfig, SamplingState, fast_state, guidance_weight
from rar_nb.trainer import batch_indices
from rar_nb.transformer import RAR, ModelConfig

settings.register_profile("ours", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("ours")

L, V, C = 9, 11, 5
CONFIG = ModelConfig(
    codebook_size=V,
    num_tokens=L,
    num_classes=C,
    hidden_size=24,
    num_layers=2,
    num_heads=3,
    mlp_size=40,
)


def make_model(dtype):
    torch.manual_seed(0)
    model = RAR(CONFIG).to(dtype).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)  # adaLN, too, which starts at zero
    return model


MODEL, MODEL64 = make_model(torch.float32), make_model(torch.float64)

seeds = st.integers(0, 2**32 - 1)


def orders_of(seed, batch, length=L):
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)).argsort(1)


def tokens_of(seed, batch):
    return torch.randint(V, (batch, L), generator=torch.Generator().manual_seed(seed))


# The model


@given(
    seed=seeds,
    batch=st.integers(1, 4),
    shared=st.booleans(),
    guidance=st.sampled_from([0.0, 1.0, 7.5]),
    power=st.floats(0.5, 3),
    temperature=st.floats(0.5, 2),
    kind=st.sampled_from([SamplingState, fast_state]),
)
def test_stepwise_logits_are_those_of_the_whole_sequence(
    seed, batch, shared, guidance, power, temperature, kind
):
    orders, tokens, classes = (
        orders_of(seed, 1 if shared else batch),
        tokens_of(seed, batch),
        torch.arange(batch) % C,
    )
    sample, drawn = SampleConfig(guidance, power, temperature), permute(tokens, orders)
    for model in (MODEL, MODEL64):
        with torch.no_grad():
            state = kind(model, classes, sample, orders=orders)
            stepwise = torch.stack(
                [state.next_logits(drawn[:, k - 1] if k else None) for k in range(L)], 1
            ).double()
            c, u = (
                model(tokens, ids, orders)[:, :-1].double()
                for ids in (CONFIG.condition_id(classes), torch.full((batch,), CONFIG.null_id))
            )
        weights = torch.tensor([guidance_weight(k, L, guidance, power) for k in range(L)])[:, None]
        whole = (u + weights * (c - u) if guidance else c) / temperature
        error = (stepwise - whole).abs().max() / (c.abs().max() * max(1.0, guidance) / temperature)
        assert error < 1e-5, (
            error
        )  # logits leave the model as float32, so float64 inside is no better than that


# Data


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 50),
    steps=st.integers(1, 12),
    spare=st.integers(0, 60),
    epoch=st.integers(0, 10**6),
)
def test_an_epoch_shows_an_image_at_most_once(seed, batch, steps, spare, epoch):
    n = batch * steps + spare
    seen = np.concatenate(
        [batch_indices(epoch * steps + s, n, batch, steps, seed) for s in range(steps)]
    )
    assert len(seen) == batch * steps == len(np.unique(seen)) and seen.min() >= 0 and seen.max() < n
    batch_indices((epoch + 1) * steps, n, batch, steps, seed)  # another epoch in between
    np.testing.assert_array_equal(batch_indices(epoch * steps, n, batch, steps, seed), seen[:batch])


shapes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 12))


@st.composite
def token_data(draw, limit=2**16):
    shape = draw(shapes)
    return draw(npst.arrays(np.int64, shape, elements=st.integers(0, limit - 1))), draw(
        npst.arrays(np.int64, shape[:1], elements=st.integers(0, 9))
    )


@given(made=token_data(), data=st.data())
def test_token_data_written_and_read(made, data):
    tokens, labels = made
    indices = data.draw(st.lists(st.integers(0, len(tokens) - 1), max_size=10))
    crops = data.draw(
        st.lists(st.integers(0, tokens.shape[1] - 1), min_size=len(indices), max_size=len(indices))
    )
    with tempfile.TemporaryDirectory() as d:
        memory = TokenData(tokens, labels)
        mapped = memory.save(d, 2**16, 10)
        mapped.verify()
        assert len(mapped) == len(tokens)
        np.testing.assert_array_equal(mapped.tokens.numpy(), tokens)
        for read in (memory, mapped):
            got, classes = read.rows(indices, crops)
            assert got.dtype == classes.dtype == torch.int64
            np.testing.assert_array_equal(
                got.numpy(), tokens[np.array(indices, int), np.array(crops, int)]
            )
            np.testing.assert_array_equal(classes.numpy(), labels[np.array(indices, int)])


@given(
    made=token_data(limit=1024),
    shard_images=st.integers(1, 4),
    compress=st.booleans(),
    spaces=st.booleans(),
)
def test_json_lines_converted(made, shard_images, compress, spaces):
    import gzip

    tokens, labels = made
    separators = (", ", ": ") if spaces else (",", ":")
    lines = "".join(
        json.dumps({"class_id": c, "tokens": row}, separators=separators) + "\n"
        for image, c in zip(tokens.tolist(), labels.tolist())
        for row in image
    )
    with tempfile.TemporaryDirectory() as d:
        path = Path(d) / ("x.jsonl.gz" if compress else "x.jsonl")
        path.write_bytes(gzip.compress(lines.encode()) if compress else lines.encode())
        by_image = convert_jsonl(
            path,
            Path(d) / "images",
            1024,
            crops=tokens.shape[1],
            num_classes=10,
            shard_images=shard_images,
        )
        np.testing.assert_array_equal(by_image.tokens.numpy(), tokens)
        np.testing.assert_array_equal(by_image.labels.numpy(), labels)
        assert len(by_image.index["shards"]) == -(-len(tokens) // shard_images)
        by_row = convert_jsonl(
            path, Path(d) / "rows", 1024, crops=1, num_classes=10, shard_images=shard_images
        )
        np.testing.assert_array_equal(
            by_row.tokens[:, 0].numpy(), tokens.reshape(-1, tokens.shape[2])
        )


def test_an_epoch_counts_images_not_crops():
    """The published run: 625 steps of 2048 are one look at each of 1,281,167 images, whatever the
    crops."""
    steps = [batch_indices(s, 1_281_167, 2048, 625, seed=42) for s in (0, 311, 624)]
    seen = np.concatenate(steps)
    assert len(np.unique(seen)) == 3 * 2048
    np.testing.assert_array_equal(
        seen,
        np.random.default_rng((42, 0)).permutation(1_281_167)[
            np.r_[0:2048, 311 * 2048 : 312 * 2048, 624 * 2048 : 625 * 2048]
        ],
    )
