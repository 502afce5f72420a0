"""What a rebuild says while it works: how far it came, how fast it goes, how long it takes still."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from test_rebuild_command import ask, told  # noqa: F401 (a fixture)

from adapters import rebuild
from adapters.commands import rebuild as command
from adapters.rebuild import Meter

LINE = re.compile(r"(\w+) ([\d,]+) of ([\d,]+) events \((\d+) %\)(?:, ([\d,]+) events/s, ([\d,]+) s to go)?")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def shown(text):
    """Each line about progress as (phase, done, total, percent, events/s, seconds to go)."""
    lines = re.split(r"[\r\n]+", text)
    found = [LINE.fullmatch(line.rstrip()) for line in lines if "events (" in line]
    assert all(found), text
    return [
        (one[1], *(int(each.replace(",", "")) if each else None for each in one.groups()[1:])) for one in found if one
    ]


def require_forward(lines):
    """From one line to the next more is done of the same, the percentage with it, until everything is."""
    filling = [line for line in lines if line[0] == "filling"]
    assert len(filling) > 2
    for (_, done, total, *_), (_, later, total_later, *_) in pairwise(filling):
        assert (later > done, total_later) == (True, total)
    assert all(percent == 100 * done // total for _, done, total, percent, *_ in lines)
    assert filling[-1][1] == filling[-1][2]
    assert lines[-1][0] == "comparing"


@pytest.fixture
def in_small_steps(monkeypatch):
    monkeypatch.setattr(rebuild, "BATCH_RECORDS", 3)
    monkeypatch.setattr(command, "LINE_EVERY_S", 0.0)


@pytest.mark.parametrize("name", ["leaderboards", "readmodels"])
def test_a_rebuild_prints_how_far_it_came_and_that_moves_forward_to_the_end(told, in_small_steps, capsys, name):  # noqa: F811
    code, _, err = ask(capsys, "rebuild", name)

    lines = shown(err)
    assert code == 0
    require_forward(lines)
    estimates = [(total - done, rate, left) for _, done, total, _, rate, left in lines if rate is not None]
    assert estimates
    for remaining, rate, left in estimates:
        assert abs(left - remaining / rate) <= 1 + remaining / rate**2  # both are rounded
    assert estimates[-1][2] == 0


def test_on_a_terminal_one_line_is_drawn_again_and_again(told):  # noqa: F811
    reader, terminal = os.openpty()
    program = [sys.executable, "-P", "-m", "adapters.cli", "rebuild", "readmodels"]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=terminal) as running:
        os.close(terminal)
        text = b""
        try:
            while data := os.read(reader, 4_096):
                text += data
        except OSError:  # how Linux says that the other side is closed
            pass
    os.close(reader)

    assert running.returncode == 0, text
    drawn = text.decode().split("\r")
    assert drawn[0] == ""
    assert text.count(b"\n") == 1
    (*_, last) = shown(text.decode())
    assert last[:1] + last[3:4] == ("comparing", 100)


def test_a_steady_rebuild_is_estimated_to_the_second_from_its_second_line_on():
    clock = Clock()
    meter = Meter(clock)

    assert meter.line(2_000, 100_000) == "2,000 of 100,000 events (2 %)"
    for done in range(4_000, 100_001, 2_000):
        clock.now += 0.125
        left = (100_000 - done) / 16_000
        expected = f"{done:,} of 100,000 events ({done // 1_000} %), 16,000 events/s, {left:,.0f} s to go"
        assert meter.line(done, 100_000) == expected


@pytest.mark.parametrize("rates", [(10_000, 40_000), (40_000, 10_000), (5_000, 50_000, 5_000)])
def test_an_estimate_lies_between_those_of_the_slowest_and_the_fastest_stretch(rates):
    clock = Clock()
    meter = Meter(clock)
    done, total = 0, 10 * sum(rates)
    meter.line(done, total)

    for rate in rates:
        for _ in range(10):
            clock.now += 1
            done += rate
            ((_, _, _, _, _, left),) = shown(f"filling {meter.line(done, total)}")
            assert (total - done) / max(rates) - 1 <= left <= (total - done) / min(rates) + 1
    assert left == 0


def test_what_begins_anew_is_estimated_anew():
    clock = Clock()
    meter = Meter(clock)
    meter.line(0, 1_000)
    clock.now += 100
    meter.line(1_000, 1_000)

    again = meter.line(10, 1_000)
    clock.now += 1
    line = meter.line(110, 1_000)

    assert again == "10 of 1,000 events (1 %)"
    assert line == "110 of 1,000 events (11 %), 100 events/s, 9 s to go"
