"""A case of broken input, what became of it, and a worker that outlives whatever a case does."""

import hashlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import torch

OUTCOMES = {
    "ours": "one of our errors, in one line",
    "right": "a right answer, checked independently",
    "undetectable": "a change in numbers that carry no checksum",
    "depths": "an exception from the depths",
    "silent": "wrong input accepted in silence",
    "hang": "no end within the time limit",
    "crash": "the process died",
}
GOOD = ("ours", "right", "undetectable")
ROOM = 3 * 2**30  # bytes of memory that a case may take on top
TIME = 10.0  # seconds of the processor for a case
PATIENCE = 6  # times as many by the clock: the machine may be busy with other things


class Wrong(Exception):
    """Raised by a case that finds an answer wrong; the text says how."""


class TimeUp(BaseException):
    """Raised by the timer; nothing that catches exceptions catches it."""


@dataclass(frozen=True)
class Room:
    """What a case gets: a folder of its own, and random numbers that follow from its name."""

    folder: Path
    rng: np.random.Generator

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def nothing_is_right(answer) -> str:
    """For input that has no right answer: whatever comes back was made up."""
    return "silent"


@dataclass(frozen=True)
class Case:
    name: str  # kind/what, unique
    module: str  # of the library, whose fault it would be
    call: str  # the shortest call that does the same
    act: Callable[[Room], Any]
    judge: Callable[[Any], str] = nothing_is_right  # 'right', 'undetectable' or 'silent'

    @property
    def kind(self) -> str:
        return self.name.split("/")[0]


def find(path: str) -> Callable:
    """A function of the library by its path below rar_nb: 'data.images.load_rgb',
    'data.tokens.TokenData.open'."""
    module, name = path.rsplit(".", 1)
    if module.rsplit(".", 1)[-1][0].isupper():
        return getattr(find(module), name)
    return getattr(importlib.import_module(f"rar_nb.{module}"), name)


def room_of(case: Case, seed: int, root: Path) -> Room:
    digest = hashlib.sha256(f"{seed} {case.name}".encode()).digest()
    return Room(Path(tempfile.mkdtemp(dir=root)), np.random.default_rng(list(digest[:16])))


def place_of(error: BaseException) -> tuple[str, str]:
    """Where an exception left the library (file:line and function), and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    library = [f for f in frames if "/rar_nb/" in f.filename] or frames[-1:]
    shown = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in (library[-1], frames[-1])]
    return shown[0], shown[1]


def perform(case: Case, seed: int, root: Path, limit: float = TIME, debug: bool = False) -> dict:
    """Run a case in this process; its outcome."""

    def time_is_up(number, frame):
        raise TimeUp

    room, found = room_of(case, seed, root), {}
    timers = {signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE * limit)}
    timers[signal.SIGPROF] = signal.ITIMER_PROF, limit
    for number, (timer, seconds) in timers.items():
        signal.signal(number, time_is_up)
        signal.setitimer(timer, seconds)
    try:
        os.chdir(room.folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = case.act(room)
            found = dict(outcome=case.judge(answer), detail=f"returned {answer!r}"[:300])
    except TimeUp as error:
        found = dict(
            outcome="hang", detail=f"more than {limit:g} s of work", where=place_of(error)[0]
        )
    except Wrong as error:
        found = dict(outcome="silent", detail=str(error)[:300])
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        if debug:
            traceback.print_exc()
        message = str(error)
        is_ours = type(error).__module__.startswith("rar_nb.")  # InvalidValue, Stopped
        one_line = is_ours and message.strip() and "\n" not in message.strip()
        where, raised = place_of(error)
        kind = type(error).__name__
        found = dict(
            outcome="ours" if one_line else "depths",
            detail=f"{kind}: {message}"[:300],
            where=where,
            raised=raised,
            length=len(message),
        )
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, signal.SIG_DFL)
        os.chdir(root)
        shutil.rmtree(room.folder, ignore_errors=True)
    return dict(name=case.name, module=case.module, call=case.call) | found


def limit_memory():
    """Let allocations fail that would take more than `ROOM` on top of what there is."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(cases: list[Case], seed: int, root: Path, limit: float, pipe: int):
    """What the child process does: report the start and the outcome of each case as a line."""
    silence = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(silence, handle)
    os.chdir(root)
    limit_memory()
    with os.fdopen(pipe, "w") as out:
        for k, case in enumerate(cases):
            print(json.dumps(k), file=out, flush=True)
            print(json.dumps(perform(case, seed, root, limit)), file=out, flush=True)


def lines_of(pipe: int, limit: float) -> Iterator[str]:
    """Lines from the child; ends when the child does, or says nothing for too long."""
    buffer = b""
    while select.select([pipe], [], [], limit)[0]:
        some = os.read(pipe, 2**16)
        if not some:
            return
        *whole, buffer = (buffer + some).split(b"\n")
        yield from (line.decode() for line in whole)


def go_offline():
    """Nothing is fetched, whatever a case asks for; in the child process only."""
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        os.environ[name] = "http://127.0.0.1:9"


def run_cases(
    cases: Iterable[Case],
    seed: int = 0,
    limit: float = TIME,
    on_outcome: Callable[[dict], None] = lambda found: None,
) -> list[dict]:
    """Outcomes of all cases, in a child process that is replaced when a case kills it."""
    todo, outcomes = list(cases), []
    root = Path(tempfile.mkdtemp(prefix="broken-"))
    while todo:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                torch.set_num_threads(1)  # a fork has none of its parent's, and would wait for them
                go_offline()
                work(todo, seed, root, limit, writing)
            finally:
                os._exit(0)
        os.close(writing)
        current, done = None, 0
        for line in lines_of(reading, (PATIENCE + 2) * limit):
            value = json.loads(line)
            if isinstance(value, int):
                current = value
            else:
                outcomes.append(value)
                on_outcome(value)
                done, current = done + 1, None
        os.close(reading)
        if current is None:
            os.waitpid(child, 0)
            break
        time.sleep(0.1)  # a process that has died takes a moment to be gone
        gone, status = os.waitpid(child, os.WNOHANG)
        hung = gone == 0
        if hung:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        case = todo[current]
        outcomes.append(
            dict(
                name=case.name,
                module=case.module,
                call=case.call,
                outcome="hang" if hung else "crash",
                detail="stuck" if hung else f"wait status {status}",
            )
        )
        on_outcome(outcomes[-1])
        todo = todo[current + 1 :]
    shutil.rmtree(root, ignore_errors=True)
    return outcomes
