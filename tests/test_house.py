"""The house is in order: what may import what, how wide and how long, how much is explained."""

import ast
import json
import re
import statistics
from pathlib import Path

import pytest

from tests.tools.reading_order import ORDER, navigation, title

ROOT = Path(__file__).parent.parent
NBS, LIBRARY = ROOT / "nbs", ROOT / "rar_nb"
MACHINERY = {
    "compiled": set(),
    "kernels": {"compiled"},
    "gpu_kernels": {"kernels"},
    "fast_sampling": {"kernels", "gpu_kernels", "embeddings", "transformer"},
}
CORE = ["tokenizer", "orders", "embeddings", "transformer", "trainer", "sampler", "evaluation"]
PACKAGES = ["data", "pretrained", "runs", "reports", "play"]
ALLOWED = {  # what a package may import besides the core, `support` and `style`
    "data": [],
    "pretrained": ["data"],
    "runs": ["data", "pretrained"],
    "reports": ["data", "pretrained", "runs"],
    "play": ["data", "pretrained", "runs"],
}
MODULES = sorted(p for p in LIBRARY.rglob("*.py") if p.name not in ("_modidx.py", "__init__.py"))
CHAPTERS = sorted(NBS.glob("0[1-7]_*.ipynb"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """Modules of the library that one imports, such as `data.images`."""
    package = name_of(path).split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            found.add(".".join([*base, *filter(None, [node.module])]))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rar_nb."):
            found.add(node.module.removeprefix("rar_nb."))
    return found


def cells(path: Path, kind: str) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def exported(path: Path) -> list[list[str]]:
    """The exported cells of a notebook as lists of code lines."""
    chosen = [c for c in cells(path, "code") if re.match(r"#\|\s*exports?\b", c)]
    return [[line for line in c.splitlines()[1:] if line.strip()] for c in chosen]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    parts = name_of(path).split(".")
    if parts[0] in CORE:
        allowed = {"support", "fast_sampling", *CORE[: CORE.index(parts[0])]}
    elif parts[0] in MACHINERY:  # what is under the core, and explained after it
        allowed = {"support", *MACHINERY[parts[0]]}
    elif len(parts) == 1:
        allowed = {"support"}
    else:
        allowed = {"support", "style", *CORE, *MACHINERY}
    for name in imported(path):
        package = name.split(".")[0]
        same = len(parts) == 2 and package == parts[0]
        assert name in allowed or same or package in ALLOWED.get(parts[0], []), name


def test_no_circle():
    edges = {name_of(path): imported(path) for path in MODULES}
    done: set[str] = set()
    while len(done) < len(edges):
        free = {name for name, needs in edges.items() if name not in done and needs <= done}
        assert free, f"these import each other: {sorted(set(edges) - done)}"
        done |= free


def test_sampling_imports_nothing_of_training():
    needed, edges = {"sampler"}, {name_of(path): imported(path) for path in MODULES}
    while more := {m for name in needed for m in edges[name]} - needed:
        needed |= more
    assert "trainer" not in needed and not [n for n in needed if n.startswith("runs")]


def test_lines_are_narrow():
    lines = [line for path in MODULES for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if not line.startswith(("__all__", "           '", '"""'))]
    assert max(map(len, lines)) <= 120
    assert sum(len(line) > 100 for line in lines) <= 0.01 * len(lines)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 45, f"{node.name} is too long"


def test_the_core_is_small():
    """RAR itself and its ablations, in lines of exported code without the blank ones."""
    assert sum(len(cell) for path in CHAPTERS for cell in exported(path)) <= 1455


def test_chapters_explain():
    sizes = [len(cell) for path in CHAPTERS for cell in exported(path)]
    assert statistics.median(sizes) <= 10
    words = sum(len(c.split()) for path in CHAPTERS for c in cells(path, "markdown"))
    assert words >= 4 * sum(sizes)


@pytest.mark.parametrize("number", range(1, 6))
def test_equations_are_displayed_once_in_the_chapters(number):
    displays = [
        d
        for path in CHAPTERS
        for c in cells(path, "markdown")
        for d in re.findall(r"\$\$(.*?)\$\$", c, re.DOTALL)
    ]
    tagged = [d for d in displays if re.search(rf"\\tag\{{{number}\}}", d)]
    assert len(tagged) == 1, f"equation {number} must be displayed once, with \\tag{{{number}}}"


def test_the_first_idea_comes_early():
    """Of the reading order behind the contents, the first five cells speak of permuted orders."""
    notebook = json.loads((NBS / "00_tour.ipynb").read_text(encoding="utf-8"))
    text = " ".join("".join(c["source"]) for c in notebook["cells"][:5])
    assert re.search(r"random order|permut|shuffl", text)


def test_every_notebook_is_in_the_reading_order():
    assert sorted(ORDER) == sorted(p.stem for p in NBS.glob("*.ipynb"))


@pytest.mark.parametrize("name", ORDER[1:])
def test_links_to_previous_and_next(name):
    texts = cells(NBS / f"{name}.ipynb", "markdown")
    line = navigation(NBS, name)
    assert line in texts[0] and line in texts[-1], "run `make notebooks`"
    assert title(NBS, name)


def test_links_between_notebooks_lead_somewhere():
    for path in [*NBS.glob("*.ipynb"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([\w/]+\.ipynb)", text):
            assert (path.parent / link).is_file(), f"{path.name} links to {link}"


def test_no_notebook_rewrites_the_library():
    for path in NBS.glob("*.ipynb"):
        assert "nbdev_export" not in "".join(cells(path, "code")), path.name
