"""A folder with the panel of `13_watch`, its model and what runs it."""

import shutil
from pathlib import Path

from rar_nb.play.browser_model import fetch_runtime
from rar_nb.play.watch import Watch
from rar_nb.play.widgets import JS
from tests.browser.page import PAGE
from tests.site.build import RUNTIME

HOLE = [23, 24, 25, 32]


def write_site(folder: Path, model: Path):
    """Pages `light`, `dark`, `holed`, whose digit has a hole, and `broken`, whose model is not
    there; `model` is one that `export_browser_model` has made."""
    shutil.copytree(JS, folder / "js")
    fetch_runtime(RUNTIME)
    for files in (model, RUNTIME):
        shutil.copytree(files, folder / "js" / "browser_model", dirs_exist_ok=True)
    panels = dict(
        light=Watch(), dark=Watch(), holed=Watch(hole=HOLE), broken=Watch(folder="nowhere")
    )
    for name, panel in panels.items():
        theme = "dark" if name == "dark" else "light"
        (folder / f"{name}.html").write_text(PAGE.format(theme=theme, panel=panel.static_html()))
