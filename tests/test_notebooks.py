"""Notebooks and library agree, and notebooks are as a repository wants them."""
import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.static_outputs import strip

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
PARAMETRISED = ["train", "evaluate", "pretokenize", "your_images"]


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def test_export_and_clean_leave_no_diff(tmp_path):
    for name in ["nbs", "rar_nb", "settings.ini", "README.md"]:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for name in ["nbdev_export", "nbdev_clean"]:
        command = Path(sys.executable).parent / name
        subprocess.run([command], cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    for folder, pattern in [("nbs", "*.ipynb"), ("rar_nb", "*.py")]:
        before = {p.name: p.read_text() for p in (ROOT / folder).glob(pattern)}
        after = {p.name: p.read_text() for p in (tmp_path / folder).glob(pattern)}
        changed = [name for name in before | after if before.get(name) != after.get(name)]
        assert not changed, f"run `make notebooks`: {changed} would change"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_small_and_shows_a_picture(path):
    assert path.stat().st_size < 300_000
    kinds = {kind for c in code_cells(path) for o in c["outputs"] for kind in o.get("data", {})}
    pictures = "".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown")
    assert "image/png" in kinds or "![" in pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_widgets_are_saved_as_pictures(path):
    "A saved widget is an error message where its kernel isn't; `make notebooks` leaves the picture of its first view."
    notebook = json.loads(path.read_text())
    assert not strip(notebook)
    panels = [o["data"] for c in code_cells(path) for o in c["outputs"] if "A panel: run" in "".join(o.get("data", {}).get("text/plain", ""))]
    assert all("image/png" in data for data in panels)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_output_is_an_error(path):
    assert not [o for c in code_cells(path) for o in c["outputs"] if o["output_type"] == "error"]


def tables(path):
    return [o["data"] for c in code_cells(path) for o in c["outputs"] if "text/markdown" in o.get("data", {})]


@pytest.mark.parametrize("name", [*PARAMETRISED, "20_cost"])
def test_tables_can_be_read_on_a_terminal(name):
    found = tables(ROOT / "nbs" / f"{name}.ipynb")
    assert found or name == "pretokenize"
    assert all("".join(data["text/plain"]) == "".join(data["text/markdown"]) for data in found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_dollars_in_tables(path):
    "What stands between two of them is LaTeX to Markdown, and takes the bars between cells with it."
    assert not [line for data in tables(path) for line in "".join(data["text/markdown"]).splitlines() if line.startswith("|") and "$" in line]


@pytest.mark.parametrize("name", PARAMETRISED)
def test_parameters_cell(name):
    tagged = [c for c in code_cells(ROOT / "nbs" / f"{name}.ipynb") if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill needs the tag `parameters` on one cell"


def test_modules_import_only_from_lower_numbers():
    modules = {p.stem[3:]: int(p.stem[:2]) for p in NOTEBOOKS if p.stem[:2].isdigit()}
    for name, number in modules.items():
        tree = ast.parse((ROOT / "rar_nb" / f"{name}.py").read_text())
        used = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1]
        assert not [m for m in used if modules.get(m, 100) >= number], name


def test_readme_is_the_index():
    made = subprocess.run(["make", "--silent", "readme", "README=/dev/stdout"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert made.stdout == (ROOT / "README.md").read_text(), "run `make readme`"
