"""The website in headless Chromium: nothing from other hosts, no fault that axe-core finds, by
keyboard, in the dark, and on a narrow screen.

The site has the panels' notebooks and a few others, so that it is built soon. Without SCREENSHOTS
one page of each kind is examined; links of all are followed when the site is built.
"""

import io
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from rar_nb.play.inpainting import BAND
from tests.browser.holes import HolePanel
from tests.browser.page import ROOT, SCREENSHOTS, axe_core, button_of, served, slider_of, wait
from tests.browser.test_static_page import SMALL
from tests.once import NAMES, need_runtime, small_site

OTHERS = ["index", "paper", "results/index", "api/rar_nb.transformer"]
EVERY = [*OTHERS, *NAMES]
FEW = ["index", "paper", "api/rar_nb.transformer", "04_transformer", "10_scan_orders"]
FEW += ["14_inpainting", "17_browser_model"]  # one of each kind of page
PAGES = EVERY if SCREENSHOTS else FEW  # `make screenshots` visits all
KEPT = ROOT / "results" / "site"  # receives pictures of these pages
SHOWN = ["index", "02_orders", "10_scan_orders", "17_browser_model", "53_study"]
SHOWN += ["api/rar_nb.transformer"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    axe_core()
    need_runtime()
    with served(small_site(tmp_path_factory)) as address:
        yield address


@pytest.fixture(scope="module")
def reader(driver, site):
    """Opens pages of the site, and remembers all that Chromium asks for and complains about."""
    return Reader(driver, site)


class Reader:
    def __init__(self, driver, site):
        self.driver, self.site = driver, site
        driver.execute_cdp_cmd("Network.enable", {})
        driver.get_log("browser")

    def run(self, script, *args):
        return self.driver.execute_script(script, *args)

    def prefer(self, theme):
        """What the system says that its user prefers: light or dark."""
        feature = dict(name="prefers-color-scheme", value=theme)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[feature]))

    def open(self, page, width=1300, height=900, dark=False):
        self.prefer("dark" if dark else "light")
        screen = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get(f"{self.site}/{page}.html")
        self.wait("return document.readyState == 'complete' && !!document.querySelector('h1')")
        self.wait("return !window.MathJax || !!document.querySelector('mjx-container')")
        self.wait("return !document.querySelector('.rar-live > img, .rar-live:empty')")

    def wait(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not (result := self.run(condition)):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.05)
        return result

    def press(self, *keys):
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def faults(self, rules=None):
        """What axe-core finds serious or critical: rule, and the element."""
        self.wait("return !document.getAnimations().some(a => a instanceof CSSTransition)")
        self.run(axe_core())
        found = self.driver.execute_async_script(
            "const [options, done] = arguments;"
            "axe.run(document, options).then(r => done(r.violations))",
            dict(resultTypes=["violations"], **(dict(runOnly=rules) if rules else {})),
        )
        return [
            (fault["id"], node["html"][:200])
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]


@pytest.mark.parametrize("page", PAGES)
def test_no_serious_fault_and_no_stranger(reader, page):
    """In light and dark; the whole page comes from the site, and nothing goes wrong in it."""
    reader.open(page)
    for dark in (False, True):
        if dark:
            reader.prefer("dark")
            reader.wait("return document.documentElement.dataset.theme == 'dark'")
        assert reader.faults(["color-contrast"] if dark else None) == []
        loaded = reader.run("return performance.getEntriesByType('resource').map(r => r.name)")
        assert [url for url in loaded if not url.startswith((reader.site, "data:", "blob:"))] == []
        errors = [e for e in reader.driver.get_log("browser") if e["level"] == "SEVERE"]
        assert [e["message"] for e in errors if "favicon.ico" not in e["message"]] == []
        if SCREENSHOTS and page in SHOWN:
            keep(reader, f"{page.replace('/', '_')}{'_dark' if dark else ''}")


@pytest.mark.parametrize("page", EVERY)
def test_narrow(reader, page):
    """At 380 px what is wide scrolls by itself, not the page."""
    reader.open(page, width=380, height=800)
    assert reader.run("return document.documentElement.scrollWidth") <= 380
    if SCREENSHOTS and page in SHOWN:
        keep(reader, f"{page.replace('/', '_')}_narrow")


PLOTS = """
return [...document.querySelectorAll('a.alone')].map(link => ({file: link.href,
  own: link.firstElementChild.naturalWidth, shown: link.firstElementChild.offsetWidth,
  seen: link.clientWidth, whole: link.scrollWidth}));
"""


@pytest.mark.parametrize("page", ["02_orders", "04_transformer", "53_study"])
def test_plots_can_be_read_on_a_telephone(reader, page):
    """At 380 px a plot keeps its size, up to that of a wide screen, and scrolls by itself: by a
    finger, or by the keys once its link has the focus, which leads to the picture alone."""
    reader.open(page, width=380, height=800)
    plots = reader.run(PLOTS)
    assert len(plots) > 2
    for plot in plots:
        assert plot["shown"] == min(plot["own"], 704)
        assert plot["seen"] <= 348 and plot["whole"] >= plot["shown"] - 1
    wide = next(i for i, plot in enumerate(plots) if plot["whole"] > plot["seen"])
    link = reader.driver.find_elements(By.CSS_SELECTOR, "a.alone")[wide]
    link.send_keys(Keys.ARROW_RIGHT)
    reader.wait(f"return document.querySelectorAll('a.alone')[{wide}].scrollLeft > 20")
    assert reader.run("return document.documentElement.scrollWidth") <= 380
    reader.open(page)
    for plot, large in zip(plots, reader.run(PLOTS), strict=True):
        assert plot["shown"] >= 0.95 * large["shown"]


def test_films_can_be_read_on_a_telephone(reader):
    """At 380 px each is as wide as the column, and hardly smaller than it was filmed."""
    reader.open("index", width=380, height=800)
    reader.run("for (const image of document.images) image.loading = 'eager'")
    films = "[...document.querySelectorAll('article picture img')]"
    reader.wait(f"return {films}.every(film => film.complete && film.naturalWidth)")
    shown = reader.run(
        f"return {films}.map(f => [f.currentSrc, f.offsetWidth / f.naturalWidth,"
        "f.parentElement.parentElement.clientWidth - f.offsetWidth])"
    )
    assert len(shown) == 4
    for file, scale, room in shown:
        assert "_narrow." in file and scale > 0.8 and room == 0


SIDEWAYS = """
return [...document.querySelectorAll('div.cell_output .output:not(.columns) pre')]
  .filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent);
"""


@pytest.mark.parametrize("width", [380, 1300])
@pytest.mark.parametrize("page", ["02_orders", "05_trainer", "53_study"])
def test_printed_sentences_are_wrapped(reader, page, width):
    """No one scrolls sideways for them."""
    reader.open(page, width=width)
    assert reader.run("return document.querySelectorAll('div.cell_output pre').length") > 0
    assert reader.run(SIDEWAYS) == []


@pytest.mark.parametrize("page, least", [("02_orders", 10), ("04_transformer", 20)])
def test_mathematics(reader, page, least):
    """MathJax takes every formula; on a narrow screen one sees its beginning."""
    reader.open(page, width=380)
    formulas = reader.run("return document.querySelectorAll('.math mjx-container svg').length")
    assert formulas >= least
    assert not reader.run("return document.querySelector('mjx-merror, [data-mjx-error]')")
    cut = reader.run(
        "return [...document.querySelectorAll('div.math mjx-container')].filter(f =>"
        "f.getBoundingClientRect().left < f.parentElement.getBoundingClientRect().left - 1).length"
    )
    assert cut == 0


def test_keyboard(reader):
    """The first stop skips to the text; the next and the previous chapter are in reach."""
    reader.open("04_transformer")
    reader.press(Keys.TAB)
    reader.wait(
        "const e = document.activeElement, box = e.getBoundingClientRect();"
        "return /skip to/i.test(e.textContent) && box.top >= 0 && box.height > 10"
    )
    reader.press(Keys.ENTER)
    assert reader.driver.current_url.endswith("#main-content")
    stops = []
    for _ in range(400):
        reader.press(Keys.TAB)
        focused = reader.run(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.className, s.outlineStyle, s.boxShadow]"
        )
        stops.append(focused)
        if "right-next" in focused[0]:
            break
    assert "right-next" in stops[-1][0], "the next chapter can't be reached"
    unseen = [s for s in stops if s[1] == "none" and s[2] == "none"]
    assert unseen == [], "a stop of the keyboard that one can't see"
    reader.press(Keys.ENTER)
    reader.wait("return location.pathname.endsWith('/05_trainer.html')")


def test_light_and_dark(reader):
    """As the system is, until the button is pressed; the choice stays."""
    background = "return getComputedStyle(document.body).backgroundColor"
    reader.open("02_orders")
    light = reader.run(background)
    reader.open("02_orders", dark=True)
    dark = reader.run(background)
    assert brightness(light) > 200 and brightness(dark) < 60
    reader.open("02_orders")
    button = reader.driver.find_element(By.CSS_SELECTOR, ".theme-switch-button")
    button.send_keys(Keys.ENTER)
    choice = reader.driver.find_element(By.CSS_SELECTOR, ".theme-change-button[data-mode=dark]")
    choice.send_keys(Keys.ENTER)
    reader.wait(f"{background} == '{dark}'")
    reader.open("10_scan_orders")
    assert reader.run(background) == dark
    panel = reader.run("return getComputedStyle(document.querySelector('.rar-app')).color")
    assert brightness(panel) > 150  # its letters
    reader.run("localStorage.clear()")


def test_less_motion(reader):
    """The moving picture of the first page stands still for those who have asked for that."""
    reader.open("index")
    shown = "return document.querySelector('article picture img').currentSrc"
    assert reader.run(shown).endswith("rar.gif")
    still = dict(name="prefers-reduced-motion", value="reduce")
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[still]))
    reader.wait(f"return (() => {{{shown}}})().endsWith('.still.png')")


def test_search(reader):
    """Finds a notebook by a word in it, and a function by its name, without a server."""
    reader.open("search")
    reader.driver.get(f"{reader.site}/search.html?q=sample_orders")
    found = "return [...document.querySelectorAll('#search-results a')].map(a => a.href)"
    links = reader.wait(f"const links = (() => {{{found}}})(); return links.length && links")
    assert any("api/rar_nb.orders.html#rar_nb.orders.sample_orders" in link for link in links)
    reader.driver.get(f"{reader.site}/search.html?q=regularisation")
    reader.wait(f"return (() => {{{found}}})().some(a => a.includes('53_study'))")


@pytest.mark.parametrize(
    "words, first",
    [
        ("scan order", "10_scan_orders.html"),
        ("annealing", "11_annealing.html"),
        ("sample_orders", "api/rar_nb.orders.html#rar_nb.orders.sample_orders"),
    ],
)
def test_search_finds_first_what_is_about_it(reader, words, first):
    reader.driver.get(f"{reader.site}/search.html?q={words}")
    links = "const links = [...document.querySelectorAll('#search-results li a')];"
    reader.wait(f"{links} return links.length > 4")
    assert reader.run(f"{links} return links[0].getAttribute('href')") == first


@pytest.mark.parametrize(
    "words, page, begins",
    [
        ("softmax", "04_transformer.html", "The softmax then puts all its weight"),
        ("annealing", "02_orders.html#annealing", "Only the random orders show the model"),
        ("guidance", "api/rar_nb.play.watch.html", ""),
        ("lgamma", "02_orders.html", "Random orders show the model every side"),  # only in code
    ],
)
def test_search_shows_sentences(reader, words, page, begins):
    """Of each page, not the text of menus, code, or TeX."""
    reader.driver.get(f"{reader.site}/search.html?q={words}")
    reader.wait("return /finished/.test(document.querySelector('.search-summary')?.textContent)")
    reader.wait(
        "return [...document.querySelectorAll('#search-results li:not(.kind-object)')]"
        ".every(item => item.querySelector('.context'))"
    )
    shown = reader.run(
        "return Object.fromEntries([...document.querySelectorAll('#search-results li')].map("
        "item => [item.querySelector('a').getAttribute('href'),"
        "item.querySelector('.context')?.textContent ?? '']))"
    )
    assert page in shown and shown[page].startswith(begins)
    for text in shown.values():
        assert len(text) < 240
        assert not re.search(r"\\[(\[a-z]|Show the code|System Settings|import |\s\s", text)


@pytest.mark.parametrize("name", ["10_scan_orders", "11_annealing"])
def test_a_panel_lives(reader, name):
    """A key on its slider changes what it shows."""
    reader.open(name)
    slider = reader.driver.find_element(By.CSS_SELECTOR, ".rar-live input[type=range]")
    shown = "return document.querySelector('.rar-live').innerHTML"
    before = reader.run(shown)
    slider.send_keys(Keys.ARROW_RIGHT)
    reader.wait(f"return (() => {{{shown}}})() != {json.dumps(before)}")


def test_panels_in_the_gallery(reader):
    """Where a panel can run, the page of all panels has it in the place of its picture."""
    reader.open("explore")
    live = reader.run(
        "return [...document.querySelectorAll('.rar-live')].map(d => d.dataset.panel)"
    )
    assert {"scan_orders", "annealing"} <= set(live)


LETTERS = """
const words = document.createTreeWalker(document.querySelector('.bd-article'), 4), broken = [];
for (let word; (word = words.nextNode());) {
  if (!word.parentElement.closest('td') || !/^[a-z0-9_]{2,20}$/.test(word.data)) continue;
  const range = document.createRange();
  range.selectNodeContents(word);
  if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1)
    broken.push(word.data);
}
return broken;
"""


def test_names_in_narrow_tables_break_between_words(reader):
    reader.open("index", width=380, height=800)
    assert reader.run("return document.querySelectorAll('td wbr').length") > 15
    assert reader.run(LETTERS) == []


@pytest.fixture
def holes(reader):
    """The panel that fills holes, once it has filled the first one."""
    reader.open("14_inpainting")
    panel = HolePanel(reader.driver, reader.driver.find_element(By.CSS_SELECTOR, ".rar-app"))
    reader.run("arguments[0].scrollIntoView()", panel.root)  # it waits until it is seen
    panel.shows()
    if SCREENSHOTS:
        keep(reader, "14_inpainting")
    return panel


def test_holes_by_mouse(holes):
    """They are filled as in Python, whichever was cut before the last one was filled."""
    assert holes.driver.execute_script(SMALL, holes.root) == []
    holes.drag([16, 17, 18])  # cells that come back
    holes.drag([2, 9, 10])
    hole = [i for i in BAND if i not in (16, 17, 18)] + [2, 9, 10]
    holes.shows(hole=hole)
    holes.choose("order", "spiral")
    holes.shows(how="spiral")
    holes.choose("class", "guessed from what is left")
    holes.shows(guess=True)
    button_of(holes.root, "close the hole").click()
    assert not holes.root.find_element(By.CSS_SELECTOR, ".rar-methods").is_displayed()
    holes.drag([24])
    holes.shows(hole=[24])


def test_a_hole_of_all_cells(holes):
    """A fast drag, seen at the ends of rows alone, erases them all; the class is a blind guess."""
    holes.choose("class", "guessed from what is left")
    holes.drag([0, 6, 13, 7, 14, 20, 27, 21, 28, 34, 41, 35, 42, 48])
    holes.shows(hole=list(range(49)), guess=True)
    voice = holes.root.find_element(By.CSS_SELECTOR, ".rar-hidden[role=status]")
    wait(lambda: "nats" in voice.get_attribute("textContent"), 20, "the losses by voice")
    button_of(holes.root, "close the hole").click()
    wait(lambda: not voice.get_attribute("textContent"), 20, "no word about losses any more")


def test_holes_by_keyboard(holes):
    holes.picture.send_keys(Keys.SPACE, Keys.UP, Keys.UP, Keys.SPACE)  # from the middle
    holes.shows(hole=[i for i in BAND if i != 24] + [10])
    slider_of(holes.root, "digit").send_keys(Keys.RIGHT, Keys.RIGHT)
    slider_of(holes.root, "guidance scale").send_keys(Keys.HOME)
    button_of(holes.root, "other noise").send_keys(Keys.ENTER)
    holes.choose("order", "random")
    holes.shows(digit=112, guidance_scale=0.0, seed=1, how="random")


@pytest.mark.parametrize("name", ["settings.json", "digits.png", "step_any_order.onnx"])
def test_holes_are_filled_once_what_was_missing_is_there(driver, tmp_path, tmp_path_factory, name):
    """The panel says which file it can't have. *try again* asks for it once more, or the next
    change does if the panel could be opened without it; the page is not loaded anew."""
    need_runtime()
    site = Path(shutil.copytree(small_site(tmp_path_factory), tmp_path / "site"))
    (file,) = site.rglob(name)
    file.rename(tmp_path / "away")
    with served(site) as address:
        driver.get(f"{address}/14_inpainting.html")
        root = wait(lambda: driver.find_elements(By.CSS_SELECTOR, ".rar-app"), 30, "a panel")[0]
        driver.execute_script("arguments[0].scrollIntoView()", root)
        wait(lambda: f"{name} is not there (404)" in root.text, 60, "a sentence that names it")
        opens = not name.endswith(".onnx")
        if opens:
            assert not root.find_elements(By.CSS_SELECTOR, ".rar-picture")
            button_of(root, "try again").click()
            wait(lambda: f"{name} is not there (404)" in root.text, 60, "the same sentence")
        (tmp_path / "away").rename(file)
        if opens:
            button_of(root, "try again").click()
            wait(lambda: root.find_elements(By.CSS_SELECTOR, ".rar-picture"), 60, "the digit")
            HolePanel(driver, root).shows()
        else:
            panel = HolePanel(driver, root)
            panel.choose("order", "spiral")
            panel.shows(how="spiral")
        assert "not there" not in root.text
        assert not root.find_elements(By.XPATH, ".//button[.='try again']")
    driver.get_log("browser")  # the browser's own word for a 404


def test_without_scripts(reader):
    """The saved picture and the text are there for browsers that run nothing."""
    reader.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", dict(value=True))
    try:
        reader.driver.get(f"{reader.site}/10_scan_orders.html")
        picture = reader.driver.find_element(By.CSS_SELECTOR, ".rar-live img")
        assert picture.is_displayed() and picture.size["width"] > 300
        assert len(picture.get_attribute("alt")) > 10
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", dict(value=False))


def brightness(colour: str) -> float:
    red, green, blue = map(float, re.findall(r"[\d.]+", colour)[:3])
    return (red + green + blue) / 3


def keep(reader, name):
    KEPT.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(reader.driver.get_screenshot_as_png())) as picture:
        few = picture.convert("RGB").quantize(96, dither=Image.Dither.NONE)
    few.save(KEPT / f"{name}.png", optimize=True)
