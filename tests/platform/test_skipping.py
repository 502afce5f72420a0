"""Where no test may be skipped (TALLY_SKIP_NOTHING=1, as `.ci/run` says), one that is makes the run fail."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.platform.source_tree import ROOT

ONE_PROCESS, OTHERS = [], ["-p", "xdist", "-n", "1", "--dist", "loadfile"]
FILES = {
    "test_passes.py": "def test_passes():\n    assert True\n",
    "test_asks.py": "import pytest\n\ndef test_asks_for_a_tool():\n    pytest.skip('no such tool')\n",
    "test_imports.py": "import pytest\n\npytest.importorskip('no_such_package')\n",
}


def run(folder, options, **environ):
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("options", [ONE_PROCESS, OTHERS], ids=["in one process", "in others"])
def test_a_skipped_test_and_a_skipped_file_fail_the_run_where_nothing_may_be_skipped(tmp_path, options):
    answer = run(tmp_path, options, TALLY_SKIP_NOTHING="1")

    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "2 tests were skipped, none may be here" in answer.stdout


def test_elsewhere_a_run_that_skips_passes(tmp_path):
    assert run(tmp_path, OTHERS).returncode == 0
