"""Errors of one line, files that appear whole or not at all, programs, precision."""

import _multiprocessing
import errno
import fcntl
import functools
import inspect
import io
import json
import math
import os
import stat
import subprocess
import sys

import numpy as np
import pydantic
import pytest
import torch
from pydantic import PositiveInt

import rar_nb.support as support
from rar_nb.support import (
    UNFINISHED,
    InvalidValue,
    checked,
    choose_precision,
    cores,
    float32_products,
    make_folder,
    program,
    require,
    require_int,
    require_number,
    require_one_of,
    usable_path,
    usable_workers,
    write_beside,
    write_json,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "x.json"
    with pytest.raises(RuntimeError), write_beside(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with write_beside(path) as beside:
        beside.write_text("whole")
        assert not path.exists() and beside.parent == path.parent
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_names_of_temporary_files_tell_what_they_become(tmp_path):
    """Whoever clears up knows which are ours; nobody takes them for images or tokens."""
    import re

    with write_beside(tmp_path / "tokens-00007.npy") as beside:
        assert re.fullmatch(UNFINISHED, beside.name)
        assert beside.name.startswith(".tokens-00007.npy-") and beside.suffix == ".part"


def test_file_then_folder_are_flushed(tmp_path, monkeypatch):
    """The content before the rename, the folder's entry after it."""
    events, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noted_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with write_beside(tmp_path / "x") as beside:
        beside.write_text("content")
    assert events == ["file", "rename", "folder"]


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse_folders(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with write_beside(tmp_path / "x") as beside:
        beside.write_text("content")
    assert (tmp_path / "x").read_text() == "content"


def test_a_file_is_flushed_where_only_open_for_writing_it_can_be(tmp_path, monkeypatch):
    """As on Windows, which opens no folder either."""
    fsync, opened = os.fsync, os.open

    def refuse_read_only(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(handle)

    def refuse_folders(path, *how, **more):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "fsync", refuse_read_only)
    monkeypatch.setattr(os, "open", refuse_folders)
    write_json([1], tmp_path / "x")
    assert json.loads((tmp_path / "x").read_text()) == [1]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """One with 64 cores; `machine(files)` says what its container may use."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(support, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    return write


@pytest.mark.parametrize(
    "files, found",
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "damaged"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 64),
    ],
)
def test_a_container_has_fewer_cores_than_its_machine(machine, files, found):
    machine(files)
    assert cores() == found


def test_cores_are_those_that_a_process_may_use(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ENOSYS, errno.ENOENT])
def test_nothing_is_read_by_processes_that_cannot_share_memory(monkeypatch, error):
    """/dev/shm is missing, full, or can only be read."""
    assert [usable_workers(asked, 4) for asked in (None, 0, 2)] == [4, 0, 2]

    def refuse(*_, **__):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(_multiprocessing, "SemLock", refuse)
    assert [usable_workers(asked, 4) for asked in (None, 0)] == [0, 0]
    message = rf"workers = 2 .* 0, as processes .* can't share memory \({os.strerror(error)}\)"
    with pytest.raises(InvalidValue, match=message):
        usable_workers(2, 4)


PROGRAM = """
from fastcore.script import call_parse
from rar_nb.support import program, require

@call_parse
@program
def main(
    speed: int = 1,  # from 1 to 3
):
    "Go."
    require(1 <= speed <= 3, 'speed', speed, "from 1 to 3")
    print('went', speed)
"""


@pytest.mark.parametrize(
    "speed,status,out,err",
    [
        (2, 0, "went 2\n", ""),
        (7, 2, "", "error: speed = 7 is not allowed: it must be from 1 to 3\n"),
    ],
)
def test_a_program_ends_with_one_line(tmp_path, speed, status, out, err):
    (tmp_path / "go.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / "go.py", "--speed", str(speed)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_program_prints_on_every_terminal(monkeypatch, encoding):
    """Also what that terminal has no letter for, such as half a letter in the name of a file."""
    monkeypatch.setattr("fastcore.script.is_cli", lambda: True)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    said = "2 × 3 → \udcff"
    program(print)(said)
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == f"{said}\n".encode(encoding, "backslashreplace")


def test_python_code_gets_the_exception():
    @program
    def main(speed=1):
        require(speed < 3, "speed", speed, "below 3")

    with pytest.raises(InvalidValue, match="below 3"):
        main(7)


@pytest.mark.parametrize(
    "check,message",
    [
        (lambda: require_int("n", 2.0, 1), "n = 2.0 .*a whole number of at least 1"),
        (lambda: require_int("n", True, 0), "n = True"),
        (lambda: require_int("n", 9, 1, 8), "n = 9 .*at least 1 and at most 8"),
        (lambda: require_number("x", 0, 0, above=True), "x = 0 .*a number above 0"),
        (lambda: require_number("x", math.nan, 0), "x = nan"),
        (lambda: require_number("x", math.inf, 0), "x = inf"),
        (lambda: require_number("x", "1", 0), "x = '1'"),
        (lambda: require_number("x", 1.5, 0, 1), "x = 1.5 .*at least 0 and at most 1"),
    ],
)
def test_numbers_out_of_range_are_named(check, message):
    with pytest.raises(InvalidValue, match=message):
        check()


def test_limits_belong_to_the_range():
    require_int("n", 1, 1, 8)
    require_int("n", 8, 1, 8)
    require_number("x", 0, 0, 1)
    require_number("x", 1, 0, 1)


def test_an_error_is_one_line_in_a_notebook():
    error = InvalidValue("x = 1 is not allowed")
    assert error._render_traceback_() == ["InvalidValue: x = 1 is not allowed"]


def test_paths_as_people_write_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert usable_path("~/runs") == tmp_path / "home" / "runs"
    assert usable_path("a/../b") == tmp_path / "b" and usable_path(".") == tmp_path
    assert usable_path("./~b") == tmp_path / "~b"
    assert make_folder("~/made") == tmp_path / "home" / "made" and make_folder("~/made").is_dir()
    for impossible in ("", " ", "~nosuchuser/x", "a\0b", "x" * 300, None, 3, b"x"):
        with pytest.raises(InvalidValue, match="^run_dir = .* is not allowed: it must be a path"):
            usable_path(impossible, "run_dir")


def test_an_old_file_survives_a_failed_write(tmp_path):
    path = tmp_path / "state.json"
    write_json({"step": 1000}, path)
    with pytest.raises(KeyboardInterrupt), write_beside(path) as beside:
        beside.write_text('{"step": 20')
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"step": 1000} and list(tmp_path.iterdir()) == [path]


def test_precision_is_chosen_only_where_it_is_left_open():
    cpu = torch.device("cpu")
    for name in ("bf16", "no", "tf32"):
        assert choose_precision(name, cpu) == name
    assert choose_precision("auto", cpu) in ("bf16", "no")


def test_the_choice_of_products_ends_with_the_block():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [backend.fp32_precision for backend in backends]
    with pytest.raises(RuntimeError), float32_products(True):
        assert [backend.fp32_precision for backend in backends] == ["tf32", "tf32"]
        with float32_products(False):
            assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
        assert [backend.fp32_precision for backend in backends] == ["tf32", "tf32"]
        raise RuntimeError
    assert [backend.fp32_precision for backend in backends] == before


# What a message shows


@pytest.mark.parametrize(
    "value, shown",
    [
        (torch.arange(10**6).view(1000, 1000), "int64 [1000, 1000] of 0, 1, 2, 3, …"),
        (torch.tensor([0.123456, math.nan]), "float32 [2] of 0.1235, nan"),
        (torch.zeros(3, device="meta"), "float32 [3] on meta"),
        (np.full((2, 2), 7, np.uint8), "uint8 [2, 2] of 7, 7, 7, 7"),
        (torch.nn.Linear(2, 2), "Linear(…)"),
        (list(range(10**5)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...]"),
        ("text", "'text'"),
        (None, "None"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_values_are_shown_in_short(value, shown):
    with pytest.raises(InvalidValue, match="must be something else") as error:
        require(False, "x", value, "something else")
    assert str(error.value).startswith(f"x = {shown} is not allowed")


@pytest.mark.parametrize("value", ["x" * 10**6, dict.fromkeys(range(99), "y" * 99), [[[[["z"]]]]]])
def test_no_message_is_longer_than_a_few_lines(value):
    with pytest.raises(InvalidValue) as error:
        require(False, "x", value, "short")
    assert len(str(error.value)) < 2000 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value, said",
    [
        ("smal", "it must be one of"),
        ("spiral", "did you mean 'spiral_in'? It must be one of"),
        ("rastr", "did you mean 'raster'? It must be one of"),
        ("x" * 10**6, "it must be one of"),
        ("", "it must be one of"),
        (["raster"], "it must be one of"),
        (None, "it must be one of"),
        (torch.zeros(3), "it must be one of"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_name_that_was_meant_comes_first(value, said):
    known = dict(raster=1, spiral_in=2)
    for name in known:
        require_one_of("order", name, known)
    with pytest.raises(InvalidValue) as error:
        require_one_of("order", value, known, ", or yours")
    assert str(error.value).endswith(f" is not allowed: {said} raster, spiral_in, or yours")


# Functions that check their arguments


@checked
@functools.lru_cache
def area(width: PositiveInt, height: float = 1.0, unit: str | None = None) -> float:
    "Of a rectangle."
    return width * height


@pytest.mark.parametrize(
    "arguments, named, words",
    [
        ((0,), {}, "width = 0 is not allowed: it must be a number above 0"),
        ((True,), {}, "width = True is not allowed: it must be a whole number"),
        ((2, math.inf), {}, "height = inf is not allowed: it must be a finite number"),
        ((2, 1.0, 7), {}, "unit = 7 is not allowed: it must be text"),
        ((), {}, "area(width=…): missing required argument; it takes width, height, unit"),
        ((2,), {"depth": 3}, "area(depth=…): unexpected keyword argument"),
    ],
)
def test_arguments_are_checked(arguments, named, words):
    with pytest.raises(InvalidValue) as error:
        area(*arguments, **named)
    assert str(error.value).startswith(words)


def test_a_checked_function_stays_what_it_was():
    """Also one that is cached, and errors from inside it go through."""
    assert area(np.int64(3), height=2) == 6 and area.__doc__ == "Of a rectangle."
    assert list(inspect.signature(area).parameters) == ["width", "height", "unit"]

    @checked
    def broken(x: int):
        return pydantic.TypeAdapter(int).validate_python("no number")

    with pytest.raises(pydantic.ValidationError):
        broken(1)


def test_a_class_that_a_notebook_defines_again_is_the_same_class():
    """As 04_transformer's own ModelConfig is, to the rest of the library; no other class is."""

    class Size:
        pass

    class Again:
        pass

    Again.__name__, Again.__module__ = "Size", "__main__"
    Size.__module__ = "rar_nb.transformer"

    @checked
    def area(size: Size | None):
        return size

    assert area(Size()) and area(Again()) and area(None) is None
    Again.__module__ = "elsewhere"
    with pytest.raises(InvalidValue, match="size = "):
        area(Again())
