"""Does a long training gather memory, open files or threads?

    python -m tests.benchmarks.soak --steps 2000 --json results/reliability/soak.json

One process trains a tiny generator with checkpoints, validation and sampling, all of them far more
often than any real run, and counts what it holds. After a warm-up of 200 steps the memory must not
grow by more than 2 % (medians over a sixth of the rest, its first and its last), and files and
threads must not grow at all.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil  # noqa: E402
import torch  # noqa: E402

from rar_nb.data.tokens import TokenData  # noqa: E402
from rar_nb.pretrained.presets import get_preset, resolve  # noqa: E402
from rar_nb.reports.report import run_metadata  # noqa: E402
from rar_nb.runs.training import train_run  # noqa: E402
from rar_nb.sampler import sample_images  # noqa: E402
from rar_nb.tokenizer import make_tokenizer  # noqa: E402
from rar_nb.transformer import RAR  # noqa: E402

WARM_UP, GROWTH = 200, 0.02  # steps; share by which memory may grow after them
PARTS, CLASSES, SIDE = dict(train=400, val=80), 10, 28
EVERY = dict(eval_every=20, checkpoint_every=25, log_every=10)


def make_run(steps: int):
    """A run of `steps` steps that evaluates and writes checkpoints all the time."""
    changes = dict(
        steps_per_epoch=10,
        epochs=steps / 10,
        warmup_epochs=0,
        anneal_start=steps / 40,
        anneal_end=steps / 20,
        batch_size=16,
        device_batch_size=8,
        sample_batch_size=8,
        **EVERY,
    )
    return resolve(get_preset("tiny", changes), PARTS["train"], CLASSES, 1, SIDE)


def make_tokens(folder: Path, count: int, length: int) -> TokenData:
    """Made-up tokens in a folder, so that reading them takes files, as in a real run."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    ids = (labels[:, None, None] + torch.randint(3, (count, 2, length), generator=generator)) % 8
    return TokenData(ids, labels).save(folder, 8, CLASSES)


def held() -> dict:
    """What this process holds: memory in MiB, open files, threads."""
    gc.collect()
    process = psutil.Process()
    return dict(
        rss=process.memory_info().rss / 2**20,
        files=process.num_fds() if hasattr(process, "num_fds") else process.num_handles(),
        threads=process.num_threads(),
    )


def soak(steps: int, folder: Path) -> list[dict]:
    """Train; what was held at each evaluation, with the step."""
    run, rows = make_run(steps), []
    data, validation = (
        make_tokens(folder / "tokens" / part, count, run.model.num_tokens)
        for part, count in PARTS.items()
    )
    tokenizer, classes = make_tokenizer(run.tokenizer), torch.arange(8) % CLASSES

    def on_eval(step, model):
        images = sample_images(model, tokenizer, classes, run.sample, seed=step)
        assert images.shape == (8, 1, SIDE, SIDE)
        rows.append(dict(step=step) | held())

    torch.manual_seed(run.seed)
    train_run(
        run,
        RAR(run.model),
        data,
        validation,
        folder / "run",
        on_eval,
        progress=False,
        cpu=True,
    )
    return rows


def judge(rows: list[dict]) -> dict:
    """Growth since the warm-up: of the memory as a share, of files and threads as numbers."""
    later = [row for row in rows if row["step"] >= WARM_UP]
    some = max(1, len(later) // 6)  # what malloc gives back and when makes single values uneven
    early, late = (
        statistics.median(row["rss"] for row in part) for part in (later[:some], later[-some:])
    )
    first, last, growth = later[0], later[-1], late / early - 1
    return dict(
        memory_mib=[round(early, 1), round(late, 1)],
        memory_growth=round(growth, 5),
        files=[min(row["files"] for row in later), max(row["files"] for row in later)],
        threads=[min(row["threads"] for row in later), max(row["threads"] for row in later)],
        flat=bool(growth <= GROWTH)
        and last["files"] <= first["files"]
        and last["threads"] <= first["threads"],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps, above 200")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    given = parser.parse_args()
    if given.steps <= WARM_UP + EVERY["eval_every"]:
        parser.error(f"--steps = {given.steps} is not enough: the warm-up alone takes {WARM_UP}")
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        rows = soak(given.steps, folder)
        written = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    found = judge(rows)
    for row in rows[:: max(1, len(rows) // 10)]:
        print(
            f"step {row['step']:6,}: {row['rss']:8.1f} MiB, {row['files']:3} files,"
            f" {row['threads']:3} threads"
        )
    print(f"memory after the warm-up: {found['memory_growth']:+.2%}; flat: {found['flat']}")
    if given.json:
        run = make_run(given.steps)
        content = dict(
            steps=given.steps,
            warm_up=WARM_UP,
            **found,
            samples=rows[:: max(1, len(rows) // 50)],
            files_at_the_end=[name for name in written if name.startswith("run/")],
            every=EVERY,
            model=asdict(run.model),
            seconds=round(time.perf_counter() - began),
            command="python -m tests.benchmarks.soak --steps " + str(given.steps),
            **run_metadata("cpu"),
        )
        given.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if found["flat"] else 1)


if __name__ == "__main__":
    main()
