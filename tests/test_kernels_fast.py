"""The compiled loops and the packed linears against plain torch and the formulas, and what happens
where they cannot be had."""

import ctypes
import errno
import math
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rar_nb import compiled, kernels
from rar_nb.compiled import compile_source
from rar_nb.kernels import (
    CompiledLinear,
    Kernels,
    PackedLinear,
    PlainLinear,
    attend_step,
    can_pack,
    choose_linear,
    load_kernels,
    modulated_norm,
    take_in_norms,
)
from rar_nb.sampler import SampleConfig, image_noise, sample_tokens, textbook_tokens
from rar_nb.transformer import RAR, ModelConfig

HEAD_DIMS = [8, 20, 33, 48, 88]  # 33 is no multiple of anything
DTYPES = [torch.float32, torch.bfloat16]
NAMES = ["float32", "bfloat16"]

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="there is no C++ compiler")


def compile_kernels(head_dim: int, folder: Path) -> Path:
    return compile_source(kernels.SOURCE, folder, D=head_dim)


def kernels_for(head_dim: int) -> Kernels:
    found, what = load_kernels(head_dim)
    assert found is not None, what
    return found


def random(seed: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Attention


def problem(head_dim, rows, heads, capacity, position, dtype, seed=0) -> tuple:
    """Arguments of `attend_step`; what lies behind `position` would be noticed."""
    qkv = random(seed, rows, 3 * heads * head_dim, dtype=dtype)
    norms = random(seed + 1, 4, head_dim)
    keys = random(seed + 2, rows, heads, capacity, head_dim, dtype=dtype)
    values = random(seed + 3, rows, heads, capacity, head_dim, dtype=dtype)
    keys[:, :, position:], values[:, :, position:] = math.nan, math.nan
    return qkv, norms, keys, values, torch.tensor([position])


def formula(qkv, norms, keys, values, position):
    """Normalised query, key and value of the newest entry, and softmax(q kᵀ / √d) v, in float64.
    Cached keys and values are taken as they are after the call."""
    rows, heads, _, d = keys.shape
    q, k, v = qkv.double().view(rows, 3, heads, d).unbind(1)
    norms = norms.double()

    def normalise(x, weight, bias):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias

    length = int(position) + 1
    q, k = normalise(q, *norms[:2]), normalise(k, *norms[2:])
    scores = torch.einsum("rhd,rhtd->rht", q, keys[:, :, :length].double()) / math.sqrt(d)
    out = torch.einsum("rht,rhtd->rhd", scores.softmax(-1), values[:, :, :length].double())
    return k, v, out.reshape(rows, heads * d)


def check_attention(given, dtype):
    qkv, norms, keys, values, position = given
    before, p = (keys.clone(), values.clone()), int(position)
    found = kernels_for(keys.shape[-1]).attend_step(*given)
    k, v, out = formula(*given)
    step = 2.0**-8 if dtype == torch.bfloat16 else 1e-5  # one rounding; a few of them
    torch.testing.assert_close(keys[:, :, p].double(), k, rtol=step, atol=1e-5)
    torch.testing.assert_close(values[:, :, p].double(), v, rtol=0, atol=0)
    torch.testing.assert_close(found.double(), out, rtol=step, atol=2e-5)
    assert found.dtype == dtype
    for now, then in zip((keys, values), before, strict=True):
        now[:, :, p] = then[:, :, p]
        assert torch.equal(now.view(torch.uint8), then.view(torch.uint8))
    twin = attend_step(qkv, norms, *before, position, span=p + 1)
    loose = 0.05 if dtype == torch.bfloat16 else 2e-5  # torch rounds queries and weights, too
    torch.testing.assert_close(found.float(), twin.float(), rtol=loose, atol=loose)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_attention_is_the_formula(dtype, data):
    capacity = data.draw(st.integers(1, 40), "capacity")
    check_attention(
        problem(
            data.draw(st.sampled_from(HEAD_DIMS), "head_dim"),
            data.draw(st.integers(1, 5), "rows"),
            data.draw(st.integers(1, 3), "heads"),
            capacity,
            data.draw(st.integers(0, capacity - 1), "position"),
            dtype,
            data.draw(st.integers(0, 10**6), "seed"),
        ),
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
def test_attention_that_threads_share(dtype):
    """More than 2,048 pairs of head and key; the last position of the memory."""
    check_attention(problem(48, 16, 4, 60, 59, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["qkv", "norms", "keys", "values"])
def test_attention_hides_no_broken_number(where, number, dtype):
    """What is not finite in torch is not finite here, and the heads beside it are as before."""
    given = dict(zip(["qkv", "norms", "keys", "values", "position"],
                     problem(20, 3, 2, 9, 6, dtype), strict=True))  # fmt: skip
    place = dict(qkv=(1, 7), norms=(0, 3), keys=(1, 0, 2, 5), values=(1, 0, 2, 5))[where]
    given[where][place] = number
    twin = attend_step(**{n: t.clone() for n, t in given.items()}, span=7).isfinite()
    found = kernels_for(20).attend_step(**given).isfinite()
    assert torch.equal(found.view(3, 2, 20)[[0, 2]], twin.view(3, 2, 20)[[0, 2]])
    if math.isnan(number) or where in ("norms", "values"):
        assert not twin.all() and torch.equal(found, twin)
    else:  # an infinite score of -∞ is a weight of 0, and nothing is broken
        assert (twin | ~found).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_large_scores_do_not_overflow(size, dtype):
    """Scores of thousands and of 10⁹: nearly all weight is on one key."""
    qkv, norms, keys, values, position = problem(48, 4, 2, 30, 29, dtype)
    given = qkv, norms * size, keys * 10, values, position
    found = kernels_for(48).attend_step(*given)
    assert found.isfinite().all()
    if dtype == torch.float32:
        out = formula(*given)[2]
        torch.testing.assert_close(found.double(), out, rtol=2e-3, atol=2e-3)


@pytest.fixture(scope="module")
def exponential(tmp_path_factory):
    """The C++ function `exponential` for an array."""
    door = """
    extern "C" void exponentials(const float *x, float *y, int64_t n) {
        for (int64_t i = 0; i < n; i++) y[i] = exponential(x[i]);
    }"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SOURCE", kernels.SOURCE + door)
        library = ctypes.CDLL(str(compile_kernels(8, tmp_path_factory.mktemp("exponential"))))
    library.exponentials.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64]

    def compute(x: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty_like(x)
        library.exponentials(x.ctypes.data, y.ctypes.data, x.size)
        return y

    return compute


def test_exponential_is_accurate(exponential):
    x = np.linspace(-87, 0, 1_000_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(exponential(x) - exact) / exact).max() < 1e-6


def test_exponential_at_its_ends(exponential):
    assert exponential(np.array([0.0]))[0] == 1
    tiny = exponential(np.array([-87.5, -1e4, -3e38, -math.inf]))
    assert (tiny < 2e-38).all() and (tiny >= 0).all()
    assert np.isnan(exponential(np.array([math.nan]))).all()


# Norms


def check_norm(rows, width, branch_dtype, dtype, strided, seed):
    n = 5
    x, which = random(seed, rows, width), torch.arange(rows) * 3 % n
    branch = None if branch_dtype is None else random(seed + 1, rows, width, dtype=branch_dtype)
    if strided:  # as in the table of the sampler
        gate, shift, scale = random(seed + 2, n, 6, width).unbind(1)[2:5]
    else:
        gate, shift, scale = random(seed + 2, 3, n, width).unbind()
    modulation = (None if branch is None else gate), shift, scale
    residual = x.double()
    if branch is not None:
        residual = residual + gate[which].double() * branch.double()
    exact = F.layer_norm(residual, (width,), eps=1e-6) * scale[which] + shift[which]
    twin_x = x.clone()
    twin = modulated_norm(twin_x, branch, modulation, which, dtype)
    found = kernels_for(8).modulated_norm(x, branch, modulation, which, dtype)
    assert found.dtype == twin.dtype == dtype
    torch.testing.assert_close(x.double(), residual, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x, twin_x, rtol=1e-6, atol=1e-6)
    step = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
    # Narrow rows may have hardly any variance, and dividing by it magnifies what was rounded.
    spread = residual.std(-1, correction=0).clamp(1e-3).min().item()
    torch.testing.assert_close(found.double(), exact, rtol=step, atol=2e-5 + 3e-6 / spread)
    torch.testing.assert_close(
        found.float(), twin.float(), rtol=2 * step, atol=2e-5 + 6e-6 / spread
    )


PAIRS = [  # of branch and result, as a step of the sampler has them
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (None, torch.float32),
    (None, torch.bfloat16),
]


@pytest.mark.parametrize("branch_dtype, dtype", PAIRS)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 100),
    strided=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_norm_is_the_formula(branch_dtype, dtype, rows, width, strided, seed):
    check_norm(rows, width, branch_dtype, dtype, strided, seed)


@pytest.mark.parametrize("branch_dtype, dtype", PAIRS)
def test_norm_that_threads_share(branch_dtype, dtype):
    check_norm(12, 768, branch_dtype, dtype, True, 0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["x", "branch", "gate", "shift", "scale"])
def test_norm_hides_no_broken_number(where, number):
    given = {name: random(i, 4, 24) for i, name in enumerate("x branch gate shift scale".split())}
    given[where][2, 5] = number
    x, branch, *modulation = given.values()
    arguments = branch, tuple(modulation), torch.arange(4), torch.float32
    twin = modulated_norm(x.clone(), *arguments)
    found = kernels_for(8).modulated_norm(x, *arguments)
    assert torch.equal(found.isfinite(), twin.isfinite()) and not found[2].isfinite().all()
    assert found[[0, 1, 3]].isfinite().all()


# Norms that are taken in


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@pytest.mark.parametrize("rows, width", [(1, 1), (3, 33), (5, 128), (200, 768)])
def test_norms_are_taken_in_by_the_formula(dtype, rows, width):
    """(1 + γ) (w x + b) + β is scale · x + shift, whatever x is; gates are as they were."""
    made, norms = random(0, rows, 6 * width, dtype=dtype), random(1, 4, width)
    tables = torch.full((2, rows, 6, width), math.nan)
    kernels_for(8).take_in_norms(made, norms, tables[0])
    take_in_norms(made, norms, tables[1])
    x, parts = random(2, width).double(), made.double().view(rows, 6, width)
    for table in tables.double():
        for half in (0, 1):
            beta, gamma, gate = parts[:, 3 * half : 3 * half + 3].unbind(1)
            shift, scale, kept = table[:, 3 * half : 3 * half + 3].unbind(1)
            weight, bias = norms.double()[2 * half : 2 * half + 2]
            expected = (1 + gamma) * (weight * x + bias) + beta
            torch.testing.assert_close(scale * x + shift, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(scale, (1 + gamma) * weight, rtol=1e-6, atol=1e-6)
            assert torch.equal(kept, gate)


def test_numbers_are_rounded_to_bf16_as_torch_does():
    """LayerNorm leaves ±1 alone: what is rounded are numbers that the test has chosen."""
    bits = torch.arange(0x3F800000, 0x3F800000 + 2**18, 37, dtype=torch.int32)
    scale = torch.cat([bits.view(torch.float32), torch.tensor([1e38, 3.3e38, 1e-30])])
    scale = torch.stack([scale, -scale], 1).flatten()[None]
    x = torch.ones_like(scale)
    x[:, 1::2] = -1
    factor = F.layer_norm(x, x.shape[-1:], eps=1e-6)[0, 0].item()  # a little below 1
    found = kernels_for(8).modulated_norm(
        x, None, (None, torch.zeros_like(scale), scale), torch.tensor([0]), torch.bfloat16
    )
    exact = torch.stack([scale[0, ::2] * factor, scale[0, 1::2] * -factor], 1).flatten()[None]
    assert torch.equal(found, exact.to(torch.bfloat16))


# Compiled when needed, or not at all

TINY = ModelConfig(8, 16, 4, hidden_size=24, num_layers=1, num_heads=3, mlp_size=16)
SAMPLE = SampleConfig(3.0, 1.0)


def tokens_are_the_textbooks():
    torch.manual_seed(0)
    model = RAR(TINY).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    given = model, [0, 3, 1], SAMPLE, image_noise(0, range(3), 16)
    return torch.equal(sample_tokens(*given), textbook_tokens(*given))


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As on a computer where nothing has been compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled, "FAILURES", [])
    load_kernels.cache_clear()
    yield tmp_path / "rar_nb"
    load_kernels.cache_clear()


def script(folder, text: str) -> str:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def only(monkeypatch, *programs: str):
    """As on a computer with these compilers; the first is $CXX."""
    monkeypatch.setenv("CXX", programs[0])
    found = dict(zip((programs[0], "g++", "clang++"), programs, strict=False))
    monkeypatch.setattr(shutil, "which", found.get)


@pytest.mark.parametrize("kind", "none fails-at-once fails writes-nothing unwritable".split())
def test_without_compiled_loops_torch_does_the_work(fresh, kind, monkeypatch, tmp_path):
    """Where there are compilers, a warning says once what they said; where there is none, nothing
    does."""
    if kind == "none":
        monkeypatch.setattr(shutil, "which", lambda name: None)
        reason = "no C++ compiler on this computer"
    elif kind == "fails-at-once":
        only(monkeypatch, script(tmp_path, "exit 3"))
        reason = "exit status 3"
    elif kind == "fails":
        only(monkeypatch, script(tmp_path, "echo broken >&2; [ $1 = --version ]"))
        reason = "failed: broken"
    elif kind == "writes-nothing":
        only(monkeypatch, script(tmp_path, "exit 0"))
        reason = "No such file"
    else:
        (tmp_path / "file").write_text("x")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        reason = str(tmp_path / "file")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found, what = load_kernels(8)
        assert load_kernels(20)[0] is None
    assert found is None and what.startswith("in torch, as ") and what.count(reason) == 1
    assert [reason in str(w.message) for w in said] == [True] * (kind != "none")
    assert tokens_are_the_textbooks()
    assert not [*fresh.glob("tmp*")]  # nothing half done is left behind


WRITE = 'while [ "$1" != -o ]; do [ $# = 1 ] && exit; shift; done;'  # to "$2"


@pytest.mark.parametrize(
    "text", ["exit 3", "echo no OpenMP >&2; [ $1 = --version ]", f'{WRITE} echo nothing > "$2"']
)
def test_another_compiler_is_tried_where_one_fails(fresh, text, monkeypatch, tmp_path):
    """It may not start, not compile, or make something that cannot be loaded."""
    usual = compiled.compiler()
    only(monkeypatch, script(tmp_path, text), usual)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, what = load_kernels(8)
    assert found is not None and what.startswith("compiled: ")
    assert tokens_are_the_textbooks()


def test_what_is_wrong_with_a_compiler_or_with_the_cache_is_said(fresh, monkeypatch, tmp_path):
    """A Mac without its developer tools has a c++ that only says so; a home may be read only."""
    only(monkeypatch, script(tmp_path, "echo xcode-select: no developer tools >&2; exit 1"))
    with pytest.raises(OSError, match="exit status 1: xcode-select: no developer tools"):
        compiled.compile_source("", tmp_path / "cache")
    monkeypatch.undo()

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    with pytest.raises(OSError, match=r"no home folder \(the variable XDG_CACHE_HOME names"):
        compiled.cache_folder()
    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    message = r"cache \(Read-only file system; the variable XDG_CACHE_HOME names another place"
    with pytest.raises(OSError, match=message):
        compiled.compile_source("", tmp_path / "cache")


def test_a_compiler_may_speak_another_language(fresh, monkeypatch, tmp_path):
    """Bytes that are no UTF-8, in its version and in what it says of a failure."""
    usual = compiled.compiler()
    speaks = r"printf 'f\374r \377\n'"
    only(monkeypatch, script(tmp_path, f'{speaks}; exec {usual} "$@"'))
    assert load_kernels(8)[0] is not None
    script(tmp_path, f"{speaks} >&2; {speaks}; [ $1 = --version ]")
    load_kernels.cache_clear()
    with pytest.warns(UserWarning, match="f\ufffdr"):
        assert load_kernels(8)[0] is None


def test_a_damaged_file_is_compiled_again(fresh):
    path = compile_kernels(8, fresh)
    path.write_bytes(b"no library")
    found, what = load_kernels(8)
    assert found is not None and what == f"compiled: {path}"
    assert path.stat().st_size > 1000 and tokens_are_the_textbooks()


def test_a_compiled_file_is_on_the_disk_before_it_has_its_name(fresh, monkeypatch):
    """Otherwise a computer that goes down leaves a file with a part missing, and loading that ends
    Python."""
    done, flush, replace = [], compiled.flush, os.replace

    def noted(name, work):
        def run(*given):
            done.append((name, Path(given[0]).suffix))
            return work(*given)

        return run

    monkeypatch.setattr(compiled, "flush", noted("flush", flush))
    monkeypatch.setattr(os, "replace", noted("replace", replace))
    compile_kernels(8, fresh)
    assert done == [("flush", ".so"), ("replace", ".so"), ("flush", "")]


def test_compiled_once_and_found_again(fresh, monkeypatch):
    assert load_kernels(8)[1] == f"compiled: {compile_kernels(8, fresh)}"
    assert tokens_are_the_textbooks()
    before = [(path, path.stat().st_mtime_ns) for path in fresh.iterdir()]
    assert len(before) == 1  # and nothing else was left behind
    calls, run = [], subprocess.run

    def noted(command, **options):
        calls.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", noted)
    load_kernels.cache_clear()
    assert load_kernels(8)[0] is not None
    assert [command[1:] for command in calls] == [["--version"]]
    assert [(path, path.stat().st_mtime_ns) for path in fresh.iterdir()] == before


@pytest.mark.parametrize("change", ["processor", "SOURCE", "FLAGS", "head_dim", "compiler"])
def test_a_file_belongs_to_what_it_was_made_of(fresh, change, monkeypatch, tmp_path):
    write_any_file = f'{WRITE} cat > "$2"'
    monkeypatch.setenv("CXX", script(tmp_path, write_any_file))
    first, head_dim = compile_kernels(8, fresh), 8
    if change == "processor":
        monkeypatch.setattr(compiled, "processor", lambda: "flags: another one")
    elif change == "SOURCE":
        monkeypatch.setattr(kernels, "SOURCE", kernels.SOURCE + "// changed")
    elif change == "FLAGS":
        monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-g0"))
    elif change == "head_dim":
        head_dim = 9
    else:
        script(tmp_path, f"[ $1 = --version ] && echo a newer one\n{write_any_file}")
    second = compile_kernels(head_dim, fresh)
    assert second != first and first.exists() and second.exists()


def test_two_processes_compile_at_the_same_time(fresh):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        given = [(8, fresh), (8, fresh)]
        first, second = pool.starmap(compile_kernels, given, chunksize=1)
    assert first == second and [*fresh.iterdir()] == [first]
    assert load_kernels(8)[0] is not None


def test_the_compiler_that_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)  # of whoever runs the tests
    usual = compiled.compiler()
    mine = script(tmp_path, "exit 0")
    monkeypatch.setenv("CXX", mine)
    assert compiled.compiler() == mine
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiled.compiler() == usual


# Packed linears

# A fixture that gives the same for all examples.
ONE_FIXTURE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LINEARS = dict(
    width=st.integers(1, 130),
    out=st.integers(1, 130),
    gelu=st.booleans(),
    seed=st.integers(0, 10**6),
)


def a_linear(dtype, rows: int, width: int, out: int, gelu: bool, seed: int) -> tuple:
    """Rows, weight and bias, and what comes out in float64."""
    x, weight = random(seed, rows, width, dtype=dtype), random(seed + 1, out, width, dtype=dtype)
    weight, bias = weight / math.sqrt(width), random(seed + 2, out, dtype=dtype)
    expected = F.linear(x.double(), weight.double(), bias.double())
    return x, weight, bias, F.gelu(expected) if gelu else expected


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), **LINEARS)
def test_packed_linears_are_linears(dtype, rows, width, out, gelu, seed):
    if not can_pack(dtype):
        pytest.skip("this processor, or this torch, has no packed weights")
    x, weight, bias, expected = a_linear(dtype, rows, width, out, gelu, seed)
    step = 2.0**-7 if dtype == torch.bfloat16 else 1e-5
    for prepared_for in (rows, 4):  # the other number of rows is slower, not wrong
        found = PackedLinear(weight, bias, prepared_for, gelu)(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=step, atol=step)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 70), **LINEARS)
def test_compiled_linears_are_linears(dtype, rows, width, out, gelu, seed):
    x, weight, bias, expected = a_linear(dtype, rows, width, out, gelu, seed)
    found = CompiledLinear(weight, bias, rows, gelu, kernels=kernels_for(8))(x)
    step = 2.0**-8 if dtype == torch.bfloat16 else 2e-6  # bf16 is rounded once, at the end
    assert found.dtype == dtype and found.shape == (rows, out)
    torch.testing.assert_close(found.double(), expected, rtol=step, atol=2 * step)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES)
def test_linears_of_weights_with_gaps(dtype):
    """A transposed weight, and a bias of every other number."""
    x, weight, bias, expected = a_linear(dtype, 6, 70, 40, False, 0)
    weight, bias = weight.t().contiguous().t(), bias.repeat_interleave(2)[::2]
    linears = [
        PlainLinear(weight, bias, 6),
        CompiledLinear(weight, bias, 6, kernels=kernels_for(8)),
    ]
    if can_pack(dtype):
        linears.append(PackedLinear(weight, bias, 6))
    step = 2.0**-7 if dtype == torch.bfloat16 else 1e-5
    for linear in linears:
        torch.testing.assert_close(linear(x).double(), expected, rtol=step, atol=step)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_compiled_linear_is_shared_by_threads(threads, set_threads):
    x, weight, bias, expected = a_linear(torch.float32, 6, 768, 1000, False, 0)
    set_threads(threads)
    found = CompiledLinear(weight, bias, 6, kernels=kernels_for(8))(x)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=4e-6)


def tile_linear(loops: Kernels) -> partial:
    return partial(CompiledLinear, kernels=loops, tiles=True)


@pytest.fixture
def tiles() -> Kernels:
    """The loops, on a processor that multiplies tiles."""
    loops = kernels_for(8)
    if not loops.has_tiles:
        pytest.skip("this processor has no tiles")
    return loops


@settings(ONE_FIXTURE, max_examples=80)
@given(rows=st.integers(1, 100), **LINEARS)
def test_linears_by_tiles_are_linears(tiles, rows, width, out, gelu, seed):
    x, weight, bias, expected = a_linear(torch.bfloat16, rows, width, out, gelu, seed)
    found = tile_linear(tiles)(weight, bias, rows, gelu)(x)
    assert found.dtype == torch.bfloat16 and found.shape == (rows, out)
    torch.testing.assert_close(found.double(), expected, rtol=2.0**-8, atol=2.0**-7)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [4, 40])
def test_a_large_linear_by_tiles_is_shared_by_threads(tiles, rows, threads, set_threads):
    x, weight, bias, expected = a_linear(torch.bfloat16, rows, 768, 1000, True, 0)
    set_threads(threads)
    linear = tile_linear(tiles)(weight, bias, rows, True)
    for count in (rows, 1):  # as the last table of a batch has fewer rows
        found = linear(x[:count]).double()
        torch.testing.assert_close(found, expected[:count], rtol=2.0**-8, atol=2.0**-7)


def test_tiles_leave_torch_its_own(tiles):
    """torch's products use the same registers, and set them up in another way."""
    x, weight, bias, _ = a_linear(torch.bfloat16, 64, 256, 512, False, 0)
    ours, theirs = tile_linear(tiles)(weight, bias, 64), F.linear(x, weight, bias)
    first = ours(x)
    for _ in range(3):
        torch.testing.assert_close(ours(x), first, rtol=0, atol=0)
        torch.testing.assert_close(F.linear(x, weight, bias), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("loop", [*NAMES, "tiles"])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_compiled_linear_hides_no_bad_number(loop, gelu, bad):
    """A row that holds one has a bad result, and the others have none."""
    loops, dtype = kernels_for(8), torch.float32 if loop == "float32" else torch.bfloat16
    if loop not in loops.linears:
        pytest.skip("this processor has no tiles")
    kind = partial(CompiledLinear, kernels=loops, tiles=loop == "tiles")
    x, weight = random(0, 5, 40, dtype=dtype), random(1, 70, 40, dtype=dtype)
    x[3, 7] = bad
    linear = kind(weight, random(2, 70, dtype=dtype), 5, gelu)
    found = linear(x)
    assert linear.loop == loop
    assert found[[0, 1, 2, 4]].isfinite().all()
    assert not found[3].isfinite().any()


@pytest.mark.parametrize("has_tiles", [False, True])
def test_which_linear_is_chosen(has_tiles, monkeypatch):
    loops = kernels_for(8)
    monkeypatch.setattr(loops, "has_tiles", has_tiles)
    for dtype, most in ((torch.float32, 64), (torch.bfloat16, 128 if has_tiles else 32)):
        for rows in (1, most):
            kind, given = choose_linear(dtype, rows, True, loops)
            by_tiles = has_tiles and dtype == torch.bfloat16
            assert kind.func is CompiledLinear and given == rows
            assert kind.keywords.get("tiles", False) == by_tiles
            assert choose_linear(dtype, rows, False, loops) == (PlainLinear, rows)
        packed = PackedLinear if can_pack(dtype) else PlainLinear
        assert choose_linear(dtype, most + 1, True, loops) == (packed, most + 1)
    if can_pack(torch.float32):
        assert choose_linear(torch.float32, 1, True, None) == (PackedLinear, 4)


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_with_other_linears_the_tokens_are_the_same(kind, monkeypatch):
    monkeypatch.setattr(kernels, "FEW", {})
    if kind == "plain":
        monkeypatch.setattr(kernels, "can_pack", lambda dtype: False)
    assert tokens_are_the_textbooks()


@pytest.mark.parametrize("kind", ["gone", "other arguments", "wrong numbers"])
def test_changed_functions_of_torch_are_noticed(kind, monkeypatch):
    def call(self, x):
        if kind == "wrong numbers":
            return torch.zeros(4, 16)
        raise AttributeError("gone") if kind == "gone" else RuntimeError("other arguments")

    monkeypatch.setattr(PackedLinear, "__call__", call)
    monkeypatch.setattr(kernels, "FEW", {})
    can_pack.cache_clear()
    try:
        assert not can_pack(torch.float32)
        assert tokens_are_the_textbooks()
    finally:
        can_pack.cache_clear()


def test_bf16_is_packed_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    can_pack.cache_clear()
    try:
        assert not can_pack(torch.bfloat16)
    finally:
        can_pack.cache_clear()
