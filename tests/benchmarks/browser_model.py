"""How long a page takes to sample a digit, in headless Chromium on this machine.

    python -m tests.benchmarks.browser_model --digits 20 --json FILE

A digit is 50 steps of the network, one after the other, each drawn when the browser finds time;
it is there when its last picture is. Measured within the page, from the press of a button. Then the
time from a key on the slider of steps until the picture of that step is there. The model that is
compared with is off. The first digit, which waits for 17 MB of runtime and weights from
this machine, is counted apart.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from rar_nb.play.browser_model import export_browser_model
from rar_nb.play.watch import BUNDLED
from tests.benchmarks.machine import machine, output
from tests.browser.conftest import start_browser
from tests.browser.model_site import write_site
from tests.browser.page import served, wait

DIGITS = """
const [count, done] = arguments, view = document.querySelector('.rar-views');
const again = [...document.querySelectorAll('button')].find(b => b.textContent === 'other noise');
const there = () => view.dataset.known === '49' && view.dataset.pictured === '49';
const times = [];
function next() {
  if (times.length === count) return done(times);
  const start = performance.now(), before = view.dataset.tokens;
  const watcher = new MutationObserver(() => {
    if (!there() || view.dataset.tokens === before) return;
    watcher.disconnect();
    times.push(performance.now() - start);
    setTimeout(next, 1500);  // pictures are decoded ahead; no part of this measurement
  });
  watcher.observe(view, {attributes: true});
  again.click();
}
next();
"""
KEYS = """
const [count, done] = arguments, view = document.querySelector('.rar-views');
const slider = [...document.querySelectorAll('input[type=range]')].at(-1), times = [];
function next(k) {
  if (k === count) return done(times);
  const step = 10 + 7 * k % 30, start = performance.now();
  const watcher = new MutationObserver(() => {
    if (view.dataset.pictured !== String(step)) return;
    watcher.disconnect();
    times.push(performance.now() - start);
    setTimeout(() => next(k + 1), 50);
  });
  watcher.observe(view, {attributes: true});
  slider.value = step;
  slider.dispatchEvent(new Event('input'));
}
next(0);
"""
FIRST = "return performance.now()"


def summary(milliseconds: list[float]) -> dict:
    return dict(median=statistics.median(milliseconds), highest=max(milliseconds), all=milliseconds)


def measure(driver, address: str, digits: int) -> dict:
    """Milliseconds of one page."""
    driver.get(f"{address}/light.html")
    whole = ".rar-views[data-pictured='49']"
    wait(lambda: driver.find_elements("css selector", whole), 120, "a whole digit")
    first = driver.execute_script(FIRST)  # at most 50 ms late
    sampled = driver.execute_async_script(DIGITS, digits)
    keys = driver.execute_async_script(KEYS, digits)
    return dict(first=first, digit=summary(sampled), key=summary(keys))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    driver = start_browser()
    driver.set_script_timeout(600)
    try:
        with tempfile.TemporaryDirectory() as folder:
            site, model = Path(folder) / "site", Path(folder) / "model"
            export_browser_model(BUNDLED, model)
            write_site(site, model)
            with served(site) as address:
                times = measure(driver, address, args.digits)
    finally:
        driver.quit()
    print(
        f"a digit in {times['digit']['median']:.0f} ms (at most {times['digit']['highest']:.0f}), "
        f"the first {times['first']:.0f} ms after the page, from a key to its picture "
        f"{times['key']['median']:.1f} ms (at most {times['key']['highest']:.1f})"
    )
    output(args.json, dict(machine=machine(torch.device("cpu")), browser=times))


if __name__ == "__main__":
    main()
