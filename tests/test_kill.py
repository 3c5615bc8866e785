"""A few kills of the benchmark of that name: a run goes on as if nothing had been."""

import pytest

from tests.benchmarks import kill
from tests.forks import FORKS, Started


@pytest.mark.skipif(FORKS is None, reason="needs a fork server")
def test_a_run_that_is_ended_again_and_again_equals_an_undisturbed_one(monkeypatch):
    """The undisturbed one is a program as a user starts it; those that are ended are forked."""
    as_a_user_does, logs = kill.start, []

    def start(command, log):
        logs.append(log)
        if len(logs) == 1:
            return as_a_user_does(command, log)
        with log.open("ab") as out:
            return Started(command, env=kill.ENVIRONMENT, stdout=out)

    monkeypatch.setattr(kill, "start", start)
    found = kill.measure(dict(program=3, polite=3), seed=1)
    assert [found[part]["problems"] for part in ("program", "polite")] == [[], []]
    assert [found[part]["kills"] for part in ("program", "polite")] == [3, 3]
    assert len(logs) >= 7
