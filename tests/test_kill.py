"""A few kills of the benchmark of that name: a run goes on as if nothing had been."""

import pytest

from tests.benchmarks.kill import measure


@pytest.mark.parametrize("part", ["program", "polite"])
def test_a_run_that_is_ended_again_and_again_equals_an_undisturbed_one(part):
    kills = 3 if part == "program" else 10  # of which `polite` takes 0.3
    found = measure([part], kills, seed=1)[part]
    assert found["problems"] == [] and found["kills"] == 3
