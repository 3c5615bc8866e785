"""The longest modules first, so that of two processes that share them (`make test`) none is left
with a long one at the end."""

import pytest
import torch

LONG = [
    "test_jupyterlab",
    "test_voila",
    "test_site",
    "test_runs",
    "test_runs_evaluate",
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
        "test_inpainting", "test_cost", "test_commands", "test_images", "test_report",
        "test_study_runs", "test_browser_model", "test_browser_model_lab"]  # fmt: skip


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out by `make quick`")
    config.addinivalue_line("markers", "cuda: needs a GPU; `make gpu` runs them")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture
def one_thread():
    """Sums do not depend on the machine: torch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
