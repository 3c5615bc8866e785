"""pytest plugin for nbval, which takes a cell with outputs but no execution count for one that was never run: nbdev_clean removes the counts.
And its kernels, one a notebook, are forked (see kernels.py)."""
from contextlib import ExitStack

from tests.kernels import forked


def pytest_configure(config):
    kernels = ExitStack()
    kernels.enter_context(forked())
    config.add_cleanup(kernels.close)


def pytest_itemcollected(item):
    if hasattr(item, "cell") and item.cell.outputs:
        item.cell.execution_count = 1
