"""The longest modules first, so that of two processes that share them (`make test`) none is left
with a long one at the end."""

from pathlib import Path

import pytest
import torch

LONG = [
    "browser/test_jupyterlab",
    "browser/test_voila",
    "browser/test_browser_model",
    "browser/test_site",
    "test_runs",
    "test_runs_evaluate",
    "browser/test_static_page",
    "test_commands",
    "test_training",
    "test_fidelity",
    "test_pretokenizer",
    "test_runs_pretokenize",
    "test_kill",
    "test_launch",
    "test_image_sets",
    "test_refusals",
    "test_checkpoints",
]

SLOW = [*LONG, "test_devices", "test_vq_models", "test_kernels", "test_algorithm1", "test_watch",
        "test_inpainting", "test_cost", "test_images", "test_report", "test_study_runs",
        "test_browser_model", "test_site", "test_wheel"]  # fmt: skip
FIRST = [*SLOW, "test_evaluation", "test_study", "test_benchmarks", "test_trainer"]
TESTS = Path(__file__).parent


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out by `make quick`")
    config.addinivalue_line("markers", "cuda: needs a GPU; `make gpu` runs them")


def module_of(item) -> str:
    """A test's module, from this folder on."""
    path = item.path.with_suffix("")
    return path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else path.stem


def pytest_collection_modifyitems(items):
    names = {item: module_of(item) for item in items}
    for item, name in names.items():
        if name in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: FIRST.index(names[item]) if names[item] in FIRST else len(FIRST))


@pytest.fixture
def set_threads():
    """Sets how many threads torch uses; after the test there are as many as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(set_threads):
    """Sums do not depend on the machine: torch computes on one thread."""
    set_threads(1)
