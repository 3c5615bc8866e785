"""Values measured on the published implementation (tests/golden) against ours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rar_nb.orders import permute, raster_order
from rar_nb.pretrained.presets import MODELS
from rar_nb.sampler import SampleConfig, SamplingState, fast_state, guidance_weight
from rar_nb.transformer import RAR, ModelConfig, rar_loss
from tests.golden.fill import fill

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "rar_tiny.npz", allow_pickle=False) as arrays:
        values = {name: arrays[name] for name in arrays}
    return {name: torch.from_numpy(v) if v.ndim else v.item() for name, v in values.items()} | {
        "config": json.loads(str(values["config"]))
    }


@pytest.fixture(scope="module")
def model(golden):
    c = golden["config"]
    config = ModelConfig(
        codebook_size=c["codebook_size"],
        num_tokens=c["image_seq_len"],
        num_classes=c["condition_num_classes"],
        hidden_size=c["hidden_size"],
        num_layers=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        mlp_size=c["intermediate_size"],
    )
    model = RAR(config).eval()
    weights = {}
    for name, p in model.state_dict().items():
        weight = torch.from_numpy(fill(name, tuple(p.shape)))
        weights[name] = weight * 4 if weight.ndim > 1 else weight
    model.load_state_dict(weights)
    return model


@torch.no_grad()
def test_training_logits_and_loss(model, golden):
    tokens, orders = golden["tokens"], golden["orders"]
    logits = model(tokens, golden["condition_train"], orders)
    torch.testing.assert_close(logits, golden["train_logits"], atol=1e-4, rtol=0)
    assert torch.equal(permute(tokens, orders), golden["labels"])
    assert rar_loss(logits, tokens, orders).item() == pytest.approx(golden["loss"], abs=1e-4)


@pytest.mark.parametrize("kind", [SamplingState, fast_state])
@torch.no_grad()
def test_guided_logits(model, golden, kind):
    c, tokens, classes = golden["config"], golden["tokens"], golden["classes"]
    sample = SampleConfig(c["guidance_scale"], c["guidance_scale_pow"], c["temperature"])
    state = kind(model, classes, sample)
    logits = [state.next_logits(tokens[:, k - 1] if k else None) for k in range(tokens.shape[1])]
    torch.testing.assert_close(torch.stack(logits, 1), golden["guided_logits"], atol=1e-4, rtol=0)


def test_guidance_weights(golden):
    c = golden["config"]
    length, scale, power = c["image_seq_len"], c["guidance_scale"], c["guidance_scale_pow"]
    ours = [guidance_weight(k, length, scale, power) for k in range(length)]
    np.testing.assert_allclose(ours, golden["cfg_scale"], atol=1e-9)


def test_ids_of_conditions(model, golden):
    config = model.config
    assert golden["condition_train"][0] == config.null_id
    assert torch.equal(golden["condition_train"][1:], config.condition_id(golden["classes"][1:]))


@pytest.mark.parametrize("name", list(MODELS))
def test_names_and_shapes_of_the_released_checkpoints(name):
    manifest = json.loads((GOLDEN / "state_dict_manifest.json").read_text())[name]
    with torch.device("meta"):
        ours = RAR(MODELS[name]).state_dict()
    assert [(n, list(p.shape)) for n, p in ours.items()] == list(manifest.items())


@torch.no_grad()
def test_golden_orders_matter(model, golden):
    """If all orders were raster, the check above would miss a model that ignores them."""
    logits = model(golden["tokens"], golden["condition_train"], raster_order(16))
    assert (logits - golden["train_logits"]).abs().max() > 0.1
