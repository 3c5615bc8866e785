"""How much slower does training become beside one other busy process?

    python -m tests.benchmarks.shared_machine --json FILE

Takes steps of the `make train` model (on made-up tokens), alone and beside a process that does
nothing but keep one processor core busy. Each way of waiting has a process of its own, since
OpenMP reads its settings at the start of a program:

    textbook    the plain loop of 05_trainer, torch's own settings
    awake       the fast step, but torch shares each operation between the threads; its own settings
    asleep      the same with GOMP_SPINCOUNT=1000, as the Makefile and `run_child` set it
    team        the fast step as it is: threads that meet once a step, with GOMP_SPINCOUNT=1000

Ways and loads alternate, so a change in the load of the machine meets all of them. Medians of
`--repeats` rounds of `--steps` steps. Needs a machine on which nothing else runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median

WAYS = {  # name: setting of OpenMP, which step
    "textbook": (None, "textbook"),
    "awake": (None, "operations"),
    "asleep": ("1000", "operations"),
    "team": ("1000", "team"),
}
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def work(way: str, precision: str, threads: int):
    """For each number on standard input, take so many steps; prints seconds and CPU seconds."""
    import torch

    import rar_nb.runs.devices as devices
    from rar_nb.data.tokens import TokenData
    from rar_nb.pretrained.presets import get_preset, override, resolve
    from tests.tools.steps import Steps

    torch.set_num_threads(threads)
    run = resolve(get_preset("digits", precision=precision), 4500, 10, 1, 28)
    run = override(run, device_batch_size=run.train.batch_size)
    tokens = torch.randint(run.model.codebook_size, (4500, 1, run.model.num_tokens))
    if way == "operations":
        devices.count_threads = lambda *_: 1
    with Steps(run, TokenData(tokens, torch.arange(4500) % 10)) as steps:
        take, step = (steps.textbook if way == "textbook" else steps.fast), 0
        for line in sys.stdin:
            began, computed = time.perf_counter(), time.process_time()
            for _ in range(int(line)):
                take(step)
                step += 1
            print(time.perf_counter() - began, time.process_time() - computed, flush=True)


class Worker:
    """A process that trains in one of the ways."""

    def __init__(self, name: str, precision: str, threads: int):
        spin, way = WAYS[name]
        environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        if spin is not None:
            environment["GOMP_SPINCOUNT"] = spin
        command = [sys.executable, "-m", __spec__.name, "--work", way, "--precision", precision,
                   "--threads", str(threads)]  # fmt: skip
        self.process = subprocess.Popen(command, env=environment, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def steps(self, count: int) -> tuple[float, float]:
        """Seconds a step, and seconds of computing a step over all threads."""
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        seconds, computed = map(float, self.process.stdout.readline().split())
        return seconds / count, computed / count


def measure(options) -> dict[str, dict[str, float]]:
    """Medians of seconds a step, by way."""
    workers = {name: Worker(name, options.precision, options.threads) for name in options.ways}
    found = {(name, load): [] for name in options.ways for load in ("alone", "shared")}
    try:
        for worker in workers.values():
            worker.steps(3)
        for _ in range(options.repeats):
            for load in ("alone", "shared"):
                busy = None
                if load == "shared":
                    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                try:
                    for name, worker in workers.items():
                        found[name, load].append(worker.steps(options.steps))
                finally:
                    if busy:
                        busy.kill()
                        busy.wait()
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    result = {}
    for name in options.ways:
        row = {load: median(s for s, _ in found[name, load]) for load in ("alone", "shared")}
        row["computing"] = median(c for _, c in found[name, "alone"])
        result[name] = row | dict(times_slower=row["shared"] / row["alone"])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="in each round")
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", default="auto", choices=["auto", "no", "bf16"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.precision, options.threads)
        return
    result = measure(options)
    print(f"{'':9} {'alone':>7} {'shared':>7} {'slower':>7} {'computing':>10}   seconds a step")
    for name, row in result.items():
        print(f"{name:9} {row['alone']:7.3f} {row['shared']:7.3f} {row['times_slower']:6.1f}x "
              f"{row['computing']:10.3f}")  # fmt: skip
    if options.json:
        about = dict(date=str(date.today()), threads=options.threads, precision=options.precision,
                     steps=options.steps, repeats=options.repeats)  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(about | dict(seconds_a_step=result), indent=1) + "\n")


if __name__ == "__main__":
    main()
