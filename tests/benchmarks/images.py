"""Images a second, decoding included, at the settings of the paper's Table 5.

    python -m tests.benchmarks.images --preset rar_b --batch 128 --precision tf32 --json FILE

The paper measured 17.0 images a second for RAR-B and 6.4 for RAR-XXL on one A100, in float32 with
batches of 128. Its released script lets products of float32 run in TF32, which is `--precision
tf32`; `--precision no` is float32 without that. `--only fast` leaves out the textbook. Here a batch of classes becomes a batch of uint8
images in the CPU's memory: all tokens are sampled with guidance, then decoded. Weights of generator
and tokenizer are made up, which changes nothing about the work. The textbook and the fast sampler
take turns, as in `tests.benchmarks.sampling`.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

import rar_nb.sampler
from rar_nb.pretrained.presets import RunConfig, get_preset
from rar_nb.reports.published import TABLES
from rar_nb.support import choose_precision, float32_products
from rar_nb.tokenizer import make_tokenizer, to_uint8
from tests.benchmarks.machine import PRECISIONS, chosen_device, machine, output
from tests.benchmarks.pairs import first_call, in_turn, ratio, seconds, shown, spread
from tests.benchmarks.sampling import made_up_model, made_up_request

WAYS = ("textbook", "fast")


def published_rate(preset: str) -> float | None:
    """Images a second in the paper's Table 5, on an A100."""
    rows = [row for row in TABLES["speed"].rows if row.preset == preset]
    return rows[0].speed if rows else None


@torch.no_grad()
def textbook(model, tokenizer, classes, noise, sample) -> torch.Tensor:  # uint8 [B, C, H, W]
    """Images by the textbook sampler."""
    tokens = rar_nb.sampler.textbook_tokens(model, classes, sample, noise)
    tf32 = choose_precision(sample.sample_precision, tokenizer.device) != "no"
    with float32_products(tf32=tf32):
        images = tokenizer.decode(tokens.to(tokenizer.device))
    return to_uint8(images, tokenizer.value_range).cpu()


def fast(model, tokenizer, classes, sample) -> torch.Tensor:  # uint8 [B, C, H, W]
    """Images by the fast sampler."""
    return rar_nb.sampler.sample_batch(
        model, tokenizer, classes, torch.arange(len(classes)), sample, seed=0
    )


def measure(run: RunConfig, batch: int, repeats: int, device: torch.device, only) -> dict:
    """The ways that are asked for, in turn."""
    torch.manual_seed(0)
    model = made_up_model(run.model, device)
    tokenizer = make_tokenizer(run.tokenizer).to(device).eval()
    classes, noise = made_up_request(run.model, batch)
    ways = {
        "textbook": partial(textbook, model, tokenizer, classes, noise, run.sample),
        "fast": partial(fast, model, tokenizer, classes, run.sample),
    }
    ways = {name: ways[name] for name in only}
    firsts = {name: first_call(way, device) for name, way in ways.items()}
    times = in_turn({name: partial(seconds, ways[name], device) for name in ways}, repeats)
    found = {
        **{name: {"seconds": times[name],
                  "images_per_second": spread([batch / t for t in times[name]]),
                  "start_up_seconds": max(0.0, firsts[name].seconds - spread(times[name])["median"]),
                  "peak_bytes": firsts[name].peak}
           for name in ways},
    }  # fmt: skip
    if len(ways) == 2:
        one, other = (firsts[name].result for name in ways)
        found["ratio"] = ratio(times["textbook"], times["fast"])
        found["equal_images"] = (one == other).flatten(1).all(1).float().mean().item()
    return found


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="rar_b", help="whose sizes and guidance are used")
    parser.add_argument("--batch", type=int, default=128, help="images sampled side by side")
    parser.add_argument("--precision", choices=PRECISIONS, default="tf32")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, both samplers in each")
    parser.add_argument("--device", default="", help="cpu or cuda; otherwise a GPU if there is one")
    parser.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = chosen_device(args.device)
    changes = dict(sample_precision=args.precision, sample_batch_size=args.batch)
    asked = dict(what="images", preset=args.preset, batch=args.batch, precision=args.precision,
                 repeats=args.repeats, published_on_an_a100=published_rate(args.preset))  # fmt: skip
    facts, run = machine(device), get_preset(args.preset, changes)
    found = asked | measure(run, args.batch, args.repeats, device, args.only)
    for name in args.only:
        rate = shown(found[name]["images_per_second"])
        print(f"{args.preset}, batch {args.batch}, {args.precision}, {name}: {rate} images a second")
    if found["published_on_an_a100"]:
        print(f"the paper, on an A100: {found['published_on_an_a100']}")
    output(args.json, found | {"machine": facts})


if __name__ == "__main__":
    main()
