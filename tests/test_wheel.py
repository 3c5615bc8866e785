"""What `pip install` of a wheel brings: all of the library, the panels' JavaScript too."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from rar_nb.support import PROJECT

READ = ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE")  # by the build


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy, as building leaves folders behind; without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "rar_nb", folder / "rar_nb", ignore=ignored)
    for name in READ:
        shutil.copy(PROJECT / name, folder / name)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    (path,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_a_wheel_has_every_module(wheel):
    library = [p for p in (PROJECT / "rar_nb").rglob("*") if p.suffix in (".py", ".js")]
    files = [path.relative_to(PROJECT).as_posix() for path in library]
    assert "rar_nb/play/js/scan_orders.js" in files
    assert sorted(files) == sorted(name for name in wheel if name.startswith("rar_nb/"))


def test_a_wheel_brings_nothing_else(wheel):
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {"rar_nb"}
