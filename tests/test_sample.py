"""The program `rar-sample`: what it shows, and when."""

import subprocess
import sys

import pytest

from rar_nb.support import PROJECT
from tests.forks import program

COMMAND = [sys.executable, "-m", "rar_nb.runs.sample"]


def run(*options, python=()):
    """Status, stdout and stderr of the program."""
    command = [sys.executable, *python, *COMMAND[1:], *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "options, status, message",
    [
        (["--help"], 0, "usage:"),
        (["--seed", "4", "--no_such_option"], 2, "unrecognized arguments: --no_such_option"),
        (["--seed", "one"], 2, "argument --seed: invalid int value: 'one'"),
    ],
)
def test_options_are_read_before_torch_is_loaded(options, status, message):
    found, out, log = run(*options, python=["-X", "importtime"])
    loaded = {line.split("|")[-1].strip() for line in log.splitlines() if line.count("|") == 2}
    assert found == status and message in out + log
    assert "fastcore.script" in loaded and not {"torch", "numpy"} & loaded


def test_the_first_line_comes_before_torch_is_loaded():
    """In the order of the messages: a line of ours, then torch."""
    log = run("--folder", "/no/such", "--cpu", python=["-X", "importtime"])[2].splitlines()
    line = log.index("Loading PyTorch …")
    assert not any(entry.split("|")[-1].strip() == "torch" for entry in log[:line])
    assert any(entry.split("|")[-1].strip() == "torch" for entry in log[line:])


def test_every_step_is_announced(tmp_path):
    """What is loaded, then a bar by token, which begins at zero before the first one is there."""
    options = ["--run_dir", PROJECT / "data" / "digits_run", "--num_samples", 10, "--cpu"]
    status, out, log = run(*options, "--folder", tmp_path / "set", "--sample_batch_size", 5)
    lines = [line for line in log.replace("\r", "\n").splitlines() if line.strip()]
    assert status == 0 and len(list((tmp_path / "set").glob("*.png"))) == 10
    assert lines[0] == "Loading PyTorch …" and lines[1].startswith("Loading ")
    assert "digits_run" in lines[1] and lines[2].startswith("10 images:   0%|")
    assert " 0/98 [" in lines[2] and " 98/98 [" in lines[-1]


def test_other_processes_are_silent(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    assert "Loading PyTorch" not in run("--help")[2]
    assert "Loading PyTorch" not in program("rar_nb.runs.sample", "--cpu").stderr
