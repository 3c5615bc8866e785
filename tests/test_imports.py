"""What a process loads before it begins: what nobody needs there costs time at each start."""

import subprocess
import sys

import pytest

from rar_nb.support import PROJECT

FIGURES = ["matplotlib", "IPython", "papermill"]
SLOW = [*FIGURES, "torchvision", "torch_fidelity", "scipy", "sklearn", "huggingface_hub"]
SLOW += ["torch._inductor", "torch._dynamo", "torch.distributed.fsdp", "sympy", "pandas"]


def loaded_by(module):
    """The names of all modules in a fresh process that has imported `module` and nothing else."""
    script = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", script], text=True).split())


@pytest.mark.parametrize(
    "module, not_loaded",
    [
        ("rar_nb.sampler", [*SLOW, "accelerate", "fastcore.script", "PIL"]),
        ("rar_nb.trainer", [*SLOW, "accelerate", "fastcore.script", "PIL"]),
        ("rar_nb.style", [*SLOW, "accelerate"]),
        ("rar_nb.data.images", [*SLOW, "accelerate"]),
        ("rar_nb.pretrained.presets", [*SLOW, "accelerate"]),
        ("rar_nb.runs.training", [*FIGURES, "torchvision", "torch_fidelity", "torch._inductor"]),
        ("rar_nb.runs.image_sets", [*FIGURES, "torchvision", "torch_fidelity", "torch._inductor"]),
    ],
)
def test_nothing_is_loaded_that_is_not_needed(module, not_loaded):
    assert loaded_by(module) & set(not_loaded) == set()


def test_a_model_is_loaded_without_the_compiler():
    """`torch.nn.init` on the meta device would import it, which takes longer than the weights."""
    script = "import sys; from rar_nb.pretrained.presets import RAR\n"
    script += "RAR.from_pretrained('data/digits_run'); print(*sys.modules)"
    command = [sys.executable, "-c", script]
    loaded = subprocess.check_output(command, text=True, cwd=PROJECT).split()
    assert not {"torch._dynamo", "torch._inductor"} & set(loaded)
