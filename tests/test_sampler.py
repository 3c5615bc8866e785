"""Guidance against closed forms, samples against their distribution, the loop against the formula
without a cache, and precision."""

import math
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rar_nb.fast_sampling import FastState, FastStep, Plan, forget
from rar_nb.orders import raster_order, sample_orders
from rar_nb.pretrained.presets import SAMPLING
from rar_nb.sampler import (
    GUIDANCE_SCHEDULES,
    GrowingCache,
    SampleConfig,
    SamplingState,
    balanced_classes,
    fast_state,
    guidance_weight,
    guide,
    image_noise,
    sample_batch,
    sample_from,
    sample_images,
    sample_tokens,
    textbook_tokens,
)
from rar_nb.support import InvalidValue, float32_products
from rar_nb.tokenizer import GreyTokenizer, TokenizerConfig, make_tokenizer
from rar_nb.transformer import RAR, ModelConfig

SAMPLE = SampleConfig(4.0, 1.0, num_samples=20, sample_batch_size=6)


def make_model(seed=0, num_tokens=16, codebook_size=8):
    torch.manual_seed(seed)
    config = ModelConfig(
        codebook_size, num_tokens, 4, hidden_size=32, num_layers=2, num_heads=2, mlp_size=64
    )
    model = RAR(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


# Guidance


@pytest.mark.parametrize("name", list(SAMPLING))
def test_pow_cosine_of_the_published_models(name):
    """At the start 1; where (k/L)^p = 1/2 the middle; after the last token g."""
    g, p = SAMPLING[name].guidance_scale, SAMPLING[name].guidance_power
    assert guidance_weight(0, 256, g, p) == 1.0
    assert guidance_weight(256 * 0.5 ** (1 / p), 256, g, p) == pytest.approx((1 + g) / 2)
    half = 1 + (g - 1) * (1 - math.cos(math.pi / 2**p)) / 2
    assert guidance_weight(128, 256, g, p) == pytest.approx(half)
    assert guidance_weight(256, 256, g, p) == pytest.approx(g)
    weights = [guidance_weight(k, 256, g, p) for k in range(256)]
    assert weights == sorted(weights) and weights[-1] < g


@pytest.mark.parametrize(
    "schedule, start, half",
    [
        ("pow_cosine", 1, 3),
        ("linear", 1, 3),
        ("constant", 5, 5),
    ],
)
def test_schedules_at_three_steps(schedule, start, half):
    weights = [guidance_weight(k, 10, 5.0, 1.0, schedule) for k in (0, 5, 10)]
    assert weights == pytest.approx([start, half, 5])


def test_a_registered_schedule_is_used(model, monkeypatch):
    with pytest.raises(ValueError, match="guidance_schedule = 'late' .* one of pow_cosine, linear"):
        replace(SAMPLE, guidance_schedule="late")
    monkeypatch.setitem(GUIDANCE_SCHEDULES, "late", lambda progress, power: float(progress >= 0.5))
    state = SamplingState(model, torch.arange(2), replace(SAMPLE, guidance_schedule="late"))
    tokens = None
    with torch.no_grad():
        for _ in range(16):
            tokens = state.next_logits(tokens).argmax(-1)
    assert state.weights == [1.0] * 8 + [4.0] * 8


def test_guide_multiplies_the_ratio_of_probabilities():
    """softmax(u + w·(c − u)) is p_u·(p_c/p_u)^w, normalised."""
    c, u = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for w in (0.0, 1.0, 2.5):
        p = u.softmax(-1) * (c.softmax(-1) / u.softmax(-1)) ** w
        torch.testing.assert_close(guide(c, u, w).softmax(-1), p / p.sum(-1, keepdim=True))
    assert torch.equal(guide(c, u, 0.0), u)


# One token


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax(temperature):
    """A chi² test with 9 degrees of freedom: 33.7 is exceeded once in 10,000 times."""
    n = 40_000
    logits = torch.linspace(-2, 2, 10) / temperature
    noise = torch.rand(n, generator=torch.Generator().manual_seed(1))
    found = sample_from(logits.expand(n, -1), noise).bincount(minlength=10)
    expected = n * logits.double().softmax(-1)
    assert ((found - expected) ** 2 / expected).sum() < 33.7
    skewed = n * (1.05 * logits.double()).softmax(-1)  # the test can fail
    assert temperature == 2.0 or ((found - skewed) ** 2 / skewed).sum() > 33.7


def test_what_is_impossible_is_never_sampled():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    noise = torch.cat([torch.rand(5000), torch.tensor([0.0, 1 - 2**-24])])
    assert set(sample_from(logits.expand(len(noise), -1), noise).tolist()) == {1, 3}
    assert sample_from(logits.expand(2, -1), torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 3]


def test_intervals_are_half_open():
    """Four tokens of probability 1/4: noise on a border belongs to the upper one."""
    noise = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75])
    assert sample_from(torch.zeros(6, 4), noise).tolist() == [0, 0, 1, 2, 2, 3]


def test_noise_of_an_image_is_its_own():
    assert torch.equal(image_noise(5, [9, 2], 16)[0], image_noise(5, [9], 16)[0])
    rows = {tuple(row.tolist()) for s in range(5) for row in image_noise(s, range(50), 4)}
    assert len(rows) == 250
    reference = np.random.Generator(np.random.Philox(key=(5, 9))).random(16, dtype=np.float32)
    np.testing.assert_array_equal(image_noise(5, [9], 16)[0].numpy(), reference)


# The cache


def test_the_cache_of_the_textbook_appends():
    cache, (k, v) = GrowingCache(), torch.randn(2, 1, 2, 5, 4)
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        keys, values = cache.extend(k[:, :, part], v[:, :, part])
        assert torch.equal(keys, k[:, :, : part.stop]) and torch.equal(values, v[:, :, : part.stop])


def test_the_textbook_reads_one_entry_a_step(model):
    state = SamplingState(model, torch.arange(3), SAMPLE)
    assert (state.length, state.guided, len(state.condition)) == (0, True, 6)
    with torch.no_grad():
        tokens = state.next_logits().argmax(-1)
        assert state.length == 2  # cls and the class
        state.next_logits(tokens)
    assert state.length == 3


# The loop


def sample_by_formula(model, classes, sample, noise, orders, known=None):
    """The whole sequence at each step, one image at a time, the softmax inverted by hand."""
    config, L = model.config, model.config.num_tokens
    result = torch.zeros(len(classes), L, dtype=torch.int64)
    for b, label in enumerate(classes.tolist()):
        tokens, order = torch.zeros(1, L, dtype=torch.int64), orders[b % len(orders)][None]
        for k in range(L):
            ids = torch.tensor([config.condition_id(label)]), torch.tensor([config.null_id])
            c, u = (model(tokens, i, order)[0, k].double() for i in ids)
            s = (1 - math.cos(math.pi * (k / L) ** sample.guidance_power)) / 2
            w = 1 + (sample.guidance_scale - 1) * s
            logits = (u + w * (c - u) if sample.guidance_scale else c) / sample.temperature
            p = logits.softmax(-1).cumsum(-1)
            at = order[0, k]
            tokens[0, at] = int((p <= float(noise[b, k])).sum())
            if known is not None and known[b, at] >= 0:
                tokens[0, at] = known[b, at]
        result[b] = tokens[0]
    return result


@pytest.mark.parametrize("scale, temperature", [(0.0, 1.0), (1.0, 1.3), (4.0, 1.0), (9.0, 0.8)])
@pytest.mark.parametrize("kind", ["raster", "one", "each"])
@torch.no_grad()
def test_the_loop_is_the_formula(model, scale, temperature, kind):
    sample = SampleConfig(scale, 1.5, temperature)
    count = dict(raster=1, one=1, each=4)[kind]
    orders = sample_orders(count, 16, 0.0 if kind == "raster" else 1.0, torch.manual_seed(2))
    classes, noise = torch.arange(4), image_noise(1, range(4), 16)
    given = model, classes, sample, noise, None if kind == "raster" else orders
    expected = sample_by_formula(model, classes, sample, noise, orders)
    assert torch.equal(textbook_tokens(*given), expected)
    assert torch.equal(sample_tokens(*given), expected)


@torch.no_grad()
def test_known_tokens_are_kept_and_read(model):
    generator = torch.Generator().manual_seed(3)
    known = torch.randint(8, (4, 16), generator=generator)
    known[torch.rand(4, 16, generator=generator) < 0.5] = -1
    orders = sample_orders(4, 16, 1.0, generator)
    classes, noise = torch.arange(4), image_noise(1, range(4), 16)
    found = sample_tokens(model, classes, SAMPLE, noise, orders, known)
    assert torch.equal(found[known >= 0], known[known >= 0])
    assert torch.equal(found, sample_by_formula(model, classes, SAMPLE, noise, orders, known))


def test_a_known_beginning_goes_on_as_it_did(model):
    classes, noise = torch.arange(4), image_noise(1, range(4), 16)
    whole = sample_tokens(model, classes, SAMPLE, noise)
    known = torch.where(torch.arange(16) < 7, whole, -1)
    assert torch.equal(sample_tokens(model, classes, SAMPLE, noise, known=known), whole)


def test_no_guidance_and_guidance_of_one_agree(model):
    classes, noise = torch.arange(4), image_noise(1, range(4), 16)
    off, one = (
        sample_tokens(model, classes, replace(SAMPLE, guidance_scale=g), noise) for g in (0.0, 1.0)
    )
    assert torch.equal(off, one)


def permutation_with_a_repeat():
    orders = raster_order(16).clone()
    orders[0, 3] = 4
    return orders


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(classes=torch.tensor([0, 4])), r"classes = \[0, 4\] .* from 0 to 3"),
        (
            dict(classes=torch.tensor([], dtype=torch.int64), noise=torch.zeros(0, 16)),
            r"shape of classes = \(0,\)",
        ),
        (dict(noise=torch.zeros(2, 15)), r"shape of noise = \(2, 15\)"),
        (dict(known=torch.zeros(2, 9, dtype=torch.int64)), r"shape of known = \(2, 9\)"),
        (dict(known=torch.full((2, 16), 8)), r"range of known = \(8, 8\) .* from -1 to 7"),
        (dict(orders=raster_order(15)), r"shape of orders = \(1, 15\)"),
        (dict(orders=raster_order(16).repeat(3, 1)), r"shape of orders = \(3, 16\) .* B = 2"),
        (dict(orders=permutation_with_a_repeat()), r"orders = \[\[0, 1, 2, 4, 4, .* of 0 to 15"),
    ],
)
def test_what_does_not_fit_is_named(model, changes, message):
    given = dict(classes=torch.tensor([0, 1]), noise=torch.zeros(2, 16), sample=SAMPLE) | changes
    with pytest.raises(ValueError, match=message):
        sample_tokens(model, **given)


# Sets of images


def test_balanced_classes():
    assert balanced_classes(6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert balanced_classes(50_000, 1000).bincount().unique().tolist() == [50]


@pytest.mark.parametrize("number", [1001, 0, -10, 10.0, True])
def test_sets_that_are_not_balanced_are_refused(number):
    with pytest.raises(ValueError, match=f"num_samples = {number}"):
        balanced_classes(number, 10)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_another_batch_size_changes_rounding_only(model, batch_size):
    """The noise is the same; tokens could differ where it falls within rounding of a border, which
    in 320 samples it doesn't."""
    classes = balanced_classes(20, 4)
    settings = [replace(SAMPLE, sample_batch_size=b) for b in (6, batch_size)]
    whole, other = (sample_images(model, GreyTokenizer(), classes, s) for s in settings)
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


def logits_of(model, tokens, classes, precision, guidance=4.0, kind=fast_state):
    """[B, L, V], token by token with a cache, and the cached keys."""
    sample = replace(SAMPLE, sample_precision=precision, guidance_scale=guidance)
    state = kind(model, classes, sample)
    with torch.no_grad():
        steps = [state.next_logits(tokens[:, k - 1] if k else None) for k in range(tokens.shape[1])]
    keys = state.step.keys if kind is fast_state else state.caches[0].keys
    return torch.stack(steps, 1), keys


both = pytest.mark.parametrize("kind", [SamplingState, fast_state])


@pytest.fixture(scope="module")
def teacher():
    """A model with 2 × 4 rounded layers, tokens to force on it, and their classes."""
    tokens = torch.randint(0, 64, (5, 16), generator=torch.Generator().manual_seed(1))
    return make_model(codebook_size=64), tokens, torch.arange(5) % 4


@both
def test_bf16_logits_lie_near_those_of_float32(teacher, kind):
    exact, rounded = (logits_of(*teacher, precision, kind=kind)[0] for precision in ("no", "bf16"))
    assert rounded.dtype == torch.float32
    off = (rounded - exact).abs()
    assert 1e-4 < off.mean() < 0.01 * exact.std()  # bf16 rounds by up to 2⁻⁹ = 0.2 %
    assert off.max() < 0.1 * exact.std()


@both
@pytest.mark.parametrize("precision", ["no", "tf32", "auto"])
def test_on_a_processor_without_bf16_nothing_is_rounded(teacher, precision, kind, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    model, tokens, classes = teacher
    found, keys = logits_of(model, tokens, classes, precision, guidance=0.0, kind=kind)
    with torch.no_grad():
        whole = model(tokens, model.config.condition_id(classes), raster_order(16))[:, :-1]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)
    assert keys.dtype == torch.float32
    again = logits_of(model, tokens, classes, "no", guidance=0.0, kind=kind)[0]
    assert torch.equal(found, again)


@both
def test_a_bf16_cache_is_as_good_as_computing_anew(teacher, kind):
    """Whole sequences under autocast: the textbook rounds the same, but for the order of sums; the
    fast sampler rounds at fewer places."""
    model, tokens, classes = teacher
    cached, keys = logits_of(model, tokens, classes, "bf16", guidance=0.0, kind=kind)
    condition, orders = model.config.condition_id(classes), raster_order(16)
    with torch.no_grad():
        x = torch.cat([model.start(condition), model.embeddings(tokens)], 1)
        x = x + model.positions(orders)
        with torch.autocast("cpu", torch.bfloat16):
            x = model.features(x, model.conditions(condition))
        anew = model.lm_head(x)[:, 1:-1]
    exact = logits_of(model, tokens, classes, "no", guidance=0.0)[0]
    assert keys.dtype == torch.bfloat16
    assert (cached - exact).abs().mean() < 1.05 * (anew - exact).abs().mean()
    assert (cached - anew).abs().max() < 0.03 * anew.std()
    if kind is SamplingState:
        assert (cached - anew).abs().mean() < 0.5 * (anew - exact).abs().mean()


@both
def test_logits_themselves_are_not_rounded(teacher, kind):
    """Without guidance, at temperature 1: the head's own output has more digits than bf16."""
    logits = logits_of(*teacher, "bf16", guidance=0.0, kind=kind)[0]
    assert (logits == logits.bfloat16().float()).float().mean() < 0.05


class Casts(TorchDispatchMode):
    """Counts roundings of the matrices of a model to bf16."""

    def __init__(self, model):
        super().__init__()
        self.count, self.weights = 0, {p.data_ptr() for p in model.parameters() if p.ndim == 2}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if "to" in func.__name__ and kwargs.get("dtype") is torch.bfloat16:
            self.count += args[0].data_ptr() in self.weights
        return func(*args, **kwargs)


def test_weights_are_rounded_once_for_all_batches(model):
    forget(model)
    bf16 = replace(SAMPLE, sample_precision="bf16")
    with Casts(model) as casts:
        for seed in range(2):
            sample_tokens(model, torch.arange(3), bf16, image_noise(seed, range(3), 16))
    # Five linears a block and the last adaLN's, once each and not at each of 16 steps.
    assert casts.count == 2 * 5 + 1


def test_settings_of_the_backends_are_put_back(model, monkeypatch):
    def settings():
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    before, seen = settings(), []
    features, decode = FastStep.features, GreyTokenizer.decode

    def watched(f):
        def call(*args):
            seen.append(settings())
            return f(*args)

        return call

    monkeypatch.setattr(FastStep, "features", watched(features))
    monkeypatch.setattr(GreyTokenizer, "decode", watched(decode))
    for precision, expected in (("tf32", "tf32"), ("no", "ieee"), ("bf16", "tf32")):
        seen.clear()
        sample = replace(SAMPLE, sample_precision=precision)
        sample_images(model, GreyTokenizer(), torch.arange(2), sample)
        assert set(seen) == {(expected, expected)} and len(seen) == 18
        assert settings() == before
    with pytest.raises(KeyError), float32_products(tf32=True):
        raise KeyError
    assert settings() == before


def test_wrong_precision():
    allowed = "it must be 'tf32', 'no', 'bf16' or 'auto'"
    with pytest.raises(ValueError, match=f"sample_precision = 'fp16' is not allowed: {allowed}"):
        replace(SAMPLE, sample_precision="fp16")


# Bad input


def broken(name, value):
    model = make_model()
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = value
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["lm_head.weight", "blocks.1.mlp.fc1.weight", "embeddings.weight"])
def test_a_broken_generator_is_named(name, value):
    """Not white images: id V - 1 is what a search for NaN finds."""
    with pytest.raises(InvalidValue, match=rf"{name} of the generator .* an earlier checkpoint"):
        sample_images(broken(name, value), GreyTokenizer(), [0, 1], SAMPLE)


def test_weights_of_a_size_that_overflows():
    grown = make_model()
    with torch.no_grad():
        grown.lm_head.weight.fill_(1e38)
        grown.lm_head.weight[3] = -3e38
    with pytest.raises(InvalidValue, match="NaN or infinite with temperature = 0.001 and guid"):
        sample_images(grown, GreyTokenizer(), [0], replace(SAMPLE, temperature=1e-3))
    with pytest.raises(InvalidValue, match="guidance_scale = 1e.30, so .* set temperature nearer"):
        sample_images(grown, GreyTokenizer(), [0], replace(SAMPLE, guidance_scale=1e30))


@pytest.mark.parametrize("temperature", [1e-38, 9e-4, 0.0, -1.0, math.nan, math.inf, "hot", None])
def test_temperatures_have_a_limit(temperature):
    with pytest.raises(InvalidValue, match="temperature = .* must be a"):
        replace(SAMPLE, temperature=temperature)
    assert replace(SAMPLE, temperature=1e-3).temperature == 1e-3


def test_a_low_temperature_takes_the_likeliest_token(model):
    found = sample_tokens(model, [1], replace(SAMPLE, temperature=1e-3), image_noise(0, [0], 16))
    state, tokens = SamplingState(model, [1], SAMPLE), []
    with torch.no_grad():
        for _ in range(16):
            tokens.append(state.next_logits(tokens[-1] if tokens else None).argmax(-1))
    assert torch.equal(found[0], torch.cat(tokens))


@pytest.mark.parametrize(
    "logits, noise, message",
    [
        ([0.0, math.nan], 0.5, "logits of row 1 = 'NaN or infinite'"),
        ([math.inf, 0.0], 0.5, "logits of row 1"),
        ([-math.inf, -math.inf], 0.5, "logits of row 1"),
        ([0.0, 1.0], 1.0, "range of noise"),
        ([0.0, 1.0], math.nan, "range of noise"),
        ([0.0, 1.0], -0.1, "range of noise"),
    ],
)
def test_one_token_of_what_is_no_distribution(logits, noise, message):
    with pytest.raises(InvalidValue, match=message):
        sample_from(torch.tensor([[0.0, 1.0], logits]), torch.tensor([0.5, noise]))


class Waits(TorchDispatchMode):
    """Counts where Python asks a tensor for its value, for which a GPU would be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in func.name() or "nonzero" in func.name()
        return func(*args, **(kwargs or {}))


def test_nobody_waits_for_the_device_inside_the_loop():
    counts = []
    for length in (4, 25):
        model = make_model(num_tokens=length)
        noise = image_noise(0, range(3), length)
        with Waits() as waits:
            sample_tokens(model, [0, 1, 2], SAMPLE, noise)
        counts.append(waits.count)
    assert counts[0] == counts[1]


def test_a_broken_tokenizer_is_named(model, monkeypatch):
    decode = GreyTokenizer.decode
    monkeypatch.setattr(
        GreyTokenizer, "decode", lambda self, tokens: decode(self, tokens) * math.nan
    )
    with pytest.raises(InvalidValue, match="pixels that were decoded .* tokenizer's weights"):
        sample_images(model, GreyTokenizer(), [0], SAMPLE)


@pytest.mark.parametrize(
    "classes", [[0, 3, 1], (0, 3, 1), np.array([0, 3, 1], np.uint8), torch.tensor([0, 3, 1]).int()]
)
def test_classes_may_be_any_list_of_numbers(model, classes):
    expected = sample_images(model, GreyTokenizer(), torch.tensor([0, 3, 1]), SAMPLE)
    assert torch.equal(sample_images(model, GreyTokenizer(), classes, SAMPLE), expected)


WRONG_CLASSES = [
    [0.0, 1.0], [], None, "01", ["0"], [True, False], [-1], [4], [[0], [1]], 3, [None], {0, 1},
    [2**70], torch.zeros(2), torch.zeros(0, dtype=torch.int64), np.array(["a"]), [math.nan], [1j],
    {"a": 1}, torch.tensor(1), b"01",
]  # fmt: skip


@pytest.mark.parametrize("classes", WRONG_CLASSES, ids=repr)
def test_wrong_classes(model, classes):
    noise = image_noise(0, [0], 16)
    for call in (
        lambda: sample_images(model, GreyTokenizer(), classes, SAMPLE),
        lambda: sample_batch(model, GreyTokenizer(), classes, [0], SAMPLE, 0),
        lambda: sample_batch(model, GreyTokenizer(), [0], classes, SAMPLE, 0),
        lambda: sample_tokens(model, classes, SAMPLE, noise),
        lambda: textbook_tokens(model, classes, SAMPLE, noise),
        lambda: SamplingState(model, classes, SAMPLE),
        lambda: fast_state(model, classes, SAMPLE),
    ):
        with pytest.raises(InvalidValue, match="classes|numbers"):
            call()


ANYTHING = st.sampled_from(
    [None, True, -1, 2.5, "tf32", [], [0], {}, torch.zeros(2, 16), torch.zeros(1, 16).long(),
     SAMPLE, GreyTokenizer(), torch.tensor(math.nan), object(), ModelConfig, np.float32(1.0)]
)  # fmt: skip
GIVEN = dict(
    model=make_model(), tokenizer=GreyTokenizer(), classes=[0, 3], numbers=[1, 0], sample=SAMPLE,
    seed=0, noise=image_noise(0, [0, 1], 16), orders=None, known=None, progress=False,
    plan=Plan(),
)  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [sample_images, sample_batch, sample_tokens, SamplingState, fast_state, textbook_tokens],
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_anything_in_place_of_an_argument(function, data):
    """A right answer, or one error of ours."""
    names = [name for name in signature(function).parameters if name in GIVEN]
    given = {name: GIVEN[name] for name in names}
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
        given[name] = data.draw(ANYTHING)
    try:
        found = function(**given)
    except InvalidValue as error:
        assert len(str(error)) < 40_000
        return
    assert isinstance(found, SamplingState | FastState) or len(found) in (1, 2)


def test_swapped_arguments(model):
    with pytest.raises(InvalidValue, match="model = GreyTokenizer.* must be a RAR"):
        sample_images(GreyTokenizer(), model, [0], SAMPLE)


def test_a_tokenizer_of_another_size_is_refused(model):
    tokenizer = make_tokenizer(TokenizerConfig(kind="grey", codebook_size=9))
    for call in (
        lambda: sample_images(model, tokenizer, [0], SAMPLE),
        lambda: sample_batch(model, tokenizer, [0], [0], SAMPLE, 0),
    ):
        with pytest.raises(InvalidValue, match="codebook_size of the tokenizer = 9 .* must be 8"):
            call()


@pytest.mark.parametrize("orders", [permutation_with_a_repeat(), raster_order(16) + 1,
                                    raster_order(16).float(), raster_order(16)[0]])  # fmt: skip
def test_orders_that_are_no_permutations(model, orders):
    for call in (
        lambda: SamplingState(model, [0, 1], SAMPLE, orders),
        lambda: sample_tokens(model, [0, 1], SAMPLE, torch.zeros(2, 16), orders),
        lambda: textbook_tokens(model, [0, 1], SAMPLE, torch.zeros(2, 16), orders),
    ):
        with pytest.raises(InvalidValue, match="orders"):
            call()


@pytest.mark.parametrize("num_samples, num_classes", [
    ("10", 10), (10, "10"), (10, 0), (10, -5), (10**12, 10), (None, 2), (10, 2.0), ([10], 2)
])  # fmt: skip
def test_wrong_numbers_of_samples(num_samples, num_classes):
    with pytest.raises(InvalidValue, match="num_samples|num_classes"):
        balanced_classes(num_samples, num_classes)


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "0", None])
def test_wrong_seeds(model, seed):
    with pytest.raises(InvalidValue, match="seed"):
        sample_images(model, GreyTokenizer(), [0], SAMPLE, seed=seed)


def test_the_mode_comes_back_after_an_error():
    model = broken("lm_head.weight", math.nan).train()
    with pytest.raises(InvalidValue):
        sample_images(model, GreyTokenizer(), [0], SAMPLE)
    assert model.training


@pytest.mark.parametrize("change, message", [
    (dict(table_bytes=-1), "table_bytes = -1 .* at least 0"), (dict(span=-8), "span = -8"),
    (dict(span=2.5), "span = 2.5"), (dict(kernels=1), "kernels = 1 .* True or False"),
    (dict(graphs="no"), "graphs = 'no'"), (dict(packed=None), "packed = None"),
    (dict(one_call=1), "one_call = 1"),
])  # fmt: skip
def test_wrong_plans(model, change, message):
    plan = Plan()._replace(**change)
    with pytest.raises(InvalidValue, match=message):
        sample_tokens(model, [0], SAMPLE, torch.zeros(1, 16), plan=plan)


@pytest.mark.parametrize("plan", [None, {}, (True, True, True, 0, 0), "fast", Plan])
def test_a_plan_is_a_plan(model, plan):
    with pytest.raises(InvalidValue, match="plan = .* must be a Plan"):
        fast_state(model, [0], SAMPLE, plan=plan)


def test_a_model_in_training_mode_is_refused_by_both_samplers():
    """With dropout the textbook's tokens would be random, and the fast sampler's not."""
    model, noise = make_model().train(), image_noise(0, [0, 1], 16)
    for call in (
        lambda: SamplingState(model, [0, 1], SAMPLE),
        lambda: fast_state(model, [0, 1], SAMPLE),
        lambda: textbook_tokens(model, [0, 1], SAMPLE, noise),
        lambda: sample_tokens(model, [0, 1], SAMPLE, noise),
        lambda: sample_batch(model, GreyTokenizer(), [0, 1], [0], SAMPLE, 0),
    ):
        with pytest.raises(
            InvalidValue, match=r"model.training = True .*call model.eval\(\) first"
        ):
            call()
    assert model.training and len(sample_images(model, GreyTokenizer(), [0], SAMPLE)) == 1


@both
def test_nothing_is_predicted_after_the_last_token(model, kind):
    state, tokens = kind(model, [0, 3], SAMPLE), None
    with torch.no_grad():
        for _ in range(16):
            assert state.next_logits(tokens).isfinite().all()
            tokens = torch.tensor([1, 2])
        with pytest.raises(InvalidValue, match="tokens sampled so far = 16 .*begin again"):
            state.next_logits(tokens)
