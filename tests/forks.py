"""Programs of this library, as `python -m` runs them, in processes that start in a moment.

A program spends two seconds on importing torch and accelerate before it reads its command line.
Here it is forked from the server of kernels.py, which has imported them already, and gets
arguments, an environment, a working directory and output of its own. What the imports of the
server would hide (an import that is missing) is seen where a test starts the program itself: for
each program at least one does."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rar_nb.runs.safekeeping import hold
from rar_nb.support import PROJECT
from tests.kernels import FORKS, start_server

CONTEXT = FORKS or multiprocessing.get_context("spawn")


def program(module: str, *words, folder: Path | None = None) -> subprocess.CompletedProcess:
    """`python -m` with this module and these words, in this folder: exit status and output."""
    if FORKS is None:
        return python(module, *words, folder=folder)
    arguments = [str(word) for word in (module, *words)]
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("out", "log")]
        process = fork(be_a_program, arguments, dict(os.environ), folder or Path.cwd(), *files)
        process.join()
        out, log = (file.read_text() for file in files)
    return subprocess.CompletedProcess(arguments, process.exitcode, out, log)


def python(module: str, *words, folder: Path | None = None) -> subprocess.CompletedProcess:
    """The same with a Python of its own, as a user starts the program."""
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def fork(target, *arguments):
    """A process that calls a function, forked from the server."""
    if FORKS:
        start_server()
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def be_a_program(
    arguments: list[str], environment: dict[str, str], folder: Path, out: Path, log: Path
):
    """In the forked process: what `python -m` does with such arguments in that folder."""
    for number, path in ((1, out), (2, log)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    sys.modules.pop(arguments[0], None)  # it runs as `__main__`, as if it had not been imported
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


@contextmanager
def held_elsewhere(folder: Path, name: str = "run") -> Iterator[int]:
    """A folder's lock is another process's; yields its number."""
    ours, theirs = CONTEXT.Pipe()
    process = fork(hold_until_told, folder, name, theirs)
    try:
        assert ours.recv() == "held"
        yield process.pid
    finally:
        ours.send("enough")
        process.join()


def hold_until_told(folder: Path, name: str, told):
    """In the forked process."""
    with hold(folder, name):
        told.send("held")
        told.recv()
