"""What each optimisation of the sampler brings: predicted on paper, then measured.

    python -m tests.benchmarks.ablation --preset rar_b --batch 2 --precision no --steps 32 \\
        --repeats 5 --json results/speed/ablation_rar_b_2_no.json

A ladder: the first rung is the textbook sampler, and each rung adds one optimisation to the rung
before it. All rungs run in turn, and a gain is the ratio of two neighbours in the same round. One
setting, huge pages, can be chosen only when a process starts, so rungs with different settings live
in different processes, of which never more than one computes.

The prediction says what the optimisation could bring at best. Torch's profiler tells how much of
the rung before it goes to the parts that it is about (`tests.benchmarks.breakdown`). These parts
are replaced by what they cost on paper:

- linears: `linear_seconds` of the floor (`tests.benchmarks.sampling`);
- adaLN for n steps at once: its weights are read once in n steps, and multiplied with one row for
  each condition and step, whichever takes longer; n is as large as the sampler's buffer allows;
- attention: `cache_seconds` of the floor;
- norms and other small operators, copies, Python and dispatch: nothing;
- huge pages: the linears are faster by the ratio of the read rates with and without them.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from rar_nb.fast_sampling import Plan, modulation
from rar_nb.pretrained.presets import RunConfig, get_preset
from rar_nb.transformer import RAR, ModelConfig
from tests.benchmarks.breakdown import SMALL, breakdown
from tests.benchmarks.machine import PRECISIONS, ROOT, best_rates, machine, output, rates
from tests.benchmarks.pairs import in_turn, ratio, seconds, shown, spread
from tests.benchmarks.sampling import (
    fast,
    fitting_plan,
    floor,
    made_up_model,
    made_up_request,
    textbook,
)

CPU = torch.device("cpu")


class Rung(NamedTuple):
    """One optimisation, on top of all before it."""

    name: str
    plan: Plan | None  # of the fast sampler; None: the textbook
    parts: tuple[str, ...]  # kinds of `breakdown` that it is about
    huge_pages: bool = False


RUNGS = [
    Rung("textbook", None, ()),
    Rung("memory that stays where it is,\nadaLN of many steps at once",
         Plan(kernels=False, packed=False), ("adaLN", "copies")),
    Rung("packed weights (oneDNN)", Plan(kernels=False), ("linears",)),
    Rung("compiled loops", Plan(one_call=False), ("linears", "attention", *SMALL)),
    Rung("huge pages", Plan(one_call=False), ("linears",), huge_pages=True),
    Rung("all blocks in one call", Plan(), ("Python and dispatch",), huge_pages=True),
]  # fmt: skip


# On paper


def adaln_seconds(config: ModelConfig, conditions: int, steps: int, size: int, rate: dict) -> float:
    """What adaLN costs in a step, if it is computed for `steps` steps at once."""
    weights = modulation(config) * config.hidden_size
    reading = size * weights / steps / rate["read"]
    return max(reading, 2 * conditions * weights / rate["products"])


def best_parts(rung: Rung, config: ModelConfig, batch: int, floor: dict, size: int, rate: dict,
               below: dict, gain_of_reading: float) -> dict[str, float]:  # fmt: skip
    """What the parts of a step that a rung is about cost on paper, in seconds."""
    conditions = 1 + min(batch, config.num_classes)
    row_bytes = 4 * (6 * config.num_layers + 2) * config.hidden_size
    table_bytes = 0 if rung.plan is None else rung.plan.table_bytes
    steps = max(1, table_bytes // row_bytes // conditions)
    linears = floor["linear_seconds"]
    if rung.huge_pages:
        linears = below["seconds"]["linears"] / gain_of_reading
    known = {
        "linears": linears,
        "adaLN": adaln_seconds(config, conditions, steps, size, rate),
        "attention": floor["cache_seconds"],
    }
    return {part: known.get(part, 0.0) for part in rung.parts}


def predicted(below: dict, best: dict[str, float]) -> float:
    """Gain at best over the rung before, whose `breakdown` is given: its parts in `best` shrink to
    what is said there."""
    whole = sum(below["seconds"].values())
    saved = sum(max(0.0, below["seconds"][part] - seconds) for part, seconds in best.items())
    return whole / (whole - saved)


# In processes


def same_weights(model: RAR) -> RAR:
    """Another model with the same weights in the same memory, for which the sampler keeps another
    state."""
    with torch.device("meta"):
        other = RAR(model.config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def ways_of(run: RunConfig, batch: int, steps: int) -> dict[str, Callable]:
    """Every rung, ready to be called."""
    model, ways = made_up_model(run.model, CPU), {}
    classes, noise = made_up_request(run.model, batch)
    largest = fitting_plan(run.model, classes, True, steps).table_bytes
    for rung in RUNGS:
        own, given = same_weights(model), (classes, run.sample, noise, steps)
        way = textbook
        if rung.plan is not None:
            table_bytes = min(rung.plan.table_bytes, largest)
            way = partial(fast, plan=rung.plan._replace(table_bytes=table_bytes))
        ways[rung.name] = partial(way, own, *given)
    return ways


def work(run: RunConfig, batch: int, steps: int):
    """A process that answers what it is asked for, line by line, in JSON."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what others print is no answer
    ways = ways_of(run, batch, steps)
    for line in sys.stdin:
        found = answer(ways, run, steps, *json.loads(line))
        print(json.dumps(found), file=answers, flush=True)


def answer(ways: dict[str, Callable], run: RunConfig, steps: int, what: str, name: str):
    """What a worker is asked for: 'rates', or 'breakdown' or 'seconds' of a rung."""
    if what == "rates":
        return rates(run.sample.sample_precision, CPU)
    if what == "breakdown":
        return breakdown(ways[name], run.model, steps)
    return seconds(ways[name], CPU)


class Worker:
    """Another process of this program, with or without huge pages."""

    def __init__(self, options: list[str], huge_pages: bool):
        command = [sys.executable, "-m", "tests.benchmarks.ablation", *options, "--work"]
        env = os.environ | {"THP_MEM_ALLOC_ENABLE": str(int(huge_pages))}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def ask(self, what: str, name: str = ""):
        """The answer of `work`."""
        print(json.dumps([what, name]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that measures {name} has ended")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def climb(workers: dict[bool, Worker], repeats: int) -> tuple[dict, dict, dict]:
    """Rates by huge pages, breakdown and seconds of each rung."""
    before = {pages: worker.ask("rates") for pages, worker in workers.items()}
    parts = {rung.name: workers[rung.huge_pages].ask("breakdown", rung.name) for rung in RUNGS}
    times = in_turn({rung.name: partial(workers[rung.huge_pages].ask, "seconds", rung.name)
                     for rung in RUNGS}, repeats)  # fmt: skip
    found = {pages: best_rates(before[pages], worker.ask("rates"))
             for pages, worker in workers.items()}  # fmt: skip
    return found, parts, times


def measure(args: argparse.Namespace, run: RunConfig, options: list[str]) -> dict:
    """All rungs, with predictions."""
    workers = {pages: Worker(options, pages) for pages in {rung.huge_pages for rung in RUNGS}}
    try:
        rate, parts, times = climb(workers, args.repeats)
    finally:
        for worker in workers.values():
            worker.close()
    size, best_rate = 2 if args.precision == "bf16" else 4, best_rates(*rate.values())
    least = floor(run.model, 2 * args.batch, args.steps, size, best_rate)
    reading = rate[True]["read"] / rate[False]["read"]
    entries = []
    for below, rung in zip([None, *RUNGS], RUNGS):
        entry = {"name": rung.name, "step_seconds": spread([t / args.steps for t in times[rung.name]]),
                 "parts": parts[rung.name], "predicted": None, "measured": None}  # fmt: skip
        if below is not None:
            best = best_parts(rung, run.model, args.batch, least, size, best_rate,
                              parts[below.name], reading)  # fmt: skip
            entry["predicted"] = predicted(parts[below.name], best)
            entry["measured"] = ratio(times[below.name], times[rung.name])
        entries.append(entry)
    return {"rates": best_rate, "gain_of_reading": reading, "floor": least, "entries": entries}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="rar_b", help="whose sizes and guidance are used")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", choices=PRECISIONS, default="no")
    parser.add_argument("--steps", type=int, default=32, help="tokens of each image")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, every rung in each")
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    run = get_preset(args.preset, sample_precision=args.precision)
    if args.work:
        work(run, args.batch, args.steps)
        return
    facts = machine(CPU)
    options = ["--preset", args.preset, "--batch", str(args.batch),
               "--precision", args.precision, "--steps", str(args.steps)]  # fmt: skip
    found = measure(args, run, options)
    for entry in found["entries"]:
        name, gain = " ".join(entry["name"].split()), ""
        if entry["measured"]:
            gain = f"{shown(entry['measured'])} times as fast, predicted {entry['predicted']:.2f}"
        print(f"{name:65} {shown(entry['step_seconds'], ' ms', 1000)} a step  {gain}")
    asked = dict(what="ablation", preset=args.preset, batch=args.batch,
                 precision=args.precision, steps=args.steps, repeats=args.repeats)  # fmt: skip
    output(args.json, asked | found | {"machine": facts})


if __name__ == "__main__":
    main()
