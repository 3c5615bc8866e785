"""Sets of images: the same files whoever draws them and whenever, and the file for the ADM evaluation suite."""
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import rar_nb.sampler as sampler
from rar_nb.transformer import ModelConfig
from rar_nb.sampler import SampleConfig
from rar_nb.sampler import (
    SamplingState,
    balanced_classes,
    image_noise,
    sample_images,
    sample_tokens,
)
from rar_nb.support import float32_products
from rar_nb.runs.image_sets import generate, pack_npz
from rar_nb.tokenizer import GreyTokenizer
from rar_nb.transformer import RAR

TWENTY = SampleConfig(4.0, 1.0, num_samples=20, sample_batch_size=6)


def make_model(seed=0, num_tokens=16, codebook_size=8):
    torch.manual_seed(seed)
    model = RAR(ModelConfig(codebook_size, num_tokens, 4, hidden_size=32, num_layers=2, num_heads=2, mlp_size=64))
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model(): return make_model()


def files(folder): return {p.name: p.read_bytes() for p in folder.glob("*.png")}


def test_image_i_follows_from_seed_and_number(model, tmp_path):
    """Written anew: token by token from Philox noise and a model's softmax, for image 13 alone."""
    sample = replace(TWENTY, guidance_scale=0.0)
    generate(model, GreyTokenizer(), tmp_path / "s", sample, seed=3)
    noise = np.random.Generator(np.random.Philox(key=(3, 13))).random(16, dtype=np.float32)
    tokens, condition = torch.zeros(1, 16, dtype=torch.long), model.config.condition_id(torch.tensor([13 // 5]))  # 5 a class
    with torch.no_grad():
        for k in range(16):
            p = model(tokens, condition, torch.arange(16)[None])[0, k].double().softmax(0).cumsum(0)
            tokens[0, k] = int((p <= float(noise[k]) * p[-1]).sum())
    levels = (tokens[0].view(4, 4).float() / 7 * 255).to(torch.uint8).repeat_interleave(4, 0).repeat_interleave(4, 1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "s" / "000013.png")), levels.numpy())


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_same_files_for_any_number_of_processes(model, tmp_path, count):
    generate(model, GreyTokenizer(), tmp_path / "one", TWENTY, seed=1)
    shares = [generate(model, GreyTokenizer(), tmp_path / "many", TWENTY, seed=1, share=(i, count)) for i in reversed(range(count))]
    assert sum(shares) == 20 and max(shares) - min(shares) <= 6
    assert files(tmp_path / "one") == files(tmp_path / "many") and len(files(tmp_path / "one")) == 20


def test_a_run_that_was_killed_goes_on(model, tmp_path, monkeypatch):
    generate(model, GreyTokenizer(), tmp_path / "whole", TWENTY)
    saved, save = [], sampler.save_png

    def save_some(image, path):
        if len(saved) == 9: raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    monkeypatch.setattr(sampler, "save_png", save_some)
    with pytest.raises(KeyboardInterrupt):
        generate(model, GreyTokenizer(), tmp_path / "again", TWENTY)
    assert len(files(tmp_path / "again")) == 9
    monkeypatch.undo()
    assert generate(model, GreyTokenizer(), tmp_path / "again", TWENTY) == 11
    assert generate(model, GreyTokenizer(), tmp_path / "again", TWENTY) == 0
    assert files(tmp_path / "again") == files(tmp_path / "whole")


def test_only_missing_batches_are_drawn(model, tmp_path, monkeypatch):
    generate(model, GreyTokenizer(), tmp_path, TWENTY)
    (tmp_path / "000019.png").unlink()
    drawn, draw = [], sampler.sample_tokens
    monkeypatch.setattr(sampler, "sample_tokens", lambda model, classes, *rest: (drawn.append(len(classes)), draw(model, classes, *rest))[1])
    assert generate(model, GreyTokenizer(), tmp_path, TWENTY) == 1
    assert drawn == [2]  # the last batch, with the shape it always has


def test_mode_of_the_model_is_restored(tmp_path):
    model = make_model().train()
    generate(model, GreyTokenizer(), tmp_path, TWENTY)
    assert model.training


@pytest.mark.parametrize("name,change", [
    ("seed", {"seed": 2}), ("guidance_scale", {"sample": replace(TWENTY, guidance_scale=5.0)}), ("num_samples", {"sample": replace(TWENTY, num_samples=24)}),
    ("temperature", {"sample": replace(TWENTY, temperature=0.9)}), ("guidance_power", {"sample": replace(TWENTY, guidance_power=2.0)}),
    ("sample_batch_size", {"sample": replace(TWENTY, sample_batch_size=5)}), ("sample_precision", {"sample": replace(TWENTY, sample_precision="bf16")}), ("model_sha256", {"model": make_model(1)}),
    ("tokenizer", {"tokenizer": type("Other", (GreyTokenizer,), {})()}),
])
def test_another_request_in_the_same_folder(model, tmp_path, name, change):
    given = dict(model=model, tokenizer=GreyTokenizer(), folder=tmp_path, sample=TWENTY, seed=1)
    generate(**given)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=f"^{name} = .*name another folder"):
        generate(**(given | change))
    assert files(tmp_path) == before


def test_foreign_images_and_bad_shares(model, tmp_path):
    Image.new("L", (16, 16)).save(tmp_path / "000000.png")
    with pytest.raises(ValueError, match="without images"):
        generate(model, GreyTokenizer(), tmp_path, TWENTY)
    for share in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="number of"):
            generate(model, GreyTokenizer(), tmp_path / "s", TWENTY, share=share)
    with pytest.raises(ValueError, match="num_samples = 21 .*multiple of the number of classes, 4"):
        generate(model, GreyTokenizer(), tmp_path / "s", replace(TWENTY, num_samples=21))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_another_batch_size_changes_rounding_only(model, batch_size):
    """The noise is the same; tokens could differ where it falls within rounding of a border, which in 320 draws it doesn't."""
    classes = balanced_classes(20, 4)
    whole, other = (sample_images(model, GreyTokenizer(), classes, replace(TWENTY, sample_batch_size=b)) for b in (6, batch_size))
    assert torch.equal(whole, other)


# Precision

def logits_of(model, tokens, classes, precision, guidance=4.0):
    """[B, L, V], token by token with a cache, and the cache."""
    drawing = SamplingState(model, classes, replace(TWENTY, sample_precision=precision, guidance_scale=guidance))
    with torch.no_grad(): steps = [drawing.next_logits(tokens[:, k - 1] if k else None) for k in range(tokens.shape[1])]
    return torch.stack(steps, 1), drawing.cache


@pytest.fixture(scope="module")
def teacher():
    """A model with 2 × 4 rounded layers, tokens to force on it, and their classes."""
    model = make_model(codebook_size=64)
    return model, torch.randint(0, 64, (5, 16), generator=torch.Generator().manual_seed(1)), torch.arange(5) % 4


def test_bf16_logits_lie_near_those_of_float32(teacher):
    exact, rounded = (logits_of(*teacher, precision)[0] for precision in ("no", "bf16"))
    assert rounded.dtype == torch.float32
    off = (rounded - exact).abs()
    assert 1e-4 < off.mean() < 0.01 * exact.std() and off.max() < 0.1 * exact.std()  # bf16 rounds by up to 2⁻⁹ = 0.2 %


@pytest.mark.parametrize("precision", ["no", "tf32", "auto"])
def test_on_a_processor_without_bf16_nothing_is_rounded(teacher, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    model, tokens, classes = teacher
    found, cache = logits_of(model, tokens, classes, precision, guidance=0.0)
    with torch.no_grad(): whole = model(tokens, model.config.condition_id(classes), torch.arange(16)[None])[:, :-1]
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)
    assert cache.keys.dtype == torch.float32
    assert torch.equal(found, logits_of(model, tokens, classes, "no", guidance=0.0)[0])


def test_a_bf16_cache_equals_computing_anew(teacher):
    """Without a cache, whole sequences under autocast: the same roundings, but for the order of sums."""
    model, tokens, classes = teacher
    cached, cache = logits_of(model, tokens, classes, "bf16", guidance=0.0)
    condition, orders = model.config.condition_id(classes), torch.arange(16)[None]
    with torch.no_grad():
        x = torch.cat([model.start(condition), model.embeddings(tokens)], 1) + model.positions(orders)
        with torch.autocast("cpu", torch.bfloat16): x = model.features(x, *model.conditions(condition))
        anew = model.lm_head(x)[:, 1:-1]
    exact = logits_of(model, tokens, classes, "no", guidance=0.0)[0]
    assert cache.keys.dtype == cache.values.dtype == torch.bfloat16
    assert (cached - anew).abs().mean() < 0.5 * (anew - exact).abs().mean() and (cached - anew).abs().max() < 0.02 * anew.std()


def test_logits_themselves_are_not_rounded(teacher):
    """At temperature 1 and without guidance: the head's own output has more digits than bf16 holds."""
    logits = logits_of(*teacher, "bf16", guidance=0.0)[0]
    assert (logits == logits.bfloat16().float()).float().mean() < 0.05


class Casts(TorchDispatchMode):
    """Counts roundings of matrices to bf16."""
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.count += "to" in func.__name__ and kwargs.get("dtype") is torch.bfloat16 and args[0].ndim == 2
        return func(*args, **kwargs)


def test_weights_are_rounded_once_a_batch(model):
    with Casts() as casts:
        sample_tokens(model, torch.arange(3), replace(TWENTY, sample_precision="bf16"), image_noise(0, range(3), 16))
    assert casts.count == 2 * 5 + 1  # five linears a block and the last adaLN's, once each, not at each of 16 steps


def test_settings_of_the_backends_are_put_back(model, monkeypatch):
    def settings(): return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    before, seen = settings(), []
    forward, decode = model.features, GreyTokenizer.decode
    monkeypatch.setattr(model, "features", lambda *args: (seen.append(settings()), forward(*args))[1])
    monkeypatch.setattr(GreyTokenizer, "decode", lambda *args: (seen.append(settings()), decode(*args))[1])
    for precision, expected in (("tf32", "tf32"), ("no", "ieee"), ("bf16", "tf32")):
        seen.clear()
        sample_images(model, GreyTokenizer(), torch.arange(2), replace(TWENTY, sample_precision=precision))
        assert set(seen) == {(expected, expected)} and len(seen) == 17 and settings() == before
    with pytest.raises(KeyError), float32_products(tf32=True): raise KeyError
    assert settings() == before


def test_a_set_in_auto_is_the_set_of_what_auto_means(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    generate(model, GreyTokenizer(), tmp_path, replace(TWENTY, sample_precision="auto"))
    assert json.loads((tmp_path / "generate.json").read_text())["sample_precision"] == "no"
    assert generate(model, GreyTokenizer(), tmp_path, replace(TWENTY, sample_precision="no")) == 0


def test_wrong_precision():
    with pytest.raises(ValueError, match="sample_precision = 'fp16' is not allowed: it must be 'tf32', 'no', 'bf16' or 'auto'"):
        replace(TWENTY, sample_precision="fp16")


# The file for ADM

def read_like_adm(path):
    """As the evaluator's streaming reader: the zip entry's header, then batches of raw bytes."""
    with zipfile.ZipFile(path) as z, z.open("arr_0.npy") as f:
        assert np.lib.format.read_magic(f) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(f)
        assert not fortran and not dtype.hasobject
        batches = []
        for start in range(0, shape[0], 8):
            n = min(8, shape[0] - start)
            batches.append(np.frombuffer(f.read(n * int(np.prod(shape[1:])) * dtype.itemsize), dtype).reshape(n, *shape[1:]))
        assert f.read() == b""
        return np.concatenate(batches)


@pytest.mark.parametrize("channels", [1, 3])
def test_packed_set(model, tmp_path, channels):
    tokenizer = GreyTokenizer(channels=channels)
    generate(model, tokenizer, tmp_path / "s", TWENTY, seed=4)
    path = pack_npz(tmp_path / "s", tmp_path / "out" / "s.npz")
    straight = np.stack([np.asarray(Image.open(tmp_path / "s" / f"{i:06d}.png").convert("RGB")) for i in range(20)])
    shuffled = np.random.RandomState(0).permutation(20)
    assert (shuffled[:8] == [18, 1, 19, 8, 10, 17, 6, 13]).all()  # the permutation that is documented, as numbers
    packed = read_like_adm(path)
    assert packed.dtype == np.uint8 and packed.shape == (20, 16, 16, 3)
    np.testing.assert_array_equal(packed, straight[shuffled])
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], packed)
        np.testing.assert_array_equal(arrays["arr_1"], shuffled // 5)
    assert pack_npz(tmp_path / "s", tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_packing_what_is_not_a_whole_set(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path / "s", TWENTY, share=(0, 2))
    with pytest.raises(ValueError, match="= 8 .*image 6 is not there"):
        pack_npz(tmp_path / "s", tmp_path / "s.npz")
    generate(model, GreyTokenizer(), tmp_path / "s", TWENTY)
    Image.new("L", (15, 16)).save(tmp_path / "s" / "000003.png")
    with pytest.raises(ValueError, match="shape of image 3"):
        pack_npz(tmp_path / "s", tmp_path / "s.npz")
    with pytest.raises(ValueError, match="generate.json"):
        pack_npz(tmp_path, tmp_path / "s.npz")
    with pytest.raises(ValueError, match="ends in .npz"):
        pack_npz(tmp_path / "s", tmp_path / "s.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_the_folder_says_what_was_asked_for(model, tmp_path):
    generate(model, GreyTokenizer(), tmp_path, TWENTY, seed=9)
    asked = json.loads((tmp_path / "generate.json").read_text())
    assert asked["seed"] == 9 and asked["num_samples"] == 20 and asked["num_classes"] == 4 and len(asked["model_sha256"]) == 64


def test_noise_of_an_image_is_its_own():
    assert torch.equal(image_noise(5, [9, 2], 16)[0], image_noise(5, [9], 16)[0])
    assert len({tuple(row.tolist()) for s in range(5) for row in image_noise(s, range(50), 4)}) == 250
