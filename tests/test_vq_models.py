"""The published tokenizers against measured values (tests/golden), through files like the released ones; VQGAN by its properties."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rar_nb.data.images import Digits, ImageData, Part
from rar_nb.pretrained.vq_models import MULTIPLIERS, VQGAN, LlamaGenVQ, MaskGITVQ
from rar_nb.tokenizer import (
    TOKENIZERS,
    ConvVQ,
    GreyTokenizer,
    TokenizerConfig,
    make_tokenizer,
    to_float,
    train_tokenizer,
)
from tests.golden.fill import fill, smooth_images

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = json.loads((GOLDEN / "tokenizer_manifest.json").read_text())
BOOKKEEPING = "quantize.codebook_used"  # of LlamaGen's training
PUBLISHED = {"maskgit_vq": MaskGITVQ, "llamagen_vq16": LlamaGenVQ}
FILES = {"maskgit_vq": "maskgit-vqgan-imagenet-f16-256.bin", "llamagen_vq16": "vq_ds16_c2i.pt"}


@pytest.fixture(scope="module", params=list(PUBLISHED))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def released(name, tmp_path_factory):
    """A file that looks like the released one, in a folder of its own: every tensor of the manifest, filled by its name."""
    weights = {n: torch.from_numpy(fill(n, tuple(shape))) for n, shape in MANIFEST[name].items()}
    path = tmp_path_factory.mktemp(name) / FILES[name]
    torch.save({"model": weights} if name == "llamagen_vq16" else weights, path)
    yield path
    path.unlink()  # hundreds of megabytes


@pytest.fixture(scope="module")
def tokenizer(name, released):
    return PUBLISHED[name].from_pretrained(released)


@pytest.fixture(scope="module")
def golden(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays}


@pytest.fixture(scope="module")
def images(golden, tokenizer):
    low, high = tokenizer.value_range
    return smooth_images(int(golden["seed"]), 2, int(golden["size"])) * (high - low) + low


def test_names_and_shapes(name):
    with torch.device("meta"):
        ours = PUBLISHED[name]().state_dict()
    theirs = [(n, shape) for n, shape in MANIFEST[name].items() if n != BOOKKEEPING]
    assert [(n, list(p.shape)) for n, p in ours.items()] == theirs


def test_sizes(name, tokenizer):
    sizes = TOKENIZERS["llamagen_vq" if name == "llamagen_vq16" else name].fixed_sizes
    assert (tokenizer.stride, tokenizer.codebook_size, tokenizer.channels) == (sizes["stride"], sizes["codebook_size"], sizes["channels"])
    assert tokenizer.codes().shape == (sizes["codebook_size"], sizes["codebook_dim"])
    assert tokenizer.value_range == ((-1, 1) if name == "llamagen_vq16" else (0, 1))
    assert not tokenizer.training


@torch.no_grad()
def test_golden_tokens(name, tokenizer, golden, images):
    tokens = tokenizer.encode(images)
    assert torch.equal(tokens, golden["indices"])
    vectors = tokenizer.to_vectors(images)[..., :8] if name == "maskgit_vq" else tokenizer.codes()[tokens].view(2, 4, 4, 8)
    torch.testing.assert_close(vectors.permute(0, 3, 1, 2), golden["h"], atol=1e-3, rtol=0)
    assert len(tokens.unique()) > 20  # the check above would be weak if all tokens were the same


@torch.no_grad()
def test_golden_pixels(tokenizer, golden):
    pixels = F.avg_pool2d(tokenizer.decode(golden["indices"]), 8)
    torch.testing.assert_close(pixels, golden["raw_small"], atol=1e-3, rtol=0)


@torch.no_grad()
def test_released_file_in_a_folder(name, tokenizer, released, golden):
    again = PUBLISHED[name].from_pretrained(released.parent)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), tokenizer.state_dict().values(), strict=True))
    assert torch.equal(again.decode(golden["indices"][:1]), tokenizer.decode(golden["indices"][:1]))


def test_the_other_tokenizers_file_is_refused(name, released):
    other = next(cls for n, cls in PUBLISHED.items() if n != name)
    with pytest.raises(ValueError, match=released.name):
        other.from_pretrained(released)


@torch.no_grad()
def test_only_llamagens_codes_are_directions(name, tokenizer, golden, images):
    weight, before = tokenizer.quantize.embedding.weight, tokenizer.quantize.embedding.weight.clone()
    lengths = 1 + torch.arange(len(weight))[:, None] % 5
    try:
        weight.mul_(lengths)
        same_tokens = torch.equal(tokenizer.encode(images), golden["indices"])
        same_pixels = torch.allclose(F.avg_pool2d(tokenizer.decode(golden["indices"]), 8), golden["raw_small"], atol=1e-3, rtol=0)
    finally:
        weight.copy_(before)
    assert same_tokens == same_pixels == (name == "llamagen_vq16")


SMALL = [
    TokenizerConfig("vqgan", 64, channels, stride, 16, width=8)
    for channels, stride in [(1, 4), *((3, s) for s in MULTIPLIERS)]
]


@pytest.mark.parametrize("config", SMALL, ids=lambda c: f"{c.kind}-{c.channels}-{c.stride}")
def test_round_trip(config):
    torch.manual_seed(0)
    tokenizer = make_tokenizer(config).eval()
    low, high = tokenizer.value_range
    images = torch.rand(2, config.channels, config.image_size, config.image_size) * (high - low) + low
    tokens = tokenizer.encode(images)
    assert tokens.shape == (2, config.num_tokens) and tokens.dtype == torch.int64
    assert 0 <= tokens.min() and tokens.max() < config.codebook_size
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == images.shape and decoded.isfinite().all()
    assert torch.equal(tokenizer.encode(images[1:]), tokens[1:])  # an image's tokens do not depend on its batch


@pytest.mark.parametrize("config", SMALL[:1], ids=lambda c: f"{c.kind}-{c.channels}-{c.stride}")
def test_bad_images_and_tokens_get_one_clear_error(config):
    tokenizer, side = make_tokenizer(config).eval(), config.image_size
    good = torch.rand(1, config.channels, side, side)
    for bad, message in [
        ((good * 255).to(torch.uint8), "to_float"),
        (torch.rand(1, 4 - config.channels, side, side), rf"\[B, {config.channels}, S, S\]"),
        (good[0], r"\[B, "),
        (torch.rand(1, config.channels, side + 1, side + 1), f"stride, {config.stride}"),
        (torch.rand(1, config.channels, side, side + config.stride), "square"),
    ]:
        with pytest.raises(ValueError, match=message):
            tokenizer.encode(bad)
    tokens = tokenizer.encode(good)
    for bad, message in [
        (tokens[:, :-1], "square number"),
        (tokens.int(), "int64"),
        (tokens[0], r"\[B, L\]"),
        (tokens + config.codebook_size, f"0 to {config.codebook_size - 1}"),
        (tokens - config.codebook_size, f"0 to {config.codebook_size - 1}"),
    ]:
        with pytest.raises(ValueError, match=message):
            tokenizer.decode(bad)


def test_make_tokenizer_knows_every_kind():
    with torch.device("meta"):
        made = {kind: type(make_tokenizer(TokenizerConfig(kind, 32, **{"stride": 4, "channels": 3} | cls.fixed_sizes))) for kind, cls in TOKENIZERS.items()}
    assert made == {"conv_vq": ConvVQ, "vqgan": VQGAN, "grey": GreyTokenizer, "maskgit_vq": MaskGITVQ, "llamagen_vq": LlamaGenVQ}


def test_training_is_repeatable_and_lowers_the_error():
    data = Part(ImageData(Digits(), 16), np.arange(64))
    config = TokenizerConfig("vqgan", 16, 1, 4, 16, width=8, vq_steps=30, vq_batch_size=8, vq_precision="no")
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        tokenizer = make_tokenizer(config)
        runs.append(train_tokenizer(tokenizer, data, progress=False))
    assert runs[0] == runs[1] and len(runs[0]) == 30
    assert np.mean(runs[0][-5:]) < 0.7 * np.mean(runs[0][:5])
    assert not tokenizer.training
    pixels = torch.stack([data[i][0] for i in range(8)])
    before = make_tokenizer(config).eval()
    images = to_float(pixels, tokenizer.value_range)
    errors = [F.mse_loss(t.decode(t.encode(images)), images).item() for t in (tokenizer, before)]
    assert errors[0] < errors[1]


def test_training_in_bf16_keeps_the_codebook_in_float32():
    data = Part(ImageData(Digits(), 16), np.arange(16))
    tokenizer = make_tokenizer(TokenizerConfig("vqgan", 16, 1, 4, 16, width=8, vq_steps=3, vq_batch_size=4, vq_precision="bf16"))
    losses = train_tokenizer(tokenizer, data, progress=False)
    assert np.isfinite(losses).all()
    assert {t.dtype for t in tokenizer.state_dict().values()} == {torch.float32}
