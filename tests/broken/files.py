"""Broken files and folders: configurations, tokens, images, weights, checkpoints, records."""

import gzip
import io
import json
import os
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from shutil import copytree

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as safetensors_bytes

from rar_nb.transformer import RAR, ModelConfig
from tests.broken import made, oracle
from tests.broken.cases import Case, Room, Wrong, find

ODD = [None, True, -1, 0, 1.5, float("nan"), float("inf"), "x", "", [], {}, 10**30, -(10**30)]


def same(a, b) -> bool:
    """Equal, and of the same type but for 1 and 1.0."""
    numbers = oracle.is_number(a) and oracle.is_number(b)
    equal = float(a) == float(b) if numbers else a == b
    return equal and isinstance(a, bool) == isinstance(b, bool)


# Configurations


def flat(values: dict) -> dict:
    """Fields as 'part.field'."""
    out = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            out[name] = value
    return out


def build(run):
    """Generator and tokenizer of a run, which must refuse sizes that no machine can hold."""
    find("tokenizer.make_tokenizer")(run.tokenizer)
    RAR(run.model)


def judge_config(path: Path) -> Callable:
    """The configuration must say what the file says, all of it, and that must be allowed."""

    def judge(run) -> str:
        said = flat(json.loads(path.read_bytes()))
        found = find("runs.run_folders.flat_config")(run)
        for name, value in found.items():
            how = name.startswith("devices.") or value is None or name in oracle.LATER
            if name not in said and how:
                continue  # how the work is done, nothing, or what older files do not have yet
            if name not in said:
                raise Wrong(f"{name} is not in the file, and was taken to be {value!r}")
            if not same(value, oracle.as_value(name, said[name])):
                raise Wrong(f"{name} is {value!r}, and the file says {said[name]!r}")
            if not oracle.allowed(name, value):
                raise Wrong(f"{name} = {value!r} was accepted")
            if oracle.too_large(name, value):
                build(run)
                raise Wrong(f"{name} = {value!r} was built")
        return "right"

    return judge


def config_case(what: str, content: Callable, call: str = "load_run_config(damaged file)") -> Case:
    def act(room: Room):
        path = room.write("config.json", content(room.rng))
        return judge_config(path)(find("pretrained.presets.load_run_config")(path))

    return Case(f"config/{what}", "presets", call, act, lambda outcome: outcome)


def configs() -> Iterator[Case]:
    sound = (made.finished() / "config.json").read_bytes()
    values = json.loads(sound)

    def dumped(change: Callable[[dict], object]) -> Callable:
        def content(rng):
            new = json.loads(sound)
            change(new)
            return json.dumps(new).encode()

        return content

    def put(part, field, value):
        def change(new):
            (new[part] if part else new)[field] = value

        return change

    def drop(part, field):
        return lambda new: (new[part] if part else new).pop(field)

    fields = [
        (part if isinstance(inner, dict) else None, field)
        for part, inner in values.items()
        for field in (inner if isinstance(inner, dict) else [part])
    ]
    for n, (part, field) in enumerate(fields):
        name = f"{part}.{field}" if part else field
        for k in range(4):
            value = ODD[(4 * n + k) % len(ODD)]
            yield config_case(
                f"{name}={value!r}"[:60],
                dumped(put(part, field, value)),
                f"load_run_config of a config.json with {name} = {value!r}",
            )
        yield config_case(
            f"{name}-missing", dumped(drop(part, field)), f"load_run_config without {name}"
        )
    for part in ("model", "tokenizer", "train", "sample", "devices"):
        yield config_case(f"{part}-missing", dumped(drop(None, part)), f"without {part}")
        yield config_case(f"{part}-more", dumped(put(part, "colour", 1)), f"unknown {part} field")
        for value in ([], "x", 3, None):
            yield config_case(
                f"{part}={value!r}", dumped(put(None, part, value)), f"{part} = {value!r}"
            )
    yield config_case("more", dumped(put(None, "colour", 1)), "an unknown field")
    counts = dict(flip=60, byte=20, cut=12, zero=6, hole=10, double=6)
    for how, content in [*made.spoiled(sound, counts), *made.foreign()]:
        yield config_case(how, content)
    yield config_case("bom", lambda rng: b"\xef\xbb\xbf" + sound)
    yield config_case("utf16", lambda rng: sound.decode().encode("utf-16"))
    yield from huge_configs()
    yield from places("config", "presets", "pretrained.presets.load_run_config")


def huge_configs() -> Iterator[Case]:
    """What no machine can build must be refused, not tried."""
    sizes = dict(num_layers=10**7, hidden_size=3 * 10**5, codebook_size=10**10, mlp_size=10**10)
    sizes |= dict(num_classes=10**10, num_tokens=(10**5) ** 2)
    for field, value in sizes.items():

        def act(room, field=field, value=value):
            new = json.loads((made.finished() / "config.json").read_bytes())
            new["model"][field] = value
            room.write("config.json", json.dumps(new).encode())
            for name in ("model", "tokenizer"):
                file = f"{name}.safetensors"
                room.write(file, (made.finished() / file).read_bytes())
            return find("runs.run_folders.open_run")(room.folder)

        yield Case(f"config/huge-{field}", "presets", f"open_run with {field} = {value}", act)
    for field, value in dict(width=8 * 10**6, codebook_dim=10**10, image_size=4 * 10**9).items():

        def act(room, field=field, value=value):
            new = json.loads((made.finished() / "config.json").read_bytes())
            new["tokenizer"][field] = value
            path = room.write("config.json", json.dumps(new).encode())
            found = find("pretrained.presets.load_run_config")(path)
            return find("tokenizer.make_tokenizer")(found.tokenizer)

        def judge(tokenizer, field=field):
            return "right" if field == "image_size" else "silent"  # convolutions have no size

        yield Case(
            f"config/huge-tokenizer-{field}",
            "presets",
            f"open_tokenizer, {field}={value}",
            act,
            judge,
        )


def places(kind: str, module: str, path: str, more: tuple = ()) -> Iterator[Case]:
    """Something else where a file should be."""

    def folder(room):
        (room.folder / "it").mkdir()
        return room.folder / "it"

    def pipe(room):
        os.mkfifo(room.folder / "it")
        return room.folder / "it"

    def loop(room):
        (room.folder / "it").symlink_to(room.folder / "it")
        return room.folder / "it"

    def through_file(room):
        return room.write("file", b"x") / "it"

    kinds: dict[str, Callable] = {
        "missing": lambda room: room.folder / "it",
        "folder": folder,
        "pipe": pipe,
        "loop": loop,
        "through-a-file": through_file,
        "long": lambda room: room.folder / ("x" * 300),
        "very-long": lambda room: room.folder / "/".join(["x" * 100] * 60),
        "nul": lambda room: f"{room.folder}/a\0b",
        "device": lambda room: "/dev/null",
        "endless": lambda room: "/dev/zero",
        "empty-name": lambda room: "",
        "None": lambda room: None,
        "number": lambda room: 3,
        "list": lambda room: ["a"],
        "bytes": lambda room: b"a",
    }
    for name, make in kinds.items():
        yield Case(
            f"{kind}/at-{name}",
            module,
            f"{path.rsplit('.', 1)[1]}({name} in place of the file)",
            lambda room, make=make: find(path)(make(room), *more),
        )


# JSON lines of tokens


def sound_lines() -> list[str]:
    data = made.made_up(12)
    return [
        json.dumps({"class_id": int(label), "tokens": ids[0].tolist()})
        for ids, label in zip(data.tokens, data.labels)
    ]


def strict_rows(content: bytes) -> list[tuple[int, list[int]]]:
    """What a file of JSON lines says, read by itself; ValueError if it says anything else."""
    rows = []
    for line in content.rstrip().split(b"\n"):  # blank lines may follow
        row = json.loads(line)
        if type(row["class_id"]) is not int or any(type(t) is not int for t in row["tokens"]):
            raise ValueError
        if not (0 <= row["class_id"] < made.CLASSES and row["tokens"]):
            raise ValueError
        if not all(0 <= t < made.CODES for t in row["tokens"]):
            raise ValueError
        rows.append((row["class_id"], row["tokens"]))
    if not rows or len({len(ids) for _, ids in rows}) != 1:
        raise ValueError
    return rows


def lines_case(what: str, content: Callable, name: str = "t.jsonl") -> Case:
    def act(room: Room):
        broken = content(room.rng)
        data = find("data.tokens.convert_jsonl")(
            room.write(name, broken), room.folder / "out", made.CODES, 1, made.CLASSES
        )
        data.verify()
        plain = gzip.decompress(broken) if name.endswith(".gz") else broken
        rows = [(int(c), ids[0].tolist()) for c, ids in zip(data.labels, data.tokens)]
        if rows != strict_rows(plain):
            raise Wrong("other rows than the file's")
        return "right"

    return Case(f"lines/{what}", "tokens", f"convert_jsonl of {what}", act, lambda outcome: outcome)


def lines() -> Iterator[Case]:
    rows = sound_lines()
    sound = "".join(row + "\n" for row in rows).encode()

    def with_row(text: str, at: int = 5) -> Callable:
        return lambda rng: "".join(r + "\n" for r in [*rows[:at], text, *rows[at + 1 :]]).encode()

    counts = dict(flip=60, byte=20, cut=12, zero=6, hole=12, double=8)
    for how, content in [*made.spoiled(sound, counts), *made.foreign()]:
        yield lines_case(how, content)
    ids = json.loads(rows[0])["tokens"]
    for value in [*ODD, "1", 1e2, [1], made.CLASSES, 2**31, 2**63, 2**64]:
        yield lines_case(
            f"class_id={value!r}"[:50], with_row(json.dumps({"class_id": value, "tokens": ids}))
        )
        text = json.dumps({"class_id": 1, "tokens": [value, *ids[1:]]})
        yield lines_case(f"token={value!r}"[:50], with_row(text))
        yield lines_case(
            f"tokens={value!r}"[:50], with_row(json.dumps({"class_id": 1, "tokens": value}))
        )
    for name, row in {
        "no-class": {"tokens": ids},
        "no-tokens": {"class_id": 1},
        "more": {"class_id": 1, "tokens": ids, "name": "x"},
        "longer": {"class_id": 1, "tokens": [*ids, 0]},
        "shorter": {"class_id": 1, "tokens": ids[:-1]},
        "nested": {"class_id": 1, "tokens": [ids]},
        "codes": {"class_id": 1, "tokens": [made.CODES, *ids[1:]]},
    }.items():
        yield lines_case(name, with_row(json.dumps(row)))
        yield lines_case(f"{name}-first", with_row(json.dumps(row), 0))
    for name, text in {
        "blank": "",
        "spaces": "  ",
        "comment": "# x",
        "nul": "\0",
        "cr": "\r",
    }.items():
        yield lines_case(name, with_row(text))
        yield lines_case(f"{name}-last", lambda rng, text=text: sound + text.encode() + b"\n")
    yield lines_case("crlf", lambda rng: sound.replace(b"\n", b"\r\n"))
    yield lines_case("no-last-newline", lambda rng: sound[:-1])
    yield lines_case("bom", lambda rng: b"\xef\xbb\xbf" + sound)
    yield lines_case("utf16", lambda rng: sound.decode().encode("utf-16"))
    packed = gzip.compress(sound, mtime=0)
    for how, content in made.spoiled(packed, dict(flip=24, cut=8, zero=4, hole=4, double=4)):
        yield lines_case(f"gz-{how}", content, "t.jsonl.gz")
    yield lines_case("gz-plain", lambda rng: sound, "t.jsonl.gz")
    yield lines_case("gz-twice", lambda rng: gzip.compress(packed), "t.jsonl.gz")
    yield lines_case("gz-without-ending", lambda rng: packed)
    out = made.place() / "never"
    yield from places("lines", "tokens", "data.tokens.convert_jsonl", (out, 8, 1))
    for name in ("codebook_size", "crops", "num_classes", "shard_images"):
        for value in [None, "3", 1.5, 0, -1, True, 7, float("nan"), [1]]:

            def act(room, name=name, value=value):
                given = dict(codebook_size=made.CODES, crops=1, num_classes=made.CLASSES)
                path = room.write("t.jsonl", sound)
                data = find("data.tokens.convert_jsonl")(
                    path, room.folder / "out", **given | {name: value}
                )
                if not (type(value) is int and name in ("shard_images", "num_classes")):
                    raise Wrong(f"{name} = {value!r} was accepted")
                return "right" if len(data) == 12 else "silent"

            yield Case(
                f"lines/{name}={value!r}", "tokens", f"convert_jsonl({name}={value!r})", act, str
            )


# Folders of tokens


def judge_tokens(folder: Path) -> str:
    """Open tokens as a run does, and compare all numbers with the sound ones."""
    data = find("data.tokens.TokenData").open(folder)
    data.verify()
    find("runs.run_folders.check_tokens")(made.run(), data)
    sound = find("data.tokens.TokenData").open(made.tokens() / "train")
    equal = torch.equal(data.tokens, sound.tokens) and torch.equal(data.labels, sound.labels)
    if not equal or len(data) != len(sound):
        raise Wrong("other tokens or labels than the sound ones")
    for name in ("images", "crops", "num_tokens", "codebook_size", "num_classes"):
        if data.index[name] != sound.index[name]:
            raise Wrong(f"{name} of the index is {data.index[name]!r}, not {sound.index[name]!r}")
    digest = data.index["tokenizer_sha256"]
    if digest != sound.index["tokenizer_sha256"]:
        if not isinstance(digest, str):
            raise Wrong(f"tokenizer_sha256 is {digest!r}")
        return "undetectable"  # here; a run compares it with its tokenizer
    rows = data.rows(range(len(data)))
    return "right" if torch.equal(rows[0], sound.tokens[:, 0]) else "silent"


def shard_case(what: str, change: Callable[[Path, np.random.Generator], object]) -> Case:
    def act(room: Room):
        folder = room.folder / "train"
        copytree(made.tokens() / "train", folder)
        change(folder, room.rng)
        return judge_tokens(folder)

    return Case(
        f"shards/{what}", "tokens", f"TokenData.open(folder).verify() with {what}", act, str
    )


def shards() -> Iterator[Case]:
    source = made.tokens() / "train"
    for file in ("tokens-00000.npy", "labels-00001.npy", "tokens-00001.npy"):
        sound = (source / file).read_bytes()
        for how, content in made.spoiled(
            sound, dict(flip=16, byte=6, cut=4, zero=4, hole=4, double=2)
        ):
            yield shard_case(
                f"{file}-{how}",
                lambda folder, rng, file=file, content=content: (folder / file).write_bytes(
                    content(rng)
                ),
            )
        for k in range(6):  # in the header
            yield shard_case(
                f"{file}-header-{k}",
                lambda folder, rng, file=file, sound=sound: (folder / file).write_bytes(
                    made.flip(sound, rng, 0, 128)
                ),
            )
        yield shard_case(f"{file}-missing", lambda folder, rng, file=file: (folder / file).unlink())
    yield shard_case(
        "swapped",
        lambda folder, rng: swap(folder / "tokens-00000.npy", folder / "labels-00000.npy"),
    )
    yield shard_case("pipe", pipe_in_place)
    yield from resealed()
    yield from indices()
    yield from places("shards", "tokens", "data.tokens.TokenData.open")


def swap(a: Path, b: Path):
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)


def pipe_in_place(folder: Path, rng):
    (folder / "labels-00000.npy").unlink()
    os.mkfifo(folder / "labels-00000.npy")


def reseal(folder: Path, file: str, content: bytes):
    """Write a file, and its size and checksum into the index, as a careless tool would."""
    import hashlib

    (folder / file).write_bytes(content)
    index = json.loads((folder / "tokens.json").read_bytes())
    for shard in index["shards"]:
        for kind in ("tokens", "labels"):
            if shard[kind]["file"] == file:
                shard[kind] |= dict(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / "tokens.json").write_text(json.dumps(index))


def resealed() -> Iterator[Case]:
    """Wrong content with the right size and checksum."""
    file = "tokens-00000.npy"
    sound = np.load(made.tokens() / "train" / file)
    huge = sound.copy()
    huge[3, 1, 5] = 60_000
    limit = sound.copy()
    limit[0, 0, 0] = made.CODES
    arrays = {
        "int64": sound.astype(np.int64),
        "uint8": sound.astype(np.uint8),
        "float": sound.astype(np.float32),
        "big-endian": sound.astype(">u2"),
        "fortran": np.asfortranarray(sound),
        "flat": sound.reshape(len(sound), -1),
        "more-rows": np.concatenate([sound, sound[:1]]),
        "fewer-rows": sound[:-1],
        "more-crops": np.concatenate([sound, sound], 1),
        "id-60000": huge,
        "id-V": limit,
        "objects": sound.astype(object),
        "empty": sound[:0],
    }
    for name, array in arrays.items():

        def change(folder, rng, array=array):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            reseal(folder, file, buffer.getvalue())

        case = shard_case(f"resealed-{name}", change)
        yield case
    labels = np.load(made.tokens() / "train" / "labels-00000.npy")
    for value in (made.CLASSES, 60_000):

        def change(folder, rng, value=value):
            wrong, buffer = labels.copy(), io.BytesIO()
            wrong[2] = value
            np.save(buffer, wrong)
            reseal(folder, "labels-00000.npy", buffer.getvalue())

        yield shard_case(f"resealed-label-{value}", change)
    for name in ("tokens-00000.npy", "labels-00000.npy"):
        for kind in ("zero", "text", "nothing", "npz"):

            def change(folder, rng, kind=kind, name=name):
                size = (folder / name).stat().st_size
                buffer = io.BytesIO()
                np.savez(buffer, sound)
                content = dict(
                    zero=bytes(size), text=b"x" * size, nothing=b"", npz=buffer.getvalue()
                )
                reseal(folder, name, content[kind])

            yield shard_case(f"resealed-{name}-{kind}", change)


def indices() -> Iterator[Case]:
    """Broken indices of sound shards."""
    sound = (made.tokens() / "train" / "tokens.json").read_bytes()

    def with_index(content: Callable) -> Callable:
        return lambda folder, rng: (folder / "tokens.json").write_bytes(content(rng))

    counts = dict(flip=60, byte=20, cut=12, zero=6, hole=10, double=6)
    for how, content in [*made.spoiled(sound, counts), *made.foreign()]:
        yield shard_case(f"index-{how}", with_index(content))

    def changed(change: Callable[[dict], object]) -> Callable:
        def content(rng):
            index = json.loads(sound)
            change(index)
            return json.dumps(index).encode()

        return with_index(content)

    for name in json.loads(sound):
        yield shard_case(f"index-without-{name}", changed(lambda index, name=name: index.pop(name)))
        for value in ODD:
            yield shard_case(
                f"index-{name}={value!r}"[:50],
                changed(lambda index, name=name, value=value: index.update({name: value})),
            )
    for name in ("rows", "tokens", "labels"):
        yield shard_case(
            f"index-shard-without-{name}",
            changed(lambda index, name=name: index["shards"][0].pop(name)),
        )
        for value in [None, True, -1, 0, 1.5, "x", [], {}, 17, 19, 10**30]:
            yield shard_case(
                f"index-shard-{name}={value!r}"[:50],
                changed(
                    lambda index, name=name, value=value: index["shards"][0].update({name: value})
                ),
            )
    outside = made.place() / "outside.npy"
    outside.write_bytes((made.tokens() / "train" / "tokens-00000.npy").read_bytes())
    names = [
        "",
        ".",
        "..",
        "../outside.npy",
        str(outside),
        "tokens-00001.npy",
        "a\0b",
        "x" * 300,
        None,
        3,
    ]
    for name in [*names, "labels-00000.npy", "./tokens-00000.npy", "/dev/zero", "/dev/null"]:
        yield shard_case(
            f"index-file={name!r}"[:50],
            changed(lambda index, name=name: index["shards"][0]["tokens"].update(file=name)),
        )
    for field in ("bytes", "sha256", "file"):
        yield shard_case(
            f"index-entry-without-{field}",
            changed(lambda index, field=field: index["shards"][0]["tokens"].pop(field)),
        )
        for value in (None, -1, "x", [], 1e30):
            yield shard_case(
                f"index-entry-{field}={value!r}",
                changed(
                    lambda index, field=field, value=value: index["shards"][0]["tokens"].update(
                        {field: value}
                    )
                ),
            )
    yield shard_case(
        "index-twice", changed(lambda index: index["shards"].append(index["shards"][0]))
    )
    yield shard_case("index-one-less", changed(lambda index: index["shards"].pop()))
    for when in ("before", "between", "between-large"):

        def act(room, when=when):
            folder = room.folder / "train"
            copytree(made.tokens() / "train", folder)
            if when == "between-large":  # of several pages, so that the missing ones are not there
                made.made_up(400).save(room.folder / "large", made.CODES, made.CLASSES)
                folder = room.folder / "large"
            data = find("data.tokens.TokenData").open(folder)
            data.verify()
            if when != "before":
                data.rows([0])
            os.truncate(folder / "tokens-00000.npy", 200)
            return data.rows(range(len(data)))

        yield Case(
            f"shards/truncated-{when}-reads",
            "tokens",
            "data.rows(range(len(data))) after os.truncate of a mapped shard",
            act,
        )


# Images


def encoded(name: str, **options) -> bytes:
    """A small picture in a format."""
    picture, buffer = made.picture(7, 24).crop((0, 0, 24, 20)), io.BytesIO()
    kind, mode = (name.split("-") + ["RGB"])[:2]
    if mode == "P":
        picture = picture.quantize(16)
    elif mode == "16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    picture.save(buffer, kind.upper(), **options)
    return buffer.getvalue()


KINDS = "jpeg png png-P png-16 png-RGBA bmp tiff webp gif-P ppm".split()


def pixels_of(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB") if image.mode in ("RGB", "L", "1") else image)


def png_is_sound(content: bytes) -> bool:
    """Whether all chunks of a PNG have their checksums: read by itself."""
    at, seen = 8, b""
    while seen != b"IEND":
        size, seen = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 4 : at + 8 + size]
        if struct.unpack(">I", content[at + 8 + size : at + 12 + size])[0] != zlib.crc32(body):
            return False
        at += 12 + size
    return True


def image_case(what: str, kind: str, content: Callable, suffix: str) -> Case:
    def act(room: Room):
        broken = content(room.rng)
        path = room.write(f"x.{suffix}", broken)
        load = find("data.images.load_rgb")
        image, sound = load(path), load(room.write("sound.png", encoded(kind)))
        if image.mode != "RGB":
            raise Wrong(f"mode {image.mode}")
        if image.size == sound.size and image.tobytes() == sound.tobytes():
            return "right"
        if kind.startswith("png"):
            try:
                whole = png_is_sound(broken)
            except struct.error:
                whole = False
            if not whole:
                raise Wrong("a PNG with a wrong checksum was read, and its pixels differ")
        return "undetectable"  # none of the other formats has a checksum

    return Case(f"images/{what}", "images", f"load_rgb({what})", act, str)


def images() -> Iterator[Case]:
    for kind in KINDS:
        sound = encoded(kind)
        counts = dict(flip=14, byte=4, cut=5, zero=2, hole=2)
        for how, content in made.spoiled(sound, counts):
            yield image_case(f"{kind}-{how}", kind, content, kind.split("-")[0])
        for suffix in ("jpg", "png", "gif", "tif", "txt"):
            yield image_case(f"{kind}-as-{suffix}", kind, lambda rng, sound=sound: sound, suffix)
    for how, content in made.foreign():
        yield Case(
            f"images/{how}",
            "images",
            f"load_rgb({how})",
            lambda room, content=content: find("data.images.load_rgb")(
                room.write("x.png", content(room.rng))
            ),
        )
    yield from bombs()
    yield from odd_images()
    yield from oriented()
    yield from places("images", "images", "data.images.load_rgb")


def png_of(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG whose header says what you like."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(data or bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def bombs() -> Iterator[Case]:
    """Files that say they are enormous, or are, once they are unpacked."""
    sizes = [
        (60_000, 60_000),
        (2**31 - 1, 2**31 - 1),
        (2**31 - 1, 1),
        (0, 5),
        (5, 0),
        (13_400, 13_400),
    ]
    for width, height in sizes:
        content = {
            "png": png_of(width, height),
            "ppm": b"P6\n%d %d\n255\n" % (width, height) + bytes(100),
            "bmp": encoded("bmp")[:18] + struct.pack("<ii", width, height) + encoded("bmp")[26:],
            "gif": b"GIF89a"
            + struct.pack("<HH", width % 65536, height % 65536)
            + encoded("gif-P")[10:],
        }
        for kind, broken in content.items():
            yield Case(
                f"images/bomb-{kind}-{width}x{height}",
                "images",
                f"load_rgb({kind} of {width} x {height})",
                lambda room, kind=kind, broken=broken: find("data.images.load_rgb")(
                    room.write(f"x.{kind}", broken)
                ),
                lambda image, kind=kind: "undetectable" if kind == "gif" else "silent",
            )
    comment = zlib.compress(bytes(10**8))
    text = png_of(4, 4, data=(b"\0" + bytes(12)) * 4)
    chunk = b"zTXt" + b"a\0\0" + comment
    packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    for name, at in dict(first=33, last=len(text) - 12).items():
        yield Case(
            f"images/bomb-text-{name}",
            "images",
            "load_rgb(PNG with a zTXt chunk of 100 MB)",
            lambda room, at=at: find("data.images.load_rgb")(
                room.write("x.png", text[:at] + packed + text[at:])
            ),
            lambda image: (
                "right" if image.size == (4, 4) and not np.asarray(image).any() else "silent"
            ),
        )


def odd_images() -> Iterator[Case]:
    """Sound images of every mode, with what they must look like."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (9, 11), dtype=np.uint8)
    colour = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, (9, 11, 1), dtype=np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, 2)
    on_white = (colour * (alpha / 255) + 255 * (1 - alpha / 255)).round()
    la_on_white = (rgb * (alpha / 255) + 255 * (1 - alpha / 255)).round()
    black = grey > 127
    samples = {
        "L-png": (Image.fromarray(grey), "PNG", rgb, 0),
        "L-tiff": (Image.fromarray(grey), "TIFF", rgb, 0),
        "1-png": (Image.fromarray(black), "PNG", np.repeat(black[:, :, None], 3, 2) * 255, 0),
        "1-tiff": (Image.fromarray(black), "TIFF", np.repeat(black[:, :, None], 3, 2) * 255, 0),
        "RGB-bmp": (Image.fromarray(colour), "BMP", colour, 0),
        "RGBA-png": (Image.fromarray(np.dstack([colour, alpha])), "PNG", on_white, 1),
        "RGBA-tiff": (Image.fromarray(np.dstack([colour, alpha])), "TIFF", on_white, 1),
        "LA-png": (Image.fromarray(np.dstack([grey, alpha])), "PNG", la_on_white, 1),
        "16-png": (Image.fromarray(grey.astype(np.uint16) * 257), "PNG", rgb, 0),
        "16-tiff": (Image.fromarray(grey.astype(np.uint16) * 257), "TIFF", rgb, 0),
        "F-tiff": (Image.fromarray(grey.astype(np.float32)), "TIFF", None, 0),
        "F-nan-tiff": (Image.fromarray(np.full((9, 11), np.nan, np.float32)), "TIFF", None, 0),
        "I-negative-tiff": (Image.fromarray(-grey.astype(np.int32) - 1), "TIFF", None, 0),
        "I-huge-tiff": (Image.fromarray(grey.astype(np.int32) + 2**20), "TIFF", None, 0),
        "one-pixel": (Image.new("RGB", (1, 1), "red"), "PNG", np.array([[[255, 0, 0]]]), 0),
        "one-row": (Image.new("RGB", (3000, 1), "red"), "PNG", None, 0),
    }
    for name, (image, kind, expected, tolerance) in samples.items():

        def act(room, image=image, kind=kind, expected=expected, tolerance=tolerance):
            path = room.folder / f"x.{kind.lower()}"
            image.save(path, kind)
            found = np.asarray(find("data.images.load_rgb")(path)).astype(int)
            if expected is None:
                red = found.shape == (1, 3000, 3) and (found == (255, 0, 0)).all()
                return "right" if red else "silent"
            if np.abs(found - expected).max() > tolerance:
                raise Wrong(f"off by {np.abs(found - expected).max()}")
            return "right"

        yield Case(f"images/mode-{name}", "images", f"load_rgb({name})", act, str)
    for name, content in {
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "pdf": b"%PDF-1.4\n",
        "ico": b"\0\0\1\0\1\0\x10\x10\0\0\1\0 \0\x68\4\0\0\x16\0\0\0" + bytes(2000),
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(100),
    }.items():
        for suffix in (name, "png"):
            yield Case(
                f"images/kind-{name}-as-{suffix}",
                "images",
                f"load_rgb({name})",
                lambda room, content=content, suffix=suffix: find("data.images.load_rgb")(
                    room.write(f"x.{suffix}", content)
                ),
            )


def oriented() -> Iterator[Case]:
    """EXIF: all eight orientations, and damaged blocks, which must not cost the image."""
    picture = made.picture(7, 24).crop((0, 0, 24, 20))
    plain = np.asarray(picture).astype(int)
    turned = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: plain[::-1].transpose(1, 0, 2),
        7: plain[::-1, ::-1].transpose(1, 0, 2),
        8: plain[:, ::-1].transpose(1, 0, 2),
    }
    for value in [*turned, 0, 9, 65535]:
        for kind in ("png", "webp", "tiff"):

            def act(room, value=value, kind=kind):
                exif = Image.Exif()
                exif[0x0112] = value
                path = room.folder / f"x.{kind}"
                options = dict(lossless=True) if kind == "webp" else {}
                picture.save(path, exif=exif, **options)
                found = np.asarray(find("data.images.load_rgb")(path)).astype(int)
                return "right" if np.array_equal(found, turned.get(value, plain)) else "silent"

            yield Case(
                f"images/exif-{kind}-{value}", "images", f"orientation {value} in {kind}", act, str
            )
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    for k in range(24):

        def act(room):
            broken = (
                made.flip(block, room.rng) if room.rng.random() < 0.7 else made.cut(block, room.rng)
            )
            path = room.folder / "x.png"
            picture.save(path, exif=broken)
            found = np.asarray(find("data.images.load_rgb")(path)).astype(int)
            return "right" if any(np.array_equal(found, t) for t in turned.values()) else "silent"

        yield Case(f"images/exif-damaged-{k}", "images", "load_rgb(damaged EXIF)", act, str)


# Folders of images


def folders() -> Iterator[Case]:
    """(name, what makes it, classes of the answer or None for an error)."""

    def png(path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.picture(len(path.name)).save(path, "PNG")

    def classes(folder: Path, names: list[str], count: int = 3):
        for name in names:
            for i in range(count):
                png(folder / name / f"{i}.png")

    def build(*parts: str, touch: tuple = (), extra: Callable | None = None) -> Callable:
        def make(folder: Path):
            for part in parts:
                where, _, names = part.rpartition("/") if ":" not in part else part.partition(":")
                classes(folder / where, names.split(","))
            for name in touch:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(b"x")
            if extra is not None:
                extra(folder)

        return make

    def link_loop(folder):
        (folder / "cat" / "loop.png").symlink_to(folder / "cat" / "loop.png")

    def class_loop(folder):
        (folder / "loop").symlink_to(folder)

    def pipe(folder):
        os.mkfifo(folder / "cat" / "pipe.png")

    def sock(folder):
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(f"{folder.name}/cat/s.png")  # as seen from the case's folder: a short path

    def not_utf8(folder):
        os.makedirs(os.fsencode(folder) + b"/d\xff")
        for name in ("a", "b", "c"):
            with open(os.fsencode(folder) + b"/d\xff/" + name.encode() + b".png", "wb") as file:
                made.picture(3).save(file, "PNG")

    def damaged(folder):
        (folder / "cat" / "1.png").write_bytes((folder / "cat" / "0.png").read_bytes()[:60])

    def folder_named_png(folder):
        (folder / "cat" / "x.png").mkdir()

    def long_names(folder):
        classes(folder, ["c" * 250])

    def same_in_other_case(folder):
        classes(folder / "Train", ["cat", "dog"])

    plain = build("/cat,dog")
    expected: dict[str, tuple[Callable, list[str] | None]] = {
        "plain": (plain, ["cat", "dog"]),
        "empty": (lambda folder: None, None),
        "one-class": (build("/cat"), ["cat"]),
        "train-only": (build("train:cat,dog"), ["cat", "dog"]),
        "train-val": (build("train:cat,dog", "val:cat,dog"), ["cat", "dog"]),
        "train-test": (build("train:cat,dog", "test:cat,dog"), ["cat", "dog"]),
        "train-val-test": (build("train:cat,dog", "val:cat,dog", "test:cat,dog"), ["cat", "dog"]),
        "Train-Val": (build("Train:cat,dog", "Val:cat,dog"), ["cat", "dog"]),
        "train-and-Train": (build("train:cat,dog", "Train:cat,dog"), None),
        "val-only": (build("val:cat,dog"), None),
        "val-and-valid": (build("train:cat,dog", "val:cat,dog", "valid:cat,dog"), None),
        "other-classes-in-val": (build("train:cat,dog", "val:cat,owl"), None),
        "fewer-classes-in-val": (build("train:cat,dog", "val:cat"), None),
        "split-and-class": (build("train:cat,dog", "/extra"), None),
        "too-deep": (build("outer/inner:cat,dog"), None),
        "images-in-the-folder": (build("/cat,dog", extra=lambda f: png(f / "x.png")), None),
        "only-images": (lambda f: [png(f / f"{i}.png") for i in range(5)], None),
        "empty-class": (build("/cat,dog", extra=lambda f: (f / "eel").mkdir()), None),
        "one-image-in-a-class": (build("/cat,dog", extra=lambda f: png(f / "eel" / "1.png")), None),
        "hidden-class": (build("/cat,dog,.hidden"), ["cat", "dog"]),
        "ipynb-checkpoints": (build("/cat,dog,.ipynb_checkpoints"), ["cat", "dog"]),
        "macosx": (build("/cat,dog,__MACOSX"), ["cat", "dog"]),
        "hidden-image": (
            build("/cat,dog", touch=("cat/._1.png", "cat/.DS_Store", "cat/Thumbs.db")),
            ["cat", "dog"],
        ),
        "text-in-class": (build("/cat,dog", touch=("cat/notes.txt",)), None),
        "readme-beside": (build("/cat,dog", touch=("README.md",)), ["cat", "dog"]),
        "damaged": (build("/cat,dog", extra=damaged), None),
        "named-pipe": (build("/cat,dog", extra=pipe), None),
        "socket": (build("/cat,dog", extra=sock), None),
        "link-loop": (build("/cat,dog", extra=link_loop), None),
        "class-loop": (build("/cat,dog", extra=class_loop), None),
        "folder-named-png": (build("/cat,dog", extra=folder_named_png), None),
        "not-utf8": (build("/cat,dog", extra=not_utf8), ["cat", "d\\xff", "dog"]),
        "long-names": (build("/cat,dog", extra=long_names), ["c" * 250, "cat", "dog"]),
        "in-other-case": (same_in_other_case, ["cat", "dog"]),
        "script": (build("/<script>alert(1)<_script>,dog"), ["<script>alert(1)<_script>", "dog"]),
        "mathtext": (build("/$a_{$,dog"), ["$a_{$", "dog"]),
        "newline": (build("/a\nb,dog"), ["a\\x0ab", "dog"]),
        "spaces": (build("/ ,dog"), [" ", "dog"]),
        "quotes": (build('/it\'s "so",dog'), ['it\'s "so"', "dog"]),
        "umlauts": (build("/Vögel,dog"), ["Vögel", "dog"]),
        "digits": (build("/10,9"), ["10", "9"]),
        "gif-and-upper": (
            build("/cat,dog", extra=lambda f: png(f / "cat" / "X.PNG")),
            ["cat", "dog"],
        ),
        "other-sizes": (
            build("/cat,dog", extra=lambda f: made.picture(1, 40).save(f / "cat" / "z.png")),
            ["cat", "dog"],
        ),
    }
    for name, (make, wanted) in expected.items():
        for size in (SIZE_OF_FOLDERS, None):

            def act(room, make=make, wanted=wanted, size=size, name=name):
                folder = room.folder / "images"
                folder.mkdir()
                make(folder)
                train, validation = find("data.images.open_data")(str(folder), size)
                for part in (train, validation):
                    for i in range(len(part)):
                        image, label = part[i]
                        if tuple(image.shape) != (3, made.SIDE, made.SIDE):
                            raise Wrong(f"an image of shape {tuple(image.shape)}")
                if wanted is None or sorted(train.classes) != sorted(wanted):
                    raise Wrong(f"classes {train.classes!r}")
                return "right"

            yield Case(
                f"folders/{name}" + ("" if size else "-no-size"),
                "images",
                f"open_data(folder: {name})",
                act,
                str,
            )
    for name, path in {
        "missing": "/dev/null/such/folder",
        "file": str(made.finished() / "config.json"),
        "device": "/dev/null",
        "empty-name": "",
        "nul": "a\0b",
        "long": "x" * 5000,
        "nobody": "~nosuchuser/x",
        "proc": "/proc/1/root",
    }.items():
        yield Case(
            f"folders/at-{name}",
            "images",
            f"open_data({path[:40]!r})",
            lambda room, path=path: find("data.images.open_data")(path, made.SIDE),
        )


SIZE_OF_FOLDERS = made.SIDE


# Weights


def small_model() -> RAR:
    return made.model_of(ModelConfig(CODES, 4, 2, 8, 1, 2, 8))


CODES = 5


def torch_bytes(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def hidden_numbers(content: bytes) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file (float32 only), read by itself."""
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def judge_weights(model: RAR, broken: bytes) -> str:
    sound, found = small_model().state_dict(), model.state_dict()
    if not all(t.isfinite().all() for t in found.values()):
        raise Wrong("NaN or infinite weights were loaded")
    if all(torch.equal(found[name], tensor) for name, tensor in sound.items()):
        return "right"
    if broken.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(broken)) as archive:
                damaged = archive.testzip()
        except Exception as error:  # zipfile raises almost anything on damaged archives
            damaged = repr(error)
        if damaged is not None:
            raise Wrong(f"other weights; the zip's own checksum shows the damage ({damaged})")
        return "undetectable"
    if broken[8:9] != b"{":
        return "undetectable"  # a pickle without a checksum
    said = hidden_numbers(broken)
    if set(said) == set(found) and all(
        np.array_equal(said[n], t.numpy()) for n, t in found.items()
    ):
        return "undetectable"
    raise Wrong("weights that are not those of the file")


def weights_case(what: str, content: Callable, name: str, door: str = "load_weights") -> Case:
    def act(room: Room):
        broken = content(room.rng)
        path = room.write(name, broken)
        if door == "load_weights":
            return judge_weights(
                find("pretrained.checkpoints.load_weights")(small_model(), path), broken
            )
        return judge_weights(RAR.from_pretrained(path, preset=small_model().config), broken)

    return Case(f"weights/{door}-{what}", "checkpoints", f"{door}(…, {name} with {what})", act, str)


def weights() -> Iterator[Case]:
    state = small_model().state_dict()
    sound = safetensors_bytes(state)
    header = 8 + int.from_bytes(sound[:8], "little")
    packed = torch_bytes(state)
    old = torch_bytes(state, _use_new_zipfile_serialization=False)
    counts = dict(flip=20, byte=8, cut=8, zero=5, hole=5, double=3)
    for door in ("load_weights", "from_pretrained"):
        for how, content in made.spoiled(sound, counts):
            yield weights_case(f"safetensors-{how}", content, "m.safetensors", door)
        for k in range(30):
            yield weights_case(
                f"safetensors-header-{k}",
                lambda rng: made.flip(sound, rng, 0, header),
                "m.safetensors",
                door,
            )
        for how, content in made.spoiled(packed, dict(flip=30, byte=10, cut=8, zero=5, hole=5)):
            yield weights_case(f"zip-{how}", content, "m.bin", door)
    for how, content in made.spoiled(old, dict(flip=20, byte=5, cut=6, zero=4, hole=4)):
        yield weights_case(f"old-{how}", content, "m.pt")
    for how, content in made.foreign():
        yield weights_case(how, content, "m.safetensors")
    yield from odd_weights(state)
    yield from wrapped_weights(state)
    yield from pickles()
    yield from places("weights", "checkpoints", "pretrained.checkpoints.read_weights")
    yield from broken_runs()


def odd_weights(state: dict) -> Iterator[Case]:
    """Whole files with the wrong tensors."""
    name = "blocks.0.attn.qkv.weight"
    tensor = state[name]
    poisoned, infinite = tensor.clone(), tensor.clone()
    poisoned[0, 0], infinite[1, 1] = float("nan"), float("inf")
    one = state | {name: tensor}
    changes = {
        "missing": {n: t for n, t in state.items() if n != name},
        "renamed": {("x." + n if n == name else n): t for n, t in state.items()},
        "more": state | {"x": torch.zeros(2)},
        "transposed": one | {name: tensor.T.contiguous()},
        "flat": one | {name: tensor.flatten()},
        "scalar": one | {name: torch.tensor(1.0)},
        "empty-tensor": one | {name: tensor[:0]},
        "int": one | {name: tensor.long()},
        "bool": one | {name: tensor > 0},
        "complex": one | {name: tensor.to(torch.complex64)},
        "half-nan": one | {name: (tensor * 1e9).half()},
        "nan": one | {name: poisoned},
        "inf": one | {name: infinite},
        "none": {},
    }
    for what, content in changes.items():
        for kind in ("safetensors", "zip"):
            if kind == "safetensors" and what == "complex":
                continue
            pack = safetensors_bytes if kind == "safetensors" else torch_bytes
            yield weights_case(f"{kind}-{what}", lambda rng, pack=pack, c=content: pack(c), "m.bin")

    def half(room):
        path = room.write(
            "m.safetensors", safetensors_bytes({n: t.half() for n, t in state.items()})
        )
        found = find("pretrained.checkpoints.load_weights")(small_model(), path).state_dict()
        return (
            "right"
            if all(torch.equal(found[n], t.half().float()) for n, t in state.items())
            else "silent"
        )

    yield Case("weights/half", "checkpoints", "load_weights(float16 file)", half, str)
    for what, value in {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, device="meta"),
        "parameter": torch.nn.Parameter(tensor.clone()),
        "list": [1, 2],
        "text": "x",
        "array": np.zeros(3),
    }.items():
        content = state | {name: value}
        yield weights_case(f"holding-{what}", lambda rng, c=content: torch_bytes(c), "m.bin")
    for what, whole in {
        "tensor": tensor,
        "list": [tensor],
        "text": "x",
        "None": None,
        "int": 3,
    }.items():
        yield weights_case(f"only-{what}", lambda rng, c=whole: torch_bytes(c), "m.bin")


def wrapped_weights(state: dict) -> Iterator[Case]:
    """A state dict under the keys and prefixes that trainers give it."""
    for key in ("model", "state_dict", "ema", "module", "net"):
        yield weights_case(
            f"under-{key}", lambda rng, key=key: torch_bytes({key: state, "step": 3}), "m.bin"
        )
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "model."):
        content = {prefix + name: tensor for name, tensor in state.items()}
        yield weights_case(
            f"prefix-{prefix}", lambda rng, c=content: safetensors_bytes(c), "m.safetensors"
        )
    both = {"model": state, "ema": {n: t + 1 for n, t in state.items()}}
    yield weights_case("two-models", lambda rng: torch_bytes(both), "m.bin")


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def pickles() -> Iterator[Case]:
    """Files that run code when they are read carelessly."""
    for how in ("pickle", "torch", "old-torch", "numpy", "npz"):
        for door in ("read_weights", "load_weights", "tokens", "adm_statistics"):

            def act(room, how=how, door=door):
                mark, evil = room.folder / "mark", Evil(room.folder / "mark")
                buffer = io.BytesIO()
                if how == "pickle":
                    pickle.dump({"a": evil}, buffer)
                elif how in ("torch", "old-torch"):
                    torch.save({"a": evil}, buffer, _use_new_zipfile_serialization=how == "torch")
                elif how == "numpy":
                    np.save(buffer, np.array([evil], object), allow_pickle=True)
                else:
                    np.savez(buffer, mu=np.array([evil], object), sigma=np.zeros(3))
                path = room.write(
                    "x.npz" if door == "adm_statistics" else "x.bin", buffer.getvalue()
                )
                try:
                    if door == "tokens":
                        copytree(made.tokens() / "train", room.folder / "train")
                        reseal(room.folder / "train", "tokens-00000.npy", buffer.getvalue())
                        return judge_tokens(room.folder / "train")
                    if door == "load_weights":
                        return find("pretrained.checkpoints.load_weights")(small_model(), path)
                    module = (
                        "reports.fidelity" if door == "adm_statistics" else "pretrained.checkpoints"
                    )
                    return find(f"{module}.{door}")(path)
                finally:
                    if mark.exists():
                        raise Wrong("code from the file was run")

            module = {"tokens": "tokens", "adm_statistics": "fidelity"}.get(door, "checkpoints")
            yield Case(f"pickles/{how}-{door}", module, f"{door} of a {how} file with code", act)


def broken_runs() -> Iterator[Case]:
    """Folders of finished runs with a broken part."""
    for file in ("config.json", "model.safetensors", "tokenizer.safetensors"):
        sound = (made.finished() / file).read_bytes()
        counts = dict(flip=8, cut=3, zero=3, hole=2)
        for how, content in made.spoiled(sound, counts):

            def act(room, file=file, content=content, sound=sound):
                folder = room.folder / "run"
                copytree(made.finished(), folder)
                broken = content(room.rng)
                (folder / file).write_bytes(broken)
                run, tokenizer, model = find("runs.run_folders.open_run")(folder)
                for module in (tokenizer, model):
                    if not all(t.isfinite().all() for t in module.state_dict().values()):
                        raise Wrong("NaN or infinite weights were loaded")
                if file == "config.json":
                    return judge_config(folder / file)(run)
                if (folder / "identity.json").exists() and broken != sound:
                    raise Wrong("identity.json has another checksum")
                return "undetectable"

            yield Case(
                f"runs/{file}-{how}", "run_folders", f"open_run with {file}: {how}", act, str
            )
        for what in ("missing", "folder", "empty"):

            def act(room, file=file, what=what):
                folder = room.folder / "run"
                copytree(made.finished(), folder)
                (folder / file).unlink()
                if what == "folder":
                    (folder / file).mkdir()
                if what == "empty":
                    (folder / file).write_bytes(b"")
                return find("runs.run_folders.open_run")(folder)

            yield Case(f"runs/{file}-{what}", "run_folders", f"open_run, {file} {what}", act)

    def other_order(room):
        folder = room.folder / "run"
        copytree(made.finished(), folder)
        swap(folder / "model.safetensors", folder / "tokenizer.safetensors")
        return find("runs.run_folders.open_run")(folder)

    yield Case("runs/swapped", "run_folders", "open_run, model and tokenizer swapped", other_order)


# Checkpoints of a run


def checkpoints() -> Iterator[Case]:
    source = made.checkpoints()
    for file in ("step_000020.safetensors", "step_000020.json"):
        sound = (source / file).read_bytes()
        counts = dict(flip=25, byte=8, cut=6, zero=5, hole=5, double=3)
        for how, content in [*made.spoiled(sound, counts), *made.foreign()]:
            yield checkpoint_case(f"{file}-{how}", file, content)

    def changed(name, value):
        def content(rng):
            marker = json.loads((source / "step_000020.json").read_bytes())
            marker[name] = value
            return json.dumps(marker).encode()

        return content

    for name in ("step", "bytes", "sha256", "state"):
        for value in [*ODD, 10, 21]:
            yield checkpoint_case(
                f"{name}={value!r}"[:40], "step_000020.json", changed(name, value)
            )
    for what, names in {
        "no-tensors": ["step_000020.safetensors"],
        "no-marker": ["step_000020.json"],
        "nothing": [p.name for p in source.iterdir()],
    }.items():

        def act(room, names=names, what=what):
            folder = room.folder / "checkpoints"
            copytree(source, folder)
            for name in names:
                (folder / name).unlink()
            found = find("runs.safekeeping.newest_checkpoint")(folder)
            if what == "nothing":
                return "right" if found is None else "silent"
            return "right" if found.step == 10 else "silent"

        yield Case(f"checkpoints/{what}", "safekeeping", f"newest_checkpoint, {what}", act, str)

    def all_damaged(room):
        folder = room.folder / "checkpoints"
        copytree(source, folder)
        for path in folder.glob("*.safetensors"):
            path.write_bytes(made.flip(path.read_bytes(), room.rng))
        return find("runs.safekeeping.newest_checkpoint")(folder)

    yield Case(
        "checkpoints/all-damaged", "safekeeping", "newest_checkpoint, all damaged", all_damaged
    )
    for what, tensors in {
        "nan": {"x": torch.tensor([1.0, float("nan")])},
        "inf": {"x": torch.tensor([float("inf")])},
        "none": {"x": None},
        "list": {"x": [1.0]},
    }.items():
        yield Case(
            f"checkpoints/write-{what}",
            "safekeeping",
            f"write_checkpoint with {what}",
            lambda room, tensors=tensors: find("runs.safekeeping.write_checkpoint")(
                room.folder, 1, tensors, {}
            ),
        )


def checkpoint_case(what: str, file: str, content: Callable) -> Case:
    def act(room: Room):
        folder = room.folder / "checkpoints"
        copytree(made.checkpoints(), folder)
        (folder / file).write_bytes(content(room.rng))
        found = find("runs.safekeeping.newest_checkpoint")(folder)
        sound = find("runs.safekeeping.newest_checkpoint")(made.checkpoints())
        if found.step == 10:
            return "right"  # the one before it
        tensors, wanted = found.load(), sound.load()
        same_tensors = all(torch.equal(tensors[n], t) for n, t in wanted.items())
        if not same_tensors:
            raise Wrong("other tensors")
        if (found.step, found.state) != (sound.step, sound.state):
            raise Wrong(f"step {found.step!r} with state {found.state!r}"[:200])
        return "right"

    return Case(
        f"checkpoints/{what}", "safekeeping", f"newest_checkpoint(folder), {what}", act, str
    )


# Records: metrics, requests, evaluations


def strict_row(line: bytes) -> dict | None:
    """The row of a line; None if it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and oracle.is_int(row.get("step"))
    plain = is_row and all(isinstance(v, (int, float)) for v in row.values())
    return row if plain else None


def metrics_case(what: str, content: Callable) -> Case:
    def act(room: Room):
        broken, printed = content(room.rng), io.StringIO()
        with redirect_stdout(printed):
            rows = find("runs.run_folders.read_metrics")(room.write("metrics.jsonl", broken))
        said = [strict_row(line) for line in broken.split(b"\n")[:-1]]
        if repr(rows) != repr([row for row in said if row is not None]):
            raise Wrong(f"{len(rows)} rows, which are not those of the file's {len(said)} lines")
        lost = [number for number, row in enumerate(said[:-1], 1) if row is None]
        if any(f"line {number} " not in printed.getvalue() for number in lost):
            raise Wrong(f"line {lost[0]} was left out in silence")
        return "right"

    return Case(f"metrics/{what}", "run_folders", f"read_metrics({what})", act, str)


def metrics() -> Iterator[Case]:
    sound = (made.finished() / "metrics.jsonl").read_bytes()
    counts = dict(flip=40, byte=10, cut=15, zero=10, hole=10, double=5)
    for how, content in [*made.spoiled(sound, counts), *made.foreign()]:
        yield metrics_case(how, content)
    for name, tail in {
        "torn-last": b'{"step": 7, "lo',
        "nul-last": bytes(40),
        "nul-line-last": bytes(40) + b"\n",
        "half-utf8-last": b'{"step": 7, "\xc3',
        "half-line-last": b'{"step": 7}\n\n',
    }.items():
        yield metrics_case(name, lambda rng, tail=tail: sound + tail)
    yield from places("metrics", "run_folders", "runs.run_folders.read_metrics")


REQUESTED = dict(num_samples=30, seed=0, guidance_scale=2.0, model_sha256="ab" * 32)


def request_case(what: str, content: Callable) -> Case:
    def act(room: Room):
        broken = content(room.rng)
        path = room.write("generate.json", broken)
        find("runs.run_folders.keep_request")(path, REQUESTED, "images", "*.png")
        said = json.loads(broken)
        different = [n for n, v in REQUESTED.items() if not same(said.get(n), v)]
        if different:
            raise Wrong(f"{different[0]} differs and was accepted")
        return "right"

    return Case(
        f"requests/{what}", "run_folders", f"keep_request(damaged file, …): {what}", act, str
    )


def requests() -> Iterator[Case]:
    sound = json.dumps(REQUESTED, indent=2).encode()
    counts = dict(flip=25, byte=5, cut=8, zero=4, hole=6, double=4)
    for how, content in [*made.spoiled(sound, counts), *made.foreign()]:
        yield request_case(how, content)
    for how, content in [*made.spoiled(sound, dict(cut=3, zero=2)), *made.foreign()]:
        yield pack_case(how, content)
    for how, content in [
        *made.spoiled(b'{"skipped": [], "files": []}', dict(cut=3, zero=2)),
        *made.foreign(),
    ]:
        yield Case(
            f"requests/record-{how}",
            "pretokenizer",
            f"read_record(folder, 0), shard-00000.json: {how}",
            lambda room, content=content: find("runs.pretokenizer.read_record")(
                room.write("shard-00000.json", content(room.rng)).parent, 0
            ),
            lambda record: "right" if record is None else "silent",
        )
    yield from measurements()
    yield from sweeps()


def pack_case(how: str, content: Callable) -> Case:
    def act(room: Room):
        room.write("set/generate.json", content(room.rng))
        for i in range(30):
            room.write(f"set/{i:06d}.png", encoded("png"))
        return find("runs.image_sets.pack_npz")(room.folder / "set", room.folder / "x.npz")

    return Case(f"requests/pack-{how}", "image_sets", f"pack_npz, generate.json: {how}", act)


ENTRY = {
    "kind": "imagenet_fid",
    "preset": "rar_b",
    "variant": "",
    "metric": "FID",
    "value": 1.95,
    "num_samples": 50000,
    "reference": "VIRTUAL_imagenet256_labeled.npz",
    "device": "1 × NVIDIA A100",
    "commit": "0123abc",
    "date": "2026-01-31",
    "command": "papermill …",
}


def measurements() -> Iterator[Case]:
    """Files under results/."""

    def case(what, content, wrong=True):
        def act(room):
            return find("reports.published.read_measurements")(
                room.write("r/x.json", content(room.rng)).parent
            )

        def judge(found):
            if not wrong:
                return "right"
            same_entry = [e for row in found.values() for e in row.values()]
            return "right" if all(e["value"] == 1.95 for e in same_entry) else "silent"

        return Case(f"measurements/{what}", "published", f"read_measurements: {what}", act, judge)

    sound = json.dumps(ENTRY).encode()
    for how, content in made.spoiled(sound, dict(cut=5, zero=3, hole=4)):
        yield case(how, content)
    for how, content in made.foreign():
        yield case(how, content, wrong=False)
    for name in ENTRY:
        for value in (None, [], {}, -1, "", float("nan"), True, "../x"):
            broken = json.dumps(ENTRY | {name: value}).encode()

            def act(room, broken=broken):
                room.write("r/x.json", broken)
                return find("reports.published.read_measurements")(room.folder / "r")

            def judge(found, name=name, value=value):
                harmless = name in ("device", "command", "variant") and isinstance(value, str)
                return "right" if found == {} or harmless else "silent"

            yield Case(
                f"measurements/{name}={value!r}",
                "published",
                f"{name} = {value!r} in results/x.json",
                act,
                judge,
            )


def sweeps() -> Iterator[Case]:
    """Kept points of a sweep."""
    sound = json.dumps(
        {
            "settings": {"guidance_scale": 2.0},
            "identity": {"seed": 0},
            "numbers": {"proxy_fid": 3.0},
        }
    ).encode()

    def measure(point, picture):
        return {"proxy_fid": 3.0}

    for how, content in [
        *made.spoiled(sound, dict(cut=4, zero=3, hole=3, flip=6)),
        *made.foreign(),
    ]:

        def act(room, content=content):
            points, folder = [made.run().sample], room.folder / "sweep"
            run_sweep = find("reports.report.run_sweep")
            run_sweep(points, measure, folder, {"seed": 0})
            (file,) = folder.glob("*.json")
            broken = content(room.rng)
            file.write_bytes(broken)
            return run_sweep(points, measure, folder, {"seed": 0}), broken

        def judge(answer):
            rows, broken = answer
            return "right" if rows[0].get("proxy_fid") == 3.0 else "silent"

        yield Case(f"sweeps/{how}", "report", f"run_sweep with a kept point: {how}", act, judge)


ALL = [configs, lines, shards, images, folders, weights, checkpoints, metrics, requests]


def every() -> Iterator[Case]:
    for make in ALL:
        yield from make()
