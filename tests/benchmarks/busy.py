"""How busy the device is while images are tokenized, and while samples are evaluated.

    python tests/benchmarks/busy.py --json results/busy.json

Two jobs are timed on made-up files: `write_shards` on photographs of ImageNet's size (JPEG), and
`look`, which shows samples (PNG) to Inception. The weights are random, which changes no time.

    busy      share of the wall time in which the device computes: on a GPU from events in its
              queue, on a CPU the time inside the network
    waiting   share in which the main thread waits for images to be read
    the rest  all other work of the main thread

On a CPU, device and readers share the cores, so `busy` says little about a GPU: there the network
is a hundred times faster, and reading may become the bottleneck. So each job is also timed with a
stand-in for a GPU that takes a fixed time for a batch (--stand_in_ms) in which it leaves the cores
alone: it sleeps. This answers another question: do these cores read fast enough for such a GPU?
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import rar_nb.reports.fidelity as fidelity
import rar_nb.runs.pretokenizer as pretokenizer
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import RunConfig, save_run_config
from rar_nb.pretrained.vq_models import MaskGITVQ
from rar_nb.support import write_json
from rar_nb.tokenizer import TokenizerConfig, make_tokenizer


class Clock:
    """Adds up the seconds that a device spends in a function."""

    def __init__(self, device):
        self.cuda, self.total, self.events = torch.device(device).type == "cuda", 0.0, []

    def around(self, function):
        def timed(*args, **options):
            if self.cuda:
                ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                ends[0].record()
                found = function(*args, **options)
                ends[1].record()
                self.events.append(ends)
                return found
            start = time.perf_counter()
            found = function(*args, **options)
            self.total += time.perf_counter() - start
            return found

        return timed

    def seconds(self):
        if self.cuda:
            torch.cuda.synchronize()
        return self.total + sum(start.elapsed_time(end) for start, end in self.events) / 1000


def waited_for(batches, clock):
    """The same batches, while the clock adds up how long they are waited for."""
    fetch = clock.around(lambda: next(batches, None))
    while (batch := fetch()) is not None:
        yield batch


def picture(rng, width, height):
    """Soft shapes with some noise, about as large in a file as a photograph."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def make_images(folder, count, kind, size):
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"class {i % 2}" / f"{i:06d}.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(rng, *size).save(file, **(dict(quality=90) if kind == "jpg" else {}))
    return folder


def small_tokenizer(folder):
    """A VQGAN that one core can run, in a run's folder."""
    config = TokenizerConfig("vqgan", 64, 3, stride=8, codebook_size=64, codebook_dim=8, width=8)
    save_run_config(RunConfig("small", tokenizer=config), folder / "config.json")
    save_weights(make_tokenizer(config), folder / "tokenizer.safetensors")
    return dict(tokenizer=str(folder))


def shares(name, images, wall, computing, waiting):
    found = dict(job=name, images=images, seconds=round(wall, 3), busy=round(computing / wall, 4),
                 waiting=round(waiting / wall, 4),
                 rest=round(1 - (computing + waiting) / wall, 4))  # fmt: skip
    print(f"{name}: {images} images in {wall:.1f} s, device busy {found['busy']:.1%}, "
          f"waiting for images {found['waiting']:.1%}, the rest {found['rest']:.1%}", flush=True)  # fmt: skip
    return found


def time_pretokenizing(place, options, device, stand_in):
    """`write_shards` from its first batch to its last file."""
    images = make_images(place / "photographs", options.images, "jpg", (500, 375))
    if options.tokenizer == "small":
        chosen = small_tokenizer(place / "run")
    else:
        torch.save(MaskGITVQ().state_dict(), place / "maskgit.bin")
        chosen = dict(weights=str(place / "maskgit.bin"))
    config = pretokenizer.PretokenizeConfig(
        data=str(images), out=str(place / f"tokens {stand_in}"), part="all",
        workers=options.workers, batch_size=options.crops, cpu=device == "cpu", **chosen)  # fmt: skip
    opened = pretokenizer.open_first(config)
    tokenizer, size = opened[1], opened[3]
    pretokenizer.set_up(config, opened)
    computing, waiting, ahead = Clock(device), Clock("cpu"), pretokenizer.ahead

    def pretend(views):
        time.sleep(stand_in / 1000 * len(views) / config.batch_size)
        return torch.zeros(len(views), (size // tokenizer.stride) ** 2, dtype=torch.int64)

    tokenizer.encode = computing.around(pretend if stand_in else tokenizer.encode)
    pretokenizer.ahead = lambda loader: waited_for(ahead(loader), waiting)
    start = time.perf_counter()
    pretokenizer.write_shards(config, device=device, opened=opened)
    wall = time.perf_counter() - start
    pretokenizer.ahead = ahead
    name = f"pretokenizing, {stand_in} ms a batch" if stand_in else "pretokenizing"
    return shares(name, options.images, wall, computing.seconds(), waiting.seconds())


class Inception:
    """torch-fidelity's network, or what sleeps in its place, under a clock."""

    def __init__(self, weights, device, clock, stand_in):
        self.network = fidelity.create_feature_extractor(
            fidelity.EXTRACTOR, list(fidelity.LAYERS), cuda=device == "cuda", verbose=False,
            feature_extractor_weights_path=str(weights))  # fmt: skip
        self.run = clock.around(self.pretend if stand_in else self.network)
        self.stand_in = stand_in

    def __call__(self, batch):
        return self.run(batch)

    def pretend(self, batch):
        time.sleep(self.stand_in / 1000 * len(batch) / 64)
        return torch.zeros(len(batch), 2048), torch.zeros(len(batch), 1008)

    def convert_features_tuple_to_dict(self, features):
        return self.network.convert_features_tuple_to_dict(features)


def time_evaluation(place, options, device, stand_in):
    """`look` at a folder of samples; the metrics after it are timed apart."""
    folder = make_images(place / "samples", options.images, "png", (256, 256))
    weights = fidelity.random_inception(place / "inception.pth")
    computing, waiting, ahead = Clock(device), Clock("cpu"), fidelity.ahead
    inception = Inception(weights, device, computing, stand_in)
    images = fidelity.RGBImages(folder)
    fidelity.ahead = lambda loader: waited_for(ahead(loader), waiting)
    start = time.perf_counter()
    features = fidelity.look(images, inception, 64, device, options.workers, False)
    wall = time.perf_counter() - start
    fidelity.ahead = ahead
    name = f"evaluation, {stand_in} ms a batch" if stand_in else "evaluation"
    found = shares(name, options.images, wall, computing.seconds(), waiting.seconds())
    if not stand_in:
        start = time.perf_counter()
        fidelity.compare_features(features["2048"], features["2048"].flip(0) + 0.1)
        found["seconds_of_metrics"] = round(time.perf_counter() - start, 2)
        print(f"FID, KID, precision and recall after it: {found['seconds_of_metrics']} s")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--job", choices=["pretokenizing", "evaluation", "both"], default="both")
    parser.add_argument("--tokenizer", choices=["maskgit_vq", "small"], default="maskgit_vq")
    parser.add_argument("--crops", type=int, default=64, help="tokenized at a time; 10 need 2 GB")
    parser.add_argument("--workers", type=int, help="reading processes; default: the library's")
    parser.add_argument("--stand_in_ms", type=float, nargs="*", default=[])
    parser.add_argument("--only_stand_in", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    jobs = dict(pretokenizing=time_pretokenizing, evaluation=time_evaluation)
    rows = []
    for name, job in jobs.items():
        for stand_in in ([] if options.only_stand_in else [0]) + options.stand_in_ms:
            if options.job in (name, "both"):
                with tempfile.TemporaryDirectory() as place:
                    where = "cpu" if stand_in else device
                    rows.append(job(Path(place), options, where, stand_in))
    machine = dict(device=device, cores=os.cpu_count(), threads=torch.get_num_threads())
    if device == "cuda":
        machine["card"] = torch.cuda.get_device_name()
    given = {k: v for k, v in vars(options).items() if k != "json"}
    if options.json:
        write_json(machine | dict(options=given, rows=rows), options.json)
    print(json.dumps(machine))


if __name__ == "__main__":
    main()
