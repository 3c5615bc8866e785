"""Two or more ways to do one thing, timed in turn in one process.

A machine is never quite the same from one minute to the next, and other work on it makes every
time longer. So each way runs once in every round, in an order that is reversed from round to round
(A B, B A, A B, …), and what counts is the ratio within a round. Anything callable can be compared.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.benchmarks.machine import ROOT, finish, memory, reset_peak


def seconds(work: Callable, device: torch.device) -> float:
    """How long `work` takes, until the device has finished it."""
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - start


class First(NamedTuple):
    """What is known of a first call, in which things are packed and compiled."""

    seconds: float
    result: Any
    peak: int  # bytes


def first_call(work: Callable, device: torch.device) -> First:
    """Call `work` for the first time."""
    reset_peak(device)
    start, result = time.perf_counter(), work()
    finish(device)
    return First(time.perf_counter() - start, result, memory(device, "VmHWM"))


def peaks_alone(module: str, names: Sequence[str], options: list[str]) -> dict[str, int]:
    """Peak of memory in bytes of each way, by one further process for each: the benchmark `module`
    with `--alone NAME`, which writes it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", module, *options, "--alone", name, "--json", str(path)]
            subprocess.run(command, check=True, cwd=ROOT)
            found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def in_turn(
    ways: dict[str, Callable[[], float]],  # by name; each says itself how long it took
    repeats: int,  # rounds
) -> dict[str, list[float]]:  # what each of them said, round by round
    """Run all ways in every round, forwards and backwards by turns."""
    found = {name: [] for name in ways}
    for k in range(repeats):
        for name in list(ways)[:: -1 if k % 2 else 1]:
            found[name].append(ways[name]())
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75]).tolist()
    return {"median": middle, "q1": low, "q3": high}


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as fast the second is: median and quartiles of the rounds' own ratios."""
    return spread([a / b for a, b in zip(slow, fast)])


def three(x: float) -> str:
    """A number with three digits."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def shown(values: dict[str, float], unit: str = "", factor: float = 1) -> str:
    """'31.2 ms (30.9 to 31.8)'."""
    middle, low, high = (three(factor * values[name]) for name in ("median", "q1", "q3"))
    return f"{middle}{unit} ({low} to {high})"
