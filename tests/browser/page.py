"""What a hand does to a panel, and what an eye sees of it."""

import base64
import functools
import io
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.site.build import NPM, ROOT

NAMES = ["chromium", "chromium-browser", "google-chrome"]
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
SCREENSHOTS = os.environ.get("SCREENSHOTS")
KEPT = ROOT / "results" / "widgets"
# Notebooks with panels, and how many each shows; those that the browser draws itself first.
LIVE = ["10_scan_orders", "11_annealing", "12_target_aware"]
PANELS = {"13_watch": 2, "14_inpainting": 1}


class Server:
    """A Jupyter program in a process of its own, once it says where it listens."""

    def __init__(self, folder: Path, *command: str):
        self.log = folder / f"{command[0]}.log"  # one folder may have two servers
        env = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        where, deadline = r"http://(?:localhost|127\.0\.0\.1):\d+", time.time() + 120
        while not (found := re.search(where, self.log.read_text())):
            assert self.process.poll() is None and time.time() < deadline, self.log.read_text()
            time.sleep(0.2)
        self.address = found.group()
        while not self.answers():  # it may say so a moment before it listens
            assert time.time() < deadline, self.log.read_text()
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.address}/api", timeout=60).read()
        except OSError as error:
            return bool(getattr(error, "code", None))  # any answer will do
        return True

    def end_kernels(self):
        """End all kernels: each takes several hundred megabytes, and one that is killed would
        seem like a picture that never changes."""
        sessions = f"{self.address}/api/sessions"
        for session in json.load(urllib.request.urlopen(sessions, timeout=60)):
            request = urllib.request.Request(f"{sessions}/{session['id']}", method="DELETE")
            urllib.request.urlopen(request, timeout=60)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Files(SimpleHTTPRequestHandler):
    """Files of a folder, as any web server gives them."""

    def log_message(self, *args):
        pass


@contextmanager
def served(folder: Path):
    """The address at which a folder can be read."""
    handler = functools.partial(Files, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def axe_core() -> str:
    """The text of axe-core, at the version and with the checksum of package-lock.json."""
    path = NPM / "axe-core" / "axe.min.js"
    if not path.is_file():
        pytest.skip("no axe-core in build/npm: `make site` gets it from npm")
    return path.read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Stuck(AssertionError):
    """What should have come did not come in time."""


def wait(condition, seconds: float, what: str):
    """The first true value of `condition()`."""
    deadline = time.time() + seconds
    while not (value := condition()):
        if time.time() > deadline:
            raise Stuck(f"{what} did not come within {seconds} s")
        time.sleep(0.05)
    return value


def click(button):
    """Press a button, once nothing lies over it: a page that is being drawn still moves."""
    from selenium.common.exceptions import ElementClickInterceptedException

    def pressed():
        try:
            button.click()
        except ElementClickInterceptedException:
            return False
        return True

    wait(pressed, 20, "a button that can be pressed")


def once_more(test):
    """Open a page a second time if it got stuck the first time, and warn of it: browser, server
    and kernel share two cores in CI with other tests. What is wrong twice, or at once, fails."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        try:
            test(*args, **kwargs)
        except Stuck as problem:
            notes = getattr(problem, "__notes__", [])
            first = f"{test.__name__} {kwargs.get('name')}: {problem}; trying once more"
            warnings.warn("\n".join([first, *notes]), stacklevel=1)
            kwargs["driver"].get("about:blank")
            test(*args, **kwargs)

    return run


# What the page shows

STATUS = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
BUSY = f"return ({STATUS} ?? 'idle') !== 'idle'"  # it is undefined in Voilà
PICTURE = """
const img = arguments[0].querySelector('.rar-canvas'), done = arguments[1];
function read() {
  if (!img.complete || !img.naturalWidth) return setTimeout(read, 20);
  const c = document.createElement('canvas');
  [c.width, c.height] = [img.naturalWidth, img.naturalHeight];
  c.getContext('2d').drawImage(img, 0, 0);
  done(c.toDataURL('image/png'));
}
read();"""


def panels(driver) -> list:
    """The panels of a page whose pictures are there."""
    shown = driver.find_elements("css selector", ".rar-panel")
    return [p for p in shown if p.find_elements("css selector", ".rar-canvas")]


def picture(driver, panel) -> np.ndarray:
    """Pixels of a panel's picture as the browser shows it, uint8 [H, W, 3]."""
    data = driver.execute_async_script(PICTURE, panel)
    image = Image.open(io.BytesIO(base64.b64decode(data.split(",")[1])))
    return np.asarray(image.convert("RGB"))


def live_panel(driver, name: str):
    """The panel of a notebook in `LIVE`, once it is there."""
    shown = wait(lambda: driver.find_elements("css selector", ".rar-app"), 120, f"panel of {name}")
    driver.execute_script("arguments[0].scrollIntoView({block: 'start'})", shown[0])
    return shown[0]


def text_of(panel, selector: str) -> str:
    return panel.find_element("css selector", selector).get_attribute("textContent")


def slider_of(panel, name: str):
    return panel.find_element("xpath", f".//label[span='{name}']/input")


def button_of(panel, name: str):
    path = f".//button[normalize-space()='{name}' or @aria-label='{name}']"
    return panel.find_element("xpath", path)


def drag_over(driver, grid, path: list[int], side: int):
    """Press on the first cell of a grid, pass over the others as fast as can be, and let go."""
    from selenium.webdriver import ActionChains

    chain = ActionChains(driver, duration=0)
    for k, cell in enumerate(path):
        x, y = (cell % side + 0.5) / side - 0.5, (cell // side + 0.5) / side - 0.5
        chain.move_to_element_with_offset(
            grid, round(x * grid.size["width"]), round(y * grid.size["height"])
        )
        if k == 0:
            chain.click_and_hold()
    chain.release().perform()


def choose(panel, order: str):
    panel.find_element("xpath", f".//label[span='{order}']/input").click()


def ground(driver, panel) -> str:
    return driver.execute_script("return getComputedStyle(arguments[0]).backgroundColor", panel)


LIGHT, DARK = "rgb(255, 255, 255)", "rgb(17, 17, 17)"
SAID_BY = {  # the state in words
    "10_scan_orders": ".rar-said",
    "11_annealing": ".rar-now",
    "12_target_aware": ".rar-told",
}


def use_live(driver, panel, name: str):
    """Every slider of a panel that the browser draws moves it, and so does its play button."""
    from selenium.webdriver.common.keys import Keys

    for slider in panel.find_elements("css selector", "input[type=range]"):
        first = text_of(panel, SAID_BY[name]), slider.get_attribute("value")
        slider.send_keys(Keys.RIGHT)
        assert first[0] != text_of(panel, SAID_BY[name])
        slider.send_keys(Keys.LEFT)
        assert slider.get_attribute("value") == first[1]
    before = text_of(panel, SAID_BY[name])
    play = panel.find_element("css selector", ".rar-play")
    click(play)
    wait(lambda: text_of(panel, SAID_BY[name]) != before, 30, "play")
    click(play)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a == b).all())


def changed(driver, panel, before: np.ndarray, what: str, seconds: float = 60) -> np.ndarray:
    """The picture once it differs from `before`."""

    def other():
        now = picture(driver, panel)
        return None if same(now, before) else [now]

    return wait(other, seconds, f"another picture after {what}")[0]


def settled(driver, panel) -> np.ndarray:
    """The picture once it stays the same for half a second in which the kernel is idle."""
    now, since = picture(driver, panel), time.time()
    while time.time() - since < 0.5:
        after = picture(driver, panel)
        if not same(after, now) or driver.execute_script(BUSY):
            now, since = after, time.time()
        time.sleep(0.1)
    return now


def is_back(driver, panel, before: np.ndarray, what: str):
    """Wait until the picture is `before` again."""
    wait(lambda: same(settled(driver, panel), before), 60, f"the same picture after {what}")


def no_errors(driver):
    """Nothing severe in the browser's console."""
    # Voilà's icons need a network. It refuses a page that is left to end its kernel (for want of
    # an XSRF token), which is why `make explore` ends idle kernels itself.
    # And no browser that nobody touches asks whether a changed notebook may be left.
    harmless = re.compile(
        r"favicon|cdn.jsdelivr.net/npm/@fortawesome|voila/api/shutdown|beforeunload"
    )
    log = [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]
    severe = [message for message in log if not harmless.search(message)]
    assert not severe, severe


def keep(driver, element, name: str):
    """A screenshot of what is around an element, if screenshots are asked for."""
    if not SCREENSHOTS:
        return
    KEPT.mkdir(exist_ok=True)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    time.sleep(0.5)
    image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    image.quantize(128).save(KEPT / f"{name}.png", optimize=True)


def keep_lags(name: str, lags: dict[str, int]):
    """Add measured milliseconds to `lags.json`, if screenshots are asked for."""
    if not SCREENSHOTS:
        return
    path = KEPT / "lags.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {name: lags}, indent=1, sort_keys=True) + "\n")


# What a hand does

STOPWATCH = """
const panel = arguments[0], image = panel.querySelector('.rar-canvas');
if (!panel.stopwatch) {
  panel.stopwatch = true;
  panel.lag = null;
  panel.addEventListener('keydown', () => {
    panel.pressed = performance.now();
    panel.lag = null;
  }, true);
  image.addEventListener('load', () => {
    if (panel.lag !== null) return;
    panel.lag = performance.now() - panel.pressed;
    if (panel.done) panel.done(panel.lag);
  });
}
"""
LAG = """
const panel = arguments[0], done = arguments[1];
if (panel.lag === null) panel.done = done; else done(panel.lag);
"""


def press(driver, panel, handle, key) -> float:
    """Press a key on a slider; milliseconds until the next picture is there. Nothing is polled
    meanwhile, as that would slow the kernel."""
    handle.send_keys(key)
    return driver.execute_async_script(LAG, panel)


def move_sliders(driver, panel) -> dict[str, int]:
    """Move every slider by a key, there and back: the picture changes, and is the first one
    again. Milliseconds from key to picture, by slider."""
    from selenium.webdriver.common.keys import Keys

    lags = {}
    driver.execute_script(STOPWATCH, panel)
    for handle in panel.find_elements("css selector", ".noUi-handle"):
        slider = handle.find_element("xpath", "ancestor::*[contains(@class, 'widget-slider')]")
        name = slider.text.split("\n")[0]
        now, high = (float(handle.get_attribute(f"aria-value{a}")) for a in ("now", "max"))
        there, back = (Keys.RIGHT, Keys.LEFT) if now < high else (Keys.LEFT, Keys.RIGHT)
        before = settled(driver, panel)
        taken = [press(driver, panel, handle, there)]
        changed(driver, panel, before, f"slider {name} moved")
        taken.append(press(driver, panel, handle, back))
        is_back(driver, panel, before, f"{name} was moved back")
        if SCREENSHOTS and taken[0] < 400:  # not what samples anew
            for key in [there, back] * 4:
                time.sleep(0.2)
                taken.append(press(driver, panel, handle, key))
        lags[name] = round(statistics.median(taken))
    return lags


def press_play(driver, panel):
    """Press play: the picture changes again and again; then stop."""
    for play in panel.find_elements("css selector", ".widget-play, .jupyter-widget-play"):
        buttons = play.find_elements("tag name", "button")
        before = settled(driver, panel)
        buttons[0].click()
        first = changed(driver, panel, before, "play")
        changed(driver, panel, first, "play, a second time")
        buttons[0].click()
        settled(driver, panel)


def click_cells(driver, panel):
    """A click on a clickable picture changes it, the same click undoes that; a drag, too."""
    from selenium.webdriver import ActionChains

    for image in panel.find_elements("css selector", ".rar-canvas.clickable"):
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        height, width = image.size["height"], image.size["width"]
        x, y = round(height * 0.2 - width / 2), round(height * 0.35 - height / 2)

        def there(image=image, x=x, y=y):
            chain = ActionChains(driver, duration=50)
            return chain.move_to_element_with_offset(image, x, y)

        before, side = settled(driver, panel), round(height * 0.2)
        there().click().perform()
        changed(driver, panel, before, "a click")
        there().click().perform()
        is_back(driver, panel, before, "a second click")
        there().click_and_hold().move_by_offset(side, 0).move_by_offset(side, 0).release().perform()
        changed(driver, panel, before, "a drag")


FRAME = """
const frame = arguments[0].querySelector('.rar-frame');
return [getComputedStyle(frame).display, frame.style.left, frame.style.top];
"""
FOCUSABLE = "input, select, button, .noUi-handle, [tabindex='0']"


def press_keys(driver, panel):
    """A clickable picture is reached by the tab key; arrow keys move a frame, the space bar
    clicks there, and again undoes it."""
    from selenium.webdriver.common.keys import Keys

    def framed():
        return driver.execute_script(FRAME, panel)

    for image in panel.find_elements("css selector", ".rar-canvas.clickable"):
        stops = panel.find_elements("css selector", FOCUSABLE)
        stops[stops.index(image) - 1].send_keys(Keys.TAB)
        assert driver.switch_to.active_element == image
        start, before = framed(), settled(driver, panel)
        assert start[0] == "block"
        for key in (Keys.RIGHT, Keys.DOWN):
            image.send_keys(key)
        wait(
            lambda start=start: framed()[1] != start[1] and framed()[2] != start[2],
            60,
            "a frame moved by arrow keys",
        )
        for key in (Keys.UP, Keys.LEFT):
            image.send_keys(key)
        wait(lambda start=start: framed() == start, 60, "the frame at the first cell again")
        image.send_keys(Keys.SPACE)
        changed(driver, panel, before, "the space bar")
        image.send_keys(Keys.SPACE)
        is_back(driver, panel, before, "a second space bar")


def snake(rng, steps: int, grid: int) -> list[int]:
    """A random walk over a grid from cell to neighbouring cell that never comes back."""
    path = [rng.randrange(grid * grid)]
    while len(path) < steps:
        row, column = divmod(path[-1], grid)
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        free = [i * grid + j for i, j in around if 0 <= i < grid and 0 <= j < grid]
        free = [cell for cell in free if cell not in path]
        if not free:
            return snake(rng, steps, grid)
        path.append(rng.choice(free))
    return path


def choose_options(driver, panel):
    """Every list: another entry changes the picture; then the first entry again."""
    from selenium.webdriver.support.ui import Select

    for element in panel.find_elements("css selector", "select"):
        if not element.is_displayed():
            continue
        chosen = Select(element)
        first = chosen.options.index(chosen.first_selected_option)
        if len(chosen.options) < 2:
            continue
        before = settled(driver, panel)
        chosen.select_by_index((first + 1) % len(chosen.options))
        changed(driver, panel, before, "another choice")
        chosen.select_by_index(first)
        settled(driver, panel)


SAID = """
const texts = selector => [...document.querySelectorAll(selector)]
  .map(e => e.innerText).filter(text => text);
return {panels: texts('.rar-panel .widget-html'), dialogs: texts('.jp-Dialog'), kernel: STATUS,
        chosen: [...document.querySelectorAll('.rar-panel select')].map(e => e.value)};
""".replace("STATUS", STATUS)


def use(driver, panel, name: str):
    """All that can be done to a panel by hand. A failure reports what the page said."""
    try:
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
        assert picture(driver, panel).std() > 5, "an empty picture"
        keep(driver, panel, name)
        keep_lags(name, move_sliders(driver, panel))
        choose_options(driver, panel)
        press_play(driver, panel)
        click_cells(driver, panel)
        press_keys(driver, panel)
    except Exception as problem:
        problem.add_note(f"{name}: {driver.execute_script(SAID)}")
        raise
