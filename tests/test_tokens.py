"""Tokens on disk and in memory: shards, index, rows, tokenizing, and the official JSON lines."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

import rar_nb.data.tokens as tokens_module
from rar_nb.data.images import Digits, ImageData, Part, open_data
from rar_nb.data.tokens import (
    TokenData,
    content_hash,
    convert_jsonl,
    pretokenize,
    shifted,
    write_index,
    write_shard,
)
from rar_nb.support import InvalidValue
from rar_nb.tokenizer import GreyTokenizer, stack_images, to_float


def made_tokens(n=7, crops=3, length=16, v=1024, seed=0):
    rng = np.random.default_rng(seed)
    return TokenData(rng.integers(0, v, (n, crops, length)), rng.integers(0, 5, n))


def test_opening_reads_no_shard(tmp_path, monkeypatch):
    made_tokens().save(tmp_path / "t", 1024, 5)
    monkeypatch.setattr(tokens_module, "reading", lambda *a: pytest.fail("a shard was opened"))
    monkeypatch.setattr(tokens_module, "sha256", lambda *a: pytest.fail("a checksum was taken"))
    data = TokenData.open(tmp_path / "t")
    assert (len(data), data.crops, data.num_tokens) == (7, 3, 16)


def test_a_copy_for_a_worker_is_small_and_reads_by_itself(tmp_path):
    data = made_tokens(n=500).save(tmp_path / "t", 1024, 5)
    first = data.rows([3], [2])
    copy = pickle.dumps(data)
    assert len(copy) < 3000
    for a, b in zip(pickle.loads(copy).rows([3], [2]), first):
        assert torch.equal(a, b)


def test_shards_can_be_written_in_any_order_and_the_index_last(tmp_path):
    parts = [made_tokens(n=n, seed=n) for n in (4, 1, 6)]
    for k in (2, 0):
        write_shard(tmp_path, k, parts[k].tokens, parts[k].labels)
    with pytest.raises(ValueError, match="tokens.json"):
        TokenData.open(tmp_path)
    with pytest.raises(ValueError, match="number 0 to 2"):
        write_index(tmp_path, 3, 1024, 5)
    write_shard(tmp_path, 1, parts[1].tokens, parts[1].labels)
    write_index(tmp_path, 3, 1024, 5, "maskgit_vq", "abc")
    data = TokenData.open(tmp_path)
    assert torch.equal(data.tokens, torch.cat([p.tokens for p in parts])) and torch.equal(
        data.labels, torch.cat([p.labels for p in parts])
    )
    assert (
        data.index["tokenizer"],
        data.index["tokenizer_sha256"],
        data.index["codebook_size"],
    ) == ("maskgit_vq", "abc", 1024)
    data.verify()
    assert (
        data.index["shards"][2]["tokens"]["sha256"]
        == hashlib.sha256((tmp_path / "tokens-00002.npy").read_bytes()).hexdigest()
    )


@pytest.mark.parametrize("kind", ["tokens", "labels"])
def test_damaged_shards_are_named(tmp_path, kind):
    made_tokens().save(tmp_path, 1024, 5)
    path = tmp_path / f"{kind}-00000.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=path.name):
        TokenData.open(tmp_path).verify()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"{path.name}.*copy it again"):
        TokenData.open(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} = 'absent'"):
        TokenData.open(tmp_path)


def test_another_version_or_shape_is_refused(tmp_path):
    made_tokens().save(tmp_path, 1024, 5)
    index = json.loads((tmp_path / "tokens.json").read_text(encoding="utf-8"))
    (tmp_path / "tokens.json").write_text(json.dumps(index | {"version": 2}))
    with pytest.raises(ValueError, match="version.* = 2"):
        TokenData.open(tmp_path)
    (tmp_path / "tokens.json").write_text(json.dumps(index | {"crops": 1, "num_tokens": 48}))
    with pytest.raises(ValueError, match="shape of .*tokens-00000.npy"):
        TokenData.open(tmp_path).rows([0])


@pytest.mark.parametrize(
    "tokens,labels",
    [
        ([[[-1]]], [0]),
        ([[[0.5]]], [0]),
        ([[[65536]]], [0]),
        ([[[1]]], [-1]),
        ([[[1]]], [0, 1]),
        ([[1]], [0]),
    ],
)
def test_token_data_refuses_what_two_bytes_cannot_hold(tokens, labels):
    with pytest.raises(ValueError):
        TokenData(np.array(tokens), np.array(labels))


def test_rows_out_of_range():
    data = made_tokens()
    for bad in (
        dict(indices=[7]),
        dict(indices=[-1]),
        dict(indices=[0], crops=[3]),
        dict(indices=[0, 1], crops=[0]),
    ):
        with pytest.raises(ValueError, match="from 0 to"):
            data.rows(**bad)
    tokens, labels = data.rows([])
    assert tokens.shape == (0, 16) and labels.shape == (0,)


# Nothing is believed before it has been checked


class Rows(Dataset):
    """One row an item, as a DataLoader's workers read them."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data.rows([i], [i % self.data.crops])[0]


def sharded(folder, sizes=(4, 1, 6), crops=3, length=16):
    parts = [made_tokens(n=n, crops=crops, length=length, seed=n) for n in sizes]
    for k, part in enumerate(parts):
        write_shard(folder, k, part.tokens, part.labels)
    write_index(folder, len(sizes), 1024, 5)
    return TokenData.open(folder)


def test_rows_in_any_order_from_several_shards(tmp_path):
    data, rng = sharded(tmp_path), np.random.default_rng(0)
    for size in (1, 2, 50):
        indices, crops = rng.integers(0, 11, size), rng.integers(0, 3, size)
        tokens, labels = data.rows(indices, crops)
        assert torch.equal(tokens, data.tokens[indices, crops])
        assert torch.equal(labels, data.labels[indices]) and tokens.dtype == torch.int64
    everything = data.rows(np.repeat(np.arange(11), 3), np.tile(np.arange(3), 11))[0]
    assert torch.equal(everything, data.tokens.flatten(0, 1))


def test_workers_read_the_same(tmp_path):
    data = sharded(tmp_path)
    data.rows([3])  # so that something would have to be left out of the copies
    read = torch.cat(list(DataLoader(Rows(data), batch_size=None, num_workers=2)))
    assert torch.equal(read, torch.stack([data.tokens[i, i % 3] for i in range(11)]))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists open files")
def test_no_file_stays_open(tmp_path):
    data = sharded(tmp_path)
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        data.rows([0, 5, 10])
    data.verify()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("kind", ["tokens", "labels"])
def test_a_shard_cut_short_while_it_is_open(tmp_path, kind):
    """Mapped into memory, it would kill the process."""
    data = sharded(tmp_path)
    if kind == "tokens":
        data.rows([0])
    path = tmp_path / f"{kind}-00002.npy"
    os.truncate(path, path.stat().st_size - 2)
    read = [lambda: data.rows([10], [2]), lambda: getattr(data, kind), data.verify]
    for action in read:
        with pytest.raises(InvalidValue, match=rf"{kind}-00002.npy.*copy it again"):
            action()
    path.unlink()
    with pytest.raises(InvalidValue, match=f"{path.name} can't be read .*copy it again"):
        read[1]()


def changed(index, *path, to):
    """A copy of an index with another value at a place."""
    index = json.loads(json.dumps(index))
    inner = index
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return index


BAD_INDEX = {
    "file above": (("shards", 0, "tokens", "file"), "../other/tokens-00000.npy"),
    "absolute file": (("shards", 0, "tokens", "file"), "/etc/passwd"),
    "file in a folder": (("shards", 0, "labels", "file"), "more/labels-00000.npy"),
    "foreign name": (("shards", 0, "tokens", "file"), "config.json"),
    "labels as tokens": (("shards", 0, "tokens", "file"), "labels-00000.npy"),
    "number as a name": (("shards", 0, "tokens", "file"), 3),
    "rows": (("shards", 0, "rows"), 8),
    "no rows": (("shards", 0, "rows"), 0),
    "endless rows": (("shards", 0, "rows"), 10**30),
    "rows as text": (("shards", 0, "rows"), "7"),
    "images": (("images",), 6),
    "no images": (("images",), True),
    "crops": (("crops",), 4),
    "fraction": (("crops",), 3.5),
    "tokens": (("num_tokens",), -16),
    "codebook": (("codebook_size",), 65_537),
    "classes": (("num_classes",), 0),
    "bytes": (("shards", 0, "tokens", "bytes"), 3),
    "hash": (("shards", 0, "tokens", "sha256"), "abc"),
    "no shards": (("shards",), []),
    "shards by name": (("shards",), {"0": 1}),
    "entry": (("shards", 0, "tokens"), None),
    "tokenizer": (("tokenizer",), ["maskgit_vq"]),
}


@pytest.mark.parametrize("kind", BAD_INDEX)
def test_an_index_that_cannot_be_right(tmp_path, kind):
    made_tokens().save(tmp_path, 1024, 5)
    path, (place, value) = tmp_path / "tokens.json", BAD_INDEX[kind]
    index = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(changed(index, *place, to=value)), encoding="utf-8")
    with pytest.raises(InvalidValue, match=r"tokens.json.*copy it again, or tokenize again"):
        TokenData.open(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\0" * 500,
        b"\xff\xfe",
        b'{"version": 1}',
        b"[" * 10**5,
        b"9" * 5000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_an_index_that_is_none(tmp_path, content):
    made_tokens().save(tmp_path, 1024, 5)
    (tmp_path / "tokens.json").write_bytes(content)
    with pytest.raises(InvalidValue, match=r"tokens.json.*copy it again, or tokenize again"):
        TokenData.open(tmp_path)


def as_npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


FOREIGN = {
    "zeroed": lambda size: b"\0" * size,
    "text": lambda size: b"x" * size,
    "pickled objects": lambda size: as_npy(np.array([dict(a=1)] * 20, dtype=object)),
    "floats": lambda size: as_npy(np.zeros((7, 3, 16), np.float16)),
    "big endian": lambda size: as_npy(np.zeros((7, 3, 16), ">u2")),
    "other shape": lambda size: as_npy(np.zeros((3, 7, 16), np.uint16)),
    "columns first": lambda size: as_npy(np.asfortranarray(np.zeros((7, 3, 16), np.uint16))),
    "archive": lambda size: b"PK\3\4" + b"\0" * size,
    "version 9": lambda size: b"\x93NUMPY\x09\0" + b" " * size,
    "endless header": lambda size: b"\x93NUMPY\x02\0\xff\xff\xff\xff" + b"(" * size,
    "code": lambda size: b"\x93NUMPY\x01\0\x40\0" + b"{'descr': __import__('os')}".ljust(size),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_shard_that_holds_something_else(tmp_path, kind):
    """The error names file and remedy, and never advises to load pickles, as NumPy does."""
    made_tokens().save(tmp_path, 1024, 5)
    path, index_path = tmp_path / "tokens-00000.npy", tmp_path / "tokens.json"
    size = path.stat().st_size
    content = FOREIGN[kind](size)[:size].ljust(size, b"\0")  # of the right size
    path.write_bytes(content)
    data = TokenData.open(tmp_path)
    for action in (lambda: data.rows([0]), data.verify, lambda: data.tokens):
        with pytest.raises(InvalidValue, match="tokens-00000.npy.*again") as error:
            action()
        assert "pickle" not in str(error.value)
    index_path.unlink()
    with pytest.raises(InvalidValue, match="tokens-00000.npy"):
        write_index(tmp_path, 1, 1024, 5)
    assert not index_path.exists()


@pytest.mark.parametrize("kind, limit", [("tokens", 1024), ("labels", 5)])
def test_numbers_out_of_range_are_found(tmp_path, kind, limit):
    """Also where the checksum agrees, as somebody has made it anew; not in an embedding."""
    made_tokens().save(tmp_path, 1024, 5)
    path, index_path = tmp_path / f"{kind}-00000.npy", tmp_path / "tokens.json"
    content = bytearray(path.read_bytes())
    content[-2:] = struct.pack("<H", limit)
    path.write_bytes(content)
    with pytest.raises(InvalidValue, match=f"SHA-256 of .*{path.name}.*copy it again"):
        TokenData.open(tmp_path).verify()
    index = json.loads(index_path.read_text(encoding="utf-8"))
    index["shards"][0][kind]["sha256"] = hashlib.sha256(content).hexdigest()
    index_path.write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(InvalidValue, match=f"{path.name} = {limit} .*from 0 to {limit - 1}"):
        TokenData.open(tmp_path).verify()


def test_numbers_out_of_range_in_memory():
    ids, labels = np.full((2, 1, 4), 8), np.array([0, 3])
    for sizes in (dict(codebook_size=8), dict(num_classes=3), dict(codebook_size=0)):
        with pytest.raises(InvalidValue, match="from 0 to|at least 1"):
            TokenData(ids, labels, **sizes)
    data = TokenData(ids, labels, codebook_size=9, num_classes=4)
    assert (data.index["codebook_size"], data.index["num_classes"]) == (9, 4)
    data.verify()
    data.shards[0].tokens[0, 0, 0] = 9
    with pytest.raises(InvalidValue, match=r"range of tokens = \(8, 9\)"):
        data.verify()


def test_verify_shows_a_bar_and_reads_each_file_once(tmp_path, monkeypatch, capsys):
    data, opened, real = sharded(tmp_path), [], tokens_module.reading
    monkeypatch.setattr(tokens_module, "reading", lambda path: (opened.append(path), real(path))[1])
    data.verify(progress=True)
    assert sorted(opened) == sorted(tmp_path.glob("*.npy"))
    assert "verify: 100%" in capsys.readouterr().err
    data.verify()
    assert capsys.readouterr().err == ""


def test_one_hash_for_the_content(tmp_path):
    """In memory and saved, here and there; any other token, label or shape has another one."""
    made = made_tokens()
    saved = made.save(tmp_path / "a", 1024, 5)
    moved = TokenData.open(shutil.copytree(tmp_path / "a", tmp_path / "b"))
    tokenized_by = made.save(tmp_path / "c", 2048, 7, "another")  # is in the index, not in the hash
    assert len({made.sha256, saved.sha256, moved.sha256, tokenized_by.sha256}) == 1
    assert len(made.sha256) == 64 and set(made.sha256) <= set("0123456789abcdef")
    tokens, labels = made.tokens, made.labels
    other = tokens.clone()
    other[6, 2, 15] ^= 1
    others = [
        TokenData(other, labels),
        TokenData(tokens, (labels + 1) % 5),
        TokenData(tokens.flip(0), labels.flip(0)),
        TokenData(tokens[:6], labels[:6]),
        TokenData(tokens.view(7, 1, 48), labels),
    ]
    assert len({data.sha256 for data in [made, *others]}) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX limits the size of files")
def test_a_shard_that_does_not_fit_on_the_disk(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = made_tokens(n=5000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InvalidValue, match="tokens-00000.npy can't be written .File too large"):
            made.save(tmp_path, 1024, 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["labels-00000.npy"]
    assert made.save(tmp_path, 1024, 5).sha256 == made.sha256
    assert (tmp_path / "tokens-00000.npy").read_bytes() == as_npy(made.shards[0].tokens)


def test_somebody_else_writes_to_the_folder(tmp_path, monkeypatch):
    """An index must not be written over another program's shards."""
    mine, yours, real = made_tokens(), made_tokens(seed=1), tokens_module.write_shard

    def disturbed(folder, number, tokens, labels):
        entry = real(folder, number, tokens, labels)
        real(folder, number, yours.tokens, yours.labels)
        return entry

    write_lines(tmp_path / "x.jsonl", good_lines(mine))
    monkeypatch.setattr(tokens_module, "write_shard", disturbed)
    for write in (
        lambda: mine.save(tmp_path / "a", 1024, 5),
        lambda: convert_jsonl(tmp_path / "x.jsonl", tmp_path / "b", 1024, crops=3, num_classes=5),
    ):
        with pytest.raises(InvalidValue, match="shard 0 in .* has changed since it was written"):
            write()
    assert not list(tmp_path.glob("*/tokens.json"))


def wrong_types(tmp_path):
    good = made_tokens()
    line = write_lines(tmp_path / "x.jsonl", good_lines(good))
    convert = dict(path=line, folder=tmp_path / "t", codebook_size=1024, crops=3)
    images = open_data("digits")[1]
    yield from [
        lambda: TokenData([1], 2),
        lambda: TokenData(None, None),
        lambda: TokenData("tokens", "labels"),
        lambda: TokenData([[[1], [2, 3]]], [0]),
        lambda: TokenData(good.tokens, [None] * 7),
        lambda: TokenData(good.tokens, good.labels, "1024"),
        lambda: TokenData.open(None),
        lambda: TokenData.open(3),
        lambda: TokenData.open("x" * 5000),
        lambda: TokenData.open("a\0b"),
        lambda: TokenData.open(tmp_path / "x.jsonl"),
        lambda: good.rows("abc"),
        lambda: good.rows([0.5]),
        lambda: good.rows([[0]]),
        lambda: good.rows(None),
        lambda: good.rows(0),
        lambda: good.rows([0], crops=["first"]),
        lambda: good.save(None, 1024, 5),
        lambda: good.save(line, 1024, 5),
        lambda: good.save(line / "t", 1024, 5),
        lambda: good.save(tmp_path / "t", "1024", 5),
        lambda: write_shard(tmp_path / "t", "0", good.tokens, good.labels),
        lambda: write_shard(tmp_path / "t", 10**5, good.tokens, good.labels),
        lambda: write_shard(tmp_path / "t", 0, good.tokens[0], good.labels),
        lambda: write_index(tmp_path / "t", None, 1024, 5),
        lambda: pretokenize("grey", images),
        lambda: pretokenize(GreyTokenizer(), "digits"),
        lambda: pretokenize(GreyTokenizer(), images, shifts=-1),
        lambda: pretokenize(GreyTokenizer(), images, batch_size=0),
        lambda: pretokenize(GreyTokenizer(), images, batch_size="all"),
    ]
    changes = [
        dict(path=None),
        dict(path=tmp_path),
        dict(path="x" * 5000),
        dict(folder=7),
        dict(folder=line),
        dict(folder=tmp_path / ("x" * 300)),
        dict(codebook_size=1024.0),
        dict(codebook_size=2**16 + 1),
        dict(crops=0),
        dict(crops="ten"),
        dict(crops=True),
        dict(shard_images=None),
        dict(tokenizer=3),
    ]
    yield from (lambda c=change: convert_jsonl(**convert | c) for change in changes)


def test_wrong_types_are_refused_in_one_line(tmp_path):
    """And before anything is written."""
    for number, call in enumerate(wrong_types(tmp_path)):
        with pytest.raises(InvalidValue) as error:
            call()
        assert "\n" not in str(error.value), number
    assert not (tmp_path / "t").exists() or not list((tmp_path / "t").iterdir())


@st.composite
def damage(draw, content):
    """Some bytes of a file changed, cut off, doubled or put in."""
    kind = draw(st.sampled_from(["flip", "set", "cut", "double", "insert", "zero"]))
    place = draw(st.integers(0, len(content) - 1))
    some = draw(st.binary(min_size=1, max_size=8))
    return {
        "flip": content[:place]
        + bytes([content[place] ^ 1 << draw(st.integers(0, 7))])
        + content[place + 1 :],
        "set": content[:place] + some + content[place + len(some) :],
        "cut": content[:place],
        "double": content[:place] + content[place // 2 :],
        "insert": content[:place] + some + content[place:],
        "zero": content[:place].ljust(len(content), b"\0"),
    }[kind]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_of_a_folder_is_accepted_or_leads_into_the_depths(data):
    """Opened and verified, it holds what it held, or there is one of our errors."""
    made = made_tokens(n=3, crops=2, length=4)
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder, 1024, 5, "grey")
        name = data.draw(
            st.sampled_from(["tokens.json", "tokens-00000.npy", "labels-00000.npy"]), "name"
        )
        path = Path(folder) / name
        path.write_bytes(data.draw(damage(path.read_bytes()), "content"))
        try:
            opened = TokenData.open(folder)
            opened.verify()
        except InvalidValue as error:
            assert folder in str(error) and "pickle" not in str(error)
            return
        assert torch.equal(opened.tokens, made.tokens) and torch.equal(opened.labels, made.labels)
        assert opened.sha256 == made.sha256


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans())
def test_no_damage_of_json_lines_leads_into_the_depths(data, compress):
    content = "".join(line + "\n" for line in good_lines(made_tokens(n=3, crops=2, length=4)))
    content = gzip.compress(content.encode()) if compress else content.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.jsonl.gz" if compress else "x.jsonl")
        path.write_bytes(data.draw(damage(content), "content"))
        try:
            convert_jsonl(path, Path(folder) / "t", 1024, crops=2, num_classes=5).verify()
        except InvalidValue as error:
            assert "x.jsonl" in str(error)


def test_content_hash_is_a_plain_sha256():
    t = torch.tensor([1.0, 2.0])
    expected = hashlib.sha256(b"w torch.float32 (2,)\n" + struct.pack("<2f", 1, 2)).hexdigest()
    assert content_hash({"w": t}) == expected


# JSON lines


def write_lines(path, lines, compress=False):
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if compress else content)
    return path


def good_lines(data):
    return [
        json.dumps({"class_id": int(c), "tokens": row})
        for image, c in zip(data.tokens.tolist(), data.labels)
        for row in image
    ]


BAD_LINES = {
    "short": ('{"class_id": 1, "tokens": [1, 2]}', "number of tokens"),
    "long": (json.dumps({"class_id": 1, "tokens": [0] * 17}), "number of tokens"),
    "above": (json.dumps({"class_id": 1, "tokens": [1024] * 16}), "0 to 1023"),
    "below": (json.dumps({"class_id": 1, "tokens": [-1] * 16}), "0 to 1023"),
    "fraction": (json.dumps({"class_id": 1, "tokens": [1.5] * 16}), "whole numbers"),
    "truth": (json.dumps({"class_id": 1, "tokens": [True] * 16}), "whole numbers"),
    "nested": (json.dumps({"class_id": 1, "tokens": [[1]] * 16}), "whole numbers"),
    "none": ('{"class_id": 1}', "an object"),
    "list": ("[1, 2]", "an object"),
    "half": ('{"class_id": 1, "tok', "not JSON"),
    "blank": ("", "only the end may be blank"),
    "binary": ("\x00\x01", "not JSON"),
    "class": (json.dumps({"class_id": 5, "tokens": [0] * 16}), "from 0 to 4"),
    "class name": (json.dumps({"class_id": "1", "tokens": [0] * 16}), "from 0 to 4"),
}


@pytest.mark.parametrize("kind", list(BAD_LINES))
def test_bad_lines_are_numbered(tmp_path, kind):
    lines, (bad, message) = good_lines(made_tokens(crops=1)), BAD_LINES[kind]
    write_lines(tmp_path / "x.jsonl", lines[:4] + [bad] + lines[4:])
    with pytest.raises(ValueError, match="line 5 of .*x.jsonl") as e:
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "t", 1024, crops=1, num_classes=5)
    assert message in str(e.value)
    with pytest.raises(ValueError, match="tokens.json"):
        TokenData.open(tmp_path / "t")


def test_rows_that_do_not_belong_together(tmp_path):
    lines = good_lines(made_tokens(n=4, crops=5))
    write_lines(tmp_path / "x.jsonl", lines[:-1])
    with pytest.raises(ValueError, match="= 19 .*multiple of crops = 5"):
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "a", 1024, crops=5)
    write_lines(
        tmp_path / "x.jsonl",
        lines[:7] + [json.dumps({"class_id": 77, "tokens": [0] * 16})] + lines[8:],
    )
    with pytest.raises(ValueError, match="class_id in line 8.*crops=1"):
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "b", 1024, crops=5)


def test_conversion_goes_on_over_what_an_earlier_one_left(tmp_path):
    data = made_tokens(n=6, crops=2)
    lines = good_lines(data)
    write_lines(tmp_path / "x.jsonl", lines[:9] + ["oops"] + lines[10:])
    with pytest.raises(ValueError, match="line 10"):
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "t", 1024, crops=2, shard_images=2)
    write_lines(tmp_path / "x.jsonl", lines)
    assert torch.equal(
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "t", 1024, crops=2, shard_images=2).tokens,
        data.tokens,
    )
    with pytest.raises(ValueError, match="delete it first"):
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "t", 1024, crops=2)


def test_broken_gzip_and_empty_file(tmp_path):
    path = write_lines(tmp_path / "x.jsonl.gz", good_lines(made_tokens(n=300)), compress=True)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="x.jsonl.gz is damaged after line"):
        convert_jsonl(path, tmp_path / "t", 1024, crops=3)
    with pytest.raises(ValueError, match="lines of .*at least 1"):
        convert_jsonl(write_lines(tmp_path / "e.jsonl", []), tmp_path / "e", 1024, crops=1)
    with pytest.raises(ValueError, match="nowhere.jsonl"):
        convert_jsonl(tmp_path / "nowhere.jsonl", tmp_path / "n", 1024, crops=1)


def test_reading_at_random_takes_no_memory(tmp_path):
    "Or else a process that reads all of ImageNet's tokens seems to need their 6 GB."
    n, crops, length = 8_000, 10, 256  # 40 MB
    rng = np.random.default_rng(0)
    write_shard(
        tmp_path,
        0,
        rng.integers(0, 1024, (n, crops, length), dtype=np.uint16),
        np.zeros(n, np.uint16),
    )
    write_index(tmp_path, 1, codebook_size=1024, num_classes=1)
    data = TokenData.open(tmp_path)
    data.rows([0])
    tracemalloc.start()
    for _ in range(4):
        data.rows(rng.integers(0, n, 1024), rng.integers(0, crops, 1024))
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # the rows alone are 2.5 MB
    tracemalloc.stop()


def test_save_and_open_give_the_same(tmp_path):
    made = made_tokens(n=6, crops=2, length=49, v=60_000)
    read = made.save(tmp_path / "t", codebook_size=60_000, num_classes=6)
    assert (
        torch.equal(read.tokens, made.tokens)
        and torch.equal(read.labels, made.labels)
        and len(read) == 6
    )
    for a, b in zip(read.rows([5, 1], [1, 0]), made.rows([5, 1], [1, 0]), strict=True):
        assert torch.equal(a, b) and a.dtype == torch.int64
    with pytest.raises(ValueError, match="from 0 to 99"):
        made.save(tmp_path / "small", codebook_size=100, num_classes=6)
    with pytest.raises(ValueError, match="tokens.json"):
        TokenData.open(tmp_path / "small")


def test_finished_tokens_are_never_written_over(tmp_path):
    made = made_tokens()
    made.save(tmp_path, 1024, 5)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="delete it first"):
        write_shard(tmp_path, 1, made.tokens, made.labels)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_shard_without_labels_is_named(tmp_path):
    made = made_tokens()
    write_shard(tmp_path, 0, made.tokens, made.labels)
    (tmp_path / "labels-00000.npy").unlink()
    with pytest.raises(ValueError, match="labels-00000.npy = 'absent'"):
        write_index(tmp_path, 1, 1024, 5)


def test_all_names_of_files_are_known(tmp_path):
    """Whoever clears up a folder of tokens goes by this pattern."""
    import re

    made_tokens().save(tmp_path, 1024, 5)
    for path in tmp_path.iterdir():
        assert re.fullmatch(tokens_module.TOKEN_FILES, path.name)
    assert not re.fullmatch(tokens_module.TOKEN_FILES, "tokens-1.npy")


@pytest.mark.parametrize("end", ["\n", "\n\n", " \n\t\r\n  ", "\r\n" * 40])
@pytest.mark.parametrize("compress", [False, True])
def test_blank_lines_at_the_end_do_no_harm(tmp_path, end, compress):
    data = made_tokens(n=4, crops=2)
    content = ("\n".join(good_lines(data)) + end).encode()
    path = tmp_path / ("x.jsonl.gz" if compress else "x.jsonl")
    path.write_bytes(gzip.compress(content) if compress else content)
    converted = convert_jsonl(path, tmp_path / "t", 1024, crops=2, num_classes=5)
    assert torch.equal(converted.tokens, data.tokens)


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens_module, "LONGEST_LINE", 200)
    path = write_lines(tmp_path / "x.jsonl", [*good_lines(made_tokens(crops=1)), "0" * 1000])
    with pytest.raises(InvalidValue, match="line 8 of .*x.jsonl.*at most 200 bytes"):
        convert_jsonl(path, tmp_path / "t", 1024, crops=1)
    monkeypatch.setattr(tokens_module, "LONGEST_LINE", 10**6)
    deep = write_lines(tmp_path / "deep.jsonl", ["[" * 10**5])
    with pytest.raises(InvalidValue, match="line 1 of .*deep.jsonl is not JSON"):
        convert_jsonl(deep, tmp_path / "t", 1024, crops=1)


def test_damage_of_gzip_is_named(tmp_path):
    whole = gzip.compress("".join(line + "\n" for line in good_lines(made_tokens(n=300))).encode())
    middle = len(whole) // 2
    for name, content in dict(
        head=b"no gzip at all",
        middle=whole[:middle] + bytes(8) + whole[middle + 8 :],
        sum=whole[:-8] + bytes(8),
        tail=whole + b"more",
    ).items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(InvalidValue, match=f"{name}.jsonl.gz"):
            convert_jsonl(path, tmp_path / name, 1024, crops=3, num_classes=5)
        assert not (tmp_path / name / "tokens.json").exists()


def test_ten_lines_or_one_line_an_image(tmp_path):
    data = made_tokens(n=5, crops=10)
    write_lines(tmp_path / "x.jsonl", good_lines(data))
    ten = convert_jsonl(tmp_path / "x.jsonl", tmp_path / "ten", 1024, crops=10, shard_images=2)
    assert [shard["rows"] for shard in ten.index["shards"]] == [2, 2, 1]
    assert torch.equal(ten.tokens, data.tokens) and torch.equal(ten.labels, data.labels)
    one = convert_jsonl(tmp_path / "x.jsonl", tmp_path / "one", 1024, crops=1)
    assert torch.equal(one.tokens, data.tokens.flatten(0, 1)[:, None])


def test_content_hash_sees_every_difference():
    a, b = torch.arange(3.0), torch.zeros((), dtype=torch.bfloat16)
    assert content_hash({"a": a, "b": b}) == content_hash({"b": b, "a": a.clone()})
    others = ({"a": a}, {"b": a}, {"a": a + 1}, {"a": a[None]}, {"a": a.double()}, {"a": a, "b": b})
    assert len(set(map(content_hash, others))) == 6


# Tokenizing


def test_shifted_by_brute_force():
    images = torch.arange(1, 2 * 5 * 6 + 1).view(2, 1, 5, 6)
    ours = shifted(images, 2)
    directions = [(0, 0)] + [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    assert ours.shape == (2, 9, 1, 5, 6)
    for k, (i, j) in enumerate(directions):
        for y in range(5):
            for x in range(6):
                inside = 0 <= y - 2 * i < 5 and 0 <= x - 2 * j < 6
                expected = (
                    images[:, 0, y - 2 * i, x - 2 * j]
                    if inside
                    else torch.zeros(2, dtype=torch.int64)
                )
                assert torch.equal(ours[:, k, 0, y, x], expected)
    assert torch.equal(shifted(images, 0), images[:, None])


def test_pretokenize_is_encode_of_every_crop():
    grey, images = GreyTokenizer(), open_data("digits")[1]
    made = pretokenize(grey, images, shifts=4, batch_size=64)
    pixels = stack_images(images)
    assert made.tokens.shape == (500, 9, 49) and made.labels.tolist() == images.targets.tolist()
    assert torch.equal(made.tokens[:, 0], grey.encode(to_float(pixels, grey.value_range)))
    grids = made.tokens.view(500, 9, 7, 7)  # moving by a whole patch moves the tokens
    assert torch.equal(grids[:, 1, :-1, :-1], grids[:, 0, 1:, 1:])  # neighbour 1 goes up and left
    assert torch.equal(grids[:, 8, 1:, 1:], grids[:, 0, :-1, :-1])  # neighbour 8 down and right


def test_leftover_shards_stop_an_attempt_at_its_start(tmp_path, monkeypatch):
    """Not after all its work, and with the remedy."""
    data = made_tokens(n=9, crops=1)
    path = write_lines(tmp_path / "x.jsonl", [*good_lines(data), "oops"])
    with pytest.raises(InvalidValue, match="line 10"):
        convert_jsonl(path, tmp_path / "t", 1024, crops=1, shard_images=2)
    write_lines(path, good_lines(data))
    with monkeypatch.context() as patched:
        patched.setattr(tokens_module, "write_shard", lambda *a: pytest.fail("written"))
        with pytest.raises(InvalidValue, match="shard_images = 5 .*be 2, like the 4 .*or delete"):
            convert_jsonl(path, tmp_path / "t", 1024, crops=1, shard_images=5)
        with pytest.raises(InvalidValue, match="number 0 to 0 at most.*delete shards of an earl"):
            data.save(tmp_path / "t", 1024, 5)
    found = convert_jsonl(path, tmp_path / "t", 1024, crops=1, shard_images=2)
    assert torch.equal(found.tokens, data.tokens)


def test_leftover_shards_of_a_longer_file_are_named_with_the_remedy(tmp_path):
    data = made_tokens(n=9, crops=1)
    path = write_lines(tmp_path / "x.jsonl", [*good_lines(data), "oops"])
    with pytest.raises(InvalidValue, match="line 10"):
        convert_jsonl(path, tmp_path / "t", 1024, crops=1, shard_images=2)
    write_lines(path, good_lines(data)[:4])
    with pytest.raises(InvalidValue, match="number 0 to 1, and no others; delete shards of an ear"):
        convert_jsonl(path, tmp_path / "t", 1024, crops=1, shard_images=2)


def test_no_images_to_tokenize():
    with pytest.raises(InvalidValue, match="number of images = 0"):
        pretokenize(GreyTokenizer(), Part(ImageData(Digits()), []))
