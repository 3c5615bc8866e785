"""Does a training step ever make the host wait for the device? Shown without a GPU.

    python -m tests.tools.waits

The step runs on tensors that have a device, but no numbers (`FakeTensorMode`), so it cannot depend
on a number; and each operation is looked at. The device is called 'cuda' where there is a GPU.
Elsewhere torch can't compute gradients on fake CUDA tensors, whether it was built for CUDA or not,
so a device written in Python, 'gpu', takes its place. That is registered for the whole process: run
this in one of its own.
"""

import json
from functools import partial
from unittest.mock import patch

import torch
from torch._subclasses import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rar_nb.pretrained.presets import get_preset, override
from rar_nb.runs.devices import make_accelerator, train_step
from rar_nb.trainer import make_optimizer
from rar_nb.transformer import RAR

READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "_unique2", "unique_dim")
MASKED = ("index", "index_put", "index_put_", "_index_put_impl_", "masked_select")


class Waits(TorchDispatchMode):
    """Notes each operation for which the host would wait, or that copies between devices."""

    def __init__(self):
        super().__init__()
        self.found, self.count = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        name, inputs = func.overloadpacket.__name__, tree_leaves((args, kwargs))
        if name == "_fused_adamw_":  # its fake version reads the learning rate; CUDA's does not
            result = None
        else:
            result = func(*args, **(kwargs or {}))
        tensors = [x for x in (*inputs, *tree_leaves(result)) if isinstance(x, torch.Tensor)]
        masked = name in MASKED and any(x.dtype == torch.bool for x in tensors[1:])
        devices = {str(x.device) for x in tensors}
        if masked or name in READS or len(devices) > 1:
            self.found.append(f"{func} on {', '.join(sorted(devices))}")
        return result


class Ready:
    """A batch that is on its device already."""

    def __init__(self, *batch):
        self.batch = batch

    def at(self, step):
        return self.batch


def fake_device() -> str:
    """The name of a device that fake tensors may have, with gradients and autocast."""
    if torch.cuda.is_available():
        return "cuda"

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self):
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=Module())
    return "gpu"


def look_at_steps(device: str, micro_steps: int, num_classes: int) -> dict:
    """Take two steps on fake tensors; what each did for which the host would wait."""
    run = override(get_preset("tiny", steps_per_epoch=5), num_classes=num_classes, dropout=0.1)
    accelerator = make_accelerator("no", cpu=True)
    accelerator.gradient_accumulation_steps = micro_steps
    if device == "cuda":
        accelerator.autocast = partial(torch.autocast, "cuda", torch.bfloat16)
    steps = []
    with FakeTensorMode(), torch.device(device):
        with patch.object(RAR, "init_weights"):  # there are no numbers to choose
            model = RAR(run.model).train()
        optimizer = accelerator.prepare(make_optimizer(model, run.train, fused=True))
        tokens = torch.zeros(32, run.model.num_tokens, dtype=torch.int64)
        batch = Ready(tokens, torch.zeros(32, dtype=torch.int64), tokens)
        for step in range(2):
            with Waits() as waits:
                loss, norm = train_step(accelerator, model, optimizer, run, batch, step)
            shapes = [[str(x.device), list(x.shape)] for x in (loss, norm)]
            steps.append(dict(found=waits.found, operations=waits.count, results=shapes))
    return dict(device=device, micro_steps=micro_steps, num_classes=num_classes, steps=steps)


def what_is_seen() -> list[str]:
    """What the watcher says about four things that it must not overlook."""
    x = torch.arange(4.0)
    with Waits() as waits:
        x[x > 1]
        x.sum().item()
        x.nonzero()
        x.to("meta")
    return waits.found


if __name__ == "__main__":
    device = fake_device()
    steps = [look_at_steps(device, m, classes) for m in (1, 2) for classes in (10, 1000)]
    print(json.dumps(dict(seen=what_is_seen(), steps=steps)))
