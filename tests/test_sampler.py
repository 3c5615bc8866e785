"""Sampling: batches, precision, and the noise of an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rar_nb.transformer import ModelConfig
from rar_nb.sampler import SampleConfig
from rar_nb.sampler import (
    GUIDANCE_SCHEDULES,
    KVCache,
    SampleConfig,
    SamplingState,
    balanced_classes,
    guidance_weight,
    guide,
    image_noise,
    sample_batch,
    sample_from,
    sample_images,
    sample_tokens,
)
from rar_nb.support import float32_products
from rar_nb.tokenizer import GreyTokenizer
from rar_nb.transformer import RAR, ModelConfig

SAMPLE = SampleConfig(4.0, 1.0, num_samples=20, sample_batch_size=6)


def make_model(seed=0, num_tokens=16, codebook_size=8):
    torch.manual_seed(seed)
    model = RAR(
        ModelConfig(
            codebook_size, num_tokens, 4, hidden_size=32, num_layers=2, num_heads=2, mlp_size=64
        )
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_another_batch_size_changes_rounding_only(model, batch_size):
    """The noise is the same; tokens could differ where it falls within rounding of a border, which
    in 320 samples it doesn't."""
    classes = balanced_classes(20, 4)
    whole, other = (
        sample_images(model, GreyTokenizer(), classes, replace(TWENTY, sample_batch_size=b))
        for b in (6, batch_size)
    )
    assert torch.equal(whole, other)


def test_an_image_alone_is_the_one_of_the_set(model):
    classes = balanced_classes(20, 4)
    whole = sample_images(model, GreyTokenizer(), classes, SAMPLE, seed=3)
    some = sample_batch(model, GreyTokenizer(), classes, torch.tensor([17, 2]), SAMPLE, seed=3)
    assert torch.equal(some, whole[[17, 2]])
    assert whole.shape == (20, 1, 16, 16) and whole.dtype == torch.uint8


def test_mode_of_the_model_is_restored():
    model = make_model().train()
    sample_images(model, GreyTokenizer(), torch.arange(2), SAMPLE)
    assert model.training


# Precision


def logits_of(model, tokens, classes, precision, guidance=4.0):
    """[B, L, V], token by token with a cache, and the cache."""
    drawing = SamplingState(
        model, classes, replace(TWENTY, sample_precision=precision, guidance_scale=guidance)
    )
    with torch.no_grad():
        steps = [
            drawing.next_logits(tokens[:, k - 1] if k else None) for k in range(tokens.shape[1])
        ]
    return torch.stack(steps, 1), drawing.cache


@pytest.fixture(scope="module")
def teacher():
    """A model with 2 × 4 rounded layers, tokens to force on it, and their classes."""
    model = make_model(codebook_size=64)
    return (
        model,
        torch.randint(0, 64, (5, 16), generator=torch.Generator().manual_seed(1)),
        torch.arange(5) % 4,
    )


def test_bf16_logits_lie_near_those_of_float32(teacher):
    exact, rounded = (logits_of(*teacher, precision)[0] for precision in ("no", "bf16"))
    assert rounded.dtype == torch.float32
    off = (rounded - exact).abs()
    assert (
        1e-4 < off.mean() < 0.01 * exact.std() and off.max() < 0.1 * exact.std()
    )  # bf16 rounds by up to 2⁻⁹ = 0.2 %


@pytest.mark.parametrize("precision", ["no", "tf32", "auto"])
def test_on_a_processor_without_bf16_nothing_is_rounded(teacher, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    model, tokens, classes = teacher
    found, cache = logits_of(model, tokens, classes, precision, guidance=0.0)
    with torch.no_grad():
        whole = model(tokens, model.config.condition_id(classes), torch.arange(16)[None])[:, :-1]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)
    assert cache.keys.dtype == torch.float32
    assert torch.equal(found, logits_of(model, tokens, classes, "no", guidance=0.0)[0])


def test_a_bf16_cache_equals_computing_anew(teacher):
    """Whole sequences under autocast: the same roundings, but for the order of sums."""
    model, tokens, classes = teacher
    cached, cache = logits_of(model, tokens, classes, "bf16", guidance=0.0)
    condition, orders = model.config.condition_id(classes), raster_order(16)
    with torch.no_grad():
        x = torch.cat([model.start(condition), model.embeddings(tokens)], 1) + model.positions(
            orders
        )
        with torch.autocast("cpu", torch.bfloat16):
            x = model.features(x, model.conditions(condition))
        anew = model.lm_head(x)[:, 1:-1]
    exact = logits_of(model, tokens, classes, "no", guidance=0.0)[0]
    assert cache.keys.dtype == cache.values.dtype == torch.bfloat16
    assert (cached - anew).abs().mean() < 0.5 * (anew - exact).abs().mean() and (
        cached - anew
    ).abs().max() < 0.02 * anew.std()


def test_logits_themselves_are_not_rounded(teacher):
    """Without guidance, at temperature 1: the head's own output has more digits than bf16."""
    logits = logits_of(*teacher, "bf16", guidance=0.0)[0]
    assert (logits == logits.bfloat16().float()).float().mean() < 0.05


class Casts(TorchDispatchMode):
    """Counts roundings of matrices to bf16."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.count += (
            "to" in func.__name__ and kwargs.get("dtype") is torch.bfloat16 and args[0].ndim == 2
        )
        return func(*args, **kwargs)


def test_weights_are_rounded_once_a_batch(model):
    with Casts() as casts:
        sample_tokens(
            model,
            torch.arange(3),
            replace(TWENTY, sample_precision="bf16"),
            image_noise(0, range(3), 16),
        )
    assert (
        casts.count == 2 * 5 + 1
    )  # five linears a block and the last adaLN's, once each, not at each of 16 steps


def test_settings_of_the_backends_are_put_back(model, monkeypatch):
    def settings():
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    before, seen = settings(), []
    forward, decode = model.features, GreyTokenizer.decode
    monkeypatch.setattr(
        model, "features", lambda *args: (seen.append(settings()), forward(*args))[1]
    )
    monkeypatch.setattr(
        GreyTokenizer, "decode", lambda *args: (seen.append(settings()), decode(*args))[1]
    )
    for precision, expected in (("tf32", "tf32"), ("no", "ieee"), ("bf16", "tf32")):
        seen.clear()
        sample_images(
            model, GreyTokenizer(), torch.arange(2), replace(TWENTY, sample_precision=precision)
        )
        assert set(seen) == {(expected, expected)} and len(seen) == 17 and settings() == before
    with pytest.raises(KeyError), float32_products(tf32=True):
        raise KeyError
    assert settings() == before


def test_wrong_precision():
    with pytest.raises(
        ValueError,
        match="sample_precision = 'fp16' is not allowed: it must be 'tf32', 'no', 'bf16' or 'auto'",
    ):
        replace(TWENTY, sample_precision="fp16")


def test_noise_of_an_image_is_its_own():
    assert torch.equal(image_noise(5, [9, 2], 16)[0], image_noise(5, [9], 16)[0])
    assert (
        len({tuple(row.tolist()) for s in range(5) for row in image_noise(s, range(50), 4)}) == 250
    )
