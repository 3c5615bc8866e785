"""A copy of the project, a browser, and the two servers."""

import shutil
from pathlib import Path

import pytest

from tests.browser.page import BROWSER, DRIVER, ROOT, Server, free_port
from tests.tools.reading_order import ORDER, navigate


def pytest_collection_modifyitems(items):
    missing = pytest.mark.skip(
        reason="no Chromium with ChromeDriver on this machine: `apt-get install chromium "
        "chromium-driver` to have the panels tested"
    )
    for item in items:
        if item.path.parent.name == "browser" and not (BROWSER and DRIVER):
            item.add_marker(missing)


FORKING = [  # what `tests.browser.forked` needs
    f"tests/{name}.py"
    for name in ["__init__", "forks", "kernels", "browser/__init__", "browser/forked"]
]


def copy_project(folder: Path) -> Path:
    """A copy of the project, as a browser saves what it has open. It has one run of its own, so
    that there are runs to choose from: the bundled one with other weights."""
    for name in ["nbs", "rar_nb", "tests/tools"]:
        shutil.copytree(ROOT / name, folder / name)
    (folder / "tests" / "browser").mkdir()
    for name in ["settings.ini", "README.md", *FORKING]:
        shutil.copy(ROOT / name, folder / name)
    (folder / "data").symlink_to(ROOT / "data")
    second = shutil.copytree(ROOT / "data" / "digits_run", folder / "runs" / "second")
    (second / "any_order.safetensors").replace(second / "model.safetensors")
    for name in ORDER:
        navigate(folder / "nbs", name)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("browser"))


def start_lab(project: Path) -> Server:
    settings = project / "settings"
    quiet = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false"}')  # or JupyterLab asks, over the notebook
    return Server(
        project,
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--port=0",
        "--IdentityProvider.token=",
        "--expose-app-in-browser",
        "--ServerApp.disable_check_xsrf=True",
        "--LabApp.news_url=",
        f"--LabApp.workspaces_dir={project / 'workspaces'}",
        f"--LabApp.user_settings_dir={settings}",
    )


@pytest.fixture(scope="module")
def lab(project):
    server = start_lab(project)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def voila(project):
    """Every page starts a kernel, so these are forked; those of JupyterLab are not."""
    server = Server(
        project,
        "tests.browser.forked",
        "tests.tools.explore",
        "--no-browser",
        f"--port={free_port()}",
        "--Voila.ip=127.0.0.1",
        "--show_tracebacks=True",
    )
    yield server
    server.stop()


def start_browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1100",
        "--force-device-scale-factor=1",
    ]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    return driver


@pytest.fixture(scope="module")
def driver():
    driver = start_browser()
    yield driver
    driver.quit()
