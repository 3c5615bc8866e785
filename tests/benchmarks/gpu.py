"""Everything that is worth measuring on a machine with one GPU, in pieces: `make gpu`.

    python -m tests.benchmarks.gpu                 # what is not done yet, into results/gpu/<card>/
    python -m tests.benchmarks.gpu --minutes 8     # stops before a piece that would not fit
    python -m tests.benchmarks.gpu --list          # the pieces, and what each is given in seconds
    python -m tests.benchmarks.gpu --dry-run       # the same code on a CPU at tiny sizes

A piece that is done is not done again (`tests.benchmarks.pieces`), so the command can be stopped at
any moment and given again, also on another day or on another machine with the same card. The most
important pieces come first, and all of them together are meant for twenty minutes. Nothing is
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
    """Textbook and fast, a quarter of the steps of the image, in its middle."""
    own = f"--batch {batch} --precision {precision} --steps 64"
    return Piece(f"sampling_{preset}_{batch}_{precision}", budget, "sampling",
                 f"--preset {preset} {own} --repeats 3",
                 f"--preset tiny --batch 2 --precision {precision} --steps 4 --repeats 1 --no-memory")  # fmt: skip


def training(preset: str, budget: int, only: str) -> Piece:
    """Some steps at the largest batch that fits."""
    how = "--repeats 3 --steps 5 " + (f"--only {only}" if only else "--apart")
    return Piece(f"training_{preset}_bf16", budget, "training",
                 f"--preset {preset} --batch 0 --precision bf16 {how}",
                 "--preset tiny --batch 4 --precision bf16 --repeats 1 --steps 2 --no-memory "
                 "--no-compile")  # fmt: skip


def images(preset: str, precision: str, budget: int) -> Piece:
    """The paper's settings."""
    return Piece(f"images_{preset}_128_{precision}", budget, "images",
                 f"--preset {preset} --batch 128 --precision {precision} --repeats 1",
                 f"--preset tiny --batch 2 --precision {precision} --repeats 1")  # fmt: skip


def ladder(preset: str, batch: int) -> Piece:
    """What each means of the fast sampler brings."""
    return Piece(f"ladder_{preset}_{batch}_bf16", 40, "gpu_ladder",
                 f"--preset {preset} --batch {batch} --steps 64",
                 "--preset tiny --batch 2 --steps 4 --repeats 1")  # fmt: skip


def precision(name: str, options: str, dry: str) -> Piece:
    """TF32 and bf16 against float32."""
    return Piece(f"precision_{name}", 30, "precision", options, dry)


PIECES = [
    Piece("machine", 20, "machine", "--precision bf16", "--precision no"),
    *(sampling("rar_b", batch, "bf16", 30) for batch in BATCHES),
    sampling("rar_xxl", 1, "bf16", 40),
    ladder("rar_b", 1),
    training("rar_b", 60, only=""),
    training("rar_xxl", 80, only="fast"),
    Piece("tests", 120, "cuda_tests", "", ""),
    images("rar_b", "tf32", 50),
    images("rar_xxl", "tf32", 80),
    precision("digits", "--trained --batch 100", "--trained --batch 2"),
    precision("rar_b", "--preset rar_b --batch 8", "--preset tiny --batch 2"),
    *(sampling("rar_xxl", batch, "bf16", 50) for batch in BATCHES[1:]),
    training("rar_l", 60, only="fast"),
    *(sampling("rar_b", batch, "no", 40) for batch in BATCHES),
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
