"""The published runs: schedules at their corner points against closed forms, sizes, and what `resolve` makes of them."""
import dataclasses
import math

import pytest

from rar_nb.data.images import DATA, open_data
from rar_nb.pretrained.presets import (
    MODELS,
    PRESETS,
    SAMPLING,
    get_preset,
    load_run_config,
    override,
    resolve,
    save_run_config,
)
from rar_nb.sampler import guidance_weight
from rar_nb.tokenizer import TOKENIZERS
from rar_nb.trainer import learning_rate_at, random_ratio_at

RAR = [name for name, run in PRESETS.items() if run.data == "imagenet"]
IMAGENET = dict(num_images=1_281_167, num_classes=1000, channels=3)

# steps: end of warm-up, r leaves 1, r reaches 0, end of the run (625 steps an epoch; shorter runs keep the shares)
CORNERS = {400: (62_500, 125_000, 187_500, 250_000), 300: (46_875, 93_750, 140_625, 187_500), 200: (31_250, 62_500, 93_750, 125_000)}
EPOCHS = {"rar_b": 400, "rar_l": 400, "rar_xl": 400, "rar_xxl": 400, "rar_l_512": 200, "rar_xl_512": 200, "rar_xxl_512": 200,
          "rar_l_llamagen": 400, "rar_l_200ep": 200, "rar_l_300ep": 300}  # fmt: skip


def test_every_row_of_the_paper_is_a_preset():
    assert set(RAR) == set(EPOCHS)
    assert all(PRESETS[name].preset == name for name in PRESETS)


@pytest.mark.parametrize("name", RAR)
def test_learning_rate_at_its_corners(name):
    train = PRESETS[name].train
    warm, _, _, end = CORNERS[EPOCHS[name]]
    assert learning_rate_at(0, train) == 0
    assert learning_rate_at(warm // 2, train) == pytest.approx(2e-4, rel=1e-4)
    assert learning_rate_at(warm - 1, train) == pytest.approx(4e-4 * (warm - 1) / warm, rel=1e-12)
    assert learning_rate_at(warm, train) == pytest.approx(4e-4, rel=1e-12)
    assert learning_rate_at(warm + 1, train) < 4e-4
    third = warm + (end - warm) / 3  # cos(π/3) = 1/2: three quarters of the way are still to go
    assert learning_rate_at(third, train) == pytest.approx(1e-5 + 0.75 * 3.9e-4, rel=1e-12)
    assert learning_rate_at(end, train) == pytest.approx(1e-5, rel=1e-12)
    assert train.total_steps == end


@pytest.mark.parametrize("name", RAR)
def test_randomness_at_its_corners(name):
    train = PRESETS[name].train
    _, start, stop, end = CORNERS[EPOCHS[name]]
    assert [random_ratio_at(step, train) for step in (0, start, stop, end)] == [1, 1, 0, 0]
    assert random_ratio_at(start + 1, train) == pytest.approx(1 - 1 / (stop - start), rel=1e-12)
    assert random_ratio_at(stop - 1, train) == pytest.approx(1 / (stop - start), rel=1e-9)
    quarter = start + (stop - start) / 4
    assert random_ratio_at(quarter, train) == pytest.approx(0.75, rel=1e-12)


@pytest.mark.parametrize("name, start, end", [("raster", 0, 0), ("random", 400, 400)])
def test_baselines_have_no_annealing(name, start, end):
    train = get_preset("rar_l", anneal_start=start, anneal_end=end).train
    assert {random_ratio_at(step, train) for step in (0, 1, 125_000, 249_999)} == {float(name == "random")}


# temperature, power p, guidance g of the supplement's Table 1; our sources print none for 512 px and LlamaGen-VQ: the same model's
TABLE1 = {"rar_b": (1.0, 2.75, 16.0), "rar_l": (1.02, 2.5, 15.5), "rar_xl": (1.02, 1.5, 6.9), "rar_xxl": (1.02, 1.2, 8.0)}


@pytest.mark.parametrize("name", RAR)
def test_guidance_at_its_corners(name):
    run = PRESETS[name]
    temperature, p, g = TABLE1["_".join(name.split("_")[:2])]
    assert (run.sample.temperature, run.sample.guidance_power, run.sample.guidance_scale) == (temperature, p, g)
    length = run.model.num_tokens

    def weight(k):
        return guidance_weight(k, length, run.sample.guidance_scale, run.sample.guidance_power)

    assert weight(0) == 1
    assert weight(length) == pytest.approx(g, rel=1e-12)
    # sin²(x/2) = (1 - cos x)/2; the last step that is drawn is L - 1
    assert weight(length - 1) == pytest.approx(1 + (g - 1) * math.sin(math.pi / 2 * ((length - 1) / length) ** p) ** 2, rel=1e-12)
    half = length * 0.5 ** (1 / p)  # where (k/L)^p is a half, half of the way is done
    assert weight(half) == pytest.approx((1 + g) / 2, rel=1e-12)
    assert all(weight(k) < weight(k + 1) for k in range(1, length))


SIZES = {  # D, layers, MLP, V, L
    "rar_b": (768, 24, 3072, 1024, 256), "rar_l": (1024, 24, 4096, 1024, 256), "rar_xl": (1280, 32, 5120, 1024, 256),
    "rar_xxl": (1408, 40, 6144, 1024, 256), "rar_l_512": (1024, 24, 4096, 1024, 1024), "rar_xl_512": (1280, 32, 5120, 1024, 1024),
    "rar_xxl_512": (1408, 40, 6144, 1024, 1024), "rar_l_llamagen": (1024, 24, 4096, 16384, 256),
    "rar_l_200ep": (1024, 24, 4096, 1024, 256), "rar_l_300ep": (1024, 24, 4096, 1024, 256),
}  # fmt: skip


@pytest.mark.parametrize("name", RAR)
def test_sizes_and_training(name):
    run = PRESETS[name]
    m, t = run.model, run.train
    assert (m.hidden_size, m.num_layers, m.mlp_size, m.codebook_size, m.num_tokens) == SIZES[name]
    assert (m.num_heads, m.num_classes, m.dropout) == (16, 1000, 0.1)
    assert (t.batch_size, t.beta1, t.beta2, t.weight_decay, t.max_grad_norm, t.class_dropout) == (2048, 0.9, 0.96, 0.03, 1.0, 0.1)
    assert (t.precision, run.seed, run.sample.num_samples) == ("bf16", 42, 50_000)
    assert run.tokenizer.kind == ("llamagen_vq" if "llamagen" in name else "maskgit_vq")
    assert (run.tokenizer.codebook_size, run.tokenizer.num_tokens, run.tokenizer.stride) == (m.codebook_size, m.num_tokens, 16)


@pytest.mark.parametrize("name", RAR)
def test_resolving_with_imagenet_changes_nothing(name):
    run = PRESETS[name]
    assert resolve(run, image_size=run.tokenizer.image_size, **IMAGENET) == run
    assert resolve(override(run, data="/data/imagenet"), image_size=run.tokenizer.image_size, **IMAGENET).data == "/data/imagenet"


def test_resolving_ours_still_follows_the_data():
    for name in set(PRESETS) - set(RAR):
        run = resolve(get_preset(name), 4500, 10, 1, PRESETS[name].tokenizer.image_size)
        assert (run.model.codebook_size, run.model.num_tokens) == (run.tokenizer.codebook_size, run.tokenizer.num_tokens)
    run = resolve(get_preset("digits", codebook_size=512, batch_size=128, data="cifar10"), 50_000, 10, 3, 32)
    assert (run.model.codebook_size, run.model.num_tokens, run.tokenizer.channels, run.train.steps_per_epoch) == (512, 64, 3, 390)


def test_other_data_for_a_published_tokenizer():
    with pytest.raises(ValueError, match="image_size = 256 .*must be 512 for a run with 'maskgit_vq'"):
        resolve(PRESETS["rar_l_512"], image_size=256, **IMAGENET)
    with pytest.raises(ValueError, match="channels = 1 .*must be 3 for the published tokenizer 'maskgit_vq'"):
        resolve(PRESETS["rar_b"], 60_000, 10, 1, 256)
    run = resolve(get_preset("rar_b", image_size=128), 60_000, 10, 3, 128)  # another size on purpose
    assert (run.model.num_tokens, run.model.num_classes, run.model.null_id) == (64, 10, 1035)


@pytest.mark.parametrize("kind", [kind for kind, sizes in TOKENIZERS.items() if sizes])
def test_published_tokenizers_have_fixed_sizes(kind):
    tokenizer = next(run.tokenizer for run in PRESETS.values() if run.tokenizer.kind == kind)
    assert (tokenizer.codebook_size, tokenizer.codebook_dim) == {"maskgit_vq": (1024, 256), "llamagen_vq": (16384, 8)}[kind]
    for name, value in dict(channels=1, stride=8, codebook_size=512, codebook_dim=32).items():
        with pytest.raises(ValueError, match=f"{name} = {value} .*for the published tokenizer '{kind}'"):
            dataclasses.replace(tokenizer, **{name: value})
    with pytest.raises(ValueError, match="image_size = 250 .*multiple of the tokenizer's stride, 16"):
        dataclasses.replace(tokenizer, image_size=250)


def test_imagenet_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in RAR:
        with pytest.raises(ValueError, match="data = 'imagenet' .*folder"):
            open_data(PRESETS[name].data, PRESETS[name].tokenizer.image_size)


def test_presets_survive_a_round_trip_through_json(tmp_path):
    for name, run in PRESETS.items():
        save_run_config(run, tmp_path / "config.json")
        assert load_run_config(tmp_path / "config.json") == run, name


def test_shares_of_an_overridden_run():
    train = get_preset("rar_l", epochs=40, anneal_end=30).train
    assert (train.warmup_epochs, train.anneal_start, train.anneal_end) == (10, 20, 30)
    assert PRESETS["rar_l"].train.epochs == 400 and SAMPLING.keys() == MODELS.keys()


def test_a_run_from_before_there_was_a_precision_draws_as_it_did():
    assert load_run_config(DATA / "digits_run" / "config.json").sample == PRESETS["digits"].sample
    assert all(run.sample.sample_precision == "tf32" for run in PRESETS.values())  # float32 on a processor; as released on a GPU
