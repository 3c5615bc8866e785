"""The longest modules first, so that of two processes that share them (`make test`) none is left with a long one at the end."""

LONG = ["test_browser", "test_runs", "test_runs_evaluate", "test_commands", "test_trainer_devices", "test_fidelity", "test_pretokenizer", "test_runs_pretokenize", "test_launch", "test_refusals", "test_checkpoints"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
