"""Notebooks as the site shows them: code without nbdev's directives, cells linked to the API,
panels in place of their pictures."""

import ast
import base64
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.tools.reading_order import MARK

DIRECTIVE = re.compile(r"^#\|\s*(\w+)[^\n]*\n?", re.M)
EXPORTS = {"export", "exports", "exporti"}
KERNEL = (
    "This is a saved picture: the panel needs Python. "
    "`make lab` opens this notebook with the panel alive, `make explore` all panels without code."
)


def directives(source: str) -> tuple[set[str], str]:
    """nbdev's directives in a code cell, and the code without them."""
    return set(DIRECTIVE.findall(source)), DIRECTIVE.sub("", source).strip("\n")


def navigation_left(line: str) -> str:
    """Of the links to the neighbours those that the site does not give by itself."""
    links = [link for link in line.split(" · ") if not re.match(r"\[(←|contents\])", link)]
    text = " · ".join(link for link in links if not re.search(r"→\]\([^)]*\)$", link))
    return re.sub(r"[a-z]", lambda first: first[0].upper(), text, count=1)


def without_navigation(source: str) -> str:
    head, mark, rest = source.partition(MARK)
    if not mark:
        return source
    line, _, after = rest.strip().partition("\n")
    return "\n\n".join(filter(None, [head.strip(), navigation_left(line), after.strip()]))


def titles(source: str) -> list[str]:
    """The titles that a cell's code writes over its plots, and its words for who can't see one."""
    found = []
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except SyntaxError:  # a line of IPython's, such as %matplotlib
        return []
    for call in sorted(calls, key=lambda call: call.lineno):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        values = [k.value for k in call.keywords if k.arg in ("title", "alt")]
        if name in ("title", "set_title", "suptitle") and call.args:
            values.append(call.args[0])
        found += [v.value for v in values if isinstance(v, ast.Constant) and v.value]
    return list(dict.fromkeys(" ".join(str(title).split()) for title in found))


def description(source: str, named: dict[str, str], beside: str) -> str:
    """The alternative text of a cell's picture: the cell's own words for it (`#| fig-alt: …`, as
    Quarto reads it), the titles of its plots, what the library says of the function or panel that
    makes it (`named`), or the text `beside` it."""
    if own := re.search(r"^#\|\s*fig-alt:\s*(.+)$", source, re.M):
        return own[1].strip()
    text = "; ".join(titles(source))
    if len(text.split()) < 3:  # "Gain" says nothing
        makers = [named[name] for name in re.findall(r"\b(\w+)\(", source) if name in named]
        text = makers[-1] if makers else beside
    return re.sub(r"[\\$`]", "", text)


def caption(markdown: str) -> str:
    """The first sentence of a text's last paragraph, or its last heading."""
    last = " ".join(markdown.strip().split("\n\n")[-1].split())
    if re.match(r"([\w*`(]|\[)(?!\. )", last) and not last.startswith("* "):
        return plain(re.split(r"(?<=\.)\s", last)[0])
    headings = re.findall(r"(?m)^#+ (.*)$", markdown)
    return plain(headings[-1]) if headings else ""


def plain(markdown: str) -> str:
    """A heading as words."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[*`$\\]", "", markdown)).strip()


def is_panel(cell: dict) -> bool:
    """Whether a cell's saved picture is the first view of a panel."""
    texts = ["".join(o.get("data", {}).get("text/plain", "")) for o in cell["outputs"]]
    return any(text.startswith("A panel:") for text in texts)


def only_imports(source: str) -> bool:
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def picture_of(cell: dict) -> str:
    """The first PNG among a cell's outputs, in base64."""
    for output in cell["outputs"]:
        if png := output.get("data", {}).get("image/png"):
            return "".join(png)
    return ""


def panel(cell: dict, live: dict, alt: str, name: str, static: Path) -> dict:
    """A panel that runs in the page, with its saved picture until it does, as an output."""
    inside = ""
    if png := picture_of(cell):
        file = static / "panels" / f"{name}-{cell['id']}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(png))
        inside = f'<img src="_static/panels/{file.name}" alt="{html.escape(alt)}">'
    state = html.escape(json.dumps(live["state"], separators=(",", ":")))
    div = f'<div class="rar-live" data-panel="{live["panel"]}" data-state="{state}">{inside}</div>'
    return dict(output_type="display_data", metadata={}, data={"text/html": div})


def tidy_output(output: dict) -> dict:
    """An output whose headings, if any, are no headings of the page."""
    text = output.get("data", {}).get("text/markdown")
    if text:
        output["data"]["text/markdown"] = re.sub(r"(?m)^#+ (.*)$", r"**\1**", "".join(text))
    return output


class Stage:
    """Turns one notebook after the other into what Sphinx reads."""

    def __init__(
        self,
        names: dict[tuple[str, str], list[tuple[str, str]]],  # (notebook, cell): names, full names
        words: Callable[[str, str], str],  # (Markdown, notebook) to Markdown with the site's links
        static: Path,  # where pictures of panels go
        equations: set[str],  # notebooks in which equations of the paper can be linked to
        panels: set[str],  # panels that run in a page
        named: dict[str, str],  # functions and panels that make pictures: what these show
        notebooks: Path = Path(__file__).parents[2] / "nbs",
    ):
        self.names, self.words, self.static = names, words, static
        self.equations, self.panels, self.notebooks = equations, panels, notebooks
        self.named = named
        self.live: set[str] = set()  # notebooks with panels that run
        self.live_panels: set[str] = set()  # those panels
        self.numbered: set[str] = set()

    def markdown(self, cell: dict, name: str) -> dict | None:
        source = self.words(without_navigation("".join(cell["source"])), name)
        if name in self.equations:
            source = re.sub(r"\$\$(?:(?!\$\$).)*?\\tag\{(\d)\}", self.label, source, flags=re.S)
        tags = cell["metadata"].get("tags", [])
        return self.cell("markdown", source, tags) if source.strip() else None

    def label(self, match: re.Match) -> str:
        if match[1] in self.numbered:
            return match[0]
        self.numbered.add(match[1])
        return f"(equation-{match[1]})=\n\n{match[0]}"

    @staticmethod
    def cell(kind: str, source: str, tags=(), **more) -> dict:
        return dict(cell_type=kind, metadata=dict(tags=list(tags)), source=source, **more)

    def in_the_library(self, name: str, cell: dict) -> dict | None:
        """A line over a cell that is part of the library: what it defines, linked to the API."""
        entries = self.names.get((name, cell["id"]))
        if not entries:
            return None
        links = ", ".join(f"{{py:obj}}`{short} <{full}>`" for short, full in entries)
        source = f"(cell-{cell['id']})=\n\n{{.in-the-library}}\nIn the library: {links}"
        return self.cell("markdown", source)

    def code(self, cell: dict, name: str, beside: str) -> list[dict]:
        written = "".join(cell["source"])
        found, source = directives(written)
        if "hide" in found or not source:
            return []
        metadata, outputs = cell["metadata"], [tidy_output(o) for o in cell["outputs"]]
        exported = bool(found & EXPORTS)
        folded = metadata.get("jupyter", {}).get("source_hidden")
        folded = folded or exported and only_imports(source)  # what the library imports
        tags = ["hide-input"] if folded else []
        cells = [self.in_the_library(name, cell)] if exported else []
        new = self.cell("code", source, tags, outputs=outputs, execution_count=None)
        shown = re.search(r"first_view\('(\w+)'\)$", source)  # of another notebook's panel
        live = self.first_panel(shown[1]) if shown else metadata.get("rar_live")
        alt = description(written, self.named, self.named[live["panel"]] if live else beside)
        if picture_of(cell):
            new["metadata"]["mystnb"] = dict(image=dict(alt=alt))
        runs = live and live["panel"] in self.panels
        if runs:
            new["outputs"] = [panel(cell, live, alt, name, self.static)]
            self.live.add(name)
            self.live_panels.add(live["panel"])
        cells.append(new)
        if is_panel(cell) and not runs:
            cells.append(self.cell("markdown", f"{{.needs-python}}\n{KERNEL}"))
        return [c for c in cells if c]

    def first_panel(self, name: str) -> dict | None:
        """What a page needs for the first panel of a notebook."""
        notebook = json.loads((self.notebooks / f"{name}.ipynb").read_text(encoding="utf-8"))
        found = [
            c["metadata"]["rar_live"] for c in notebook["cells"] if "rar_live" in c["metadata"]
        ]
        return found[0] if found else None

    def notebook(self, path: Path) -> dict:
        """What Sphinx reads in the place of the notebook."""
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells, beside = [], path.stem
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cells += self.code(cell, path.stem, beside)
            elif cell["cell_type"] == "markdown":
                new = self.markdown(cell, path.stem)
                beside = caption("".join(cell["source"])) or beside
                cells += [new] if new else []
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"
        return dict(notebook, cells=cells)
