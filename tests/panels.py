"""Builds the panels of a notebook from its collapsed cells, without a browser or a kernel."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from rar_nb.play.watch import BUNDLED, cached_run
from rar_nb.play.widgets import figure_png
from rar_nb.pretrained.checkpoints import save_weights
from rar_nb.pretrained.presets import save_run_config
from rar_nb.tokenizer import make_tokenizer
from rar_nb.transformer import RAR

NOTEBOOKS = Path(__file__).parent.parent / "nbs"
KINDS = ["ScanOrders", "Annealing", "TargetAware", "Watch", "Inpainting"]


def collapsed_cells(name: str) -> list[str]:
    "Sources of the code cells of a notebook that JupyterLab shows collapsed."
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    hidden = [c for c in cells if c["metadata"].get("jupyter", {}).get("source_hidden")]
    return ["".join(c["source"]) for c in hidden if "check" not in c["metadata"].get("tags", [])]


def build_panels(name: str) -> dict:
    "The names that the collapsed cells define, after they have run in order."
    names = {}
    for source in collapsed_cells(name):
        exec(source, names)
    return names


def starts_with_its_panel(name: str) -> bool:
    "Whether the first code cell of a notebook is collapsed and makes a panel."
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    first = next(c for c in cells if c["cell_type"] == "code")
    hidden = first["metadata"].get("jupyter", {}).get("source_hidden", False)
    return hidden and any(f"{kind}(" in "".join(first["source"]) for kind in KINDS)


def pixels_of(figure) -> np.ndarray:
    "A figure at its own size, uint8 [H, W, 3]."
    return np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("RGB"))


def answers(panel, **request):
    """What a panel sends back to the browser."""
    sent = []
    panel.send = lambda content, buffers=None: sent.append((content, buffers))
    panel.answer(panel, request, [])
    (answer,) = sent
    return answer


def own_run(folder, tokenizer=None, **changes):
    """A run with another model, of random weights; with another tokenizer, if its `TokenizerConfig`
    is given."""
    run = cached_run(str(BUNDLED))[0]
    model = replace(run.model, num_layers=1, **changes)
    folder.mkdir()
    run = replace(run, model=model, tokenizer=tokenizer or run.tokenizer)
    save_run_config(run, folder / "config.json")
    if tokenizer is None:
        shutil.copy(BUNDLED / "tokenizer.safetensors", folder)
    else:
        save_weights(make_tokenizer(tokenizer), folder / "tokenizer.safetensors")
    save_weights(RAR(model), folder / "model.safetensors")
    return folder
