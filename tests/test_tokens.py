"""Tokens on disk and in memory: shards, index, rows, tokenizing, and the official JSON lines."""

import gzip
import hashlib
import json
import mmap
import pickle
import struct

import numpy as np
import pytest
import torch

import rar_nb.data.tokens as tokens_module
from rar_nb.data.images import open_data
from rar_nb.data.tokens import (
    TokenData,
    content_hash,
    convert_jsonl,
    pretokenize,
    shifted,
    write_index,
    write_shard,
)
from rar_nb.tokenizer import GreyTokenizer, stack_images, to_float


def made_tokens(n=7, crops=3, length=16, v=1024, seed=0):
    rng = np.random.default_rng(seed)
    return TokenData(rng.integers(0, v, (n, crops, length)), rng.integers(0, 5, n))


def test_opening_reads_no_shard(tmp_path, monkeypatch):
    made_tokens().save(tmp_path / "t", 1024, 5)
    monkeypatch.setattr(tokens_module.np, "load", lambda *a, **k: pytest.fail("a shard was opened"))
    monkeypatch.setattr(tokens_module, "sha256", lambda *a: pytest.fail("a checksum was taken"))
    data = TokenData.open(tmp_path / "t")
    assert (len(data), data.crops, data.num_tokens) == (7, 3, 16)


def test_a_copy_for_a_worker_is_small_and_maps_by_itself(tmp_path):
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
    index = json.loads((tmp_path / "tokens.json").read_text())
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


@pytest.mark.skipif(
    not hasattr(mmap, "MADV_DONTNEED"), reason="this system can't be told to let go of mapped pages"
)
def test_reading_at_random_keeps_no_pages(tmp_path):
    "Or else a process that reads all of ImageNet's tokens seems to need their 6 GB."
    n, crops, length = 20_000, 10, 256  # 100 MB
    rng = np.random.default_rng(0)
    write_shard(
        tmp_path,
        0,
        rng.integers(0, 1024, (n, crops, length), dtype=np.uint16),
        np.zeros(n, np.uint16),
    )
    write_index(tmp_path, 1, codebook_size=1024, num_classes=1)
    data = TokenData.open(tmp_path)

    def resident():
        return (
            next(
                int(line.split()[1])
                for line in open("/proc/self/status")
                if line.startswith("RssFile")
            )
            / 1024
        )  # MiB

    before = resident()
    for _ in range(4):
        data.rows(rng.integers(0, n, 2048), rng.integers(0, crops, 2048))
    assert resident() - before < 20


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
