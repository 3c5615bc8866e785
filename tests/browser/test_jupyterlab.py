"""Every panel in JupyterLab: all cells of its notebook run, and the panel follows the hand."""

import functools
import io
import os
import random

import numpy as np
import pytest
from PIL import Image

from rar_nb.play.scan_orders import plot_comparison
from rar_nb.play.widgets import cell_box, figure_png
from tests.browser.page import (
    PANELS,
    STATUS,
    Stuck,
    changed,
    click,
    is_back,
    keep,
    no_errors,
    once_more,
    panels,
    picture,
    same,
    settled,
    use,
    wait,
)

CELLS = """
const notebook = window.jupyterapp && window.jupyterapp.shell.currentWidget;
if (!notebook || !notebook.sessionContext || !notebook.content.model) return null;
const cells = notebook.content.model.sharedModel.toJSON().cells;
return cells.filter(c => c.cell_type === 'code' && c.source.length);
"""
READY = f"return {STATUS} === 'idle'"
RUN_ALL = """
const done = arguments[0];
window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => {});
done();
"""


def run_all(driver, lab, name: str):
    """Open a notebook and run all its cells."""
    driver.get(f"{lab.address}/doc/tree/nbs/{name}.ipynb?reset")
    wait(lambda: driver.execute_script(CELLS), 90, f"{name} in JupyterLab")
    wait(lambda: driver.execute_script(READY), 90, "its kernel")
    driver.execute_async_script(RUN_ALL)

    def finished():
        cells = driver.execute_script(CELLS)
        return all(c["execution_count"] for c in cells) and driver.execute_script(READY)

    wait(finished, 400, f"the end of {name}")
    outputs = [o for c in driver.execute_script(CELLS) for o in c["outputs"]]
    errors = [o for o in outputs if o["output_type"] == "error"]
    assert not errors, errors


@pytest.mark.parametrize("name", [*PANELS, "15_widgets"])
@once_more
def test_panels(driver, lab, name):
    driver.get_log("browser")
    lab.end_kernels()  # of the notebook before
    run_all(driver, lab, name)
    shown = wait(lambda: panels(driver), 60, "a panel")
    assert len(shown) == PANELS.get(name, 1)
    for i, panel in enumerate(shown):
        use(driver, panel, f"{name}_{i}")
    no_errors(driver)


def set_theme(driver, name: str):
    code = "window.jupyterapp.commands.execute('apputils:change-theme', {theme: arguments[0]})"
    driver.execute_script(code, name)


@once_more
def test_pictures_follow_the_theme(driver, lab):
    lab.end_kernels()
    run_all(driver, lab, "13_watch")
    panel = wait(lambda: panels(driver), 60, "a panel")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
    light = settled(driver, panel)
    set_theme(driver, "JupyterLab Dark")
    dark = changed(driver, panel, light, "a dark theme")
    assert light[0, 0].min() == 255 and dark[0, 0].max() < 40
    keep(driver, panel, "13_watch_dark")
    set_theme(driver, "JupyterLab Light")
    is_back(driver, panel, light, "the light theme")


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


def drag_over(driver, image, path: list[int], boxes):
    """Press the first cell of a path, and move over the others as fast as the browser goes."""
    from selenium.webdriver import ActionChains

    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    height, width = image.size["height"], image.size["width"]
    chain = ActionChains(driver, duration=0)
    for k, cell in enumerate(path):
        left, top, w, h = boxes(cell)
        x, y = round((left + w / 2 - 0.5) * width), round((top + h / 2 - 0.5) * height)
        chain.move_to_element_with_offset(image, x, y)
        if k == 0:
            chain.click_and_hold()
    chain.release().perform()


@once_more
def test_a_drag_arrives_in_order(driver, lab, project):
    """Every cell in the order in which the pointer came over it, however fast. (`DRAGS=100` for
    as many drags.)"""
    lab.end_kernels()
    run_all(driver, lab, "10_scan_orders")
    panel = wait(lambda: panels(driver), 60, "a panel")[1]
    image = panel.find_element("css selector", ".rar-canvas.clickable")
    clear = panel.find_element("xpath", ".//button[contains(., 'clear')]")
    boxes = functools.partial(cell_box, plot_comparison((), 8), grid_size=8)
    rng, wrong = random.Random(0), []
    for _ in range(int(os.environ.get("DRAGS", 5))):
        click(clear)
        empty = np.asarray(Image.open(io.BytesIO(figure_png(plot_comparison((), 8)))))
        wait(lambda empty=empty: same(picture(driver, panel), empty), 60, "an empty grid")
        path = snake(rng, 12, 8)
        drag_over(driver, image, path, boxes)
        whole = np.asarray(Image.open(io.BytesIO(figure_png(plot_comparison(tuple(path), 8)))))
        try:
            wait(lambda whole=whole: same(picture(driver, panel), whole), 20, "the whole path")
        except Stuck:
            wrong.append(path)
            Image.fromarray(picture(driver, panel)).save(project / f"wrong_{len(wrong)}.png")
    assert not wrong, project
