"""The website: a small one is built, and pages of three notebooks are read as a browser would.

The whole of it, in Chromium, is for `tests/browser/test_site.py`.
"""

import html
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastcore.docments import docments
from PIL import Image

from rar_nb.support import InvalidValue
from tests.once import NAMES, small_site
from tests.site.build import MARK, NPM, Site, beside, chosen, mend, prepare
from tests.site.links import broken_links, foreign_loads, read_site
from tests.site.notebooks import (
    Stage,
    caption,
    description,
    directives,
    navigation_left,
    panel,
)
from tests.site.reference import Module, every_entry
from tests.site.text import rewrite
from tests.tools.reading_order import ORDER

ROOT = Path(__file__).parent.parent
READ = ["02_orders", "05_trainer", "10_scan_orders"]
MODULES = ["rar_nb.orders", "rar_nb.trainer", "rar_nb.play.scan_orders"]
LIBRARY = ROOT / "rar_nb"
NAMES_OF_MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in LIBRARY.rglob("[!_]*.py")
)


def read_module(name: str) -> Module:
    return Module(ROOT / (name.replace(".", "/") + ".py"), LIBRARY)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return small_site(tmp_path_factory)


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text(encoding="utf-8")


def words(text: str) -> str:
    """What a reader sees of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def cells(name: str) -> list[dict]:
    notebook = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook["cells"]


# The site as a whole


def test_links(site):
    assert broken_links(site) == []
    assert len(read_site(site)) > len(NAMES) + len(MODULES)


def test_nothing_comes_from_another_host(site):
    assert foreign_loads(site) == []
    for sheet in site.rglob("*.css"):
        for url in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", sheet.read_text()):
            assert not re.match(r"(?:https?:)?//", url), f"{sheet.name} loads {url}"


def test_faults_of_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="a.html#top"></a><a href="a.html#end"></a><a href="b.html"></a>'
        '<img src="gone.png"><script src="https://cdn.example.org/x.js"></script>'
        '<a href="https://arxiv.org/abs/2411.00776"></a>'
    )
    assert broken_links(tmp_path) == ["a.html: a.html#end", "a.html: b.html", "a.html: gone.png"]
    assert foreign_loads(tmp_path) == ["a.html: https://cdn.example.org/x.js"]


def test_previous_and_next(site):
    """One walks from the first page through the notebooks in their order, and back."""
    path = ["index"]
    while found := re.search(
        r'<a class="right-next"\s+href="([^"#]+)\.html"', page(site, path[-1])
    ):
        step = (site / path[-1]).parent / found[1]
        path.append(str(step.resolve().relative_to(site.resolve())))
    assert path[: len(NAMES) + 1] == ["index", *NAMES]
    assert {"paper", "results/index", "api/index", "CONTRIBUTING"} < set(path)
    back = re.search(r'<a class="left-prev"\s+href="([^"#]+)\.html"', page(site, NAMES[1]))
    assert back[1] == NAMES[0]


def test_search(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert all(f'"{name}"' in index for name in NAMES) and "sample_ord" in index


def test_first_page_is_the_readme(site):
    first = page(site, "index")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    picture = re.search(r'<img alt="([^"]+)"', first.partition("<article")[2])[1]
    assert html.unescape(picture) == re.search(r"!\[([^\]]+)\]", readme)[1]
    assert "Three ways in" in first and "2024randomized" in first


# Notebooks


@pytest.mark.parametrize("name", READ)
def test_a_page_has_what_its_notebook_shows(site, name):
    text = page(site, name)
    seen = words(text)
    for cell in cells(name):
        for output in cell.get("outputs", []):
            for line in "".join(output.get("text", "")).splitlines():
                assert " ".join(line.split()) in seen
    pictures = [
        o for c in cells(name) for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    article = text.partition("<article")[2].partition("</article>")[0]
    assert len(re.findall(r"<img ", article)) == len(pictures)
    assert not re.search(r'<img(?![^>]*alt="[^"]{8})', article), "a picture without words"
    tables = sum("| --- |" in str(o.get("data")) for c in cells(name) for o in c.get("outputs", []))
    assert "| --- |" not in seen and article.count("<table") >= tables
    assert "#| " not in seen and "navigation" not in seen and "fastcore.test" not in seen


def test_mathematics(site):
    """Every formula that a notebook displays is on its page, for MathJax, with its number."""
    text = html.unescape(page(site, "02_orders"))
    assert 'src="_static/vendor/mathjax/tex-svg.js' in text
    sources = ["".join(c["source"]) for c in cells("02_orders") if c["cell_type"] == "markdown"]
    displays = [d for s in sources for d in re.findall(r"\$\$(.*?)\$\$", s, re.S)]
    found = re.findall(r'<div class="math notranslate nohighlight"[^>]*>(.*?)</div>', text, re.S)
    assert len(displays) == len(found) >= 4
    for display, formula in zip(displays, found):
        assert "".join(display.split()) in "".join(formula.split())


def test_paper_map(site):
    """An equation leads to the place where it stands."""
    text = page(site, "paper")
    links = dict(re.findall(r'href="02_orders\.html#(equation-\d)".*?>(Equation \d)', text))
    assert sorted(links.values()) == ["Equation 1", "Equation 2", "Equation 3", "Equation 5"]
    for anchor in links:
        after = page(site, "02_orders").partition(f'id="{anchor}"')[2][:1500]
        assert rf"\tag{{{anchor[-1]}}}" in after
    assert re.search(r"Section 3\.2.*?rar_nb\.orders\.sample_orders", text, re.S)


# The reference


def test_docments_stand_beside_the_parameters(site):
    """What fastcore reads of the living functions is on the page, behind the parameter's name."""
    module = importlib.import_module("rar_nb.orders")
    text = page(site, "api/rar_nb.orders")
    checked = 0
    for name in module.__all__:
        function = inspect.unwrap(getattr(module, name))
        if not inspect.isfunction(function):
            continue
        entry = words(text.partition(f'id="rar_nb.orders.{name}"')[2].partition("defined-in")[0])
        for parameter, comment in docments(function).items():
            if comment:
                comment = " ".join(comment.replace("`", "").split())
                before = "Returns: " if parameter == "return" else f"{parameter} ("
                assert comment in entry.partition(before)[2], (name, parameter)
                checked += 1
    assert checked > 20


def test_reference_and_notebook_lead_to_each_other(site):
    """An entry leads to the cell that defines it, and the cell to the entry."""
    notebook = page(site, "02_orders")
    for entry in every_entry([read_module("rar_nb.orders")]):
        reference = page(site, "api/rar_nb.orders").partition(f'id="{entry.full_name}"')[2]
        anchor = re.search(r'href="\.\./02_orders\.html#([\w-]+)"', reference)[1]
        cell = notebook.partition(f'id="{anchor}"')[2].partition("</pre>")[0]
        assert re.search(rf"(def )?\b{entry.name}\b", words(cell))
        assert f'href="api/rar_nb.orders.html#{entry.full_name}"' in cell
    assert f'href="api/{MODULES[1]}.html' in page(site, READ[1])


def has_docments(function) -> bool:
    """Whether fastcore reads all comments: not those of parameters before a `/`, and of options
    that are annotated with `Param`."""
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    positional = inspect.Parameter.POSITIONAL_ONLY in kinds
    return not positional and "Param(" not in inspect.getsource(function)


@pytest.mark.parametrize("name", NAMES_OF_MODULES)
def test_reference_is_complete(name):
    """Every exported name has its entry; parameters and comments are those that fastcore finds."""
    module, living = read_module(name), importlib.import_module(name)
    entries = {entry.name: entry for entry in module.entries}
    assert set(living.__all__) <= set(entries)
    for entry in entries.values():
        if entry.kind != "function":
            continue
        function = inspect.unwrap(getattr(living, entry.name))
        names = [p.name for p in entry.parameters]
        assert names == list(inspect.signature(function).parameters)
        if has_docments(function):
            theirs = docments(function, args_kwargs=True)
            for parameter in entry.parameters:
                expected = " ".join((theirs.get(parameter.name) or "").split())
                assert parameter.comment == expected, (entry.full_name, parameter.name)


# Pictures in words


def says_nothing(alt: str) -> bool:
    return len(alt.split()) < 3 or alt.lower().startswith(("picture", "image of", "figure"))


def test_every_picture_of_a_notebook_is_described(tmp_path):
    """In words that say what is to be seen; no two pictures of a notebook have the same."""
    source = Site(tmp_path, ORDER[1:], NPM, None)
    stage = Stage({}, lambda text, name: text, tmp_path, set(), set(), source.pictures())
    found = 0
    for name in ORDER[1:]:
        cells = stage.notebook(ROOT / "nbs" / f"{name}.ipynb")["cells"]
        images = [cell["metadata"].get("mystnb", {}).get("image") for cell in cells]
        alts = [image["alt"] for image in images if image]
        assert [alt for alt in alts if says_nothing(alt)] == [], name
        assert len(set(alts)) == len(alts), (name, "a picture is described as another one")
        found += len(alts)
    assert found > 150


def test_every_picture_of_the_site_is_described(site):
    pictures = 0
    for file in site.rglob("*.html"):
        for tag in re.findall(r"<img\b[^>]*>", file.read_text(encoding="utf-8")):
            alt = re.search(r'\balt="([^"]*)"', tag)
            assert alt and not says_nothing(html.unescape(alt[1])), (file.name, tag)
            pictures += 1
    assert pictures > 50


def test_a_picture_can_be_opened_alone(site):
    """For those who want to enlarge it; not a panel's, whose place the panel takes."""
    text = page(site, "10_scan_orders")
    links = re.findall(r'<a class="alone" href="([^"]+)"><img [^>]*src="\1"[^>]*></a>', text)
    assert links and len(links) == text.count('class="alone"') == len(set(links))
    assert all((site / link).is_file() and "panels" not in link for link in links)
    assert mend(text) == text


def test_films_for_telephones(site):
    """Every moving picture of the first page has a narrow one, which stands still, too, for those
    who want that."""
    found = re.findall(r"<picture>.*?</picture>", page(site, "index"), re.S)
    films = [re.search(r'<img [^>]*src="([^"]+)"', picture)[1] for picture in found]
    assert [Path(film).stem for film in films] == ["rar", "scan_orders", "annealing", "watch"]
    for film, picture in zip(films, found, strict=True):
        files = re.findall(r'srcset="([^"]+)"', picture)
        assert len(files) == 3
        for file in files:
            with Image.open(site / file) as image, Image.open(site / film) as wide:
                assert (image.width < 400) == ("_narrow" in file)
                assert getattr(image, "n_frames", 1) == (1 if "still" in file else wide.n_frames)


@pytest.mark.parametrize(
    "text, columns",
    [
        ("raster    1.83\nspiral_in 1.00", False),
        ("raster     1.83\nspiral_in  1.00", True),
        ("  one sentence\n  and another", False),
        ("a  b\n" + 90 * "c" + "  d", False),  # too wide for any screen
        ("a  b", False),
    ],
)
def test_only_columns_are_not_wrapped(text, columns):
    output = '<div class="output stream x"><div class="highlight"><pre><span></span>'
    mended = mend(f"{output}{text}</pre></div></div>")
    assert ('class="output stream x columns"' in mended) == columns
    assert mend(mended) == mended and text in mended


@pytest.mark.parametrize(
    "source, words",
    [
        ("#| fig-alt: A line: it falls\nplot_gap(runs)", "A line: it falls"),
        ("ax.set(title='Loss of both runs')\nplot_gap(runs)", "Loss of both runs"),
        ("ax.set(title='Gain')\nplot_gap(runs)", "The gap between two losses."),
        ("image_grid(images)", "What is beside it."),
    ],
)
def test_words_for_a_picture(source, words):
    named = {"plot_gap": "The gap between two losses."}
    assert description(source, named, "What is beside it.") == words


def test_caption():
    """The first sentence of a paragraph right before the picture, or else the heading."""
    text = "# A title\n\nBefore.\n\nIn `a`, [b](b.ipynb) and $c$. More."
    assert caption(text) == "In a, b and c."
    assert caption("## Two clouds\n\n- one\n- two") == "Two clouds"


# Pieces


def test_directives():
    assert directives("#| export\n@checked\ndef f(): ...") == ({"export"}, "@checked\ndef f(): ...")
    assert directives("x = 1  # | export") == (set(), "x = 1  # | export")


def test_links_and_code_in_markdown():
    text = "[a `b`](x.ipynb) `name` ``two`` $$[c](d)$$\n\n```\n[e](f) `g`\n```\n![h](i.png)"
    got = rewrite(text, lambda w, t, picture: f"<{w}|{t}|{picture}>", lambda code: f"«{code}»")
    assert got == (
        "<a `b`|x.ipynb|False> «name» ``two`` $$[c](d)$$\n\n```\n[e](f) `g`\n```\n<h|i.png|True>"
    )


def test_navigation():
    line = "[← A](a.ipynb) · [contents](index.ipynb) · see it move: [P](p.ipynb) · [B →](b.ipynb)"
    assert navigation_left(line) == "See it move: [P](p.ipynb)"


def test_panels(tmp_path):
    """The div has the state unchanged, and the saved picture in it."""
    state = {"words": "a <b> & \"c\" 'd'", "cells": [1, 2]}
    output = dict(output_type="display_data", metadata={}, data={"image/png": "aGVsbG8="})
    cell = dict(id="x1", cell_type="code", metadata={}, source="walk", outputs=[output])
    cell["metadata"]["rar_live"] = live = dict(panel="scan_orders", state=state)
    div = panel(cell, live, "a 'grid'", "10_scan_orders", tmp_path)["data"]["text/html"]
    assert json.loads(html.unescape(re.search(r'data-state="([^"]*)"', div)[1])) == state
    assert 'class="rar-live" data-panel="scan_orders"' in div
    assert (tmp_path / "panels" / "10_scan_orders-x1.png").read_bytes() == b"hello"

    def stage(panels):
        named = {"scan_orders": "a 'grid'"}
        made = Stage({}, lambda text, name: text, tmp_path, set(), panels, named)
        output["data"]["text/plain"] = "A panel: run this cell"
        return made, made.code(cell, "10_scan_orders", "Title")

    made, (code,) = stage({"scan_orders"})
    assert made.live == {"10_scan_orders"} and "text/html" in code["outputs"][0]["data"]
    made, (code, line) = stage(set())
    assert not made.live and "needs Python" in line["source"] and code["outputs"] == [output]


# What would be lost


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_with_other_files_is_left_alone(tmp_path, keep):
    """Neither the target nor what only has a name like it."""
    mine, like = tmp_path / "thesis" / "chapter.tex", tmp_path / "thesis.backup" / "chapter.tex"
    source = tmp_path / "poems.source" / "poem"
    for file in (mine, like, source):
        file.parent.mkdir()
        file.write_text("years of work")
    for out in (mine.parent, source.parent.parent / "poems", tmp_path):
        with pytest.raises(InvalidValue, match="has other files, which would be lost"):
            prepare(out, keep)
    with pytest.raises(InvalidValue, match="the path of a folder, but .* is something else"):
        prepare(mine, keep)
    with pytest.raises(InvalidValue, match="part of this path is a file"):
        prepare(mine / "site", keep)
    assert prepare(tmp_path / "new" / "thesis", keep).is_dir()
    mine.unlink()
    prepare(mine.parent, keep)  # it is empty now
    assert like.read_text() == source.read_text() == "years of work"


def test_an_earlier_site_is_replaced_or_kept(tmp_path):
    out = prepare(tmp_path / "site", keep=False)
    for folder in (out, *beside(out)):
        (folder / "old").write_text("")
    prepare(out, keep=True)
    assert all((folder / "old").exists() for folder in (out, *beside(out)))
    prepare(out, keep=False)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == 3 * [MARK]


def test_the_current_folder_is_no_target(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValue, match="has other files"):
        prepare(Path("."), keep=False)
    assert (tmp_path / ".git").is_dir()


def test_unknown_notebooks_are_named():
    assert chosen("05_trainer,02_orders") == ["02_orders", "05_trainer"]
    for only in ("02_order", "02_orders,", "index", "02_orders, 05_trainer"):
        with pytest.raises(InvalidValue, match="only = .* names of 00_tour"):
            chosen(only)


@pytest.mark.parametrize(
    "words, message",
    [(["--only", "nope"], "only = 'nope'"), (["--npm", "nowhere"], "npm = 'nowhere'")],
)
def test_one_line_says_what_is_wrong(tmp_path, words, message):
    (tmp_path / "npm" / "mathjax").mkdir(parents=True)
    command = [sys.executable, "-m", "tests.site.build", tmp_path / "site"]
    command += ["--npm", tmp_path / "npm"]
    done = subprocess.run([*map(str, command), *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "site").exists()
