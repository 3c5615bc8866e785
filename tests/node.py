"""JavaScript of the panels, run by node."""

import json
import shutil
import subprocess

import pytest

from rar_nb.play.widgets import JS

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node on this machine to run JavaScript")


def run_js(code: str):
    """What a module prints as JSON, run in the folder of the panels."""
    command = [NODE, "--input-type=module"]
    done = subprocess.run(command, input=code, cwd=JS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
