"""Every panel in JupyterLab: all cells of its notebook run, and the panel follows the hand."""

import os
import random

import pytest

from rar_nb.play.inpainting import BAND
from tests.browser.holes import HolePanel
from tests.browser.page import (
    DARK,
    LIGHT,
    LIVE,
    STATUS,
    Stuck,
    button_of,
    choose,
    click,
    drag_over,
    ground,
    keep,
    live_panel,
    no_errors,
    once_more,
    slider_of,
    snake,
    text_of,
    use_live,
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


def set_theme(driver, name: str):
    code = "window.jupyterapp.commands.execute('apputils:change-theme', {theme: arguments[0]})"
    driver.execute_script(code, name)


EXECUTE = """
const [code, done] = arguments;
const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
const future = kernel.requestExecute({code}), said = [];
future.onIOPub = ({content}) => said.push(content.text ?? content.evalue ?? '');
future.done.then(() => done(said.join('')));
"""


def in_kernel(driver, code: str) -> str:
    """What `code` prints in the kernel of the open notebook."""
    return driver.execute_async_script(EXECUTE, code).strip()


@pytest.mark.parametrize("name", [*LIVE, "15_widgets"])
@once_more
def test_live_panels(driver, lab, name):
    lab.end_kernels()
    run_all(driver, lab, name)
    panel = live_panel(driver, name)
    driver.get_log("browser")  # what JupyterLab says when one notebook is left for another
    use_live(driver, panel, name)
    keep(driver, panel, name)
    set_theme(driver, "JupyterLab Dark")
    wait(lambda: ground(driver, panel) == DARK, 60, "a dark panel")
    keep(driver, panel, f"{name}_dark")
    set_theme(driver, "JupyterLab Light")
    wait(lambda: ground(driver, panel) == LIGHT, 60, "a light panel")
    no_errors(driver)


@once_more
def test_the_kernel_fills_holes(driver, lab):
    """What is cut by mouse and by keys; and what Python sets is filled, too."""
    from selenium.webdriver.common.keys import Keys

    lab.end_kernels()
    run_all(driver, lab, "14_inpainting")
    panel = HolePanel(driver, live_panel(driver, "14_inpainting"))  # it waits until it is seen
    driver.get_log("browser")  # what JupyterLab says when one notebook is left for another
    panel.shows()
    keep(driver, panel.root, "14_inpainting")
    panel.drag([3, 10, 9])
    panel.shows(hole=[*BAND, 3, 10, 9])
    panel.picture.send_keys(Keys.UP, Keys.SPACE)  # from the middle
    panel.shows(hole=[i for i in (*BAND, 3, 10, 9) if i != 17])
    assert in_kernel(driver, "inpainting.hole, inpainting.how = [40, 41], 'random'") == ""
    panel.shows(hole=[40, 41], how="random")
    set_theme(driver, "JupyterLab Dark")
    wait(lambda: ground(driver, panel.root) == DARK, 60, "a dark panel")
    keep(driver, panel.root, "14_inpainting_dark")
    set_theme(driver, "JupyterLab Light")
    no_errors(driver)


@once_more
def test_the_browser_and_python_have_one_state(driver, lab):
    from selenium.webdriver.common.keys import Keys

    lab.end_kernels()
    run_all(driver, lab, "10_scan_orders")
    panel = live_panel(driver, "10_scan_orders")
    slider_of(panel, "step").send_keys(Keys.RIGHT, Keys.RIGHT)
    wait(lambda: in_kernel(driver, "print(walk.step)") == "27", 30, "the step in Python")
    choose(panel, "raster")
    wait(lambda: in_kernel(driver, "print(walk.order)") == "raster", 30, "the order in Python")
    assert in_kernel(driver, "walk.order, walk.grid_size, walk.step = 'z_curve', 4, 3") == ""
    wait(lambda: text_of(panel, ".rar-said").startswith("3 of 16"), 30, "Python's state")
    assert text_of(panel, "tr.chosen label") == "z_curve"


@once_more
def test_a_drag_arrives_in_order(driver, lab):
    """In Python, too: every cell in the order in which the pointer came over it, however fast.
    (`DRAGS=100` for as many drags.)"""
    lab.end_kernels()
    run_all(driver, lab, "10_scan_orders")
    panel = live_panel(driver, "10_scan_orders")
    choose(panel, "yours")
    grid = panel.find_element("css selector", ".rar-grid")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", grid)
    rng, wrong = random.Random(0), []
    for _ in range(int(os.environ.get("DRAGS", 5))):
        click(button_of(panel, "clear"))
        path = snake(rng, 12, 7)
        drag_over(driver, grid, path, 7)
        try:
            wait(
                lambda path=path: in_kernel(driver, "print(walk.cells['7'])") == str(path),
                20,
                "the whole path",
            )
        except Stuck:
            wrong.append(path)
    assert not wrong
