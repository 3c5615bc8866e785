"""The model on a page without a kernel, and in JupyterLab: the tokens are those of the library."""

import json
import shutil

import numpy as np
import pytest
import torch

from rar_nb.play.inpainting import fill_hole, fill_order
from rar_nb.play.watch import BUNDLED, Watch, cached_model, cached_run, make_trace
from rar_nb.play.widgets import JS
from rar_nb.sampler import SampleConfig, image_noise, textbook_tokens
from tests.browser.model_site import HOLE, write_site
from tests.browser.page import (
    KEPT,
    SCREENSHOTS,
    axe_core,
    no_errors,
    served,
    wait,
)
from tests.browser.test_static_page import SMALL
from tests.once import exported_model, need_runtime

SAMPLE = SampleConfig(guidance_scale=4.0, guidance_power=0.5, sample_precision="no")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a site."""
    need_runtime()
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, exported_model(tmp_path_factory))
    with served(folder) as address:
        yield address


class Watched:
    """The panel of a page, as one sees it."""

    def __init__(self, driver, root):
        self.driver, self.root = driver, root

    def find(self, selector, k=0):
        return self.root.find_elements("css selector", selector)[k]

    def button(self, name):
        path = f".//button[normalize-space()='{name}' or @aria-label='{name}']"
        return self.root.find_element("xpath", path)

    def field(self, name, tag="input"):
        return self.root.find_element("xpath", f".//label[span='{name}' or text()='{name}']//{tag}")

    def choose(self, name, option):
        from selenium.webdriver.support.ui import Select

        Select(self.field(name, "select")).select_by_visible_text(option)

    def shown(self, view=0):
        """Tokens in raster order, -1 where none is known yet."""
        tokens = self.find(".rar-views", view).get_attribute("data-tokens") or ""  # not drawn yet
        return [int(token) for token in tokens.split()]

    def heights(self, chart):
        """Heights of a chart over the steps, from 0 to 1."""
        points = self.find(".rar-courses polygon", chart).get_attribute("points").split()
        return [1 - float(point.split(",")[1]) for point in points[1:-1:2]]

    def ids(self):
        """What is written into the cells of the picture."""
        texts = self.root.find_elements("css selector", ".rar-views .rar-id")[:49]
        return [text.get_attribute("textContent") for text in texts]

    def framed(self, grid=7):
        """The cell that has the frame in the picture."""
        frame = self.find(".rar-picture .rar-framed")
        return grid * int(frame.get_attribute("y")) + int(frame.get_attribute("x"))

    def become(self, expected, view=0, seconds=60):
        """Wait until these tokens are shown."""
        wait(lambda: self.shown(view) == expected, seconds, f"tokens {expected[:5]}…")

    def cell(self, chain, cell, grid=7):
        """Move the mouse onto a cell of the picture."""
        picture = self.find(".rar-picture")
        x, y = ((at + 0.5) / grid - 0.5 for at in (cell % grid, cell // grid))
        size = picture.size
        return chain.move_to_element_with_offset(
            picture, round(x * size["width"]), round(y * size["height"])
        )


@pytest.fixture
def show(driver, site):
    """Open a page once its digit is there; at the end nothing is in the console, and no other host
    was asked."""

    def open_page(name="light", width=1000, height=1300):
        driver.get_log("browser")
        metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(f"{site}/{name}.html")
        whole = ".rar-views[data-known='49']"
        wait(lambda: driver.find_elements("css selector", whole), 120, "a whole digit")
        return Watched(driver, driver.find_element("css selector", ".rar-app"))

    yield open_page
    names = "return performance.getEntriesByType('resource').map(e => e.name)"
    loaded = driver.execute_script(names)
    assert not [url for url in loaded if not url.startswith((site, "data:", "blob:"))]
    assert any(url.endswith(".onnx") for url in loaded)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    no_errors(driver)


def digit(label=3, seed=3, sample=SAMPLE, name="annealed") -> list[int]:
    """What Python samples."""
    noise = image_noise(seed, [0], 49)
    return textbook_tokens(cached_model(name), [label], sample, noise)[0].tolist()


def filled(tokens, hole, label=3, seed=3, name="annealed") -> list[int]:
    order = fill_order(tuple(hole), 7, "nearest first")
    return fill_hole(
        cached_model(name), torch.tensor(tokens), tuple(hole), order, label, SAMPLE, seed, count=1
    )[0].tolist()


def test_the_page_samples_what_python_samples(show):
    """Every control moved by keyboard or mouse, one after the other."""
    from selenium.webdriver.common.keys import Keys

    panel = show()
    panel.become(digit())
    panel.button("class 8").click()
    panel.become(digit(8))
    panel.button("other noise").send_keys(Keys.SPACE)
    panel.become(digit(8, 4))
    seed = panel.field("seed")
    seed.send_keys(Keys.CONTROL, "a", Keys.NULL, "4294967295", Keys.TAB)
    panel.become(digit(8, 2**32 - 1))
    panel.field("guidance scale").send_keys(Keys.RIGHT, Keys.RIGHT)
    sample = SampleConfig(guidance_scale=4.5, guidance_power=0.5, sample_precision="no")
    panel.become(digit(8, 2**32 - 1, sample))
    panel.field("power").send_keys(Keys.RIGHT)
    panel.field("temperature").send_keys(Keys.LEFT, Keys.LEFT)
    sample = SampleConfig(
        guidance_scale=4.5, guidance_power=0.75, temperature=0.9, sample_precision="no"
    )
    panel.become(digit(8, 2**32 - 1, sample))
    panel.field("guidance scale").send_keys(Keys.HOME)
    sample = SampleConfig(
        guidance_scale=0.0, guidance_power=0.75, temperature=0.9, sample_precision="no"
    )
    panel.become(digit(8, 2**32 - 1, sample))
    assert panel.field("guidance scale", "output").text == "off"
    assert "guidance is off" in panel.root.text and "weight of guidance" not in panel.root.text
    panel.choose("model", "any order")
    panel.become(digit(8, 2**32 - 1, sample, "any order"))


def test_steps_back_and_forth(show):
    """What is known, the candidates with their probabilities, and attention, at any step."""
    from selenium.webdriver.common.keys import Keys

    run, tokenizer, model = cached_run(str(BUNDLED))
    trace = make_trace(model, tokenizer, 3, 3, SAMPLE)
    panel = show()
    step = panel.field("step")
    step.send_keys(Keys.LEFT)
    panel.become([*trace.tokens[:48], -1])
    step.send_keys(Keys.HOME)
    panel.become([-1] * 49)
    step.send_keys(*[Keys.RIGHT] * 22)
    panel.button("one step back").click()
    panel.become([*trace.tokens[:21], *[-1] * 28])
    likeliest = trace.probabilities[21].argsort()[::-1]
    ids = [
        int(e.text)
        for e in panel.root.find_elements("css selector", ".rar-candidates span.rar-faint")[:6]
    ]
    assert ids[:5] == likeliest[:5].tolist()
    shares = [
        e.text for e in panel.root.find_elements("css selector", ".rar-candidates .rar-bar")[:6]
    ]
    for i, text in zip(ids, shares):
        p = 100 * trace.probabilities[21][i]
        assert float(text.split()[0]) == pytest.approx(p, abs=0.51)
        assert text.endswith("sampled") == (i == trace.tokens[21])
    assert f"entropy {trace.entropy[21]:.2f} nats" in panel.root.text
    assert f"weight of guidance {trace.weights[21]:.2f}" in panel.root.text
    captions = [caption.text for caption in panel.root.find_elements("css selector", "figcaption")]
    assert captions == [
        f"entropy, up to {np.log(128):.2f} nats",
        f"guidance, up to {trace.weights.max():.2f}",
    ]
    assert panel.heights(0) == pytest.approx(trace.entropy / np.log(128), abs=2e-3)
    assert panel.heights(1) == pytest.approx(trace.weights / trace.weights.max(), abs=2e-3)
    panel.choose("attention of", "layer 2")
    weights = trace.attention[2, :, 22, :23].mean(0)
    cells = panel.root.find_elements("css selector", ".rar-attention rect")[:21]
    found = [float(cell.get_attribute("fill-opacity")) for cell in cells]
    assert found == pytest.approx(np.maximum(weights[2:] / weights.max(), 0.08), abs=2e-3)
    assert panel.framed() == 21
    panel.button("play the steps").click()
    panel.become(trace.tokens.tolist())
    assert panel.framed() == 48  # the last token has its cell, too


def test_ids_of_tokens(show, driver):
    """Each in its cell, once they are asked for; large enough to be read."""
    panel = show(width=380)
    assert not any(panel.ids())
    panel.field("ids of tokens").click()
    assert panel.ids() == [str(token) for token in digit()]
    panel.field("step").send_keys(*["\ue012"] * 40)
    wait(lambda: panel.ids()[9:] == [""] * 40, 20, "ids of nine tokens")
    assert panel.ids()[:9] == [str(token) for token in digit()[:9]]
    assert driver.execute_script(SMALL, panel.root) == []


def test_a_page_has_no_runs_to_choose_from(show):
    assert not show().root.find_elements("xpath", ".//label[span='run']")


PIXELS = """
const canvas = arguments[0].querySelector('canvas');
const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
return Array.from(data).filter((_, i) => i % 4 === 0);
"""


def test_the_picture_is_the_decoded_one(show, driver):
    tokenizer = cached_run(str(BUNDLED))[1]
    panel = show()
    image = tokenizer.decode(torch.tensor([digit()]))[0, 0].clamp(0, 1).numpy() * 255

    def close():
        found = np.array(driver.execute_script(PIXELS, panel.find(".rar-picture")))
        return len(found) == 784 and np.abs(found.reshape(28, 28) - image).max() < 1.1

    wait(close, 20, "the decoded picture")


def test_a_hole_by_mouse(show, driver):
    """It is filled as in Python, by both models; another seed fills the same hole of the same
    digit again; and closing it brings the digit back."""
    from selenium.webdriver import ActionChains

    panel, hole = show(), [23, 24, 25, 32, 31, 30]
    panel.choose("compare with", "any order")
    panel.become(digit(name="any order"), view=1)
    chain = panel.cell(ActionChains(driver, duration=20), hole[0]).click_and_hold()
    for cell in hole[1:]:
        panel.cell(chain, cell)
    chain.release().perform()
    panel.become(filled(digit(), hole))
    panel.become(filled(digit(), hole, name="any order"), view=1)
    panel.button("other noise").click()
    panel.become(filled(digit(), hole, seed=4))
    panel.cell(ActionChains(driver, duration=20), 31).click().perform()
    panel.become(filled(digit(), [c for c in hole if c != 31], seed=4))
    panel.button("close the hole").click()
    panel.become(digit(seed=4))


def test_a_hole_by_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    panel = show()
    picture = panel.find(".rar-picture")
    picture.send_keys(Keys.SPACE)  # the middle
    panel.become(filled(digit(), [24]))
    picture.send_keys(Keys.UP, Keys.LEFT, Keys.SPACE)
    panel.become(filled(digit(), [24, 16]))
    picture.send_keys(Keys.SPACE, Keys.RIGHT, Keys.DOWN, Keys.SPACE)
    panel.become(digit())


def test_a_hole_that_a_panel_begins_with(show):
    """It is cut into the digit that the panel samples first."""
    panel = show("holed")
    panel.become(filled(digit(), HOLE))
    panel.button("close the hole").click()
    panel.become(digit())


def test_a_model_from_before_the_annealing_beside_it(show):
    panel = show()
    second = panel.find(".rar-views", 1)
    assert not second.is_displayed()
    panel.choose("compare with", "before annealing")
    panel.become(digit(name="before annealing"), view=1)
    assert second.is_displayed() and "before annealing: 49 of 49" in second.text
    panel.choose("model", "before annealing")  # which leaves nothing to compare it with
    panel.become(digit(name="before annealing"))
    wait(lambda: not second.is_displayed(), 20, "one model alone")
    options = panel.field("compare with", "select").find_elements("css selector", "option")
    assert [o.text for o in options if not o.is_enabled()] == ["before annealing"]


@pytest.mark.parametrize("page, width", [("light", 1000), ("dark", 1000), ("light", 380)])
def test_nothing_is_too_wide(show, driver, page, width):
    panel = show(page, width)
    panel.field("step").send_keys(*["\ue012"] * 25)
    panel.choose("compare with", "before annealing")
    panel.become(digit(name="before annealing")[:24] + [-1] * 25, view=1)
    assert driver.execute_script("return document.scrollingElement.scrollWidth") <= width
    if SCREENSHOTS:
        panel.root.screenshot(str(KEPT / f"page_watch_{page}_{width}.png"))


def test_a_field_shows_the_seed_that_is_used(show):
    """Even if another one was written: the highest that there is, or the last good one."""
    from selenium.webdriver.common.keys import Keys

    panel = show()
    highest = "4294967295"
    for written, used in (
        ("7", "7"),
        ("-5", "7"),
        ("", "7"),
        ("4294967296", highest),
        ("9e99", highest),
    ):
        panel.field("seed").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE, written, Keys.TAB)
        assert panel.field("seed").get_attribute("value") == used


KERNEL = """
const {default: panel} = await import('./js/watch.js'), {makeModel} = await import('./js/host.js');
const state = JSON.parse(document.querySelector('template').innerHTML);
const model = makeModel({...state, guidance_scale: 0}), youngest = [], answers = [];
const {num_layers, num_heads, codebook_size, image} = state.settings;
model.send = ({kind, number, sequence, position, tokens}) => setTimeout(() => {
  if (position?.[0] === 0) youngest.push(sequence);
  if (kind === 'step' && !youngest.slice(-4).includes(sequence)) {
    return answers.forEach(hear => hear({number, problem: 'forgotten'}, []));
  }
  const sizes = kind === 'step' ? [2 * codebook_size, num_layers * num_heads * (position[0] + 1)]
    : [tokens.length * image.size ** 2 * image.channels];
  const buffers = sizes.map(size => new DataView(new Float32Array(size).buffer));
  answers.forEach(hear => hear({number}, buffers));
}, 20);
const {on} = model;
model.on = (event, hear) => event === 'msg:custom' ? answers.push(hear) : on(event, hear);
panel.render({model, el: document.querySelector('main')});
for (let seed = 0; seed < 12; seed++) {
  await new Promise(resolve => setTimeout(resolve));
  model.set('seed', seed);
}
"""


def test_quick_changes_leave_nothing_behind(driver, tmp_path):
    """A kernel that is asked for one digit after the other, and forgets the first of them."""
    state = json.dumps(Watch(compare="any order").live_state())
    page = f"<template>{state}</template><main></main><script type=module>{KERNEL}</script>"
    shutil.copytree(JS, tmp_path / "js")
    (tmp_path / "kernel.html").write_text(f"<!doctype html><meta charset=utf-8>{page}")
    driver.get_log("browser")
    with served(tmp_path) as address:
        driver.get(f"{address}/kernel.html")
        whole = ".rar-views[data-known='49'][data-pictured='49']"
        wait(lambda: len(driver.find_elements("css selector", whole)) == 2, 60, "both digits")
    said = driver.find_element("css selector", ".rar-app [role=status]")
    assert not said.is_displayed()
    no_errors(driver)


def test_files_that_are_not_there_are_told_of(driver, site):
    driver.get(f"{site}/broken.html")
    said = wait(
        lambda: driver.find_elements("css selector", ".rar-app [role=status]"), 30, "a sentence"
    )[0]
    wait(lambda: "nowhere/settings.json is not there (404)" in said.text, 30, "the reason")
    driver.get_log("browser")  # the browser's own word for a 404


MISSING = [
    "settings.json",
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "step_annealed.onnx",
]


@pytest.mark.parametrize("name", MISSING)
def test_a_file_that_was_missing_is_asked_for_again(driver, tmp_path, tmp_path_factory, name):
    """By the next attempt, without loading the page anew."""
    need_runtime()
    write_site(tmp_path, exported_model(tmp_path_factory))
    file = tmp_path / "js" / "browser_model" / name
    file.rename(tmp_path / "away")
    with served(tmp_path) as address:
        driver.get(f"{address}/light.html")
        root = wait(lambda: driver.find_elements("css selector", ".rar-app"), 30, "a panel")[0]
        panel = Watched(driver, root)
        wait(lambda: "can't" in root.text, 60, "a sentence about what is missing")
        (tmp_path / "away").rename(file)
        panel.button("try again" if name == "settings.json" else "class 8").click()
        panel.become(digit(3 if name == "settings.json" else 8))
        assert not panel.find("[role=status]").is_displayed()
    driver.get_log("browser")  # the browser's own word for a 404


@pytest.mark.parametrize("page", ["light", "dark"])
def test_accessibility(show, driver, page):
    """axe-core finds nothing wrong, every control has a name, and no letter is small."""
    panel = show(page)
    panel.choose("compare with", "any order")
    panel.become(digit(name="any order"), view=1)
    driver.execute_script(axe_core())
    found = driver.execute_async_script(
        "const done = arguments[0]; axe.run(document.querySelector('.rar-app')).then(done)"
    )
    faults = [(f["id"], [n["html"] for n in f["nodes"]][:3]) for f in found["violations"]]
    assert not faults
    assert driver.execute_script(SMALL, panel.root) == []


def test_everything_is_reached_by_the_tab_key(show, driver):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    panel, names = show(), []
    for _ in range(60):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        element = driver.switch_to.active_element
        if element.tag_name == "body":
            break
        names.append(element.accessible_name)
    focusable = "button:not(:disabled), select, input, [tabindex]"
    assert all(names) and len(set(names)) == len(names)
    assert len(names) == len(panel.root.find_elements("css selector", focusable))
