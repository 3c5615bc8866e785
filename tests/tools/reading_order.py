"""The reading order of the suite, and the links to the previous and next notebook.

`make notebooks` writes these links into the first and last cell of every notebook.
"""

import json
import re
import sys
from pathlib import Path

ORDER = """
index 00_tour
01_tokenizer 02_orders 03_embeddings 04_transformer 05_trainer 06_sampler 07_evaluation
algorithm1
10_scan_orders 11_annealing 12_target_aware 13_watch 14_inpainting 17_browser_model explore
your_images make_it_yours train evaluate pretokenize study_run
08_style 09_support 15_widgets 16_exercises
20_images 21_tokens
30_checkpoints 31_vq_models 32_presets 33_fine_tuning
34_compiled 35_quick_blocks 36_gpu_blocks 40_devices 41_safekeeping 42_run_folders 43_training
44_launch 45_pretokenizer 46_image_sets 47_cost 48_sample 49_study_runs
50_fidelity 51_report 52_published 53_study 54_study_figures 55_expected
60_kernels 61_gpu_kernels 62_fast_sampling 63_speed
""".split()

SEE_IT_MOVE = {  # a notebook about an idea: the panel in which it moves
    "02_orders": "10_scan_orders",
    "03_embeddings": "12_target_aware",
    "05_trainer": "11_annealing",
    "06_sampler": "13_watch",
}
PANELS = ("10_scan_orders", "11_annealing", "12_target_aware", "13_watch", "14_inpainting")
MARK = "<!-- navigation -->"


def title(folder: Path, name: str) -> str:
    """The part of a notebook's title before its colon."""
    cells = json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    first = next("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    heading = next(line for line in first.splitlines() if line.startswith("# "))
    return heading.removeprefix("# ").split(":")[0].strip()


def navigation(folder: Path, name: str) -> str:
    """One line of links."""
    at = ORDER.index(name)
    links = []
    if at > 0:
        before = ORDER[at - 1]
        links.append(f"[← {title(folder, before)}]({before}.ipynb)")
    links.append("[contents](index.ipynb)")
    if name in SEE_IT_MOVE:
        panel = SEE_IT_MOVE[name]
        links.append(f"see it move: [{title(folder, panel)}]({panel}.ipynb)")
    if name in PANELS:
        links.append("[all panels](explore.ipynb)")
    if at + 1 < len(ORDER):
        after = ORDER[at + 1]
        links.append(f"[{title(folder, after)} →]({after}.ipynb)")
    return " · ".join(dict.fromkeys(links))


def with_navigation(source: str, line: str, at_the_top: bool) -> str:
    """A markdown cell with `line` in place of an older one."""
    old = rf"\n*{re.escape(MARK)}[^\n]*\n*([^\n]*contents\]\(index[^\n]*)?\n*"
    source = re.sub(old, "\n\n", source)
    source, line = source.strip(), f"{MARK}\n\n{line}"
    if not at_the_top:
        return f"{source}\n\n{line}".strip()
    parts = source.split("\n\n")
    quoted = next((k for k, part in enumerate(parts) if part.startswith(">")), 0)
    return "\n\n".join([*parts[: quoted + 1], line, *parts[quoted + 1 :]])


def navigate(folder: Path, name: str) -> bool:
    """Write the links into a notebook; whether that changed it."""
    path = folder / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    before, cells = json.dumps(notebook), notebook["cells"]
    line = navigation(folder, name)
    first = next(c for c in cells if c["cell_type"] == "markdown")
    raw = [c for c in cells if c["cell_type"] == "raw"]  # nbdev's settings, which nobody reads
    cells[:] = [c for c in cells if c["cell_type"] != "raw"]
    if cells[-1]["cell_type"] != "markdown":
        cells.append(dict(cell_type="markdown", id="navigate", metadata={}, source=[]))
    last = cells[-1]
    cells += raw
    for cell, at_the_top in ((first, True), (last, False)):
        source = with_navigation("".join(cell["source"]), line, at_the_top)
        cell["source"] = source.splitlines(keepends=True)
    if json.dumps(notebook) == before:
        return False
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
    return True


if __name__ == "__main__":
    for name in ORDER[1:]:  # the index is a page of links already
        navigate(Path(sys.argv[1]), name)
