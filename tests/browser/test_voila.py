"""`make explore`: the gallery, and every panel on a dark page of Voilà, without code."""

import pytest

from rar_nb.play.inpainting import BAND
from tests.browser.holes import HolePanel
from tests.browser.page import (
    DARK,
    LIVE,
    ground,
    keep,
    live_panel,
    no_errors,
    once_more,
    use_live,
    wait,
)
from tests.browser.test_browser_model import Watched, digit
from tests.tools.reading_order import PANELS as GALLERY  # all that `explore` shows

LINKS = "return [...document.querySelectorAll('a[href]')].map(a => a.href)"
CODE = ".jp-InputArea-editor, .jp-Cell-inputWrapper .highlight"


def code_shown(driver) -> list:
    return [e for e in driver.find_elements("css selector", CODE) if e.is_displayed()]


@once_more
def test_gallery(driver, voila):
    driver.get_log("browser")
    driver.get(voila.address)  # what `make explore` opens in the browser
    wait(
        lambda: len(driver.find_elements("css selector", ".jp-RenderedImage img")) == len(GALLERY),
        120,
        "the pictures of the gallery",
    )
    assert "/voila/render/explore.ipynb" in driver.current_url
    links = driver.execute_script(LINKS)
    for name in GALLERY:
        assert f"{voila.address}/voila/render/{name}.ipynb" in links
    assert not code_shown(driver)
    keep(driver, driver.find_element("tag name", "h1"), "explore")
    no_errors(driver)


@pytest.mark.parametrize("name", LIVE)
@once_more
def test_live_panels(driver, voila, name):
    driver.get_log("browser")
    driver.get(f"{voila.address}/voila/render/{name}.ipynb?theme=dark")
    panel = live_panel(driver, name)
    wait(lambda: ground(driver, panel) == DARK, 60, "a dark panel")
    assert not code_shown(driver)
    assert "How it is made" not in driver.find_element("tag name", "body").text
    assert f"{voila.address}/voila/render/explore.ipynb" in driver.execute_script(LINKS)
    use_live(driver, panel, name)
    no_errors(driver)


@once_more
def test_the_kernel_samples(driver, voila):
    """The panel with the model asks PyTorch."""
    driver.get(f"{voila.address}/voila/render/13_watch.ipynb")
    panel = Watched(driver, live_panel(driver, "13_watch"))
    tokens = digit(5)
    panel.become(tokens[:24] + [-1] * 25, seconds=120)
    panel.field("step").send_keys("\ue012")
    panel.become(tokens[:23] + [-1] * 26)
    body = driver.find_element("tag name", "body").text
    assert "How it is made" not in body and "import Watch" not in body


@once_more
def test_the_kernel_fills_holes(driver, voila):
    driver.get_log("browser")
    driver.get(f"{voila.address}/voila/render/14_inpainting.ipynb")
    panel = HolePanel(driver, live_panel(driver, "14_inpainting"))
    panel.shows()
    keep(driver, panel.root, "voila")
    panel.drag([24, 23, 22])  # cells that come back
    panel.shows(hole=[i for i in BAND if i not in (22, 23, 24)])
    assert not code_shown(driver)
    assert "How it is made" not in driver.find_element("tag name", "body").text
    no_errors(driver)
