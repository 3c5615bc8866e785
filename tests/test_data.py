"""Images in, whatever they come from: formats, folders, torchvision's files, crops, token folders and the official JSON lines."""
import gzip
import hashlib
import json
import mmap
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

import rar_nb.data as data_module
from rar_nb.pretrained.presets import get_preset, resolve
from rar_nb.data.images import (
    ImageData,
    center_crop,
    load_rgb,
    open_data,
    ten_crop,
    ten_crop_size,
    to_rgb,
    torchvision,
)
from rar_nb.data.tokens import TokenData, content_hash, convert_jsonl, write_index, write_shard
from rar_nb.trainer import batch_indices
from rar_nb.tokenizer import stack_images


def picture(width, height, seed=0):
    """A smooth colour image without symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    a, b, c = np.random.default_rng(seed).uniform(2, 7, 3)
    waves = np.stack([np.sin(a * x + b * y), np.cos(c * x * y + a), np.sin(b * x - c * y)], -1)
    return Image.fromarray(((waves + 1) * 127.5).astype(np.uint8))


def save_folder(root, classes=("cat", "dog"), count=3, size=(20, 17)):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(*size, seed=10 * c + i).save(root / name / f"{i}.png")
    return root


# Crops

def adm_center_crop(image, size):
    """ADM's steps written anew on arrays: box halvings as means of 2 x 2 pixels, Pillow for the bicubic step alone."""
    a = np.asarray(image).astype(np.int64)
    while min(a.shape[:2]) >= 2 * size:
        a = a[: a.shape[0] // 2 * 2, : a.shape[1] // 2 * 2]
        a = (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2] + 2) // 4
    scale = size / min(a.shape[:2])
    width, height = round(a.shape[1] * scale), round(a.shape[0] * scale)
    a = np.asarray(Image.fromarray(a.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (a.shape[0] - size) // 2, (a.shape[1] - size) // 2
    return a[top : top + size, left : left + size]


@pytest.mark.parametrize("width,height", [(300, 200), (200, 300), (128, 128), (66, 250), (64, 64), (130, 64)])
def test_center_crop_on_even_sides(width, height):
    ours = np.asarray(center_crop(picture(width, height), 32)).astype(int)
    assert ours.shape == (32, 32, 3)
    # Pillow rounds between its two passes, so a mean of four may differ by one, once a halving
    assert np.abs(ours - adm_center_crop(picture(width, height), 32)).max() <= 3


@pytest.mark.parametrize("width,height", [(301, 199), (199, 301), (563, 281), (97, 97), (31, 45), (5, 3), (1, 1), (3, 50)])
@pytest.mark.parametrize("size", [32, 33])
def test_center_crop_of_odd_and_tiny_images(width, height, size):
    """By a ramp across the longer side: what remains is its middle, to within a pixel's step."""
    across = np.arange(width) / max(1, width - 1) * 255
    image = Image.fromarray(np.broadcast_to(across, (height, width)).astype(np.uint8))
    crop = center_crop(image, size)
    assert crop.size == (size, size) and crop.mode == "L"
    if width > 40:
        middle = np.asarray(crop)[size // 2].astype(float)
        share = min(1, height / width)  # of the ramp that a crop of full height shows
        step = 255 / width * max(1, height / size)
        assert abs(middle.mean() - 127.5) < 2 + step
        assert abs((middle[-1] - middle[0]) - 255 * share) < 6 + 2 * step


@pytest.mark.parametrize("size", [16, 48, 64, 256])
def test_ten_crops_are_torchvisions(size):
    image = center_crop(picture(301, 333), ten_crop_size(size))
    theirs = [np.asarray(x) for x in torchvision.transforms.functional.ten_crop(image, size)]
    ours = ten_crop(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], size)
    assert ours.shape == (1, 10, 3, size, size) and ours.dtype == torch.uint8
    np.testing.assert_array_equal(ours[0].permute(0, 2, 3, 1).numpy(), np.stack(theirs))


def test_sizes_of_ten_crops():
    assert [ten_crop_size(s) for s in (10, 64, 256, 384, 512)] == [11, 70, 281, 422, 563]


# One form

COLOR = (200, 100, 50)


def in_mode(mode):
    """A 5 x 4 image of one colour in `mode`, and the RGB it must become (within 2)."""
    rgb = Image.new("RGB", (5, 4), COLOR)
    grey = 120  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2 is not used: the modes get their own value
    if mode == "RGB": return rgb, COLOR
    if mode in ("1", "L", "LA"): return Image.new("L", (5, 4), grey if mode != "1" else 255).convert(mode), (grey if mode != "1" else 255,) * 3
    if mode == "I;16": return Image.fromarray(np.full((4, 5), grey * 257, np.uint16)), (grey,) * 3
    if mode == "I": return Image.fromarray(np.full((4, 5), grey * 257, np.int32)), (grey,) * 3
    if mode == "P": return rgb.convert("P", palette=Image.Palette.ADAPTIVE), COLOR
    if mode == "P transparent":
        p = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
        p.info["transparency"] = bytes(256)  # every entry is invisible, its colour stays
        return p, COLOR
    if mode == "RGBA": return Image.new("RGBA", (5, 4), (*COLOR, 10)), COLOR
    if mode in ("CMYK", "YCbCr", "HSV"): return rgb.convert(mode), COLOR


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["RGB", "1", "L", "LA", "I;16", "I", "P", "P transparent", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_any_mode_to_rgb(mode):
    image, expected = in_mode(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (5, 4) and np.asarray(rgb).dtype == np.uint8
    assert np.abs(np.asarray(rgb).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("ending,mode", [
    ("png", "1"), ("png", "L"), ("png", "LA"), ("png", "I;16"), ("png", "P"), ("png", "P transparent"), ("png", "RGB"), ("png", "RGBA"),
    ("jpg", "L"), ("jpg", "RGB"), ("jpg", "CMYK"), ("tif", "I;16"), ("tif", "CMYK"), ("bmp", "P"), ("webp", "RGBA"), ("pgm", "I;16"),
])
def test_any_file_to_rgb(tmp_path, ending, mode):
    image, expected = in_mode(mode)
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    image.save(tmp_path / f"x.{ending}", **options)
    rgb = load_rgb(tmp_path / f"x.{ending}")
    assert rgb.mode == "RGB" and rgb.size == (5, 4)
    assert np.abs(np.asarray(rgb).astype(int) - expected).max() <= 4  # JPEG


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.arange(0, 65536, 7, dtype=np.uint16)[:9000].reshape(90, 100)
    Image.fromarray(values).save(tmp_path / "deep.png")
    ours = np.asarray(load_rgb(tmp_path / "deep.png"))
    np.testing.assert_array_equal(ours[..., 0], np.floor(values / 65535 * 255 + 0.5))
    assert (ours == ours[..., :1]).all()
    with pytest.raises(ValueError, match="0 to 65,535"):
        to_rgb(Image.fromarray(np.array([[0, 70_000]], np.int32)))


def test_the_turn_in_exif_is_not_applied(tmp_path):
    """As ADM and torchvision's ImageFolder read it, and so the published tokens."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to view
    picture(20, 10).save(tmp_path / "turned.png", exif=exif)
    assert Image.open(tmp_path / "turned.png").getexif()[0x0112] == 6
    assert load_rgb(tmp_path / "turned.png").size == (20, 10)
    np.testing.assert_array_equal(np.asarray(load_rgb(tmp_path / "turned.png")), np.asarray(torchvision.datasets.folder.pil_loader(tmp_path / "turned.png")))


@pytest.mark.parametrize("damage", ["empty", "text", "half png", "half jpg", "flipped"])
def test_damaged_files_are_named(tmp_path, damage):
    name = tmp_path / ("x.jpg" if "jpg" in damage else "x.png")
    picture(64, 48).save(name)
    content = bytearray(name.read_bytes())
    if damage == "empty": content = b""
    if damage == "text": content = b"not an image at all"
    if "half" in damage: content = content[: len(content) // 2]
    if damage == "flipped": content[len(content) // 2] ^= 255
    name.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} can't be read as an image"):
        load_rgb(name)


# Folders

def test_folder_without_parts(tmp_path):
    train, held = open_data(str(save_folder(tmp_path, count=20)), image_size=16)
    assert train.classes == held.classes == ["cat", "dog"]
    assert np.bincount(train.targets).tolist() == [18, 18] and np.bincount(held.targets).tolist() == [2, 2]
    assert stack_images(held).shape == (4, 3, 16, 16)
    assert held.data.name(int(held.indices[0])).endswith("8.png")  # names are sorted as text, so 8 and 9 are last
    np.testing.assert_array_equal(held[0][0].permute(1, 2, 0).numpy(), np.asarray(center_crop(picture(20, 17, seed=8), 16)))


def test_folder_with_train_and_val(tmp_path):
    save_folder(tmp_path / "train", count=4)
    save_folder(tmp_path / "val", count=1)
    train, held = open_data(str(tmp_path), image_size=16)
    assert (len(train), len(held)) == (8, 2)


def test_val_with_other_classes(tmp_path):
    """Labels are places in the sorted list of classes, so they would silently mean something else."""
    save_folder(tmp_path / "train", classes=("cat", "dog"))
    save_folder(tmp_path / "val", classes=("ant", "dog"))
    with pytest.raises(ValueError, match="classes of .*val"):
        open_data(str(tmp_path), image_size=16)


def test_mixed_sizes_and_modes(tmp_path):
    save_folder(tmp_path)
    for i, mode in enumerate(["1", "L", "I;16", "P transparent", "RGBA"]):
        in_mode(mode)[0].resize((9 + i, 40), Image.Resampling.NEAREST).save(tmp_path / "cat" / f"z{i}.png")
    train, held = open_data(str(tmp_path), image_size=12)
    assert stack_images(train).shape[1:] == stack_images(held).shape[1:] == (3, 12, 12)
    with pytest.raises(ValueError, match=r"size of .*\.png = .*give image_size"):
        stack_images(open_data(str(tmp_path))[0])


def test_empty_class_folder(tmp_path):
    (save_folder(tmp_path) / "emu").mkdir()
    with pytest.raises(ValueError, match="emu"):
        open_data(str(tmp_path), image_size=16)


def test_other_file_in_a_class_folder(tmp_path):
    save_folder(tmp_path)
    (tmp_path / "dog" / ".hidden").write_text("left out, like macOS's .DS_Store")
    open_data(str(tmp_path), image_size=16)
    (tmp_path / "dog" / "notes.txt").write_text("about dogs")
    with pytest.raises(ValueError, match="notes.txt.*take it out"):
        open_data(str(tmp_path), image_size=16)


def test_corrupt_image_in_a_folder(tmp_path):
    save_folder(tmp_path, count=30)
    bad = tmp_path / "cat" / "15.png"
    bad.write_bytes(bad.read_bytes()[:100])
    train, _ = open_data(str(tmp_path), image_size=16)
    with pytest.raises(ValueError, match=f"{bad} can't be read"):
        stack_images(train)


def test_class_with_one_image(tmp_path):
    save_folder(tmp_path, count=1)
    with pytest.raises(ValueError, match="more than 1"):
        open_data(str(tmp_path), image_size=16)


def test_stride_that_does_not_divide():
    with pytest.raises(ValueError, match="image_size = 30 .*multiple of the tokenizer's stride, 4"):
        resolve(get_preset("digits"), 5000, 10, 1, 30)


# torchvision's file formats, made here; nothing is downloaded

def idx(array):
    """MNIST's format: two zero bytes, type 8 (uint8), dimensions, sizes (big endian), values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("name,folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files(tmp_path, name, folder):
    """torchvision checks only that the unpacked files are there, so these need no checksum."""
    rng, raw = np.random.default_rng(0), tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    made = {}
    for part, n in (("train", 30), ("t10k", 10)):
        made[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(made[part][0]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(made[part][1]))
    for data, part in zip(open_data(name, root=tmp_path), ("train", "t10k")):
        assert data.channels == 1 and len(data.classes) == 10
        np.testing.assert_array_equal(stack_images(data)[:, 0].numpy(), made[part][0])
        np.testing.assert_array_equal(data.targets, made[part][1])


def test_cifar10_files(tmp_path, monkeypatch):
    """torchvision checks MD5 sums of the real files; here its table gets those of the made ones."""
    kind, rng, folder = torchvision.datasets.CIFAR10, np.random.default_rng(0), tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    pixels = {name: rng.integers(0, 256, (10, 3072), dtype=np.uint8) for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]}
    listed = [write(name, {"data": values, "labels": list(range(10))}) for name, values in pixels.items()]
    meta = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(kind, "train_list", listed[:5])
    monkeypatch.setattr(kind, "test_list", listed[5:])
    monkeypatch.setattr(kind, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    train, held = open_data("cifar10", root=tmp_path)
    assert (len(train), len(held), train.channels, train.size) == (50, 10, 3, 32)
    np.testing.assert_array_equal(stack_images(held).flatten(1).numpy(), pixels["test_batch"])
    np.testing.assert_array_equal(stack_images(train)[10:20].flatten(1).numpy(), pixels["data_batch_2"])
    (folder / "data_batch_3").write_bytes(b"half a download")
    with pytest.raises(ValueError, match="download=True"):
        open_data("cifar10", root=tmp_path)


# Token folders

def made_tokens(n=7, crops=3, length=16, v=1024, seed=0):
    rng = np.random.default_rng(seed)
    return TokenData(rng.integers(0, v, (n, crops, length)), rng.integers(0, 5, n))


def test_opening_reads_no_shard(tmp_path, monkeypatch):
    made_tokens().save(tmp_path / "t", 1024, 5)
    monkeypatch.setattr(data_module.np, "load", lambda *a, **k: pytest.fail("a shard was opened"))
    monkeypatch.setattr(data_module, "sha256", lambda *a: pytest.fail("a checksum was taken"))
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
    assert torch.equal(data.tokens, torch.cat([p.tokens for p in parts])) and torch.equal(data.labels, torch.cat([p.labels for p in parts]))
    assert (data.index["tokenizer"], data.index["tokenizer_sha256"], data.index["codebook_size"]) == ("maskgit_vq", "abc", 1024)
    data.verify()
    assert data.index["shards"][2]["tokens"]["sha256"] == hashlib.sha256((tmp_path / "tokens-00002.npy").read_bytes()).hexdigest()


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
    with pytest.raises(ValueError, match="content of .*tokens-00000.npy"):
        TokenData.open(tmp_path).rows([0])


@pytest.mark.parametrize("tokens,labels", [([[[-1]]], [0]), ([[[0.5]]], [0]), ([[[65536]]], [0]), ([[[1]]], [-1]), ([[[1]]], [0, 1]), ([[1]], [0])])
def test_token_data_refuses_what_two_bytes_cannot_hold(tokens, labels):
    with pytest.raises(ValueError):
        TokenData(np.array(tokens), np.array(labels))


def test_rows_out_of_range():
    data = made_tokens()
    for bad in (dict(indices=[7]), dict(indices=[-1]), dict(indices=[0], crops=[3]), dict(indices=[0, 1], crops=[0])):
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
    return [json.dumps({"class_id": int(c), "tokens": row}) for image, c in zip(data.tokens.tolist(), data.labels) for row in image]


BAD_LINES = {
    "short": ('{"class_id": 1, "tokens": [1, 2]}', "number of tokens"), "long": (json.dumps({"class_id": 1, "tokens": [0] * 17}), "number of tokens"),
    "above": (json.dumps({"class_id": 1, "tokens": [1024] * 16}), "0 to 1023"), "below": (json.dumps({"class_id": 1, "tokens": [-1] * 16}), "0 to 1023"),
    "fraction": (json.dumps({"class_id": 1, "tokens": [1.5] * 16}), "whole numbers"), "truth": (json.dumps({"class_id": 1, "tokens": [True] * 16}), "whole numbers"),
    "nested": (json.dumps({"class_id": 1, "tokens": [[1]] * 16}), "whole numbers"), "none": ('{"class_id": 1}', "an object"), "list": ("[1, 2]", "an object"),
    "half": ('{"class_id": 1, "tok', "not JSON"), "blank": ("", "not JSON"), "binary": ("\x00\x01", "not JSON"),
    "class": (json.dumps({"class_id": 5, "tokens": [0] * 16}), "from 0 to 4"), "class name": (json.dumps({"class_id": "1", "tokens": [0] * 16}), "from 0 to 4"),
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
    write_lines(tmp_path / "x.jsonl", lines[:7] + [json.dumps({"class_id": 77, "tokens": [0] * 16})] + lines[8:])
    with pytest.raises(ValueError, match="class_id in line 8.*crops=1"):
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "b", 1024, crops=5)


def test_conversion_goes_on_over_what_an_earlier_one_left(tmp_path):
    data = made_tokens(n=6, crops=2)
    lines = good_lines(data)
    write_lines(tmp_path / "x.jsonl", lines[:9] + ["oops"] + lines[10:])
    with pytest.raises(ValueError, match="line 10"):
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "t", 1024, crops=2, shard_images=2)
    write_lines(tmp_path / "x.jsonl", lines)
    assert torch.equal(convert_jsonl(tmp_path / "x.jsonl", tmp_path / "t", 1024, crops=2, shard_images=2).tokens, data.tokens)
    with pytest.raises(ValueError, match="delete it first"):
        convert_jsonl(tmp_path / "x.jsonl", tmp_path / "t", 1024, crops=2)


def test_broken_gzip_and_empty_file(tmp_path):
    path = write_lines(tmp_path / "x.jsonl.gz", good_lines(made_tokens(n=300)), compress=True)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="breaks off after line"):
        convert_jsonl(path, tmp_path / "t", 1024, crops=3)
    with pytest.raises(ValueError, match="lines of .*at least 1"):
        convert_jsonl(write_lines(tmp_path / "e.jsonl", []), tmp_path / "e", 1024, crops=1)
    with pytest.raises(ValueError, match="nowhere.jsonl"):
        convert_jsonl(tmp_path / "nowhere.jsonl", tmp_path / "n", 1024, crops=1)


def test_an_epoch_counts_images_not_crops():
    """The published run: 625 steps of 2048 are one look at each of 1,281,167 images, whatever the crops."""
    steps = [batch_indices(s, 1_281_167, 2048, 625, seed=42) for s in (0, 311, 624)]
    seen = np.concatenate(steps)
    assert len(np.unique(seen)) == 3 * 2048
    np.testing.assert_array_equal(seen, np.random.default_rng((42, 0)).permutation(1_281_167)[np.r_[0:2048, 311 * 2048 : 312 * 2048, 624 * 2048 : 625 * 2048]])


def test_image_data_keeps_grey_data_grey():
    class Grey(list):
        classes, targets = ["a"], [0, 0]

    deep = Image.fromarray(np.full((6, 6), 200 * 257, np.uint16))
    data = ImageData(Grey([(deep, 0), (Image.new("L", (6, 6), 7), 0)]))
    assert data.channels == 1 and stack_images(data)[:, 0, 0, 0].tolist() == [200, 7]


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system can't be told to let go of mapped pages")
def test_reading_at_random_keeps_no_pages(tmp_path):
    "Or else a process that reads all of ImageNet's tokens seems to need their 6 GB."
    n, crops, length = 20_000, 10, 256 # 100 MB
    rng = np.random.default_rng(0)
    write_shard(tmp_path, 0, rng.integers(0, 1024, (n, crops, length), dtype=np.uint16), np.zeros(n, np.uint16))
    write_index(tmp_path, 1, codebook_size=1024, num_classes=1)
    data = TokenData.open(tmp_path)
    def resident(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssFile")) / 1024 # MiB
    before = resident()
    for _ in range(4): data.rows(rng.integers(0, n, 2048), rng.integers(0, crops, 2048))
    assert resident() - before < 20
