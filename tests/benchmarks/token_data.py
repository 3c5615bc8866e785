"""How fast is a token dataset of ImageNet's size, and what memory does it take? Made-up tokens; not run by pytest.

    python tests/benchmarks/token_data.py /tmp/tokens --write results/token_data.json

makes 12.8 million rows (6.2 GiB) in the folder given, measures, and deletes them again (unless --keep). Every measurement runs in a
process of its own, so that memory can be told apart. --images 20000 is a quick try.
"""

import argparse
import json
import linecache
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from rar_nb.data.tokens import TokenData, convert_jsonl, write_index, write_shard
from rar_nb.pretrained.presets import PRESETS
from rar_nb.runs.cost import UTILISATION, known_device, trained_images_per_second
from rar_nb.runs.run_folders import processor
from rar_nb.trainer import batch_indices

CROPS, LENGTH, BATCH, SHARD = 10, 256, 2048, 2**14


def memory():
    """Resident MiB of this process: private (RssAnon), and pages of mapped files such as libraries (RssFile)."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {
        line[0][:-1]: int(line[1]) // 1024
        for line in lines
        if line[0] in ("VmRSS:", "RssAnon:", "RssFile:")
    }


def timed(f, *args, **kwargs):
    since = time.perf_counter()
    result = f(*args, **kwargs)
    return result, round(time.perf_counter() - since, 6)


def make(folder, images):
    """Shards of random tokens: one block of random numbers, changed from shard to shard."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1024, (min(SHARD, images), CROPS, LENGTH), dtype=np.uint16)
    since, shards = time.perf_counter(), -(-images // SHARD)
    for k in range(shards):
        n = min(SHARD, images - k * SHARD)
        write_shard(
            folder, k, (base[:n] + np.uint16(k)) % np.uint16(1024), rng.integers(0, 1000, n)
        )
    written = time.perf_counter() - since
    return dict(
        write_s=round(written, 1),
        write_index_with_checksums_s=round(
            timed(write_index, folder, shards, 1024, 1000, "made up")[1], 1
        ),
    )


def drop_from_cache(folder):
    for path in folder.glob("*.npy"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read(folder, seed, batches):
    """Open, then read batches at random."""
    before = memory()
    data, opened = timed(TokenData.open, folder)
    after_open, rng, private, resident = memory(), np.random.default_rng(seed), 0, 0
    _, first = timed(data.rows, rng.integers(0, len(data), BATCH), rng.integers(0, CROPS, BATCH))
    seconds = 0.0
    for _ in range(batches):
        seconds += timed(
            data.rows, rng.integers(0, len(data), BATCH), rng.integers(0, CROPS, BATCH)
        )[1]
        now = memory()
        private, resident = max(private, now["RssAnon"]), max(resident, now["VmRSS"])
    _, shuffled = timed(batch_indices, 0, len(data), BATCH, max(1, len(data) // BATCH), 7)
    return dict(
        rows=len(data) * CROPS,
        shards=len(data.shards),
        open_s=opened,
        first_batch_of_2048_s=first,
        batches=batches,
        rows_per_second=round(batches * BATCH / seconds),
        rss_mib=dict(after_import=before, after_open=after_open, after_reading=memory()),
        largest_resident_while_reading_mib=resident,
        growth_of_private_memory_mib=private - before["RssAnon"],
        growth_of_resident_memory_mib=resident - before["VmRSS"],
        epoch_permutation_s=shuffled,
    )


def verify(folder):
    return timed(TokenData.open(folder).verify)[1]


def json_lines(folder, rows):
    """The official form: rows picked by the number of their line, through an index of offsets or Python's linecache."""
    path, rng = folder / "rows.jsonl", np.random.default_rng(0)
    with path.open("w") as f:
        for row in rng.integers(0, 1024, (rows, LENGTH)).tolist():
            f.write(json.dumps(dict(class_id=3, tokens=row)) + "\n")
    data, converting = timed(convert_jsonl, path, folder / "converted", 1024, crops=CROPS)
    picked = [rng.integers(0, rows, BATCH) for _ in range(20)]

    def by_number():
        for i in picked:
            data.rows(i // CROPS, i % CROPS)

    def build():
        offsets = [0]
        with path.open("rb") as f:
            for line in f:
                offsets.append(offsets[-1] + len(line))
        return offsets

    def by_offset(offsets):
        with path.open("rb") as f:
            for i in picked[:5]:
                found = []
                for j in i:
                    f.seek(offsets[j])
                    found.append(json.loads(f.readline())["tokens"])
                torch.tensor(found)

    reading = timed(by_number)[1]
    offsets, building = timed(build)
    seeking = timed(by_offset, offsets)[1]
    return dict(
        rows=rows,
        jsonl_bytes=path.stat().st_size,
        convert_rows_per_second=round(rows / converting),
        shards_rows_per_second=round(20 * BATCH / reading),
        offset_index=dict(build_s=building, rows_per_second=round(5 * BATCH / seeking)),
    )


def line_cache(folder, rows):
    """The same file through Python's linecache, which keeps all of it in each process."""
    path, before = str(folder / "rows.jsonl"), memory()
    _, opening = timed(linecache.getline, path, 1)
    after, rng = memory(), np.random.default_rng(0)

    def by_line():
        for _ in range(5):
            torch.tensor(
                [
                    json.loads(linecache.getline(path, int(j) + 1))["tokens"]
                    for j in rng.integers(0, rows, BATCH)
                ]
            )

    return dict(
        open_s=opening,
        rows_per_second=round(5 * BATCH / timed(by_line)[1]),
        private_mib=after["RssAnon"] - before["RssAnon"],
    )


PARTS = dict(make=make, read=read, verify=verify, json_lines=json_lines, line_cache=line_cache)


def start(part, folder, *arguments):
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), "--part", part, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def result(child):
    output, _ = child.communicate()
    if child.returncode:
        sys.exit(f"{child.args} failed")
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="is made, and deleted at the end")
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--batches", type=int, default=200, help="of 2,048 rows that are read")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="*",
        default=[2, 4],
        help="processes that read at the same time",
    )
    parser.add_argument("--json_rows", type=int, default=50_000)
    parser.add_argument(
        "--device",
        default=f"{processor()}, {os.cpu_count()} cores",
        help="what to call this machine",
    )
    parser.add_argument("--write", type=Path, help="the JSON file that gets the numbers")
    parser.add_argument("--keep", action="store_true", help="keep the made-up tokens")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part[0]](given.folder, *json.loads(given.part[1]))))
        return
    busy = os.getloadavg()[0]  # before this program adds to it; other work slows what is measured
    if not (given.folder / "tokens.json").exists():
        if given.folder.exists() and any(given.folder.iterdir()):
            sys.exit(f"{given.folder} is not empty: name another folder")
        made = result(start("make", given.folder, given.images))
    else:
        made = {}
    h100 = known_device("NVIDIA H100 80GB HBM3")
    needed = {
        f"at {u:.0%} of the peak": round(
            trained_images_per_second(PRESETS["rar_b"], h100, utilisation=u)
        )
        for u in (UTILISATION, 1.0)
    }
    verified = result(start("verify", given.folder))
    drop_from_cache(given.folder)
    cold = result(start("read", given.folder, 1, given.batches))
    for path in given.folder.glob("*.npy"):  # into the page cache
        with path.open("rb") as f:
            while f.read(2**24):
                pass
    warm = result(start("read", given.folder, 1, given.batches))
    workers = {}
    for count in given.workers:
        found = [
            result(child)
            for child in [start("read", given.folder, k, given.batches) for k in range(count)]
        ]
        workers[count] = dict(
            rows_per_second=[f["rows_per_second"] for f in found],
            sum=sum(f["rows_per_second"] for f in found),
        )
    beside = given.folder.with_name(given.folder.name + "-jsonl")
    beside.mkdir()
    lines = result(start("json_lines", beside, given.json_rows)) | dict(
        linecache=result(start("line_cache", beside, given.json_rows))
    )
    shutil.rmtree(beside)
    if not given.keep:
        shutil.rmtree(given.folder)
    best, whole = warm["rows_per_second"], 12_811_670 / given.json_rows
    numbers = dict(
        what=f"Made-up tokens ({given.images:,} images x {CROPS} crops, L = {LENGTH}, uint16) read from their shards at random in batches of {BATCH:,} rows; and rows of JSON lines by line number, from a made-up file of {given.json_rows:,} rows",
        command="python tests/benchmarks/token_data.py FOLDER --write results/token_data.json",
        date=date.today().isoformat(),
        device=given.device,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        load_average_before=round(busy, 2),
        notes=[
            "cold: the files' pages were dropped from the page cache before (posix_fadvise); what lies below a virtual disk may have cached them",
            "RssAnon is private memory; rows are read from files that the kernel keeps in its page cache, which counts for no process",
            "rows_per_second counts rows read into int64 tensors; one run each",
            "rows a second that one H100 eats while it trains rar_b is an estimate: rar_nb.runs.cost, counted FLOPs over the data sheet's bf16 peak",
        ],
        one_h100_training_rar_b_rows_per_second_estimate=needed,
        times_that=dict(
            cold_at_full_peak=round(cold["rows_per_second"] / needed["at 100% of the peak"], 1),
            warm_at_full_peak=round(best / needed["at 100% of the peak"], 1),
            cold=round(cold["rows_per_second"] / needed[f"at {UTILISATION:.0%} of the peak"], 1),
            warm=round(best / needed[f"at {UTILISATION:.0%} of the peak"], 1),
        ),
        cold=cold,
        warm=warm,
        warm_processes=workers,
        made=made,
        verify_s=verified,
        json_lines=lines,
        json_lines_of_imagenet_extrapolated=dict(
            linecache_private_gib=round(lines["linecache"]["private_mib"] * whole / 1024, 1),
            offset_index_build_s=round(lines["offset_index"]["build_s"] * whole, 1),
        ),
    )
    text = json.dumps(numbers, indent=1) + "\n"
    print(text)
    if given.write:
        given.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
