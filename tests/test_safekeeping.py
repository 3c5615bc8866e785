"""Locks end with their process, signals are noted, and checkpoints prove themselves."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

import rar_nb.support as support
from rar_nb.runs import safekeeping
from rar_nb.runs.safekeeping import (
    SIGNALS,
    StopRequest,
    check_finite,
    hold,
    last_step,
    markers,
    newest_checkpoint,
    read_marker,
    remove_unfinished,
    step_of,
    write_checkpoint,
)
from rar_nb.support import PROJECT, InvalidValue, write_beside

HOLDER = """
import sys
from rar_nb.runs.safekeeping import hold
with hold(sys.argv[1], sys.argv[2]):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_job(tmp_path):
    """Another process that holds a folder as 'run'."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), "run"],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"held\n"
    yield child
    child.kill()
    child.wait()


def test_a_held_folder_is_refused_until_its_holder_is_gone(tmp_path, other_job):
    in_use = f"in use by process {other_job.pid} on .* since"
    with pytest.raises(InvalidValue, match=in_use), hold(tmp_path):
        pytest.fail("entered")
    with hold(tmp_path, "evaluation"):
        pass  # another lock
    other_job.kill()  # SIGKILL: it can't tidy up
    with hold(tmp_path, patience=10):
        owner = json.loads((tmp_path / ".run.owner.json").read_text())
        assert owner["process"] == os.getpid()
    assert not (tmp_path / ".run.owner.json").exists()


def test_a_run_in_a_place_that_cannot_be_written_to(tmp_path, monkeypatch):
    """Its lock is there, so that it is the lock, and not the folder, that can't be opened."""
    (tmp_path / ".run.lock").touch()

    def read_only(self):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(safekeeping.FileLock, "_acquire", read_only)
    message = "can't be written .Read-only.*name a place where"
    with pytest.raises(InvalidValue, match=message), hold(tmp_path):
        pytest.fail("entered")


def test_a_process_may_take_its_lock_again(tmp_path):
    with hold(tmp_path):
        with hold(tmp_path):
            pass
        assert (tmp_path / ".run.owner.json").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        message = "can't be written .*name another place"
        with pytest.raises(InvalidValue, match=message), hold(place):
            pytest.fail("entered")


def test_only_unfinished_files_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), write_beside(tmp_path / "a.json") as beside:
        left = beside.read_bytes(), beside.name
        raise KeyboardInterrupt
    names = [left[1], ".run.lock", "notes.part", ".a-1.part", "a.json"]
    for name in names:
        (tmp_path / name).write_bytes(left[0])
    remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_signal_is_noted_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # passed on by a launcher
        assert stop.signal == number.name
    assert signal.getsignal(number) is before


def test_ctrl_c_once_more_interrupts():
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        stop.since -= 3  # seconds pass
        os.kill(os.getpid(), signal.SIGTERM)  # is patient
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_set():
    found = []

    def enter():
        with StopRequest() as stop:
            found.append(dict(stop.before))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [{}]


def save(folder, step, value=1.0, **options):
    write_checkpoint(folder, step, {"w": torch.full((3,), value)}, dict(rows=step), **options)


def test_the_newest_two_and_every_nth_are_kept(tmp_path):
    for step in range(5, 60, 5):
        save(tmp_path, step, keep_every=20)
    assert [p.name for p in markers(tmp_path)] == [
        f"step_{step:06d}.json" for step in (55, 50, 40, 20)
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    newest = newest_checkpoint(tmp_path)
    assert newest.step == 55 and newest.state == dict(rows=55)
    assert torch.equal(newest.load()["w"], torch.ones(3))


@pytest.mark.parametrize("damaged", [(900, 1000), (1000,)], ids=str)
def test_the_one_just_written_stays(tmp_path, damaged):
    """A run that goes on before damaged checkpoints has no others: theirs go, kept for good or not,
    and what lies before is kept as always."""
    for step in (400, 500, 900, 1000):
        save(tmp_path, step, keep_every=500)
    for step in damaged:
        (tmp_path / f"step_{step:06}.safetensors").write_bytes(b"x")
    start = newest_checkpoint(tmp_path).step
    for step, value in ((start + 50, 2.0), (start + 60, 3.0)):
        save(tmp_path, step, value, keep_every=500)
        newest = newest_checkpoint(tmp_path)
        assert newest.step == step and newest.load()["w"].tolist() == [value] * 3
    assert [p.stem for p in markers(tmp_path)] == [
        f"step_{step:06}" for step in (start + 60, start + 50, 500)
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_a_checkpoint_that_could_not_be_read_once_is_not_removed(tmp_path, monkeypatch):
    """As on a disk of another machine: it was skipped, but it is intact."""
    for step in (30, 40, 50):
        save(tmp_path, step, keep_every=10)
    last, read = tmp_path / "step_000050.json", safekeeping.read_marker

    def read_some(path):
        return read(path.with_name("gone") if path == last else path)

    monkeypatch.setattr(safekeeping, "read_marker", read_some)
    assert newest_checkpoint(tmp_path).step == 40
    monkeypatch.undo()
    save(tmp_path, 45, keep_every=10)
    assert [step_of(p) for p in markers(tmp_path)] == [50, 45, 40, 30]


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_any_flipped_bit_is_noticed(tmp_path, capsys):
    """In every byte of the tensors and of the marker, one after the other."""
    save(tmp_path, 1)
    save(tmp_path, 2, 2.0)
    for path in tmp_path.glob("step_000002.*"):
        for at in range(path.stat().st_size):
            flip(path, at)
            assert newest_checkpoint(tmp_path).step == 1, (path.name, at)
            flip(path, at)
    assert newest_checkpoint(tmp_path).step == 2
    assert "step_000002 is damaged and skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: p.unlink(), "step_000001.safetensors is missing"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "has .* of its .* bytes"),
        (lambda p: p.write_bytes(bytes(p.stat().st_size)), "has changed since it was written"),
    ],
    ids=["absent", "cut", "zeroed"],
)
def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path, capsys, damage, message):
    save(tmp_path, 1)
    damage(tmp_path / "step_000001.safetensors")
    with pytest.raises(InvalidValue, match="all checkpoints in .* are damaged"):
        newest_checkpoint(tmp_path)
    with pytest.raises(InvalidValue, match=message):
        read_marker(tmp_path / "step_000001.json").check()


def test_the_last_step_is_of_an_intact_checkpoint(tmp_path):
    assert last_step(tmp_path) == 0
    save(tmp_path, 20)
    save(tmp_path, 30)
    assert last_step(tmp_path) == 30
    flip(tmp_path / "step_000030.safetensors", -1)
    assert last_step(tmp_path) == 20
    flip(tmp_path / "step_000020.json", 3)
    assert last_step(tmp_path) == 0


def test_a_renamed_marker_is_another_checkpoints(tmp_path):
    save(tmp_path, 1)
    for path in tmp_path.glob("step_000001.*"):
        path.rename(path.with_stem("step_000009"))
    with pytest.raises(InvalidValue, match="has changed since it was written"):
        read_marker(tmp_path / "step_000009.json")


def test_without_its_marker_a_checkpoint_does_not_count(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    save(tmp_path, 1)
    (tmp_path / "step_000001.json").unlink()
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_that_is_not_finite_is_written(tmp_path, value):
    save(tmp_path, 1)
    with pytest.raises(InvalidValue, match="tensor w = 'not finite' is not allowed"):
        save(tmp_path, 2, value)
    assert newest_checkpoint(tmp_path).step == 1 and len(list(tmp_path.iterdir())) == 2
    check_finite({"rng": torch.zeros(2, dtype=torch.uint8)})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_cannot_be_written_to(tmp_path, monkeypatch, number):
    """One message with the path; the last checkpoint is intact, and no half file is left."""
    save(tmp_path, 1)

    def full(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(support, "flush", full)
    with pytest.raises(InvalidValue, match="step_000002.safetensors can't be written .*: "):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert newest_checkpoint(tmp_path).step == 1 and len(list(tmp_path.iterdir())) == 2
