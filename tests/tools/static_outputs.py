"""Take live widgets out of the notebooks' saved outputs, and leave the picture of their first view that stands beside them.

A saved widget without its kernel is an error message, and its id is another one in each run. `make notebooks` calls this.
"""
import json
import sys
from pathlib import Path

LIVE = "application/vnd.jupyter.widget-view+json"


def strip(notebook: dict) -> bool:
    "Remove widget views in place; whether there were any."
    bundles = [o["data"] for c in notebook["cells"] for o in c.get("outputs", []) if LIVE in o.get("data", {})]
    for data in bundles:
        del data[LIVE]
    return bool(bundles) | (notebook["metadata"].pop("widgets", None) is not None)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        notebook = json.loads(path.read_text())
        if strip(notebook):
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
