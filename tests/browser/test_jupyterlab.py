"""Every panel in JupyterLab: all cells of its notebook run, and the panel follows the hand."""

import pytest

from tests.browser.page import (
    PANELS,
    STATUS,
    changed,
    is_back,
    keep,
    no_errors,
    once_more,
    panels,
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
