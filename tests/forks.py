"""Programs of this library, as `python -m` runs them, in processes that start in a moment.

A program spends two seconds on importing torch and accelerate before it reads its command line.
Here it is forked from the standard library's fork server, which has imported them already, and gets
arguments, an environment, a working directory and output of its own. What the imports of the
server would hide (an import that is missing) is seen where a test starts the program itself: for
each program at least one does."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

from rar_nb.runs.launch import LAUNCHER
from rar_nb.runs.safekeeping import hold
from rar_nb.support import PROJECT

PRELOADED = [  # nearly all imports; none of them starts a thread, which a fork would lose
    "tests.kernels",
    "pytest",
    "nbdev",
    "ipykernel.kernelapp",
    "matplotlib_inline.backend_inline",
    "rar_nb.play.inpainting",
    "rar_nb.runs.pretokenizer",
    "rar_nb.reports.report",
    "rar_nb.runs.training",
    "rar_nb.play.watch",
    "torch._dynamo",  # which every optimizer imports when it takes its first step
]
FORKS = (
    multiprocessing.get_context("forkserver") if sys.platform == "linux" else None
)  # elsewhere forking after such imports isn't safe
CONTEXT = FORKS or multiprocessing.get_context("spawn")


def start_server():
    """Start the fork server if it doesn't run yet; with the project's folder on its path, as other
    packages have a `tests`, too."""
    FORKS.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), before]))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def server_address() -> str:
    """Where a process that the server has forked can ask it for another one."""
    return forkserver._forkserver._forkserver_address


def use_server(address: str):
    """In a forked process: what it starts is forked from the same server."""
    server = forkserver._forkserver
    server._forkserver_address = address
    server.ensure_running = forkserver.ensure_running = lambda: None


def program(module: str, *words, folder: Path | None = None) -> subprocess.CompletedProcess:
    """`python -m` with this module and these words, in this folder: exit status and output."""
    if FORKS is None:
        return python(module, *words, folder=folder)
    arguments = [str(word) for word in (module, *words)]
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("out", "log")]
        folder = Path.cwd() if folder is None else folder
        process = fork(be_a_program, arguments, dict(os.environ), folder, *files)
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
    """In the forked process: what `python -m` does with such arguments in that folder. It is in a
    session of its own."""
    os.setsid()
    for number, path in ((1, out), (2, log)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = arguments
    sys.modules.pop(arguments[0], None)  # it runs as `__main__`, as if it had not been imported
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


class Started:
    """A command of `launch_command`, forked; it looks like a `Popen`. Several processes get from
    the environment what `accelerate launch` tells them, but there is no launcher."""

    def __init__(self, command: list[str], *, env: dict[str, str], stdout, **_):
        words, count = command[2:], 1  # without python -m
        if words[0] == LAUNCHER[0]:
            count = int(words[words.index("--num_processes") + 1])
            words = words[words.index("-m") + 1 :]
        told = ranks(count) if count > 1 else [{}]
        self.args, self.processes = command, [
            fork(be_a_program, words, env | one, Path.cwd(), stdout.name, stdout.name)
            for one in told
        ]  # fmt: skip
        self.pid = self.processes[0].pid

    def poll(self) -> int | None:
        statuses = [process.exitcode for process in self.processes]
        return None if None in statuses else next(filter(None, statuses), 0)

    returncode = property(poll)

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        for process in self.processes:
            process.join(None if until is None else max(0, until - time.monotonic()))
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int):
        for process in self.processes:
            if process.exitcode is None:
                os.kill(process.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


POPEN = SimpleNamespace(  # in the place of `subprocess` in rar_nb.runs.launch
    Popen=Started, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
)


def ranks(processes: int) -> list[dict[str, str]]:
    """The environment of each of several processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    every = dict(WORLD_SIZE=processes, LOCAL_WORLD_SIZE=processes, MASTER_ADDR="127.0.0.1",
                 MASTER_PORT=port, ACCELERATE_MIXED_PRECISION="no")  # fmt: skip
    own = [dict(every, RANK=rank, LOCAL_RANK=rank) for rank in range(processes)]
    return [{name: str(value) for name, value in one.items()} for one in own]


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
