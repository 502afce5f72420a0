"""Where the cores are full, those who decide come before those who show: an outcome is what a sender waits for."""

import os
from pathlib import Path

import pytest

from adapters.commands.run import PROJECTIONS_NICE
from adapters.supervisor import Supervisor

DECIDES, SHOWS, SIGNS = "worker", "leaderboards,timers", "signer"


@pytest.fixture(scope="module")
def pids(tmp_path_factory):
    directory = tmp_path_factory.mktemp("installation")
    with Supervisor(directory, processes=f"{DECIDES} {SHOWS} {SIGNS}") as running:
        yield running.processes()


def test_a_process_of_projections_yields_to_worker_servers_and_signer(pids):
    nice = {name: os.getpriority(os.PRIO_PROCESS, pid) for name, pid in pids.items()}

    assert {name for name in nice if nice[name] - nice[DECIDES] == PROJECTIONS_NICE} == {SHOWS}
    assert {name for name in nice if nice[name] == nice[DECIDES]} == pids.keys() - {SHOWS}


def test_so_does_the_group_that_linux_makes_of_its_session(pids):
    groups = {name: Path(f"/proc/{pid}/autogroup") for name, pid in pids.items()}
    told = {name: path.read_text().split() for name, path in groups.items() if path.exists()}  # not every kernel's

    assert {name for name, words in told.items() if words[-1] == str(PROJECTIONS_NICE)} == told.keys() & {SHOWS}
