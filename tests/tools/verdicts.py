"""Run the exercises of notebooks as they are handed out, and save what their checks say.

python -m tests.tools.verdicts nbs/02_orders.ipynb …
"""

import json
import sys
from pathlib import Path

from tests.test_exercises import run


def save_verdicts(path: Path):
    """Write the output of every check cell, computed by that cell with the unanswered starter."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict = {}
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if not {"exercise-setup", "exercise", "check"} & set(tags):
            continue
        verdict = run("".join(cell["source"]), names)
        if "check" in tags:
            data = {"text/markdown": [verdict._repr_markdown_()], "text/plain": [repr(verdict)]}
            cell["outputs"] = [
                dict(output_type="execute_result", execution_count=None, metadata={}, data=data)
            ]
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        save_verdicts(Path(name))
