"""A few kills of the benchmark of that name: a run goes on as if nothing had been."""

from tests.benchmarks.kill import measure


def test_a_run_that_is_ended_again_and_again_equals_an_undisturbed_one():
    found = measure(dict(program=3, polite=3), seed=1)
    assert [found[part]["problems"] for part in ("program", "polite")] == [[], []]
    assert [found[part]["kills"] for part in ("program", "polite")] == [3, 3]
