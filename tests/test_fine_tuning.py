"""Starting from an earlier generator: every row of the new table against the earlier one's, what is
refused, and what is said."""

import dataclasses
import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rar_nb.data.images import DATA
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.fine_tuning import copy_weights, find_start, shared_classes, start_from
from rar_nb.pretrained.presets import MODELS, RunConfig, load_run_config, save_run_config
from rar_nb.support import InvalidValue
from rar_nb.transformer import RAR, ModelConfig

TINY = ModelConfig(
    codebook_size=8,
    num_tokens=9,
    num_classes=4,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    mlp_size=32,
)
NAMES = ["cat", "dog", "hen", "owl"]


def new_model(seed, **changes):
    torch.manual_seed(seed)
    model = RAR(dataclasses.replace(TINY, **changes))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run that knows the names of its classes."""
    model = new_model(0)
    save_run_config(RunConfig("tiny", model=TINY), tmp_path / "config.json")
    save_weights(model, tmp_path / "model.safetensors")
    (tmp_path / "identity.json").write_text(json.dumps({"classes": NAMES}))
    return tmp_path


def check_start(model, before, source, shared):
    """All parameters of `model`: those of `source`, but for the rows of new classes."""
    state, theirs, sizes = model.state_dict(), source.state_dict(), model.config
    for name, tensor in state.items():
        if name != "embeddings.weight":
            assert torch.equal(tensor, theirs[name]), name
    table, rows, fresh = (s["embeddings.weight"] for s in (state, theirs, before))
    assert torch.equal(table[:9], rows[:9])  # 8 tokens and the mask
    assert torch.equal(table[-1], rows[-1])  # the null class
    for number in range(sizes.num_classes):
        expected = rows[9 + shared[number]] if number in shared else fresh[9 + number]
        assert torch.equal(table[9 + number], expected), number


@pytest.mark.parametrize(
    "names, shared",
    [
        (NAMES, {0: 0, 1: 1, 2: 2, 3: 3}),
        (["owl", "ant", "cat"], {0: 3, 2: 0}),
        (["ant", "bee", "cow", "elk", "fox", "hen"], {5: 2}),
        (["ant"], {}),
        (None, {}),
    ],
)
def test_every_row(run, names, shared):
    classes = 5 if names is None else len(names)
    model = new_model(1, num_classes=classes, dropout=0.3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said = start_from(model, run, names)
    check_start(model, before, new_model(0), shared)
    total = sum(p.numel() for p in model.parameters())
    copied, of = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:of|par)", said)[:2])
    assert (copied, of) == (total - 16 * (classes - len(shared)), total)
    new = [n for k, n in enumerate(names or map(str, range(classes))) if k not in shared]
    assert all(name in said for name in new) and str(run) in said and "\n" not in said


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), unique=True), st.lists(st.text(), unique=True))
def test_shared_classes_have_the_same_name(names, earlier):
    shared = shared_classes(names, earlier)
    assert all(names[new] == earlier[old] for new, old in shared.items())
    assert {names[new] for new in shared} == set(names) & set(earlier)


def test_training_changes_the_copy_and_not_the_file(run):
    model, before = new_model(1), (run / "model.safetensors").read_bytes()
    start_from(model, run, NAMES)
    logits = model(torch.zeros(2, 9).long(), torch.tensor([9, 13]), torch.arange(9)[None])
    logits.square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert (run / "model.safetensors").read_bytes() == before
    assert not torch.equal(model.lm_head.weight, new_model(0).lm_head.weight)


def test_every_kind_of_source(run, tmp_path):
    """A folder, a file, a training checkpoint, a bare and a wrapped torch file."""
    from safetensors.torch import save_file

    source = new_model(0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / "checkpoints").mkdir()
    checkpoint = run / "checkpoints/step_000007.safetensors"
    state = {f"model.{n}": t.clone() for n, t in source.state_dict().items()}
    moments = {f"optimizer.exp_avg.{n}": t.clone() for n, t in source.state_dict().items()}
    save_file(state | moments | {"losses": torch.ones(3)}, checkpoint)
    torch.save(source.state_dict(), elsewhere / "bare.bin")
    torch.save({"ema": source.state_dict(), "epoch": 3}, elsewhere / "wrapped.pt")
    in_run = [run, str(run), run / "model.safetensors", checkpoint]
    for path in [*in_run, elsewhere / "bare.bin", elsewhere / "wrapped.pt"]:
        model = new_model(1)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        start_from(model, path, NAMES)
        known = dict(enumerate(range(4))) if path in in_run else {}  # names are known there
        check_start(model, before, source, known)
    model = new_model(1)
    start_from(model, elsewhere / "bare.bin", NAMES, source_names=NAMES[::-1])
    assert torch.equal(model.embeddings.weight[9], source.embeddings.weight[12])


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"classes": 3}', '{"classes": [1]}'])
def test_names_that_are_not_known(run, content):
    (run / "identity.json").unlink()
    if content is not None:
        (run / "identity.json").write_text(content)
    said = start_from(new_model(1), run, NAMES)
    assert "4 of 4 classes" in said


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(codebook_size=16), "codebook_size = 16 .*must be 8, as in .*tokenizer_from"),
        (dict(num_tokens=16), "num_tokens = 16 .*must be 9, as in .*image_size .*spare rows"),
        (dict(hidden_size=32), "hidden_size = 32 .*must be 16, .*the new run hidden_size = 16"),
        (dict(num_layers=3), "num_layers = 3 .*must be 2"),
        (dict(num_heads=4), "num_heads = 4 .*must be 2"),
        (dict(mlp_size=64), "mlp_size = 64 .*must be 32"),
        (dict(target_aware=False), "target_aware = False .*must be True.*new run target_aware = T"),
        (dict(adaln=False), "adaln = False .*must be True, as in .*the new run adaln = True"),
    ],
)
def test_other_sizes_are_refused_and_nothing_is_changed(run, changes, message):
    model = new_model(1, **changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InvalidValue, match=message):
        start_from(model, run, NAMES)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    start_from(new_model(1, num_classes=2), run)  # and what the message asks for is possible


@pytest.mark.parametrize("lacking", ["target_aware", "adaln"])
def test_an_ablation_starts_only_from_its_like(tmp_path, lacking):
    """Also the other way round, where no weight would be missing, only left over."""
    source, path = new_model(0, **{lacking: False}), tmp_path / "model.safetensors"
    save_weights(source, path)
    whole = new_model(1)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    with pytest.raises(InvalidValue, match=f"{lacking} = True .*must be False, as in "):
        start_from(whole, path)
    with pytest.raises(InvalidValue, match=f"{lacking} = True .*must be False, as in "):
        find_start(whole.config, path)  # without a model, before anything is made
    assert all(torch.equal(t, before[name]) for name, t in whole.state_dict().items())
    other = new_model(1, **{lacking: False})
    fresh = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    start_from(other, path)
    check_start(other, fresh, source, {})


@pytest.mark.parametrize("final_order", ["spiral_in", "random"])
def test_another_final_order_may_start_from_the_same_weights(run, final_order):
    model = new_model(1, final_order=final_order)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from(model, run, NAMES)
    check_start(model, before, new_model(0), dict(enumerate(range(4))))
    assert model.config.final_order == final_order


def test_damaged_sources_change_nothing(run):
    model, path = new_model(1), run / "model.safetensors"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    broken = new_model(0)
    with torch.no_grad():
        broken.lm_head.bias[3] = torch.nan
    save_weights(broken, path)
    with pytest.raises(InvalidValue, match="lm_head.bias .*must be finite"):
        start_from(model, run, NAMES)
    save_weights(torch.nn.Linear(3, 3), path)
    with pytest.raises(InvalidValue, match="does not hold the weights of a RAR"):
        start_from(model, run, NAMES)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InvalidValue, match="model.safetensors"):
        start_from(model, run, NAMES)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_names_that_do_not_fit_change_nothing(run):
    """A name for each class of the earlier model, given or in its folder; and no class outside."""
    model = new_model(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for count, names in ((5, [*"abcd", "cat"]), (1, ["cat"]), (0, [])):
        message = f"number of source_names = {count} .*must be 4, a name for each class of "
        with pytest.raises(InvalidValue, match=message):
            start_from(model, run, NAMES, source_names=names)
    (run / "identity.json").write_text(json.dumps({"classes": [*NAMES[::-1], "yak"]}))
    with pytest.raises(InvalidValue, match="number of source_names = 5 .*must be 4"):
        start_from(model, run, NAMES)
    for shared in ({0: 4}, {4: 0}, {1: 1, 0: -1}):
        with pytest.raises(InvalidValue, match="class = .* and at most 3"):
            copy_weights(model, new_model(0), shared)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("place", ["/no/such/run", "runs/no/such", "."])
def test_a_place_that_is_not_there_is_no_question_of_sizes(tmp_path, place):
    """A folder that is there, without weights of these sizes, still is one."""
    if place == ".":
        with pytest.raises(InvalidValue, match=f"^no published generator in {tmp_path} has the si"):
            find_start(TINY, tmp_path)
        place = str(tmp_path / "none")
    message = f"source = '{place}' .*must be an existing file or folder, or a hub repository as"
    for sizes in (TINY, MODELS["rar_b"]):
        with pytest.raises(InvalidValue, match=message):
            find_start(sizes, place)
    with pytest.raises(InvalidValue, match="no file or folder runs/mine, and no .* so named has"):
        find_start(TINY, "runs/mine")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("model", "a"), "^model = "),
        ((None, "a"), "^model = "),
        ((3, "a"), "^source = 3|^model"),
        ((new_model(1), 3), "^source = 3"),
        ((new_model(1), "a", "cat"), "^names = 'cat'"),
        ((new_model(1), "a", [1, 2, 3, 4]), "^names = "),
        ((new_model(1), "a", ["cat"]), "number of names = 1 .*must be 4"),
        ((new_model(1), "a", None, 3), "^preset = 3"),
        ((new_model(1), "a", None, "rar_z"), "^preset = 'rar_z'"),
        ((new_model(1), "no/such/folder", None, TINY, "w.bin"), "^source = 'no/such/folder'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InvalidValue, match=message):
        start_from(*arguments)


def test_the_bundled_run_starts_another_one():
    sizes = load_run_config(DATA / "digits_run/config.json").model
    model = RAR(dataclasses.replace(sizes, num_classes=3))
    said = start_from(model, DATA / "digits_run", ["a", "b", "c"])
    assert "new are the rows of 3 of 3 classes (a, b, c)" in said
    assert model.training  # ready to be trained


def test_a_published_generator_is_found_by_its_sizes(tmp_path, monkeypatch):
    asked = []

    def no_hub(source, filename):
        asked.append((source, filename))
        raise OSError("no network in this test")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_hub)
    with torch.device("meta"):
        large = RAR(dataclasses.replace(MODELS["rar_l"], num_classes=3, dropout=0.0))
    with pytest.raises(InvalidValue, match="rar_l.bin can't be had from the hub"):
        start_from(large, "yucornetto/RAR")
    assert asked == [("yucornetto/RAR", "rar_l.bin")]
    with torch.device("meta"):
        spiral = RAR(dataclasses.replace(MODELS["rar_b"], num_classes=3, final_order="spiral_in"))
    with pytest.raises(InvalidValue, match="rar_b.bin can't be had from the hub"):
        start_from(spiral, "yucornetto/RAR")
    assert asked.pop() == ("yucornetto/RAR", "rar_b.bin")
    for other in (new_model(1).config, dataclasses.replace(MODELS["rar_l"], adaln=False)):
        with pytest.raises(InvalidValue, match="no published generator .* rar_b or rar_l"):
            find_start(other, "yucornetto/RAR")  # before anything is downloaded
    with pytest.raises(InvalidValue, match="holds neither rar_l.bin"):
        start_from(large, tmp_path)
    assert len(asked) == 1


def test_the_published_layout():
    """V tokens, the mask, C classes, the null class: the rows of RAR-B."""
    sizes = MODELS["rar_b"]
    assert (sizes.condition_id(0), sizes.null_id, sizes.num_embeddings) == (1025, 2025, 2026)
