"""The panel with the model in JupyterLab, where the kernel samples: in a browser of its own, as a
page of Voilà or one without a kernel, left just before, can keep JupyterLab from opening."""

from tests.browser.page import KEPT, SCREENSHOTS, live_panel, once_more, wait
from tests.browser.test_browser_model import Watched, digit, filled
from tests.browser.test_jupyterlab import run_all


@once_more
def test_the_kernel_samples_in_jupyterlab(driver, lab):
    """The same panel in the notebook, with PyTorch."""
    lab.end_kernels()
    run_all(driver, lab, "17_browser_model")
    panel = Watched(driver, live_panel(driver, "17_browser_model"))  # it waits until it is seen
    whole = ".rar-views[data-known='49']"
    wait(lambda: driver.find_elements("css selector", whole), 120, "a whole digit")
    panel.become(digit())
    panel.button("class 8").click()
    panel.become(digit(8))
    panel.find(".rar-picture").send_keys(" ")
    panel.become(filled(digit(8), [24], label=8))
    if SCREENSHOTS:
        panel.root.screenshot(str(KEPT / "lab_browser_model.png"))
