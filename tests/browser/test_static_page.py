"""Panels on a page without a kernel: served from disk, moved by mouse and keyboard."""

import json
import os
import random
import re
import shutil

import pytest
import torch

from rar_nb.orders import SCAN_ORDERS
from rar_nb.play.annealing import Annealing, are_random, batch_orders, seeded_orders
from rar_nb.play.scan_orders import ScanOrders, jumps, known_neighbours, named_order, statistics
from rar_nb.play.target_aware import TargetAware, predict_next
from rar_nb.play.widgets import JS
from rar_nb.trainer import learning_rate_at, random_ratio_at
from tests.browser.page import (
    DARK,
    KEPT,
    LIGHT,
    PAGE,
    SCREENSHOTS,
    axe_core,
    button_of,
    choose,
    drag_over,
    ground,
    no_errors,
    served,
    slider_of,
    snake,
    text_of,
    wait,
)

RESULTS = [
    dict(
        start=200, end=300, final_order="raster", text="200 – 300, the published choice: FID 2.18"
    ),
    dict(start=0, end=0, final_order="raster", text="0 – 0, r always 0: FID 3.08"),
]


def mine(g):
    """A registered order: column by column."""
    return [row * g + column for column in range(g) for row in range(g)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a folder with a page for each panel, one with a registered order."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(JS, folder / "js")
    SCAN_ORDERS["mine"] = mine
    try:
        panels = dict(mine=ScanOrders("mine", 5, 7).static_html())
    finally:
        del SCAN_ORDERS["mine"]
    panels |= {
        panel.panel: panel.static_html()
        for panel in (ScanOrders(), Annealing(results=RESULTS), TargetAware())
    }
    for name, panel in panels.items():
        for theme in ("", "dark", "light"):
            page = PAGE.format(theme=theme, panel=panel)
            (folder / f"{name}{theme}.html").write_text(page)
    with served(folder) as address:
        yield address


def resize(driver, width=1000, height=900):
    metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture
def show(driver, site):
    """Open a page; at the end, nothing is in the console, and no other host was asked."""

    def open_page(name, width=1000):
        driver.get_log("browser")
        resize(driver, width)
        driver.get(f"{site}/{name}.html")
        return wait(lambda: driver.find_elements("css selector", ".rar-app"), 30, "a panel")[0]

    yield open_page
    loaded = driver.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    strange = [url for url in loaded if not url.startswith((site, "data:"))]
    assert not strange and any(url.endswith("/js/host.js") for url in loaded)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    no_errors(driver)


def press(driver, element, *points):
    """Press an element at the first of points (shares of its size), and let go at the last."""
    from selenium.webdriver import ActionChains

    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    chain = ActionChains(driver, duration=20)
    for k, (x, y) in enumerate(points):
        chain.move_to_element_with_offset(
            element,
            round((x - 0.5) * element.size["width"]),
            round((y - 0.5) * element.size["height"]),
        )
        if k == 0:
            chain.click_and_hold()
    chain.release().perform()


# Scan orders


SEEN = """
const panel = arguments[0], grid = panel.querySelector('.rar-grid'), drawn = {};
const context = CanvasRenderingContext2D.prototype, real = {};
for (const name of ['fillRect', 'roundRect', 'fillText']) {  // all that the grid draws now
  drawn[name] = [];
  real[name] = context[name];
  context[name] = function(...values) {
    drawn[name].push({values, color: this.fillStyle, width: this.lineWidth, font: this.font,
      dashed: this.getLineDash().length > 0});
    return real[name].apply(this, values);
  };
}
window.dispatchEvent(new Event('resize'));
Object.assign(context, real);
const style = getComputedStyle(grid), g = Math.sqrt(drawn.fillRect.length);
const kinds = Object.fromEntries([['known-cell', 'known'], ['next', 'next'], ['cell', '']].map(
  ([name, kind]) => [style.getPropertyValue(`--rar-${name}`).trim().toLowerCase(), kind]));
const cellAt = (x, y, side) => Math.floor(y / side) * g + Math.floor(x / side);
const steps = Array(g * g).fill(''), side = grid.clientWidth / g;
for (const {values: [k, x, y]} of drawn.fillText) steps[cellAt(x, y, side)] = `${k}`;
return {
  said: panel.querySelector('.rar-said').textContent,
  kinds: drawn.fillRect.map(({color}) => kinds[color]),
  near: drawn.roundRect.filter(({dashed}) => !dashed).length,
  framed: drawn.roundRect.filter(({dashed, width}) => dashed && width > .06).map(
    ({values: [x, y]}) => cellAt(x, y, 1)),
  steps,
  sizes: drawn.fillText.map(({font}) => parseFloat(font.replace('bold ', ''))),
  numbers: [...panel.querySelectorAll('tr.chosen td')].map(cell => cell.textContent),
};
"""


def seen(panel) -> dict:
    """What the panel shows, in one question to the browser: a grid has up to 1,024 cells."""
    return panel.parent.execute_script(SEEN, panel)


def says_what_python_says(panel, name: str, g: int, step: int):
    """Words, numbers and colours of the panel, at a step of an order."""
    order, shown = list(named_order(name, g)), seen(panel)
    said, kinds = shown["said"], shown["kinds"]
    assert said.startswith(f"{step} of {g * g} steps done")
    assert [i for i, kind in enumerate(kinds) if kind == "known"] == sorted(order[:step])
    if step < g * g:
        cell, near = order[step], known_neighbours(order, g)[step]
        assert f"row {cell // g + 1}, column {cell % g + 1}" in said
        assert f"It knows {near} of its" in said
        assert kinds[cell] == "next"
        assert shown["near"] == near
        if step:
            assert f", {jumps(order, g)[step - 1]:.2f} cells from the one before" in said
    assert shown["numbers"] == as_in_the_table(order, g)


def as_in_the_table(order: list[int], g: int) -> list[str]:
    """The numbers of an order, as the table writes them."""
    mean, longest, touching = statistics(order, g)
    return [f"{mean:.2f}", f"{longest:.2f}", f"{round(100 * touching)} %"]


def test_scan_orders_by_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    panel = show("scan_orders")
    says_what_python_says(panel, "spiral_in", 7, 25)
    steps, grid = slider_of(panel, "step"), panel.find_element("css selector", ".rar-grid")
    steps.send_keys(Keys.RIGHT, Keys.RIGHT, Keys.LEFT)
    says_what_python_says(panel, "spiral_in", 7, 26)
    assert steps.get_attribute("aria-valuetext") == text_of(panel, ".rar-said")
    steps.send_keys(Keys.END)
    says_what_python_says(panel, "spiral_in", 7, 49)
    radio = panel.find_element("css selector", "input[type=radio]:checked")
    radio.send_keys(Keys.DOWN, Keys.DOWN)
    says_what_python_says(panel, "z_curve", 7, 49)
    grid.send_keys(Keys.HOME, Keys.DOWN, Keys.DOWN, Keys.RIGHT)
    says_what_python_says(panel, "z_curve", 7, named_order("z_curve", 7).index(15))
    slider_of(panel, "grid").send_keys(Keys.END)
    says_what_python_says(
        panel, "z_curve", 32, round(1024 * named_order("z_curve", 7).index(15) / 49)
    )
    slider_of(panel, "grid").send_keys(Keys.HOME)
    says_what_python_says(panel, "z_curve", 2, 1)
    button_of(panel, "a step on").send_keys(Keys.SPACE)
    says_what_python_says(panel, "z_curve", 2, 2)


def test_scan_orders_by_mouse(show, driver):
    panel = show("scan_orders")
    grid, steps = panel.find_element("css selector", ".rar-grid"), slider_of(panel, "step")
    for name in [*SCAN_ORDERS, "random"]:
        choose(panel, name)
        press(driver, grid, (0.9, 0.9), (2.5 / 7, 4.5 / 7))
        says_what_python_says(panel, name, 7, named_order(name, 7).index(4 * 7 + 2))
    button_of(panel, "16 × 16").click()
    press(driver, grid, (0.5 / 16, 15.5 / 16))
    says_what_python_says(panel, "random", 16, named_order("random", 16).index(240))
    press(driver, steps, (0.2, 0.5), (0.5, 0.5), (0.999, 0.5))
    says_what_python_says(panel, "random", 16, 256)
    chart = panel.find_elements("css selector", ".rar-chart svg")[1]
    press(driver, chart, (0.5, 0.5))
    step = int(text_of(panel, ".rar-said").split()[0])
    assert 126 <= step <= 130
    says_what_python_says(panel, "random", 16, step)


def test_the_walk_is_played_to_its_end(show):
    panel = show("scan_orders")
    choose(panel, "alternate")
    button_of(panel, "play the walk").click()
    wait(lambda: "27 of 49" in text_of(panel, ".rar-said"), 20, "a step")
    button_of(panel, "pause the walk").click()
    stopped = text_of(panel, ".rar-said")
    slider_of(panel, "grid").send_keys("\ue011")  # Home: 2 × 2
    assert text_of(panel, ".rar-said") != stopped
    button_of(panel, "play the walk").click()
    wait(lambda: "4 of 4" in text_of(panel, ".rar-said"), 20, "the end")
    wait(lambda: button_of(panel, "play the walk"), 5, "a button to play it again")


def test_a_registered_order_and_a_seed(show):
    from selenium.webdriver.common.keys import Keys

    panel = show("mine")
    assert seen(panel)["numbers"] == as_in_the_table(mine(5), 5)
    assert numbered_order(panel) == mine(5)
    choose(panel, "random")
    seed = slider_of(panel, "seed")
    assert seed.get_attribute("value") == "0"
    seed.clear()
    seed.send_keys("12", Keys.ENTER)
    assert numbered_order(panel) == list(named_order("random", 5, 12))
    button_of(panel, "another").click()
    assert numbered_order(panel) == list(named_order("random", 5, 13))
    seed.clear()
    seed.send_keys(Keys.ENTER)
    assert seed.get_attribute("value") == "13"  # nothing is no seed


FIELD = """
const [site, done] = arguments;
const {numberField} = await import(`${site}/js/common.js`);
const {makeModel} = await import(`${site}/js/host.js`);
const model = makeModel({label: 7}), {element, show} = numberField(model, 'class', 'label', 999);
const input = element.querySelector('input');
show();
done(['207', '', '-5', '1000', '8.4'].map(written => {
  input.value = written;
  input.dispatchEvent(new Event('change'));
  return [model.get('label'), input.value];
}));
"""


def test_a_field_for_a_number_shows_what_is_used(show, driver, site):
    show("scan_orders")
    driver.set_script_timeout(20)
    found = driver.execute_async_script(f"(async function() {{{FIELD}}})(...arguments)", site)
    assert found == [[k, str(k)] for k in (207, 207, 207, 999, 8)]


def numbered_order(panel) -> list[int]:
    """Cells by the numbers that are written into them."""
    steps = {int(text): cell for cell, text in enumerate(seen(panel)["steps"]) if text}
    return [steps[k] for k in range(len(steps))]


def test_an_order_of_ones_own_by_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    panel = show("scan_orders")
    choose(panel, "yours")
    begun = numbered_order(panel)
    assert begun == ScanOrders().cells["7"]
    grid = panel.find_element("css selector", ".rar-grid")
    grid.send_keys(Keys.SPACE, Keys.RIGHT, Keys.DOWN, Keys.SPACE)
    assert numbered_order(panel) == [*begun, 0, 8]
    assert seen(panel)["framed"] == [8]  # where the keyboard is
    grid.send_keys(Keys.SHIFT, Keys.RIGHT, Keys.RIGHT)
    assert numbered_order(panel) == [*begun, 0, 8, 9, 10]
    grid.send_keys(Keys.BACKSPACE, Keys.LEFT, Keys.LEFT, Keys.SPACE)
    assert numbered_order(panel) == [*begun, 0, 9]
    button_of(panel, "finish in raster order").click()
    whole = numbered_order(panel)
    assert whole[:12] == [*begun, 0, 9] and sorted(whole) == [*range(49)]
    assert seen(panel)["numbers"] == as_in_the_table(whole, 7)
    button_of(panel, "clear").click()
    assert numbered_order(panel) == [] and "click cells" in text_of(panel, ".rar-said")
    button_of(panel, "undo").click()
    button_of(panel, "16 × 16").click()  # another grid has an order of its own
    grid.send_keys(Keys.SPACE)
    button_of(panel, "7 × 7").click()
    assert numbered_order(panel) == []
    button_of(panel, "16 × 16").click()
    assert numbered_order(panel) == [16 + 1]


def test_a_drag_arrives_in_order(show, driver):
    """Every cell in the order in which the pointer came over it, however fast. (`DRAGS=100` for
    as many drags.)"""
    panel = show("scan_orders")
    choose(panel, "yours")
    grid, rng, wrong = panel.find_element("css selector", ".rar-grid"), random.Random(0), []
    for _ in range(int(os.environ.get("DRAGS", 5))):
        button_of(panel, "clear").click()
        path = snake(rng, 12, 7)
        drag_over(driver, grid, path, 7)
        if numbered_order(panel) != path:
            wrong.append((path, numbered_order(panel)))
    assert not wrong


def swipe(driver, element, *points):
    """A finger goes from point to point, which are shares of an element's size."""
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    box = driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", element)
    x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
    (first, *others) = [dict(x=x + u * width, y=y + v * height) for u, v in points]
    steps = [("touchStart", [first]), *(("touchMove", [at]) for at in others), ("touchEnd", [])]
    for kind, at in steps:
        driver.execute_cdp_cmd("Input.dispatchTouchEvent", dict(type=kind, touchPoints=at))


def test_a_finger_drags_cells_and_scrolls_the_page(show, driver):
    """It writes your own order, whichever way it goes, and the page stays; on another order it goes
    to a step if it moves sideways, and scrolls the page if it moves up."""
    panel, scrolled = show("scan_orders", 380), "return document.scrollingElement.scrollTop"
    metrics = dict(width=380, height=500, deviceScaleFactor=1, mobile=True)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", dict(enabled=True))
    try:
        choose(panel, "yours")
        button_of(panel, "clear").click()
        grid = panel.find_element("css selector", ".rar-grid")
        down = [(0.5, (row + 0.5) / 7) for row in (5, 4, 3, 2, 1)]
        swipe(driver, grid, *down)
        before = driver.execute_script(scrolled)
        assert numbered_order(panel) == [7 * row + 3 for row in (5, 4, 3, 2, 1)]
        choose(panel, "raster")
        swipe(driver, grid, *((x, 0.5) for x in (0.1, 0.2, 0.3, 0.4, 0.5)))
        says_what_python_says(panel, "raster", 7, 24)
        swipe(driver, grid, *down)
        wait(lambda: driver.execute_script(scrolled) > before + 30, 10, "another part of the page")
    finally:
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", dict(enabled=False))


# Annealing


def is_as_in_python(panel, state: Annealing):
    """Numbers of the panel at an epoch."""
    run = state.run()
    step = min(run.train.total_steps - 1, run.train.steps(state.epoch))
    r, rate = random_ratio_at(step, run.train), learning_rate_at(step, run.train)
    assert text_of(panel, ".rar-now").startswith(
        f"epoch {state.epoch:g} of {run.train.epochs:g}, step {step:,} of {run.train.total_steps:,}"
    )
    shown = text_of(panel, "figcaption")
    assert f"r = {100 * r:.1f} %" in shown
    mantissa, exponent = f"{rate:.1e}".split("e")
    assert f"learning rate {mantissa}e{int(exponent)}, " in shown
    assert f"{100 * rate / run.train.learning_rate:.0f} % of its peak" in shown
    final = tuple(named_order(state.final_order, run.model.grid_size))
    batch = run.train.batch_size
    if state.fresh:
        orders = batch_orders(run, step)
    else:
        orders = seeded_orders(batch, run.model.num_tokens, r, run.seed, 0, final)
    ends = torch.tensor([final])
    count = int(are_random(orders, ends).sum())
    assert f"in this batch: {count} of {batch} orders are random" in panel.text
    canvas = panel.find_element("css selector", "canvas").get_attribute("aria-label")
    first = int(are_random(orders[:64], ends).sum())
    assert canvas.endswith(f": {first} are random")


def test_annealing_by_keyboard(show):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    panel = show("annealing")
    state = Annealing()
    is_as_in_python(panel, state)
    start, end = panel.find_elements("css selector", "[role=slider]")
    epoch = slider_of(panel, "epoch")
    epoch.send_keys(Keys.RIGHT, Keys.RIGHT)
    state.epoch = 242
    is_as_in_python(panel, state)
    start.send_keys(Keys.RIGHT)
    end.send_keys(Keys.PAGE_DOWN, Keys.LEFT)
    state.anneal_start, state.anneal_end = 201, 289
    assert [h.get_attribute("aria-valuetext") for h in (start, end)] == ["epoch 201", "epoch 289"]
    is_as_in_python(panel, state)
    end.send_keys(Keys.HOME)  # and takes the start with it
    assert [h.get_attribute("aria-valuenow") for h in (start, end)] == ["0", "0"]
    state.anneal_start = state.anneal_end = 0
    is_as_in_python(panel, state)
    run, order, batch = (
        Select(panel.find_element("xpath", f".//label[span='{name}']/select"))
        for name in ("run", "final order", "batch size")
    )
    annealing = Select(panel.find_element("xpath", ".//label[span='annealing']/select"))
    assert annealing.first_selected_option.text.startswith("0 – 0")
    annealing.select_by_index(1)
    state.anneal_start, state.anneal_end = 200, 300
    is_as_in_python(panel, state)
    batch.select_by_visible_text("16")
    assert annealing.first_selected_option.text == "your own"  # published for batches of 2048
    start.send_keys(Keys.END)
    end.send_keys(Keys.END)
    start.send_keys(Keys.HOME)
    state.anneal_start, state.anneal_end, state.batch_size = 0, 400, 16
    is_as_in_python(panel, state)
    panel.find_element("css selector", "input[type=checkbox]").send_keys(Keys.SPACE)
    state.fresh = True
    is_as_in_python(panel, state)
    run.select_by_visible_text("digits, as in this suite")
    order.select_by_visible_text("spiral_out")
    state = Annealing("digits", final_order="spiral_out", epoch=5.4)
    state.fresh = True
    state.epoch = float(text_of(panel, ".rar-now b").split()[1])
    is_as_in_python(panel, state)


def test_annealing_by_mouse(show, driver):
    panel = show("annealing")
    state = Annealing()
    for i, x in ((0, -5), (1, 5)):
        press(
            driver, panel.find_elements("css selector", ".rar-handle circle")[i], (0.5, 0.5), (x, 1)
        )
    values = [
        float(handle.get_attribute("aria-valuenow"))
        for handle in panel.find_elements("css selector", "[role=slider]")
    ]
    assert values[0] < 150 and values[1] > 330
    state.anneal_start, state.anneal_end = values
    is_as_in_python(panel, state)
    curves = panel.find_element("css selector", ".rar-plot")
    press(driver, curves, (0.3, 0.6), (0.5, 0.6), (0.75, 0.6))
    state.epoch = float(text_of(panel, ".rar-now b").split()[1])
    assert 270 < state.epoch < 320
    is_as_in_python(panel, state)


def test_the_training_is_played(show):
    panel = show("annealing")

    def epoch():
        return int(text_of(panel, ".rar-now b").split()[1])

    button_of(panel, "play the training").click()
    wait(lambda: epoch() > 260, 30, "a later epoch")
    button_of(panel, "pause the training").click()
    stopped = Annealing(epoch=float(epoch()))
    is_as_in_python(panel, stopped)


# Target-aware embeddings


def test_two_orders_part_by_mouse_and_keyboard(show, driver):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    panel = show("target_aware")
    Select(panel.find_element("css selector", "select")).select_by_visible_text("raster")
    slider_of(panel, "cells known").send_keys(Keys.LEFT)
    first, second = panel.find_elements("css selector", "[role=slider]")
    press(driver, first, (0.5, 0.85))
    second.send_keys(Keys.HOME, Keys.RIGHT)
    assert [grid.get_attribute("aria-valuenow") for grid in (first, second)] == ["7", "3"]
    press(driver, second, (0.2, 0.2))  # which is known
    assert second.get_attribute("aria-valuenow") == "3"
    told = text_of(panel, ".rar-told")
    ways = [[0, 1, target, *(i for i in range(2, 9) if i != target)] for target in (7, 3)]
    without, aware = ([predict_next(kind, way, 2) for way in ways] for kind in (False, True))
    assert "know the same 2 cells" in told
    for way, shares in zip(ways, without):
        share = int(re.search(rf"(\d+) % for cell {way[2]}", told).group(1))
        assert abs(share - 100 * shares[way[2]]) <= 0.51
    for way, shares, name in zip(ways, aware, ("first", "second")):
        share = int(re.search(rf"cell {way[2]} with (\d+) % in the {name}", told).group(1))
        assert abs(share - 100 * shares[way[2]]) <= 0.51
    rows = panel.find_elements("css selector", ".rar-strip tbody tr")
    own, looks = ([cell.text for cell in row.find_elements("css selector", "td")] for row in rows)
    assert own == ["–", "–", *map(str, ways[0])]
    assert looks == ["–", *map(str, ways[0]), "–"]


# What holds for all panels

PANELS = ["scan_orders", "annealing", "target_aware"]
SMALL = """
const small = [];
for (const element of arguments[0].querySelectorAll('*')) {
  const own = [...element.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim());
  if (!own.length || element.closest('style') || !element.checkVisibility()) continue;
  const scale = element.getScreenCTM ? element.getScreenCTM().a : 1;
  const size = scale * parseFloat(getComputedStyle(element).fontSize);
  if (size < 11.99) small.push([element.textContent, size]);
}
return small;
"""


@pytest.mark.parametrize("name", PANELS)
def test_themes(show, driver, name):
    def prefer(theme):
        features = [dict(name="prefers-color-scheme", value=theme)]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=features))

    try:
        for preferred, page, expected in [
            ("light", name, LIGHT),
            ("dark", name, DARK),
            ("light", f"{name}dark", DARK),
            ("dark", f"{name}light", LIGHT),
        ]:
            prefer(preferred)
            panel = show(page)
            assert ground(driver, panel) == expected
            if SCREENSHOTS and page == name:
                panel.screenshot(str(KEPT / f"page_{name}_{preferred}.png"))
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[]))


PIXELS = """
const context = arguments[0].getContext('2d'), side = arguments[0].width / 7;
return arguments[1].map(cell => [...context.getImageData(
  (cell % 7 + .2) * side, (Math.floor(cell / 7) + .2) * side, 1, 1).data]);
"""


def test_the_grid_follows_the_theme(show, driver):
    """Its canvas is drawn anew when the page's theme changes: the next cell, and an unknown one."""
    grid = show("scan_orders").find_element("css selector", ".rar-grid")
    for theme, cell in [("dark", 0x33), ("light", 0xE6), ("dark", 0x33)]:
        driver.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
        wanted = [[0xD5, 0x5E, 0x00, 255], [cell, cell, cell, 255]]
        wait(
            lambda wanted=wanted: driver.execute_script(PIXELS, grid, [15, 24]) == wanted,
            10,
            f"the grid of the {theme} theme",
        )


@pytest.mark.parametrize("width", [380, 700, 1000])
@pytest.mark.parametrize("name", PANELS)
def test_every_width(show, driver, name, width):
    panel = show(name, width)
    assert driver.execute_script("return document.scrollingElement.scrollWidth") <= width
    assert driver.execute_script(SMALL, panel) == []
    if name == "scan_orders":
        assert min(seen(panel)["sizes"]) >= 12
        button_of(panel, "16 × 16").click()
        assert driver.execute_script(SMALL, panel) == []
        assert all(size >= 12 for size in seen(panel)["sizes"])  # or none at all
        assert driver.execute_script("return document.scrollingElement.scrollWidth") <= width
    if SCREENSHOTS and width == 380:
        resize(driver, width, 1400)
        panel.screenshot(str(KEPT / f"page_{name}_380.png"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PANELS)
def test_accessibility(show, driver, name, theme):
    """axe-core finds nothing wrong."""
    panel = show(f"{name}{theme}")
    if name == "scan_orders":
        choose(panel, "random")
    driver.execute_script(axe_core())
    found = driver.execute_async_script(
        "const done = arguments[0]; axe.run(document.querySelector('.rar-app')).then(done)"
    )
    faults = [
        (f["id"], f["impact"], [n["html"] for n in f["nodes"]][:3]) for f in found["violations"]
    ]
    assert not faults, json.dumps(faults, indent=1)


@pytest.mark.parametrize("name", PANELS)
def test_everything_is_reached_by_the_tab_key(show, driver, name):
    """In the order of the page, each with a name and a visible focus."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    panel = show(name)
    reached = []
    for _ in range(40):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        element = driver.switch_to.active_element
        if element.tag_name == "body":
            break
        reached.append((element.aria_role, element.accessible_name))
        assert element.accessible_name, element.get_attribute("outerHTML")
    names = [accessible for _, accessible in reached]
    assert len(names) == len(set(names))
    wanted = panel.find_elements(
        "css selector", "button, select, input:not([type=radio]), [tabindex]"
    )
    shown = [e for e in wanted if e.is_displayed() or e.get_attribute("role") == "slider"]
    assert len(reached) == len(shown) + (name == "scan_orders")  # one radio button of the group


def test_the_page_has_a_picture_until_its_script_runs(show, driver, site):
    show("scan_orders")
    page = driver.execute_async_script(
        "const done = arguments[0]; fetch('scan_orders.html').then(r => r.text()).then(done)"
    )
    (picture,) = re.findall(
        r'<img alt="([^"]+)" style="max-width: 100%" src="data:image/png;', page
    )
    assert picture == ScanOrders.alt
