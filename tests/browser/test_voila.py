"""`make explore`: the gallery, and every panel on a dark page of Voilà, without code."""

import pytest

from tests.browser.page import (
    DARK,
    LIVE,
    PANELS,
    changed,
    ground,
    keep,
    live_panel,
    no_errors,
    once_more,
    panels,
    picture,
    press_play,
    settled,
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


@pytest.mark.parametrize("name", PANELS)
@once_more
def test_panels(driver, voila, name):
    driver.get_log("browser")
    driver.get(f"{voila.address}/voila/render/{name}.ipynb?theme=dark")
    shown = wait(lambda: len(panels(driver)) == PANELS[name] and panels(driver), 120, "the panels")
    wait(lambda: picture(driver, shown[0])[0, 0].max() < 40, 60, "a dark picture")
    assert not code_shown(driver)
    assert "How it is made" not in driver.find_element("tag name", "body").text
    assert f"{voila.address}/voila/render/explore.ipynb" in driver.execute_script(LINKS)
    for panel in shown:
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
        moves_a_slider_or_a_cell(driver, panel)
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
    use_live(driver, panel, name)
    no_errors(driver)


def moves_a_slider_or_a_cell(driver, panel):
    from selenium.webdriver.common.keys import Keys

    before = settled(driver, panel)
    assert before.std() > 5, "an empty picture"
    handles = panel.find_elements("css selector", ".noUi-handle")
    target = handles[0] if handles else panel.find_element("css selector", ".rar-canvas.clickable")
    target.send_keys(Keys.RIGHT if handles else Keys.SPACE)
    changed(driver, panel, before, "a key")
    press_play(driver, panel)


@once_more
def test_the_kernel_samples(driver, voila):
    """The panel with the model asks PyTorch."""
    driver.get(f"{voila.address}/voila/render/17_browser_model.ipynb")
    panel = Watched(driver, live_panel(driver, "17_browser_model"))
    whole = ".rar-views[data-known='49']"
    wait(lambda: driver.find_elements("css selector", whole), 120, "a whole digit")
    panel.become(digit())
    panel.field("step").send_keys("\ue012")
    panel.become([*digit()[:48], -1])
    assert "How it is made" not in driver.find_element("tag name", "body").text
