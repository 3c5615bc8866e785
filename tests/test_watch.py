"""A model at work on screen: traces against the sampler, attention against the blocks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from rar_nb.orders import SCAN_ORDERS, raster_order, scan_order
from rar_nb.play.watch import (
    BUNDLED,
    GLOW,
    UNKNOWN,
    attention_maps,
    cached_run,
    candidates,
    decode_known,
    guidance_grid,
    list_runs,
    make_trace,
    plot_attention,
    plot_guidance_grid,
    plot_step,
    plot_tokens,
)
from rar_nb.play.widgets import Pixels, figure_png, new_canvas
from rar_nb.sampler import (
    SampleConfig,
    final_orders,
    guidance_weight,
    image_noise,
    sample_images,
    sample_tokens,
)
from rar_nb.style import COLORS
from rar_nb.tokenizer import GreyTokenizer, TokenizerConfig
from rar_nb.transformer import RAR, ModelConfig
from tests.doors import refuses
from tests.panels import build_panels, starts_with_its_panel

SAMPLE = SampleConfig(guidance_scale=4.0, guidance_power=0.5)
RUN, TOKENIZER, MODEL = cached_run(str(BUNDLED))
FIVE = torch.tensor([5])


@pytest.fixture(scope="module")
def trace():
    return make_trace(MODEL, TOKENIZER, 5, 3, SAMPLE)


def test_only_finished_runs_are_listed(tmp_path):
    both = ["config.json", "model.safetensors"]
    for name, files in dict(b=both, a=both, unfinished=["config.json"]).items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    first = ("bundled digits", "x")
    assert list_runs(Path("x"), tmp_path) == [first, ("a", f"{tmp_path}/a"), ("b", f"{tmp_path}/b")]
    assert list_runs(Path("x"), tmp_path / "nothing") == [first]


def test_attention_maps_are_what_the_blocks_use():
    """Values averaged with these weights, and projected, are what each block's attention gives."""
    tokens = torch.randint(0, 128, (2, 49), generator=torch.Generator().manual_seed(0))
    condition = RUN.model.condition_id(torch.tensor([3, 7]))
    maps = attention_maps(MODEL, tokens, condition, raster_order(49))
    passed = []
    hooks = [
        block.attn.register_forward_hook(
            lambda module, args, output: passed.append((args[0], output))
        )
        for block in MODEL.blocks
    ]
    with torch.no_grad():
        MODEL(tokens, condition, raster_order(49))
        for hook in hooks:
            hook.remove()
        for block, (x, y), weights in zip(MODEL.blocks, passed, maps):
            v = F.linear(x, block.attn.qkv.weight, block.attn.qkv.bias)[..., 256:]
            v = v.unflatten(-1, (4, 32)).transpose(1, 2)
            mixed = block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
            torch.testing.assert_close(mixed, y, atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, 2, 4, 51))
    assert not maps.triu(1).any()  # nothing from the future
    assert not MODEL.blocks[0].attn.q_norm._forward_hooks


def test_a_trace_is_what_the_sampler_makes(trace):
    tokens = sample_tokens(MODEL, FIVE, SAMPLE, image_noise(3, [0], 49))[0]
    np.testing.assert_array_equal(trace.tokens, tokens.numpy())
    image = sample_images(MODEL, TOKENIZER, FIVE, SAMPLE, seed=3)[0]
    np.testing.assert_array_equal(trace.partial[-1], image.numpy())
    np.testing.assert_allclose(trace.probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(trace.weights, [guidance_weight(k, 49, 4.0, 0.5) for k in range(49)])


def test_what_is_not_known_yet_is_grey(trace):
    first_row = [np.all(trace.partial[k, 0, :4] == UNKNOWN, 0).sum() for k in (0, 1, 3, 7, 49)]
    assert first_row == [28, 24, 16, 0, 0]


def test_without_guidance_a_trace_is_a_forward_pass():
    off = make_trace(MODEL, TOKENIZER, 5, 3, SampleConfig(guidance_scale=0.0))
    with torch.no_grad():
        tokens = torch.from_numpy(off.tokens)[None]
        logits = MODEL(tokens, RUN.model.condition_id(FIVE), raster_order(49))[0, :-1]
    np.testing.assert_allclose(off.probabilities, logits.softmax(-1).numpy(), atol=1e-4)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    np.testing.assert_allclose(off.entropy, entropy.numpy(), atol=1e-3)
    assert (off.weights == 1).all()


def test_the_sampled_token_is_always_among_the_candidates(trace):
    unlikely = 0
    for step in range(49):
        ids, probabilities, _ = candidates(trace, TOKENIZER, step)
        p = trace.probabilities[step]
        assert trace.tokens[step] in ids and len(set(ids)) == 5
        assert probabilities.tolist() == sorted(p[ids], reverse=True)
        likeliest = np.sort(p)[::-1][:5]
        np.testing.assert_array_equal(probabilities[:4], likeliest[:4])
        unlikely += bool(probabilities[4] < likeliest[4])
    assert unlikely > 0  # or this test had nothing to find


@pytest.mark.parametrize("step", range(0, 49, 6))
def test_every_picture_marks_the_sampled_token(trace, step):
    labels = [a.get_label() for a in plot_step(trace, TOKENIZER, step).axes[0].get_children()]
    assert len([label for label in labels if str(label).endswith(", sampled")]) == 1


def test_candidates_show_their_looks(trace):
    ids, _, patches = candidates(trace, TOKENIZER, 24)
    tokens = torch.where(torch.arange(49) < 24, torch.from_numpy(trace.tokens), -1)
    tokens[24] = int(ids[0])
    expected = decode_known(TOKENIZER, tokens[None])[0, :, 12:16, 12:16]  # row 3, column 3
    np.testing.assert_array_equal(patches[0], expected.numpy())


def test_every_step_has_a_picture_and_others_a_message(trace):
    pictures = {figure_png(plot_step(trace, TOKENIZER, step, 3, 3)) for step in (0, 1, 48, 49)}
    assert len(pictures) == 4
    with pytest.raises(ValueError, match="step = 50"):
        plot_step(trace, TOKENIZER, 50)
    with pytest.raises(ValueError, match="layer = 4"):
        plot_step(trace, TOKENIZER, 0, 4)


def test_other_sizes_and_colour():
    tiny = RAR(
        ModelConfig(
            codebook_size=8,
            num_tokens=256,
            num_classes=10,
            hidden_size=16,
            num_layers=1,
            num_heads=1,
            mlp_size=16,
        )
    ).eval()
    tokenizer = GreyTokenizer(TokenizerConfig("grey", channels=3, codebook_size=8))
    trace = make_trace(tiny, tokenizer, 0, 0, SampleConfig(guidance_scale=0.0))
    assert len(figure_png(plot_step(trace, tokenizer, 100))) > 1000


# Models with another final order

ORDERS = [*SCAN_ORDERS, "random"]


def ending_in(final_order: str) -> RAR:
    """The bundled weights in a model that samples in another order."""
    model = RAR(replace(RUN.model, final_order=final_order)).eval()
    model.load_state_dict(MODEL.state_dict())
    return model


@pytest.mark.parametrize("final_order", ORDERS)
@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_a_trace_follows_the_final_order(final_order, scale):
    """It is what the sampler makes; a step's prediction is a forward pass's, read at that step."""
    model, sample = ending_in(final_order), SampleConfig(scale, 0.5, sample_precision="no")
    trace = make_trace(model, TOKENIZER, 5, 3, sample)
    image = sample_images(model, TOKENIZER, FIVE, sample, seed=3)[0]
    np.testing.assert_array_equal(trace.partial[-1], image.numpy())
    order = final_orders(model.config, 3, [0])
    np.testing.assert_array_equal(trace.order, order[0].numpy())
    tokens = sample_tokens(model, FIVE, sample, image_noise(3, [0], 49), order)[0]
    np.testing.assert_array_equal(trace.tokens, tokens.numpy())
    assert trace.ids.tolist() == [int(trace.tokens[cell]) for cell in trace.order]
    if scale == 0:
        with torch.no_grad():
            logits = model(tokens[None], RUN.model.condition_id(FIVE), order)[0, :-1]
        np.testing.assert_allclose(trace.probabilities, logits.softmax(-1).numpy(), atol=1e-4)


def test_a_random_order_follows_from_the_seed():
    model = ending_in("random")
    orders = {tuple(make_trace(model, TOKENIZER, 5, seed, SAMPLE).order) for seed in range(3)}
    assert len(orders) == 3
    assert tuple(scan_order("raster", 7)[0].tolist()) not in orders


@pytest.mark.parametrize("final_order", ["spiral_out", "random"])
def test_what_a_step_shows_lies_in_its_cell(final_order):
    """Brute force: the cells that are not grey, the candidate's patch, the mark on the picture."""
    trace = make_trace(ending_in(final_order), TOKENIZER, 5, 3, SAMPLE)
    for step in range(0, 49, 8):
        grey = [(trace.partial[step] == UNKNOWN).all(0)[4 * r : 4 * r + 4, 4 * c : 4 * c + 4].all()
                for r in range(7) for c in range(7)]  # fmt: skip
        assert {i for i in range(49) if not grey[i]} == set(trace.order[:step].tolist())
        ids, _, patches = candidates(trace, TOKENIZER, step)
        assert trace.ids[step] in ids
        known = torch.full((1, 49), -1)
        for cell in trace.order[:step]:
            known[0, cell] = int(trace.tokens[cell])
        known[0, trace.order[step]] = int(ids[0])
        row, column = divmod(int(trace.order[step]), 7)
        whole = decode_known(TOKENIZER, known)[0].numpy()
        np.testing.assert_array_equal(
            patches[0], whole[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        )
        ax = new_canvas(20, 8, 0.2)[1]
        plot_tokens(ax, trace, step, (0, 0), (10, 0))
        (mark,) = (a for a in ax.get_children() if isinstance(a, Rectangle) and not a.get_fill())
        assert mark.get_xy() == (10 + column - 0.5, row - 0.5)
        (mesh,) = (a for a in ax.get_children() if isinstance(a, QuadMesh))
        sampled, coming = (to_rgb(COLORS[name]) for name in ("known", "next"))
        shown = [tuple(color) for color in mesh.get_facecolor()[:, :3]]
        assert {i for i in range(49) if shown[i] == sampled} == set(trace.order[:step].tolist())
        assert [i for i in range(49) if shown[i] == coming] == [trace.order[step]]


@pytest.mark.parametrize("final_order", ["raster", "z_curve", "random"])
def test_attention_is_shown_where_it_falls(final_order):
    """Cell by cell: the shade of a token seen earlier, grey elsewhere, a frame at the next one."""
    trace, step = make_trace(ending_in(final_order), TOKENIZER, 5, 3, SAMPLE), 20
    weights = trace.attention[1, 2, step + 1, : step + 2]
    fig, ax = new_canvas(12, 8, 0.2)
    plot_attention(ax, weights, trace.order, (0, 0))
    (mesh,) = (a for a in ax.get_children() if isinstance(a, QuadMesh))
    shown = mesh.get_facecolor()[:, :3]
    for k, cell in enumerate(trace.order):
        expected = GLOW(weights[2 + k] / weights.max())[:3] if k < step else to_rgb("#e6e6e6")
        np.testing.assert_allclose(shown[cell], expected)
    (frame,) = (a for a in ax.get_children() if isinstance(a, LineCollection))
    middle = frame.get_segments()[0][:4].mean(0)
    assert tuple(middle) == (trace.order[step] % 7, trace.order[step] // 7)


def test_guidance_grid_samples_what_the_sampler_samples():
    images = guidance_grid(str(BUNDLED), 2, 0, 1.0)
    expected = sample_images(MODEL, TOKENIZER, torch.full((4,), 2), SAMPLE, seed=0)
    np.testing.assert_array_equal(images[2, 1], expected.numpy())
    np.testing.assert_array_equal(images[0, 0], images[0, 3])  # off, whatever the power
    figure = plot_guidance_grid(images)
    labels = {str(a.get_label()) for a in figure.axes[0].get_children()}
    assert {"off", "g = 2", "g = 4", "g = 8", "power p = 0.25", "power p = 2.75"} <= labels


def test_the_notebook_starts_with_its_panel():
    assert starts_with_its_panel("13_watch")


def test_the_panel_follows_its_controls_and_names_a_bad_run(tmp_path):
    panel = build_panels("13_watch")["watch"]
    first = panel.canvas.png
    panel.set(label=8, step=30)
    eight = make_trace(MODEL, TOKENIZER, 8, 3, SAMPLE)
    np.testing.assert_array_equal(panel.figure.findobj(Pixels)[0].image, eight.partial[30])
    panel.set(label=5, step=24)
    assert panel.canvas.png == first
    folder = panel.controls["folder"]
    folder.options = (*folder.options, ("no run", str(tmp_path)))
    folder.value = str(tmp_path)
    assert "config" in panel.message.value and panel.canvas.png == first
    folder.value = str(BUNDLED)
    assert panel.message.value == ""


# What the doors refuse

TOKENS = torch.zeros(1, 49, dtype=torch.long)
DRY = RAR(RUN.model).train()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: cached_run("/no/such/run"), "/no/such/run"),
        (lambda: cached_run(7), "folder = 7"),
        (lambda: list_runs(None), "bundled = None"),
        (
            lambda: attention_maps(DRY, TOKENS, RUN.model.condition_id(FIVE), raster_order(49)),
            "model.training = True is not allowed: it must be False: call model.eval() first",
        ),
        (lambda: attention_maps(MODEL, TOKENS, FIVE, raster_order(49)), "range of condition"),
        (lambda: make_trace(MODEL, TOKENIZER, 10, 3, SAMPLE), "class = 10"),
        (lambda: make_trace(MODEL, TOKENIZER, "5", 3, SAMPLE), "label = '5'"),
        (lambda: make_trace(MODEL, TOKENIZER, 5, -3, SAMPLE), "seed = -3"),
        (lambda: make_trace(MODEL, TOKENIZER, 5, 3, None), "sample = None"),
        (lambda: make_trace(DRY, TOKENIZER, 5, 3, SAMPLE), "model.training"),
        (
            lambda: make_trace(MODEL, GreyTokenizer(), 5, 3, SAMPLE),
            "codebook_size of the",
        ),
        (lambda: decode_known(TOKENIZER, TOKENS[0]), "int64 [B, L]"),
        (lambda: decode_known(TOKENIZER, TOKENS + 128), "range of tokens"),
        (lambda: plot_guidance_grid(np.zeros(3)), "what `guidance_grid` returns"),
    ],
)
def test_doors(call, words):
    refuses(call, words)


@pytest.mark.parametrize("step", [-1, 50, 2.0, None])
def test_steps_that_a_trace_does_not_have(trace, step):
    refuses(lambda: plot_step(trace, TOKENIZER, step), f"step = {step}")
    refuses(lambda: candidates(trace, TOKENIZER, step), f"step = {step}")


def test_a_run_with_an_odd_name_is_listed_as_text(tmp_path):
    folder = tmp_path / "<script>alert(1)<"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).touch()
    assert list_runs(BUNDLED, tmp_path)[1] == (folder.name, str(folder))
    refuses(lambda: cached_run(folder), "config.json")
