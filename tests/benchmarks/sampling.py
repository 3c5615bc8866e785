"""How long does a sampling step take: as the textbook does it, as the fast sampler does it, and at
the least?

    python -m tests.benchmarks.sampling --preset rar_b --batch 2 --precision no --steps 64 \\
        --repeats 5 --json results/speed/sampling_rar_b_2_no.json

Both samplers run in one process, in turn, from the same made-up weights (seeded; nothing is
downloaded), with guidance as in the preset. The textbook, too, gets huge pages from the allocator,
as that is a setting of the process.

`--steps` is how many tokens of each image are sampled. The cost of a step grows with its position,
as the cache is longer there. So these N steps lie in the middle of the image, where they cost as
much as the mean of all L; what precedes them in the cache is made up. `--start 0` takes the first
ones instead. adaLN is not computed further ahead than these steps need. The whole of L is a full
generation, and then the tokens of the two samplers are compared, too. Every image has a class of
its own, unless `--classes` says how many there are: in a class-balanced set of 50 images a class, a
batch of 32 has one or two.

What each sampler needs before its first step (packing, compiling) is not part of its times. It is
stated apart, as how much longer the first call took than the later ones. The peak of memory counts
the weights, the cache and all else that a sampler needs. On a CPU it is what the process grew by,
in one further process for each sampler, so that neither counts what the other has kept; on a GPU it
is what torch has allocated.

The floor of a step, on paper. With width D, N blocks, an MLP of width M, a codebook of V ids and R
sequences (two for each image if guidance is on), all weights but adaLN's, whose outputs can be
computed ahead, must be read once and multiplied with R rows:

    weights  W = N · (4·D² + 2·D·M) + D·V
    t_linear = max(W · size / read rate, 2·R·W / product rate)

Every query then reads the keys and values of all K positions before it and its own:

    t_cache = max(2·N·R·K·D · size / read rate, 4·N·R·K·D / product rate)

K is 2 in step 0 and one more in each later step; its mean over the N steps counts. Here `size` is the
bytes of a number, 4 in float32 and 2 in bf16. The floor is t_linear + t_cache, as the attention of
a block must wait for the linear before it. Both rates are measured on this machine, in this
process, before and after everything else (`tests.benchmarks.machine`).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import rar_nb.sampler
from rar_nb.fast_sampling import DEFAULT_PLAN, Plan, keep, modulation
from rar_nb.pretrained.presets import RunConfig, get_preset
from rar_nb.runs.cost import forward_flops, matrices, parameters
from rar_nb.sampler import SampleConfig, SamplingState, fast_state, image_noise, sample_from
from rar_nb.transformer import RAR, ModelConfig
from tests.benchmarks.machine import (
    PRECISIONS,
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

SAMPLERS = ("textbook", "fast")


# Weights, classes and noise that are made up


@torch.no_grad()
def made_up_model(config: ModelConfig, device: torch.device, seed: int = 0) -> RAR:
    """A generator with random weights, adaLN's included, made on its device."""
    with torch.device("meta"):
        model = RAR(config)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, p in model.named_parameters():
        if name.endswith("norm.weight") or ".norm" in name and name.endswith("weight"):
            p.fill_(1.0)
        else:
            p.normal_(std=0.02, generator=generator)
    return model.eval()


def made_up_request(
    config: ModelConfig, batch: int, different: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes and noise of a batch; every image has a class of its own, where there are enough, or
    there are so many `different` ones."""
    classes = torch.arange(batch) % (different or batch) * 7 % config.num_classes
    return classes, image_noise(0, range(batch), config.num_tokens)


# The first N steps


class Enough(Exception):
    """As many tokens were sampled as were asked for."""


def stop_at(steps: int, done: int, total: int):
    """For `on_step`: go no further than `steps`."""
    if done >= steps and done < total:
        raise Enough


def fast(
    model: RAR, classes, sample: SampleConfig, noise, steps: int, plan: Plan = DEFAULT_PLAN
) -> torch.Tensor | None:
    """The first tokens of the fast sampler; all of them are returned."""
    try:
        return rar_nb.sampler.sample_tokens(
            model, classes, sample, noise, on_step=partial(stop_at, steps), plan=plan
        )
    except Enough:
        return None


def textbook(model: RAR, classes, sample: SampleConfig, noise, steps: int) -> torch.Tensor | None:
    """The first tokens of the textbook sampler, which has no `on_step`: it reads the head once in
    every step, so it is stopped where it would read it once more."""
    done = 0

    def count(*_):
        nonlocal done
        if done >= steps:
            raise Enough
        done += 1

    handle = model.lm_head.register_forward_pre_hook(count)
    try:
        return rar_nb.sampler.textbook_tokens(model, classes, sample, noise)
    except Enough:
        return None
    finally:
        handle.remove()


def fitting_plan(
    config: ModelConfig, classes: torch.Tensor, guided: bool, steps: int, start: int = 0
) -> Plan:
    """The usual plan, but adaLN is not computed for steps that are never sampled.

    The fast sampler computes adaLN ahead, for as many steps as its buffer holds. A whole generation
    uses all of that. If only the first steps are sampled, the last buffer would be charged to them
    in full, so it is made no larger than they need: as many fillings as before, all of one size."""
    conditions = len(classes.unique()) + guided
    row_bytes = 4 * modulation(config)
    ahead = max(1, DEFAULT_PLAN.table_bytes // row_bytes // conditions)  # steps
    positions = steps + (start == 0)  # position 0 is read before step 0
    fillings = -(-positions // ahead)
    needed = -(-positions // fillings) * conditions * row_bytes
    return DEFAULT_PLAN._replace(table_bytes=min(needed, DEFAULT_PLAN.table_bytes))


# Some steps in the middle


@torch.no_grad()
def textbook_from(model: RAR, classes, sample: SampleConfig, noise, steps: int, start: int):
    """The textbook sampler, ready for step `start`: what was read so far is made up."""
    state = SamplingState(model, classes, sample)
    config, bf16, device = model.config, state.precision == "bf16", state.orders.device
    head_dim = config.hidden_size // config.num_heads
    shape = len(state.condition), config.num_heads, start + 1, head_dim
    for cache in state.caches:
        cache.keys = torch.randn(shape, device=device).to(torch.bfloat16 if bf16 else torch.float32)
        cache.values = cache.keys.flip(0)
    state.length, noise = start + 1, noise.to(device)

    @torch.no_grad()
    def go():  # the loop of `textbook_tokens`
        tokens = torch.zeros(len(classes), dtype=torch.int64, device=device)
        with state.autocast(bf16):
            for k in range(start, start + steps):
                tokens = sample_from(state.next_logits(tokens), noise[:, k])

    return go


def fast_from(
    model: RAR, classes, sample: SampleConfig, noise, steps: int, start: int, plan: Plan
) -> Callable:
    """The fast sampler, ready for step `start`; its cache has what earlier batches left in it."""
    state = fast_state(model, classes, sample, noise, plan=plan)
    step = state.step
    step.done = start + 1
    step.position.fill_(step.done)
    step.first.fill_(step.done - step.done % step.steps)

    def go():  # the loop of `FastState.run`
        with state.products():
            for _ in range(steps):
                state.next_token()
        keep(model, state)

    return go


class Way(NamedTuple):
    """A sampler with its request. Calling it gets ready and goes; only going is timed."""

    ready: Callable[[], Callable]
    args: tuple  # model, classes, settings, noise, steps

    def __call__(self):
        return self.ready()()

    def seconds(self, device: torch.device) -> float:
        """How long it goes."""
        return seconds(self.ready(), device)


def samplers(
    run: RunConfig,
    batch: int,
    steps: int,
    device: torch.device,
    fitting: bool = True,
    start: int = 0,
    different: int | None = None,
) -> dict[str, Way]:
    """Both samplers, ready to be called without arguments, with one model between them."""
    model = made_up_model(run.model, device)
    classes, noise = made_up_request(run.model, batch, different)
    guided, given = run.sample.guidance_scale != 0, (model, classes, run.sample, noise, steps)
    plan = fitting_plan(run.model, classes, guided, steps, start) if fitting else DEFAULT_PLAN
    if start == 0:
        ways = {"textbook": partial(textbook, *given), "fast": partial(fast, *given, plan=plan)}
        return {name: Way(lambda way=way: way, given) for name, way in ways.items()}
    return {
        "textbook": Way(partial(textbook_from, *given, start), given),
        "fast": Way(partial(fast_from, *given, start, plan), given),
    }


# The floor


def floor(
    config: ModelConfig, sequences: int, steps: int, size: int, rate: dict, start: int = 0
) -> dict:
    """What a step takes at the least, as the docstring at the top derives it: bytes, FLOPs and
    seconds of the mean step."""
    weights = matrices(config) - modulation(config) * config.hidden_size
    keys = 2 + start + (steps - 1) / 2
    cached = 2 * config.num_layers * sequences * keys * config.hidden_size
    attention = 2 * cached
    linears = forward_flops(config, sequences, 1, 0, condition_rows=0)
    t_linear = max(size * weights / rate["read"], linears / rate["products"])
    t_cache = max(size * cached / rate["read"], attention / rate["products"])
    return {
        "weight_bytes": size * weights,
        "cache_bytes": size * cached,
        "mean_keys": keys,
        "flops": linears + attention,
        "linear_seconds": t_linear,
        "cache_seconds": t_cache,
        "seconds": t_linear + t_cache,
    }


# Measuring


def peak_alone(run: RunConfig, name: str, batch: int, steps: int, device: torch.device) -> dict:
    """Bytes that one sampler takes with its weights, in a process that has done nothing else."""
    before = memory(device)
    way = samplers(run, batch, steps, device, fitting=False)[name]
    reset_peak(device)
    way()
    return {name: memory(device, "VmHWM") - before}


def one_sampler(times: list[float], first: float, batch: int, steps: int, floor: dict) -> dict:
    """What is written about one sampler."""
    per_step = [t / steps for t in times]
    middle = spread(per_step)["median"]
    moved = floor["weight_bytes"] + floor["cache_bytes"]
    return {
        "seconds": times,
        "step_seconds": spread(per_step),
        "tokens_per_second": spread([batch / t for t in per_step]),
        "start_up_seconds": max(0.0, first - spread(times)["median"]),
        "share_of_floor": floor["seconds"] / middle,
        "bytes_per_second": moved / middle,
        "flops_per_second": floor["flops"] / middle,
    }


def measure(
    run: RunConfig,
    batch: int,
    steps: int,
    repeats: int,
    device: torch.device,
    start: int = 0,
    different: int | None = None,
) -> dict:
    """Everything that is measured in this process."""
    config, precision = run.model, run.sample.sample_precision
    guided = run.sample.guidance_scale != 0
    before = rates(precision, device)
    ways = samplers(run, batch, steps, device, start=start, different=different)
    firsts = {name: first_call(way, device) for name, way in ways.items()}
    times = in_turn({name: partial(way.seconds, device) for name, way in ways.items()}, repeats)
    rate = best_rates(before, rates(precision, device))
    sequences, size = batch * (2 if guided else 1), 2 if precision == "bf16" else 4
    least = floor(config, sequences, steps, size, rate, start)
    one, other = (firsts[name].result for name in SAMPLERS)
    return {
        "num_tokens": config.num_tokens,
        "guided": guided,
        "rates": rate,
        "floor": least,
        **{
            name: one_sampler(times[name], firsts[name].seconds, batch, steps, least)
            for name in ways
        },
        "ratio": ratio(times["textbook"], times["fast"]),
        "equal_tokens": None if one is None else (one == other).float().mean().item(),
        "peak_bytes": {name: first.peak for name, first in firsts.items()},
        "least_bytes": least_bytes(config, sequences, size),
    }


def least_bytes(config: ModelConfig, sequences: int, size: int) -> dict[str, int]:
    """Memory that cannot be done without: weights in float32, and the cache at its full length."""
    entries = config.num_layers * sequences * (config.num_tokens + 2)
    return {"weights": 4 * parameters(config), "cache": 2 * size * entries * config.hidden_size}


def report(found: dict) -> str:
    """The result in a few lines."""
    lines = [f"{found['preset']}, batch {found['batch']}, {found['precision']}, "
             f"{found['steps']} of {found['num_tokens']} steps from {found['start']} on"]  # fmt: skip
    for name in SAMPLERS:
        own = found[name]
        lines.append(f"  {name:9} {shown(own['step_seconds'], ' ms', 1000)} a step, "
                     f"{own['share_of_floor']:.0%} of the floor's speed, "
                     f"start-up {own['start_up_seconds']:.1f} s")  # fmt: skip
    least = found["floor"]["seconds"]
    lines.append(
        f"  floor     {1000 * least:.3g} ms; fast is {shown(found['ratio'])} times as fast"
    )
    if found["peak_bytes"]:
        peak = ", ".join(
            f"{name} {size / 1e9:.2f} GB" for name, size in found["peak_bytes"].items()
        )
        least = sum(found["least_bytes"].values()) / 1e9
        lines.append(f"  memory    {peak}; weights and cache alone {least:.2f} GB")
    if found["equal_tokens"] is not None:
        lines.append(f"  {found['equal_tokens']:.2%} of all tokens are equal")
    return "\n".join(lines)


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="rar_b", help="whose sizes and guidance are used")
    parser.add_argument("--batch", type=int, default=2, help="images sampled side by side")
    parser.add_argument("--precision", choices=PRECISIONS, default="no")
    parser.add_argument("--steps", type=int, help="tokens of each image; otherwise all")
    parser.add_argument(
        "--start", type=int, help="the first step; otherwise they lie in the middle"
    )
    parser.add_argument("--classes", type=int, help="different ones; otherwise one for each image")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, both samplers in each")
    parser.add_argument("--device", default="", help="cpu or cuda; otherwise a GPU if there is one")
    parser.add_argument("--json", type=Path, help="the file to write")
    parser.add_argument("--no-memory", action="store_true", help="skip the processes for memory")
    parser.add_argument("--alone", choices=SAMPLERS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    length = get_preset(args.preset).model.num_tokens
    args.steps = args.steps or length
    if args.start is None:
        args.start = max(0, (length - args.steps) // 2)
    args.classes = args.classes or args.batch
    limits = dict(batch=(1, 2**16), steps=(1, length), start=(0, length - args.steps),
                  classes=(1, args.batch), repeats=(1, 1000))  # fmt: skip
    for name, (low, high) in limits.items():
        if not low <= getattr(args, name) <= high:
            parser.error(f"--{name} {getattr(args, name)}: a number from {low} to {high}")
    return args


def main(arguments: list[str] | None = None):
    args = arguments_of(arguments)
    device = chosen_device(args.device)
    changes = dict(sample_precision=args.precision, sample_batch_size=args.batch)
    run = get_preset(args.preset, changes)
    if args.alone:
        output(args.json, peak_alone(run, args.alone, args.batch, args.steps, device))
        return
    asked = dict(what="sampling", preset=args.preset, batch=args.batch, precision=args.precision,
                 steps=args.steps, start=args.start, classes=args.classes,
                 repeats=args.repeats)  # fmt: skip
    facts = machine(device)  # now, as it says how busy the machine was before
    found = asked | measure(
        run, args.batch, args.steps, args.repeats, device, args.start, args.classes
    )
    if device.type == "cpu":  # where the peak of this process says little
        options = ["--preset", args.preset, "--batch", str(args.batch), "--device", device.type,
                   "--precision", args.precision, "--steps", str(args.steps)]  # fmt: skip
        found["peak_bytes"] = None if args.no_memory else peaks_alone(
            "tests.benchmarks.sampling", SAMPLERS, options)  # fmt: skip
    print(report(found))
    output(args.json, found | {"machine": facts})


if __name__ == "__main__":
    main()
