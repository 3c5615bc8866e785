"""Many benchmarks one after the other, in pieces that are never done twice.

Each piece is one benchmark in a process of its own, and is ended after ten minutes. It writes one
JSON file, beside and then renamed, and a piece whose file exists is done: so a command can be
stopped at any moment and given again. A piece that fails leaves its output as `<piece>.log`, and
the next call tries it again. After each piece `summary.md` is written from all files that are
there, and `seconds.json` says how long each piece took.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from rar_nb.style import markdown_table
from rar_nb.support import read_json, write_beside, write_json
from tests.benchmarks.machine import ROOT
from tests.benchmarks.pairs import shown

LONGEST = 600  # seconds after which a piece is ended


class Piece(NamedTuple):
    """One benchmark."""

    name: str  # of its file
    budget: int  # seconds that it should need at most, start of Python and compiling included
    module: str  # of tests.benchmarks
    options: str  # of its command line
    dry: str  # the options of a dry run


def run_apart(piece: Piece, path: Path, device: str) -> tuple[bool, float]:
    """Run a piece in a process of its own; whether it succeeded, and the seconds that it took."""
    log = path.with_suffix(".log")
    command = [sys.executable, "-m", f"tests.benchmarks.{piece.module}", *piece.options.split(),
               "--device", device, "--json", str(path)]  # fmt: skip
    start = time.perf_counter()
    with log.open("wb") as words:
        process = subprocess.Popen(command, cwd=ROOT, stdout=words, stderr=subprocess.STDOUT,
                                   start_new_session=True)  # fmt: skip
        try:
            process.wait(LONGEST)
        except BaseException as error:  # too long, or Ctrl-C: it and what it started must not go on
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            words.write(f"\nended after {LONGEST} seconds\n".encode())
    print(log.read_text(encoding="utf-8", errors="replace")[-2000:].strip(), flush=True)
    succeeded = process.returncode == 0 and path.exists()
    if succeeded:
        log.unlink()
    return succeeded, time.perf_counter() - start


def run_here(piece: Piece, path: Path) -> tuple[bool, float]:
    """Run a piece at tiny sizes on the CPU, in this process."""
    start = time.perf_counter()
    module = import_module(f"tests.benchmarks.{piece.module}")
    try:
        module.main([*piece.dry.split(), "--device", "cpu", "--json", str(path)])
    except SystemExit as error:
        print(f"{piece.name} ended with status {error.code}")
    return path.exists(), time.perf_counter() - start


Taken = dict[str, Annotated[float, Field(ge=0)]]  # seconds of each piece that was run


def go(folder: Path, pieces: list[Piece], minutes: float | None, run, all_pieces=None) -> int:
    """Run what is not done yet; the number of pieces that failed. The summary is of all pieces."""
    began, failed = time.perf_counter(), 0
    taken_path = folder / "seconds.json"
    folder.mkdir(parents=True, exist_ok=True)
    taken = read_json(taken_path, Taken, "delete it") if taken_path.exists() else {}
    for piece in pieces:
        path = folder / f"{piece.name}.json"
        if path.exists():
            print(f"{piece.name}: done before", flush=True)
            continue
        if minutes is not None and time.perf_counter() - began + piece.budget > 60 * minutes:
            print(f"{piece.name} would need up to {piece.budget} seconds: give the command again",
                  flush=True)  # fmt: skip
            break
        print(f"--- {piece.name}", flush=True)
        succeeded, taken[piece.name] = run(piece, path)
        failed += not succeeded
        write_json(taken, taken_path)
        summarise(folder, all_pieces or pieces)
    return failed


# The table of everything


def cell(values: dict | None, factor: float = 1) -> str:
    """Median and quartiles."""
    return "" if values is None else shown(values, factor=factor)


def read_cell(found: dict) -> str:
    """Bytes of weights and cache a second, and how much that is of what the card's maker says."""
    rate, sheet = found["fast"]["bytes_per_second"], found["machine"].get("data_sheet")
    return f"{rate / 1e9:,.0f}" + (f" ({rate / sheet['read']:.0%})" if sheet else "")


def sampling_row(found: dict) -> list[str]:
    """One line of the table of samplers."""
    peaks = found["peak_bytes"] or {}
    return [
        f"{found['preset']}, {found['batch']}, {found['precision']}",
        cell(found["textbook"]["step_seconds"], 1000),
        cell(found["fast"]["step_seconds"], 1000),
        cell(found["ratio"]),
        f"{found['fast']['share_of_floor']:.0%}",
        read_cell(found),
        " / ".join(f"{peaks[name] / 1e9:.1f}" for name in ("textbook", "fast") if name in peaks),
        f"{found['fast']['start_up_seconds']:.0f}",
    ]


def training_row(found: dict) -> list[str]:
    """One line of the table of trainers."""
    own, sheet, peaks = found["fast"], found["fast"]["mfu_of_data_sheet"], found["peak_bytes"] or {}
    return [
        f"{found['preset']}, {found['batch']}, {found['precision']}",
        cell(own["step_seconds"], 1000),
        cell(own["images_per_second"]),
        cell(found.get("ratio")),
        f"{own['mfu']:.0%}" + (f" / {sheet:.0%}" if sheet else ""),
        f"{peaks['fast'] / 1e9:.1f}" if peaks else "",
        f"{found['estimated_bytes']['sum'] / 1e9:.1f}",
    ]


def images_row(found: dict) -> list[str]:
    """One line of the table of whole images."""
    return [
        f"{found['preset']}, {found['batch']}, {found['precision']}",
        *(cell(found.get(name, {}).get("images_per_second")) for name in ("textbook", "fast")),
        str(found["published_on_an_a100"] or ""),
    ]


def precision_row(found: dict) -> list[str]:
    """One line of the table of precisions."""
    return [found["model"]] + [
        f"{found[name]['largest_difference']:.2g}, {found[name]['samples_that_change']:.2%}"
        for name in ("tf32", "bf16")
    ]


TABLES = {  # kind of result: heading, columns, function that makes a row
    "sampling": ("Sampling, milliseconds a step", [
        "preset, batch, precision", "textbook", "fast", "times as fast",
        "share of the floor's speed", "GB/s read (share of the data sheet's)", "peak GB", "start-up s"], sampling_row),
    "training": ("Training", [
        "preset, batch, precision", "ms a step", "images a second", "times the textbook",
        "MFU of the measured rate / of the data sheet", "peak GB", "estimate GB"], training_row),
    "images": ("Images a second, decoding included", [
        "preset, batch, precision", "textbook", "fast", "the paper, on an A100"], images_row),
    "precision": ("Against float32: largest difference of a logit, samples that change", [
        "model", "TF32", "bf16"], precision_row),
}  # fmt: skip


def summarise(folder: Path, pieces: list[Piece]) -> str:
    """Write `summary.md` from the files that are there."""
    found = [read_json(folder / f"{piece.name}.json", dict, "delete it: the piece is run again")
             for piece in pieces if (folder / f"{piece.name}.json").exists()]  # fmt: skip
    parts = [f"# {folder.name}", "Medians, with quartiles in brackets."]
    for kind, (heading, columns, row) in TABLES.items():
        rows = [row(values) for values in found if values["what"] == kind]
        if rows:
            parts += [f"## {heading}", markdown_table(columns, rows, range(1, len(columns)))]
    tests = [test for values in found if values["what"] == "tests"
             for test in values["tests"].values()]  # fmt: skip
    if tests:
        outcomes = [test["outcome"] for test in tests]
        parts += ["## Tests marked cuda", ", ".join(
            f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))]  # fmt: skip
    text = "\n\n".join(parts) + "\n"
    with write_beside(folder / "summary.md") as beside:
        beside.write_text(text, encoding="utf-8")
    return text


# The command line


def arguments_of(text: str, arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="begin no piece that would end later")
    parser.add_argument("--only", default="", help="pieces whose name begins so")
    parser.add_argument("--out", type=Path, help="another folder for the results")
    parser.add_argument("--list", action="store_true", help="print the pieces and end")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at tiny sizes")
    return parser.parse_args(arguments)


def command_line(
    text: str,  # what --help says
    pieces: list[Piece],
    device: str,  # 'cuda' or 'cpu'
    find_folder: Callable[[], Path],  # where results go unless the user says something else
    arguments: list[str] | None,
) -> int:  # the number of pieces that failed
    """Run `pieces` as the user asks for it."""
    args = arguments_of(text, arguments)
    all_pieces = pieces
    pieces = [piece for piece in pieces if piece.name.startswith(args.only)]
    if args.list:
        for piece in pieces:
            print(f"{piece.budget:4} s  {piece.name}: {piece.module} {piece.options}")
        print(f"{sum(piece.budget for piece in pieces) / 60:.0f} minutes at most")
        return 0
    if args.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            return go(args.out or Path(folder), pieces, args.minutes, run_here, all_pieces)
    out = args.out or find_folder()
    failed = go(out, pieces, args.minutes, partial(run_apart, device=device), all_pieces)
    print(summarise(out, all_pieces))
    return failed
