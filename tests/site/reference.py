"""The API reference: one page a module, from docstrings and docments, without importing anything.

nbdev writes above each part of a module which cell it comes from, so that every entry can name the
cell of the notebook that defines it.
"""

import ast
import copy
import io
import json
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

CELL = re.compile(r"^# %% .*?(\w+)\.ipynb #([\w-]+)$")
LIMITS = dict(ge="at least", gt="above", le="at most", lt="below")


@dataclass
class Parameter:
    name: str
    declared: str  # its type as code, with full names; "" if it has none
    comment: str  # its docment
    limits: str = ""  # what pydantic checks, in words


@dataclass
class Entry:
    """A function, a class, a method, a property or a value."""

    kind: str  # the directive of Sphinx's Python domain
    name: str  # as in its module, such as `RAR.forward`
    module: str
    signature: str  # behind the name
    doc: str
    notebook: str
    cell: str
    parameters: list[Parameter] = field(default_factory=list)
    returns: Parameter | None = None
    value: str = ""
    members: list["Entry"] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}"


def comments_of(source: str) -> dict[int, str]:
    """Comments by line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


class Module:
    """What a module of the library exports, read from its source."""

    def __init__(self, path: Path, library: Path):
        self.source = path.read_text(encoding="utf-8")
        self.lines = self.source.splitlines()
        self.tree = ast.parse(self.source)
        self.parts = path.relative_to(library.parent).with_suffix("").parts
        self.name = ".".join(self.parts)
        self.doc = ast.get_docstring(self.tree) or ""
        self.comments = comments_of(self.source)
        self.cells = {}  # line from which on: (notebook, cell)
        for number, line in enumerate(self.lines, 1):
            if found := CELL.match(line):
                self.cells[number] = (found[1], found[2])
        self.notebook = next((notebook for notebook, _ in self.cells.values()), "")
        self.exported = self.find_exported()
        self.full_names = self.find_full_names()
        self.entries = [e for node in self.tree.body for e in self.entries_of(node)]

    def find_exported(self) -> set[str]:
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
        return set()

    def find_full_names(self) -> dict[str, str]:
        """The full name of each name of this library that the module uses in its types."""
        names = {name: f"{self.name}.{name}" for name in self.exported}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join([*self.parts[: -node.level], *filter(None, [node.module])])
                names |= {a.asname or a.name: f"{base}.{a.name}" for a in node.names}
        return names

    def cell_of(self, line: int) -> tuple[str, str]:
        before = [number for number in self.cells if number <= line]
        return self.cells[max(before)] if before else ("", "")

    def comment_at(self, first: int, last: int | None = None) -> str:
        """The docment of what stands in these lines: beside its start, its end, or above it."""
        for line in (first, last or first):
            if line in self.comments:
                return self.comments[line]
        above, line = [], first - 1
        while line in self.comments and self.lines[line - 1].lstrip().startswith("#"):
            above.insert(0, self.comments[line])
            line -= 1
        return " ".join(above) if above and not CELL.match(self.lines[line]) else ""

    def declared(self, node: ast.expr | None) -> tuple[str, str]:
        """A type as code with full names, and the limits that pydantic checks, in words."""
        if node is None:
            return "", ""
        node, limits = copy.deepcopy(node), []
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call):
                limits += [
                    f"{LIMITS[k.arg]} {ast.unparse(k.value)}"
                    for k in inner.keywords
                    if k.arg in LIMITS
                ]

        class Rename(ast.NodeTransformer):
            def visit_Subscript(_, inner):
                if ast.unparse(inner.value) == "Annotated":
                    return _.visit(inner.slice.elts[0])
                return _.generic_visit(inner)

            def visit_Name(_, inner):
                inner.id = self.full_names.get(inner.id, inner.id)
                return inner

        return ast.unparse(Rename().visit(node)), ", ".join(limits)

    def parameters(
        self, node: ast.FunctionDef, bound: bool
    ) -> tuple[list[Parameter], Parameter | None]:
        """Parameters with their docments, and what is returned. As for fastcore, a comment
        belongs to the last thing that is declared in its line."""
        a = node.args
        args = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
        args = list(filter(None, args))[int(bound) :]
        owners = {arg.lineno: arg for arg in args}
        if node.returns is not None:
            owners[node.returns.lineno] = node.returns
        found = []
        for arg in args:
            comment = self.comment_at(arg.lineno) if owners[arg.lineno] is arg else ""
            found.append(Parameter(arg.arg, *self._typed(arg.annotation, comment)))
        if node.returns is None:
            return found, None
        comment = self.comment_at(node.returns.lineno)
        return found, Parameter("", *self._typed(node.returns, comment))

    def _typed(self, annotation, comment: str) -> tuple[str, str, str]:
        """The type, the docment and the limits of what an annotation declares."""
        if isinstance(annotation, ast.Call):  # fastcore's Param: help text, type
            words, *kind = [ast.unparse(arg) for arg in annotation.args]
            return kind[0] if kind else "", ast.literal_eval(words), ""
        declared, limits = self.declared(annotation)
        return declared, comment, limits

    def signature(self, node: ast.FunctionDef, bound: bool) -> str:
        """The signature as text; `bound`: without its first parameter, self or cls."""
        arguments = copy.deepcopy(node.args)
        if bound:
            del (arguments.posonlyargs or arguments.args)[0]
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for arg in filter(None, [*every, arguments.vararg, arguments.kwarg]):
            declared = self._typed(arg.annotation, "")[0]
            arg.annotation = ast.parse(declared, mode="eval").body if declared else None
        text = f"({ast.unparse(arguments)})"
        if node.returns is not None:
            text += f" -> {self.declared(node.returns)[0]}"
        return text

    def function(self, node: ast.FunctionDef, owner: str = "") -> Entry:
        decorators = {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}
        name, kind = node.name, "method" if owner else "function"
        if "patch" in decorators:  # fastcore's way to add a method to a class defined earlier
            first = ast.unparse(node.args.args[0].annotation)
            owner, _, name = self.full_names[first].removeprefix("rar_nb."), "", node.name
            owner, kind = owner.rsplit(".", 1)[-1], "classmethod"
        bound = kind != "function" and "staticmethod" not in decorators
        signature = self.signature(node, bound)
        if decorators & {"property", "cached_property"}:
            kind, signature = "property", ""
        elif decorators & {"classmethod", "staticmethod"}:
            kind = "classmethod" if "classmethod" in decorators else "staticmethod"
        return Entry(
            kind,
            f"{owner}.{name}" if owner else name,
            self.name,
            signature,
            ast.get_docstring(node) or "",
            *self.cell_of(node.lineno),
            *self.parameters(node, bound),
        )

    def fields(self, node: ast.ClassDef) -> list[Parameter]:
        """The annotated attributes of a dataclass or a named tuple."""
        return [
            Parameter(
                ast.unparse(item.target),
                *self._typed(item.annotation, self.comment_at(item.lineno, item.end_lineno)),
            )
            for item in node.body
            if isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_")
        ]

    def field_signature(self, node: ast.ClassDef) -> str:
        parts = [
            ast.unparse(item.target) + (f"={ast.unparse(item.value)}" if item.value else "")
            for item in node.body
            if isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_")
        ]
        return f"({', '.join(parts)})" if parts else ""

    def class_(self, node: ast.ClassDef) -> Entry:
        functions = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        entry = Entry(
            "class",
            node.name,
            self.name,
            self.field_signature(node),
            ast.get_docstring(node) or "",
            *self.cell_of(node.lineno),
            self.fields(node),
        )
        for function in functions:
            if function.name == "__init__":
                entry.signature = self.signature(function, True)
                entry.parameters = self.parameters(function, True)[0] or entry.parameters
            elif not function.name.startswith("_"):
                entry.members.append(self.function(function, node.name))
        return entry

    def value(self, node: ast.Assign | ast.AnnAssign, name: str) -> Entry:
        declared = self.declared(node.annotation)[0] if isinstance(node, ast.AnnAssign) else ""
        text = " ".join(ast.unparse(node.value).split()) if node.value else ""
        return Entry(
            "data",
            name,
            self.name,
            "",
            self.comment_at(node.lineno, node.end_lineno),
            *self.cell_of(node.lineno),
            returns=Parameter("", declared, "") if declared else None,
            value=text if len(text) <= 100 else text[:97] + "…",
        )

    def entries_of(self, node: ast.stmt) -> list[Entry]:
        if isinstance(node, ast.FunctionDef):
            is_patch = any("patch" in ast.unparse(d) for d in node.decorator_list)
            return [self.function(node)] if is_patch or node.name in self.exported else []
        if isinstance(node, ast.ClassDef):
            return [self.class_(node)] if node.name in self.exported else []
        if isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
            return [self.value(node, name)] if name in self.exported else []
        if isinstance(node, ast.Assign):
            targets = [t for t in node.targets if isinstance(t, (ast.Name, ast.Tuple))]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            return [self.value(node, name) for name in names if name in self.exported]
        return []


def read_library(library: Path) -> list[Module]:
    """The modules that notebooks export, in the order of their notebooks."""
    skip = ("_modidx.py", "__init__.py")
    modules = [Module(path, library) for path in library.rglob("*.py") if path.name not in skip]
    return sorted((m for m in modules if m.notebook), key=lambda m: m.notebook)


def every_entry(modules: list[Module]) -> list[Entry]:
    found = [entry for module in modules for entry in module.entries]
    return [e for entry in found for e in (entry, *entry.members)]


def sentence(parameter: Parameter) -> str:
    """A docment with the limits behind it."""
    parts = [parameter.comment, f"({parameter.limits})" if parameter.limits else ""]
    return " ".join(filter(None, parts))


def escaped(text: str) -> str:
    """Text of a docstring as Markdown: no tags, no formulas, but code stays code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([<$\[\]|])", r"\\\1", p) for p in pieces)


def entry_page(entry: Entry, notebooks: set[str], names, depth: int = 3) -> list[str]:
    """An entry as a directive of the Python domain, in lines of Markdown."""
    fence = "`" * (6 - depth + 2)
    lines = [f"{fence}{{py:{entry.kind}}} {entry.name}{entry.signature}"]
    lines += [f":module: {entry.module}"]
    if entry.kind == "property" and entry.returns and entry.returns.declared:
        lines += [f":type: {entry.returns.declared}"]
    if entry.kind == "data":
        if entry.returns:
            lines += [f":type: {entry.returns.declared}"]
        if entry.value:
            lines += [f":value: {json.dumps(entry.value, ensure_ascii=False)}"]
    lines += ["", names(escaped(entry.doc)), ""]
    for p in entry.parameters:
        lines += [f":param {p.name}: {names(escaped(sentence(p)))}"]
        if p.declared:
            lines += [f":type {p.name}: {p.declared}"]
    if entry.returns and entry.kind not in ("property", "data"):
        if entry.returns.comment:  # its type stands in the signature
            lines += [f":returns: {names(escaped(entry.returns.comment))}"]
    elif entry.kind == "property" and entry.returns and entry.returns.comment:
        lines += [names(escaped(entry.returns.comment))]
    if entry.notebook in notebooks and depth == 3:
        lines += ["", "{.defined-in}", f"Defined in [{entry.notebook}](#cell-{entry.cell})."]
    for member in entry.members:
        lines += ["", *entry_page(member, notebooks, names, depth + 1)]
    return [*lines, fence]


def module_page(module: Module, notebooks: set[str], names) -> str:
    """The page of a module."""
    lines = [f"# {module.name}", "", f"> {names(escaped(module.doc))}", ""]
    if module.notebook in notebooks:
        lines += [
            f"The notebook that defines and explains it: "
            f"[{module.notebook}](../{module.notebook}.ipynb).",
            "",
        ]
    for entry in module.entries:
        lines += [*entry_page(entry, notebooks, names), ""]
    return "\n".join(lines) + "\n"
