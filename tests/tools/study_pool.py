"""Many runs of the study side by side on one GPU, or on many cores, in forks of one process.

    python -m tests.tools.study_pool --part headline,length --device cuda --jobs 14 --minutes 6

does what `make study` does, without papermill and without starting Python for each run. The parts
come in the order of `PARTS`, and within a part the longest runs come first, so that no core has to
wait for another. Dropout and guidance must have been tuned, or `--part tuning` says that this is to
be done now. It can be stopped and given again.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
import traceback

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a fork must be the first to use CUDA

import torch  # noqa: E402

from rar_nb.runs import study  # noqa: E402
from rar_nb.support import InvalidValue, require, require_int, require_number  # noqa: E402

FORKS = multiprocessing.get_context("fork")


def do_run(job: "ForkedJob", scale: study.Scale, device: str):
    """One run, in the child; what it says goes into its log."""
    os.setsid()  # Ctrl-C is for the parent, which sends a signal of its own
    for number in (signal.SIGINT, signal.SIGTERM):  # not those that the parent waits for
        signal.signal(number, signal.SIG_DFL)
    with job.log.open("w", encoding="utf-8", buffering=1) as log:
        sys.stdout = sys.stderr = log
        try:
            study.run_cell(job.name, job.seed, job.place, scale, progress=False, device=device)
        except BaseException as error:
            traceback.print_exc()
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
    os._exit(0)


class ForkedJob(study.Job):
    """A run in a fork."""

    def __init__(self, name, seed, place, scale, device):
        self.name, self.seed, self.place, self.raw = name, seed, place, place.raw(name, seed)
        self.log = study.make_folder(place.folder(name, seed)) / "log.txt"
        self.fork = FORKS.Process(target=do_run, args=(self, scale, device))
        self.fork.start()

    def ended(self) -> bool:
        return not self.fork.is_alive()

    def send(self, number: int, to_papermill: bool):
        if self.fork.is_alive():
            os.kill(self.fork.pid, number)

    def kill(self):
        self.send(signal.SIGKILL, to_papermill=False)
        self.fork.join()


def arguments_of(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", help="only these parts, with commas between them")
    parser.add_argument("--cell", help="only these cells")
    parser.add_argument("--seeds", help="only these seeds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--data", help="folder of colour images, instead of the digits")
    parser.add_argument("--tiny", action="store_true", help="at toy sizes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results")
    parser.add_argument("--work")
    return parser.parse_args(words)


def order_of(cell: study.Cell, seed: int) -> tuple[int, int, int]:
    """What comes first is smallest."""
    return study.PARTS.index(cell.part), -cell.steps, seed


def check(args: argparse.Namespace):
    """The device is looked up without use of CUDA, which a fork must be the first to do."""
    if args.device.startswith("cuda"):
        known = ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        fits = torch.cuda.is_available() and args.device in known
        require(fits, "device", args.device, "one that this machine has, such as 'cpu'")
    else:
        study.usable_device(args.device)
    require_int("jobs", args.jobs, 1)
    if args.minutes is not None:
        require_number("minutes", args.minutes, 0)


def main(words: list[str] | None = None) -> int:
    try:
        return work(arguments_of(words))
    except InvalidValue as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def work(args: argparse.Namespace) -> int:
    began = time.monotonic()
    check(args)
    scale = study.choose_scale(args.data, args.tiny)
    place = study.find_place(args.results, args.work, scale)
    parts = study.names_in(args.part, study.PARTS, "part")
    cells = study.names_in(args.cell, study.CELLS, "cell") if args.cell else None
    runs = study.runs_of(parts, study.numbers_in(args.seeds), cells)
    deadline = None if args.minutes is None else began + 60 * args.minutes
    if "tuning" not in parts:
        study.write_tuned(place)
        for name, _ in runs:
            study.read_tuned(place, study.CELLS[name])  # raises, and names the remedy
    study.check_images_of(scale, runs)
    study.make_folder(place.results / "raw")
    for chosen in ("tuning", None):  # first what all others need
        left = [(name, seed) for name, seed in runs
                if (study.CELLS[name].part == "tuning") == (chosen == "tuning")
                and study.find_raw(name, seed, place, scale) is None]  # fmt: skip
        left.sort(key=lambda run: order_of(study.CELLS[run[0]], run[1]))
        study.run_all(left, place, args.jobs, deadline, scale, args.device, start=ForkedJob)
        if chosen == "tuning":
            study.write_tuned(place)
    left = [run for run in runs if not place.raw(*run).exists()]
    print(f"{len(runs) - len(left)} of {len(runs)} runs are done, {time.monotonic() - began:.0f} s")
    return min(len(left), 1)


if __name__ == "__main__":
    sys.exit(main())
