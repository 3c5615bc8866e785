"""Real processes on the CPU: they learn the same, end with their parent, and go on afterwards."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import rar_nb.runs.launch as launch
from rar_nb.pretrained.presets import get_preset, save_run_config
from rar_nb.runs.devices import PARENT
from rar_nb.runs.launch import follow, launch_command, notebook_path, run_child
from rar_nb.runs.run_folders import open_tokens, read_metrics, resolve_tokens
from rar_nb.runs.safekeeping import newest_checkpoint
from rar_nb.support import InvalidValue
from tests.forks import FORKS, POPEN, fork, program
from tests.tools.runs import save_made_up_tokens

CHANGES = {
    "epochs": 10,
    "checkpoint_every": 20,
    "warmup_epochs": 0,
    "eval_every": 25,
    "device_batch_size": 8,
}  # 50 steps of two micro-steps each
TIMES = ("images_per_second",)  # all that two equal runs may differ in

STUCK = """
import sys, time
import rar_nb.runs.training as training
step_once, note_signal, signals = training.train_step, training.StopRequest.note, []
def note(self, number, frame):
    signals.append(number)
    note_signal(self, number, frame)
def train_step(accelerator, model, optimizer, run, data, step):
    while step == 33 and not signals:
        time.sleep(0.2)
    return step_once(accelerator, model, optimizer, run, data, step)
training.train_step, training.StopRequest.note = train_step, note
training.main()
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return save_made_up_tokens(tmp_path_factory.mktemp("tokens"), 200)


@pytest.fixture
def forked(monkeypatch):
    """Programs are forked, and several processes have no launcher."""
    if FORKS:
        monkeypatch.setattr(launch, "subprocess", POPEN)


def new_run(tokens, folder):
    run = resolve_tokens(get_preset("tiny", **CHANGES), open_tokens(tokens)[0])
    save_run_config(run, folder / "config.json")
    return folder


def two(tokens, folder, **options):
    return launch_command(
        "rar_nb.runs.training", 2, cpu=True, run_dir=folder, tokens=tokens, **options
    )


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


def rows_without_times(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def be_a_notebook(command, folder):
    """In a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a kernel, wherever tests run
    follow(command, folder, progress=False)


def kill_in_step_33(command, script, folder, victim, how):
    """Start a run whose step 33 waits for a signal, and kill one of its parents."""
    started, metrics = [], folder / "metrics.jsonl"
    notebook = fork(be_a_notebook, command, folder)

    def is_stuck():
        rows = read_metrics(metrics) if metrics.exists() else []
        return bool(rows) and rows[-1]["step"] == 33

    try:
        assert wait_for(is_stuck, 180)
        started = psutil.Process(notebook.pid).children(recursive=True)
        workers = [p for p in started if str(script) in p.cmdline()[1:3]]
        assert len(workers) == 2
        launcher = started[0]
        os.kill(notebook.pid if victim == "notebook" else launcher.pid, how)
        # An interrupt lets the launcher wait half a minute for workers that are stuck.
        assert wait_for(lambda: all(map(ended, started)), 90), [p for p in started if not ended(p)]
    finally:
        notebook.kill()
        notebook.join()
        for process in started:  # if the test fails
            if not ended(process):
                process.kill()


@pytest.mark.parametrize(
    "victim, how",
    [("notebook", signal.SIGKILL), ("notebook", signal.SIGINT), ("launcher", signal.SIGKILL)],
    ids=str,
)
def test_a_killed_run_ends_everywhere_and_goes_on(
    tokens, undisturbed, tmp_path, forked, victim, how
):
    """It goes on without the launcher, as the undisturbed one has been with it."""
    folder, script = new_run(tokens, tmp_path / "run"), tmp_path / "stuck.py"
    script.write_text(STUCK)
    command = two(tokens, folder)
    at = command.index("rar_nb.runs.training")
    command[at - 1 : at + 1] = [str(script)]  # in place of -m rar_nb.runs.training
    kill_in_step_33(command, script, folder, victim, how)
    assert not (folder / "model.safetensors").exists()
    assert newest_checkpoint(folder / "checkpoints").step == 34  # nothing is lost
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')  # as if killed in the midst of a line
    follow(two(tokens, folder, resume=True), folder, progress=False)
    for name in ("model", "before_annealing"):
        mine, theirs = (place / f"{name}.safetensors" for place in (folder, undisturbed))
        assert mine.read_bytes() == theirs.read_bytes()
    whole = rows_without_times(undisturbed)
    assert rows_without_times(folder) == whole and whole[-1]["step"] == 50
    assert not (folder / "checkpoints").exists()


def test_a_program_whose_notebook_is_gone_does_nothing(tmp_path, monkeypatch):
    """The notebook was killed while the program was still being loaded."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv(PARENT, str(gone.pid))
    words = ["--run_dir", "run", "--tokens", "tokens", "--preset", "tiny", "--cpu"]
    done = program("rar_nb.runs.training", *words, folder=tmp_path)
    assert done.returncode == 1 and not done.stderr.count("rror") and not list(tmp_path.iterdir())


def test_a_child_that_fails_tells_why(tokens, tmp_path):
    folder = new_run(tokens, tmp_path)
    command = launch_command("rar_nb.runs.training", 1, cpu=True, run_dir=folder, tokens="/no/such")
    with pytest.raises(RuntimeError, match="error: token folder = '/no/such' is not allowed"):
        follow(command, folder, progress=False)


def test_the_sentence_of_a_child_is_not_lost_among_a_launchers_lines(tmp_path):
    script = "print('x', 'error: it is so', 'error: it is so', *range(60), sep=chr(10)); exit(1)"
    with pytest.raises(RuntimeError, match="ended with status 1.*\n\nerror: it is so$"):
        run_child([sys.executable, "-c", script], tmp_path / "log", lambda: None, 0.1)


@pytest.mark.parametrize("own", [None, "77"])
def test_threads_of_a_child_soon_sleep_while_they_wait(tmp_path, monkeypatch, own):
    """Unless the user has decided otherwise."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    code = "import os; print(os.environ['GOMP_SPINCOUNT'])"
    run_child([sys.executable, "-c", code], tmp_path / "log", lambda: None, 0.05)
    assert (tmp_path / "log").read_text() == f"{own or 1000}\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_output_of_a_child_is_read_as_it_is_written(tmp_path, monkeypatch, encoding):
    """Also where terminals have another encoding than UTF-8."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code = "print('error: 2 × 3 → 6'); exit(1)"
    with pytest.raises(RuntimeError, match="error: 2 × 3 → 6$"):
        run_child([sys.executable, "-X", "utf8", "-c", code], tmp_path / "log", lambda: None, 0.05)


def test_a_wheel_has_no_run_notebooks(tmp_path, monkeypatch):
    assert notebook_path("train").is_file()
    monkeypatch.setattr(launch, "PROJECT", tmp_path)
    with pytest.raises(InvalidValue, match=r"notebook = .*train\.ipynb.* `make setup`"):
        notebook_path("train")


def test_the_command_line():
    command = launch_command(
        "rar_nb.runs.image_sets",
        8,
        preset="rar_b",
        tokenizer=None,
        resume=True,
        keep=False,
        num_samples=50_000,
    )
    assert command[0] == sys.executable and "--multi_gpu" in command and "--resume" in command
    assert not {"--cpu", "--tokenizer", "--keep"} & set(command)
    assert command[command.index("-m", 3) + 1] == "rar_nb.runs.image_sets"
    assert command[command.index("--num_samples") + 1] == "50000"
    assert command[command.index("--num_processes") + 1] == "8"
    assert "--multi_gpu" not in launch_command("rar_nb.runs.training", 1)
