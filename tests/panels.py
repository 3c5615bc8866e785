"""Builds the panels of a notebook from its collapsed cells, without a browser or a kernel."""

import json
from pathlib import Path

NOTEBOOKS = Path(__file__).parent.parent / "nbs"
KINDS = ["Panel", "ScanOrders", "Annealing", "TargetAware", "Inpainting"]


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
