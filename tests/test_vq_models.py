"""The tokenizers: published ones against measured values (tests/golden), read from files like
the released ones; ours by their properties.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rar_nb.data.images import Digits, ImageData, Part
from rar_nb.pretrained.vq_models import (
    LLAMAGEN_VQ,
    MASKGIT_VQ,
    MULTIPLIERS,
    PUBLISHED,
    VQGAN,
    AttentionBlock,
    Downsample,
    LlamaGenVQ,
    MaskGITVQ,
    ResidualBlock,
    group_norm,
)
from rar_nb.support import InvalidValue
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
IN_MANIFEST = {"maskgit_vq": "maskgit_vq", "llamagen_vq": "llamagen_vq16"}
FILES = {"maskgit_vq": "maskgit-vqgan-imagenet-f16-256.bin", "llamagen_vq": "vq_ds16_c2i.pt"}
CONFIGS = {"maskgit_vq": MASKGIT_VQ, "llamagen_vq": LLAMAGEN_VQ}


@pytest.fixture(scope="module", params=list(PUBLISHED))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def released(name, tmp_path_factory):
    """A file like the released one: every tensor of the manifest, filled by its name."""
    manifest = MANIFEST[IN_MANIFEST[name]]
    weights = {n: torch.from_numpy(fill(n, tuple(shape))) for n, shape in manifest.items()}
    path = tmp_path_factory.mktemp(name) / FILES[name]
    torch.save({"model": weights} if name == "llamagen_vq" else weights, path)
    yield path
    path.unlink()  # hundreds of megabytes


@pytest.fixture(scope="module")
def tokenizer(name, released):
    return PUBLISHED[name].from_pretrained(released)


@pytest.fixture(scope="module")
def golden(name):
    with np.load(GOLDEN / f"{IN_MANIFEST[name]}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays}


@pytest.fixture(scope="module")
def images(golden, tokenizer):
    low, high = tokenizer.value_range
    return smooth_images(int(golden["seed"]), 2, int(golden["size"])) * (high - low) + low


def test_names_and_shapes(name):
    with torch.device("meta"):
        ours = PUBLISHED[name]().state_dict()
    manifest = MANIFEST[IN_MANIFEST[name]]
    theirs = [(n, shape) for n, shape in manifest.items() if n != BOOKKEEPING]
    assert [(n, list(p.shape)) for n, p in ours.items()] == theirs


def test_sizes(name, tokenizer):
    sizes = TOKENIZERS[name].fixed_sizes
    for field in ("stride", "codebook_size", "channels"):
        assert getattr(tokenizer, field) == sizes[field]
    assert tokenizer.codes().shape == (sizes["codebook_size"], sizes["codebook_dim"])
    assert tokenizer.value_range == ((-1, 1) if name == "llamagen_vq" else (0, 1))
    assert not tokenizer.training


@pytest.mark.parametrize(
    "kind, millions, codes", [("maskgit_vq", 54.5, 1024), ("llamagen_vq", 71.9, 16384)]
)
def test_the_published_sizes(kind, millions, codes):
    with torch.device("meta"):
        tokenizer = make_tokenizer(CONFIGS[kind])
    assert type(tokenizer) is PUBLISHED[kind]
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 1) == millions
    images = torch.empty(1, 3, 256, 256, device="meta")
    tokens = tokenizer.encode(images)
    assert tokens.shape == (1, 256) and tokenizer.codebook_size == codes
    assert tokenizer.decode(tokens).shape == images.shape


@torch.no_grad()
def test_golden_tokens(name, tokenizer, golden, images):
    tokens = tokenizer.encode(images)
    assert torch.equal(tokens, golden["indices"])
    if name == "maskgit_vq":
        vectors = tokenizer.to_vectors(images)[..., :8]
    else:
        vectors = tokenizer.codes()[tokens].view(2, 4, 4, 8)
    torch.testing.assert_close(vectors.permute(0, 3, 1, 2), golden["h"], atol=1e-3, rtol=0)
    assert len(tokens.unique()) > 20  # the check would be weak if all tokens were the same


@torch.no_grad()
def test_golden_pixels(tokenizer, golden):
    pixels = F.avg_pool2d(tokenizer.decode(golden["indices"]), 8)
    torch.testing.assert_close(pixels, golden["raw_small"], atol=1e-3, rtol=0)


@torch.no_grad()
def test_released_file_in_a_folder(name, tokenizer, released, golden):
    again = PUBLISHED[name].from_pretrained(released.parent)
    states = again.state_dict(), tokenizer.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    one = golden["indices"][:1]
    assert torch.equal(again.decode(one), tokenizer.decode(one))


def test_the_other_tokenizers_file_is_refused(name, released):
    other = next(cls for n, cls in PUBLISHED.items() if n != name)
    with pytest.raises(ValueError, match=released.name):
        other.from_pretrained(released)


@torch.no_grad()
def test_only_llamagens_codes_are_directions(name, tokenizer, golden, images):
    weight = tokenizer.quantize.embedding.weight
    before = weight.clone()
    lengths = 1 + torch.arange(len(weight))[:, None] % 5
    try:
        weight.mul_(lengths)
        same_tokens = torch.equal(tokenizer.encode(images), golden["indices"])
        pixels = F.avg_pool2d(tokenizer.decode(golden["indices"]), 8)
        same_pixels = torch.allclose(pixels, golden["raw_small"], atol=1e-3, rtol=0)
    finally:
        weight.copy_(before)
    assert same_tokens == same_pixels == (name == "llamagen_vq")


def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(ValueError, match=FILES[name]):
        PUBLISHED[name].from_pretrained(tmp_path)


@pytest.mark.parametrize("maskgit", [False, True])
@torch.no_grad()
def test_what_goes_around_a_residual_block(maskgit):
    """With h = 0 only the path around is left: x, W x (VQGAN), or W h = 0 (MaskGIT-VQ)."""
    torch.manual_seed(0)
    x = torch.randn(2, 32, 8, 8)
    same, wider = (ResidualBlock(32, c_out, maskgit) for c_out in (32, 64))
    for block in (same, wider):
        for p in block.conv2.parameters():
            nn.init.zeros_(p)
    assert torch.equal(same(x), x)
    around = wider.nin_shortcut(x) if not maskgit else torch.zeros(2, 64, 8, 8)
    assert torch.equal(wider(x), around)
    if maskgit:
        nn.init.normal_(wider.conv2.weight)
        nn.init.dirac_(wider.nin_shortcut.weight)  # W = 1: the output is h + h
        twice = wider(x)
        nn.init.zeros_(wider.nin_shortcut.weight)  # W = 0: the output is h
        torch.testing.assert_close(twice, 2 * wider(x))


def test_groups_have_at_least_four_channels():
    channels = (512, 128, 64, 16, 8)
    assert [group_norm(c).num_groups for c in channels] == [32, 32, 16, 4, 2]


@torch.no_grad()
def test_attention_against_brute_force():
    torch.manual_seed(0)
    block, x = AttentionBlock(16), torch.randn(1, 16, 4, 4)
    h = block.norm(x)[0].flatten(1)  # [channels, places]
    layers = block.q, block.k, block.v
    q, k, v = (f.weight[:, :, 0, 0] @ h + f.bias[:, None] for f in layers)
    out = torch.zeros(16, 16)
    for i in range(16):
        weights = torch.stack([(q[:, i] * k[:, j]).sum() / 4 for j in range(16)]).softmax(0)
        out[:, i] = sum(weights[j] * v[:, j] for j in range(16))
    project = block.proj_out
    expected = x[0].flatten(1) + project.weight[:, :, 0, 0] @ out + project.bias[:, None]
    torch.testing.assert_close(block(x)[0].flatten(1), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_downsampling_pads_on_the_right_and_below():
    torch.manual_seed(0)
    down, x = Downsample(16), torch.randn(1, 16, 4, 4)
    y = down(x)
    assert y.shape == (1, 16, 2, 2)
    first = (down.conv.weight * x[:, :, :3, :3]).sum((1, 2, 3)) + down.conv.bias
    last = (down.conv.weight[..., :2, :2] * x[:, :, 2:, 2:]).sum((1, 2, 3)) + down.conv.bias
    torch.testing.assert_close(y[0, :, 0, 0], first)
    torch.testing.assert_close(y[0, :, 1, 1], last)


SMALL = [
    TokenizerConfig("vqgan", 64, channels, stride, 16, width=8)
    for channels, stride in [(1, 4), *((3, stride) for stride in MULTIPLIERS)]
]


@pytest.mark.parametrize("config", SMALL, ids=lambda c: f"{c.kind}-{c.channels}-{c.stride}")
def test_round_trip(config):
    torch.manual_seed(0)
    tokenizer = make_tokenizer(config).eval()
    low, high = tokenizer.value_range
    side = config.image_size
    images = torch.rand(2, config.channels, side, side) * (high - low) + low
    tokens = tokenizer.encode(images)
    assert tokens.shape == (2, config.num_tokens) and tokens.dtype == torch.int64
    assert 0 <= tokens.min() and tokens.max() < config.codebook_size
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == images.shape and decoded.isfinite().all()
    alone = tokenizer.encode(images[1:])  # an image's tokens do not depend on its batch
    assert torch.equal(alone, tokens[1:])


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
    known = {
        "conv_vq": ConvVQ,
        "vqgan": VQGAN,
        "grey": GreyTokenizer,
        "maskgit_vq": MaskGITVQ,
        "llamagen_vq": LlamaGenVQ,
    }
    free = dict(stride=4, channels=3)
    with torch.device("meta"):
        for kind, cls in known.items():
            config = TokenizerConfig(kind, 32, **free | TOKENIZERS[kind].fixed_sizes)
            assert type(make_tokenizer(config)) is cls


def test_training_is_repeatable_and_lowers_the_error():
    data = Part(ImageData(Digits(), 16), np.arange(64))
    config = TokenizerConfig(
        "vqgan", 16, 1, 4, 16, width=8, vq_steps=30, vq_batch_size=8, vq_precision="no"
    )
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
    config = TokenizerConfig(
        "vqgan", 16, 1, 4, 16, width=8, vq_steps=3, vq_batch_size=4, vq_precision="bf16"
    )
    tokenizer = make_tokenizer(config)
    losses = train_tokenizer(tokenizer, data, progress=False)
    assert np.isfinite(losses).all()
    assert {t.dtype for t in tokenizer.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "cls, change, words",
    [
        (MaskGITVQ, dict(channels=3, image_size=32), "stride = 4 .* 16 for the tokenizer 'maskgit"),
        (LlamaGenVQ, dict(channels=3, stride=16, image_size=32), "codebook_size = 256 .* 16384"),
        (ConvVQ, dict(kind="grey", stride=7), "stride = 7 .*2, 4, 8, 16 or 32"),
        (ConvVQ, dict(kind="grey", stride=1), "stride = 1 "),
        (ConvVQ, dict(kind="grey", width=12), "width = 12 .*multiple of 8"),
        (VQGAN, dict(kind="grey", stride=7), "stride = 7 .*2, 4, 8, 16 or 32"),
    ],
)
def test_a_class_checks_the_configuration_of_another_kind(cls, change, words):
    """`TokenizerConfig` has checked what its own kind can have."""
    with pytest.raises(InvalidValue, match=words):
        cls(TokenizerConfig(**change))


def test_a_configuration_of_another_kind_that_fits():
    assert VQGAN(TokenizerConfig(width=8)).codebook_size == 256
