"""The tokenizer against brute force, closed forms and properties; training against itself."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rar_nb.data.images import Digits, ImageData, Part
from rar_nb.support import InvalidValue
from rar_nb.tokenizer import (
    TOKENIZERS,
    Codebook,
    ConvVQ,
    GreyTokenizer,
    Tokenizer,
    TokenizerConfig,
    grid_side,
    make_tokenizer,
    nearest_code,
    psnr,
    reconstruct,
    stack_images,
    to_float,
    to_uint8,
    train_tokenizer,
)
from tests.doors import refuses

ours = settings(deadline=None, max_examples=40, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def rand(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Pixels


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1)])
def test_bytes_to_floats_and_back(value_range):
    low, high = value_range
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every, value_range)
    assert floats.dtype == torch.float32
    assert (floats[0], floats[255]) == (low, high)
    # The fraction is dropped: in float32, v / 255 · 255 may come out a hair below v
    back = to_uint8(floats, value_range).int()
    assert ((every.int() - back) >= 0).all() and ((every.int() - back) <= 1).all()
    middle = to_float(every[:-1], value_range) + (high - low) / 510  # half a level further up
    assert torch.equal(to_uint8(middle, value_range), every[:-1])


def test_floats_out_of_range_are_clamped():
    assert to_uint8(torch.tensor([-9.0, 0.5, 9.0]), (0, 1)).tolist() == [0, 127, 255]


def test_only_bytes_are_converted():
    with pytest.raises(InvalidValue, match="must be a uint8 tensor"):
        to_float(torch.rand(3), (0, 1))
    with pytest.raises(InvalidValue, match="must be a uint8 tensor"):
        reconstruct(GreyTokenizer(), torch.rand(1, 1, 28, 28))


@ours
@given(seed=seeds, offset=st.integers(0, 255))
def test_psnr_of_a_constant_offset(seed, offset):
    a = torch.full((2, 1, 4, 4), 255 - offset, dtype=torch.uint8)
    b = torch.full_like(a, 255)
    expected = -20 * math.log10(offset / 255) if offset else math.inf
    assert psnr(a, b) == pytest.approx(expected) == psnr(b, a)


def test_psnr_wants_batches_of_one_shape():
    with pytest.raises(InvalidValue, match="shapes"):
        psnr(torch.zeros(2, 1, 4, 4).byte(), torch.zeros(1, 1, 4, 4).byte())
    with pytest.raises(InvalidValue, match="uint8"):
        psnr(torch.zeros(4), torch.zeros(4))


def test_stack_images():
    data = ImageData(Digits())
    some = stack_images(data, [7, 3])
    assert some.shape == (2, 1, 28, 28) and some.dtype == torch.uint8
    assert torch.equal(some[1], data[3][0])
    assert len(stack_images(Part(data, np.arange(5)))) == 5


def test_grid_side():
    assert [grid_side(n) for n in (0, 1, 49, 256, 1024)] == [0, 1, 7, 16, 32]
    with pytest.raises(InvalidValue, match="50 is not allowed.*square number"):
        grid_side(50)


# The nearest code


@ours
@given(seed=seeds, n=st.integers(1, 30), size=st.integers(1, 20), dim=st.integers(1, 8))
def test_nearest_code_is_nearest(seed, n, size, dim):
    vectors, codebook = rand(seed, n, dim), rand(seed + 1, size, dim)
    found = nearest_code(vectors, codebook)
    for vector, code in zip(vectors.double(), found):
        distances = [(vector - row).square().sum().item() for row in codebook.double()]
        assert (
            distances[code] <= min(distances) + 1e-5
        )  # float32 may swap codes that are this close


def test_nearest_code_keeps_the_shape():
    vectors, codebook = rand(0, 3, 4, 5, 2), rand(1, 12, 2)
    expected = torch.cdist(vectors.flatten(0, 2), codebook).argmin(1).view(3, 4, 5)
    assert torch.equal(nearest_code(vectors, codebook), expected)


def test_codes_of_many_vectors_are_found_in_parts():
    torch.manual_seed(0)
    vectors = torch.randn(3, 40, 2)
    codes = torch.full((2**21, 2), 100.0)  # so many codes that 32 vectors are compared at a time
    codes[:: 2**15] = torch.randn(64, 2)
    picked = torch.tensor([0, 5, 31, 32, 33, 63, 64, 119])
    found = nearest_code(vectors, codes).flatten()
    distances = torch.cdist(vectors.flatten(0, 1)[picked].double(), codes.double())
    assert torch.equal(found[picked], distances.argmin(1))


# The codebook


def test_codebook_follows_its_vectors_and_restarts_unused_codes():
    torch.manual_seed(0)
    decay = 0.9
    book = Codebook(4, 2, decay=decay)
    start = torch.tensor([[0.0, 0.0], [1, 1], [2, 2], [50, 50]])
    book.embedding.copy_(start)
    book.sums.copy_(start)
    book.counts.fill_(1)
    vectors = torch.tensor([[0.1, 0.0], [0.3, 0.0], [1.2, 1.0], [2.0, 2.4]]).repeat(2, 1)
    for step in range(60):
        book.train()(vectors)
        if step == 0:  # by hand: code 0 was chosen by four vectors, whose sum is (0.8, 0)
            expected = (1 - decay) * torch.tensor([0.8, 0]) / (decay + (1 - decay) * 4)
            torch.testing.assert_close(book.embedding[0], expected)
    assert book.embedding.max() < 3  # the unused code at (50, 50) was reset
    codes = nearest_code(vectors, book.embedding)
    torch.testing.assert_close(book.embedding[codes[2]], vectors[2], atol=0.02, rtol=0)


def test_restarts_prevent_collapse():
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, 2], [6, 2], [4, 3], [6, 3]])
    cloud = centres.repeat(100, 1) + 0.1 * torch.randn(400, 2)
    errors, in_use = [], []
    for unused_below in (0.0, 0.01):
        book = Codebook(8, 2, unused_below=unused_below)
        book.embedding.mul_(0.1)  # near the origin, far from all clouds
        for _ in range(300):
            book(cloud)
        codes = nearest_code(cloud, book.embedding)
        in_use.append(len(codes.unique()))
        errors.append(torch.linalg.norm(cloud - book.embedding[codes], dim=1).mean().item())
    assert in_use[0] == 1 and in_use[1] >= 6  # a code that was just reset may still be unused
    assert errors[1] < 0.2 < 1 < errors[0]  # the clouds' own standard deviation is 0.1


def test_commitment_and_straight_through():
    torch.manual_seed(0)
    book = Codebook(4, 3).eval()
    z = torch.randn(5, 3, requires_grad=True)
    quantized, commitment = book(z)
    nearest = book.embedding[torch.cdist(z, book.embedding).argmin(1)]
    torch.testing.assert_close(quantized, nearest)
    (3 * quantized).sum().backward(retain_graph=True)
    assert torch.equal(z.grad, torch.full((5, 3), 3.0))
    z.grad = None
    commitment.backward()
    torch.testing.assert_close(z.grad, 2 * (z.detach() - nearest) / z.numel())


def test_codebook_stands_still_in_evaluation():
    book = Codebook(4, 3).eval()
    before = copy.deepcopy(book.state_dict())
    book(torch.randn(9, 3))
    assert all(torch.equal(before[name], value) for name, value in book.state_dict().items())


# Tokenizers


SMALL = [
    TokenizerConfig("grey", 32, 3, 4, 8),
    TokenizerConfig("grey", 28, 1, 7, 2),
    TokenizerConfig("conv_vq", 32, 1, 4, 16, width=8),
    TokenizerConfig("conv_vq", 32, 3, 8, 16, width=8),
    TokenizerConfig("conv_vq", 16, 3, 2, 16, width=8),
    TokenizerConfig("conv_vq", 32, 1, 16, 16, width=8),
]


def name_of(config):
    return f"{config.kind}-{config.channels}-{config.stride}"


@pytest.mark.parametrize("config", SMALL, ids=name_of)
def test_round_trip(config):
    torch.manual_seed(0)
    tokenizer = make_tokenizer(config).eval()
    images = torch.rand(2, config.channels, config.image_size, config.image_size)
    tokens = tokenizer.encode(images)
    assert tokens.shape == (2, config.num_tokens) and tokens.dtype == torch.int64
    assert 0 <= tokens.min() and tokens.max() < config.codebook_size
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == images.shape and decoded.isfinite().all()
    if config.kind == "conv_vq":
        assert decoded.is_contiguous(), "inside, channels come last; outside, that is not seen"
    # an image's tokens do not depend on its batch
    assert torch.equal(tokenizer.encode(images[1:]), tokens[1:])


@ours
@given(
    seed=seeds,
    stride=st.sampled_from([1, 2, 4, 7]),
    levels=st.integers(2, 300),
    channels=st.sampled_from([1, 3]),
)
def test_grey_tokens_survive_a_round_trip(seed, stride, levels, channels):
    config = TokenizerConfig("grey", 28, channels, stride, levels)
    tokenizer = GreyTokenizer(config)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(levels, (2, config.num_tokens), generator=generator)
    assert torch.equal(tokenizer.encode(tokenizer.decode(tokens)), tokens)


def test_grey_tokens_are_levels_of_mean_brightness():
    images = rand(3, 1, 1, 8, 8)
    tokens = GreyTokenizer().encode(images)[0]
    for index in range(4):
        i, j = divmod(index, 2)
        mean = images[0, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean().item()
        assert tokens[index] == round(mean * 7)


def test_grey_refuses_pixels_of_another_range():
    for images in (torch.full((1, 1, 8, 8), -1.0), torch.full((1, 1, 8, 8), 1.5)):
        with pytest.raises(InvalidValue, match=r"within 0 to 1"):
            GreyTokenizer().encode(images)


def test_conv_vq_sends_the_nearest_code_to_the_decoder():
    torch.manual_seed(0)
    tokenizer = make_tokenizer(SMALL[2]).eval()
    images = torch.rand(2, 1, 32, 32)
    vectors = tokenizer.to_vectors(images)
    assert vectors.shape == (2, 8, 8, 16)
    tokens = torch.cdist(vectors.flatten(0, 2), tokenizer.codes()).argmin(1).view(2, 64)
    assert torch.equal(tokenizer.encode(images), tokens)
    with torch.no_grad():
        reconstructed, commitment = tokenizer(images)
        quantized = tokenizer.codes()[tokens].view(2, 8, 8, 16)
        torch.testing.assert_close(reconstructed, tokenizer.decode(tokens), atol=1e-4, rtol=0)
        torch.testing.assert_close(commitment, F.mse_loss(vectors, quantized))


def test_reconstruct_does_not_depend_on_the_batch_size():
    pixels = (rand(0, 5, 1, 28, 28) * 255).byte()
    whole, parts = (reconstruct(GreyTokenizer(), pixels, batch_size) for batch_size in (5, 2))
    assert torch.equal(whole, parts) and whole.dtype == torch.uint8


# Bad input


@pytest.mark.parametrize("config", SMALL, ids=name_of)
def test_bad_images_get_one_clear_error(config):
    tokenizer, side, channels = make_tokenizer(config).eval(), config.image_size, config.channels
    good = torch.rand(1, channels, side, side)
    for bad, message in [
        ((good * 255).to(torch.uint8), "to_float"),
        (torch.rand(1, 4 - channels, side, side), rf"\[B, {channels}, S, S\]"),
        (good[0], r"\[B, "),
        (torch.rand(1, channels, side + 1, side + 1), f"stride, {config.stride}"),
        (torch.rand(1, channels, side, side + config.stride), "square"),
        (torch.rand(1, channels, 0, 0), "square"),
    ]:
        with pytest.raises(InvalidValue, match=message):
            tokenizer.encode(bad)


@pytest.mark.parametrize("config", SMALL, ids=name_of)
def test_bad_tokens_get_one_clear_error(config):
    tokenizer, size = make_tokenizer(config).eval(), config.codebook_size
    good = torch.zeros(1, config.num_tokens, dtype=torch.int64)
    for bad, message in [
        (torch.zeros(1, config.num_tokens + 1, dtype=torch.int64), "square number"),
        (good.int(), "int64"),
        (good[0], r"\[B, L\]"),
        (good + size, f"0 to {size - 1}"),
        (good - 1, f"0 to {size - 1}"),
    ]:
        with pytest.raises(InvalidValue, match=message):
            tokenizer.decode(bad)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(kind="nothing"), "kind = 'nothing' is not allowed.*grey, conv_vq"),
        (dict(image_size=30), "a multiple of the tokenizer's stride, 4"),
        (dict(image_size=30, stride=3), "2, 4, 8, 16 or 32"),
        (dict(width=12), "a multiple of 8"),
        (dict(shifts=28), "below image_size = 28"),
        (dict(codebook_size=1), "codebook_size = 1"),
        (dict(channels=2), "channels = 2"),
        (dict(vq_learning_rate=0.0), "vq_learning_rate"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(InvalidValue, match=message):
        TokenizerConfig(**wrong)


def test_a_tokenizer_is_registered_with_one_assignment(monkeypatch):
    class Mine(Tokenizer):
        fixed_sizes = {"stride": 2}

        def __init__(self, config):
            super().__init__()

    with pytest.raises(InvalidValue, match="kind = 'mine'"):
        TokenizerConfig("mine")
    monkeypatch.setitem(TOKENIZERS, "mine", Mine)
    assert isinstance(make_tokenizer(TokenizerConfig("mine", stride=2)), Mine)
    with pytest.raises(InvalidValue, match="2 for the tokenizer 'mine'"):
        TokenizerConfig("mine", stride=4)


# Training


def train_small(data, **changes):
    torch.manual_seed(1)
    sizes = dict(image_size=16, codebook_size=16, width=8, vq_batch_size=8, vq_precision="no")
    tokenizer = make_tokenizer(TokenizerConfig(**sizes | changes))
    start = copy.deepcopy(tokenizer).eval()
    return start, tokenizer, train_tokenizer(tokenizer, data, progress=False)


def test_training_is_repeatable_and_lowers_the_error():
    data = Part(ImageData(Digits(), 16), np.arange(64))
    before, tokenizer, losses = train_small(data, vq_steps=40)
    assert losses == train_small(data, vq_steps=40)[2] and len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert isinstance(tokenizer, ConvVQ) and not tokenizer.training
    pixels = stack_images(data)
    assert psnr(pixels, reconstruct(tokenizer, pixels)) > psnr(pixels, reconstruct(before, pixels))


@pytest.mark.parametrize("steps", [0, 1, 2, 9, 10, 11])
def test_any_number_of_steps(steps):
    data = Part(ImageData(Digits(), 16), np.arange(16))
    losses = train_small(data, vq_steps=steps)[2]
    assert len(losses) == steps and np.isfinite(losses).all()


def test_training_that_diverges_is_stopped():
    data = Part(ImageData(Digits(), 16), np.arange(16))
    with pytest.raises(InvalidValue, match="lower vq_learning_rate"):
        train_small(data, vq_steps=20, vq_learning_rate=1e30)


def test_data_of_another_size_is_refused():
    tokenizer = make_tokenizer(TokenizerConfig(image_size=32, channels=3, width=8))
    with pytest.raises(InvalidValue, match=r"\(1, 28\)"):
        train_tokenizer(tokenizer, ImageData(Digits()), progress=False)


# What the doors refuse

NAN = torch.full((1, 1, 28, 28), math.nan)
PIXELS = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
GREY = GreyTokenizer()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: make_tokenizer(None), "config = None is not allowed: it must be a TokenizerConf"),
        (lambda: make_tokenizer({"kind": "grey"}), "it must be a TokenizerConfig"),
        (lambda: ConvVQ("conv_vq"), "config = 'conv_vq' is not allowed"),
        (lambda: GREY.encode([[0.5]]), "images = [[0.5]] is not allowed"),
        (lambda: GREY.encode(PIXELS), "`to_float(images, tokenizer.value_range)` converts"),
        (lambda: GREY.encode(NAN), "range of images = (nan, nan) is not allowed: it must be fin"),
        (lambda: make_tokenizer(TokenizerConfig(width=8)).encode(NAN), "must be finite"),
        (lambda: GREY.decode([[0] * 49]), "it must be an int64 tensor"),
        (lambda: GREY.decode(torch.zeros(1, 49)), "dtype of tokens = torch.float32"),
        (lambda: GREY.decode(torch.zeros(1, 0).long()), "number of tokens = 0"),
        (lambda: to_uint8(NAN, (0, 1)), "free of NaN: something before went wrong"),
        (lambda: to_uint8(torch.rand(3), (1, 1)), "(low, high) with low < high"),
        (lambda: psnr(PIXELS[:0], PIXELS[:0]), "with at least one pixel"),
        (lambda: psnr(None, PIXELS), "a = None is not allowed"),
        (lambda: stack_images(ImageData(Digits()), []), "at least one number, each from 0 to 4"),
        (lambda: stack_images(ImageData(Digits()), [10**9]), "each from 0 to"),
        (lambda: stack_images(ImageData(Digits()), [0.5]), "a list of whole numbers"),
        (lambda: stack_images(7), "a data set of images"),
        (lambda: reconstruct(GREY, PIXELS, 0), "batch_size = 0"),
        (lambda: reconstruct("grey", PIXELS), "it must be a Tokenizer"),
        (lambda: grid_side(-1), "num_tokens = -1"),
        (lambda: train_tokenizer(GREY, ImageData(Digits())), "must be a TrainableTokenizer"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(seed=-1), "seed = -1"),
        (dict(seed=2.5), "seed = 2.5"),
        (dict(device="tpu9"), "one that this machine has, such as 'cpu'"),
        (dict(device=None), "device = None"),
        (dict(workers=-1), "workers = -1"),
        (dict(data=[]), "data = [] is not allowed: it must be a Dataset"),
        (dict(data=Part(ImageData(Digits(), 16), np.arange(0))), "number of images = 0"),
    ],
)
def test_training_a_tokenizer_is_a_door(change, words):
    tokenizer = make_tokenizer(TokenizerConfig(image_size=16, width=8, vq_steps=1))
    good = dict(tokenizer=tokenizer, data=ImageData(Digits(), 16), progress=False)
    refuses(lambda: train_tokenizer(**good | change), words)


def test_tokens_fit_into_16_bits():
    """As they are stored: a trained tokenizer's tokens would be refused after the work."""
    assert TokenizerConfig("grey", codebook_size=2**16).codebook_size == 2**16
    refuses(lambda: TokenizerConfig("grey", codebook_size=2**16 + 1), "codebook_size = 65537")
