"""The tests marked `cuda`, and what came out of each.

    python -m tests.benchmarks.cuda_tests --json FILE

runs `pytest -m cuda tests/test_cuda.py`. The file is written only if no test failed; otherwise
pytest's own words are all there is, and the status is not 0.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.benchmarks.machine import ROOT, chosen_device, machine, output


def outcomes(report: Path) -> dict[str, dict]:
    """Result and seconds of each test, from the file that pytest writes with --junitxml."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in case]
        outcome = "failed" if {"failure", "error"} & set(kinds) else "passed"
        outcome = "skipped" if "skipped" in kinds else outcome
        found[case.get("name")] = {"outcome": outcome, "seconds": float(case.get("time"))}
    return found


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="", help="cpu or cuda; otherwise a GPU if there is one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = chosen_device(args.device)
    facts = machine(device)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider",
                   "-m", "cuda", "tests/test_cuda.py", f"--junitxml={report}"]  # fmt: skip
        env = os.environ | {"RAR_NB_TEST_DEVICE": device.type}
        status = subprocess.run(command, cwd=ROOT, env=env).returncode
        found = outcomes(report) if report.exists() else {}
    if status:
        sys.exit(status)
    output(args.json, {"what": "tests", "tests": found, "machine": facts})


if __name__ == "__main__":
    main()
