"""`make` finds a Python that can, or says in one line what to install."""

import os
import subprocess
import sys

import pytest

from tests.platform.source_tree import ROOT


@pytest.fixture
def make_venv(tmp_path):
    """Run the script with a PATH that holds only the given fake interpreters."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in ("sh", "rm"):
        (programs / tool).symlink_to(f"/bin/{tool}")

    def run(interpreters: dict[str, str], **environ: str):
        for name, body in interpreters.items():
            (programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (programs / name).chmod(0o755)
        return subprocess.run(
            ["/bin/sh", str(ROOT / ".ci" / "make-venv")],
            cwd=tmp_path,
            env={"PATH": str(programs), "VENV": str(tmp_path / ".venv"), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def old(version: str) -> str:
    return f'case "$2" in *print*) echo {version};; *) exit 3;; esac'


WITHOUT_VENV = 'case "$2" in *print*) echo 3.12;; *ensurepip*) exit 1;; *) exit 0;; esac'


@pytest.mark.parametrize(
    ("interpreters", "says"),
    [
        ({}, "no Python was found; install Python 3.11, 3.12 or 3.13"),
        ({"python3": old("3.9")}, "found Python 3.9, but Python 3.11, 3.12 or 3.13 is needed"),
        ({"python3": old("3.14"), "python": old("2.7")}, "found Python 3.14 2.7, but"),
        ({"python3": WITHOUT_VENV}, "Python 3.12 has no venv module; install it (Debian, Ubuntu: apt install python3"),
        ({"python3": "exit 127"}, "no Python was found"),
    ],
)
def test_what_is_missing_is_said_in_one_line(make_venv, interpreters, says):
    answer = make_venv(interpreters)

    assert answer.returncode == 1
    assert answer.stderr.startswith(f"make: {says}")
    assert answer.stderr.count("\n") == 1


def test_a_newer_python_is_passed_over_for_one_that_has_the_wheels(make_venv, tmp_path):
    answer = make_venv({"python3": old("3.14"), "python3.12": f'exec "{sys.executable}" "$@"'})

    assert (answer.returncode, answer.stderr) == (0, "")
    assert (tmp_path / ".venv" / "bin" / "python").exists()


def test_a_broken_environment_is_made_again(make_venv, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    answer = make_venv({"python3": f'exec "{sys.executable}" "$@"'})

    assert (answer.returncode, answer.stderr) == (0, "")
    assert os.access(tmp_path / ".venv" / "bin" / "python", os.X_OK)


def test_a_python_of_ones_own_choice_that_does_not_run_is_named(make_venv):
    answer = make_venv({}, PYTHON="/nowhere/python3")

    assert answer.stderr == "make: PYTHON=/nowhere/python3 does not run; give the path of a Python 3.11, 3.12 or 3.13\n"
