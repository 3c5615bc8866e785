"""Some 300 of the thousands of broken inputs: each ends with one of our errors or a right answer.

`python -m tests.benchmarks.broken_inputs` runs all of them."""

import os
import signal
import time
from contextlib import suppress
from fnmatch import fnmatchcase

import pytest

from rar_nb.support import InvalidValue
from tests.benchmarks.broken_inputs import all_cases
from tests.broken import made
from tests.broken.cases import GOOD, Case, Wrong, run_cases

COUNT = 300
SLOW = ["config/huge-*", "doors/train*", "doors/training*", "doors/inpainting*", "doors/watch*"]


def some_cases() -> list[Case]:
    """Evenly spread over all, so that every kind is there."""
    cases = [case for case in all_cases() if not any(fnmatchcase(case.name, s) for s in SLOW)]
    return [cases[k * len(cases) // COUNT] for k in range(COUNT)]


@pytest.fixture(scope="module")
def cases():
    yield some_cases()
    made.remove()


@pytest.fixture(scope="module")
def outcomes(cases):
    return run_cases(cases)


KINDS = (
    "config lines shards images folders weights runs checkpoints metrics requests measurements"
    " sweeps parameters fields doors"
).split()


@pytest.mark.parametrize("kind", KINDS)
def test_broken_inputs(outcomes, kind):
    mine = [found for found in outcomes if found["name"].startswith(f"{kind}/")]
    bad = [found for found in mine if found["outcome"] not in GOOD]
    assert not bad, "\n".join(f"{f['name']} ({f['call']}): {f['detail']}" for f in bad)
    assert mine


def test_each_case_counts_once(cases, outcomes):
    assert [found["name"] for found in outcomes] == [case.name for case in cases]


def ours(room):
    raise InvalidValue("x = 3 is not allowed: it must be 4")


def of_two_lines(room):
    raise InvalidValue("x\ny")


def from_the_depths(room):
    return [][3]


def wrong(room):
    raise Wrong("x is 3, not 4")


def killed(room):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(room):
    time.sleep(60)


def hangs_and_catches_all(room):
    while True:
        with suppress(BaseException):  # even the timer's
            time.sleep(60)


def works_without_end(room):
    while True:
        sum(range(1000))


@pytest.mark.parametrize(
    "act, outcome",
    [
        (ours, "ours"),
        (of_two_lines, "depths"),
        (from_the_depths, "depths"),
        (wrong, "silent"),
        (lambda room: 3, "silent"),
        (killed, "crash"),
        (hangs, "hang"),
        (works_without_end, "hang"),
    ],
)
def test_outcomes(act, outcome):
    """The benchmark itself: it tells all outcomes apart, and goes on after the worst."""
    cases = [
        Case("a/1", "m", "act()", act),
        Case("a/2", "m", "f()", lambda room: 3, lambda a: "right"),
    ]
    found = run_cases(cases, limit=0.3)
    assert [f["outcome"] for f in found] == [outcome, "right"]


def test_a_case_that_cannot_be_interrupted():
    cases = [Case("a/1", "m", "act()", hangs_and_catches_all), Case("a/2", "m", "f()", ours)]
    assert [f["outcome"] for f in run_cases(cases, limit=0.1)] == ["hang", "ours"]


def test_cases_follow_from_the_seed():
    """The same bytes are broken again, and each case gets random numbers of its own."""
    seen = []

    def act(room):
        raise InvalidValue(str(room.rng.integers(10**9)))

    cases = [Case("a/1", "m", "act()", act), Case("a/2", "m", "act()", act)]
    for seed in (0, 0, 1):
        seen.append([f["detail"] for f in run_cases(cases, seed)])
    assert seen[0] == seen[1] and not set(seen[0]) & set(seen[2]) and seen[0][0] != seen[0][1]
