"""Presets: schedules of the published runs at their corner points against closed forms, sizes,
changes by name, what `resolve` makes of a run, and weights by name.
"""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch

import rar_nb.pretrained.vq_models  # noqa: F401 (registers its kinds of tokenizer)
from rar_nb.data.images import DATA, open_data
from rar_nb.orders import ANNEAL_SCHEDULES, SCAN_ORDERS
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import (
    ABLATIONS,
    GUESSED_GUIDANCE,
    MODELS,
    PARTS,
    PRESETS,
    SAMPLING,
    RunConfig,
    check_sizes,
    get_preset,
    load_run_config,
    override,
    published_crops,
    resolve,
    save_run_config,
    sizes_of,
)
from rar_nb.runs.pretokenizer import PretokenizeConfig
from rar_nb.sampler import GUIDANCE_SCHEDULES, SampleConfig, guidance_weight
from rar_nb.tokenizer import TOKENIZERS, TokenizerConfig
from rar_nb.trainer import TrainConfig, learning_rate_at, random_ratio_at
from rar_nb.transformer import RAR, ModelConfig
from tests.kernels import NBS

PUBLISHED_RUNS = [name for name, run in PRESETS.items() if run.data == "imagenet"]
FINAL_RUNS = [name for name in PUBLISHED_RUNS if not name.startswith("table")]
IMAGENET = dict(num_images=1_281_167, num_classes=1000, channels=3)

CORNERS = {  # epochs: steps at the end of warm-up, where r leaves 1, where it reaches 0, at the end
    400: (62_500, 125_000, 187_500, 250_000),
    300: (46_875, 93_750, 140_625, 187_500),
    200: (31_250, 62_500, 93_750, 125_000),
}
EPOCHS = {
    "rar_s": 400,
    "rar_b": 400,
    "rar_l": 400,
    "rar_xl": 400,
    "rar_xxl": 400,
    "rar_l_512": 200,
    "rar_xl_512": 200,
    "rar_xxl_512": 200,
    "rar_l_llamagen": 400,
    "rar_l_200ep": 200,
    "rar_l_300ep": 300,
}


def test_every_row_of_the_paper_is_a_preset():
    hundreds = (0, 100, 200, 300, 400)
    windows = {f"table2_{a}_{b}" for a in hundreds for b in hundreds if a <= b}
    orders = {f"table3_{name}" for name in SCAN_ORDERS if name != "raster"}  # raster: 200 to 300
    assert set(FINAL_RUNS) == set(EPOCHS) and len(windows) == 15 and len(orders) == 5
    assert set(ABLATIONS) == set(PUBLISHED_RUNS) - set(FINAL_RUNS) == windows | orders
    assert all(PRESETS[name].preset == name for name in PRESETS)


@pytest.mark.parametrize("name", FINAL_RUNS)
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


@pytest.mark.parametrize("name", FINAL_RUNS)
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
    ratios = {random_ratio_at(step, train) for step in (0, 1, 125_000, 249_999)}
    assert ratios == {float(name == "random")}


# Temperature, power p and guidance g of the supplement's Table 1. No source prints any for 512 px
# and for LlamaGen-VQ, which use those of the same model, and for RAR-S, which uses RAR-B's.
TABLE1 = {
    "rar_s": (1.0, 2.75, 16.0),
    "rar_b": (1.0, 2.75, 16.0),
    "rar_l": (1.02, 2.5, 15.5),
    "rar_xl": (1.02, 1.5, 6.9),
    "rar_xxl": (1.02, 1.2, 8.0),
}


@pytest.mark.parametrize("name", FINAL_RUNS)
def test_guidance_at_its_corners(name):
    run = PRESETS[name]
    sample = run.sample
    temperature, p, g = TABLE1["_".join(name.split("_")[:2])]
    assert (sample.temperature, sample.guidance_power, sample.guidance_scale) == (temperature, p, g)
    length = run.model.num_tokens

    def weight(k):
        return guidance_weight(k, length, sample.guidance_scale, sample.guidance_power)

    assert weight(0) == 1
    assert weight(length) == pytest.approx(g, rel=1e-12)
    # sin²(x/2) = (1 - cos x)/2; the last step that is sampled is L - 1
    sine = math.sin(math.pi / 2 * ((length - 1) / length) ** p)
    assert weight(length - 1) == pytest.approx(1 + (g - 1) * sine**2, rel=1e-12)
    half = length * 0.5 ** (1 / p)  # where (k/L)^p is a half, half of the way is done
    assert weight(half) == pytest.approx((1 + g) / 2, rel=1e-12)
    assert all(weight(k) < weight(k + 1) for k in range(1, length))


SIZES = {  # D, layers, MLP, V, L
    "rar_s": (768, 12, 3072, 1024, 256),
    "rar_b": (768, 24, 3072, 1024, 256),
    "rar_l": (1024, 24, 4096, 1024, 256),
    "rar_xl": (1280, 32, 5120, 1024, 256),
    "rar_xxl": (1408, 40, 6144, 1024, 256),
    "rar_l_512": (1024, 24, 4096, 1024, 1024),
    "rar_xl_512": (1280, 32, 5120, 1024, 1024),
    "rar_xxl_512": (1408, 40, 6144, 1024, 1024),
    "rar_l_llamagen": (1024, 24, 4096, 16384, 256),
    "rar_l_200ep": (1024, 24, 4096, 1024, 256),
    "rar_l_300ep": (1024, 24, 4096, 1024, 256),
}


@pytest.mark.parametrize("name", FINAL_RUNS)
def test_sizes_and_training(name):
    run = PRESETS[name]
    m, t, vq = run.model, run.train, run.tokenizer
    sizes = (m.hidden_size, m.num_layers, m.mlp_size, m.codebook_size, m.num_tokens)
    assert sizes == SIZES[name]
    assert (m.num_heads, m.num_classes, m.dropout) == (16, 1000, 0.1)
    assert (t.batch_size, t.beta1, t.beta2, t.weight_decay) == (2048, 0.9, 0.96, 0.03)
    assert (t.max_grad_norm, t.class_dropout, t.precision) == (1.0, 0.1, "bf16")
    assert (run.seed, run.sample.num_samples) == (42, 50_000)
    assert vq.kind == ("llamagen_vq" if "llamagen" in name else "maskgit_vq")
    assert (vq.codebook_size, vq.num_tokens, vq.stride) == (m.codebook_size, m.num_tokens, 16)
    # 125 images at 256 px; at 512 px an image has four times as many tokens
    assert run.sample.sample_batch_size == (31 if name.endswith("512") else 125)


def test_the_four_models_train_alike():
    assert [PRESETS[name].train for name in MODELS] == [TrainConfig()] * 4
    assert [PRESETS[name].model for name in MODELS] == list(MODELS.values())
    assert PRESETS["rar_l_llamagen"].model.num_embeddings == 16_384 + 1 + 1000 + 1


# ---- RAR-S and the two ablations
# ------------------------------------------------------------------------------


def counted(name):
    with torch.device("meta"):
        return sum(p.numel() for p in RAR(PRESETS[name].model).parameters())


def test_rar_s_has_the_size_that_is_printed():
    """Section 4.1: 133 million parameters; 18 D² of weights a block."""
    d = 768
    block = 18 * d**2 + 19 * d + 4 * (d // 16)  # biases: 3 + 1 + 4 + 1 + 6; two norms: 4
    tables = (1 + 2 * 1280 + 356 + 2026) * d  # cls, two of positions, steps, ids
    head = 2 * d**2 + 2 * d + 1024 * d + 1024
    assert counted("rar_s") == 12 * block + tables + head == 133_344_256
    assert counted("rar_b") - counted("rar_s") == 12 * block


def test_a_plain_vit_has_no_parameters_for_class_and_step():
    d, layers = 1024, 24
    adaln = layers * (6 * d**2 + 6 * d) + 2 * d**2 + 2 * d + 356 * d  # and the table of steps
    assert counted("rar_l") - counted("table2_0_0") == adaln - 2 * d  # the last norm's own weights
    assert {counted(name) for name in ABLATIONS} == {308_064_256}


def test_rar_s_has_no_published_file(tmp_path):
    for preset in ("rar_s", "rar_l_512", "table2_0_0"):
        with pytest.raises(ValueError, match="filename = None .*only the four models rar_b, rar_l"):
            RAR.from_pretrained(tmp_path, preset)


WINDOWS = [name for name in ABLATIONS if name.startswith("table2")]


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_table_2(name):
    """Equation 5, in the middle of each hundred epochs."""
    start, end = map(int, name.split("_")[1:])
    for epoch in (50, 150, 250, 350):
        r = 1 if epoch < start else 0 if epoch > end else 1 - (epoch - start) / (end - start)
        assert random_ratio_at(625 * epoch, PRESETS[name].train) == pytest.approx(r, abs=1e-12)
    always = PRESETS[name].model.final_order == "random"
    assert always == (name == "table2_400_400")  # the paper samples it in random orders, too


def test_orders_of_table_3():
    for order in set(SCAN_ORDERS) - {"raster"}:
        run = PRESETS[f"table3_{order}"]
        assert run.model.final_order == order
        as_table_2 = override(run, final_order="raster")
        assert dataclasses.replace(as_table_2, preset="table2_200_300") == PRESETS["table2_200_300"]


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_recipe_of_the_ablations(name):
    """A plain ViT with linear guidance on centre crops; all else is the final recipe."""
    run, final = PRESETS[name], PRESETS["rar_l"]
    assert (run.model.adaln, run.model.target_aware, run.sample.guidance_schedule) == (
        False,
        True,
        "linear",
    )
    sample = run.sample
    weights = [
        guidance_weight(
            k, 256, sample.guidance_scale, sample.guidance_power, sample.guidance_schedule
        )
        for k in range(257)
    ]
    steps = [b - a for a, b in zip(weights, weights[1:])]
    assert weights[0] == 1 and steps == pytest.approx([(sample.guidance_scale - 1) / 256] * 256)
    assert published_crops(name) == "centre" and published_crops("rar_l") == "ten"
    same = dict(adaln=True, final_order="raster", guidance_schedule="pow_cosine")
    same |= dict(anneal_start=200, anneal_end=300, guidance_scale=15.5)
    assert dataclasses.replace(override(run, same), preset="rar_l") == final


@pytest.mark.parametrize(
    "preset, asked, crops",
    [
        ("rar_b", None, "ten"),
        ("table2_0_0", None, "centre"),
        ("table3_z_curve", None, "centre"),
        ("table2_0_0", "ten", "ten"),
    ],
)
def test_train_tokenizes_the_crops_that_the_paper_used(tmp_path, preset, asked, crops):
    cells = json.loads((NBS / "train.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = [c for c in map("".join, (c["source"] for c in cells)) if "def tokenize_on_" in c]
    done = []
    names = dict(preset=preset, crops=asked, run=PRESETS[preset], published=True, folder=tmp_path)
    names |= dict(tokens=None, train_tokens=None, tokenizer_from=None, download=False, cpu=True)
    names |= dict(devices=1, published_crops=published_crops, Path=Path)
    names |= dict(
        PretokenizeConfig=PretokenizeConfig, pretokenize_folder=lambda c, n: done.append(c)
    )
    exec(cell, names)
    assert [(c.part, c.crops) for c in done] == [("train", crops), ("validation", "one")]


def test_guidance_is_a_guess_unless_it_is_printed():
    printed = {"rar_b", "rar_l", "rar_xl", "rar_xxl", "rar_l_200ep", "rar_l_300ep"}
    assert GUESSED_GUIDANCE == set(PUBLISHED_RUNS) - printed


@pytest.mark.parametrize("name", PUBLISHED_RUNS)
def test_resolving_with_imagenet_changes_nothing(name):
    run = PRESETS[name]
    size = run.tokenizer.image_size
    assert resolve(run, image_size=size, **IMAGENET) == run
    elsewhere = override(run, data="/data/imagenet")
    assert resolve(elsewhere, image_size=size, **IMAGENET).data == "/data/imagenet"


def test_resolving_ours_still_follows_the_data():
    for name in set(PRESETS) - set(PUBLISHED_RUNS):
        run = resolve(get_preset(name), 4500, 10, 1, PRESETS[name].tokenizer.image_size)
        model, tokenizer = run.model, run.tokenizer
        assert model.codebook_size == tokenizer.codebook_size
        assert model.num_tokens == tokenizer.num_tokens
    run = get_preset("digits", codebook_size=512, batch_size=128, data="cifar10")
    run = resolve(run, 50_000, 10, 3, 32)
    assert (run.model.codebook_size, run.model.num_tokens) == (512, 64)
    assert (run.tokenizer.channels, run.train.steps_per_epoch) == (3, 390)


@pytest.mark.parametrize("name", ["small_64", "small_128"])
def test_presets_for_your_own_images_keep_the_papers_shares(name):
    run = PRESETS[name]
    run = resolve(run, 12_000, 5, 3, run.tokenizer.image_size)
    assert (run.model.num_tokens, run.model.num_classes) == (256, 5)
    assert (run.train.steps_per_epoch, run.model.codebook_size) == (46, 1024)
    shares = run.train.anneal_start / run.train.epochs, run.train.anneal_end / run.train.epochs
    assert shares == (0.5, 0.75)


def test_the_number_of_samples_is_rounded_up_to_whole_classes(capsys):
    run = resolve(get_preset("digits", num_samples=1001), 4500, 10, 1, 28)
    assert run.sample.num_samples == 1010
    assert "1,010 in place of 1,001" in capsys.readouterr().out
    assert resolve(run, 4500, 10, 1, 28) == run and capsys.readouterr().out == ""


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="batch_size = 64 .*at most .* 50"):
        resolve(get_preset("digits"), 50, 10, 1, 28)


def test_other_data_for_a_published_tokenizer():
    with pytest.raises(ValueError, match="image_size = 256 .*must be 512 .*'maskgit_vq'"):
        resolve(PRESETS["rar_l_512"], image_size=256, **IMAGENET)
    with pytest.raises(ValueError, match="channels = 1 .*must be 3 for the tokenizer 'maskgit_vq'"):
        resolve(PRESETS["rar_b"], 60_000, 10, 1, 256)
    run = resolve(get_preset("rar_b", image_size=128), 60_000, 10, 3, 128)  # on purpose
    assert (run.model.num_tokens, run.model.num_classes, run.model.null_id) == (64, 10, 1035)


FIXED = [kind for kind, cls in TOKENIZERS.items() if cls.fixed_sizes]


def test_two_tokenizers_have_fixed_sizes():
    assert set(FIXED) == {"maskgit_vq", "llamagen_vq"}


@pytest.mark.parametrize("kind", FIXED)
def test_published_tokenizers_have_fixed_sizes(kind):
    tokenizer = next(r.tokenizer for r in PRESETS.values() if r.tokenizer.kind == kind)
    codes = {"maskgit_vq": (1024, 256), "llamagen_vq": (16384, 8)}[kind]
    assert (tokenizer.codebook_size, tokenizer.codebook_dim) == codes
    for name, value in dict(channels=1, stride=8, codebook_size=512, codebook_dim=32).items():
        with pytest.raises(ValueError, match=f"{name} = {value} .*for the tokenizer '{kind}'"):
            dataclasses.replace(tokenizer, **{name: value})
    with pytest.raises(ValueError, match="image_size = 250 .*multiple of .*stride, 16"):
        dataclasses.replace(tokenizer, image_size=250)


def test_imagenet_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in PUBLISHED_RUNS:
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
    short = get_preset("digits", epochs=3.5, hidden_size=64)
    shares = (short.train.warmup_epochs, short.train.anneal_start, short.train.anneal_end)
    assert shares == pytest.approx((0.25, 0.75, 1.75)) and short.model.hidden_size == 64
    assert PRESETS["digits"].train.epochs == 7  # presets are frozen


@pytest.mark.parametrize(
    "preset, num_images, changes, every",
    [
        ("small_64", 640, dict(batch_size=64, epochs=6), 6),  # of 60 steps
        ("small_64", 640, dict(batch_size=64, epochs=0.5), 1),  # of 5
        ("small_64", 10_000, {}, 1000),  # of 15,600
        ("small_64", 640, dict(batch_size=64, epochs=6, eval_every=1000), 1000),  # as was asked
        ("rar_b", 1_281_167, dict(epochs=4), 50),  # of 2,500, as many times as in the whole of it
        ("rar_b", 10_000, dict(batch_size=256, steps_per_epoch=None, epochs=40), 156),  # of 1,560
        ("rar_b", 1_281_167, {}, 5000),  # of 250,000
        ("digits", 4500, {}, 70),
        ("digits", 4500, dict(epochs=1), 10),  # of 70
        ("digits", 4500, dict(epochs=14), 70),
        ("digits", 4500, dict(epochs=1, eval_every=70), 70),
    ],
)
def test_how_often_a_run_is_measured(preset, num_images, changes, every):
    """At least ten times, unless something else is asked for. The configuration says how often."""
    run = get_preset(preset, changes)
    size = run.tokenizer.image_size
    resolved = resolve(run, num_images, 10, run.tokenizer.channels, size).train
    assert resolved.eval_every == every
    if "eval_every" not in changes and preset != "digits":
        assert resolved.total_steps // every >= min(10, resolved.total_steps)
    assert get_preset(preset, changes | {"eval_every": None}).train.eval_every is None


def test_none_is_a_value_only_in_changes():
    run = get_preset("rar_b", steps_per_epoch=None)
    assert run.train.steps_per_epoch == 625
    assert override(run, {"steps_per_epoch": None}).train.steps_per_epoch is None


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: get_preset("smal_64"),
            "preset = 'smal_64' is not allowed: did you mean 'small_64'[?] It must be one of",
        ),
        (lambda: get_preset("vit"), "preset = 'vit' is not allowed: it must be one of digits"),
        (lambda: get_preset("digits", hiden_size=3), "parameter = 'hiden_size'"),
        (lambda: get_preset("digits", epochs=-1), "epochs = -1"),
        (lambda: get_preset("digits", {"epochs": 3}, epochs=4), "epochs = 4 .*changes say 3"),
        (lambda: get_preset("digits", device_batch_size=100), "device_batch_size = 100 .* 64"),
    ],
)
def test_bad_changes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_codebook_size_is_in_two_parts():
    names = [f.name for kind in PARTS.values() for f in dataclasses.fields(kind)]
    assert {name for name in names if names.count(name) > 1} == {"codebook_size"}


def test_a_run_from_before_there_was_a_precision_samples_as_it_did():
    run = load_run_config(DATA / "digits_run" / "config.json")
    assert run.sample == dataclasses.replace(PRESETS["digits"].sample, temperature=1.0)
    # float32 on a processor; as released on a GPU
    assert all(run.sample.sample_precision == "tf32" for run in PRESETS.values())


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "bad.json").write_text('{"preset": "digits", "color": 3}')
    with pytest.raises(ValueError, match="bad.json does not hold .* .data: .*give that one"):
        load_run_config(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="none.json"):
        load_run_config(tmp_path / "none.json")


TINY = ModelConfig(8, 9, 10, hidden_size=16, num_layers=3, num_heads=2, mlp_size=32)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    model = RAR(TINY).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


@torch.no_grad()
def outputs(model):
    tokens = torch.arange(18).view(2, 9) % 8
    orders = torch.stack([torch.arange(9), torch.arange(8, -1, -1)])
    return model(tokens, TINY.condition_id(torch.tensor([3, 7])), orders)


def test_weights_from_a_file_like_the_published_ones(tmp_path, tiny):
    path = tmp_path / "weights.bin"
    torch.save(tiny.state_dict(), path)
    again = RAR.from_pretrained(path, preset=TINY)
    assert not again.training and torch.equal(outputs(again), outputs(tiny))
    for change, message in [
        (dict(num_classes=11), r"num_classes = 11 .*must be 10, as in .*num_classes=10, .*hid"),
        (dict(num_layers=2), r"num_layers = 2 .*must be 3, .*preset=ModelConfig\(codebook_size=8"),
    ]:
        with pytest.raises(ValueError, match=message):
            RAR.from_pretrained(path, dataclasses.replace(TINY, **change))


@pytest.mark.parametrize("name", ["target_aware", "adaln"])
def test_a_file_of_another_ablation_names_the_field(tmp_path, tiny, name):
    """Both ways: what is missing in a file, and what is left over."""
    path = tmp_path / "weights.bin"
    without = dataclasses.replace(TINY, **{name: False})
    for sizes, other in ((TINY, without), (without, TINY)):
        torch.save(RAR(sizes).state_dict(), path)
        found, asked = getattr(sizes, name), getattr(other, name)
        message = rf"{name} = {asked} .*must be {found}, as in .*weights.bin: give preset=.*{name}"
        with pytest.raises(ValueError, match=message):
            RAR.from_pretrained(path, other)
        assert RAR.from_pretrained(path, sizes).config == sizes


def test_weights_know_no_final_order(tmp_path, tiny):
    path = tmp_path / "weights.bin"
    torch.save(tiny.state_dict(), path)
    spiral = dataclasses.replace(TINY, final_order="spiral_in")
    again = RAR.from_pretrained(path, spiral)
    assert again.config == spiral and torch.equal(outputs(again), outputs(tiny))


def test_weights_from_the_folder_of_a_run(tmp_path, tiny):
    save_run_config(RunConfig("digits", model=TINY), tmp_path / "config.json")
    save_weights(tiny, tmp_path / "model.safetensors")
    again = RAR.from_pretrained(tmp_path)
    assert again.config == TINY and torch.equal(outputs(again), outputs(tiny))


def test_weights_that_cannot_be_found_are_named(tmp_path):
    with pytest.raises(ValueError, match="rar_b.bin"):
        RAR.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="filename = None"):
        RAR.from_pretrained(tmp_path, TINY)
    with pytest.raises(ValueError, match="preset = 'rar_z'"):
        RAR.from_pretrained(tmp_path, "rar_z")


# ---- files that were made by others
# ------------------------------------------------------------------------------

LIMITS = [
    ("model", "num_layers", 10**7),
    ("model", "hidden_size", 10**9),
    ("model", "num_tokens", 10**12),
    ("model", "num_classes", 10**10),
    ("model", "mlp_size", 10**30),
    ("model", "num_heads", 2**62),
    ("tokenizer", "codebook_size", 10**10),
    ("tokenizer", "codebook_dim", 10**9),
    ("tokenizer", "width", 10**9),
    ("tokenizer", "image_size", 4 * 10**9),
]


def config_with(path, changes, run=PRESETS["tiny"]):
    """A configuration in which fields of parts have other values; None: they are absent."""
    values = dataclasses.asdict(run)
    for (part, name), value in changes.items():
        where = values if part is None else values[part]
        if value is None:
            del where[name]
        else:
            where[name] = value
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("part, name, value", LIMITS)
def test_sizes_that_no_memory_holds_are_refused_at_once(tmp_path, part, name, value):
    path = config_with(tmp_path / "config.json", {(part, name): value})
    for call in (lambda: load_run_config(path), lambda: RAR.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=f"config.json can't be used: {name} = {value} .*most"):
            call()


def test_a_file_is_compared_with_its_configuration_before_anything_is_built(tmp_path, tiny):
    """A terabyte of layers that the limits allow: the file's header shows that it has three."""
    huge = dataclasses.replace(TINY, num_layers=1000, hidden_size=2**15, mlp_size=2**17)
    save_run_config(RunConfig("digits", model=huge), tmp_path / "config.json")
    save_weights(tiny, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="hidden_size = 32768 .*must be 16, as in "):
        RAR.from_pretrained(tmp_path)


DAMAGED = ["", "{", "[]", "null", '"text"', "{}", '{"preset": "tiny"}', "\0" * 100, "{" * 10**5]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_configurations(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    for call in (load_run_config, lambda path: RAR.from_pretrained(path.parent)):
        with pytest.raises(ValueError, match="config.json does not hold what it should"):
            call(tmp_path / "config.json")


def test_cut_configurations(tmp_path):
    path = tmp_path / "config.json"
    save_run_config(PRESETS["tiny"], path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 13):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="config.json"):
            load_run_config(path)


def test_what_is_missing_is_not_guessed(tmp_path):
    later = {"anneal_schedule", "sample_precision", "guidance_schedule", "init_from", "final_order",
             "target_aware", "adaln"}  # fmt: skip
    for part, kind in PARTS.items():
        for name in {f.name for f in dataclasses.fields(kind)} - later:
            path = config_with(tmp_path / "config.json", {(part, name): None})
            if part == "devices":  # how, not what
                load_run_config(path)
                continue
            with pytest.raises(ValueError, match=f"{part} in .*complete: {name} is missing"):
                load_run_config(path)
    for name in ("preset", "data", "seed", "model"):
        path = config_with(tmp_path / "config.json", {(None, name): None})
        with pytest.raises(ValueError, match=f"{name}: Field required"):
            load_run_config(path)
    path = config_with(tmp_path / "config.json", {("model", "color"): 3})
    with pytest.raises(ValueError, match="can't be used: parameter = 'color'"):
        load_run_config(path)


@pytest.mark.parametrize(
    "part, name, registry",
    [
        ("train", "anneal_schedule", "ANNEAL_SCHEDULES"),
        ("sample", "guidance_schedule", "GUIDANCE_SCHEDULES"),
        ("tokenizer", "kind", "TOKENIZERS"),
    ],
)
def test_what_is_not_registered_says_how_to(tmp_path, part, name, registry):
    path = config_with(tmp_path / "config.json", {(part, name): "mine"})
    with pytest.raises(ValueError) as error:
        load_run_config(path)
    said = f"{name} = 'mine' .* registered first, {registry}\\['mine'\\] = …"
    assert re.search(said, str(error.value))
    where = {"ANNEAL_SCHEDULES": ANNEAL_SCHEDULES, "GUIDANCE_SCHEDULES": GUIDANCE_SCHEDULES}
    where["TOKENIZERS"] = TOKENIZERS
    values = where[registry]
    values["mine"] = next(iter(values.values()))  # the remedy
    try:
        assert getattr(getattr(load_run_config(path), part), name) == "mine"
    finally:
        del values["mine"]


@pytest.mark.parametrize("before, now", [("rar_xs", "small_64"), ("rar_s", "small_128")])
def test_presets_that_had_another_name(tmp_path, before, now):
    """Until November 2026 our presets for images of one's own had names like the paper's RAR-S."""
    values = dataclasses.asdict(PRESETS[now]) | {"preset": before}
    for name in ("final_order", "target_aware", "adaln"):
        del values["model"][name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_run_config(tmp_path / "config.json") == PRESETS[now]
    save_run_config(PRESETS["rar_s"], tmp_path / "config.json")
    assert load_run_config(tmp_path / "config.json").preset == "rar_s"


def test_configurations_of_earlier_versions(tmp_path):
    """Until November 2026 the fields of devices stood in `train`, and three fields were absent."""
    run = get_preset("digits", device_batch_size=16, checkpoint_every=50)
    values = dataclasses.asdict(run)
    values["train"] |= values.pop("devices")
    del values["train"]["anneal_schedule"], values["sample"]["guidance_schedule"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_run_config(tmp_path / "config.json") == run


# ---- runs of no step, and images seen too often
# --------------------------------------------------------------------


def test_a_run_of_no_step_is_refused_with_the_remedy():
    run = get_preset("digits", epochs=0.005)
    with pytest.raises(ValueError, match="epochs = 0.005 .*must be at least 0.014, .* 70 steps"):
        resolve(run, 4500, 10, 1, 28)
    assert resolve(get_preset("digits", epochs=0.015), 4500, 10, 1, 28).train.total_steps == 1
    with pytest.raises(ValueError, match="epochs = 0.05 .*must be at least 0.2"):
        TrainConfig(epochs=0.05, warmup_epochs=0, steps_per_epoch=5)


def test_images_that_are_seen_often_are_announced(capsys):
    run = get_preset("rar_b", batch_size=256)
    resolve(run, 1000, 10, 3, 256)
    said = capsys.readouterr().out
    assert "steps_per_epoch = 625: an epoch shows each of the 1,000 images 160.0 times" in said
    resolve(override(run, {"steps_per_epoch": None}), 1000, 10, 3, 256)  # the remedy
    assert "steps_per_epoch" not in capsys.readouterr().out


# ---- which preset, and wrong types
# -------------------------------------------------------------------------------


def test_weights_of_another_preset_name_the_one_that_fits(tmp_path):
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in RAR(PRESETS["digits"].model).state_dict().items()}
    path = tmp_path / "weights.bin"
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ValueError, match="codebook_size = 1024 .*give preset='digits'"):
        RAR.from_pretrained(path)
    with pytest.raises(ValueError, match="codebook_size = 8 .*give preset='digits'"):
        RAR.from_pretrained(path, "tiny")
    assert RAR.from_pretrained(path, "digits").config == PRESETS["digits"].model


def test_weights_of_no_preset_name_the_sizes(tmp_path, tiny):
    path = tmp_path / "weights.pt"
    torch.save({"model": tiny.state_dict()}, path)
    with pytest.raises(ValueError) as error:
        RAR.from_pretrained(path)
    remedy = re.search(r"give preset=(ModelConfig\(.*?\))", str(error.value))[1]
    sizes = eval(remedy, {"ModelConfig": ModelConfig})
    assert torch.equal(outputs(RAR.from_pretrained(path, sizes)), outputs(tiny))


def test_weights_of_a_plain_vit_name_a_preset_for_each_final_order(tmp_path):
    """The order that a model ends in does not show in its weights."""
    with torch.device("meta"):
        found = sizes_of(RAR(PRESETS["table3_z_curve"].model).state_dict())
    with pytest.raises(ValueError, match="adaln = True .*must be False") as error:
        check_sizes(PRESETS["rar_l"].model, found, tmp_path / "weights.bin")
    named = re.findall(r"'(\w+)'", str(error.value))
    assert named == ["table2_0_0", "table2_400_400", *(n for n in ABLATIONS if "table3" in n)]
    check_sizes(PRESETS["table2_400_400"].model, found, tmp_path / "weights.bin")


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_seen_in_the_shapes(name):
    with torch.device("meta"):
        state = RAR(MODELS[name]).state_dict()
    assert sizes_of(state) == MODELS[name]
    assert sizes_of({f"model.{n}": p for n, p in state.items()}) == MODELS[name]
    del state["embeddings.weight"]
    assert sizes_of(state) is None and sizes_of({}) is None


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: get_preset(3), "name"),
        (lambda: get_preset("digits", ["epochs"]), "changes"),
        (lambda: get_preset("digits", {3: 4}), "parameter"),
        (lambda: get_preset("digits", epochs="long"), "epochs"),
        (lambda: override("digits", {}), "run"),
        (lambda: resolve(None, 1, 1, 1, 28), "run"),
        (lambda: resolve(get_preset("digits"), 4500.5, 10, 1, 28), "num_images"),
        (lambda: resolve(get_preset("digits"), 4500, 10, "grey", 28), "channels"),
        (lambda: resolve(get_preset("digits"), 4500, 0, 1, 28), "num_classes"),
        (lambda: resolve(get_preset("digits"), 0, 10, 1, 28), "batch_size"),
        (lambda: save_run_config({}, "config.json"), "run"),
        (lambda: load_run_config(3), "path"),
        (lambda: TokenizerConfig(kind=["grey"]), "kind"),
        (lambda: SampleConfig(guidance_schedule=3), "guidance_schedule"),
    ],
)
def test_wrong_types_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name} = "):
        call()


def test_a_shorter_run_stays_valid_whatever_is_rounded():
    """7 · (0.9 / 7) is a little more than 0.9."""
    base = override(get_preset("tiny"), epochs=7, warmup_epochs=7)
    assert override(base, epochs=0.9).train.warmup_epochs == 0.9
    for epochs in (k / 100 for k in range(30, 3000, 7)):
        train = override(base, epochs=epochs).train
        assert train.warmup_epochs == pytest.approx(epochs) and train.warmup_epochs <= epochs
