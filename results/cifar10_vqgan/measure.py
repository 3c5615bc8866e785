"""Train one tokenizer on 32 px colour photographs and record how well it reconstructs others.

The numbers are written beside this file.

    python results/cifar10_vqgan/measure.py cifar10 --kind vqgan --stride 4

The first argument is what `open_data` takes: 'cifar10' (torchvision's files in data/), or a folder with train/ and val/.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import rar_nb.pretrained.vq_models  # noqa: F401 (registers the kind 'vqgan')
from rar_nb.data.images import open_data
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.style import image_grid, save_png
from rar_nb.support import choose_precision, write_beside
from rar_nb.tokenizer import (
    TokenizerConfig,
    make_tokenizer,
    psnr,
    reconstruct,
    stack_images,
    to_float,
    train_tokenizer,
)

HERE = Path(__file__).parent


def codebook_usage(tokens: torch.Tensor, size: int) -> dict:
    share = torch.bincount(tokens.flatten(), minlength=size) / tokens.numel()
    return dict(
        used=int((share > 0).sum()),
        of=size,
        perplexity=round(torch.exp(-torch.xlogy(share, share).sum()).item(), 1),
    )


def sharpness(images: torch.Tensor) -> float:
    "Mean absolute difference of horizontal neighbours; a proxy for detail, not for quality."
    return images.float().diff(dim=-1).abs().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--kind", default="vqgan")
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", help="also write the trained weights to this file")
    args = parser.parse_args()

    train, held = open_data(args.data)
    config = TokenizerConfig(
        args.kind,
        train.size,
        train.channels,
        args.stride,
        args.codes,
        width=args.width,
        vq_steps=args.steps,
        vq_batch_size=args.batch,
    )
    torch.manual_seed(0)
    tokenizer = make_tokenizer(config)
    start, start_cpu = time.perf_counter(), time.process_time()
    losses = train_tokenizer(tokenizer, train, device=args.device)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    if args.weights:
        save_weights(tokenizer, args.weights)

    images = stack_images(
        held, np.linspace(0, len(held) - 1, 2000).astype(int)
    )  # spread over the whole set
    decoded = reconstruct(tokenizer, images)
    with torch.no_grad():
        tokens = torch.cat(
            [
                tokenizer.encode(to_float(x.to(args.device), tokenizer.value_range)).cpu()
                for x in images.split(250)
            ]
        )
    device = (
        torch.cuda.get_device_name()
        if args.device != "cpu"
        else f"CPU ({platform.machine()}), {torch.get_num_threads()} thread(s), shared with other jobs"
    )
    name = f"{args.kind}_stride{args.stride}"
    row = dict(
        kind="cifar10_reconstruction",
        name=name,
        command=f"OMP_NUM_THREADS={torch.get_num_threads()} python results/cifar10_vqgan/measure.py <CIFAR-10 folder> --kind {args.kind} --stride {args.stride} "
        f"--width {args.width} --steps {args.steps} --batch {args.batch} --codes {args.codes}",
        device=device,
        precision=choose_precision(config.vq_precision, tokenizer.device),
        torch=torch.__version__,
        parameters=sum(p.numel() for p in tokenizer.parameters()),
        tokens=config.num_tokens,
        steps=args.steps,
        batch=args.batch,
        wall_seconds=round(seconds),
        cpu_seconds=round(cpu_seconds),
        train_psnr_last_50_steps=round(-10 * np.log10(np.mean(losses[-50:])), 2),
        held_out_images=len(images),
        held_out_psnr=round(psnr(images, decoded), 2),
        codebook=codebook_usage(tokens, args.codes),
        sharpness_of_reconstructions_over_originals=round(
            sharpness(decoded) / sharpness(images), 3
        ),
        config=asdict(config),
    )
    path = HERE / "numbers.json"
    others = [
        other
        for other in (json.loads(path.read_text()) if path.exists() else [])
        if other["name"] != name
    ]
    with write_beside(path) as beside:
        beside.write_text(
            json.dumps(sorted([*others, row], key=lambda r: r["name"]), indent=2) + "\n"
        )
    shown = torch.arange(50, 2000, 100)
    save_png(
        image_grid(torch.cat([images[shown], decoded[shown]]), columns=20, scale=2),
        HERE / f"reconstructions_{name}.png",
    )
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
