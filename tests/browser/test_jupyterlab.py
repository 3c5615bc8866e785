"""Every panel in JupyterLab: the cell that makes it runs, and the panel follows the hand.

All other cells run in the kernels that nbval starts.
"""

import os
import random

import pytest

from tests.browser.page import (
    DARK,
    LIGHT,
    LIVE,
    PANELS,
    STATUS,
    Stuck,
    button_of,
    changed,
    choose,
    click,
    drag_over,
    ground,
    is_back,
    keep,
    live_panel,
    no_errors,
    once_more,
    panels,
    settled,
    slider_of,
    snake,
    text_of,
    use,
    use_live,
    wait,
)
from tests.browser.test_browser_model import Watched, digit, filled

CELLS = """
const notebook = window.jupyterapp && window.jupyterapp.shell.currentWidget;
if (!notebook || !notebook.sessionContext || !notebook.content.model) return null;
const cells = notebook.content.model.sharedModel.toJSON().cells;
return cells.filter(c => c.cell_type === 'code' && c.source.length);
"""
READY = f"return {STATUS} === 'idle'"
RUN = """
const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
if (arguments[0]) {
  app.commands.execute('notebook:run-all-cells');
} else {
  notebook.activeCellIndex = notebook.widgets.findIndex(
    cell => cell.model.type === 'code' && cell.model.sharedModel.getSource());
  app.commands.execute('notebook:run-cell');
}
"""


def open_notebook(driver, lab, name: str, all_cells: bool = False):
    """Open a notebook and run its first cell, which makes its panel, or all cells; unless the test
    before has left it so."""
    if driver.current_url.startswith(f"{lab.address}/doc/tree/nbs/{name}.ipynb"):
        return
    lab.end_kernels()  # of the notebook before
    driver.get(f"{lab.address}/doc/tree/nbs/{name}.ipynb?reset")
    wait(lambda: driver.execute_script(CELLS), 90, f"{name} in JupyterLab")
    wait(lambda: driver.execute_script(READY), 90, "its kernel")
    driver.execute_script(RUN, all_cells)

    def finished():
        cells = driver.execute_script(CELLS)
        count = len(cells) if all_cells else 1
        return all(c["execution_count"] for c in cells[:count]) and driver.execute_script(READY)

    wait(finished, 400, f"the end of {name}")
    outputs = [o for c in driver.execute_script(CELLS) for o in c["outputs"]]
    errors = [o for o in outputs if o["output_type"] == "error"]
    assert not errors, errors


@pytest.mark.parametrize("name", [*PANELS, "15_widgets"])
@once_more
def test_panels(driver, lab, name):
    driver.get_log("browser")
    open_notebook(driver, lab, name, all_cells=True)
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
    open_notebook(driver, lab, "15_widgets", all_cells=True)
    panel = wait(lambda: panels(driver), 60, "a panel")[0]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
    light = settled(driver, panel)
    set_theme(driver, "JupyterLab Dark")
    dark = changed(driver, panel, light, "a dark theme")
    assert light[0, 0].min() == 255 and dark[0, 0].max() < 40
    keep(driver, panel, "15_widgets_dark")
    set_theme(driver, "JupyterLab Light")
    is_back(driver, panel, light, "the light theme")


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


@pytest.mark.parametrize("name", LIVE[::-1])  # those after it need the first one, too
@once_more
def test_live_panels(driver, lab, name):
    open_notebook(driver, lab, name)
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
def test_the_browser_and_python_have_one_state(driver, lab):
    from selenium.webdriver.common.keys import Keys

    open_notebook(driver, lab, "10_scan_orders")
    panel = live_panel(driver, "10_scan_orders")
    assert in_kernel(driver, "walk.order, walk.grid_size, walk.step = 'z_curve', 7, 25") == ""
    wait(lambda: text_of(panel, ".rar-said").startswith("25 of 49"), 30, "the first state")
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
    open_notebook(driver, lab, "10_scan_orders")
    panel = live_panel(driver, "10_scan_orders")
    button_of(panel, "7 × 7").click()
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


@once_more
def test_the_kernel_samples(driver, lab):
    """The panel with the model asks PyTorch."""
    open_notebook(driver, lab, "17_browser_model")
    panel = Watched(driver, live_panel(driver, "17_browser_model"))  # it waits until it is seen
    whole = ".rar-views[data-known='49']"
    wait(lambda: driver.find_elements("css selector", whole), 120, "a whole digit")
    panel.become(digit())
    panel.button("class 8").click()
    panel.become(digit(8))
    panel.find(".rar-picture").send_keys(" ")
    panel.become(filled(digit(8), [24], label=8))
    keep(driver, panel.root, "lab_browser_model")
