"""Builds the website: `python -m tests.site.build build/site`, which `make site` calls.

Pages are first written in the form that Sphinx reads, into `<folder>.source`, then Sphinx makes the
site of them, and last every link of the site is followed. Any warning of Sphinx and any link that
leads nowhere is an error.
"""

import argparse
import html
import importlib
import json
import re
import shutil
import sys
import time
from pathlib import Path, PurePosixPath

from PIL import Image

from rar_nb.support import InvalidValue, make_folder, require, usable_path
from tests.site.links import broken_links
from tests.site.notebooks import Stage
from tests.site.reference import Entry, escaped, every_entry, module_page, read_library
from tests.site.text import relative, repository_path, rewrite
from tests.tools.reading_order import ORDER, title

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NPM = ROOT / "build" / "npm" / "node_modules"
RUNTIME = ROOT / "build" / "onnxruntime"  # ONNX Runtime Web, kept for the next time
CHAPTERS = [name for name in ORDER if re.match(r"0[1-7]_", name)]
TEXTS = {  # files of the repository that are pages, in the order of the navigation: their titles
    "results/README.md": "How results are stored",
    "results/speed/summary.md": "Speed: the numbers",
    "results/reliability/README.md": "Broken on purpose",
    "results/gpu/README.md": "What a GPU does",
    "results/cifar10_rar/report.md": "A run on photographs",
    "data/README.md": "The bundled data",
    "CONTRIBUTING.md": "Contributing",
    "SECURITY.md": "Security",
    "CHANGELOG.md": "Changes",
}
MENDED = {  # a name that a screen reader reads must hold the words that one sees
    '<summary aria-label="Toggle hidden content">': "<summary>",
    'pst-js-only" title="Search" aria-label="Search"': 'pst-js-only" title="Search"',
    '<summary><span class="toctree-toggle"': '<summary aria-label="Its pages">'
    '<span class="toctree-toggle"',
}
MOVING = re.compile(r'<img [^>]*src="([^"]+)(\.gif|\.webp)"[^>]*>')
PICTURES = ROOT / "results" / "pictures"  # moving ones; X_narrow is what a telephone shows of X
STILL = "(prefers-reduced-motion: reduce)"  # of those who have asked their system for less motion
TELEPHONE = "(max-width: 576px)"  # as in site.css
PLOT = re.compile(r'<img [^>]*src="([^"]*_images/[^"]+\.png)"[^>]*>')
ALONE = '<a class="alone"'  # leads to a picture without the page: a telephone can enlarge it
PRINTED = re.compile(  # by a cell
    r'(<div class="output [^"]*)("[^>]*><div class="highlight"><pre>)(.*?)</pre>', re.S
)
WIDEST = 88  # characters of a printed line that a wide screen shows
NAMES = re.compile(  # of notebooks and modules; narrow columns of tables break them in between
    r'(?<=<span class="std std-doc">)\d\d_[a-z0-9_]+|(?<=<span class="pre">)rar_nb\.[a-z0-9_.]+'
)
WAYS_IN = {  # from the first page, under its picture
    "00_tour.ipynb": "Start the tour",
    "10_scan_orders.ipynb": "Play with the panels",
    "13_watch.ipynb": "Sample a digit here",
    "paper.md": "From the paper to the code",
    "results/index.md": "Results",
}
IN_THE_MENU = {  # where the words before a title's colon say too little by themselves
    "20_images": "Images in folders",
    "21_tokens": "Tokens on disk",
    "30_checkpoints": "Checkpoints: weights in files",
    "32_presets": "Presets: the paper's runs",
    "40_devices": "Devices: one GPU or many",
    "41_safekeeping": "Safekeeping of a run",
    "44_launch": "Launch by a command",
    "46_image_sets": "Image sets: 50,000 samples",
    "47_cost": "Cost of a run",
    "48_sample": "Sample by a command",
    "50_fidelity": "Fidelity: FID and others",
    "51_report": "Report of an evaluation",
    "52_published": "Published numbers",
    "53_study": "Study: does it pay?",
    "55_expected": "Expected loss",
}
MARK = ".rar-site"  # a file in each folder that a site was built into: it may be emptied
COPIED = (".png", ".gif", ".webp", ".jpg", ".json", ".jsonl", ".py")  # what a page may link to
PLACES = re.compile(  # but not those of other papers, "equation 3 of …"
    r"(?:supplement, )?(?:(?:equation|section) \d(?:\.\d)?|(?:Figure|Table|Algorithm) \d+)(?! of\b)"
)


class Site:
    """The source of the site: what is on it, and how pages name each other."""

    def __init__(self, source: Path, names: list[str], npm: Path, model: Path | None):
        self.source, self.names, self.npm, self.model = source, names, npm, model
        self.static = source / "_static"
        self.library = read_library(ROOT / "rar_nb")
        self.modules = [m for m in self.library if m.notebook in names]
        self.entries = every_entry(self.modules)
        self.pages = {f"nbs/{name}.ipynb": f"{name}.ipynb" for name in names}
        self.pages |= {path: path for path in TEXTS} | {"README.md": "index.md"}
        self.pages["nbs/index.ipynb"] = "index.md"
        self.on_site = {*self.pages.values(), "paper.md", "results/index.md"}
        self.full = {e.full_name: e for e in self.entries}
        self.short: dict[str, list[Entry]] = {}
        for entry in self.entries:
            self.short.setdefault(entry.name, []).append(entry)

    # Links

    def link(self, words: str, target: str, picture: bool, folder: str, page: str) -> str:
        """A link of a file in `folder` of the repository, as it stands on `page` of the site."""
        mark = "!" if picture else ""
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return f"{mark}[{words}]({target})"
        path, anchor = repository_path(target, folder)
        anchor = f"#{anchor}" if anchor else ""
        if path in self.pages:
            return f"{mark}[{words}]({relative(self.pages[path], page)}{anchor})"
        file = ROOT / path
        if file.is_file() and file.suffix in COPIED:
            self.put(path, file.read_bytes())
            return f"{mark}[{words}]({relative(path, page)})"
        return words if f"`{path}`" == words else f"{words} (`{path}`)"

    def code(self, inside: str, module: str) -> str:
        """Code in a line: a name of the library leads to the API."""
        name = inside.removesuffix("()")
        full = name if name in self.full else f"rar_nb.{name}"
        if full in self.full:
            return f"{{py:obj}}`{inside} <{full}>`"
        candidates = self.short.get(name, [])
        own = [e for e in candidates if e.module == module]
        telling = "_" in name.strip("_") or re.search(r"[A-Z].*[a-z]|[a-z].*[A-Z]", name)
        if own or len(candidates) == 1 and telling:
            return f"{{py:obj}}`{inside} <{(own or candidates)[0].full_name}>`"
        if name in {m.name for m in self.modules}:
            return f"{{py:mod}}`{inside} <{name}>`"
        return f"`{inside}`"

    def words(self, text: str, folder: str, page: str, module: str = "") -> str:
        return rewrite(
            text,
            lambda words, target, picture: self.link(words, target, picture, folder, page),
            lambda inside: self.code(inside, module),
        )

    # Files

    def put(self, path: str, content: bytes | str):
        """Write a file of the source, unless it is there already: Sphinx reads what is new."""
        file = self.source / path
        content = content.encode() if isinstance(content, str) else content
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def copy(self, folder: Path, to: str, *patterns: str):
        for pattern in patterns:
            for file in sorted(folder.glob(pattern)):
                self.put(f"{to}/{file.relative_to(folder)}", file.read_bytes())

    # Pages

    def write_notebooks(self) -> set[str]:
        """All notebooks but the index; those with panels that run in the page."""
        cells: dict = {}
        for e in self.entries:
            if e.kind not in ("method", "property"):
                cells.setdefault((e.notebook, e.cell), []).append((e.name, e.full_name))
        owners = {m.notebook: m.name for m in self.modules}
        stage = Stage(
            cells,
            lambda text, name: self.words(text, "nbs", f"{name}.ipynb", owners.get(name, "")),
            self.static,
            set(CHAPTERS),
            {file.stem for file in (ROOT / "rar_nb/play/js").glob("*.js")},
            self.pictures(),
        )
        for name in self.names:
            notebook = stage.notebook(ROOT / "nbs" / f"{name}.ipynb")
            self.put(f"{name}.ipynb", json.dumps(notebook, indent=1, ensure_ascii=False))
        self.live_panels = stage.live_panels
        return stage.live

    def pictures(self) -> dict[str, str]:
        """What the pictures of plotting functions and of panels show, by their names."""
        plots = [e for e in every_entry(self.library) if e.kind == "function"]
        return {e.name: e.doc.partition("\n")[0] for e in plots if "plot_" in e.name} | {
            panel.panel: panel.alt for panel in every_panel()
        }

    def write_reference(self):
        for module in self.modules:
            page = f"api/{module.name}.md"

            def names(text, module=module, page=page):
                return self.words(text, "nbs", page, module.name)

            self.put(page, module_page(module, set(self.names), names))
        lines = ["# Reference", "", "> Every function and class, by module.", ""]
        lines += ["| module | what it does | notebook |", "|---|---|---|"]
        for m in self.modules:
            notebook = f"[{m.notebook}](../{m.notebook}.ipynb)" if m.notebook in self.names else ""
            lines += [f"| [`{m.name}`]({m.name}.md) | {escaped(m.doc)} | {notebook} |"]
        lines += ["", "All names in one list: {ref}`genindex`.", ""]
        tree = [f"{m.name} <{m.name}>" for m in self.modules]
        self.put("api/index.md", "\n".join([*lines, toctree(tree)]))

    def index(self) -> str:
        cells = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
        return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")

    def parts(self) -> dict[str, list[str]]:
        """The notebooks by the headings of the index under which they stand."""
        found: dict[str, list[str]] = {}
        contents = self.index().partition("## Reading order")[2].partition("\n## ")[0]
        for part in contents.split("\n### ")[1:]:
            heading = part.partition("\n")[0]
            links = re.findall(r"\]\((\w+)\.ipynb\)", part)
            found[heading] = [name for name in self.names if name in links]
        return found

    def write_home(self):
        """The README, whose map of the paper is a page of its own here."""
        text = self.index()
        the_map = re.search(r"\n## The paper's map\n(.*?)(?=\n## )", text, re.S)
        home = text.replace(the_map[0], "\n")
        nbs = ROOT / "nbs"
        trees = [
            toctree([f"{label(nbs, name)} <{name}>" for name in names], heading)
            for heading, names in self.parts().items()
            if names
        ]
        trees += [
            toctree(["The paper's map <paper>", "Results <results/index>"], "Paper and results"),
            toctree(
                ["Reference <api/index>", *self.texts("data", "C", "S")], "Reference and project"
            ),
        ]
        home = self.words(home, "nbs", "index.md")
        ways = [f"[{words}]({page})" for page, words in WAYS_IN.items() if page in self.on_site]
        ways = "{.ways-in}\n" + " ".join(ways)
        home = re.sub(r"(\n!\[[^\n]*rar\.gif\))", lambda m: f"{m[1]}\n\n{ways}", home, count=1)
        self.put("index.md", "\n".join([home, *trees]))
        self.write_map(the_map[1].strip())

    def texts(self, *starts: str) -> list[str]:
        chosen = [path for path in TEXTS if path.startswith(starts)]
        return [f"{TEXTS[path]} <{path.removesuffix('.md')}>" for path in chosen]

    def write_map(self, table: str):
        """The paper's map: the table of the index, and every place that the reference names."""
        table = re.sub(  # an equation leads to where it stands
            r"\| (Equation (\d)[^|]*)\| \[(\w+)\]\((\w+\.ipynb)\)",
            lambda m: (
                f"| [{m[1].strip()}](#equation-{m[2]}) | [{m[3]}]({m[4]})"
                if m[3] in self.names and m[3] in CHAPTERS
                else m[0]
            ),
            table,
        )
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            comments = [p.comment for p in entry.parameters]
            for place in PLACES.findall(" ".join([entry.doc, *comments])):
                if entry not in found.setdefault(place, []):
                    found[place].append(entry)
        lines = ["# The paper's map", "", self.words(table, "nbs", "paper.md"), ""]
        lines += ["## Every place that the library names", ""]
        lines += ["| in the paper | in the library |", "|---|---|"]
        for place in sorted(found, key=place_key):
            names = ", ".join(f"{{py:obj}}`{e.name} <{e.full_name}>`" for e in found[place])
            lines += [f"| {place[0].upper()}{place[1:]} | {names} |"]
        if "52_published" in self.names:
            from rar_nb.reports.published import TABLES

            lines += ["", "## The tables of numbers", "", "| in the paper | what it compares |"]
            lines += ["|---|---|"]
            lines += [f"| {t.source} | {t.title} |" for t in TABLES.values()]
            lines += [
                "",
                "All are in [52_published](52_published.ipynb), in the terms of arXiv v1.",
            ]
        self.put("paper.md", "\n".join(lines) + "\n")

    def write_texts(self):
        for path in TEXTS:
            text = (ROOT / path).read_text(encoding="utf-8")
            folder = str(PurePosixPath(path).parent)
            self.put(path, self.words(text, folder, path))
        text = (HERE / "pages" / "results.md").read_text(encoding="utf-8")
        text = self.words(text, "tests/site/pages", "results/index.md")
        tree = [entry.replace("<results/", "<") for entry in self.texts("results")]
        self.put("results/index.md", text + "\n" + toctree(tree))

    def write_static(self):
        self.copy(HERE / "static", "_static", "*.css", "*.js")
        self.copy(ROOT / "rar_nb/play/js", "_static/js", "*.js")
        self.copy(self.npm / "mathjax/es5", "_static/vendor/mathjax", "tex-svg.js")

    def write_model(self):
        """A run for panels that sample in the page, digits, and what runs it there."""
        from rar_nb.play.browser_model import export_browser_model, fetch_runtime
        from rar_nb.play.inpainting import export_digits

        place = "_static/js/browser_model"
        if self.model:
            self.copy(self.model, place, "*")
        else:
            export_browser_model(ROOT / "data" / "digits_run", self.source / place)
        export_digits(self.source / place)
        fetch_runtime(RUNTIME)
        self.copy(RUNTIME, place, "*")

    def write(self) -> set[str]:
        """Everything that Sphinx reads; the pages with panels that run."""
        live = self.write_notebooks()
        if self.live_panels & {"watch", "inpainting"}:
            self.write_model()
        self.write_reference()
        self.write_home()
        self.write_texts()
        self.write_static()
        return live


def every_panel() -> list[type]:
    """The classes of all panels, one after the other that each is made of."""
    from rar_nb.play.widgets import LivePanel

    for file in sorted((ROOT / "rar_nb/play").glob("*.py")):
        importlib.import_module(f"rar_nb.play.{file.stem}")
    found = [LivePanel]
    for kind in found:
        found += kind.__subclasses__()
    return found


def place_key(place: str) -> tuple:
    kinds = ["section", "equation", "Algorithm", "Figure", "Table"]
    kind = next(k for k, word in enumerate(kinds) if word in place)
    numbers = [int(n) for n in re.findall(r"\d+", place)]
    return place.startswith("supplement"), kind, numbers


def label(nbs: Path, name: str) -> str:
    number, words = re.match(r"(\d\d)_", name), IN_THE_MENU.get(name) or title(nbs, name)
    return f"{number[1]} {words}" if number else words


def toctree(entries: list[str], caption: str = "") -> str:
    lines = ["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join([*lines, *entries, "```", ""])


def run_sphinx(source: Path, out: Path, live: set[str]):
    from sphinx.cmd.build import main as sphinx

    options = ["-b", "html", "-c", str(HERE), "-d", str(beside(out)[1])]
    options += ["-W", "--keep-going", "-q", "-j", "2"]
    options += ["-D", f"html_static_path={source / '_static'}"]
    options += ["-D", f"pages_with_panels={','.join(sorted(live))}"]
    if sphinx([*options, str(source), str(out)]):
        sys.exit("The site has faults: see the warnings above")
    for pattern in ("*.map", "*webpack-macros.html"):  # what only the theme's makers need
        for file in (out / "_static").rglob(pattern):
            file.unlink()
    for file in sorted((out / "_images").glob("*.*")):
        if file.suffix in (".gif", ".webp"):
            put_film(file)
    for file in out.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        file.write_text(mend(text), encoding="utf-8")


def put_film(file: Path):
    """Beside a moving picture its last frame, and the same of its narrow film if there is one."""
    narrow = PICTURES / f"{file.stem}_narrow{file.suffix}"
    if narrow.is_file():
        put_film(Path(shutil.copy(narrow, file.parent)))
    with Image.open(file) as picture:
        picture.seek(picture.n_frames - 1)
        picture.convert("RGB").save(file.with_suffix(".still.png"))


def film(match: re.Match) -> str:
    """A moving picture that stands still for those who want that, and is narrow on a telephone."""
    name, kind = match[1], match[2]
    sources = [(STILL, f"{name}.still.png")]
    if (PICTURES / f"{PurePosixPath(name).name}_narrow{kind}").is_file():
        both = f"{STILL} and {TELEPHONE}"
        sources.insert(0, (both, f"{name}_narrow.still.png"))
        sources.append((TELEPHONE, f"{name}_narrow{kind}"))
    tags = "".join(f'<source media="{media}" srcset="{path}">' for media, path in sources)
    return f"<picture>{tags}{match[0]}</picture>"


def printed(match: re.Match) -> str:
    """What a cell has printed, marked if it stands in columns: these scroll on a narrow screen,
    while sentences are wrapped."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", match[3])).splitlines()
    spaced = sum(bool(re.search(r"\S {2,}\S", line)) for line in lines)
    columns = spaced > 1 and max(map(len, lines)) <= WIDEST and " columns" not in match[1]
    return f"{match[1]}{' columns' if columns else ''}{match[2]}{match[3]}</pre>"


def mend(text: str) -> str:
    """A finished page with the marks that screen readers need, where the theme has wrong ones."""
    for wrong, right in MENDED.items():
        text = text.replace(wrong, right)

    def signature(match: re.Match) -> str:  # a list of definitions without what is defined
        inside = re.sub(r"<dl>|<dd>", '<span class="sig-line">', match[0])
        return re.sub(r"</dl>|</dd>", "</span>", inside)

    text = re.sub(r'<dt class="sig .*?</dt>', signature, text, flags=re.S)
    if ".still.png" not in text:  # which an earlier call has written
        text = MOVING.sub(film, text)
    text = PRINTED.sub(printed, text)
    text = NAMES.sub(lambda name: re.sub(r"(?<=\.)|(?<=[a-z]_)(?<!rar_)", "<wbr>", name[0]), text)
    return text if ALONE in text else PLOT.sub(rf'{ALONE} href="\1">\g<0></a>', text)


def beside(out: Path) -> tuple[Path, Path]:
    """What Sphinx reads, and what it remembers."""
    source = out.parent / f"{out.name}.source"
    return source, out.parent / f"{source.name}.cache"


def chosen(only: str) -> list[str]:
    """The notebooks of a site, in their order; `InvalidValue` for unknown ones."""
    names = only.split(",") if only else ORDER[1:]
    for name in names:
        require(name in ORDER[1:], "only", name, "names of " + ", ".join(ORDER[1:]))
    return [name for name in ORDER if name in names]


def prepare(out: Path, keep: bool) -> Path:
    """The folder of the site, empty or with the last one; raises rather than lose other files."""
    out = usable_path(out, "out").resolve()
    for folder in (out, *beside(out)):
        other = f"{folder} is something else; choose another one"
        usable = folder.is_dir() or not folder.exists()
        require(usable, "out", str(out), f"the path of a folder, but {other}")
        ours = not folder.exists() or (folder / MARK).is_file() or not any(folder.iterdir())
        loss = f"{folder} has other files, which would be lost; remove it or choose another one"
        require(ours, "out", str(out), f"a new folder, an empty one, or an earlier site: {loss}")
    for folder in (out, *beside(out)):
        if folder.exists() and not keep:
            shutil.rmtree(folder)
        (make_folder(folder) / MARK).touch()
    return out


def build(out: Path, names: list[str], npm: Path, model: Path | None = None) -> list[str]:
    """Build the site of these notebooks into `out`; links of it that lead nowhere."""
    out = out.resolve()
    source = beside(out)[0]
    site = Site(source, names, npm, model)
    run_sphinx(source, out, site.write())
    return broken_links(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder of the site")
    parser.add_argument("--only", default="", help="notebooks of a smaller site, as 00_tour,…")
    parser.add_argument("--npm", type=Path, default=NPM, help="node_modules with MathJax")
    parser.add_argument("--model", type=Path, help="of export_browser_model; else the bundled run")
    parser.add_argument("--keep", action="store_true", help="make only what is new since last time")
    args = parser.parse_args()
    start = time.time()
    try:
        require((args.npm / "mathjax").is_dir(), "npm", str(args.npm),
                "a folder with mathjax in it, which `make site` gets from npm")  # fmt: skip
        names = chosen(args.only)
        out = prepare(args.out, args.keep)
        broken = build(out, names, args.npm, args.model)
    except InvalidValue as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if broken:
        sys.exit("Links that lead nowhere:\n" + "\n".join(broken))
    files = [file for file in out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{args.out}: {len(files)} files, {size:.1f} MB, in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
