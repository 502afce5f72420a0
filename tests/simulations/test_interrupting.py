"""A run that is asked to end does so, its children with it, however often it is asked."""

import os
import signal
import subprocess
import sys

import pytest

from tests.platform.source_tree import ROOT

PROGRAM = """
import asyncio, sys
from simulations import installation

installation.AGAIN_AFTER_S = float(sys.argv[1])
loses_the_first = sys.argv[2] == "loses"

async def work():
    child = await asyncio.create_subprocess_exec("sleep", "60")
    print(child.pid, flush=True)
    try:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("asked", flush=True)
                if not loses_the_first:
                    raise
                globals()["loses_the_first"] = False
    finally:
        print("ending", flush=True)
        await asyncio.sleep(0.5)
        child.terminate()
        await child.wait()
        print("ended", flush=True)

try:
    installation.run_async(work())
except KeyboardInterrupt:
    sys.exit(installation.EXIT_INTERRUPTED)
"""


def interrupted(again_after_s, does, wait_for):
    """Interrupt a run, and once more after a line; returns its lines, its exit code, and whether its child is gone."""
    program = [sys.executable, "-c", PROGRAM, again_after_s, does]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        said = []
        while wait_for not in said:
            said.append(process.stdout.readline().strip())
        process.send_signal(signal.SIGINT)
        said += process.stdout.read().split()
    return said, process.returncode, child


@pytest.mark.parametrize(
    ("again_after_s", "does", "wait_for", "wanted"),
    [
        ("60", "ends", "ending", ["asked", "ending", "ended"]),
        ("0", "loses", "asked", ["asked", "asked", "ending", "ended"]),
    ],
    ids=["one that is ending is not cut short", "one that did not hear is asked again"],
)
def test_a_second_request_to_end(again_after_s, does, wait_for, wanted):
    said, exit_code, child = interrupted(again_after_s, does, wait_for)

    assert said == wanted
    assert exit_code == 130
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
