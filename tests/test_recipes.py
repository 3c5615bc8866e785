"""The four recipes of CONTRIBUTING.md do what they promise."""

import re
from pathlib import Path

import pytest
import torch

from rar_nb.data.images import Part, open_data
from rar_nb.data.tokens import pretokenize
from rar_nb.orders import ANNEAL_SCHEDULES, SCAN_ORDERS, random_ratio, scan_order
from rar_nb.play.scan_orders import named_order
from rar_nb.pretrained.presets import get_preset, load_run_config, resolve, save_run_config
from rar_nb.sampler import GUIDANCE_SCHEDULES, SampleConfig, guidance_weight, sample_images
from rar_nb.tokenizer import TOKENIZERS, make_tokenizer, train_tokenizer
from rar_nb.trainer import random_ratio_at, train
from rar_nb.transformer import RAR

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
REGISTRIES = (SCAN_ORDERS, ANNEAL_SCHEDULES, GUIDANCE_SCHEDULES, TOKENIZERS)


def recipe(heading: str) -> None:
    """Run the block of Python under a heading."""
    section = TEXT.split(f"### {heading}\n")[1].split("\n### ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(compile(block, heading, "exec"), {})


@pytest.fixture(autouse=True)
def registries_as_before():
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before):
        registry.clear()
        registry.update(entries)


@pytest.fixture(scope="module")
def images():
    return Part(open_data("digits")[0], range(0, 4500, 70))


def run_of(images, **values):
    values = dict(batch_size=16, steps_per_epoch=2, epochs=4, vq_steps=3) | values
    return resolve(get_preset("tiny", **values), len(images), 10, 1, 28)


def test_add_a_scan_order():
    with pytest.raises(ValueError, match="scan order = 'nobody knows it'"):
        scan_order("nobody knows it", 3)
    recipe("Add a scan order")
    assert scan_order("columns", 3)[0].tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert list(named_order("columns", 3, 0)) == [0, 3, 6, 1, 4, 7, 2, 5, 8]  # as the panel asks


def test_an_order_that_is_no_permutation_is_refused():
    SCAN_ORDERS["stuck"] = lambda g: [0] * (g * g)
    with pytest.raises(ValueError, match="a permutation of 0"):
        scan_order("stuck", 3)


def test_add_an_annealing_schedule(images):
    with pytest.raises(ValueError, match="anneal_schedule = 'nobody knows it'"):
        run_of(images, anneal_schedule="nobody knows it")
    recipe("Add an annealing schedule")
    assert random_ratio(250, 200, 300, "cosine") == pytest.approx(0.5)
    assert random_ratio(225, 200, 300, "cosine") == pytest.approx((1 + 0.5**0.5) / 2)
    run = run_of(images, anneal_schedule="cosine", anneal_start=0, anneal_end=4)
    assert random_ratio_at(2, run.train) == pytest.approx((1 + 0.5**0.5) / 2)
    data = pretokenize(make_tokenizer(run.tokenizer), images)
    assert len(train(RAR(run.model), data, run.train, run.seed)) == 8


def test_add_a_guidance_schedule():
    recipe("Add a guidance schedule")
    weights = [guidance_weight(k, 8, 5.0, 1.0, "second_half") for k in range(9)]
    assert weights == pytest.approx([1, 1, 1, 1, 1, 2, 3, 4, 5])
    assert SampleConfig(guidance_schedule="second_half").guidance_schedule == "second_half"


def test_add_a_tokenizer(images, tmp_path):
    recipe("Add a tokenizer")
    run = run_of(images, kind="patches", codebook_size=32, width=8)
    save_run_config(run, tmp_path / "config.json")
    assert load_run_config(tmp_path / "config.json") == run
    tokenizer = make_tokenizer(run.tokenizer)
    losses = train_tokenizer(tokenizer, images, device="cpu", progress=False)
    data = pretokenize(tokenizer, images)
    model = RAR(run.model)
    train(model, data, run.train, run.seed)
    samples = sample_images(model, tokenizer, torch.arange(3), run.sample)
    assert len(losses) == 3 and samples.shape == (3, 1, 28, 28)
