"""The train notebook, headless, with wrong parameters: one clear error, before anything is written.

(A module of its own, so that pytest-xdist can run it beside test_runs.)"""

import pytest
from papermill.exceptions import PapermillExecutionError

from rar_nb.play.watch import BUNDLED
from tests.kernels import execute
from tests.test_runs import SMALL


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            dict(preset="rar_z"),
            "preset = 'rar_z' is not allowed: did you mean 'rar_s'? It must be one of",
        ),
        (
            dict(epoch=3),
            "parameter = 'epoch' is not allowed: did you mean 'epochs'? It must be one of",
        ),
        (
            dict(changes={"num_layer": 3}),
            "parameter = 'num_layer' is not allowed: did you mean 'num_layers'? It must be one of",
        ),
        (dict(epochs=0), "epochs = 0 is not allowed: it must be a number above 0"),
        (dict(batch_size="many"), "batch_size = 'many' is not allowed: it must be a whole number"),
        (
            dict(batch_size=100_000),
            "batch_size = 100000 is not allowed: "
            "it must be at most the number of training images, 4500",
        ),
        (dict(overwrite="no"), "overwrite = 'no' is not allowed: it must be True or False"),
        (
            dict(batch_size=64, changes={"batch_size": 32}),
            "batch_size = 64 is not allowed: it must be left out, as changes say 32",
        ),
        (dict(data="/no/such/folder"), "data = '/no/such/folder' is not allowed: it must be"),
        (
            dict(image_size=30),
            "image_size = 30 is not allowed: it must be a multiple of the tokenizer's stride, 4",
        ),
        (
            dict(preset="digits", init_from=str(BUNDLED), changes={"adaln": False}),
            "adaln = False is not allowed: it must be True, as in",
        ),
        (
            dict(tokenizer_from="/no/such/run"),
            "tokenizer_from = '/no/such/run' is not allowed: it must be the folder of a run",
        ),
        (
            dict(tokens="/no/such/tokens"),
            "tokenizer_from = None is not allowed: it must be given with tokens",
        ),
        (
            dict(devices=5),
            "batch_size = 32 is not allowed: it must be a multiple of the number of devices, 5",
        ),
        (
            dict(trackers="mlflow"),
            "trackers = 'mlflow' is not allowed: "
            "it must be names out of tensorboard, wandb, trackio",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_train_refuses_wrong_parameters(tmp_path, wrong, message):
    with pytest.raises(PapermillExecutionError) as error:
        execute(
            "train",
            tmp_path / "out.ipynb",
            as_a_user_does=wrong == dict(preset="rar_z"),
            **({"run_dir": str(tmp_path / "run")} | SMALL | wrong),
        )
    assert message in error.value.evalue
    assert not (tmp_path / "run").exists(), "nothing is written before the parameters are checked"
