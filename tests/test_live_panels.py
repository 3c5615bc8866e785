"""Panels that the browser draws: their modules, run by node, against the library."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from rar_nb.play.scan_orders import ScanOrders
from rar_nb.play.widgets import JS, LIVE, module_text
from tests.doors import refuses
from tests.tools.static_outputs import WIDGET, strip

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node on this machine to run JavaScript")
MODULES = sorted(path.name[:-3] for path in JS.iterdir())
PANELS = [ScanOrders]


def run_js(code: str):
    """What a module prints as JSON, run by node in the folder of the panels."""
    command = [NODE, "--input-type=module", "--eval", code]
    done = subprocess.run(command, cwd=JS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Modules


@needs_node
@pytest.mark.parametrize("name", MODULES)
def test_one_text_has_all_that_a_module_imports(name, tmp_path):
    """It imports nothing any more, and is a module that exports the same."""
    (tmp_path / "inlined.mjs").write_text(module_text(name))
    assert not re.search(r"^import ", module_text(name), re.MULTILINE)
    code = (
        f"const [a, b] = [await import('./{name}.js'), await import('{tmp_path}/inlined.mjs')];"
        "console.log(JSON.stringify([Object.keys(a), Object.keys(b)]))"
    )
    first, second = run_js(code)
    assert first == second != []


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_narrow_and_fetch_nothing(name):
    text = (JS / f"{name}.js").read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_an_unknown_module_is_refused():
    refuses(lambda: module_text("scan_order"), "JavaScript module = 'scan_order'")


# One state, two hosts


@pytest.mark.parametrize("kind", PANELS)
def test_the_page_gets_the_state_of_the_widget(kind):
    panel = kind()
    (found,) = re.findall(r'^<div class="rar-live" data-panel="(\w+)" data-state="([^"]*)">',
                          panel.static_html())
    assert found[0] == panel.panel
    assert json.loads(unescape(found[1])) == panel.live_state()
    names = set(re.findall(r"model\.get\('(\w+)'\)", (JS / f"{panel.panel}.js").read_text()))
    assert names <= set(panel.live_state())


@pytest.mark.parametrize("kind", PANELS)
def test_a_saved_output_has_a_picture_and_a_state(kind):
    panel = kind()
    data, metadata = panel._repr_mimebundle_()
    output = dict(output_type="display_data", data=data, metadata=metadata)
    cell = dict(cell_type="code", metadata={}, outputs=[output])
    assert strip(dict(cells=[cell], metadata={}))
    assert cell["metadata"]["rar_live"] == {"panel": panel.panel, "state": panel.live_state()}
    assert set(data) == {"image/png", "text/plain"} and WIDGET not in data and LIVE not in data
    assert data["image/png"].startswith(b"\x89PNG")
    assert not strip(dict(cells=[cell], metadata={}))
    assert "rar_live" in cell["metadata"]
