"""Our metrics against torch-fidelity's own command, and against a direct computation."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import rar_nb.reports.fidelity as fidelity
from rar_nb.data.tokens import sha256
from rar_nb.reports.fidelity import (
    EXTRACTOR,
    INCEPTION_FILE,
    RGBImages,
    adm_statistics,
    compare_features,
    extract,
    fid,
    find_inception,
    inception_score,
    map_npz,
    measure,
    open_reference,
    random_inception,
)
from rar_nb.support import InvalidValue, float32_products

# torch-fidelity's own command line; on CPU builds of torch, torchvision must be imported first.
COMMAND = """
from rar_nb.support import import_torchvision
import_torchvision()
from torch_fidelity.fidelity import main
main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights, 12 smooth generated and 11 rough real images, and torch-fidelity's numbers."""
    place = tmp_path_factory.mktemp("fidelity")
    random_inception(place / "inception.pth")
    rng = np.random.default_rng(0)
    for i in range(12):
        corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        (place / "generated").mkdir(exist_ok=True)
        corners.resize((24, 24), Image.Resampling.BICUBIC).save(
            place / "generated" / f"{i:06d}.png"
        )
    for i in range(11):
        (place / "real" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 128 + 9 * i, (24, 24, 3), dtype=np.uint8)).save(
            place / "real" / f"class{i % 2}" / f"{i}.png"
        )
    options = "--cpu --json --silent --isc --fid --kid --prc --no-cache --samples-find-deep"
    options += f" --feature-extractor {EXTRACTOR} --kid-subset-size 11"
    command = [sys.executable, "-c", COMMAND, *options.split()]
    command += ["--feature-extractor-weights-path", place / "inception.pth"]
    command += ["--input1", place / "generated", "--input2", place / "real"]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place, json.loads(done.stdout[done.stdout.index("{") :])


@pytest.fixture(scope="module")
def ours(place):
    folder = place[0]
    return measure(
        folder / "generated", folder / "real", folder / "inception.pth", cache=folder / "cache"
    )


@pytest.fixture(scope="module")
def whole(place):
    """Features of the generated images."""
    return extract(RGBImages(place[0] / "generated"), place[0] / "inception.pth")


@pytest.fixture
def seen(place, whole, monkeypatch):
    """Inception has seen the generated images: it does not look at them again."""
    known, look = RGBImages(place[0] / "generated").sha256(), fidelity.look
    found = {name: whole[name] for name in fidelity.LAYERS}

    def remember(images, *how):
        return dict(found) if images.sha256() == known else look(images, *how)

    monkeypatch.setattr(fidelity, "look", remember)


@pytest.mark.parametrize(
    "name, its_name",
    [
        ("FID", "frechet_inception_distance"),
        ("IS", "inception_score_mean"),
        ("KID", "kernel_inception_distance_mean"),
        ("precision", "precision"),
        ("recall", "recall"),
    ],
)
def test_the_same_as_torch_fidelitys_command(place, ours, name, its_name):
    assert ours[name] == pytest.approx(place[1][its_name], rel=1e-5, abs=1e-7)
    assert (ours["num_samples"], ours["num_real"]) == (12, 11)


def test_the_numbers_are_not_trivial(ours):
    assert (
        ours["FID"] > 1
        and ours["IS"] > 1.004
        and ours["KID"] > 1e-3
        and 0 < ours["precision"] + ours["recall"] < 2
    )


def test_features_are_computed_in_float32(place):
    """By default, cuDNN would round to TF32 and give other features than a CPU."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    seen = []

    class Extractor:
        def __call__(self, batch):
            seen.append([setting.fp32_precision for setting in settings])
            return torch.zeros(len(batch), 2048), torch.zeros(len(batch), 1008)

        def convert_features_tuple_to_dict(self, features):
            return dict(zip(fidelity.LAYERS, features, strict=True))

    with float32_products(tf32=True):
        images = RGBImages(place[0] / "generated")
        found = fidelity.look(images, Extractor(), 5, "cpu", None, progress=False)
    assert seen == [["ieee", "ieee"]] * 3 and len(found["2048"]) == 12


def test_features_that_may_be_in_tf32_are_not_taken_from_the_cache(
    place, ours, tmp_path, monkeypatch
):
    """Earlier versions kept them under a name that did not say so."""
    folder, images = place[0], RGBImages(place[0] / "real")
    key = json.dumps([images.sha256(), sha256(folder / "inception.pth"), EXTRACTOR])
    name = hashlib.sha256(key.encode()).hexdigest()
    (kept,) = (folder / "cache").iterdir()
    shutil.copy(kept, tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(fidelity, "create_feature_extractor", None)  # so computing them fails
    with pytest.raises(TypeError):
        extract(images, folder / "inception.pth", tmp_path)


def test_features_come_from_the_cache(place, ours, monkeypatch):
    folder = place[0]
    kept = list((folder / "cache").iterdir())
    assert len(kept) == 1
    monkeypatch.setattr(fidelity, "create_feature_extractor", None)  # nothing is computed again
    again = extract(RGBImages(folder / "real"), folder / "inception.pth", folder / "cache")
    assert (
        np.allclose(again.statistics["mu"], again["2048"].double().mean(0), rtol=1e-5)
        and list((folder / "cache").iterdir()) == kept
    )
    with pytest.raises(TypeError):
        extract(
            RGBImages(folder / "generated"), folder / "inception.pth", folder / "cache"
        )  # others aren't there


def test_another_image_or_other_weights_are_other_features(place, tmp_path):
    folder, names = place[0], set()

    class Stop(Exception):
        pass

    def nothing(*args, **kwargs):
        raise Stop

    files = sorted((folder / "real").rglob("*.png"))
    variants = [
        files,
        files[:-1],
        files[:-1] + files[:1],
    ]  # all; one less; another one in its place
    for k, variant in enumerate(variants):
        (tmp_path / str(k)).mkdir()
        for i, file in enumerate(variant):
            (tmp_path / str(k) / f"{i:02}.png").write_bytes(file.read_bytes())
        names.add(RGBImages(tmp_path / str(k)).sha256())
    assert len(names) == 3
    assert (
        RGBImages(torch.stack([*RGBImages(tmp_path / "0")])).sha256()
        == RGBImages(torch.stack([*RGBImages(tmp_path / "0")])).sha256()
    )


def test_adm_statistics_equal_a_direct_computation(place, ours, seen):
    folder = place[0]
    features, real = (
        extract(RGBImages(folder / name), folder / "inception.pth", folder / "cache")
        for name in ("generated", "real")
    )
    rng = np.random.default_rng(1)
    mu, half = (
        rng.normal(size=2048) * 0.1 + real["2048"].double().mean(0).numpy(),
        rng.normal(size=(2048, 40)) * 0.1,
    )
    np.savez(folder / "VIRTUAL_made_up.npz", mu=mu, sigma=half @ half.T, mu_s=0, sigma_s=0)
    found = measure(folder / "generated", folder / "VIRTUAL_made_up.npz", folder / "inception.pth")
    assert set(found) == {"num_samples", "FID", "IS"} and found["IS"] == ours["IS"]
    x = features["2048"].double().numpy()
    centred = (x - x.mean(0)) / np.sqrt(
        len(x) - 1
    )  # sigma = centredᵀ centred: the root's trace is a sum of singular values
    root = np.linalg.svd(centred @ half, compute_uv=False).sum()
    direct = (
        np.square(x.mean(0) - mu).sum()
        + np.square(centred).sum()
        + np.square(half).sum()
        - 2 * root
    )
    assert found["FID"] == pytest.approx(direct, rel=1e-4)


def test_images_of_a_reference_batch(place, ours, seen, tmp_path):
    """KID, precision and recall are the command's on the same images; FID uses the statistics."""
    folder, path = place[0], tmp_path / "VIRTUAL_made_up.npz"
    images = np.stack(
        [np.asarray(Image.open(file)) for file in sorted((folder / "real").rglob("*.png"))]
    )
    mu, sigma = np.zeros(2048), np.eye(2048)
    np.savez(path, mu_s=np.zeros(5), mu=mu, arr_0=images, sigma=sigma)
    found = measure(folder / "generated", path, folder / "inception.pth", cache=folder / "cache")
    for name, its_name in (
        ("KID", "kernel_inception_distance_mean"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert found[name] == pytest.approx(place[1][its_name], rel=1e-5, abs=1e-7)
    x = extract(RGBImages(folder / "generated"), folder / "inception.pth", folder / "cache")[
        "2048"
    ].double()
    # Against the unit covariance: the root's trace is the sum of the singular values.
    values = torch.linalg.svdvals((x - x.mean(0)) / (len(x) - 1) ** 0.5)
    assert found["FID"] == pytest.approx(
        float(x.mean(0).square().sum() + values.square().sum() + 2048 - 2 * values.sum()), rel=1e-4
    )
    assert (found["num_samples"], found["num_real"], found["IS"]) == (12, 11, ours["IS"])
    np.savez_compressed(tmp_path / "small.npz", mu=mu, arr_0=images, sigma=sigma)
    assert torch.equal(
        torch.stack([*open_reference(path)[1]]),
        torch.stack([*open_reference(tmp_path / "small.npz")[1]]),
    )
    assert isinstance(map_npz(path, "arr_0"), np.memmap) and not isinstance(
        map_npz(tmp_path / "small.npz", "arr_0"), np.memmap
    )


def test_arrays_are_mapped_wherever_they_lie(tmp_path):
    rng = np.random.default_rng(0)
    arrays = dict(
        a=rng.normal(size=(3, 5)),
        long_name_of_an_array=np.asfortranarray(rng.integers(0, 9, (4, 2, 3))),
        c=np.arange(7, dtype=np.uint8),
    )
    np.savez(tmp_path / "a.npz", **arrays)
    for name, array in arrays.items():
        mapped = map_npz(tmp_path / "a.npz", name)
        np.testing.assert_array_equal(mapped, array)
        assert isinstance(mapped, np.memmap) and mapped.dtype == array.dtype
        mapped[:] = 0
        np.testing.assert_array_equal(
            map_npz(tmp_path / "a.npz", name), array
        )  # the file is as it was


def test_images_that_are_none(tmp_path):
    statistics = dict(mu=np.zeros(2048), sigma=np.eye(2048))
    for name, array, message in (
        ("floats", np.zeros((12, 4, 4, 3)), "uint8 [N, H, W, 3]"),
        ("grey", np.zeros((12, 4, 4), np.uint8), "(12, 4, 4)"),
        ("few", np.zeros((9, 4, 4, 3), np.uint8), "at least 10"),
    ):
        np.savez(tmp_path / f"{name}.npz", **statistics, arr_0=array)
        refuses(message, open_reference, tmp_path / f"{name}.npz")
    np.savez(tmp_path / "objects.npz", **statistics, arr_0=np.array([{}] * 12))
    with pytest.raises(ValueError):
        open_reference(tmp_path / "objects.npz")  # no pickle
    np.savez(tmp_path / "none.npz", **statistics)
    assert open_reference(tmp_path / "none.npz")[1] is None and open_reference(
        tmp_path / "none.npz"
    )[0].keys() == {"mu", "sigma"}


def test_grey_images_are_repeated():
    grey = torch.arange(10).byte().view(10, 1, 1, 1).expand(10, 1, 4, 4)
    assert torch.equal(RGBImages(grey)[7], torch.full((3, 4, 4), 7).byte())


def test_real_photographs_are_cropped(tmp_path):
    for i in range(10):
        Image.new("RGB", (40 + i, 30 + 2 * i), (i, 2, 3)).save(tmp_path / f"{i}.jpg", quality=100)
    images = RGBImages(tmp_path, size=16)
    assert [tuple(image.shape) for image in images] == [(3, 16, 16)] * 10
    with pytest.raises(ValueError, match=r"shape of .*1.jpg.* = \(3, 32, 41\)"):
        list(RGBImages(tmp_path))


def refuses(message, function, *arguments):
    with pytest.raises(ValueError) as error:
        function(*arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_weights_that_are_not_inceptions(place, tmp_path):
    refuses("inception = '/no/such/file'", find_inception, "/no/such/file")
    refuses(INCEPTION_FILE, find_inception, tmp_path)
    torch.save({"some": torch.zeros(3)}, tmp_path / "other.pth")
    refuses("Conv2d_1a_3x3.conv.weight", find_inception, tmp_path / "other.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    refuses("a web page", find_inception, tmp_path / "page.pth")
    whole = (place[0] / "inception.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    refuses("half.pth", find_inception, tmp_path / "half.pth")


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "was run"),))

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    for file in (tmp_path / "evil.pth", tmp_path / INCEPTION_FILE):
        file.write_bytes((tmp_path / "evil.pth").read_bytes())
    refuses("could run code", find_inception, tmp_path / "evil.pth")
    refuses("could run code", find_inception, tmp_path)
    assert not (tmp_path / "was run").exists()


def test_no_network_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(fidelity, "URL_INCEPTION_V3", "http://127.0.0.1:9/" + INCEPTION_FILE)
    refuses("give its path as inception", find_inception, "download")
    with pytest.raises(ValueError) as error:
        find_inception("download")
    assert error.value.__cause__ is None and error.value.__suppress_context__
    random_inception(
        tmp_path / "checkpoints" / INCEPTION_FILE
    )  # what is there is not fetched again
    assert find_inception("download") == Path(tmp_path / "checkpoints" / INCEPTION_FILE)


def test_references_that_are_none(place, tmp_path):
    generated, weights = place[0] / "generated", place[0] / "inception.pth"
    refuses("reference = '/no/such.npz'", measure, generated, "/no/such.npz", weights)
    refuses("an existing folder", measure, generated, "/no/such/folder", weights)
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    refuses("['arr_0']", adm_statistics, tmp_path / "samples.npz")
    np.savez(tmp_path / "short.npz", mu=np.zeros(768), sigma=np.eye(768))
    refuses("(768, 768)", adm_statistics, tmp_path / "short.npz")
    np.savez(tmp_path / "nan.npz", mu=np.zeros(2048), sigma=np.full((2048, 2048), np.nan))
    refuses("not finite", adm_statistics, tmp_path / "nan.npz")
    (tmp_path / "text.npz").write_text("no zip")
    refuses("text.npz", adm_statistics, tmp_path / "text.npz")


def test_too_few_images(place, tmp_path):
    (tmp_path / "0.png").write_bytes((place[0] / "generated" / "000000.png").read_bytes())
    refuses("at least 10", measure, tmp_path, place[0] / "real", place[0] / "inception.pth")
    refuses("at least 10", measure, place[0] / "generated", tmp_path, place[0] / "inception.pth")


def test_inception_score_of_known_scores():
    sure = 50 * torch.eye(4).repeat(250, 1)
    assert inception_score(torch.randn(100, 1).expand(-1, 9)) == pytest.approx(
        1
    )  # nothing told apart
    assert inception_score(sure) == pytest.approx(4, rel=0.02)  # four kinds, each clear


# Broken features and wrong arguments


def damage(file, kind):
    whole = bytearray(file.read_bytes())
    if kind == "flipped":
        whole[-100] ^= 1
    elif kind == "zeroed":
        whole[100:] = bytes(len(whole) - 100)
    file.write_bytes(dict(empty=b"", cut=whole[:-1], text=b"<html>").get(kind, bytes(whole)))
    if kind == "foreign":
        save_file({"2048": torch.zeros(11, 2048)}, file)


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "flipped", "zeroed", "foreign"])
def test_damaged_features_are_computed_again(place, ours, tmp_path, monkeypatch, capsys, kind):
    folder, cache = place[0], tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    whole = extract(RGBImages(folder / "real"), folder / "inception.pth", cache)
    found = {name: whole[name].clone() for name in fidelity.LAYERS}  # no part of the file
    before = {name: whole[name].clone() for name in fidelity.FEATURES}
    for file in cache.iterdir():  # of the generated images, too
        damage(file, kind)
    monkeypatch.setattr(fidelity, "look", lambda *a, **k: dict(found))
    again = extract(RGBImages(folder / "real"), folder / "inception.pth", cache)
    assert capsys.readouterr().out.endswith("is damaged; the features are computed again\n")
    monkeypatch.setattr(fidelity, "look", None)
    kept = extract(RGBImages(folder / "real"), folder / "inception.pth", cache)
    for name, tensor in before.items():
        assert torch.equal(again[name], tensor) and torch.equal(kept[name], tensor)
    assert capsys.readouterr().out == ""


def test_features_that_are_not_finite_are_not_kept(place, tmp_path, monkeypatch):
    found = {name: torch.zeros(11, 2048) for name in fidelity.LAYERS}
    found["2048"][4, 7] = float("nan")
    monkeypatch.setattr(fidelity, "look", lambda *a, **k: found)
    with pytest.raises(InvalidValue, match="features 2048 of image 4 = 'NaN or infinite'"):
        extract(RGBImages(place[0] / "real"), place[0] / "inception.pth", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
NAN = X.clone()
NAN[3, 2] = float("nan")
CLOUD = dict(mu=np.zeros(3), sigma=np.eye(3))
BATCH = torch.zeros(12, 3, 4, 4).byte()


@pytest.mark.parametrize(
    "call",
    [
        lambda: fid(CLOUD, dict(mu=np.zeros(4), sigma=np.eye(4))),
        lambda: fid(CLOUD, dict(mu=np.zeros(3), sigma=np.full((3, 3), np.nan))),
        lambda: fid(CLOUD, dict(mu=np.array([0, np.inf, 0]), sigma=np.eye(3))),
        lambda: fid(CLOUD, dict(mu=np.zeros(3), sigma=np.eye(4))),
        lambda: compare_features(NAN, X),
        lambda: compare_features(X, NAN),
        lambda: compare_features(X, X[:, :4]),
        lambda: compare_features(X[:1], X),
        lambda: compare_features(X, X[:0]),
        lambda: compare_features(X, None),
        lambda: compare_features(X[0], X),
        lambda: compare_features(X, X, CLOUD),
        lambda: inception_score(NAN),
        lambda: inception_score(X[:9]),
        lambda: inception_score([1.0]),
        lambda: RGBImages(None),
        lambda: RGBImages(5),
        lambda: RGBImages([BATCH[0]] * 12),
        lambda: RGBImages(BATCH.float()),
        lambda: RGBImages(BATCH[:, :2]),
        lambda: RGBImages(BATCH[:, 0]),
        lambda: RGBImages(BATCH[:5]),
        lambda: RGBImages(BATCH, size=0),
        lambda: RGBImages("a" * 5000),
        lambda: RGBImages("a\0b"),
        lambda: open_reference(None),
        lambda: open_reference(7),
        lambda: open_reference("x" * 5000 + ".npz"),
        lambda: adm_statistics(None),
        lambda: find_inception("x" * 5000),
        lambda: find_inception("a\0b"),
        lambda: measure(BATCH, BATCH, None),
        lambda: measure(BATCH, BATCH, "w", size="16"),
        lambda: measure(BATCH, None, "w"),
        lambda: measure(None, BATCH, "w"),
        lambda: extract(BATCH, "w"),
        lambda: extract(RGBImages(BATCH), 5),
    ],
)
def test_one_error_for_what_cannot_be_measured(call):
    with pytest.raises(InvalidValue):
        call()


@pytest.mark.parametrize("kind", ["objects", "cut", "zeroed", "foreign", "flipped"])
def test_damaged_references(tmp_path, kind):
    path = tmp_path / "r.npz"
    mu = np.array([{}]) if kind == "objects" else np.zeros(2048)
    np.savez(path, mu=mu, sigma=np.eye(2048), arr_0=np.zeros((12, 4, 4, 3), np.uint8))
    whole = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(whole[:-30_000_000])
    if kind == "zeroed":
        whole[:20_000] = bytes(20_000)
        path.write_bytes(whole)
    if kind == "flipped":
        whole[5_000] ^= 8
        path.write_bytes(whole)
    if kind == "foreign":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("mu.npy", b"no array")
            file.writestr("sigma.npy", b"")
    with pytest.raises(InvalidValue, match="r.npz"):
        open_reference(path)


# Reading by other processes


@pytest.mark.parametrize("workers", [0, 2])
def test_features_do_not_depend_on_who_reads(place, whole, workers):
    folder = place[0]
    images, weights = RGBImages(folder / "generated"), folder / "inception.pth"
    found = extract(images, weights, workers=workers, batch_size=5)
    for name in fidelity.LAYERS:
        assert found[name].shape == (12, dict(zip(fidelity.LAYERS, (2048, 1008)))[name])
        torch.testing.assert_close(found[name], whole[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_in_one_line(place, tmp_path, workers):
    """Whichever process reads it."""
    shutil.copytree(place[0] / "generated", tmp_path / "images")
    images = RGBImages(tmp_path / "images")
    (tmp_path / "images" / "000007.png").write_bytes(b"no image")
    with pytest.raises(InvalidValue, match="000007.png can't be read as an image") as error:
        extract(images, place[0] / "inception.pth", workers=workers)
    assert "\n" not in str(error.value)
