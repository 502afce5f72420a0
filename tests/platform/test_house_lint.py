"""Lint and types are clean: all of ruff but what pyproject.toml argues against, and mypy in strict mode."""

import subprocess
import sys

import pytest

from tests.platform.source_tree import ROOT


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", [["ruff", "check", "--no-cache", "."], ["mypy"]], ids=["ruff", "mypy"])
def test_the_source_is_clean(command):
    answer = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )

    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]
