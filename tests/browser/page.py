"""What a hand does to a panel, and what an eye sees of it."""

import functools
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tests.site.build import NPM, ROOT

NAMES = ["chromium", "chromium-browser", "google-chrome"]
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
SCREENSHOTS = os.environ.get("SCREENSHOTS")
KEPT = ROOT / "results" / "widgets"
# Notebooks whose panels need nothing but their state; tests of their own move those with a model.
LIVE = ["10_scan_orders", "11_annealing", "12_target_aware"]

PAGE = """<!doctype html>
<html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>A panel</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>
<body style="margin: 8px"><main><h1>A panel</h1>{panel}</main>
<script type="module" src="js/host.js"></script></body></html>
"""  # beside the folder `js`; the theme is 'light', 'dark', or '': the system's


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
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:  # JupyterLab can wait for a thread that never ends
            self.process.kill()
            self.process.wait()


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
    "15_widgets": ".rar-said",
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


def no_errors(driver):
    """Nothing severe in the browser's console."""
    # Voilà's icons need a network. It refuses a page that is left to end its kernel (for want of
    # an XSRF token), which is why `make explore` ends idle kernels itself.
    # No browser that nobody touches asks whether a changed notebook may be left. JupyterLab takes
    # its splash screen away twice, and a page of Voilà that is being left has no kernel any more.
    harmless = re.compile(
        r"favicon|cdn.jsdelivr.net/npm/@fortawesome|voila/api/shutdown|beforeunload"
        r"|jlab_core.*'removeChild'|voila/labextensions.*Uncaught Error: Cannot send"
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
