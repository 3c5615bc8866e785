"""Where the time of a sampling step goes: which operators take it, and how much lies between them.

    python -m tests.benchmarks.breakdown --preset rar_b --batch 2 --precision no --steps 8 \\
        --json results/speed/breakdown_rar_b_2_no.json

Both samplers run once under torch's profiler on the CPU, after one call without it. Each operator's
own time is added to one of a few kinds; what is left of the clock's time is Python and the dispatch
of operators. The profiler costs a few microseconds for each call of an operator, so the rest looks
larger than it is, and the sums are no measurement of speed: `tests.benchmarks.sampling` is. As the
profiler cannot look into one call of all blocks, the fast sampler calls each compiled loop here.
"""

import argparse
import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from rar_nb.fast_sampling import FastStep, forget
from rar_nb.kernels import Kernels
from rar_nb.pretrained.presets import get_preset
from rar_nb.transformer import ModelConfig
from tests.benchmarks.machine import PRECISIONS, machine, output
from tests.benchmarks.sampling import samplers

SMALL = ("copies", "norms and other small operators", "Python and dispatch")
KINDS = {  # of operators, by a pattern of their names; the first that matches counts
    "attention": r"scaled_dot_product|softmax|aten::bmm|attention|attend",
    "linears": r"addmm|aten::mm|aten::linear|mkldnn|onednn|^times",
    "copies": r"aten::(cat|copy_|_to_copy|to|clone|contiguous|index|index_select|fill_|stack)$",
    "norms and other small operators": r"",
}


def is_adaln(config: ModelConfig, shapes: list) -> bool:
    """Whether a linear with these shapes of inputs makes shifts, scales and gates."""
    wide = {6 * config.hidden_size, 2 * config.hidden_size}
    return any(len(shape) == 2 and wide & set(shape) and config.hidden_size in shape
               for shape in shapes if isinstance(shape, list))  # fmt: skip


def kind_of(name: str, shapes: list, config: ModelConfig) -> str:
    """The kind of an operator."""
    if name == "adaLN":  # a product that `named` has named
        return name
    kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))
    return "adaLN" if kind == "linears" and is_adaln(config, shapes) else kind


NAMED = ("attend_step", "modulated_norm", "times")  # methods of `Kernels`


@contextmanager
def named_kernels(config: ModelConfig):
    """Within, the profiler sees the compiled loops of `rar_nb.kernels`, which are no operators of
    torch, under the names of their methods, as each of them has a call of its own."""
    methods = {name: named(getattr(Kernels, name), name, config) for name in NAMED}
    with (
        patch.multiple(Kernels, **methods),
        patch.object(FastStep, "find_addresses", lambda step: None),
    ):
        yield


def named(method: Callable, name: str, config: ModelConfig) -> Callable:
    """The same method, under a name for the profiler; a product of adaLN is named after it."""

    def call(self, *arguments):
        label = name
        if name == "times":
            _, x, _, bias, _ = arguments  # the weight is no matrix any more
            label = "adaLN" if is_adaln(config, [[len(bias), x.shape[1]]]) else name
        with record_function(label):
            return method(self, *arguments)

    return call


def breakdown(
    way: Callable,  # a `partial` whose first argument is the model
    config: ModelConfig,
    steps: int,  # that it takes
) -> dict:
    """Seconds of a step by kind, and how many operators are called in it."""
    model = way.args[0]
    forget(model)  # what the sampler has kept holds the methods without names
    with named_kernels(config):
        way()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            start = time.perf_counter()
            way()
            clock = time.perf_counter() - start
    forget(model)
    seconds = dict.fromkeys(["linears", "adaLN", *KINDS], 0.0)
    for found in profiler.key_averages(group_by_input_shape=True):
        kind = kind_of(found.key, found.input_shapes, config)
        seconds[kind] += found.self_cpu_time_total / 1e6 / steps
    seconds["Python and dispatch"] = max(0.0, clock / steps - sum(seconds.values()))
    calls = sum(event.cpu_parent is None for event in profiler.events())  # but for nested ones
    return {"seconds": seconds, "step_seconds": clock / steps, "calls": calls / steps}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="rar_b", help="whose sizes and guidance are used")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--precision", choices=PRECISIONS, default="no")
    parser.add_argument("--steps", type=int, default=8, help="tokens of each image")
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    facts = machine(device)
    run = get_preset(args.preset, sample_precision=args.precision)
    ways = samplers(run, args.batch, args.steps, device)
    found = {name: breakdown(way, run.model, args.steps) for name, way in ways.items()}
    for name, values in found.items():
        parts = ", ".join(f"{kind} {1000 * s:.3g}" for kind, s in values["seconds"].items())
        print(f"{name}: {1000 * values['step_seconds']:.3g} ms a step ({parts}), "
              f"{values['calls']:.0f} calls of operators")  # fmt: skip
    asked = dict(what="breakdown", preset=args.preset, batch=args.batch,
                 precision=args.precision, steps=args.steps)  # fmt: skip
    output(args.json, asked | found | {"machine": facts})


if __name__ == "__main__":
    main()
