"""Weights from elsewhere: a fabricated copy of the released rar_b file, every way a file can be
wrong, the hub, and memory."""

import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import rar_nb.pretrained.checkpoints as checkpoints
from rar_nb.pretrained.checkpoints import (
    find_weights,
    load_pretrained,
    load_weights,
    read_weights,
    save_weights,
)
from rar_nb.pretrained.presets import MODELS, SAMPLING, RunConfig, save_run_config
from rar_nb.sampler import SamplingState, image_noise, sample_from
from rar_nb.transformer import RAR, ModelConfig
from tests.golden.fill import fill

ROOT = Path(__file__).parent.parent
MANIFEST = json.loads((ROOT / "tests/golden/state_dict_manifest.json").read_text())


def python(code, **env):
    """Standard output of `code` in a fresh Python that finds this checkout."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the published model
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder with `rar_b.bin`, 1 GB: the released names and shapes, filled by name."""
    folder = tmp_path_factory.mktemp("released")
    torch.save(
        {n: torch.from_numpy(fill(n, tuple(shape))) for n, shape in MANIFEST["rar_b"].items()},
        folder / "rar_b.bin",
    )
    yield folder
    (folder / "rar_b.bin").unlink()


@torch.inference_mode()
def test_released_file_loads_and_draws(released):
    model = RAR.from_pretrained(released)
    assert model.config == MODELS["rar_b"] and not model.training
    state = model.state_dict()
    for name in (
        "cls_token",
        "pos_embed",
        "blocks.0.attn.qkv.weight",
        "blocks.23.adaLN_modulation.1.bias",
        "embeddings.weight",
        "lm_head.bias",
    ):
        assert torch.equal(
            state[name], torch.from_numpy(fill(name, tuple(MANIFEST["rar_b"][name])))
        ), name
    drawing, noise, tokens = (
        SamplingState(model, torch.tensor([207]), SAMPLING["rar_b"]),
        image_noise(0, [0], 256),
        [None],
    )
    for k in range(3):
        logits = drawing.next_logits(tokens[-1])
        assert logits.shape == (1, 1024) and logits.std() > 0
        tokens.append(sample_from(logits, noise[:, k]))
    # the last prediction again, all at once and without guidance, of which there is next to none at
    # the start
    row = torch.cat([torch.stack(tokens[1:3], 1), torch.zeros(1, 254, dtype=torch.long)], 1)
    again = model(row, model.config.condition_id(torch.tensor([207])), torch.arange(256)[None])[
        :, 2
    ]
    torch.testing.assert_close(logits, again, atol=1e-3, rtol=0)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak of the memory from Linux's /proc"
)
def test_memory_of_a_pretrained_model(released):
    """Peak resident memory, mapped pages included, with every weight read: at most 1.3 times the
    weights' size."""
    peak, weights = json.loads(python(PEAK.format(source=str(released), preset="rar_b")))
    assert weights == 4 * sum(torch.Size(shape).numel() for shape in MANIFEST["rar_b"].values())
    assert weights <= peak <= 1.3 * weights


PEAK = """
import json, torch
from rar_nb.pretrained.presets import RAR
def peak():
    lines = [line.split() for line in open('/proc/self/status')]
    return 1024 * next(int(words[1]) for words in lines if words[0] == 'VmHWM:')
before = peak()
model = RAR.from_pretrained({source!r}, {preset!r})
# a page that wasn't read isn't in memory
assert all(p.sum().isfinite() for p in model.parameters())
used = peak() - before
print(json.dumps([used, sum(p.numel() * p.element_size() for p in model.parameters())]))
"""


# ---- a small one, and what can be wrong with it
# ------------------------------------------------------------------------

SMALL = ModelConfig(
    codebook_size=16,
    num_tokens=9,
    num_classes=4,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    mlp_size=32,
)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return {n: torch.randn_like(p) for n, p in RAR(SMALL).state_dict().items()}


def load(path):
    return load_pretrained(lambda: RAR(SMALL), path, path.name)


def stored(weights, path):
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=path.suffix != ".old")
    return path


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "w.old", "w.safetensors"])
def test_every_format_gives_the_same_weights(weights, tmp_path, name):
    path = stored(weights, tmp_path / name)
    loaded = (
        load(path).state_dict(),
        load_weights(RAR(SMALL), path).state_dict(),
        read_weights(path),
    )
    for found in loaded:
        assert set(found) == set(weights) and all(
            torch.equal(found[n], w) for n, w in weights.items()
        )


FAULTS = {
    "missing": (
        lambda w: w.pop("blocks.1.mlp.fc1.bias"),
        r"blocks\.1\.mlp\.fc1\.bias in .*w\.bin = 'absent' .*must be \(32,\)",
    ),
    "unexpected": (
        lambda w: w.update({"ema.decay": torch.ones(())}),
        r"ema\.decay in .*w\.bin = \(\) .*must be absent",
    ),
    "misshapen": (
        lambda w: w.update({"lm_head.weight": torch.ones(17, 16)}),
        r"lm_head\.weight in .*\(17, 16\) .*must be \(16, 16\)",
    ),
    "whole numbers": (
        lambda w: w.update({"lm_head.bias": torch.ones(16).long()}),
        r"dtype of parameter lm_head\.bias in .*torch\.int64 .*torch\.float32",
    ),
    "no tensor": (
        lambda w: w.update({"lm_head.bias": 3}),
        r"lm_head\.bias in .*w\.bin = 'absent' .*must be \(16,\)",
    ),
    "on no device": (
        lambda w: w.update({"lm_head.bias": torch.ones(16, device="meta")}),
        r"lm_head\.bias in .*'meta'.*must be a dense tensor with its numbers",
    ),
    "sparse": (
        lambda w: w.update({"lm_head.weight": torch.eye(16).to_sparse()}),
        r"lm_head\.weight in .*sparse_coo.*must be a dense tensor with its numbers",
    ),
    "not a number": (
        lambda w: w.update({"lm_head.bias": torch.tensor([1.0] * 15 + [torch.nan])}),
        r"lm_head\.bias in .*w\.bin = \(nan, nan\) .*must be finite .*earlier checkpoint",
    ),
    "infinite in float32": (
        lambda w: w.update({"lm_head.bias": torch.full((16,), -1e200, dtype=torch.float64)}),
        r"lm_head\.bias in .*w\.bin = \(-inf, -inf\) .*must be finite",
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_wrong_weights(weights, tmp_path, fault):
    change, message = FAULTS[fault]
    wrong = dict(weights)
    change(wrong)
    path = stored(wrong, tmp_path / "w.bin")
    model = RAR(SMALL)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    for attempt in (lambda: load(path), lambda: load_weights(model, path)):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert all(
        torch.equal(p, before[n]) for n, p in model.state_dict().items()
    )  # nothing was changed


def test_ignored_names(weights, tmp_path):
    path = stored({"model": weights | {"used": torch.zeros(7)}}, tmp_path / "w.pt")
    for unwrap in (None, "model"):
        model = load_pretrained(lambda: RAR(SMALL), path, "", unwrap=unwrap, ignore=["used"])
        assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
        with pytest.raises(ValueError, match="used in"):
            load_pretrained(lambda: RAR(SMALL), path, "", unwrap=unwrap)
    with pytest.raises(ValueError, match="'model'.*under unwrap = 'ema'"):
        load_pretrained(lambda: RAR(SMALL), path, "", unwrap="ema")
    lacking = {n: w for n, w in weights.items() if n != "lm_head.bias"}
    with pytest.raises(ValueError, match="lm_head.bias in"):  # what it needs can't be ignored
        load_pretrained(lambda: RAR(SMALL), stored(lacking, path), "", ignore=["lm_head.bias"])


PAGES = {
    "page.bin": (
        b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
        "a web page, 65 bytes",
    ),
    "page.safetensors": (b"<html>", "a web page"),
    "pointer.bin": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1043812352\n",
        "a git-LFS pointer",
    ),
    "error.pt": (b'{"error": "Repository not found"}', "JSON text"),
    "empty.bin": (b"", "an empty file"),
    "noise.pt": (bytes(range(100, 200)), "an unknown format"),
}


@pytest.mark.parametrize("name", list(PAGES))
def test_files_that_are_no_weights(tmp_path, name):
    content, what = PAGES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} = '{what}.*download it again"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["w.bin", "w.old", "w.safetensors"])
def test_files_that_are_cut_off(weights, tmp_path, name):
    whole = stored(weights, tmp_path / name).read_bytes()
    for length in [*range(0, len(whole), 997), len(whole) - 1]:
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)


class Program:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("unwrap", [None, "model"])
def test_programs_in_a_pickle_never_run(weights, tmp_path, zipped, unwrap):
    trace, path = tmp_path / "trace", tmp_path / "w.bin"
    content = {"model": weights, "note": Program(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"w\.bin holds more than tensors \(io\.open\).*safetensors"
    ):
        load_pretrained(lambda: RAR(SMALL), path, "", unwrap=unwrap)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # it is a real one: whoever trusts the file does run it
    assert trace.exists()


BASE = {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5)}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["w.bin", "w.old", "w.safetensors"]),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5
    ),
)
def test_damage_is_one_error_or_harmless(tmp_path_factory, name, changes):
    """Whatever bytes are wrong: a ValueError that names the file, or tensors (damaged numbers
    can't be told)."""
    path = stored(BASE, tmp_path_factory.mktemp("damage") / name)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        found = read_weights(path)
    except ValueError as e:
        assert name in str(e)
    else:
        assert all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in found.items())


# ---- what is loaded is the module's own
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_trained_and_saved_over_its_own_file(weights, tmp_path, name):
    path = stored(weights, tmp_path / name)
    before, model = path.read_bytes(), load(path).train()
    loss = (
        model(torch.zeros(2, 9, dtype=torch.long), torch.tensor([17, 18]), torch.arange(9)[None])
        .square()
        .mean()
    )
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert path.read_bytes() == before and not torch.equal(
        model.lm_head.bias, weights["lm_head.bias"]
    )
    changed = {n: p.clone() for n, p in model.state_dict().items()}
    save_weights(model, path)  # the file that the model is mapped from
    assert all(torch.equal(p, changed[n]) for n, p in load(path).state_dict().items())
    path.unlink()
    assert all(torch.equal(p, changed[n]) for n, p in model.state_dict().items())


def test_other_precisions_are_converted(weights, tmp_path):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        path = stored({n: w.to(dtype) for n, w in weights.items()}, tmp_path / "w.bin")
        for model in (load(path), load_weights(RAR(SMALL), path)):
            assert all(
                p.dtype == torch.float32 and torch.equal(p, weights[n].to(dtype).float())
                for n, p in model.state_dict().items()
            )


def test_parameters_that_share_memory_in_the_file_are_told_apart(tmp_path):
    both = torch.arange(16.0).view(4, 4)
    torch.save({"0.weight": both, "1.weight": both.T}, tmp_path / "w.bin")
    model = load_pretrained(
        lambda: nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)),
        tmp_path,
        "w.bin",
    )
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(model[1].weight, both.T) and model[1].weight.is_contiguous()


# ---- where the file is
# -----------------------------------------------------------------------------------------------


def test_folders_and_runs(weights, tmp_path):
    with pytest.raises(ValueError, match="holds neither rar_l.bin nor a .safetensors"):
        RAR.from_pretrained(tmp_path, "rar_l")
    stored(weights, tmp_path / "mine.safetensors")
    assert torch.equal(
        RAR.from_pretrained(tmp_path, SMALL, "mine.bin").lm_head.bias, weights["lm_head.bias"]
    )
    with pytest.raises(ValueError, match="source = 'no/such/folder'"):
        RAR.from_pretrained("no/such/folder")


HUB = """
from rar_nb.pretrained.checkpoints import find_weights
for source, name in (('owner/open', 'w.bin'), ('owner/open', 'w.bin'), ('owner/open', 'none.bin'),
                     ('owner/gated', 'w.bin'), ('owner/none', 'w.bin')):
    try: print(find_weights(source, name).read_bytes().decode())
    except ValueError as e: print(e)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs."""

    content, gets = b"weights as stored on the hub", []

    def answer(self):
        repo, name = self.path.split("/")[2], self.path.split("/")[-1]
        error = {"none": (404, "RepoNotFound"), "gated": (403, "GatedRepo")}.get(repo) or (
            (404, "EntryNotFound") if name != "w.bin" else None
        )
        self.send_response(error[0] if error else 200)
        for key, value in {
            "ETag": '"1"',
            "X-Repo-Commit": "c" * 40,
            "Content-Length": 0 if error else len(self.content),
        }.items():
            self.send_header(key, str(value))
        if error:
            self.send_header("X-Error-Code", error[1])
        self.end_headers()
        return not error

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        Hub.gets.append(self.path)
        if self.answer():
            self.wfile.write(self.content)

    def log_message(self, *_):
        pass


def test_hub(tmp_path):
    """The real download code against a hub on this machine: a file once, then errors that name
    what was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        out = python(
            HUB,
            HF_HOME=str(tmp_path),
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            HF_HUB_DISABLE_XET="1",
            HF_HUB_OFFLINE="0",
            NO_PROXY="*",
        )
    finally:
        server.shutdown()
    first, second, *errors = out.splitlines()
    assert first == second == Hub.content.decode() and [
        g for g in Hub.gets if g.endswith("w.bin")
    ] == ["/owner/open/resolve/main/w.bin"]  # the second time it is in the cache
    for error, source in zip(errors, ("owner/open", "owner/gated", "owner/none"), strict=True):
        assert source in error and "give its path as source" in error
    assert "none.bin" in errors[0] and "hf auth login" in errors[1]


def test_no_network(tmp_path):
    code = """
import huggingface_hub
from rar_nb.pretrained.presets import RAR
try: RAR.from_pretrained(preset='rar_xl')
except ValueError as e: print(e)
"""
    error = python(
        code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"
    )  # else the hub's client retries for 23 s
    assert (
        "yucornetto/RAR" in error
        and "rar_xl.bin" in error
        and "download it by hand and give its path" in error
    )


def test_what_the_hub_says_is_one_line(monkeypatch):
    """It is what lies behind the hub's own error, and the only exception that is shown."""

    def no_network(*_):
        try:
            raise OSError("[Errno -2] Name or service not known\nand so on")
        except OSError as error:
            raise RuntimeError("An error happened. Please try again.") from error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(ValueError) as error:
        find_weights("owner/name", "w.bin")
    said = "that name ([Errno -2] Name or service not known). Check the name"
    assert said in str(error.value) and "\n" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_a_hub_id_is_asked_for_only_where_nothing_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner/name").write_bytes(b"")
    assert find_weights("owner/name", "w.bin") == Path("owner/name")

# ---- what stands around the weights
# ------------------------------------------------------------------------------


def named(prefix, weights):
    return {f"{prefix}{n}": w for n, w in weights.items()}


def inside_a_block(weights):
    "As `torch.compile` of the single blocks names them, inside DataParallel."
    return {"module." + n.replace("attn.", "_orig_mod.attn."): w for n, w in weights.items()}


def optimizer(weights):
    moments = {"exp_avg": next(iter(weights.values())), "step": torch.tensor(3.0)}
    return {"state": {0: moments, 1: moments}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


WRAPPED = {
    **{key: lambda w, key=key: {key: w} for key in ("model", "state_dict", "ema", "module")},
    "generator": lambda w: {"generator": w, "discriminator": {"0.weight": torch.ones(3)}},
    "training": lambda w: {"model": w, "optimizer": optimizer(w), "epoch": 7, "args": {"lr": 1.0}},
    "nested": lambda w: {"state": {"model": named("module.", w)}, "step": 1},
    **{f"{prefix}*": lambda w, prefix=prefix: named(prefix, w)
       for prefix in ("module.", "_orig_mod.", "model.", "module._orig_mod.", "a.b.c.")},
    "inside": inside_a_block,
    "lightning": lambda w: {"state_dict": named("net.", w) | {"loss.weight": torch.ones(2)}},
    "ours": lambda w: named("model.", w) | named("optimizer.exp_avg.", w)
    | named("optimizer.exp_avg_sq.", w) | {"losses": torch.ones(7)},
}  # fmt: skip


@pytest.mark.parametrize("name", ["w.bin", "w.old", "w.safetensors"])
@pytest.mark.parametrize("wrapped", list(WRAPPED))
def test_wrapped_weights_simply_load(weights, tmp_path, capsys, wrapped, name):
    content = WRAPPED[wrapped](weights)
    if name.endswith("safetensors"):  # has no dictionaries in dictionaries
        content = {n: t.clone() for n, t in content.items() if isinstance(t, torch.Tensor)}
        if not content:
            return
    path = stored(content, tmp_path / name)
    for model in (load(path), load_weights(RAR(SMALL), path), RAR.from_pretrained(path, SMALL)):
        assert all(torch.equal(p, weights[n]) for n, p in model.state_dict().items())
    assert capsys.readouterr().out == ""  # there was nothing to choose


@pytest.mark.parametrize("wrapped", list(WRAPPED))
def test_wrapped_weights_load_strictly(weights, tmp_path, wrapped):
    for fault in ("missing", "unexpected", "misshapen"):
        change, message = FAULTS[fault]
        wrong = dict(weights)
        change(wrong)
        path = stored(WRAPPED[wrapped](wrong), tmp_path / "w.bin")
        with pytest.raises(ValueError, match=message):
            load(path)


def test_of_two_the_one_that_is_no_average_is_taken(weights, tmp_path, capsys):
    others = {n: w + 1 for n, w in weights.items()}
    contents = [
        ({"ema": others, "model": weights}, "under 'model'", "ema"),
        (named("model_ema.", others) | weights, "without a prefix", "model_ema"),
        ({"a": weights, "b": others}, "under 'a'", "b"),
    ]
    for content, taken, other in contents:
        path = stored(content, tmp_path / "w.pt")
        assert torch.equal(load(path).lm_head.bias, weights["lm_head.bias"])
        said = capsys.readouterr().out
        assert f"w.pt: took the weights {taken}" in said and f"unwrap='{other}'" in said
        for model in (  # the remedy is possible wherever the line may be read
            load_pretrained(lambda: RAR(SMALL), path, "", unwrap=other),
            load_weights(RAR(SMALL), path, unwrap=other),
            RAR.from_pretrained(path, SMALL, unwrap=other),
        ):
            assert torch.equal(model.lm_head.bias, others["lm_head.bias"])
        assert capsys.readouterr().out == ""


def test_no_weights_at_all(weights, tmp_path):
    assert load_weights(nn.ReLU(), stored({}, tmp_path / "w.pt"))  # a module without any
    for content in ({"epoch": 3}, [1, 2], torch.ones(3), {"model": {}}):
        path = stored(content, tmp_path / "w.pt")
        with pytest.raises(ValueError, match="w.pt = .* a dictionary from names to tensors"):
            load(path)
    path = stored({"optimizer": {"exp_avg": weights}}, path)
    with pytest.raises(ValueError, match="cls_token in .* = 'absent'"):
        load(path)  # moments have the names and shapes of weights, but they are none


# ---- files that lie
# ----------------------------------------------------------------------------------------------


def with_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def empty_tensors(count, name="a"):
    return {f"{name}{i}": entry([0], 0, 0) for i in range(count)}


TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
HEADERS = {
    "too small": ({"a": entry([9], 0, 36)}, bytes(8), "damaged or cut off"),
    "too large": ({"a": entry([1], 0, 4)}, bytes(99), "damaged or cut off"),
    "other shape": ({"a": entry([10**12], 0, 4)}, bytes(4), "damaged or cut off"),
    "negative": ({"a": entry([-1, -4], 0, 16)}, bytes(16), "damaged or cut off"),
    "overlapping": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12), "damaged"),
    "backwards": ({"a": entry([1], 4, 0)}, bytes(4), "damaged or cut off"),
    "no such type": ({"a": entry([1], 0, 4, "F31")}, bytes(4), "damaged or cut off"),
    "twice": (TWICE + TWICE[1:-1] + b"}", bytes(4), "holds 'a' twice"),
    "many": (partial(empty_tensors, 100_001), b"", "= 100001 .* 100,000"),
    "long": (partial(empty_tensors, 20_000, "a" * 900), b"", "table of contents"),  # 19 MB
    "deep": (b'{"a":' * 10_000 + b"}" * 10_000, b"", "damaged or cut off"),
    "no entries": (b"{}", b"", "cls_token in .* = 'absent'"),
}


@pytest.mark.parametrize("lie", list(HEADERS))
def test_headers_that_lie(tmp_path, lie):
    header, data, message = HEADERS[lie]
    header = header() if callable(header) else header  # the large ones are made here alone
    path = with_header(tmp_path / "w.safetensors", header, data)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert "w.safetensors" in str(error.value)


def test_a_header_longer_than_its_file(tmp_path):
    for size in (2**20, 2**29, 2**40, 2**63):
        path = tmp_path / "w.safetensors"
        path.write_bytes(size.to_bytes(8, "little") + b"{}")
        with pytest.raises(ValueError, match="w.safetensors"):
            load(path)


def repacked(path, compression=zipfile.ZIP_STORED, **members):
    "The file of `torch.save` at `path` with members replaced."
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, members.get(Path(name).stem, data))
    return path


def test_no_file_is_larger_in_memory_than_on_the_disk(weights, tmp_path):
    path = stored(weights, tmp_path / "w.bin")
    zeros = {n: torch.zeros(10**6) for n in "abc"}
    path = repacked(stored(zeros, path), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5  # and 12 MB in memory
    with pytest.raises(ValueError, match="w.bin = 'compressed' .*save it again"):
        load(path)
    stored(weights, path)
    again = torch.load(path, weights_only=True)  # the remedy: opened with torch, saved again
    torch.save(again, path)
    load(path)


# A pickle by hand, as no object makes one: call `bytearray(10**10)`.
BOMB = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0bT\x02\x85R."


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_memory(weights, tmp_path, zipped):
    path = stored(weights, tmp_path / "w.bin")
    if zipped:
        repacked(path, data=BOMB)
    else:
        path.write_bytes(BOMB * 5)
    with pytest.raises(ValueError, match=r"w.bin holds more than tensors \(bytearray\)"):
        load(path)


def test_dictionaries_that_grow_without_end(tmp_path):
    inner = {"x": torch.ones(1)}
    for _ in range(60):  # 2⁶⁰ paths lead to it
        inner = {"a": inner, "b": inner}
    wide = {str(i): inner for i in range(400)}
    for content in (inner, {str(i): wide for i in range(400)}):
        with pytest.raises(ValueError, match="w.pt"):
            load(stored(content, tmp_path / "w.pt"))


class Nested:
    def __init__(self, *inner):
        self.inner = inner

    def __reduce__(self):
        return pickle.loads, self.inner


@pytest.mark.parametrize("call", ["loads", "load_with_torch", "in a list", "as a key"])
def test_pickles_in_pickles_never_run(tmp_path, call):
    trace = tmp_path / "trace"
    program = pickle.dumps(Program(trace))
    hidden = {
        "loads": Nested(program),
        "load_with_torch": Nested(pickle.dumps(Nested(program))),
        "in a list": [[[Program(trace)]]],
        "as a key": {("a", Program(trace)): 1},
    }[call]
    for zipped in (True, False):
        path = tmp_path / "w.bin"
        torch.save({"a": hidden}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match="w.bin holds more than tensors"):
            load(path)
    assert not trace.exists()


def test_a_storage_smaller_than_its_tensor(tmp_path):
    """A tensor that claims more numbers than the file has of it."""
    path = tmp_path / "w.bin"
    torch.save({"a": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as archive:
        program = archive.read("w/data.pkl")
    assert program.count(b"K\x04\x85") == 1  # the shape
    repacked(path, data=program.replace(b"K\x04\x85", b"K\xff\x85"))
    with pytest.raises(ValueError, match="w.bin .*damaged"):
        load(path)


# ---- wrong types, and remedies that can be followed
# ---------------------------------------------------------------


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: load_weights(RAR(SMALL), 3), "path"),
        (lambda: load_weights("model", "w.bin"), "module"),
        (lambda: load_weights(RAR(SMALL), "w.bin", unwrap=3), "unwrap"),
        (lambda: load_weights(RAR(SMALL), "w.bin", ignore="used"), "ignore"),
        (lambda: read_weights(None), "path"),
        (lambda: find_weights(3, "w.bin"), "source"),
        (lambda: find_weights("owner/name", None), "filename"),
        (lambda: load_pretrained(RAR(SMALL), "a", 3), "filename"),
        (lambda: load_pretrained(3, "a", "b"), "make"),
        (lambda: save_weights({}, "w.bin"), "module"),
        (lambda: RAR.from_pretrained(["a"]), "source"),
        (lambda: RAR.from_pretrained("a", 3), "preset"),
        (lambda: RAR.from_pretrained("a", SMALL, 3), "filename"),
    ],
)
def test_wrong_types_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name} = "):
        call()


def test_odd_paths(tmp_path):
    with pytest.raises(ValueError, match="an existing file"):
        read_weights(tmp_path)
    for source in ("x" * 5000, "~nobody-of-that-name/w.bin", "a\0b", ""):
        with pytest.raises(ValueError):
            find_weights(source, "w.bin")


def test_a_run_that_is_not_finished_names_its_checkpoint(weights, tmp_path):
    save_run_config(RunConfig("digits", model=SMALL), tmp_path / "config.json")
    for step in (3, 12):
        path = tmp_path / f"checkpoints/step_{step:06d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({n: t.clone() for n, t in WRAPPED["ours"](weights).items()}, path)
    with pytest.raises(ValueError, match="not finished; .* such as ") as error:
        RAR.from_pretrained(tmp_path)
    model = RAR.from_pretrained(str(error.value).rpartition("such as ")[2])  # sizes of its run
    assert model.config == SMALL
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])


# What loading costs


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_file_is_read_once(tmp_path, monkeypatch, kind):
    path, model, opened = tmp_path / f"rar.{kind}", RAR(SMALL), []
    torch.save(model.state_dict(), path) if kind == "bin" else save_weights(model, path)
    real = checkpoints.open_weights
    monkeypatch.setattr(checkpoints, "open_weights", lambda p: (opened.append(p), real(p))[1])
    loaded = RAR.from_pretrained(path, SMALL)
    assert opened == [path]
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in model.named_parameters()]
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, model.state_dict()[name])


def test_loading_spends_no_random_numbers(tmp_path):
    """The module is not filled with numbers that the file replaces."""
    save_weights(RAR(SMALL), tmp_path / "rar.safetensors")
    state = torch.get_rng_state()
    RAR.from_pretrained(tmp_path / "rar.safetensors", SMALL)
    assert torch.equal(torch.get_rng_state(), state)


def test_tied_weights_are_saved_under_all_their_names(tmp_path):
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    save_weights(tied, tmp_path / "tied.safetensors")
    found = read_weights(tmp_path / "tied.safetensors")
    assert set(found) == set(tied.state_dict())
    assert torch.equal(found["0.weight"], tied[0].weight)
    assert torch.equal(found["1.weight"], tied[0].weight)
    again = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    again[1].weight = again[0].weight
    load_weights(again, tmp_path / "tied.safetensors")
    x = torch.rand(3, 2)
    assert torch.equal(again(x), tied(x)) and again[1].weight is again[0].weight
