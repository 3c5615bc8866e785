"""One training step, in two ways, for benchmarks: as the plain loop of 05_trainer takes it, and as
`train_step` of 40_devices does.

    steps = Steps(run, data)  # two models with the same weights
    with steps:
        loss = steps.textbook(step)
        loss = steps.fast(step)
"""

import torch
from torch import nn

from rar_nb.pretrained.presets import RunConfig
from rar_nb.runs.devices import Batches, make_accelerator, prepare, train_step, working_blocks
from rar_nb.support import choose_precision
from rar_nb.trainer import (
    learning_rate_at,
    make_batch,
    make_optimizer,
    seed_dropout,
    set_learning_rate,
)
from rar_nb.transformer import RAR, rar_loss


def textbook_step(model: RAR, optimizer, run: RunConfig, data, step: int) -> float:
    """What `rar_nb.trainer.train` does in one step, line by line (a test compares the two)."""
    config, device = run.train, model.lm_head.weight.device
    bf16 = choose_precision(config.precision, device) == "bf16"
    set_learning_rate(optimizer, learning_rate_at(step, config))
    seed_dropout(run.seed, step)
    batch = make_batch(data, model.config, config, run.seed, step)
    tokens, condition, orders = (x.to(device) for x in batch)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = rar_loss(model(tokens, condition, orders), tokens, orders)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def new_model(run: RunConfig, device: torch.device) -> RAR:
    """Fresh weights, the same at each call."""
    torch.manual_seed(run.seed)
    return RAR(run.model).to(device).train()


class Steps:
    """Two models with the same weights, and the two ways of taking a step with them.

    `run` is resolved (it has steps an epoch); its precision and device_batch_size hold for both.
    Inside `with steps:` the fast one's blocks are fast, and compiled if `run` says so."""

    def __init__(self, run: RunConfig, data, cpu: bool = True):
        self.run, self.data = run, data
        self.accelerator = make_accelerator(run.train.precision, cpu)
        device = self.accelerator.device
        self.plain = new_model(run, device)
        self.plain_optimizer = make_optimizer(self.plain, run.train)
        self.model = new_model(run, device)
        self.blocks = working_blocks(self.model, run.devices, self.accelerator)

    def __enter__(self):
        self.blocks.__enter__()
        self.prepared, self.optimizer, self.split = prepare(self.accelerator, self.model, self.run)
        self.prepared.train()
        self.batches = Batches(self.accelerator, self.run, self.data)
        return self

    def __exit__(self, *error):
        return self.blocks.__exit__(*error)

    def textbook(self, step: int) -> float:
        """The loss before this step of the plain loop."""
        return textbook_step(self.plain, self.plain_optimizer, self.run, self.data, step)

    def fast(self, step: int) -> float:
        """The loss before this step of `train_step`, read at its end, as the textbook reads it."""
        loss, _ = train_step(self.accelerator, self.prepared, self.optimizer, self.run,
                             self.batches, step)  # fmt: skip
        return loss.item()
