"""Two real processes on the CPU: a run that is killed ends everywhere, and resumed it equals one that nobody disturbed."""
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from rar_nb.config import PROJECT, get_preset, save_run_config
from rar_nb.data import TokenData
from rar_nb.trainer import PARENT, Metrics, follow, launch_command, open_tokens, read_metrics, resolve_tokens

CHANGES = {"epochs": 10, "checkpoint_every": 20, "warmup_epochs": 0, "eval_every": 25, "device_batch_size": 8}  # 50 steps, two micro-steps each
TIMES = ("images_per_second",)  # all that two equal runs may differ in

STUCK = """
import sys, time
import rar_nb.trainer as trainer
step_once = trainer.train_step
def train_step(accelerator, model, optimizer, run, data, step):
    while step == 33: time.sleep(1)
    return step_once(accelerator, model, optimizer, run, data, step)
trainer.train_step = train_step
trainer.main(sys.argv[1:])
"""
NOTEBOOK = "import json, sys; from rar_nb.trainer import follow; follow(json.loads(sys.argv[1]), sys.argv[2], progress=False)"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("tokens"), torch.Generator().manual_seed(0)
    labels = torch.randint(10, (200,), generator=generator)
    ids = (labels[:, None, None] + torch.randint(3, (200, 1, 49), generator=generator)) % 8
    TokenData(ids[:160], labels[:160]).save(folder / "train", 8, 10)
    TokenData(ids[160:], labels[160:]).save(folder / "val", 8, 10)
    return folder


def new_run(tokens, folder):
    run = resolve_tokens(get_preset("tiny", **CHANGES), open_tokens(tokens)[0])
    save_run_config(run, folder / "config.json")
    return folder


def two(tokens, folder, **options):
    return launch_command("rar_nb.trainer", 2, cpu=True, run_dir=folder, tokens=tokens, **options)


@pytest.fixture(scope="module")
def undisturbed(tokens, tmp_path_factory):
    folder = new_run(tokens, tmp_path_factory.mktemp("undisturbed"))
    follow(two(tokens, folder), folder, progress=False)
    return folder


def ended(process):
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(happened, seconds):
    until = time.monotonic() + seconds
    while not happened() and time.monotonic() < until:
        time.sleep(0.1)
    return happened()


@pytest.mark.parametrize("victim, how", [("notebook", signal.SIGKILL), ("notebook", signal.SIGINT), ("launcher", signal.SIGKILL)], ids=str)
def test_a_killed_run_ends_everywhere_and_goes_on_as_if_nothing_had_been(tokens, undisturbed, tmp_path, victim, how):
    """The run is stuck in step 33, past its checkpoint at 20; the process that plays the notebook, or the launcher, is killed."""
    folder, script = new_run(tokens, tmp_path / "run"), tmp_path / "stuck.py"
    script.write_text(STUCK)
    command = two(tokens, folder)
    at = command.index("rar_nb.trainer")
    command[at - 1 : at + 1] = [str(script)]  # in place of -m rar_nb.trainer
    environment, started = os.environ | {"PYTHONPATH": str(PROJECT)}, []
    with (tmp_path / "notebook.log").open("w") as log:
        notebook = subprocess.Popen([sys.executable, "-c", NOTEBOOK, json.dumps(command), str(folder)], env=environment, stderr=log)
    try:
        metrics = folder / "metrics.jsonl"
        assert wait_for(lambda: metrics.exists() and read_metrics(metrics)[-1:] and read_metrics(metrics)[-1]["step"] == 33, 120)
        started = psutil.Process(notebook.pid).children(recursive=True)
        launcher, workers = started[0], [p for p in started if str(script) in p.cmdline()[1:3]]
        assert len(workers) == 2
        os.kill(notebook.pid if victim == "notebook" else launcher.pid, how)
        assert wait_for(lambda: all(map(ended, started)), 20), [p for p in started if not ended(p)]
    finally:
        notebook.kill()
        notebook.wait()
        for process in started:  # if the test fails
            if not ended(process):
                process.kill()
    assert not (folder / "model.safetensors").exists()
    with metrics.open("a") as f:
        f.write('{"step": 3')  # as if killed in the midst of a line
    follow(two(tokens, folder, resume=True), folder, progress=False)
    for file in ("model", "before_annealing"):
        assert (folder / f"{file}.safetensors").read_bytes() == (undisturbed / f"{file}.safetensors").read_bytes()
    resumed, whole = ([{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(place / "metrics.jsonl")] for place in (folder, undisturbed))
    assert resumed == whole and whole[-1]["step"] == 50
    assert not (folder / "checkpoint.safetensors").exists()


def test_metrics_in_memory_keep_no_rows_of_a_file():
    """In every process but the first there is no file, whatever the checkpoint counts."""
    metrics = Metrics(None, keep=7)
    metrics.log(step=8)
    assert metrics.rows == [dict(step=8)]


@pytest.mark.parametrize("module, options", [("rar_nb.trainer", ["--tokens", "tokens", "--preset", "tiny"]), ("rar_nb.sampler", ["--folder", "set"])])
def test_a_program_whose_notebook_is_gone_does_nothing(tmp_path, module, options):
    """It was killed while the program was still being loaded."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environment = os.environ | {"PYTHONPATH": str(PROJECT), PARENT: str(gone.pid)}
    done = subprocess.run([sys.executable, "-m", module, "--run_dir", "run", *options, "--cpu"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stderr.count("Error") and not list(tmp_path.iterdir())
