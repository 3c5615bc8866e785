"""Made-up raw results of the study, in the form of the real ones: for tests and for looking at the
figures before there is anything to see."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from rar_nb.runs.study import CELLS

TUNED = dict(raster=(0.3, 3.0), annealed=(0.1, 2.0), random=(0.0, 4.0))  # dropout, guidance
FACTORS = ("strategy", "final_order", "target_aware", "hidden_size", "images", "passes", "dropout")
BASE = CELLS["annealed"]
GUIDANCE = (0.0, 1.5, 2.0, 3.0, 4.0, 6.0)
EFFECTS = {  # made up: what a factor adds to the loss of a finished model
    "raster": 0.5,
    "random": 0.35,
    "spiral_in": 0.06,
    "spiral_out": 0.05,
    "z_curve": 0.02,
    "subsample": 0.03,
    "alternate": 0.05,
}


def made_up_cells():
    """(part, name, factors) of every cell of the study."""
    for name, cell in CELLS.items():
        made = {field: getattr(cell, field) for field in FACTORS}
        made["anneal"] = [cell.anneal_start, cell.anneal_end]
        if cell.dropout is None:
            made["dropout"] = TUNED[cell.strategy][0]
        yield cell.part, name, made


def made_up_set(rng, loss, overfit, scale):
    """One set of samples."""
    fid = 1.5 + 2 * (loss - 2) ** 2 + 0.15 * (scale - 2.5) ** 2 + rng.normal(0, 0.05)
    return dict(
        guidance_scale=scale,
        class_agreement=0.98,
        proxy_fid_seen=fid - overfit,
        proxy_fid_unseen=fid,
        precision_seen=0.8 + 0.1 * overfit,
        precision_unseen=0.8 - 0.05 * overfit,
        recall_seen=0.6,
        recall_unseen=0.58,
        nearest_seen=0.16 - 0.03 * overfit,
        nearest_unseen=0.17 + rng.normal(0, 0.001),
    )


def made_up_measures(rng, step, loss, overfit, scales):
    """What a raw file has under 'final' and under 'best'."""
    by_cell = loss + 0.3 * np.cos(np.arange(49)) + rng.normal(0, 0.02, 49)
    return dict(
        step=step,
        validation_loss=loss,
        training_loss=loss - overfit,
        loss_by_cell=(by_cell - by_cell.mean() + loss).tolist(),
        sets=[made_up_set(rng, loss, overfit, scale) for scale in scales],
    )


def made_up_run(part, name, made, seed):
    """A whole raw file."""
    rng = np.random.default_rng([seed, *name.encode()])
    steps = round(made["passes"] * made["images"] / 64)
    strategy, (start, end) = made["strategy"], made["anneal"]
    effect = EFFECTS.get(strategy, 0.0)
    if strategy == "annealed" and made["final_order"] != "raster":
        effect = EFFECTS[made["final_order"]]
    pull = (
        np.log10(made["passes"] / BASE.passes)
        if strategy == "raster"
        else -np.log10(steps / BASE.steps)
    )
    loss = 2.05 + effect * (1 + 0.8 * pull) + 0.1 * pull + 0.3 * (not made["target_aware"])
    loss += -0.1 * np.log2(made["hidden_size"] / BASE.hidden_size) + 0.1 * abs(start - 0.5) * (
        effect == 0
    )
    noise = np.random.default_rng(seed).normal(0, 0.03) + rng.normal(0, 0.01)
    loss, overfit = float(loss + noise), 0.5 if strategy == "raster" else 0.1
    scales = GUIDANCE if part == "tuning" else (0.0, TUNED[strategy][1])
    when = max(1, steps // 100)
    t = np.arange(0, steps + 1, when)
    falling = (end * steps - t) / max(1, (end - start) * steps)
    r = np.clip(np.where(t < start * steps, 1, falling), 0, 1)
    start_loss = 2.8 * np.exp(-6 * t / steps)
    training = loss - overfit * t / steps + start_loss + 0.3 * r + rng.normal(0, 0.02, len(t))
    own = loss - overfit * (1 - t / steps) * (strategy == "raster") + start_loss + 0.2 * r
    return dict(
        cell=name,
        part=part,
        seed=seed,
        factors=made,
        config=dict(sample=dict(guidance_scale=scales[-1])),
        command=f"papermill nbs/study_run.ipynb out.ipynb -p cell {name} -p seed {seed}",
        commit="0123abc",
        machine=dict(name="made up"),
        seconds=100.0,
        curve=dict(step=t[1:].tolist(), loss=training[1:].tolist(), r=r[1:].tolist()),
        validation=dict(
            step=t[::2].tolist(),
            raster_loss=own[::2].tolist(),
            random_loss=(own[::2] + 0.4 * (strategy != "random")).tolist(),
        ),
        final=made_up_measures(rng, steps, loss, overfit, scales),
        real=dict(proxy_fid=0.3, precision=0.86, recall=0.85, nearest=0.175),
        best=made_up_measures(rng, steps // 2, loss - 0.4 * overfit, overfit / 3, scales),
    )


def write_study(folder, parts=None, seeds=None):
    """Raw files, tuned.json and pictures of samples; `seeds` by cell, where not all are wanted."""
    folder = Path(folder)
    for part, name, made in made_up_cells():
        if parts is not None and part not in parts:
            continue
        usual = dict(tuning=[100], headline=range(5)).get(part, range(3))
        for seed in (seeds or {}).get(name, usual):
            path = folder / "raw" / name / f"{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made_up_run(part, name, made, seed)))
        if part in ("orders", "headline"):
            (folder / "samples").mkdir(exist_ok=True)
            pixels = np.random.default_rng(len(name)).integers(0, 256, (62, 302), np.uint8)
            Image.fromarray(pixels).save(folder / "samples" / f"{name}.png")
    if parts is None or "tuning" in parts:
        tuned = {s: dict(dropout=d, guidance_scale=g, why={}) for s, (d, g) in TUNED.items()}
        (folder / "tuned.json").write_text(json.dumps(tuned))
