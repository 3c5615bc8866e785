"""A Jupyter program whose kernels are forked (tests/kernels.py), so that a page need not wait for
their imports: `python -m tests.browser.forked tests.tools.explore [its options]`."""

import runpy
import sys

from tests.kernels import forked

if __name__ == "__main__":
    del sys.argv[0]
    with forked():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
