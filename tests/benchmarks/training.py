"""How long does an optimizer step take: as the textbook does it, as a run does it, and at the
least?

    python -m tests.benchmarks.training --preset rar_b --batch 4 --precision bf16 --steps 2 \\
        --repeats 5 --json results/speed/training_rar_b_4_bf16.json

The textbook is one step of `rar_nb.trainer.train`, the plain loop of the chapter
(`tests.tools.steps.textbook_step`, which a test compares with it). The fast way is the step of a
run, `rar_nb.runs.devices.train_step`, prepared as a run prepares it. The textbook reads the loss
after every step; a run reads it only for a line of its log. Both train in one process, in
turn, on made-up tokens from made-up weights. In each round each takes `--steps` optimizer steps
after one that is not timed. What the first step of all needs beyond a later one (compiling) is
stated apart as start-up. On a CPU the peak of memory is what one further process for each trainer
grew by; on a GPU it is what torch has allocated.

The floor of a step, on paper: its products at the product rate of this machine in this precision,
and AdamW at the read rate, as it reads weight, gradient and two moments of every parameter and
writes three of them back, 28 bytes in float32:

    t = FLOPs of the forward and backward pass / product rate + 28·P / read rate

`rar_nb.runs.cost.train_flops` counts the FLOPs. MFU, the model FLOPs utilisation, is the share of
the product rate that the step reaches. On a GPU it is also given for the peak of the data sheet.
"""

import argparse
import gc
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.presets import RunConfig, get_preset
from rar_nb.runs.cost import parameters, train_flops, training_bytes
from rar_nb.runs.devices import (
    Batches,
    find_device_batch_size,
    make_accelerator,
    prepare,
    train_step,
    working_blocks,
)
from rar_nb.trainer import make_optimizer
from rar_nb.transformer import ModelConfig
from tests.benchmarks.machine import (
    best_rates,
    chosen_device,
    machine,
    memory,
    output,
    rates,
    reset_peak,
)
from tests.benchmarks.pairs import (
    first_call,
    in_turn,
    peaks_alone,
    ratio,
    seconds,
    shown,
    spread,
)
from tests.benchmarks.sampling import made_up_model
from tests.tools.steps import textbook_step

TRAINERS = ("textbook", "fast")
MANY = 10**6  # steps of a run so long that a benchmark never comes to its end


def made_up_data(config: ModelConfig, images: int, seed: int = 0) -> TokenData:
    """Random tokens and classes, ten crops an image as in the paper."""
    generator = torch.Generator().manual_seed(seed)
    sizes = config.codebook_size, config.num_classes
    tokens = torch.randint(sizes[0], (images, 10, config.num_tokens), generator=generator)
    labels = torch.randint(sizes[1], (images,), generator=generator)
    return TokenData(tokens, labels, *sizes)


def made_up_run(preset: str, batch: int, precision: str, **changes) -> RunConfig:
    """The preset with a batch of this size, all of it on one device."""
    return get_preset(
        preset,
        dict(batch_size=batch, device_batch_size=batch, precision=precision, steps_per_epoch=MANY)
        | changes,
    )


class Textbook:
    """The plain loop, step by step."""

    def __init__(self, run: RunConfig, data: TokenData, device: torch.device):
        self.run, self.data, self.device, self.done = run, data, device, 0
        self.model = made_up_model(run.model, device).train()
        self.optimizer = make_optimizer(self.model, run.train)

    def step(self):
        textbook_step(self.model, self.optimizer, self.run, self.data, self.done)
        self.done += 1


class Fast:
    """What a run does around its steps, kept from round to round."""

    def __init__(self, stack: ExitStack, run: RunConfig, data: TokenData, device: torch.device):
        self.run, self.device, self.done = run, device, 0
        self.accelerator = make_accelerator(run.train.precision, cpu=device.type == "cpu")
        model = made_up_model(run.model, device)
        stack.enter_context(working_blocks(model, run.devices, self.accelerator))
        self.model, self.optimizer, _ = prepare(self.accelerator, model, run)
        self.model.train()
        self.batches = Batches(self.accelerator, run, data)

    def step(self):
        train_step(self.accelerator, self.model, self.optimizer, self.run, self.batches, self.done)
        self.done += 1


def timed_steps(trainer: Textbook | Fast, count: int) -> float:
    """Seconds of `count` steps, after one more. The device is waited for at both ends only."""
    trainer.step()
    return seconds(partial(steps_of, trainer, count), trainer.device)


def steps_of(trainer: Textbook | Fast, count: int):
    for _ in range(count):
        trainer.step()


def floor(config: ModelConfig, batch: int, rate: dict) -> dict:
    """What a step takes at the least, as the docstring at the top derives it."""
    flops, moved = train_flops(config, batch), 28 * parameters(config)
    seconds = flops / rate["products"] + moved / rate["read"]
    return {"flops": flops, "optimizer_bytes": moved, "seconds": seconds}


def peak_alone(args, run: RunConfig, device: torch.device) -> dict[str, int]:
    """Bytes that one trainer takes with its weights, in a process that has done nothing else."""
    before = memory(device)
    reset_peak(device)
    with ExitStack() as stack:
        ways_of(args, [args.alone], run, device, stack)[args.alone]()
    return {args.alone: memory(device, "VmHWM") - before}


def one_trainer(times: list[float], first: float, args, floor: dict, rate: dict, sheet) -> dict:
    """What is written about one trainer."""
    per_step = [t / args.steps for t in times]
    middle = spread(per_step)["median"]
    reached = floor["flops"] / middle
    return {
        "seconds": times,
        "step_seconds": spread(per_step),
        "images_per_second": spread([args.batch / t for t in per_step]),
        "start_up_seconds": max(0.0, first - (args.steps + 1) * middle),
        "share_of_floor": floor["seconds"] / middle,
        "mfu": reached / rate["products"],
        "mfu_of_data_sheet": sheet and reached / sheet,
    }


def ways_of(args, names, run: RunConfig, device: torch.device, stack) -> dict[str, Callable]:
    """Some of the trainers, each with a model of its own, as training changes it."""
    data = made_up_data(run.model, 4 * args.batch)
    ways = {}
    if "textbook" in names:
        ways["textbook"] = partial(timed_steps, Textbook(run, data, device), args.steps)
    if "fast" in names:
        ways["fast"] = partial(timed_steps, Fast(stack, run, data, device), args.steps)
    return ways


def rounds(args, names, run: RunConfig, device: torch.device) -> tuple[dict, dict]:
    """First call, and seconds of all rounds, of some of the trainers in turn."""
    with ExitStack() as stack:
        ways = ways_of(args, names, run, device, stack)
        firsts = {name: first_call(way, device) for name, way in ways.items()}
        times = in_turn(ways, args.repeats)
    del ways  # so that the next one has the memory for itself
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return firsts, times


def measure(args, run: RunConfig, device: torch.device, facts: dict) -> dict:
    """Everything that is measured in this process."""
    before = rates(run.train.precision, device)
    firsts, times = {}, {}
    for names in [[name] for name in args.only] if args.apart else [args.only]:
        own_firsts, own_times = rounds(args, names, run, device)
        firsts |= own_firsts
        times |= own_times
    rate = best_rates(before, rates(run.train.precision, device))
    least = floor(run.model, args.batch, rate)
    sheet = (facts.get("data_sheet") or {}).get(run.train.precision)
    quick = device.type == "cuda" and "fast" in args.only and not run.devices.compile
    estimate = training_bytes(
        run.model, args.batch, run.train.precision == "bf16", quick=quick and run.model.adaln)
    found = {
        "num_tokens": run.model.num_tokens,
        "compiled": run.devices.compile,
        "rates": rate,
        "floor": least,
        **{name: one_trainer(times[name], firsts[name].seconds, args, least, rate, sheet)
           for name in args.only},
        "peak_bytes": {name: first.peak for name, first in firsts.items()},
        "estimated_bytes": estimate | {"sum": sum(estimate.values())},
    }  # fmt: skip
    if len(times) == 2:
        found["ratio"] = ratio(times["textbook"], times["fast"])
    return found


def largest_batch(preset: str, precision: str, most: int, device: torch.device, **changes) -> int:
    """The largest of `most`, its half, its quarter, … images that fit the device."""
    run = made_up_run(preset, most, precision, **changes)
    accelerator = make_accelerator(precision, cpu=device.type == "cpu")
    model = made_up_model(run.model, device)
    with working_blocks(model, run.devices, accelerator):
        return find_device_batch_size(model, accelerator, most)


def measured_run(args, searched: bool, device, facts: dict, changes: dict) -> tuple:
    """The run and what is measured of it; with half the batch if one that was found to fit turns
    out to be too large after all."""
    while True:
        run = made_up_run(args.preset, args.batch, args.precision, **changes)
        try:
            return run, measure(args, run, device, facts)
        except torch.OutOfMemoryError:
            if not searched or args.batch == 1:
                raise
        args.batch //= 2


def report(found: dict) -> str:
    """The result in a few lines."""
    lines = [f"{found['preset']}, batch {found['batch']}, {found['precision']}, "
             f"{found['steps']} steps a round"]  # fmt: skip
    for name in found["only"]:
        own = found[name]
        lines.append(f"  {name:9} {shown(own['step_seconds'], ' s')} a step, "
                     f"{own['share_of_floor']:.0%} of the floor's speed, MFU {own['mfu']:.0%}, "
                     f"start-up {own['start_up_seconds']:.1f} s")  # fmt: skip
    lines.append(f"  floor     {found['floor']['seconds']:.3g} s")
    if "ratio" in found:
        lines[-1] += f"; fast is {shown(found['ratio'])} times as fast"
    if found["peak_bytes"]:
        peak = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in found["peak_bytes"].items())
        estimate = found["estimated_bytes"]["sum"] / 1e9
        lines.append(f"  memory    {peak}; estimate {estimate:.2f} GB")
    return "\n".join(lines)


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="rar_b", help="whose sizes and recipe are used")
    parser.add_argument("--batch", type=int, default=4,
                        help="images a step; 0: the largest power of 2 up to 1,024 that fits")  # fmt: skip
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, both trainers in each")
    parser.add_argument("--device", default="", help="cpu or cuda; otherwise a GPU if there is one")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction,
                        help="as `compile` in the configuration; otherwise as a run does it")  # fmt: skip
    parser.add_argument("--only", choices=TRAINERS, nargs="+", default=list(TRAINERS))
    parser.add_argument("--apart", action="store_true",
                        help="one trainer after the other, so that each has the memory for itself")  # fmt: skip
    parser.add_argument("--json", type=Path, help="the file to write")
    parser.add_argument("--no-memory", action="store_true", help="skip the processes for memory")
    parser.add_argument("--alone", choices=TRAINERS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for name, low, high in (("batch", 0, 2**16), ("steps", 1, 10**4), ("repeats", 1, 1000)):
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name} {getattr(args, name)}: a number from {low} to {high}")
    return args


def main(arguments: list[str] | None = None):
    args = arguments_of(arguments)
    device = chosen_device(args.device)
    changes = {} if args.compile is None else dict(compile=args.compile)
    searched = not args.batch
    if searched:
        args.batch = largest_batch(args.preset, args.precision, 1024, device, **changes)
    if args.alone:
        run = made_up_run(args.preset, args.batch, args.precision, **changes)
        output(args.json, peak_alone(args, run, device))
        return
    facts = machine(device)  # now, as it says how busy the machine was before
    run, measured = measured_run(args, searched, device, facts, changes)
    asked = dict(what="training", preset=args.preset, batch=args.batch, precision=args.precision,
                 steps=args.steps, repeats=args.repeats, only=args.only)  # fmt: skip
    found = asked | measured
    if device.type == "cpu":  # where the peak of this process says little
        options = ["--preset", args.preset, "--batch", str(args.batch), "--device", device.type,
                   "--precision", args.precision, "--steps", "1"]  # fmt: skip
        options += ["--compile" if run.devices.compile else "--no-compile"]
        found["peak_bytes"] = None if args.no_memory else peaks_alone(
            "tests.benchmarks.training", args.only, options)  # fmt: skip
    print(report(found))
    output(args.json, found | {"machine": facts})


if __name__ == "__main__":
    main()
