"""The rule for small data of `53_study`, tried on data that it was not found on.

The data are the drawings of `your_images`: 540 to learn from, in three classes. Each run is one of
`nbs/train.ipynb`; all share one tokenizer. What is there already is kept.

python -m tests.tools.rule results/study/rule --work runs/rule
"""

import argparse
import ast
import json
from pathlib import Path

import papermill

from rar_nb.runs.run_folders import curve, read_metrics
from rar_nb.runs.study import commit, processor
from rar_nb.support import PROJECT, make_folder, read_json, write_json

NOTEBOOK = PROJECT / "nbs" / "your_images.ipynb"


def cell_with(text: str, notebook: Path = NOTEBOOK) -> str:
    """The source of the first cell of a notebook that has this text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    return next(source for source in sources if text in source)


def settings_of(name: str, notebook: Path = NOTEBOOK) -> dict:
    """The settings that a cell of a notebook calls `name`."""
    start = f"{name} = dict("
    tree = ast.parse(cell_with(start, notebook))
    found = next(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node).startswith(start)
    )
    return {setting.arg: ast.literal_eval(setting.value) for setting in found.keywords}


MODEL = settings_of("smaller") | dict(eval_every=36)  # each run has its own dropout
TRAIN = {name: settings_of("demo")[name] for name in ("batch_size", "learning_rate")}
RASTER = dict(anneal_start=0, anneal_end=0)
STRATEGIES = {
    "raster, 0.3": dict(RASTER, dropout=0.3, guidance_scale=2.0),
    "annealed, 0.1": dict(dropout=0.1, guidance_scale=3.0),
}  # with the guidance that was tuned for each on the digits
EPOCHS = (36, 144)
SEEDS = (0, 1, 2)


def make_drawings(folder: Path):
    """The drawings of `your_images`, by its own cells."""
    names: dict = {}
    exec("import numpy as np\nfrom pathlib import Path\nfrom PIL import Image, ImageDraw", names)
    exec(cell_with("def make_drawings("), names)
    names["make_drawings"](folder)


def train(data: Path, folder: Path, tokenizer: Path | None, **changes) -> dict:
    """Train in `folder`, and return what was measured."""
    guidance, epochs, seed = (changes.pop(name) for name in ("guidance_scale", "epochs", "seed"))
    parameters = dict(
        preset="small_64", data=str(data), image_size=32, run_dir=str(folder), epochs=epochs,
        guidance_scale=guidance, seed=seed, num_samples=300, cpu=True, overwrite=True,
        changes=MODEL | changes, **TRAIN,
    )  # fmt: skip
    if tokenizer:
        parameters["tokenizer_from"] = str(tokenizer)
    notebook = PROJECT / "nbs" / "train.ipynb"
    papermill.execute_notebook(notebook, None, parameters, progress_bar=False)
    steps, losses = curve(read_metrics(folder / "metrics.jsonl"), "raster_loss")
    evaluation = read_json(folder / "evaluation.json", dict, "run this again")
    return dict(
        epochs=epochs, seed=seed, changes=changes, guidance_scale=guidance, steps=steps[-1],
        validation_loss=losses[-1], lowest_loss=min(losses), evaluation=evaluation,
        commit=commit(), processor=processor(),
    )  # fmt: skip


def main(results: Path, work: Path):
    data, first = work / "drawings", work / "tokenizer"
    if not data.is_dir():
        make_drawings(data)
    if not (first / "evaluation.json").is_file():
        train(data, first, None, dropout=0.0, guidance_scale=2.0, epochs=1, seed=100)
    for epochs in EPOCHS:
        for seed in SEEDS:
            for name, changes in STRATEGIES.items():
                words = name.replace(", ", "_dropout_")
                path = make_folder(results) / f"{words}_{epochs}_epochs_{seed}.json"
                if not path.is_file():
                    found = train(
                        data, work / path.stem, first, epochs=epochs, seed=seed, **changes
                    )
                    write_json(dict(found, strategy=name), path)
                    print(path.stem, f"{found['validation_loss']:.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, help="folder of one JSON file for each run")
    parser.add_argument("--work", type=Path, default=PROJECT / "runs" / "rule")
    args = parser.parse_args()
    main(args.results, args.work)
