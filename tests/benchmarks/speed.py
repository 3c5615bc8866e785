"""Sampling and training on this machine's processor, in pieces: `make speed`.

    python -m tests.benchmarks.speed               # what is not done yet, into results/speed/
    python -m tests.benchmarks.speed --list        # the pieces, and what each is given in seconds
    python -m tests.benchmarks.speed --dry-run     # the same code at tiny sizes

`nbs/63_speed.ipynb` shows what comes out. To measure anew, delete the files in results/speed first:
a piece that is done is not done again (`tests.benchmarks.pieces`). Leave the machine alone meanwhile.
"""

import sys

from tests.benchmarks.machine import ROOT
from tests.benchmarks.pieces import Piece, command_line

STEPS = {1: 48, 2: 48, 8: 24, 32: 12, 64: 6}  # by batch: tokens of each image that are sampled


def sampling(batch: int, precision: str) -> Piece:
    """Textbook and fast, some steps of rar_b in the middle of the image."""
    own = f"--batch {batch} --precision {precision}"
    return Piece(f"sampling_rar_b_{batch}_{precision}", 300, "sampling",
                 f"--preset rar_b {own} --steps {STEPS[batch]} --repeats 3",
                 f"--preset tiny --steps 4 --repeats 1 --no-memory {own}")  # fmt: skip


def training(preset: str, batch: int, precision: str, steps: int) -> Piece:
    """The plain loop and the step of a run."""
    own = f"--batch {batch} --precision {precision}"
    return Piece(f"training_{preset}_{batch}_{precision}", 600, "training",
                 f"--preset {preset} {own} --steps {steps} --repeats 5",
                 f"--preset tiny --steps 2 --repeats 1 --no-memory --no-compile {own}")  # fmt: skip


def breakdown(batch: int, precision: str) -> Piece:
    """Where the time goes."""
    own = f"--batch {batch} --precision {precision}"
    return Piece(f"breakdown_rar_b_{batch}_{precision}", 120, "breakdown",
                 f"--preset rar_b --steps 8 {own}", f"--preset tiny --steps 2 {own}")  # fmt: skip


def ablation(batch: int, precision: str, steps: int) -> Piece:
    """What each optimisation brings."""
    own = f"--batch {batch} --precision {precision}"
    return Piece(f"ablation_rar_b_{batch}_{precision}", 600, "ablation",
                 f"--preset rar_b --steps {steps} --repeats 5 {own}",
                 f"--preset tiny --steps 2 --repeats 1 {own}")  # fmt: skip


def one_class(precision: str) -> Piece:
    """A batch as in a class-balanced set, where most images share their class."""
    own = f"--batch 32 --classes 1 --precision {precision}"
    return Piece(f"one_class_rar_b_32_{precision}", 300, "sampling",
                 f"--preset rar_b {own} --steps {STEPS[32]} --repeats 3 --no-memory",
                 f"--preset tiny --steps 4 --repeats 1 --no-memory {own}")  # fmt: skip


PIECES = [
    *(sampling(batch, precision) for precision in ("no", "bf16") for batch in STEPS),
    *(one_class(precision) for precision in ("no", "bf16")),
    *(training("digits", 64, precision, 20) for precision in ("no", "bf16")),
    *(training("rar_b", 4, precision, 1) for precision in ("no", "bf16")),
    *(breakdown(2, precision) for precision in ("no", "bf16")),
    ablation(2, "no", 32),
    ablation(32, "bf16", 12),
    Piece("whole_rar_b_2_no", 600, "sampling", "--preset rar_b --batch 2 --repeats 1",
          "--preset tiny --repeats 1 --no-memory"),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    return command_line(__doc__, PIECES, "cpu", lambda: ROOT / "results" / "speed", arguments)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
