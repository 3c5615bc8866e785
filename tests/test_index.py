"""The README is the index, and the paper's map leads to the code."""

import importlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
INDEX = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))
TEXT = "\n\n".join("".join(cell["source"]) for cell in INDEX["cells"])
MAP = re.findall(r"^\| ([^|]+) \| \[\w+\]\((\w+\.ipynb)\) \| `(rar_nb[\w.]+)` \|$", TEXT, re.M)


def test_the_map_covers_the_paper():
    entries = " ".join(entry for entry, _, _ in MAP)
    wanted = [f"Equation {n}" for n in range(1, 6)] + ["Algorithm 1", "Figure 1", "Figure 2"]
    wanted += ["Figure 3", "Figure 4", "Table 1", "Tables 2 to 5", "Tables 2 to 4"]
    assert not [name for name in wanted if name not in entries]


@pytest.mark.parametrize("entry,notebook,name", MAP, ids=[f"{e}-{n}" for e, _, n in MAP])
def test_the_map_leads_to_the_code(entry, notebook, name):
    """The name exists; its cell, or the words about it, are in the notebook."""
    module, attribute = name.rsplit(".", 1)
    assert hasattr(importlib.import_module(module), attribute)
    text = (ROOT / "nbs" / notebook).read_text(encoding="utf-8")
    assert re.search(rf"\b{attribute}\b", text), f"{notebook} does not speak of {attribute}"


@pytest.mark.parametrize("number", range(1, 6))
def test_the_map_leads_to_the_equation(number):
    (notebook,) = {nb for entry, nb, _ in MAP if re.match(rf"Equation {number}\b(?! as)", entry)}
    cells = json.loads((ROOT / "nbs" / notebook).read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert rf"\tag{{{number}}}" in text


def test_every_link_leads_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (ROOT / "nbs" / link).exists(), link


def test_readme_is_the_index():
    command = ["make", "--silent", "readme", "README=/dev/stdout"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert made.stdout == readme, "run `make readme`"


def test_panels_move_in_the_readme():
    """Their pictures are animated, as wide as a page of GitHub, and soon loaded."""
    names = re.findall(r"!\[[^\]]{40,}\]\(\.\./(results/pictures/\w+\.webp)\)", TEXT)
    assert [Path(name).stem for name in names] == ["scan_orders", "annealing", "watch"]
    assert sum((ROOT / name).stat().st_size for name in names) < 1.5e6
    for name in names:
        with Image.open(ROOT / name) as picture:
            assert picture.n_frames >= 30 and picture.info["loop"] == 0
            assert 780 <= picture.width <= 820
