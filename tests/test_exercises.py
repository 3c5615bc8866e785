"""Every solution passes its check, and the empty answer does not."""

import ast
import json
import re
from pathlib import Path

import pytest

NBS = Path(__file__).parent.parent / "nbs"
CHAPTERS = [f"{n:02}" for n in [*range(1, 8), *range(10, 15)]]
NOTEBOOKS = [path for path in sorted(NBS.glob("[01]*.ipynb")) if path.stem[:2] in CHAPTERS]


def tagged(path: Path, tag: str) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if tag in c["metadata"].get("tags", [])]


def run(code: str, names: dict):
    """Run a cell; the value of its last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def solution(text: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1, "a solution has one block of Python"
    assert "<details>" in text and "</details>" in text, "a solution is folded"
    return blocks[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_exercises(path):
    parts = [tagged(path, tag) for tag in ("exercise", "check", "solution")]
    assert len({len(part) for part in parts}) == 1 and len(parts[0]) in (2, 3)
    (setup,) = tagged(path, "exercise-setup")
    for starter, check, text in zip(*parts):
        names: dict = {}
        run(setup, names)
        assert "..." in starter
        run(starter, names)
        assert not run(check, names).passed, f"the empty answer passes: {check}"
        run(solution(text), names)
        verdict = run(check, names)
        assert verdict.passed, f"{check}: {verdict.message}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    "answer",
    ["text", None, 3.5, [], lambda *a, **k: "text"],
    ids=["text", "nothing", "number", "list", "function"],
)
def test_an_answer_of_the_wrong_kind_gets_a_hint(path, answer):
    (setup,) = tagged(path, "exercise-setup")
    for starter, check in zip(tagged(path, "exercise"), tagged(path, "check")):
        names: dict = {}
        run(setup, names)
        run(starter, names)
        asked = [node for node in ast.parse(starter).body if hasattr(node, "name")]
        targets = [
            n.targets[0].id
            for n in ast.parse(starter).body
            if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)
        ]
        for name in [node.name for node in asked] or targets:
            names[name] = answer
        verdict = run(check, names)
        assert not verdict.passed and "Hint" in verdict.message
