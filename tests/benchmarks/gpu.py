"""Everything that is worth measuring on a machine with one GPU, in pieces: `make gpu`.

    python -m tests.benchmarks.gpu                 # what is not done yet, into results/gpu/<card>/
    python -m tests.benchmarks.gpu --minutes 8     # stops before a piece that would not fit
    python -m tests.benchmarks.gpu --list          # the pieces, and what each is given in seconds
    python -m tests.benchmarks.gpu --dry-run       # the same code on a CPU at tiny sizes

A piece that is done is not done again (`tests.benchmarks.pieces`), so the command can be stopped at
any moment and given again, also on another day or on another machine with the same card. The most
important pieces come first, and all of them together are meant for half an hour. Nothing is
downloaded: weights, tokens and noise are made up from seeds.
"""

import re
import sys
from pathlib import Path

import torch

from tests.benchmarks.machine import ROOT
from tests.benchmarks.pieces import Piece, command_line

BATCHES = (1, 8, 64, 256)


def sampling(preset: str, batch: int, precision: str, budget: int) -> Piece:
    """Textbook and fast, all steps of the image."""
    repeats = 5 if batch < 64 else 3
    own = f"--batch {batch} --precision {precision}"
    return Piece(f"sampling_{preset}_{batch}_{precision}", budget, "sampling",
                 f"--preset {preset} {own} --repeats {repeats}",
                 f"--preset tiny --batch 2 --precision {precision} --steps 4 --repeats 1 --no-memory")  # fmt: skip


def training(preset: str, budget: int, only: str) -> Piece:
    """50 steps at the largest batch that fits."""
    how = "--compile --repeats 5 --steps 10 " + (f"--only {only}" if only else "--apart")
    return Piece(f"training_{preset}_bf16", budget, "training",
                 f"--preset {preset} --batch 0 --precision bf16 {how}",
                 "--preset tiny --batch 4 --precision bf16 --repeats 1 --steps 2 --no-memory "
                 "--no-compile")  # fmt: skip


def images(preset: str, precision: str, budget: int) -> Piece:
    """The paper's settings."""
    return Piece(f"images_{preset}_128_{precision}", budget, "images",
                 f"--preset {preset} --batch 128 --precision {precision} --repeats 3",
                 f"--preset tiny --batch 2 --precision {precision} --repeats 1")  # fmt: skip


def ladder(preset: str, batch: int) -> Piece:
    """What each means of the fast sampler brings."""
    return Piece(f"ladder_{preset}_{batch}_bf16", 60, "gpu_ladder",
                 f"--preset {preset} --batch {batch} --steps 128",
                 "--preset tiny --batch 2 --steps 4 --repeats 1")  # fmt: skip


def precision(name: str, options: str, dry: str) -> Piece:
    """TF32 and bf16 against float32."""
    return Piece(f"precision_{name}", 30, "precision", options, dry)


PIECES = [
    Piece("machine", 20, "machine", "--precision bf16", "--precision no"),
    *(sampling("rar_b", batch, "bf16", 60) for batch in BATCHES),
    ladder("rar_b", 1),
    training("rar_b", 150, only=""),
    Piece("tests", 120, "cuda_tests", "", ""),
    precision("digits", "--trained --batch 100", "--trained --batch 2"),
    precision("rar_b", "--preset rar_b --batch 8", "--preset tiny --batch 2"),
    *(sampling("rar_xxl", batch, "bf16", 90) for batch in BATCHES[:2]),
    *(sampling("rar_xxl", batch, "bf16", 120) for batch in BATCHES[2:]),
    training("rar_xxl", 180, only="fast"),
    training("rar_l", 120, only="fast"),
    images("rar_b", "tf32", 60),
    images("rar_xxl", "tf32", 120),
    *(sampling("rar_b", batch, "no", 60) for batch in BATCHES),
]


def folder_name(card: str) -> str:
    """'NVIDIA H100 80GB HBM3' as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def card_folder() -> Path:
    """Where the results of the card at hand belong."""
    if not torch.cuda.is_available():
        sys.exit("No GPU that torch can use was found: `--dry-run` tries everything on the CPU")
    return ROOT / "results" / "gpu" / folder_name(torch.cuda.get_device_name())


def main(arguments: list[str] | None = None) -> int:
    return command_line(__doc__, PIECES, "cuda", card_folder, arguments)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
