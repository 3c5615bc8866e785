"""What rounding to bf16 does to images, on the bundled digits: proxy FID and class agreement of the
same noise in float32 and in bf16, textbook and fast, over several sets of images.

    python -m tests.benchmarks.lossy --sets 5 --json results/speed/lossy.json

The proxy FID is a Fréchet distance in the features of a small classifier of digits: comparable
within this file, and with nothing else.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rar_nb.data.images import DATA, open_data
from rar_nb.evaluation import (
    all_features,
    feature_distance,
    predict,
    some_images,
    train_classifier,
)
from rar_nb.runs.run_folders import open_run
from rar_nb.sampler import balanced_classes, image_noise, sample_tokens, textbook_tokens
from rar_nb.support import write_json
from rar_nb.tokenizer import to_uint8

WAYS = {
    "textbook, float32": (textbook_tokens, "no"),
    "fast, float32": (sample_tokens, "no"),
    "textbook, bf16": (textbook_tokens, "bf16"),
    "fast, bf16": (sample_tokens, "bf16"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=5, help="sets of images, each with its seed")
    parser.add_argument("--images", type=int, default=1000, help="in a set")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    run, tokenizer, model = open_run(DATA / "digits_run")
    train_images, validation_images = open_data("digits")
    real, labels = some_images(train_images, 10_000)
    unseen, _ = some_images(validation_images, 10_000)
    classifier = train_classifier(real, labels, 10)
    of_real = all_features(torch.cat([real, unseen]), classifier)
    classes, length = balanced_classes(given.images, 10), run.model.num_tokens
    found = {name: [] for name in WAYS}
    for seed in range(given.sets):
        noise, exact = image_noise(seed, range(given.images), length), None
        for name, (sampler, precision) in WAYS.items():
            sample = replace(run.sample, sample_precision=precision)
            parts = [sampler(model, classes[rows], sample, noise[rows])
                     for rows in torch.arange(given.images).split(250)]  # fmt: skip
            tokens = torch.cat(parts)
            exact = tokens if exact is None else exact
            images = to_uint8(tokenizer.decode(tokens), tokenizer.value_range)
            found[name].append(
                dict(
                    proxy_fid=feature_distance(all_features(images, classifier), of_real),
                    agreement=float((predict(classifier, images) == classes).float().mean()),
                    images_as_in_the_textbook=float((tokens == exact).all(1).float().mean()),
                )
            )
    result = {"sets": given.sets, "images": given.images, "raw": found}
    for name, rows in found.items():
        result[name] = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        fids = [row["proxy_fid"] for row in rows]
        difference = np.subtract(fids, [row["proxy_fid"] for row in found["textbook, float32"]])
        result[name] |= dict(
            proxy_fid_deviation=statistics.stdev(fids) if len(fids) > 1 else 0.0,
            difference=float(difference.mean()),
            difference_error=float(difference.std(ddof=1) / len(fids) ** 0.5)
            if len(fids) > 1
            else 0.0,
        )
        print(name, json.dumps(result[name]))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(result, given.json)


if __name__ == "__main__":
    main()
