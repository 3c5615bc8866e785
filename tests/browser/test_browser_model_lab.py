"""The panel with the model in JupyterLab, where the kernel samples: in a browser of its own, as a
page of Voilà or one without a kernel, left just before, can keep JupyterLab from opening."""

from rar_nb.sampler import image_noise, textbook_tokens
from tests.browser.page import DARK, LIGHT, ground, keep, live_panel, no_errors, once_more, wait
from tests.browser.test_browser_model import SAMPLE, Watched, cached_model, digit, filled
from tests.browser.test_jupyterlab import run_all, set_theme


@once_more
def test_the_kernel_samples_in_jupyterlab(driver, lab):
    """The same panel in the notebook, with PyTorch, and with any run."""
    lab.end_kernels()
    run_all(driver, lab, "13_watch")
    panel = Watched(driver, live_panel(driver, "13_watch"))  # it waits until it is seen
    driver.get_log("browser")  # what JupyterLab says when one notebook is left for another
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
