"""Every panel in JupyterLab: the cell that makes it runs, and the panel follows the hand.

All other cells run in the kernels that nbval starts.
"""

import os
import random

import pytest

from rar_nb.play.inpainting import BAND
from rar_nb.sampler import image_noise, textbook_tokens
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
from tests.browser.test_browser_model import SAMPLE, Watched, cached_model, digit, filled

CELLS = """
const notebook = window.jupyterapp && window.jupyterapp.shell.currentWidget;
if (!notebook || !notebook.sessionContext || !notebook.content.model) return null;
const cells = notebook.content.model.sharedModel.toJSON().cells;
return cells.filter(c => c.cell_type === 'code' && c.source.length);
"""
READY = f"return {STATUS} === 'idle'"
FINISHED = f"""
const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells]
  .filter(cell => cell.type === 'code' && cell.sharedModel.getSource());
return {STATUS} === 'idle' && cells.slice(0, arguments[0]).every(cell => cell.executionCount);
"""  # asked in the browser: all cells with their pictures are too large to be sent again and again
RUN = """
const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
const first = notebook.widgets.findIndex(
  cell => cell.model.type === 'code' && cell.model.sharedModel.getSource());
if (first < 0) return;
if (arguments[0]) {
  app.commands.execute('notebook:run-all-cells');
} else {
  notebook.activeCellIndex = first;
  app.commands.execute('notebook:run-cell');
}
"""
STARTED = """
return window.jupyterapp.shell.currentWidget.content.widgets.some(
  cell => cell.model.executionCount
    || cell.node.querySelector('.jp-InputPrompt')?.textContent.includes('*'));
"""


def start(driver, all_cells: bool, patience: float = 5):
    """Run the first cell of the open notebook, or all cells. JupyterLab says nothing of a command
    that it drops, and waiting for the end of what never began takes minutes: so the command is
    given until a cell runs."""

    def heard():
        driver.execute_script(RUN, all_cells)
        try:
            return wait(lambda: driver.execute_script(STARTED), patience, "a cell that runs")
        except Stuck:
            return False

    wait(heard, 90, "a cell that runs")


def open_notebook(driver, lab, name: str, all_cells: bool = False):
    """Open a notebook and run its first cell, which makes its panel, or all cells; unless the test
    before has left it so.

    When one notebook is left for another, JupyterLab takes its splash screen away twice, and says
    "removeChild" in the console; tests of the console first throw away what it has said so far."""
    if driver.current_url.startswith(f"{lab.address}/doc/tree/nbs/{name}.ipynb"):
        return
    lab.end_kernels()  # of the notebook before
    driver.get(f"{lab.address}/doc/tree/nbs/{name}.ipynb?reset")
    wait(lambda: driver.execute_script(CELLS), 90, f"{name} in JupyterLab")
    wait(lambda: driver.execute_script(READY), 90, "its kernel")
    start(driver, all_cells)

    count = len(driver.execute_script(CELLS)) if all_cells else 1
    seconds = 400 if all_cells else 120
    wait(lambda: driver.execute_script(FINISHED, count), seconds, f"the end of {name}")
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


def test_a_command_that_is_dropped_is_given_again():
    """And one that is heard is given once."""

    class Deaf:
        def __init__(self, deaf_for):
            self.deaf_for, self.commands = deaf_for, 0

        def execute_script(self, script, *arguments):
            if script == RUN:
                self.commands += 1
            return script == STARTED and self.commands > self.deaf_for

    for deaf_for in (0, 2):
        driver = Deaf(deaf_for)
        start(driver, all_cells=False, patience=0.1)
        assert driver.commands == deaf_for + 1


@pytest.mark.parametrize("name", ["15_widgets", *LIVE[::-1]])  # those after it need the first, too
@once_more
def test_live_panels(driver, lab, name):
    open_notebook(driver, lab, name, all_cells=name == "15_widgets")
    panel = live_panel(driver, name)
    driver.get_log("browser")
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
def test_the_kernel_fills_holes(driver, lab):
    """What is cut by mouse and by keys; and what Python sets is filled, too."""
    from selenium.webdriver.common.keys import Keys

    open_notebook(driver, lab, "14_inpainting")
    panel = HolePanel(driver, live_panel(driver, "14_inpainting"))  # it waits until it is seen
    driver.get_log("browser")
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
def test_the_kernel_samples(driver, lab):
    """The panel with the model asks PyTorch, for the models of any run."""
    open_notebook(driver, lab, "13_watch")
    panel = Watched(driver, live_panel(driver, "13_watch"))  # it waits until it is seen
    driver.get_log("browser")
    panel.become([*digit(5)[:24], *[-1] * 25], seconds=120)
    panel.field("step").send_keys("\ue010")  # the last step
    panel.become(digit(5))
    panel.button("class 8").click()
    panel.become(digit(8))
    panel.find(".rar-picture").send_keys(" ")
    panel.become(filled(digit(8), [24], label=8))
    keep(driver, panel.root, "13_watch")
    set_theme(driver, "JupyterLab Dark")
    wait(lambda: ground(driver, panel.root) == DARK, 60, "a dark panel")
    keep(driver, panel.root, "13_watch_dark")
    set_theme(driver, "JupyterLab Light")
    wait(lambda: ground(driver, panel.root) == LIGHT, 60, "a light panel")
    panel.choose("run", "second")  # the bundled run's weights that were never annealed
    noise = image_noise(3, [0], 49)
    other = textbook_tokens(cached_model("any order"), [8], SAMPLE, noise)[0].tolist()
    panel.become(other, seconds=120)
    panel.choose("run", "bundled digits")
    panel.become(digit(8), seconds=120)
    no_errors(driver)
