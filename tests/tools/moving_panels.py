"""The moving pictures of the README: the panels themselves, as headless Chromium shows them.

python -m tests.tools.moving_panels results/pictures

Each frame is a screenshot of a panel on a page without a kernel, once its slider has been moved.
Each film is made twice. The second one, whose name ends in `_narrow`, is what the website shows on
a telephone: the panel as it is on a narrow page, without its knobs.
"""

import argparse
import io
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from rar_nb.play.annealing import Annealing
from rar_nb.play.browser_model import export_browser_model
from rar_nb.play.scan_orders import ScanOrders
from rar_nb.play.watch import BUNDLED, Watch
from rar_nb.support import make_folder, write_beside
from tests.browser.conftest import start_browser
from tests.browser.model_site import write_site
from tests.browser.page import PAGE, served, slider_of, wait

WIDTH, NARROW, EDGE = 800, 380, 8  # pixels; the edge is part of the width
MOVE = """
const [slider, value] = arguments;
slider.value = value;
slider.dispatchEvent(new Event('input'));
"""

DRAWN = """
const hidden = canvas => canvas.style.visibility === 'hidden';
return [...document.querySelectorAll('.rar-views:not([hidden])')].every(
  view => view.dataset.pictured === String(arguments[0])
    && ![...view.querySelectorAll('.rar-candidates canvas')].some(hidden));
"""  # whether all is decoded that a panel with a model shows of a step


@dataclass(frozen=True)
class Film:
    """What is filmed of a panel."""

    panel: Callable  # makes it
    part: str  # the selector of what is seen of it
    slider: str  # its name
    scenes: tuple[tuple[str, range], ...]  # a scan order to choose, or '', and what is moved to
    pause: float  # seconds that a frame is seen
    narrow: str  # styles of the narrow film: what is left out of it, and what is smaller


FILMS = {
    "scan_orders": Film(
        lambda: ScanOrders("spiral_in", step=0),
        ".rar-walk",
        "step",
        (("spiral_in", range(0, 50, 3)), ("z_curve", range(0, 50, 3)), ("raster", range(0, 50, 7))),
        0.25,
        ".rar-sides, .rar-row button, tbody tr:not(.chosen) { display: none !important }",
    ),
    "annealing": Film(
        lambda: Annealing(epoch=180),
        ".rar-anneal",
        "epoch",
        (("", range(180, 322, 4)),),
        0.15,
        ".rar-play, figure:nth-of-type(2), .rar-anneal > div + div > div > :not(.rar-tiles)"
        " { display: none !important }"
        ".rar-tiles { height: 226px !important; object-fit: cover; object-position: top }",
    ),
    "watch": Film(
        lambda: Watch(label=3, seed=3),
        ".rar-app",
        "step",
        (("", range(0, 50)),),
        0.2,
        ".rar-app > div > div:first-child, .rar-row button, .rar-app > div > :is(p, .rar-row)"
        " { display: none !important }"
        ".rar-views:not([hidden]) { display: grid !important; grid-template-columns: 1fr 9.5rem }"
        ".rar-views > :first-child { grid-column: 1 / 3 }",
    ),
}


def shots(driver, film: Film) -> list[Image.Image]:
    """The frames of a film, whose page is open."""
    panel = wait(lambda: driver.find_elements("css selector", ".rar-app"), 60, "a panel")[0]
    wait(lambda: panel.find_elements("css selector", "input[type=range]"), 60, "its sliders")
    last = slider_of(panel, film.slider).get_attribute("max")
    wait(lambda: driver.execute_script(DRAWN, last), 120, "a whole image of a model")
    found = []
    for order, values in film.scenes:
        if order:
            button = panel.find_element("xpath", f".//label[span='{order}']/input")
            driver.execute_script("arguments[0].click()", button)  # a narrow film hides it
        for value in values:
            driver.execute_script(MOVE, slider_of(panel, film.slider), value)
            wait(lambda at=value: driver.execute_script(DRAWN, at), 120, f"the picture of {value}")
            time.sleep(0.3)  # until it is drawn
            part = driver.find_element("css selector", film.part)
            found.append(Image.open(io.BytesIO(part.screenshot_as_png)).convert("RGB"))
    return found


def opened(driver, address: str, site: Path, film: Film, narrow: bool):
    """Open the page of a film."""
    width = NARROW if narrow else WIDTH
    size = dict(width=width, height=1400, deviceScaleFactor=1, mobile=False)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    panel = film.panel().static_html()
    if narrow:
        panel += f"<style>{film.narrow}</style>"
    (site / "film.html").write_text(PAGE.format(theme="light", panel=panel))
    driver.get(f"{address}/film.html")


def save(frames: list[Image.Image], path: Path, pause: float):
    """An animated picture; its last frame stays for a moment. Where words need more lines, a frame
    is higher than others: all get the size of the highest."""
    width, height = (max(frame.size[i] for frame in frames) for i in (0, 1))
    frames = [ImageOps.pad(f, (width, height), color="white", centering=(0, 0)) for f in frames]
    frames = [ImageOps.expand(frame, EDGE, "white") for frame in frames]
    times = [*[round(1000 * pause)] * (len(frames) - 1), 1500]
    with write_beside(path) as beside:
        frames[0].save(
            beside,
            format="WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=times,
            loop=0,
            lossless=True,
            method=6,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder of the pictures")
    parser.add_argument("--only", nargs="*", choices=FILMS, default=list(FILMS))
    args = parser.parse_args()
    out = make_folder(args.out)
    driver = start_browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            site = Path(folder) / "site"
            model = Path(folder) / "model"
            export_browser_model(BUNDLED, model)
            write_site(site, model)
            with served(site) as address:
                for name, narrow in itertools.product(args.only, (False, True)):
                    film, path = FILMS[name], out / f"{name}{'_narrow' if narrow else ''}.webp"
                    opened(driver, address, site, film, narrow)
                    frames = shots(driver, film)
                    save(frames, path, film.pause)
                    print(f"{path.name}: {len(frames)} frames, {path.stat().st_size / 1e6:.2f} MB")
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
