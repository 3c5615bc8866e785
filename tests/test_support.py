"""Files that appear whole or not at all, programs that end with one line."""

import os
import stat
import subprocess
import sys

import pytest

from rar_nb.support import UNFINISHED, InvalidValue, program, require, write_beside


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


def test_python_code_gets_the_exception():
    @program
    def main(speed=1):
        require(speed < 3, "speed", speed, "below 3")

    with pytest.raises(InvalidValue, match="below 3"):
        main(7)
