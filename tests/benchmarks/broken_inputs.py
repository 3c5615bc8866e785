"""What becomes of broken input? Thousands of files, parameters and arguments, each broken on purpose.

    python -m tests.benchmarks.broken_inputs --json results/reliability/broken_inputs.json

Every case has to end with one of our errors or with a right answer, within ten seconds. The cases
follow from the seed; `--only NAME` runs those of that name again, with their tracebacks.
"""

import argparse
import fnmatch
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib  # noqa: E402
import torch  # noqa: E402

from rar_nb.reports.report import run_metadata  # noqa: E402
from tests.broken import doors, files, made, parameters  # noqa: E402
from tests.broken.cases import GOOD, OUTCOMES, Case, perform, run_cases  # noqa: E402


def all_cases() -> list[Case]:
    """Every case, in an order that does not change."""
    cases = [*files.every(), *parameters.every(), *doors.every()]
    names = Counter(case.name for case in cases)
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"names that occur twice: {twice[:5]}"
    return cases


def table(outcomes: list[dict]) -> str:
    """How many cases of each kind ended how."""
    kinds = list(dict.fromkeys(found["name"].split("/")[0] for found in outcomes))
    counts = Counter((found["name"].split("/")[0], found["outcome"]) for found in outcomes)
    lines = ["kind".ljust(14) + "cases".rjust(7) + "".join(name.rjust(14) for name in OUTCOMES)]
    for kind in [*kinds, "all"]:
        row = [sum(counts[k, name] for k in kinds if kind in (k, "all")) for name in OUTCOMES]
        cells = "".join(str(n or "·").rjust(14) for n in row)
        lines.append(kind.ljust(14) + str(sum(row)).rjust(7) + cells)
    return "\n".join(lines)


def show_one(cases: list[Case], seed: int):
    """Run cases in this process, with tracebacks."""
    root = Path(tempfile.mkdtemp())
    for case in cases:
        print(f"{case.name}: {case.call}", flush=True)
        found = perform(case, seed, root, debug=True)
        print(json.dumps(found, indent=2, ensure_ascii=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="decides which bytes are broken")
    parser.add_argument("--limit", type=int, help="run only so many cases, evenly spread")
    parser.add_argument(
        "--only", help="run the cases of this name (* is any text), with tracebacks"
    )
    parser.add_argument("--kind", help="run only cases of this kind, such as images")
    parser.add_argument("--modules", help="run only cases of these modules, such as images,tokens")
    parser.add_argument(
        "--json", type=Path, help="write the numbers and every failure to this file"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    matplotlib.use("agg")
    began, cases = time.perf_counter(), all_cases()
    if given.kind:
        cases = [case for case in cases if case.kind == given.kind]
    if given.modules:
        cases = [case for case in cases if case.module in given.modules.split(",")]
    if given.limit:
        cases = cases[:: max(1, -(-len(cases) // given.limit))]
    if given.only:
        return show_one([c for c in cases if fnmatch.fnmatchcase(c.name, given.only)], given.seed)
    bad = []

    def on_outcome(found):
        if found["outcome"] not in GOOD:
            bad.append(found)
            text = f"{found['outcome']:7} {found['name']}: {found['detail'][:120]}"
            print(ascii(text)[1:-1], flush=True)

    outcomes = run_cases(cases, given.seed, on_outcome=on_outcome)
    seconds = time.perf_counter() - began
    print("\n" + table(outcomes))
    print(f"\n{len(outcomes):,} cases, {len(bad)} failures, {seconds:.0f} s")
    if given.json:
        counts = Counter(found["outcome"] for found in outcomes)
        content = dict(
            seed=given.seed,
            cases=len(outcomes),
            outcomes={name: counts[name] for name in OUTCOMES},
            kinds={
                kind: dict(
                    Counter(f["outcome"] for f in outcomes if f["name"].startswith(f"{kind}/"))
                )
                for kind in dict.fromkeys(case.kind for case in cases)
            },
            failures=bad,
            seconds=round(seconds),
            command="python -m tests.benchmarks.broken_inputs",
            **run_metadata("cpu"),
        )
        given.json.write_text(
            json.dumps(content, indent=2, ensure_ascii=True) + "\n", encoding="utf-8"
        )
    made.remove()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
