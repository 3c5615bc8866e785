"""Notebooks and library agree, and notebooks are as a repository wants them."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tools.static_outputs import (
    VERY_LARGE,
    few_colours,
    join_streams,
    last_states,
    repack,
    shrink,
    tidy,
    without_paths,
)

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
PARAMETRISED = ["train", "evaluate", "pretokenize", "your_images", "study_run"]


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def test_export_and_clean_leave_no_diff(tmp_path):
    for name in ["nbs", "rar_nb", "settings.ini", "README.md"]:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for name in ["nbdev_export", "nbdev_clean"]:
        command = Path(sys.executable).parent / name
        subprocess.run(
            [command],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
    for folder, pattern in [("nbs", "*.ipynb"), ("rar_nb", "*.py")]:
        before, after = (
            {str(p.relative_to(root)): p.read_text() for p in (root / folder).rglob(pattern)}
            for root in (ROOT, tmp_path)
        )
        changed = [name for name in before | after if before.get(name) != after.get(name)]
        assert not changed, f"run `make notebooks`: {changed} would change"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_small_and_shows_a_picture(path):
    if path.stem == "16_exercises":
        pytest.skip("there is nothing to draw about a check")
    assert path.stat().st_size < 400_000
    kinds = {kind for c in code_cells(path) for o in c["outputs"] for kind in o.get("data", {})}
    pictures = "".join(
        "".join(c["source"])
        for c in json.loads(path.read_text())["cells"]
        if c["cell_type"] == "markdown"
    )
    assert "image/png" in kinds or "![" in pictures or path.stem == "09_support"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_tidy(path):
    "No live widgets, one line a progress bar, no paths; `make notebooks` sees to it."
    notebook = json.loads(path.read_text())
    assert not tidy(notebook)
    panels = [
        o["data"]
        for c in code_cells(path)
        for o in c["outputs"]
        if "A panel: run" in "".join(o.get("data", {}).get("text/plain", ""))
    ]
    assert all("image/png" in data for data in panels)


@pytest.mark.parametrize("name", PARAMETRISED)
def test_outputs_are_not_flooded(name):
    for cell in code_cells(ROOT / "nbs" / f"{name}.ipynb"):
        streams = ["".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream"]
        assert len(streams) <= 2 and sum(text.count("%|") for text in streams) <= 3
        assert not re.search(r"(?<![\w…])/(work|home|root|tmp|Users)/", "".join(streams))


def test_a_bar_is_saved_in_its_last_state():
    assert last_states("a   0%|\ra  50%|\ra 100%|\ndone\n") == "a 100%|\ndone\n"
    bar = [
        dict(output_type="stream", name="stderr", text=[text])
        for text in ("x 0%|", "\rx 40%|", "\rx 100%|", "\n")
    ]
    said = dict(output_type="stream", name="stdout", text=["one\n"])
    (bars, words) = join_streams([*bar[:2], said, *bar[2:], dict(said, text="two\n")])
    assert bars["text"] == ["x 100%|\n"] and words["text"] == ["one\n", "two\n"]
    assert join_streams([dict(said, name="stderr", text="\n")]) == []
    kernel = dict(said, name="stderr", text="[IPKernelApp] WARNING | no encryption\n")
    assert join_streams([kernel]) == []


@pytest.mark.parametrize("colours", [1, 3, 300])
def test_pictures_keep_their_pixels(colours):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (colours, 3)) if colours > 1 else np.full((1, 3), 99)
    pixels = palette[rng.integers(0, colours, (40, 50))].astype(np.uint8)
    plain = io.BytesIO()
    Image.fromarray(pixels).convert("RGBA").save(plain, "PNG")
    packed = base64.b64decode(repack(base64.b64encode(plain.getvalue()).decode()))
    assert len(packed) <= len(plain.getvalue())
    assert (np.array(Image.open(io.BytesIO(packed)).convert("RGB")) == pixels).all()


def test_a_very_large_notebook_loses_shades_but_no_line():
    rng = np.random.default_rng(0)
    pixels = np.full((200, 300, 3), 255, np.uint8)
    pixels[50:150, 100:200] = (0, 114, 178)
    pixels[100, :, 1] = rng.integers(0, 256, 300)  # a line with many shades
    pixels[20, 30:90] = (213, 94, 0)  # thin, and of a rare colour
    plain = io.BytesIO()
    Image.fromarray(pixels).save(plain, "PNG")
    png = base64.b64encode(plain.getvalue()).decode()
    packed = np.array(Image.open(io.BytesIO(base64.b64decode(few_colours(png)))).convert("RGB"))
    away = np.abs(packed.astype(int) - pixels).max(2)
    assert (away[pixels.sum(2) == 765] == 0).all() and 0 < away.max() <= 48
    plain = io.BytesIO()
    Image.fromarray(pixels[..., 1]).save(plain, "PNG")
    grey = base64.b64encode(plain.getvalue()).decode()
    packed = np.array(Image.open(io.BytesIO(base64.b64decode(few_colours(grey)))))
    assert len(np.unique(packed)) <= 16 and packed[0, 0] == 255
    assert np.abs(packed.astype(int) - pixels[..., 1]).max() <= 8
    output = dict(output_type="display_data", data={"image/png": png})
    notebook = dict(cells=[dict(outputs=[output]), dict(source="x" * VERY_LARGE)])
    shrink(notebook)
    assert len(notebook["cells"][0]["outputs"][0]["data"]["image/png"]) < len(repack(png))


def test_paths_are_shortened():
    outputs = [
        dict(
            output_type="stream",
            name="stdout",
            text="in /home/me/rar_nb/runs and /tmp/tmpab_1/x, not in /tmp",
        )
    ]
    assert (
        without_paths(outputs, ["/home/me/rar_nb"])[0]["text"] == "in …/runs and …/x, not in /tmp"
    )


@pytest.mark.parametrize("name", PARAMETRISED)
def test_no_front_matter_greets_the_reader(name):
    """nbdev reads it from any raw cell; it keeps `nbdev_test` from running the notebook."""
    kinds = [
        (c["cell_type"], "".join(c["source"]))
        for c in json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text())["cells"]
    ]
    assert kinds[0][0] == "markdown" and kinds[0][1].startswith("# ")
    assert (
        kinds[-1] == ("raw", "---\nskip_exec: true\n---")
        and [kind for kind, _ in kinds].count("raw") == 1
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_output_is_an_error(path):
    assert not [o for c in code_cells(path) for o in c["outputs"] if o["output_type"] == "error"]


def tables(path):
    return [
        o["data"]
        for c in code_cells(path)
        for o in c["outputs"]
        if "text/markdown" in o.get("data", {})
    ]


@pytest.mark.parametrize("name", [*PARAMETRISED, "47_cost"])
def test_tables_can_be_read_on_a_terminal(name):
    found = tables(ROOT / "nbs" / f"{name}.ipynb")
    assert found or name == "pretokenize"
    assert all(
        "".join(data["text/plain"]).strip() == "".join(data["text/markdown"]).strip()
        for data in found
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_dollars_in_tables(path):
    "What stands between two of them is LaTeX to Markdown, with the bars between cells."
    assert not [
        line
        for data in tables(path)
        for line in "".join(data["text/markdown"]).splitlines()
        if line.startswith("|") and "$" in line
    ]


@pytest.mark.parametrize("name", PARAMETRISED)
def test_parameters_cell(name):
    tagged = [
        c
        for c in code_cells(ROOT / "nbs" / f"{name}.ipynb")
        if "parameters" in c["metadata"].get("tags", [])
    ]
    assert len(tagged) == 1, "papermill needs the tag `parameters` on one cell"
