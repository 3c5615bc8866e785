"""What is broken here: small sound files, made once; and ways to break any of them."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rar_nb.data.tokens import TokenData
from rar_nb.pretrained.presets import get_preset, resolve, save_run_config
from rar_nb.runs.run_folders import save_tokenizer
from rar_nb.runs.safekeeping import write_checkpoint
from rar_nb.runs.training import train_run
from rar_nb.tokenizer import make_tokenizer
from rar_nb.transformer import RAR

SIDE, CLASSES, CODES = 16, 3, 8
CHANGES = dict(
    kind="conv_vq",
    codebook_size=CODES,
    codebook_dim=4,
    width=8,
    image_size=SIDE,
    num_samples=30,
    sample_batch_size=30,
    epochs=2,
    warmup_epochs=0,
    anneal_start=1,
    anneal_end=2,
    steps_per_epoch=3,
    batch_size=8,
    eval_every=6,
    checkpoint_every=2,
    device_batch_size=8,
)


@cache
def place() -> Path:
    """Where the sound files lie."""
    return Path(tempfile.mkdtemp(prefix="sound-"))


def remove():
    """Remove the sound files."""
    shutil.rmtree(place(), ignore_errors=True)
    for function in (place, run, images, tokens, finished, checkpoints):
        function.cache_clear()


@cache
def run():
    """A run that trains in a second, resolved."""
    return resolve(get_preset("tiny", CHANGES | dict(data=str(images()))), 30, CLASSES, 3, SIDE)


def picture(number: int, side: int = SIDE) -> Image.Image:
    """A colour image."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@cache
def images() -> Path:
    """A folder of class folders."""
    folder = place() / "images"
    for c, name in enumerate(("cat", "dog", "owl")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            picture(100 * c + i).save(folder / name / f"{i}.png")
    return folder


def made_up(count: int) -> TokenData:
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(CODES, (count, 2, 16), generator=generator)
    return TokenData(ids, torch.arange(count) % CLASSES)


@cache
def tokens() -> Path:
    """A folder with train/ (two shards) and val/."""
    from rar_nb.data.tokens import write_index, write_shard

    folder, data = place() / "tokens", made_up(30)
    for k, part in enumerate((slice(0, 18), slice(18, 30))):
        write_shard(folder / "train", k, data.tokens[part].numpy(), data.labels[part].numpy())
    write_index(folder / "train", 2, CODES, CLASSES, "conv_vq", "ab" * 32)
    made_up(6).save(folder / "val", CODES, CLASSES, "conv_vq", "ab" * 32)
    return folder


def model_of(config=None) -> RAR:
    torch.manual_seed(0)
    model = RAR(config or run().model)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@cache
def finished() -> Path:
    """The folder of a finished run."""
    folder = place() / "run"
    (folder / "samples").mkdir(parents=True)
    save_run_config(run(), folder / "config.json")
    torch.manual_seed(0)
    save_tokenizer(make_tokenizer(run().tokenizer), folder)
    data, validation = TokenData.open(tokens() / "train"), TokenData.open(tokens() / "val")
    train_run(run(), RAR(run().model), data, validation, folder, progress=False, cpu=True)
    return folder


@cache
def checkpoints() -> Path:
    """A folder of two checkpoints, of steps 10 and 20."""
    folder = place() / "checkpoints"
    for step in (10, 20):
        tensors = {"model.x": torch.full((40,), float(step)), "model.y": torch.arange(9)}
        write_checkpoint(folder, step, tensors, dict(rows=step // 2, losses=[1.5, 2.5]))
    return folder


def small_run(**changes):
    """`run` with other fields of the generator."""
    return replace(run(), model=replace(run().model, **changes))


# Ways to break bytes: each is a function of the bytes and of random numbers.


def flip(content: bytes, rng: np.random.Generator, start: int = 0, stop: int | None = None):
    """One bit of one byte is changed."""
    at = int(rng.integers(start, stop or len(content)))
    changed = bytearray(content)
    changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def other_byte(content: bytes, rng: np.random.Generator):
    """One byte becomes another."""
    at, changed = int(rng.integers(len(content))), bytearray(content)
    changed[at] = (changed[at] + int(rng.integers(1, 256))) % 256
    return bytes(changed)


def cut(content: bytes, rng: np.random.Generator):
    """The end is missing."""
    return content[: int(rng.integers(1, len(content)))]


def zero_tail(content: bytes, rng: np.random.Generator):
    """The end is zero, as after a power cut."""
    keep = int(rng.integers(len(content)))
    return content[:keep] + bytes(len(content) - keep)


def hole(content: bytes, rng: np.random.Generator):
    """Some bytes in the middle are missing."""
    start = int(rng.integers(len(content) - 1))
    return content[:start] + content[start + int(rng.integers(1, 20)) :]


def double(content: bytes, rng: np.random.Generator):
    """A part is there twice."""
    start, stop = sorted(int(i) for i in rng.integers(len(content) + 1, size=2))
    return content[:stop] + content[start:]


BROKEN: dict[str, Callable[[bytes, np.random.Generator], bytes]] = dict(
    flip=flip, byte=other_byte, cut=cut, zero=zero_tail, hole=hole, double=double
)
FOREIGN = {  # files of something else
    "empty": b"",
    "nul": bytes(64),
    "space": b" \n",
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n",
    "text": "Größe\n".encode("latin-1"),
    "utf16": json.dumps({"a": 1}).encode("utf-16"),
    "number": b"3",
    "null": b"null",
    "list": b"[1, 2]",
    "string": b'"x"',
    "object": b"{}",
    "nested": b"[" * 100_000,
    "nested_object": b'{"a":' * 100_000,
    "digits": b"1" * 10_000,
    "nan": b"NaN",
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x04\x95" + bytes(60),
}


def spoiled(content: bytes, counts: dict[str, int]) -> Iterator[tuple[str, Callable]]:
    """(name, function of random numbers to bytes) for so many of each way to break `content`."""
    for how, count in counts.items():
        for k in range(count):
            yield f"{how}-{k}", lambda rng, how=how: BROKEN[how](content, rng)


def foreign() -> Iterator[tuple[str, Callable]]:
    """The same for files of something else."""
    for name, content in FOREIGN.items():
        yield f"foreign-{name}", lambda rng, content=content: content
