"""Does a run survive whatever ends it? Killed at random moments, it must go on as if nothing had been.

    python -m tests.benchmarks.kill --kills 100 --json results/reliability/kill.json

Each part trains a small run, ends it again and again, resumes it until it is finished, and compares
its files with those of a run that nobody disturbed: weights bit for bit, metrics number by number.

    program    `rar-train`, ended by SIGKILL; every second moment lies inside the writing of a file
    polite     `rar-train`, ended by SIGTERM: no step may be repeated
    two        `accelerate launch` with two processes, one of which is ended by SIGKILL
    notebook   the notebook `train` under papermill, ended by SIGKILL with its kernel, in any phase
    full       `rar-train` on a disk that fills up (a small tmpfs; needs root)

--kills is the number for `program`; the others take a share of it.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil

from rar_nb.pretrained.presets import get_preset, save_run_config
from rar_nb.runs.launch import launch_command
from rar_nb.runs.run_folders import (
    commit,
    open_tokens,
    processor,
    read_metrics,
    resolve_tokens,
)
from rar_nb.runs.safekeeping import newest_checkpoint
from rar_nb.support import PROJECT, TRY_AGAIN
from tests.tools.runs import save_made_up_tokens

TIMES = ("images_per_second",)  # all that two equal runs may differ in
CHANGES = dict(epochs=24, checkpoint_every=3, keep_every=30, eval_every=20, log_every=4,
               warmup_epochs=0, hidden_size=64, dropout=0.1, device_batch_size=8)  # fmt: skip
NOTEBOOK = dict(kind="conv_vq", stride=4, width=8, codebook_size=8, vq_steps=300, vq_batch_size=8,
                checkpoint_every=5, dropout=0.1)  # fmt: skip
ENVIRONMENT = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def new_run(tokens: Path, folder: Path) -> Path:
    """A folder with the configuration of a small run."""
    run = resolve_tokens(get_preset("tiny", **CHANGES), open_tokens(tokens)[0])
    save_run_config(run, folder / "config.json")
    return folder


def program(tokens: Path, folder: Path, processes: int = 1) -> list[str]:
    """The command that trains the run of a folder, or goes on with it."""
    return launch_command("rar_nb.runs.training", processes, cpu=True, run_dir=folder,
                          tokens=tokens, resume=True)  # fmt: skip


def papermill(folder: Path) -> list[str]:
    """The command that runs the whole notebook on little data, or goes on with it."""
    changes = f"{{changes: {json.dumps(NOTEBOOK)}}}"
    out = folder.with_name(f"{folder.name}.ipynb")
    values = dict(preset="tiny", run_dir=folder, resume=True, cpu=True, num_samples=50,
                  data=folder.parent / "images")  # fmt: skip
    words = [word for name, value in values.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    return [*command, str(PROJECT / "nbs" / "train.ipynb"), str(out), *words, "-y", changes]


def start(command: list[str], log: Path) -> subprocess.Popen:
    """A program in a session of its own."""
    with log.open("ab") as out:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=out, stderr=out,
                                start_new_session=True)  # fmt: skip


def is_writing(folder: Path) -> bool:
    """Whether a file of the run is being written at this moment."""
    return any(True for _ in folder.rglob(".*.part"))


def wait_until(happened, process: subprocess.Popen, seconds: float) -> bool:
    """Whether something happens while the process runs."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        if happened():
            return True
        time.sleep(0.0005)
    return False


def rows_without_times(folder: Path) -> list[dict]:
    """What must be equal in the metrics."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """Names of what differs between two finished runs; a run of files that are left half-written."""
    wrong = [path.name for path in folder.rglob(".*.part")]
    for path in undisturbed.rglob("*.safetensors"):
        mine = folder / path.relative_to(undisturbed)
        if not mine.is_file() or mine.read_bytes() != path.read_bytes():
            wrong.append(str(path.relative_to(undisturbed)))
    if rows_without_times(folder) != rows_without_times(undisturbed):
        wrong.append("metrics.jsonl")
    for path in undisturbed.glob("evaluation.json"):
        if json.loads(path.read_text()) != json.loads((folder / path.name).read_text()):
            wrong.append(path.name)
    return wrong


def finish(command: list[str], log: Path):
    """Run a program to its end; raises if it fails."""
    process = start(command, log)
    if process.wait() != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}; see {log}:\n"
                           + log.read_text(errors="replace")[-2000:])  # fmt: skip


def end_all(process: subprocess.Popen):
    """Make sure that nothing of a session lives on."""
    for one in (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ()
    ):
        one.kill()
    process.kill()
    process.wait()


class Part:
    """One way to end a run, repeated."""

    def __init__(self, place: Path, tokens: Path, rng: random.Random):
        self.place, self.tokens, self.rng = place, tokens, rng
        self.count = self.inside = self.runs = 0
        self.moments: list[str] = []  # what the run was doing, as far as its files tell
        self.problems: list[str] = []

    def phase(self, folder: Path) -> str:
        """How far a run has come."""
        if (folder / "evaluation.json").exists():
            return "evaluation"
        if (folder / "model.safetensors").exists():
            return "samples"
        if (folder / "metrics.jsonl").exists():
            return "generator"
        if (folder / "tokens").exists():
            return "tokens"
        return "tokenizer" if (folder / "identity.json").exists() else "start"

    def kill_until(self, kills: int, command, prepare, undisturbed: Path, how, choose, longest):
        """End runs at moments that `choose` picks until there were enough, and compare them."""
        while self.count < kills:
            self.runs += 1
            folder = prepare(self.place / f"run_{self.runs}")
            log = folder.with_name(f"{folder.name}.log")
            while self.count < kills and not self.is_done(folder):
                process = start(command(folder), log)
                self.one(process, folder, how, choose, longest)
            finish(command(folder), log)
            wrong = differences(folder, undisturbed)
            self.problems += [f"{folder.name}: {name} differs" for name in wrong]
            if not wrong:
                shutil.rmtree(folder)

    def is_done(self, folder: Path) -> bool:
        """Whether there is nothing left to interrupt."""
        return (folder / "model.safetensors").exists()

    def one(self, process: subprocess.Popen, folder: Path, how, choose, longest):
        """End a process once."""
        happened = choose(folder)
        if not wait_until(happened, process, longest):
            if process.poll() not in (0, None):
                self.problems.append(f"{folder.name}: ended by itself with {process.returncode}")
                self.count += 1  # or else it might go on for ever
            end_all(process)
            return
        inside, moment = is_writing(folder), self.phase(folder)
        how(process)
        self.count += 1
        self.inside += inside
        self.moments.append(moment)

    def result(self) -> dict:
        """Numbers for the report."""
        where = {name: self.moments.count(name) for name in dict.fromkeys(self.moments)}
        return dict(kills=self.count, inside_a_save=self.inside, phases=where, runs=self.runs,
                    problems=self.problems)  # fmt: skip


def kill_session(process: subprocess.Popen):
    """End a program and everything it has started, at once."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        child.kill()
    process.wait()
    psutil.wait_procs(children, 10)


def random_moment(rng: random.Random, longest: float):
    """A function that picks moments: a random time after the first step, or inside a save."""

    def choose(folder: Path):
        metrics = folder / "metrics.jsonl"
        before = metrics.stat().st_size if metrics.exists() else 0
        delay, wants_save, since = rng.uniform(0, longest), rng.random() < 0.5, []

        def happened() -> bool:
            if not since:
                if metrics.exists() and metrics.stat().st_size != before:
                    since.append(time.monotonic())
                return False
            late = time.monotonic() > since[0] + delay
            return late and (not wants_save or is_writing(folder))

        return happened

    return choose


def run_program(part: Part, kills: int, undisturbed: Path):
    """SIGKILL to the program."""
    part.kill_until(kills, lambda folder: program(part.tokens, folder),
                    lambda folder: new_run(part.tokens, folder), undisturbed, kill_session,
                    random_moment(part.rng, 1.0), 120)  # fmt: skip


def run_polite(part: Part, kills: int, undisturbed: Path):
    """SIGTERM to the program: status 75, and the step that it names is that of its checkpoint."""

    def ask(process):
        process.send_signal(part.rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
        if process.wait() not in (TRY_AGAIN, 0):
            part.problems.append(f"status {process.returncode} after a signal")

    def command(folder):
        log = folder.with_name(f"{folder.name}.log")
        said = [line for line in log.read_text().splitlines() if line.startswith("stopped after")] \
            if log.exists() else []  # fmt: skip
        newest = None if part.is_done(folder) else newest_checkpoint(folder / "checkpoints")
        if said and newest is not None and int(said[-1].split()[2]) != newest.step:
            part.problems.append(f"{said[-1]}, but the checkpoint is of step {newest.step}")
        return program(part.tokens, folder)

    part.kill_until(kills, command, lambda folder: new_run(part.tokens, folder), undisturbed, ask,
                    random_moment(part.rng, 0.5), 120)  # fmt: skip


def run_two(part: Part, kills: int, undisturbed: Path):
    """SIGKILL to one of two processes; all of them must end."""

    def kill_one(process):
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [p for p in children if "rar_nb.runs.training" in p.cmdline()]
        part.rng.choice(workers or [process]).kill()
        _, alive = psutil.wait_procs(children, 90)
        if alive:
            part.problems.append(f"{len(alive)} processes live on after one was killed")
        end_all(process)

    part.kill_until(kills, lambda folder: program(part.tokens, folder, 2),
                    lambda folder: new_run(part.tokens, folder), undisturbed, kill_one,
                    random_moment(part.rng, 2.0), 240)  # fmt: skip


def run_notebook(part: Part, kills: int, undisturbed: Path):
    """SIGKILL to papermill, its kernel and the training, at any time after the first cell."""

    def choose(folder: Path):
        until = time.monotonic() + part.rng.uniform(4, 40)
        return lambda: time.monotonic() > until

    part.is_done = lambda folder: (folder / "evaluation.json").exists()  # type: ignore[method-assign]
    part.kill_until(kills, papermill, lambda folder: folder, undisturbed, kill_session, choose,
                    300)  # fmt: skip


def run_full(part: Part, fills: int, undisturbed: Path):
    """A disk that fills up at a random moment, and is freed before the run goes on."""
    disk = part.place / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        while part.count < fills:
            part.runs += 1
            fill_and_resume(part, disk, fills)
            wrong = differences(disk / "run", undisturbed)
            part.problems += [f"run {part.runs}: {name} differs" for name in wrong]
            shutil.rmtree(disk / "run")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(path: Path, leave: int):
    """Fill the disk with a file, but for some bytes, while others write there, too."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    size = 0
    try:
        while True:
            size += os.write(file, bytes(2**16))
    except OSError:  # full
        os.ftruncate(file, max(0, size - leave))
    finally:
        os.close(file)


def fill_and_resume(part: Part, disk: Path, fills: int):
    """One run to its end, with full disks on the way."""
    folder, log = new_run(part.tokens, disk / "run"), part.place / "full.log"
    choose = random_moment(part.rng, 0.5)
    while part.count < fills and not part.is_done(folder):
        log.write_text("")
        process, filler = start(program(part.tokens, folder), log), disk / "filler"
        if wait_until(choose(folder), process, 120):
            fill(filler, leave=part.rng.randint(0, 20_000))
            part.moments.append(part.phase(folder))
            part.count += 1
            status = process.wait()
            lines = log.read_text(errors="replace").strip().splitlines()
            if status == 0 and not part.is_done(folder) or status not in (0, 2):
                part.problems.append(f"status {status}: {lines[-1:]}")
            if status == 2 and "can't be written (" not in lines[-1]:
                part.problems.append(f"the last line is no help: {lines[-1]}")
        end_all(process)
        filler.unlink(missing_ok=True)
    finish(program(part.tokens, folder), log)


PARTS = dict(program=(run_program, 1.0), polite=(run_polite, 0.3), two=(run_two, 0.1),
             notebook=(run_notebook, 0.2), full=(run_full, 0.2))  # fmt: skip


def make_images(folder: Path):
    """20 digits of each class as PNG files."""
    from rar_nb.data.images import Digits

    digits = Digits()
    for c in range(10):
        (folder / str(c)).mkdir(parents=True)
        for i in range(20):
            digits[500 * c + i][0].save(folder / str(c) / f"{i}.png")


def undisturbed_run(place: Path, tokens: Path, name: str) -> Path:
    """The run that a part's must equal; parts with the same command share it."""
    kind = name if name in ("two", "notebook") else "program"
    folder = place / f"undisturbed_{kind}"
    if folder.exists():
        return folder
    if kind == "notebook":
        finish(papermill(folder), place / "undisturbed.log")
    else:
        new_run(tokens, folder)
        finish(program(tokens, folder, 2 if kind == "two" else 1), place / "log")
    return folder


def measure(kills: dict[str, int], seed: int) -> dict:
    """Parts by name, with their numbers of kills, in a temporary folder."""
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        tokens = save_made_up_tokens(place / "tokens", 200, crops=2)
        make_images(place / "images")
        for name, count in kills.items():
            since, undisturbed = time.monotonic(), undisturbed_run(place, tokens, name)
            where = place / name if name != "notebook" else place
            where.mkdir(exist_ok=True)
            part = Part(where, tokens, random.Random(f"{seed} {name}"))
            PARTS[name][0](part, count, undisturbed)
            results[name] = part.result() | dict(seconds=round(time.monotonic() - since))
            print(name, json.dumps(results[name]), flush=True)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--parts", default=",".join(PARTS), help="names, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    parts = args.parts.split(",")
    kills = {name: max(1, round(args.kills * PARTS[name][1])) for name in parts}
    results = measure(kills, args.seed)
    report = dict(results, seed=args.seed, commit=commit(), date=str(date.today()),
                  machine=f"{os.cpu_count()} cores, {processor()}",
                  command=" ".join(sys.argv))  # fmt: skip
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    problems = [problem for part in results.values() for problem in part["problems"]]
    print(f"{sum(part['kills'] for part in results.values())} kills, {len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
