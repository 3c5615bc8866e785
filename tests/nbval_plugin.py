"""pytest plugin for nbval.

It takes a cell with outputs but no execution count for one that was never run: nbdev_clean removes
the counts. Its kernels, one a notebook,
are forked (see kernels.py); and the longest notebooks come first, as in conftest.py.
"""

from contextlib import ExitStack

from tests.kernels import forked

LONG = [
    "your_images",
    "make_it_yours",
    "00_tour",
    "06_sampler",
    "05_trainer",
    "07_evaluation",
    "algorithm1",
    "31_vq_models",
    "13_watch",
    "50_fidelity",
    "01_tokenizer",
    "14_inpainting",
    "11_annealing",
    "12_target_aware",
]


def pytest_configure(config):
    kernels = ExitStack()
    kernels.enter_context(forked())
    config.add_cleanup(kernels.close)


def pytest_itemcollected(item):
    if hasattr(item, "cell") and item.cell.outputs:
        item.cell.execution_count = 1


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
