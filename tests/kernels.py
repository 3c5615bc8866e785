"""The notebooks as papermill runs them, in fresh kernels that start in a moment.

A kernel of a run notebook spends 8 s on imports before anything of its own happens. Here the
standard library's fork server imports the library once, and each kernel is a process forked from
it, with a namespace, random state, environment and working directory of its own. The programs that
a run starts are forked, too (forks.py). No run sees anything of another, as with kernels started
by hand, except for modules that are imported already, and for the classifier of an evaluation,
which takes ten steps in place of a hundred. What this would hide (an import that is missing, a
kernel that does not start) is seen by the tests that ask for `as_a_user_does`: at least one run and
one refusal per notebook.
"""

import multiprocessing
import os
import threading
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import papermill
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

import rar_nb.evaluation as evaluation
import rar_nb.runs.launch as launch
from tests.forks import FORKS, POPEN, server_address, start_server, use_server

NBS = Path(__file__).parent.parent / "nbs"


def execute(name: str, out: Path, /, as_a_user_does: bool = False, **parameters):
    """Run a notebook of `nbs` with parameters in the folder of `out`, where it is written; as a
    notebook node. On a busy machine, what a cell prints may come later than the 4 seconds after
    which it would be left out."""
    with nullcontext() if as_a_user_does else forked(programs=True):
        return papermill.execute_notebook(
            NBS / f"{name}.ipynb", out, parameters=parameters, cwd=out.parent, progress_bar=False,
            iopub_timeout=60,
        )  # fmt: skip


def printed(notebook) -> str:
    """All text that the cells of an executed notebook show, printed or as values. What one `print`
    writes may arrive in two pieces on a busy machine, so the notebook's file is no place to look
    for a line."""
    return "".join(
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


@contextmanager
def forked(programs: bool = False):
    """Kernels that are started in this block are forked, where that is safe; and so are the
    programs that they start, if `programs`."""
    if not FORKS:
        yield
        return
    start_server()
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:Forked", factory.GROUP_NAME)
    Forked.programs = programs
    before, factory.default_provisioner_name = factory.default_provisioner_name, "forked"
    try:
        yield
    finally:
        factory.default_provisioner_name = before


class Forked(LocalProvisioner):
    """Forks a kernel where `LocalProvisioner` starts a program; for all else the process looks
    like one of `subprocess`."""

    programs = False  # whether the programs that the kernel starts are forked, too

    async def launch_kernel(self, cmd: list[str], **kwargs):
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        folder, environment = str(kwargs.get("cwd") or Path.cwd()), dict(kwargs["env"])
        address = server_address() if self.programs else None
        self.process = process = FORKS.Process(
            target=be_a_kernel, args=(arguments, folder, environment, address)
        )
        process.start()
        process.poll, process.wait = lambda: process.exitcode, process.join
        process.send_signal = partial(os.kill, process.pid)
        process.stdin = process.stdout = process.stderr = None
        self.pid = process.pid
        return self.connection_info


def be_a_kernel(
    arguments: list[str], folder: str, environment: dict[str, str], address: str | None
):
    """In the forked process: what `python -m ipykernel_launcher` does with such arguments in that
    folder. With the fork server's address, the programs that it starts are forked."""
    import numpy as np
    import torch
    from ipykernel.kernelapp import IPKernelApp

    # As in any new process: a run that forgets to seed must not repeat another.
    np.random.seed()
    torch.seed()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(
        target=lambda: multiprocessing.parent_process().join() or os._exit(1), daemon=True
    ).start()  # ends with the tests, if these are killed
    if address is not None:
        use_server(address)
        launch.subprocess = POPEN
        evaluation.LEAST_STEPS = 10  # no test of a run asks how good a judge the classifier is
    IPKernelApp.launch_instance(
        [*arguments, f"--IPKernelApp.parent_handle={os.getppid()}", "--IPKernelApp.log_level=ERROR"]
    )
