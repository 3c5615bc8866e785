"""The panels without code: Voilà, opened on the gallery `nbs/explore.ipynb`.

    python -m tests.tools.explore [options of voila]

Of a notebook that starts with panels, only what stands before "How it is made" is run and shown.
"""

import sys
from pathlib import Path

from tornado.web import RedirectHandler
from voila.app import Voila

NOTEBOOKS = Path(__file__).parent.parent.parent / "nbs"
GALLERY = "voila/render/explore.ipynb"
HEADING = "\n## How it is made"


def only_panels(request, notebook, cwd):
    """The notebook without its cells from `HEADING` on; called by Voilà before it runs one."""
    for k, cell in enumerate(notebook.cells):
        before, heading, _ = f"\n{cell.source}".partition(HEADING)
        if cell.cell_type == "markdown" and heading:
            cell.source = before.strip()
            notebook.cells = notebook.cells[: k + 1]
            break
    return notebook


class Explore(Voila):
    """Voilà whose first page is the gallery."""

    def init_handlers(self) -> list:
        to_gallery = (self.server_url, RedirectHandler, {"url": self.base_url + GALLERY})
        return [to_gallery, *super().init_handlers()]


def main():
    """Serve the notebooks and open the gallery in the browser."""
    app = Explore.instance()
    # A page that is left can't end its kernel (Voilà 0.5 refuses that), so idle ones are ended.
    app.config.MappingKernelManager.cull_idle_timeout = 120  # seconds without an open page
    app.config.MappingKernelManager.cull_interval = 30
    app.initialize([str(NOTEBOOKS), *sys.argv[1:]])
    app.voila_configuration.prelaunch_hook = only_panels
    app.start()


if __name__ == "__main__":
    main()
