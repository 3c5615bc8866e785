"""What do TF32 and bf16 change, compared with float32?

    python -m tests.benchmarks.precision --preset rar_b --batch 8 --json FILE
    python -m tests.benchmarks.precision --trained --batch 100 --json FILE

The same tokens are fed in at each step in every precision, and the predictions are compared, as
`06_sampler` does it: the largest difference of a logit, and the total variation distance of the
probabilities, which is the fraction of samples that change. `--trained` takes the small model that
comes with the checkout; a preset gets made-up weights, whose predictions are nearly uniform, so
what they show is a proxy. On a CPU, TF32 is float32.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from rar_nb.pretrained.presets import get_preset
from rar_nb.runs.run_folders import open_run
from rar_nb.sampler import SampleConfig, fast_state, sample_tokens
from rar_nb.transformer import RAR
from tests.benchmarks.machine import ROOT, chosen_device, machine, output
from tests.benchmarks.sampling import made_up_model, made_up_request


@torch.no_grad()
def predictions(
    model: RAR,
    classes: torch.Tensor,  # int64 [B]
    sample: SampleConfig,
    tokens: torch.Tensor,  # int64 [B, L], fed in whatever is predicted
    steps: int,
) -> torch.Tensor:  # float32 [B, steps, V], guided logits
    """The logits of the fast sampler's first steps."""
    state = fast_state(model, classes, sample)
    with state.products():
        logits = [state.next_logits(tokens[:, k - 1] if k else None) for k in range(steps)]
    return torch.stack(logits, 1)


def distances(exact: torch.Tensor, rounded: torch.Tensor) -> dict[str, float]:
    """How far apart logits [B, steps, V] are."""
    changed = (exact.softmax(-1) - rounded.softmax(-1)).abs().sum(-1) / 2
    return {
        "largest_logit": exact.abs().max().item(),
        "largest_difference": (exact - rounded).abs().max().item(),
        "mean_difference": (exact - rounded).abs().mean().item(),
        "samples_that_change": changed.mean().item(),
        "samples_that_change_at_most": changed.max().item(),
        "tokens_an_image": changed.sum(1).mean().item(),
    }


def compare(model: RAR, sample: SampleConfig, batch: int, steps: int) -> dict[str, dict]:
    """TF32 and bf16 against float32, with the same tokens."""
    device = model.lm_head.weight.device
    classes, noise = made_up_request(model.config, batch)
    samples = {name: replace(sample, sample_precision=name) for name in ("no", "tf32", "bf16")}
    tokens = sample_tokens(model, classes, samples["no"], noise).to(device)
    exact = predictions(model, classes, samples["no"], tokens, steps)
    return {name: distances(exact, predictions(model, classes, samples[name], tokens, steps))
            for name in ("tf32", "bf16")}  # fmt: skip


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="rar_b", help="whose sizes and guidance are used")
    parser.add_argument("--trained", action="store_true", help="take the bundled model of digits")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="", help="cpu or cuda; otherwise a GPU if there is one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = chosen_device(args.device)
    facts = machine(device)
    if args.trained:
        run, _, model = open_run(ROOT / "data" / "digits_run")
        name, model = "digits, trained", model.to(device).eval()
    else:
        run = get_preset(args.preset)
        name, model = f"{args.preset}, made-up weights", made_up_model(run.model, device)
    found = compare(model, run.sample, args.batch, run.model.num_tokens)
    for precision, values in found.items():
        print(f"{name}, {precision}: logits differ by at most {values['largest_difference']:.2g}, "
              f"{values['samples_that_change']:.3%} of the samples change")  # fmt: skip
    output(args.json, {"what": "precision", "model": name, "batch": args.batch, **found,
                       "machine": facts})  # fmt: skip


if __name__ == "__main__":
    main()
