"""How long the panels of the walkthrough take to draw, without a browser: milliseconds in the
kernel for each control that draws while it moves.

OMP_NUM_THREADS=1 python tests/benchmarks/drawings.py [--out results/widgets/drawings.json] [name ...]
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import widgets

from rar_nb.runs.run_folders import processor

NBS = Path(__file__).parent.parent.parent / "nbs"
NAMES = [
    "13_watch",
    "14_inpainting",
    "15_widgets",
]


def panels_of(name: str) -> list:
    "The panels that a notebook shows, in its order."
    os.chdir(NBS)
    shell = InteractiveShell()
    shell.run_line_magic("run", f"{name}.ipynb")
    return [
        widget for widget in widgets.widget._instances.values() if type(widget).__name__ == "Panel"
    ]


def other_values(control) -> list:
    "Values to set a slider to, near its own; none for what computes longer, or is no slider."
    if not getattr(control, "continuous_update", False) or not hasattr(control, "step"):
        return []
    sign = 1 if control.value + 4 * control.step <= control.max else -1
    return [control.value + sign * k * control.step for k in range(1, 5)]


def measure(panel) -> dict[str, float]:
    "Median milliseconds from setting a control to the PNG, by the control's name."
    taken = {}
    for name, control in panel.controls.items():
        first, times = control.value, []
        for value in other_values(control) * 4:
            start = time.perf_counter()
            control.value = value
            times.append(1000 * (time.perf_counter() - start))
        if not times:
            continue
        control.value = first
        taken[name] = round(statistics.median(times), 1)
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    for name in args.names:
        known = set(widgets.widget._instances)
        for i, panel in enumerate(p for p in panels_of(name) if p.model_id not in known):
            found[f"{name}_{i}"] = measure(panel)
            print(f"{name}_{i}", found[f"{name}_{i}"], flush=True)
    if args.out:
        args.out.write_text(
            json.dumps(
                {
                    "machine": f"{os.cpu_count()} × {processor()}",
                    "milliseconds": found,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
