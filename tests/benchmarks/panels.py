"""How long panels that the browser draws take from a key to the picture.

python -m tests.benchmarks.panels [--keys 200] [--only "size of the grid"] [--lab]
    [--out results/widgets/panels.json]

Headless Chromium shows each panel on a page without a kernel (`--lab`: in JupyterLab, with one), and
real keys move it. Both times start with the key's own time stamp. `work` ends when the page has
computed everything, JavaScript and layout. `lag` ends when the frame with the change has been painted;
it holds the wait for the next frame of the screen, 8 ms on average at 60 Hz. Times of a busy machine
say nothing.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from rar_nb.play.annealing import Annealing
from rar_nb.play.browser_model import export_browser_model
from rar_nb.play.inpainting import Inpainting, export_digits
from rar_nb.play.scan_orders import ScanOrders
from rar_nb.play.target_aware import TargetAware
from rar_nb.play.watch import BUNDLED, Watch
from rar_nb.play.widgets import JS
from tests.browser.conftest import copy_project, start_browser, start_lab
from tests.browser.model_site import write_site
from tests.browser.page import PAGE, live_panel, served, wait
from tests.browser.test_jupyterlab import open_notebook

CASES = {  # the panel, and the name of the slider or handle that the right arrow key moves
    "scan orders 7 × 7, step": (lambda: ScanOrders("spiral_in", 7, 0), "step"),
    "scan orders 16 × 16, step": (lambda: ScanOrders("z_curve", 16, 0), "step"),
    "scan orders 32 × 32, step": (lambda: ScanOrders("random", 32, 0), "step"),
    "scan orders, size of the grid": (lambda: ScanOrders("z_curve", 2, 0), "grid"),
    "annealing, epoch": (lambda: Annealing(epoch=0.0), "epoch"),
    "annealing, start": (lambda: Annealing(anneal_start=0.0), "the annealing starts"),
    "annealing, fresh orders at each epoch": (lambda: fresh(), "epoch"),
    "annealing of the digits, epoch": (lambda: Annealing("digits", epoch=0.0), "epoch"),
    "target-aware, cells known": (lambda: TargetAware(), "cells known"),
    "watch, step": (lambda: Watch(step=0), "step"),
    "inpainting, digit": (lambda: Inpainting(), "digit"),
}
IN_LAB = {
    "10_scan_orders": "step",
    "11_annealing": "epoch",
    "12_target_aware": "cells known",
    "13_watch": "step",
    "14_inpainting": "digit",
}
WAY = {"grid": 30, "step": 24, "cells known": 4}  # keys in one direction, if it is short
STOPWATCH = """
window.works = [];
window.lags = [];
function later(after) {  // as a task of its own
  const channel = new MessageChannel();
  channel.port1.onmessage = after;
  channel.port2.postMessage(null);
}
document.addEventListener('keydown', event => {
  const began = event.timeStamp, passed = times => times.push(performance.now() - began);
  later(() => {
    document.body.getBoundingClientRect();  // the layout, now
    passed(window.works);
  });
  requestAnimationFrame(() => later(() => passed(window.lags)));
}, true);
"""


def fresh() -> Annealing:
    panel = Annealing(epoch=0.0)
    panel.fresh = True
    return panel


def press(driver, key: str, code: int):
    """A key as the browser gets it from a keyboard."""
    for kind in ("rawKeyDown", "keyUp"):
        values = dict(type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        driver.execute_cdp_cmd("Input.dispatchKeyEvent", values)


def measure(driver, panel, name: str, keys: int) -> dict[str, float]:
    """Medians and 95th percentiles, in milliseconds, of moving a slider or handle by keys."""
    path = f".//label[span='{name}']/input | .//*[@aria-label='{name}']"
    driver.execute_script("arguments[0].focus()", panel.find_element("xpath", path))
    driver.execute_script(STOPWATCH)
    rng, high = random.Random(0), WAY.get(name, keys)
    for k in range(keys):  # there and back, if the way is short
        there = k // high % 2 == 0
        press(driver, *(("ArrowRight", 39) if there else ("ArrowLeft", 37)))
        time.sleep(0.03 + 0.03 * rng.random())  # at any moment between two frames
    found = {}
    for kind in ("work", "lag"):
        times = driver.execute_script(f"return window.{kind}s")
        assert len(times) == keys, f"{len(times)} of {keys} keys came"
        found[kind] = round(statistics.median(times), 2)
        found[f"{kind}_95"] = round(statistics.quantiles(times, n=20)[-1], 2)
    return found


def on_a_page(driver, keys: int, only: str):
    """Times of cases, on a page that a plain web server serves."""
    cases = {label: case for label, case in CASES.items() if only in label}
    with tempfile.TemporaryDirectory() as place, served(Path(place)) as address:
        folder, model = Path(place), Path(place) / "model"
        if any(label.startswith(("watch", "inpainting")) for label in cases):
            export_browser_model(BUNDLED, model)
            export_digits(model)
            write_site(folder, model)
        else:
            shutil.copytree(JS, folder / "js")
        for label, (make, name) in cases.items():
            (folder / "page.html").write_text(
                PAGE.format(theme="light", panel=make().static_html())
            )
            driver.get(f"{address}/page.html")
            yield label, measure(driver, ready(driver), name, keys)


def ready(driver):
    """The panel of a page; one with a model has finished its samples."""
    panel = wait(lambda: driver.find_elements("css selector", ".rar-app"), 30, "a panel")[0]
    wait(lambda: panel.find_elements("css selector", "input[type=range]"), 60, "its sliders")
    time.sleep(8 if "models" in driver.page_source else 0.5)
    return panel


def in_lab(driver, keys: int, only: str):
    """Times of panels in JupyterLab."""
    with tempfile.TemporaryDirectory() as folder:
        lab = start_lab(copy_project(Path(folder)))
        try:
            for notebook, name in IN_LAB.items():
                if only not in notebook:
                    continue
                open_notebook(driver, lab, notebook)
                panel = live_panel(driver, notebook)
                time.sleep(8)  # so that a panel with a model has finished its samples
                yield f"JupyterLab, {notebook}, {name}", measure(driver, panel, name, keys)
        finally:
            lab.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--only", default="", help="cases (notebooks) with this in their name")
    parser.add_argument("--lab", action="store_true", help="in JupyterLab, too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    driver, found = start_browser(), {}
    try:
        for measured in [on_a_page, in_lab] if args.lab else [on_a_page]:
            for label, times in measured(driver, args.keys, args.only):
                found[label] = times
                print(f"{label:40}", *(f"{k} {v:6.2f}" for k, v in times.items()), flush=True)
    finally:
        driver.quit()
    if args.out:
        machine = f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
        text = json.dumps(dict(machine=machine, keys=args.keys, milliseconds=found), indent=1)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
