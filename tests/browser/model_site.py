"""A folder with the panel of `17_browser_model`, its model and what runs it, served from here."""

import functools
import shutil
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rar_nb.play.browser_model import BrowserModel, export_browser_model, fetch_runtime
from rar_nb.play.watch import BUNDLED
from rar_nb.play.widgets import JS

PAGE = """<!doctype html>
<html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>A model</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>
<body style="margin: 8px"><main><h1>A model</h1>{panel}</main>
<script type="module" src="js/host.js"></script></body></html>
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def write_site(folder: Path):
    """Pages `light`, `dark`, and `broken`, whose model is not there."""
    shutil.copytree(JS, folder / "js")
    export_browser_model(BUNDLED, folder / "js" / "browser_model")
    fetch_runtime(folder / "js" / "browser_model")
    panels = dict(light=BrowserModel(), dark=BrowserModel(), broken=BrowserModel(folder="nowhere"))
    for name, panel in panels.items():
        theme = "dark" if name == "dark" else "light"
        (folder / f"{name}.html").write_text(PAGE.format(theme=theme, panel=panel.static_html()))


@contextmanager
def served(folder: Path):
    """The address at which a folder is served."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
