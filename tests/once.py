"""What several test modules need and takes long to make."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from rar_nb.play.browser_model import RUNTIME_FILES, export_browser_model
from rar_nb.play.watch import BUNDLED
from tests.site.build import NPM, ROOT, RUNTIME
from tests.tools.reading_order import ORDER

NAMES = [  # notebooks of the small site: all with panels, and a few others
    name for name in ORDER if re.match(r"(02|04|05|1[0-47]|53)_|explore", name)
]
MODEL = ("13_watch", "14_inpainting", "17_browser_model", "explore")  # has to run in their pages
if not RUNTIME.is_dir():
    NAMES = [name for name in NAMES if name not in MODEL]


def once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once a session, however many processes share its tests."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not folder.exists():
            made = base / f"{name}.made"
            make(made)
            made.rename(folder)
    return folder


def exported_model(tmp_path_factory) -> Path:
    """The bundled run as files for the browser."""
    return once(tmp_path_factory, "model", lambda folder: export_browser_model(BUNDLED, folder))


def need_runtime():
    """Skip a test if what runs the model in a browser isn't here."""
    if not all((RUNTIME / name).is_file() for name in RUNTIME_FILES):
        pytest.skip("no ONNX Runtime Web in build/onnxruntime: `make site` gets it from npm")


def small_site(tmp_path_factory) -> Path:
    """The website with these notebooks; without MathJax if `make site` has never fetched it."""
    pytest.importorskip("myst_nb", reason="the website's packages: `make site` installs them")
    model = exported_model(tmp_path_factory)

    def make(folder: Path):
        npm = NPM
        if not (npm / "mathjax").is_dir():
            npm = folder.with_name("npm")
            script = npm / "mathjax" / "es5" / "tex-svg.js"
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text("// in the place of MathJax\n")
        command = [sys.executable, "-m", "tests.site.build", folder, "--npm", npm]
        command += ["--only", ",".join(NAMES), "--model", model]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
        assert not done.returncode, done.stdout + done.stderr

    return once(tmp_path_factory, "site", make)
