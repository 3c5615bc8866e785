"""pytest plugin for nbval.

It takes a cell with outputs but no execution count for one that was never run: nbdev_clean removes
the counts. Its kernels, one a notebook,
are forked (see kernels.py); and the longest notebooks come first, as in conftest.py.
"""

from contextlib import ExitStack

from tests.kernels import forked

LONG = [
    "01_tokenizer",
    "make_it_yours",
    "algorithm1",
    "33_fine_tuning",
    "00_tour",
    "05_trainer",
    "07_evaluation",
    "50_fidelity",
    "44_launch",
    "31_vq_models",
    "60_kernels",
    "43_training",
    "51_report",
    "41_safekeeping",
    "40_devices",
    "06_sampler",
    "17_browser_model",
    "12_target_aware",
    "03_embeddings",
    "14_inpainting",
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
