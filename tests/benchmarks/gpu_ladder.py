"""What each means of the fast sampler brings on a GPU, and how many kernels a step consists of.

    python -m tests.benchmarks.gpu_ladder --preset rar_b --batch 1 --precision bf16 --steps 128 \\
        --repeats 3 --json FILE

A ladder: the first rung is the textbook sampler, and each rung adds one thing to the rung before it.
All rungs run in turn, from the same made-up weights, and a gain is the ratio of two neighbours in
the same round. The steps lie in the middle of the image, as in `tests.benchmarks.sampling`. The
kernels are counted by torch's profiler, in a call that is not timed; on a CPU, where the dry run
takes place, there are none, and operators are counted in their place.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from rar_nb.fast_sampling import Plan
from rar_nb.gpu_kernels import load_gpu_kernels
from rar_nb.pretrained.presets import get_preset
from tests.benchmarks.ablation import same_weights
from tests.benchmarks.machine import PRECISIONS, chosen_device, finish, machine, output
from tests.benchmarks.pairs import in_turn, ratio, seconds, shown, spread
from tests.benchmarks.sampling import fast_from, made_up_model, made_up_request, textbook_from

COUNTED = 8  # steps in which kernels are counted, as the profiler is slow


class Rung(NamedTuple):
    """One thing more than the rung before."""

    name: str
    plan: Plan | None  # of the fast sampler; None: the textbook


RUNGS = [
    Rung("textbook", None),
    Rung("memory that stays where it is, adaLN ahead", Plan(kernels=False, graphs=False)),
    Rung("recorded and replayed", Plan(kernels=False)),
    Rung("kernels of Triton", Plan()),
]


def count_kernels(work: Callable, device: torch.device) -> int:
    """How many kernels the device runs in `work`, or how many operators a CPU."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        work()
        finish(device)
    events = profiler.events()
    if device.type == "cuda":
        return sum(event.device_type == DeviceType.CUDA for event in events)
    return sum(event.cpu_parent is None for event in events)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="rar_b", help="whose sizes and guidance are used")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--steps", type=int, default=128, help="tokens of each image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="", help="cpu or cuda; otherwise a GPU if there is one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = chosen_device(args.device)
    facts, run = machine(device), get_preset(args.preset, sample_precision=args.precision)
    model, start = made_up_model(run.model, device), (run.model.num_tokens - args.steps) // 2
    classes, noise = made_up_request(run.model, args.batch)
    ready, counts = {}, {}
    for name, plan in RUNGS:
        given, way = (same_weights(model), classes, run.sample, noise), textbook_from
        if plan is not None:
            way = partial(fast_from, plan=plan)
        ready[name] = partial(way, *given, args.steps, start=start)
        ready[name]()()  # compiles, records, and leaves its state to the next call
        few = way(*given, COUNTED, start=start)
        counts[name] = count_kernels(few, device) / COUNTED
    times = in_turn({name: lambda made=made: seconds(made(), device)
                     for name, made in ready.items()}, args.repeats)  # fmt: skip
    names, rungs = [rung.name for rung in RUNGS], []
    for below, name in zip([None, *names], names):
        rungs.append({"name": name, "kernels": counts[name],
                      "step_seconds": spread([t / args.steps for t in times[name]]),
                      "gain": None if below is None else ratio(times[below], times[name])})  # fmt: skip
        print(f"{name}: {shown(rungs[-1]['step_seconds'], ' ms', 1000)} a step, "
              f"{counts[name]:.0f} kernels")  # fmt: skip
    asked = dict(what="ladder", preset=args.preset, batch=args.batch, precision=args.precision,
                 steps=args.steps, triton=load_gpu_kernels()[1])  # fmt: skip
    output(args.json, asked | {"rungs": rungs, "machine": facts})


if __name__ == "__main__":
    main()
