"""The forked kernels of the other tests are as good as new."""

import nbformat
from papermill import execute_notebook

from tests.kernels import FORKS, forked, printed

LOOK = """
import multiprocessing, os, random, matplotlib.pyplot as plt, numpy as np, torch
import rar_nb.pretrained.presets as library
found = sorted(set(globals()) & {"left", "FORKS", "forked"})
there = os.environ.get("LEFT"), plt.get_fignums(), hasattr(library, "LEFT")
print(value, os.getcwd(), found, *there)
print(random.random(), np.random.rand(), torch.rand(1).item())
print(multiprocessing.current_process().name)
left = library.LEFT = os.environ["LEFT"] = "left"
plt.figure(); os.chdir("/")
"""


def look(folder):
    """What a notebook finds in its kernel before it leaves much behind, three random numbers, and
    whether the kernel was forked."""
    cells = [
        nbformat.v4.new_code_cell("value = 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(LOOK),
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": ""}},
        ),
        folder / "look.ipynb",
    )
    done = execute_notebook(
        folder / "look.ipynb",
        folder / "out.ipynb",
        parameters=dict(value=3),
        cwd=folder,
        progress_bar=False,
    )
    found, numbers, process = printed(done).splitlines()[:3]
    return found, numbers.split(), process != "MainProcess"


def test_nothing_is_left_of_the_run_before(tmp_path):
    with forked():
        kernels = [look(tmp_path), look(tmp_path)]
    kernels.append(look(tmp_path))  # as a user starts it
    found, numbers, was_forked = zip(*kernels)
    assert was_forked == (bool(FORKS), bool(FORKS), False)
    assert set(found) == {f"3 {tmp_path} [] None [] False"}
    assert all(len(set(of_each)) == 3 for of_each in zip(*numbers))
