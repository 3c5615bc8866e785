"""The pretokenize notebook, headless: from another folder, also with wrong parameters."""

import json

import pytest
from papermill.exceptions import PapermillExecutionError

from rar_nb.data.images import Digits
from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import RunConfig, save_run_config
from rar_nb.tokenizer import GreyTokenizer, TokenizerConfig
from tests.kernels import execute


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """30 digits of two classes as files, one of them torn, and the folder of a run."""
    folder, digits = tmp_path_factory.mktemp("elsewhere"), Digits()
    for c in (3, 8):
        (folder / "images" / str(c)).mkdir(parents=True)
        for i in range(15):
            digits[500 * c + i][0].save(folder / "images" / str(c) / f"{i:02d}.png")
    (folder / "images" / "3" / "00.png").write_bytes(b"torn")
    grey = TokenizerConfig("grey", codebook_size=8, channels=3)
    save_run_config(RunConfig("tiny", tokenizer=grey), folder / "run" / "config.json")
    save_weights(GreyTokenizer(grey), folder / "run" / "tokenizer.safetensors")
    return folder


def pretokenize(given, folder, as_a_user_does, **changes):
    parameters = dict(
        data=str(given / "images"),
        tokenizer=str(given / "run"),
        part="all",
        shard_images=8,
        max_failed_share=0.1,
        cpu=True,
    )
    execute("pretokenize", folder / "made.ipynb", as_a_user_does, **parameters | changes)


@pytest.mark.parametrize("crops, processes, count", [("ten", 2, 10), ("centre", 1, 2)])
def test_pretokenize(given, tmp_path, crops, processes, count):
    pretokenize(given, tmp_path, processes == 1, out="mine", crops=crops, processes=processes)
    data = TokenData.open(
        tmp_path / "mine"
    )  # a relative path is seen from the folder it was run in
    data.verify()
    assert (len(data), data.crops, data.num_tokens, len(data.index["shards"])) == (29, count, 49, 4)
    assert data.labels.bincount().tolist() == [14, 15]
    assert json.loads((tmp_path / "mine" / "skipped.json").read_text(encoding="utf-8"))["files"][0][
        "file"
    ] == str(given / "images" / "3" / "00.png")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            dict(crop="ten"),
            "parameter = 'crop' is not allowed: did you mean 'crops'? It must be one of",
        ),
        (dict(crops="five"), "crops = 'five' is not allowed: it must be one of ten, centre, one"),
        (
            dict(tokenizer="/no/such/run"),
            "tokenizer = '/no/such/run' is not allowed: it must be one of maskgit_vq, llamagen_vq, "
            "or the folder of a finished run",
        ),
        (
            dict(image_size=30),
            "image_size = 30 is not allowed: it must be a multiple of the tokenizer's stride, 4",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_pretokenize_refuses_wrong_parameters(given, tmp_path, wrong, message):
    with pytest.raises(PapermillExecutionError) as error:
        pretokenize(given, tmp_path, "crop" in wrong, **dict(out=str(tmp_path / "tokens")) | wrong)
    assert message in error.value.evalue
    assert not (tmp_path / "tokens").exists(), (
        "nothing is written before the parameters are checked"
    )
