"""Order of the modules, for two processes that share them (`make test`)."""

# Longest first, so that neither process ends with a long module while the other has nothing left; about seconds on one core each.
LONG = {"test_browser": 240, "test_runs": 130, "test_runs_evaluate": 75, "test_fidelity": 70, "test_trainer_devices": 65, "test_runs_pretokenize": 55,
        "test_pretokenizer": 50, "test_refusals": 40, "test_launch": 35, "test_checkpoints": 25, "test_properties": 15}  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: -LONG.get(item.path.stem, 0))
