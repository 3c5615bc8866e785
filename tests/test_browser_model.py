"""The model for the browser against the library: its files, run by onnxruntime, and its JavaScript,
run by node."""

import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from rar_nb.embeddings import position_ids, target_ids
from rar_nb.orders import raster_order, sample_orders
from rar_nb.play import browser_model
from rar_nb.play.browser_model import (
    export_browser_model,
    export_steps,
    fetch_runtime,
    store_compactly,
)
from rar_nb.play.inpainting import fill_hole, fill_order
from rar_nb.play.watch import (
    BUNDLED,
    JS_SCHEDULES,
    Watch,
    attention_maps,
    cached_model,
    cached_run,
    panel_settings,
)
from rar_nb.sampler import (
    GUIDANCE_SCHEDULES,
    SampleConfig,
    final_orders,
    guidance_weights,
    guided_logits,
    image_noise,
    sample_from,
    textbook_tokens,
)
from rar_nb.support import InvalidValue
from rar_nb.tokenizer import to_uint8
from rar_nb.transformer import RAR, ModelConfig
from tests import node
from tests.doors import refuses
from tests.node import needs_node
from tests.once import exported_model
from tests.panels import answers, own_run


def run_js(code: str):
    """What JavaScript prints as JSON; all of `sampling.js` is at hand."""
    start = "import * as js from './sampling.js'; const show = x => console.log(JSON.stringify(x));"
    return node.run_js(start + code)


# The same numbers in JavaScript


@needs_node
@pytest.mark.parametrize("seed", [0, 3, 2**32 - 1, 2**53 + 1, 2**64 - 1])
def test_noise_is_that_of_numpy_to_the_last_bit(seed):
    found = run_js(f"show([0, 1, 12345].map(i => Array.from(js.imageNoise({seed}n, i, 257))))")
    expected = image_noise(seed, [0, 1, 12345], 257)
    assert np.array_equal(np.array(found, np.float32), expected.numpy())


@needs_node
def test_every_guidance_schedule_is_there():
    names = run_js("show(Object.keys(js.GUIDANCE_SCHEDULES))")
    assert names == list(GUIDANCE_SCHEDULES) == list(JS_SCHEDULES)
    for name in names:
        for scale, power in [(0.5, 1.0), (4.0, 0.5), (16.0, 2.75)]:
            sample = SampleConfig(
                guidance_scale=scale, guidance_power=power, guidance_schedule=name
            )
            found = run_js(
                "show(Array.from({length: 49}, (_, k) => "
                f"js.guidanceWeight(k, 49, {scale}, {power}, '{name}')))"
            )
            assert found == pytest.approx(guidance_weights(49, sample), rel=1e-12)


@needs_node
def test_the_same_token_is_chosen():
    """Of flat, usual and peaked predictions, with noise at both ends, too."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 128)) * rng.choice([0.1, 1, 3, 30], size=(300, 1))
    logits = torch.from_numpy(logits.astype(np.float32))
    noise = torch.from_numpy(rng.random(300, dtype=np.float32))
    noise[:2] = torch.tensor([0, 1 - 2**-24])
    found = run_js(
        f"const logits = {logits.tolist()}, noise = {noise.tolist()};"
        "show(logits.map((row, i) => js.choose(js.softmax(row), noise[i])))"
    )
    assert found == sample_from(logits, noise).tolist()


@needs_node
@pytest.mark.parametrize("scale, temperature", [(0.0, 1.0), (4.0, 0.7), (1.0, 2.0)])
def test_guided_logits_are_the_same(scale, temperature):
    logits = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    sample = SampleConfig(guidance_scale=scale, temperature=temperature)
    weight = "null" if scale == 0 else 2.5
    found = run_js(
        f"show(Array.from(js.guidedLogits({logits.flatten().tolist()}, {weight}, {temperature})))"
    )
    expected = guided_logits(logits if scale else logits[:1], 2.5, sample)[0]
    assert found == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


@needs_node
def test_random_orders_are_those_of_the_library():
    config = ModelConfig(num_tokens=49, final_order="random")
    found = run_js("show([0, 1, 2].map(seed => js.randomOrder(seed, 5, 49)))")
    assert found == [final_orders(config, seed, [5])[0].tolist() for seed in range(3)]


@needs_node
def test_cells_of_the_same_score_are_in_order():
    found = run_js("show(js.randomOrder(75, 0, 256))")
    scores = image_noise(75, [0], 512)[0, 256:].tolist()
    assert len({*scores}) == 255  # this seed gives two cells the same
    assert found == sorted(range(256), key=scores.__getitem__)
    config = ModelConfig(num_tokens=256, final_order="random")
    assert found == final_orders(config, 75, [0])[0].tolist()


@needs_node
def test_the_model_is_asked_what_the_library_asks_it():
    """Entries, places and targets of a whole sequence, with a fake model that always says 7."""
    run, tokenizer, model = cached_run(str(BUNDLED))
    config = model.config
    facts = panel_settings(run, tokenizer, {})
    order = sample_orders(1, 49, 1.0, torch.Generator().manual_seed(1))
    request = dict(
        label=4, noise=[0.5] * 49, order=order[0].tolist(), known=[-1] * 48 + [3], scale=2.0,
        power=1.0, temperature=1.0,
    )  # fmt: skip
    found = run_js(
        "const asked = [], logits = new Float32Array(256); logits[7] = logits[128 + 7] = 50;"
        "const step = async ids => { asked.push(ids); return {logits, attention: [1]}; };"
        f"const steps = js.sampleSteps(step, {json.dumps(facts)}, {json.dumps(request)});"
        "const tokens = []; for await (const {token} of steps) tokens.push(token);"
        "show({asked, tokens})"
    )
    tokens = [3 if cell == 48 else 7 for cell in request["order"]]
    assert found["tokens"] == tokens
    asked = found["asked"]
    pair = [config.condition_id(4), config.null_id]
    entries = [[config.num_embeddings] * 2, pair, *([t, t] for t in tokens[:-1])]
    assert [ids["entry"] for ids in asked] == entries
    assert [ids["place"][0] for ids in asked] == position_ids(order)[0, :50].tolist()
    assert [ids["target"][0] for ids in asked] == target_ids(order)[0, :50].tolist()
    assert [ids["position"][0] for ids in asked] == list(range(50))
    assert all(ids["condition"] == pair for ids in asked)


# The files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return exported_model(tmp_path_factory)


@pytest.fixture(scope="module")
def facts(folder):
    return json.loads((folder / "settings.json").read_text())


def open_graph(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


class Sampler:
    """Sampling from a file, with nothing of the model but its settings."""

    def __init__(self, path, facts):
        self.graph, self.facts = open_graph(path), facts
        names = [i.name for i in self.graph.get_inputs()]
        assert names == facts["inputs"]["step"]
        assert [o.name for o in self.graph.get_outputs()] == facts["outputs"]["step"]

    def start(self, label, order):
        facts = self.facts
        shape = facts["num_layers"], 2, facts["num_heads"], 0, facts["head_dim"]
        self.keys = self.values = np.zeros(shape, np.float32)
        self.condition = [facts["first_class_id"] + label, facts["null_id"]]
        self.order, self.position = order, 0

    def read(self, token=None):
        s, order = self.position, self.order
        cls = [self.facts["cls_id"]] * 2
        entry = [cls, self.condition][s] if s < 2 else [token] * 2
        ids = dict(
            entry=entry,
            condition=self.condition,
            place=[s if s < 2 else 2 + order[s - 2]],
            target=[2 + order[s - 1] if 0 < s <= len(order) else 0],
            position=[s],
        )
        inputs = {name: np.array(value, np.int32) for name, value in ids.items()}
        inputs |= dict(keys=self.keys, values=self.values)
        logits, attention, self.keys, self.values = self.graph.run(None, inputs)
        self.position += 1
        return torch.from_numpy(logits), attention

    def tokens(self, label, sample, noise, order, known=None):
        """Tokens in raster order, and the attention of each step."""
        self.start(label, order)
        self.read()
        weights, tokens, attention = guidance_weights(len(order), sample), [], []
        for k, cell in enumerate(order):
            logits, seen = self.read(tokens[-1] if tokens else None)
            guided = guided_logits(logits if sample.guidance_scale else logits[:1], weights[k],
                                   sample)  # fmt: skip
            token = int(sample_from(guided, noise[k : k + 1]))
            given = known is not None and known[cell] >= 0
            tokens.append(known[cell] if given else token)
            attention.append(seen)
        return [token for _, token in sorted(zip(order, tokens))], attention


@pytest.fixture(scope="module")
def sampler(folder, facts):
    return Sampler(folder / facts["models"]["annealed"], facts)


@pytest.mark.parametrize(
    "label, scale, power, temperature",
    [
        (0, 4.0, 0.5, 1.0),
        (1, 0.0, 1.0, 1.0),
        (3, 8.0, 2.75, 1.0),
        (5, 1.0, 0.25, 0.6),
        (7, 2.0, 1.0, 1.5),
        (9, 4.0, 4.0, 0.1),
    ],
)
def test_the_file_samples_the_same_tokens(sampler, facts, label, scale, power, temperature):
    model = cached_run(str(BUNDLED))[2]
    sample = SampleConfig(
        guidance_scale=scale, guidance_power=power, temperature=temperature, sample_precision="no"
    )
    noise = image_noise(11, range(3), 49)
    expected = textbook_tokens(model, [label] * 3, sample, noise).tolist()
    assert [sampler.tokens(label, sample, row, facts["order"])[0] for row in noise] == expected


@pytest.mark.parametrize("name", ["any order", "annealed", "before annealing"])
def test_holes_are_filled_with_the_same_tokens(folder, facts, name):
    model, hole = cached_model(name), tuple(range(16, 40))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 128, 49))
    orders = fill_order(hole, 7, "nearest first")
    sample = SampleConfig(guidance_scale=2.0, guidance_power=0.5, sample_precision="no")
    expected = fill_hole(model, tokens, hole, orders, 8, sample, seed=5, count=1)[0].tolist()
    known = [-1 if i in hole else t for i, t in enumerate(tokens.tolist())]
    sampler = Sampler(folder / facts["models"][name], facts)
    noise, order = image_noise(5, [0], 49)[0], orders[0].tolist()
    assert sampler.tokens(8, sample, noise, order, known)[0] == expected
    assert expected != tokens.tolist() and expected[:16] == tokens[:16].tolist()


def test_attention_is_that_of_the_model(sampler, facts):
    model = cached_run(str(BUNDLED))[2]
    tokens, seen = sampler.tokens(2, SampleConfig(), image_noise(0, [0], 49)[0], facts["order"])
    condition = torch.tensor([model.config.condition_id(2)])
    maps = attention_maps(model, torch.tensor([tokens]), condition, raster_order(49))[:, 0]
    for k, weights in enumerate(seen):
        assert weights.shape == (4, 4, k + 2)
        assert np.abs(weights - maps[:, :, k + 1, : k + 2].numpy()).max() < 1e-5


def test_the_decoder_makes_the_same_images(folder, facts):
    tokenizer = cached_run(str(BUNDLED))[1]
    decoder = open_graph(folder / facts["decoder"])
    tokens = np.random.default_rng(0).integers(0, 128, (5, 49))
    expected = tokenizer.decode(torch.from_numpy(tokens)).numpy()
    for n in (1, 5):  # images at a time
        (images,) = decoder.run(None, dict(tokens=tokens[:n].astype(np.int32)))
        assert images.shape == (n, 1, 28, 28)
        assert np.abs(images - expected[:n]).max() < 1e-4


def test_the_settings_say_what_a_page_needs(facts):
    run, tokenizer, model = cached_run(str(BUNDLED))
    assert facts["order"] == final_orders(model.config)[0].tolist()
    assert [facts["sample"][n] for n in ("guidance_scale", "guidance_power")] == [4.0, 0.5]
    assert list(facts["models"]) == ["annealed", "any order", "before annealing"]
    black = tokenizer.decode(torch.tensor([facts["empty"]]))
    assert to_uint8(black, tokenizer.value_range).float().mean() < 8
    assert facts["image"] == dict(size=28, channels=1, stride=4, low=0.0, high=1.0)


def test_the_files_are_small_and_lose_nothing(folder, facts):
    """The run's weights are float16, and so are those of the files, to the last bit."""
    for name, file in facts["models"].items():
        assert (folder / file).stat().st_size < 2.7e6
        graph = onnx.load(folder / file).graph
        weights = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
        large = [w for w in weights if w.size >= 64]
        assert large and all(w.dtype == np.float16 for w in large)
        stored = {w.tobytes() for w in large}
        for parameter in cached_model(name).blocks[2].mlp.parameters():
            halved = parameter.detach().half().numpy()
            assert {halved.tobytes(), halved.T.tobytes()} & stored


def test_weights_that_float16_would_round_stay(tmp_path):
    exact = np.full(100, 0.5, np.float32)
    fine = np.full(100, 0.1, np.float32)
    huge = np.full(100, 1e6, np.float32)
    arrays = dict(exact=exact, fine=fine, huge=huge)
    nodes = [onnx.helper.make_node("Sum", list(arrays), ["total"])]
    result = onnx.helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, [100])
    graph = onnx.helper.make_graph(
        nodes, "sums", [], [result], [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    )
    opset = [onnx.helper.make_opsetid("", browser_model.OPSET)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "a")
    store_compactly(tmp_path / "a")
    stored = {t.name: t.data_type for t in onnx.load(tmp_path / "a").graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert stored == {"exact.float16": half, "fine": single, "huge": single}
    (total,) = open_graph(tmp_path / "a").run(None, {})
    assert np.array_equal(total, exact + fine + huge)


VARIANTS = [
    dict(),
    dict(adaln=False),
    dict(target_aware=False),
    dict(adaln=False, target_aware=False, final_order="random"),
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_kind_of_model_can_be_exported(tmp_path, changes):
    """Its steps are the entries of one pass over the whole sequence, for both branches."""
    config = ModelConfig(codebook_size=11, num_tokens=9, num_classes=3, hidden_size=16,
                         num_layers=2, num_heads=2, mlp_size=24, **changes)  # fmt: skip
    torch.manual_seed(0)
    model = RAR(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    export_steps({tmp_path / "step.onnx": model})
    facts = dict(num_layers=2, num_heads=2, head_dim=8, first_class_id=12, null_id=config.null_id,
                 cls_id=config.num_embeddings, inputs=dict(step=list(browser_model.INPUTS)),
                 outputs=dict(step=list(browser_model.OUTPUTS)))  # fmt: skip
    sampler = Sampler(tmp_path / "step.onnx", facts)
    order = sample_orders(1, 9, 1.0)
    tokens = torch.randint(11, (1, 9))
    sampler.start(1, order[0].tolist())
    sampler.read()
    logits = [sampler.read(int(tokens[0, order[0, k - 1]]) if k else None)[0] for k in range(9)]
    condition = torch.tensor([config.condition_id(1), config.null_id])
    with torch.no_grad():
        expected = model(tokens.expand(2, -1), condition, order)[:, :-1]
    assert (torch.stack(logits, 1) - expected).abs().max() < 1e-4
    assert model.pos_embed is not None  # a copy was changed, not the model


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    refuses(lambda: export_browser_model(tmp_path / "nothing", tmp_path), "nothing")
    monkeypatch.setattr(browser_model, "LARGEST", 1000)
    refuses(lambda: export_browser_model(BUNDLED, tmp_path), "bytes of weights = ")


@pytest.mark.parametrize("bad", [None, 3, "", "a\0b", b"x", ["a"], {}, float("nan")])
def test_only_paths_are_paths(tmp_path, bad):
    refuses(lambda: export_browser_model(bad, tmp_path), "run_dir = ")
    refuses(lambda: export_browser_model(BUNDLED, bad), "folder = ")
    refuses(lambda: fetch_runtime(bad), "folder = ")


# The runtime


def archive_of(files: dict[str, bytes], path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_the_runtime_is_what_was_tested_or_refused(tmp_path, monkeypatch):
    files = dict(first=b"one", second=b"two")
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(browser_model, "RUNTIME_FILES", hashes)
    asked = []

    def pack(package, folder):
        asked.append(package)
        return archive_of(files, folder / "packed.tgz")

    monkeypatch.setattr(browser_model, "npm_pack", pack)
    fetch_runtime(tmp_path / "a")
    fetch_runtime(tmp_path / "a")  # is there
    assert asked == [browser_model.RUNTIME]
    (tmp_path / "a" / "first").write_bytes(b"On")
    fetch_runtime(tmp_path / "a")
    assert (tmp_path / "a" / "first").read_bytes() == b"one" and len(asked) == 2
    files["second"] = b"another"
    refuses(lambda: fetch_runtime(tmp_path / "b"), "SHA-256 of second")
    assert not (tmp_path / "b" / "second").exists()


def test_without_npm_the_runtime_is_asked_for_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(browser_model.shutil, "which", lambda name: None)
    with pytest.raises(InvalidValue, match="apt-get install npm"):
        fetch_runtime(tmp_path)


# The kernel


def test_the_kernel_answers_as_the_file_does(sampler, facts):
    panel, order = Watch(), facts["order"]
    sampler.start(6, order)
    for s in range(12):
        token = None if s < 2 else s
        ids = dict(
            entry=[[140] * 2, sampler.condition][s] if s < 2 else [token] * 2,
            condition=sampler.condition,
            place=[s if s < 2 else 2 + order[s - 2]],
            target=[2 + order[s - 1] if s else 0],
            position=[s],
        )
        expected = sampler.read(token)
        content, buffers = answers(
            panel, number=s, kind="step", generator="annealed", sequence=1, **ids
        )
        assert content == dict(number=s)
        for buffer, array in zip(buffers, expected):
            found = np.frombuffer(buffer, np.float32)
            assert np.abs(found - np.asarray(array).ravel()).max() < 1e-4


def test_a_model_of_another_grid_than_the_tokenizer_is_refused(tmp_path):
    run = own_run(tmp_path / "run", num_tokens=64)
    for call in (lambda: Watch(run), lambda: export_browser_model(run, tmp_path / "out")):
        refuses(call, "image_size of the tokenizer = 28 is not allowed: it must be 32")
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_is_named_before_anything_is_written(tmp_path):
    shutil.copytree(BUNDLED, tmp_path / "run")
    (tmp_path / "run" / "any_order.safetensors").write_bytes(b"xx")
    refuses(lambda: export_browser_model(tmp_path / "run", tmp_path / "out"), "any_order")
    assert not (tmp_path / "out").exists()
