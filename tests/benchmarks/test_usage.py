"""What a program used is its own, whatever the measurement that starts it holds."""

import sys

import pytest

from benchmarks.usage import used_by

MB = 1_000_000


def test_the_peak_of_a_program_is_not_that_of_who_started_it():
    held = bytearray(b"x" * 300 * MB)

    used = used_by([sys.executable, "-c", "print('hello')"])

    assert used.said == "hello\n"
    assert MB < used.largest_process_bytes < 100 * MB < len(held)


def test_the_largest_of_a_program_and_its_children_is_told_and_the_work_of_all():
    child = f"import time\nb'x' * {200 * MB}\nwhile time.process_time() < 0.2: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"

    used = used_by([sys.executable, "-c", program])

    assert 200 * MB < used.largest_process_bytes < 300 * MB
    assert used.seconds >= 0.2
    assert used.cpu_seconds >= 0.2


def test_a_program_that_fails_gives_no_figure():
    with pytest.raises(RuntimeError, match="expected success, got exit 3: no such log"):
        used_by([sys.executable, "-c", "print('no such log'); raise SystemExit(3)"])
