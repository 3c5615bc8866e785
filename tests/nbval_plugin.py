"""pytest plugin for nbval.

It takes a cell with outputs but no execution count for one that was never run: nbdev_clean removes the counts. Its kernels, one a notebook,
are forked (see kernels.py); and the longest notebooks come first, as in conftest.py.
"""
from contextlib import ExitStack

from tests.kernels import forked

LONG = ["10_sampler", "09_trainer", "your_images", "11_evaluate", "algorithm1", "05_vq_models", "16_watch", "19_fidelity", "04_tokenizer", "17_inpainting", "14_annealing", "15_target_aware"]


def pytest_configure(config):
    kernels = ExitStack()
    kernels.enter_context(forked())
    config.add_cleanup(kernels.close)


def pytest_itemcollected(item):
    if hasattr(item, "cell") and item.cell.outputs:
        item.cell.execution_count = 1


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
