"""A model at work on screen: traces against the sampler, attention against the blocks."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rar_nb.orders import SCAN_ORDERS, raster_order, scan_order
from rar_nb.play import watch
from rar_nb.play.watch import (
    BUNDLED,
    UNKNOWN,
    StepCache,
    StepServer,
    Watch,
    attention_grid,
    attention_maps,
    cached_model,
    cached_run,
    candidates,
    decode_known,
    empty_cache,
    guidance_grid,
    list_runs,
    make_trace,
    panel_settings,
    plot_step,
    seen_model,
)
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import load_run_config, save_run_config
from rar_nb.runs.run_folders import open_run
from rar_nb.sampler import (
    GUIDANCE_SCHEDULES,
    SampleConfig,
    final_orders,
    guidance_weight,
    image_noise,
    sample_images,
    sample_tokens,
)
from rar_nb.tokenizer import GreyTokenizer, TokenizerConfig
from rar_nb.transformer import RAR, Attention, Conditioning, ModelConfig
from tests.doors import refuses
from tests.panels import answers, own_run, starts_with_its_panel

SAMPLE = SampleConfig(guidance_scale=4.0, guidance_power=0.5)
RUN, TOKENIZER, MODEL = cached_run(str(BUNDLED))
FIVE = torch.tensor([5])


def png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


def title(ax, start: str) -> str:
    """The title of an axes if it begins with `start`."""
    text = ax.get_title(loc="left")
    return text if text.startswith(start) else ""


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
    assert isinstance(MODEL.blocks[0].attn, Attention)  # a copy was changed, not the model


@pytest.mark.parametrize("pieces", [[49], [1] * 49, [20, 1, 28]])
def test_attention_can_be_asked_for_in_pieces(pieces):
    """Queries that come later see the cached keys, and nothing that comes after them."""
    model, x = seen_model(MODEL), torch.randn(2, 49, 128)
    c = Conditioning(torch.randn(2, 49, 128))
    caches = [StepCache(layer, layer) for layer in empty_cache(model, 2)]
    parts, start = [], 0
    with torch.no_grad():
        for n in pieces:
            here = slice(start, start + n)
            parts.append(model.features(x[:, here], Conditioning(c.vectors[:, here]), caches))
            start += n
            assert caches[2].attention.shape == (2, 4, n, start)
        expected = MODEL.features(x, c)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


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


def test_candidates_show_their_looks(trace):
    ids, _, patches = candidates(trace, TOKENIZER, 24)
    tokens = torch.where(torch.arange(49) < 24, torch.from_numpy(trace.tokens), -1)
    tokens[24] = int(ids[0])
    expected = decode_known(TOKENIZER, tokens[None])[0, :, 12:16, 12:16]  # row 3, column 3
    np.testing.assert_array_equal(patches[0], expected.numpy())


@pytest.mark.parametrize("step", range(0, 49, 6))
def test_every_picture_marks_the_sampled_token(trace, step):
    (tokens,) = (ax for ax in plot_step(trace, TOKENIZER, step).axes if "token" in title(ax, "the"))
    texts = [text.get_text() for text in tokens.texts]
    (k,) = (k for k, text in enumerate(texts) if text.endswith(", sampled"))
    assert tokens.get_yticklabels()[k].get_text() == str(trace.ids[step])


def test_every_step_has_a_picture_and_others_a_message(trace):
    pictures = {png(plot_step(trace, TOKENIZER, step, 3, 3)) for step in (0, 1, 48, 49)}
    assert len(pictures) == 4
    with pytest.raises(ValueError, match="step = 50"):
        plot_step(trace, TOKENIZER, 50)
    with pytest.raises(ValueError, match="layer = 4"):
        plot_step(trace, TOKENIZER, 0, 4)
    with pytest.raises(ValueError, match="head = 4"):
        plot_step(trace, TOKENIZER, 0, 3, 4)


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
    assert len(png(plot_step(trace, tokenizer, 100))) > 1000


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
        figure = plot_step(trace, TOKENIZER, step)
        for start, pixels in ((f"{step} of 49", 4), ("attention", 1)):
            (ax,) = (ax for ax in figure.axes if title(ax, start))
            (frame,) = ax.patches
            assert frame.get_xy() == (column * pixels - 0.5, row * pixels - 0.5)
            assert frame.get_width() == frame.get_height() == pixels


@pytest.mark.parametrize("final_order", ["raster", "z_curve", "random"])
def test_attention_is_shown_where_it_falls(final_order):
    """Cell by cell: the weight of a token that was sampled earlier, nothing elsewhere."""
    trace, step = make_trace(ending_in(final_order), TOKENIZER, 5, 3, SAMPLE), 20
    weights = trace.attention[1, 2, step + 1]
    grid = attention_grid(trace, step, 1, 2)
    for k, cell in enumerate(trace.order):
        expected = weights[2 + k] if k < step else np.nan
        np.testing.assert_equal(grid[cell // 7, cell % 7], expected)
    heads = [attention_grid(trace, step, 1, head) for head in range(4)]
    np.testing.assert_allclose(attention_grid(trace, step, 1), np.mean(heads, 0), rtol=1e-5)


def test_guidance_grid_samples_what_the_sampler_samples():
    images = guidance_grid(str(BUNDLED), 2, 0)
    expected = sample_images(MODEL, TOKENIZER, torch.full((4,), 2), SAMPLE, seed=0)
    np.testing.assert_array_equal(images[2, 1], expected.numpy())
    np.testing.assert_array_equal(images[0, 0], images[0, 3])  # off, whatever the power


# The panel


def test_the_notebook_starts_with_its_panel():
    assert starts_with_its_panel("13_watch")


def test_the_kernel_decodes():
    panel, tokenizer = Watch(), cached_run(str(BUNDLED))[1]
    tokens = torch.randint(128, (3, 49), generator=torch.Generator().manual_seed(0))
    content, (buffer,) = answers(panel, number=1, kind="decode", tokens=tokens.tolist())
    expected = tokenizer.decode(tokens).numpy()
    assert np.array_equal(np.frombuffer(buffer, np.float32).reshape(expected.shape), expected)


def test_a_problem_is_told_to_the_browser():
    panel = Watch()
    content, _ = answers(panel, number=4, kind="decode", tokens=[[500] * 49])
    assert content["number"] == 4 and "500" in content["problem"]
    ids = dict(entry=[1, 1], condition=[129, 139], place=[3], target=[4], position=[3])
    content, _ = answers(panel, number=5, kind="step", generator="annealed", sequence=9, **ids)
    assert "sequence = 9" in content["problem"]


def test_old_sequences_are_forgotten():
    server = StepServer(str(BUNDLED))
    ids = dict(entry=[140] * 2, condition=[129, 139], place=[0], target=[0], position=[0])
    for sequence in range(20):
        server.step("annealed", sequence, **ids)
    assert len(server.caches) <= 5 and 19 in server.caches


def test_a_page_that_is_loaded_anew_may_begin_with_any_number():
    """The youngest sequence is kept, though its number be the smallest."""
    server = StepServer(str(BUNDLED))
    for sequence in (30, 31, 32, 33, 1, 30):
        for position in (0, 1):
            ids = dict(place=[position], target=[position], position=[position])
            server.step("annealed", sequence, entry=[140] * 2, condition=[129, 139], **ids)


def test_guidance_that_the_browser_does_not_know_is_refused(monkeypatch):
    monkeypatch.setitem(GUIDANCE_SCHEDULES, "mine", lambda progress, power: progress)
    run = replace(RUN, sample=replace(RUN.sample, guidance_schedule="mine"))
    refuses(lambda: panel_settings(run, TOKENIZER, {}), "guidance_schedule of the run = 'mine'")


def test_whatever_a_run_may_be_sampled_with_can_be_shown(tmp_path):
    folder = own_run(tmp_path / "cold")
    sample = replace(RUN.sample, temperature=0.001, guidance_power=1e-4, guidance_scale=0.0)
    config = folder / "config.json"
    save_run_config(replace(load_run_config(config), sample=sample), config)
    assert Watch(folder).temperature == 0.001


def test_two_runs_of_one_name_can_both_be_chosen(tmp_path, monkeypatch):
    listed = own_run(tmp_path / "mine")
    (tmp_path / "other").mkdir()
    panel_of = own_run(tmp_path / "other" / "mine")
    monkeypatch.setattr(watch, "list_runs", lambda: [("mine", str(listed))])
    panel = Watch(panel_of)
    assert panel.runs == ["mine", str(panel_of)] and panel.run_dir == str(panel_of)
    panel.run = "mine"
    assert panel.run_dir == str(listed)


def test_a_panel_begins_with_the_guidance_of_its_run():
    run = cached_run(str(BUNDLED))[0]
    panel = Watch(label=7, guidance_scale=2.0)
    assert panel.guidance_power == run.sample.guidance_power
    assert (panel.label, panel.guidance_scale) == (7, 2.0)
    state = json.loads(json.dumps(panel.live_state()))
    assert state["settings"]["num_tokens"] == 49 and state["folder"] == ""


def test_any_run_can_be_watched(tmp_path):
    """Here one in random orders, with a plain ViT and no models but its own."""
    run = cached_run(str(BUNDLED))[0]
    model = replace(run.model, num_layers=1, final_order="random", target_aware=False, adaln=False)
    save_run_config(replace(run, model=model), tmp_path / "config.json")
    shutil.copy(BUNDLED / "tokenizer.safetensors", tmp_path)
    save_weights(RAR(model), tmp_path / "model.safetensors")
    panel = Watch(tmp_path, seed=2**32 - 1)
    assert list(panel.settings["models"]) == ["annealed"] and panel.settings["order"] is None
    assert panel.png().startswith(b"\x89PNG")
    ids = dict(entry=[140] * 2, condition=[129, 139], place=[0], target=[0], position=[0])
    logits, attention = panel.server.step("annealed", 0, **ids)
    assert logits.shape == (2, 128) and attention.tolist() == [[[1.0]] * 4]


@pytest.mark.parametrize(
    "state, message",
    [
        (dict(label=10), "label = 10"),
        (dict(generator="best"), "model = 'best'"),
        (dict(compare="best"), "model = 'best'"),
        (dict(run_dir="nowhere"), "nowhere"),
        (dict(hole=[1, 1]), "hole = [1, 1]"),
        (dict(temperature=0.0), "temperature = 0.0"),
        (dict(guidance_power=0.0), "guidance_power = 0.0"),
    ],
)
def test_a_panel_of_nothing_is_refused(state, message):
    refuses(lambda: Watch(**state), message)


def test_the_picture_follows_the_state():
    pictures = {Watch(seed=seed, label=label).png() for seed in (0, 1) for label in (0, 1)}
    assert len(pictures) == 4 and all(png.startswith(b"\x89PNG") for png in pictures)


def test_a_run_of_one_class_can_be_watched(tmp_path):
    panel = Watch(own_run(tmp_path / "run", num_classes=1))
    assert panel.label == 0 and panel.png().startswith(b"\x89PNG")


@pytest.fixture
def several(tmp_path, monkeypatch):
    """A panel that can open the bundled run, one of 3 classes in a random order, and a bad one."""
    folders = [
        own_run(tmp_path / "small", num_classes=3, final_order="random"),
        own_run(tmp_path / "damaged"),
    ]
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"xx")
    runs = [("bundled digits", str(BUNDLED)), *((f.name, str(f)) for f in folders)]
    monkeypatch.setattr(watch, "list_runs", lambda: runs)
    return Watch(label=7, layer=3, head=2, compare="any order", hole=[1], base=[0] * 49)


def test_another_run_can_be_chosen(several):
    """The state that it begins with reaches the browser as one message."""
    assert several.runs == ["bundled digits", "small", "damaged"]
    sent = []
    several.send_state = lambda key: sent.append({*key})
    several.run = "small"
    state = several.live_state()
    assert state["settings"]["num_classes"] == 3 and state["settings"]["order"] is None
    assert (several.label, several.layer, several.head, several.compare) == (2, 0, -1, "")
    assert several.hole == several.base == []
    assert [keys for keys in sent if "settings" in keys and "label" in keys]
    assert several.png().startswith(b"\x89PNG")
    ids = dict(entry=[132] * 2, condition=[129, 132], place=[0], target=[0], position=[0])
    content, _ = answers(several, number=0, kind="step", generator="annealed", sequence=1, **ids)
    assert content == dict(number=0)
    several.run = "bundled digits"
    assert several.settings["num_classes"] == 10 and list(several.settings["models"])[1:]


def test_a_run_that_cannot_be_opened_is_named_and_changes_nothing(several):
    before = several.settings
    several.run = "damaged"
    assert "damaged" in several.problem and several.settings == before and several.label == 7
    assert several.run == "bundled digits"
    several.run = "small"
    assert several.problem == "" and several.settings["num_classes"] == 3
    refuses(lambda: setattr(several, "run", "none"), "run = 'none'")


def test_the_browser_hears_that_a_run_was_not_opened(several):
    """Its list of runs shows the one that is open, not the one that was chosen in it."""
    sent = []
    several.send_state = lambda key: sent.append((key, several.run))
    several.set_state(dict(run="damaged"))  # as it comes from the browser
    assert ("run", "bundled digits") in sent


@pytest.fixture
def trained_anew(tmp_path):
    """A run, and a function that puts another run into its folder."""
    folder = own_run(tmp_path / "run")

    def train(**changes):
        other = own_run(tmp_path / "other", **changes)
        for file in other.iterdir():
            file.replace(folder / file.name)
        other.rmdir()

    return folder, train


def first_step(panel, sequence: int) -> np.ndarray:
    ids = dict(entry=[140] * 2, condition=[129, 139], place=[0], target=[0], position=[0])
    request = dict(kind="step", generator="annealed", sequence=sequence, **ids)
    _, (logits, _) = answers(panel, number=1, **request)
    return np.frombuffer(logits, np.float32).reshape(2, -1)


def test_a_run_that_is_trained_anew_is_opened_anew(trained_anew):
    """By its panel, too: new weights for the next image, and new settings at once."""
    folder, train = trained_anew
    panel, before, old = Watch(folder), cached_run(folder), cached_model("annealed", folder)
    assert cached_run(folder) is before and cached_model("annealed", folder) is old
    first, settings = first_step(panel, 1), panel.settings
    train()
    state = open_run(folder)[2].state_dict()
    for found in (cached_run(folder)[2], cached_model("annealed", folder)):
        assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    assert not np.array_equal(first, first_step(panel, 2)) and panel.settings == settings
    train(final_order="spiral_out")
    first_step(panel, 3)
    assert panel.settings["order_name"] == "spiral_out" and panel.settings != settings


def test_an_image_is_finished_by_the_model_that_began_it(trained_anew):
    folder, train = trained_anew
    panel = Watch(folder)
    first_step(panel, 1)
    train(num_heads=2)
    ids = dict(entry=[5, 5], condition=[129, 139], place=[2], target=[3], position=[1])
    content, _ = answers(panel, number=2, kind="step", generator="annealed", sequence=1, **ids)
    assert content == dict(number=2)


def test_runs_of_one_size_are_told_apart(tmp_path, monkeypatch):
    """Their settings differ, so that the browser hears of another run."""
    runs = [(name, str(own_run(tmp_path / name))) for name in ("a", "b")]
    monkeypatch.setattr(watch, "list_runs", lambda: runs)
    panel = Watch(tmp_path / "a")
    before = panel.settings
    panel.run = "b"
    assert panel.settings != before


def test_a_run_of_other_sizes_can_be_chosen(tmp_path, monkeypatch):
    """In colour, of a thousand classes and 256 tokens."""
    grey = TokenizerConfig("grey", image_size=64, channels=3, codebook_size=8)
    sizes = dict(codebook_size=8, num_tokens=256, num_classes=1000)
    large = own_run(tmp_path / "large", grey, **sizes)
    monkeypatch.setattr(watch, "list_runs", lambda: [("large", str(large))])
    panel = Watch(label=9, step=24)
    panel.run = "large"
    settings = panel.settings
    assert (settings["grid_size"], settings["num_classes"], panel.label) == (16, 1000, 9)
    assert settings["image"]["size"] == 64 and len(settings["empty"]) == 256
    panel.label = 999
    assert panel.png().startswith(b"\x89PNG")
    content, (buffer,) = answers(panel, number=1, kind="decode", tokens=[[7] * 256] * 2)
    assert content == dict(number=1)
    assert np.frombuffer(buffer, np.float32).tolist() == [1.0] * (2 * 3 * 64 * 64)


def test_a_run_from_elsewhere_is_one_of_the_choices(tmp_path):
    panel = Watch(own_run(tmp_path / "mine", num_classes=1))
    assert panel.run == "mine" and "bundled digits" in panel.runs
    assert panel.live_state()["runs"] == []  # a page has no kernel that could open one


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
