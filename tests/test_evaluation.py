"""The Fréchet distance against closed forms, nearest images by brute force, caught cheats."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from rar_nb import evaluation
from rar_nb.data.images import Part, open_data
from rar_nb.evaluation import (
    SmallCNN,
    all_features,
    evaluate_samples,
    fid_features_to_statistics,
    frechet_distance,
    move_randomly,
    nearest,
    predict,
    proxy_fid,
    spread,
    train_classifier,
)
from rar_nb.reports import report
from rar_nb.reports.report import DIGITS_CLASSIFIER, DIGITS_HASH, classifier_for
from rar_nb.tokenizer import TokenizerConfig, make_tokenizer, stack_images
from tests.doors import refuses
from tests.tools import digits_classifier


class PixelFeatures(SmallCNN):
    "An image's features are its pixels, so statistics are known."

    def features(self, images):
        return images.flatten(1).double()


PIXELS = PixelFeatures(channels=1, num_classes=2).eval()


def random_images(n, low, high, seed=0):  # uint8 [n, 1, 2, 2]
    return torch.randint(
        low, high, (n, 1, 2, 2), generator=torch.Generator().manual_seed(seed)
    ).byte()


# The Fréchet distance


def gaussian(mu, sigma):
    return dict(mu=np.array(mu, float), sigma=np.array(sigma, float))


def test_distance_of_independent_dimensions():
    "Differences of means and of standard deviations, squared and added."
    one = gaussian([0, 0], np.diag([1, 4]))
    other = gaussian([3, 4], np.diag([9, 4]))
    assert frechet_distance(one, other) == pytest.approx(3**2 + 4**2 + (3 - 1) ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_distance_by_eigenvalues(seed):
    "tr (Σ₁Σ₂)^½ is the sum of the roots of the eigenvalues of Σ₁Σ₂."
    rng = np.random.default_rng(seed)
    mu1, mu2 = rng.normal(size=(2, 6))
    sigma1, sigma2 = (np.cov(rng.normal(size=(6, 30)) * rng.uniform(0.5, 2)) for _ in range(2))
    roots = np.sqrt(np.linalg.eigvals(sigma1 @ sigma2).real)
    by_hand = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2) - 2 * roots.sum()
    one, other = gaussian(mu1, sigma1), gaussian(mu2, sigma2)
    assert frechet_distance(one, other) == pytest.approx(by_hand, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(by_hand, rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_statistics_are_mean_and_covariance():
    images = random_images(50, 0, 256)
    pixels = images.flatten(1).numpy().astype(float)
    for batch_size in (7, 50):
        found = fid_features_to_statistics(all_features(images, PIXELS, batch_size))
        assert found["mu"] == pytest.approx(pixels.mean(0))
        assert found["sigma"] == pytest.approx(np.cov(pixels, rowvar=False))


def test_proxy_fid_of_moved_images():
    images = random_images(300, 0, 200)
    assert proxy_fid(images, images, PIXELS) == pytest.approx(0, abs=1e-3)
    assert proxy_fid(images + 50, images, PIXELS) == pytest.approx(4 * 50**2, rel=1e-6)


def test_proxy_fid_of_stretched_images():
    "Covariances s²Σ and Σ are (s - 1)² tr Σ apart."
    images = random_images(300, 0, 60)
    pixels = images.flatten(1).numpy().astype(float)
    by_hand = np.sum((2 * pixels.mean(0)) ** 2) + (3 - 1) ** 2 * np.trace(
        np.cov(pixels, rowvar=False)
    )
    assert proxy_fid(3 * images, images, PIXELS) == pytest.approx(by_hand, rel=1e-6)


def test_proxy_fid_is_blind_to_repetition():
    "The reason why copies have to be looked for with another measure."
    images = random_images(200, 0, 256)
    assert proxy_fid(images.repeat(5, 1, 1, 1), images, PIXELS) < 0.5
    assert proxy_fid(random_images(200, 0, 256, seed=1), images, PIXELS) > 5


@pytest.mark.parametrize("few, many", [(1, 10), (10, 1), (0, 10)])
def test_too_few_images_are_refused(few, many):
    images = random_images(10, 0, 256)
    with pytest.raises(
        ValueError, match=f"number of images = {min(few, many)} is not allowed.*at least 2"
    ):
        proxy_fid(images[:few], images[:many], PIXELS)


# The classifier


def test_a_body_of_ones_own():
    class Flat(SmallCNN):
        def __init__(self):
            super().__init__(1, 3)
            self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 128))

    assert predict(Flat().eval(), torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape == (5,)


def halves(n, seed):
    "Images that are bright on the left (class 0) or on the right (class 1), with noise."
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    images = torch.randint(0, 100, (n, 1, 8, 8), generator=generator)
    for image, label in zip(images, labels):
        image[..., 4 * label : 4 * label + 4] += 150
    return images.byte(), labels


def test_the_classifier_learns_what_is_to_be_seen():
    images, labels = halves(300, seed=0)
    unseen, answers = halves(100, seed=1)
    classifier = train_classifier(images, labels, 2, epochs=3, shift=1)
    assert not classifier.training
    assert (predict(classifier, unseen) == answers).float().mean() > 0.95
    again = train_classifier(images, labels.numpy(), 2, epochs=3, shift=1)
    assert torch.equal(again.head.weight, classifier.head.weight)


@pytest.mark.parametrize(
    "n, epochs, steps", [(20, None, 100), (20, 3, 3), (2250, None, 108), (4500, None, 213)]
)
def test_few_images_are_seen_more_often(monkeypatch, n, epochs, steps):
    """At least 100 steps, and each image at least three times, unless it is said how often."""
    taken = []
    monkeypatch.setattr(SmallCNN, "forward", lambda self, x: x[:, :2, 0, 0] + self.head.bias)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: taken.append(1))
    images = torch.zeros(n, 2, 4, 4, dtype=torch.uint8)
    train_classifier(images, [0] * n, 2, epochs=epochs)
    assert len(taken) == steps


def test_twenty_images_are_enough_to_learn_from():
    """With three steps, as many as three epochs have, it guessed, and all distances were 0."""
    classifier = train_classifier(*halves(20, seed=0), 2, shift=1)
    unseen, answers = halves(100, seed=1)
    assert (predict(classifier, unseen) == answers).float().mean() > 0.95


def test_predictions_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    classifier = SmallCNN(3, 5).eval()
    images = torch.randint(256, (10, 3, 9, 9)).byte()
    with torch.no_grad():
        expected = classifier(images).argmax(1)
    assert torch.equal(predict(classifier, images, batch_size=3), expected)
    assert classifier.features(images).shape == (10, SmallCNN.num_features)


def test_moved_images_keep_their_pixels():
    images = torch.arange(2 * 25).view(2, 1, 5, 5)
    torch.manual_seed(0)
    seen = {tuple(move_randomly(images, 1)[0, 0, 0, :1].tolist()) for _ in range(100)}
    assert len(seen) == 9  # three places down times three to the right
    assert torch.equal(move_randomly(images, 0), images)
    assert torch.equal(move_randomly(images, 2).flatten(1).sort(1).values, images.flatten(1))


# The classifier that comes with the digits


@pytest.fixture(scope="module")
def training_digits():
    """Pixels and labels of the bundled training images."""
    train, _ = open_data("digits")
    return stack_images(train), torch.from_numpy(train.targets)


@pytest.fixture
def trained(monkeypatch):
    """The images of each call of `train_classifier`, which trains nothing."""
    calls = []
    monkeypatch.setattr(report, "train_classifier", lambda images, *_, **__: calls.append(images))
    return calls


def test_the_digits_have_a_classifier_of_their_own(training_digits, trained, capsys):
    images, labels = training_digits
    classifier = classifier_for(images, labels.numpy(), 10, progress=True)
    assert not trained and not classifier.training
    assert capsys.readouterr().out == (
        "classifier: the one that comes with the digits (data/digits_classifier.safetensors)\n"
    )
    stored = load_file(DIGITS_CLASSIFIER)
    assert torch.equal(classifier.head.weight, stored["head.weight"].float())
    assert set(stored) == set(classifier.state_dict())


@pytest.mark.parametrize("change", ["one pixel", "one label", "order", "fewer", "size", "classes"])
def test_other_images_have_a_classifier_trained(training_digits, trained, capsys, change):
    images, labels = (x.clone() for x in training_digits)
    classes = 10
    if change == "one pixel":
        images[4321, 0, 5, 6] ^= 1
    elif change == "one label":
        labels[99] = 9
    elif change == "order":
        images, labels = images.flip(0), labels.flip(0)
    elif change == "fewer":
        images, labels = images[:-1], labels[:-1]
    elif change == "size":
        images = torch.nn.functional.pad(images, (2, 2, 2, 2))
    else:
        classes = 11
    classifier_for(images, labels, classes, progress=True)
    assert len(trained) == 1 and torch.equal(trained[0], images)
    printed = capsys.readouterr().out
    assert printed == f"classifier: trained here, on {len(images):,} training images\n"


def test_the_file_says_what_it_was_made_of(training_digits):
    with safe_open(DIGITS_CLASSIFIER, "pt") as file:
        metadata = file.metadata()
    assert metadata["images"] == DIGITS_HASH
    assert metadata["command"] == digits_classifier.COMMAND
    assert len(metadata["commit"]) == 40  # no '+': made by code that was committed
    assert DIGITS_CLASSIFIER.stat().st_size < 600_000


def test_a_damaged_or_missing_file_is_named(training_digits, tmp_path, monkeypatch):
    """No classifier is trained in its place, as its numbers would be others."""
    path = tmp_path / "digits_classifier.safetensors"
    monkeypatch.setattr(report, "DIGITS_CLASSIFIER", path)
    with pytest.raises(ValueError, match="existing file; restore the file with `git checkout"):
        classifier_for(*training_digits, 10)
    path.write_bytes(DIGITS_CLASSIFIER.read_bytes()[:-1])
    with pytest.raises(ValueError, match="SHA-256 of .*digits_classifier.*restore the file"):
        classifier_for(*training_digits, 10)


@pytest.mark.slow
def test_the_command_makes_such_a_classifier(training_digits, tmp_path):
    """The same but for rounding, which differs between machines and grows in training."""
    digits_classifier.main(tmp_path / "made.safetensors")
    anew, bundled = SmallCNN(1, 10).eval(), classifier_for(*training_digits, 10)
    anew.load_state_dict(load_file(tmp_path / "made.safetensors"))
    _, validation = open_data("digits")
    unseen, answers = stack_images(validation), torch.from_numpy(validation.targets)
    for classifier in (anew, bundled):
        assert (predict(classifier, unseen) == answers).float().mean() > 0.96
    assert (predict(anew, unseen) == predict(bundled, unseen)).float().mean() > 0.97


# Nearest images


def test_nearest_by_brute_force():
    images = torch.randint(256, (20, 1, 3, 3), generator=torch.Generator().manual_seed(0)).byte()
    reference = torch.randint(256, (30, 1, 3, 3), generator=torch.Generator().manual_seed(1)).byte()
    difference = (images[:, None].double() - reference[None].double()) / 255
    rms = difference.square().mean((2, 3, 4)).sqrt()
    for batch_size in (3, 250):
        indices, distances = nearest(images, reference, batch_size)
        assert torch.equal(indices, rms.argmin(1))
        assert distances.tolist() == pytest.approx(rms.min(1).values.tolist(), abs=1e-5)


def test_distances_run_from_0_to_1():
    black, white = torch.zeros(1, 1, 4, 4).byte(), torch.full((1, 1, 4, 4), 255).byte()
    assert nearest(black, white)[1].item() == pytest.approx(1)
    assert nearest(white, torch.cat([black, white]))[0].item() == 1
    assert nearest(white, white)[1].item() == pytest.approx(0, abs=1e-3)


@given(count=st.integers(1, 500), limit=st.integers(1, 500))
def test_spread(count, limit):
    chosen = spread(count, limit)
    assert len(chosen) == min(count, limit) and len(set(chosen)) == len(chosen)
    assert chosen[0] == 0 and (limit == 1 or chosen[-1] == count - 1)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1  # evenly


# All of it


@pytest.fixture(scope="module")
def digits(training_digits):
    train, validation = open_data("digits")
    return SimpleNamespace(
        train=train,
        validation=validation,
        classifier=classifier_for(*training_digits, 10),
        tokenizer=make_tokenizer(TokenizerConfig(kind="grey", codebook_size=8)),
    )


def evaluate(digits, images, classes):
    return evaluate_samples(
        images,
        torch.as_tensor(classes),
        digits.tokenizer,
        digits.train,
        digits.validation,
        digits.classifier,
        most=100,
    )[0]


def test_real_digits_as_samples_score_like_real_digits(digits):
    indices = spread(500, 100)
    numbers = evaluate(
        digits, stack_images(digits.validation, indices), digits.validation.targets[indices]
    )
    assert numbers["samples_of_the_class_asked_for"] == pytest.approx(
        numbers["classifier_accuracy_on_validation"]
    )
    assert numbers["median_distance_of_samples"] == pytest.approx(
        numbers["median_distance_of_validation"]
    )
    assert numbers["proxy_fid_reconstructions"] > numbers["proxy_fid_real_against_real"]
    assert (numbers["samples"], numbers["real_images"]) == (100, 200)
    assert all(math.isfinite(value) for value in numbers.values())


def test_copies_are_caught_by_their_distance_only(digits):
    indices = spread(4500, 100)
    numbers = evaluate(digits, stack_images(digits.train, indices), digits.train.targets[indices])
    assert numbers["samples_of_the_class_asked_for"] > 0.9
    assert numbers["median_distance_of_samples"] == pytest.approx(0, abs=1e-3)
    assert numbers["median_distance_of_validation"] > 0.1
    assert numbers["proxy_fid_samples"] < numbers["proxy_fid_reconstructions"]


def test_wrong_classes_are_caught_by_the_classifier_only(digits):
    indices = spread(500, 100)
    images, classes = stack_images(digits.validation, indices), digits.validation.targets[indices]
    right, wrong = evaluate(digits, images, classes), evaluate(digits, images, (classes + 1) % 10)
    assert wrong["samples_of_the_class_asked_for"] < 0.1 < right["samples_of_the_class_asked_for"]
    del right["samples_of_the_class_asked_for"], wrong["samples_of_the_class_asked_for"]
    assert wrong == pytest.approx(right)


def test_a_missing_classifier_is_trained(digits, monkeypatch):
    monkeypatch.setattr(evaluation, "LEAST_STEPS", 10)
    images = stack_images(digits.validation, range(0, 500, 25))
    classes = torch.from_numpy(digits.validation.targets[::25])
    numbers, classifier = evaluate_samples(
        images, classes, digits.tokenizer, digits.train, digits.validation, most=60
    )
    assert isinstance(classifier, SmallCNN) and classifier.head.out_features == 10
    agreement = (predict(classifier, images) == classes).float().mean().item()
    assert numbers["samples_of_the_class_asked_for"] == pytest.approx(agreement)


def test_halves_of_the_real_images_are_compared(digits):
    """Every second one of 200 real images with the others, by `proxy_fid`."""
    indices = spread(500, 100)
    samples = stack_images(digits.validation, indices)
    numbers = evaluate(digits, samples, digits.validation.targets[indices])
    training = stack_images(digits.train, spread(4500, 100))
    everything, half = torch.cat([training, samples]), torch.zeros(200, dtype=torch.bool)
    half[spread(200, 100)] = True
    by_hand = proxy_fid(everything[half], everything[~half], digits.classifier)
    assert numbers["proxy_fid_real_against_real"] == pytest.approx(by_hand, rel=1e-3)


# What is refused


def test_a_classifier_in_training_mode_is_refused(digits):
    """It would compare the images of a batch with one another, and change itself."""
    classifier, images = SmallCNN(1, 10).train(), stack_images(digits.validation, range(20))
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    for call in (
        lambda: predict(classifier, images),
        lambda: all_features(images, classifier),
        lambda: proxy_fid(images, images, classifier),
        lambda: evaluate_samples(
            images, [0] * 20, digits.tokenizer, digits.train, digits.validation, classifier, most=20
        ),
    ):
        refuses(call, "classifier.training = True is not allowed: it must be False: call")
    assert all(torch.equal(before[name], t) for name, t in classifier.state_dict().items())


@pytest.mark.parametrize(
    "samples, validation, most, words",
    [
        (1, 20, 100, "number of samples = 1 is not allowed: it must be at least 2"),
        (5, 20, 1, "number of real images = 2 is not allowed: it must be at least 4"),
    ],
)
def test_too_few_images_are_refused_before_a_classifier_is_trained(
    digits, monkeypatch, samples, validation, most, words
):
    monkeypatch.setattr(evaluation, "train_classifier", lambda *_, **__: pytest.fail("trained"))
    images, unseen = stack_images(digits.train, range(samples)), Part(digits.validation, range(20))
    refuses(
        lambda: evaluate_samples(
            images, [0] * samples, digits.tokenizer, digits.train, unseen, most=most
        ),
        words,
    )


def test_few_images_are_enough(digits):
    images, unseen = stack_images(digits.train, [0, 50]), Part(digits.validation, [7, 80])
    numbers, _ = evaluate_samples(
        images, [0, 0], digits.tokenizer, digits.train, unseen, digits.classifier, most=2
    )
    assert all(math.isfinite(value) for value in numbers.values())


def test_images_of_other_channels_or_too_few_pixels_are_refused():
    classifier, colour = SmallCNN(1, 2).eval(), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for call in (
        lambda: predict(classifier, colour),
        lambda: proxy_fid(colour, colour, classifier),
    ):
        refuses(call, "channels of the images = 3 is not allowed: it must be 1")
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    refuses(lambda: train_classifier(images[..., 1:], [0] * 4, 2), "at least 4 × 4 pixels")
    train_classifier(images, [0, 1, 0, 1], 2, epochs=1)


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_is_not_there(device):
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    refuses(
        lambda: train_classifier(images, [0, 1, 0, 1], 2, device=device), f"device = '{device}'"
    )


def test_distance_of_statistics_in_different_precisions():
    one, other = gaussian([0, 0], np.diag([1, 4])), gaussian([3, 4], np.diag([9, 4]))
    small = {name: values.astype(np.float32) for name, values in one.items()}
    assert frechet_distance(small, other) == pytest.approx(29)
    assert frechet_distance(other, small) == pytest.approx(29)


@pytest.mark.parametrize("side", [4, 64])
def test_a_copy_among_images_much_alike_is_found(side):
    """Differences of one level in one bright pixel, which products of floats can't tell apart."""
    image = torch.randint(200, 256, (1, 3, side, side), generator=torch.manual_seed(0)).byte()
    reference = image.repeat(100, 1, 1, 1)
    reference[:, 0, 0, 0] -= 1 + torch.arange(100, dtype=torch.uint8) % 7
    reference[63] = image[0]
    for batch_size in (7, 250):
        indices, distances = nearest(image.repeat(10, 1, 1, 1), reference, batch_size)
        assert indices.tolist() == [63] * 10 and distances.tolist() == [0.0] * 10
    indices, distances = nearest(image, reference[:63])
    expected = 1 / 255 / math.sqrt(3 * side**2)
    assert indices.item() % 7 == 0 and distances.item() == pytest.approx(expected)
