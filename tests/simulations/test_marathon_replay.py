"""The race of a few, on a real installation: servers, worker, signer and projectors as `tally up` starts them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters import postgres
from adapters.postgres_roles import WRITER
from adapters.redis_keys import Keys, connect
from adapters.settings import Settings
from adapters.supervisor import Supervisor
from adapters.tenants import create_tenant
from projections.boards import Board, quest_board, xp_board
from simulations import burst, marathon
from simulations.checks import Finding
from simulations.installation import client_environment
from simulations.moments import Moment
from simulations.prediction import predict, read_rows
from simulations.progress import Progress
from simulations.proof import prove_finish

TENANT = "boston"
PLAYERS = 200
QUIET = Progress(is_quiet=True)


@pytest.fixture(scope="module", autouse=True)
def early_commits() -> Iterator[None]:
    """The lake commits each second, not every ten: nothing here waits for what it is not about."""
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("TALLY_ANALYTICS_COMMIT_AGE_S", "1")
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with Supervisor(tmp_path_factory.mktemp("marathon")) as supervisor:
        settings = supervisor.settings()
        asyncio.run(create_tenant(settings, TENANT))
        yield settings


@pytest.fixture(scope="module")
def replayed(running: Settings) -> marathon.Replay:
    """A race of which a part is on the boards when it begins: nobody can say how often else they are seen to change."""
    asyncio.run(marathon.replay(running, TENANT, PLAYERS // 4, QUIET))
    return asyncio.run(marathon.replay(running, TENANT, PLAYERS, QUIET))


def findings_of(settings: Settings, replayed: marathon.Replay) -> list[Finding]:
    return asyncio.run(marathon.check(settings, TENANT, PLAYERS, QUIET, replayed.moments))


def failed(findings: list[Finding]) -> list[str]:
    return [f"{finding.name}: {finding.detail}" for finding in findings if not finding.ok]


def test_a_race_leaves_exactly_what_its_input_predicts(running, replayed):
    prediction = predict(read_rows(PLAYERS))

    assert replayed.client["accepted"] == prediction.commands_total
    assert replayed.client["refused"] == {}
    assert replayed.settled
    assert failed(findings_of(running, replayed)) == []


def test_the_boards_were_looked_at_while_it_went_on_and_a_moment_that_differs_fails(running, replayed):
    moments = list(replayed.moments)
    at = len(moments) // 2
    moments[at] = Moment(moments[at].stream_seq, moments[at].boards | {"xp": "0" * 64})

    assert len({moment.stream_seq for moment in moments}) > 1
    assert len({moment.boards["xp"] for moment in replayed.moments}) > 1
    findings = asyncio.run(marathon.check(running, TENANT, PLAYERS, QUIET, moments))
    assert failed(findings) == [f"boards all along = fold: xp after event {moments[at].stream_seq:,} is not its fold"]


def test_every_projection_has_a_measured_lag(replayed):
    assert set(replayed.lags) == {"log", "leaderboards", "read models", "Iceberg"}
    assert all(lag.complete_at is not None for lag in replayed.lags.values())


def test_the_same_race_again_changes_nothing_and_a_burst_beside_it_loses_nothing(running, replayed):
    async def both() -> tuple[marathon.Replay, burst.Burst, list[Finding]]:
        await create_tenant(running, "burst")
        race = marathon.replay(running, TENANT, PLAYERS, QUIET)
        again, (done, findings) = await asyncio.gather(race, burst.run(running, "burst", 300, 3, QUIET))
        return again, done, findings

    again, done, of_burst = asyncio.run(both())

    assert (again.client["accepted"], again.client["refused"]) == (replayed.client["accepted"], {})
    assert failed(findings_of(running, replayed)) == []
    assert failed(of_burst) == []
    report = done.as_json()
    assert report["answered"] == 300
    assert report["committed"]["count"] >= 4 * 300
    assert set(report["visible"]) == {"log", "leaderboards", "read models", "Iceberg"}


def test_the_winners_finish_is_proven(running, replayed):
    proof = prove_finish(running, TENANT, "b19")

    assert proof is not None
    assert proof.finding.ok, proof.finding.detail
    assert proof.month["provisional"] is True


def test_one_altered_row_in_postgresql_fails_the_check(running, replayed):
    async def change(amount: int) -> None:
        connection = await postgres.connect(running, TENANT, role=WRITER)
        async with connection:
            await connection.execute("UPDATE players SET xp = xp + %s WHERE player = 'b19'", [amount])
            await connection.execute("UPDATE accounts SET balance = balance + %s WHERE account = 'b19'", [amount])

    asyncio.run(change(1))
    altered = failed(findings_of(running, replayed))
    asyncio.run(change(-1))

    assert {line.partition(":")[0] for line in altered} == {"XP", "tokens", "books sum to zero"}
    assert failed(findings_of(running, replayed)) == []


def test_one_altered_score_in_redis_fails_the_check(running, replayed):
    async def move(board: Board, by: int) -> None:
        client = connect(running)
        key = Keys(TENANT).board(board.name)
        member = (await client.zrange(key, 0, 0))[0]
        await client.zincrby(key, by, member)
        await client.aclose()

    for board, named in ((quest_board("boston-2014", "runners"), "leaderboard of runners"), (xp_board(), "XP")):
        asyncio.run(move(board, -1))
        altered = failed(findings_of(running, replayed))
        asyncio.run(move(board, 1))
        assert [line.partition(":")[0] for line in altered] == [named]


# -- the demo as a person runs it -------------------------------------------------------------------------------------


def start_demo(data_dir: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", "import sys; from adapters.cli import main; sys.exit(main())"]
    return subprocess.Popen(
        [*command, "demo", "--data", str(data_dir), *options],
        env=client_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(demo: subprocess.Popen[str], within_s: float) -> tuple[str, str]:
    """What it says until it ends; one that does not end is left to nobody."""
    try:
        return demo.communicate(timeout=within_s)
    finally:
        demo.kill()


def processes_of(data_dir: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(data_dir) in line and str(os.getpid()) != entry.parent.name:
            found.append(line)
    return found


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for what is left in /proc")
def test_a_demo_that_was_interrupted_leaves_nothing_running_and_goes_on_later(tmp_path):
    data_dir = tmp_path / "demo"
    demo = start_demo(data_dir, "--players", "50")
    deadline = time.monotonic() + 60
    while not (data_dir / "endpoints.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)

    demo.send_signal(signal.SIGINT)
    _, words = said_by(demo, 60)

    assert demo.returncode == 130
    assert words.strip().splitlines() == ["tally: interrupted, everything is stopped; run it again and it goes on"]
    assert processes_of(data_dir) == []

    second = start_demo(data_dir, "--players", "50", "--json")
    said, words = said_by(second, 120)

    assert (second.returncode, words) == (0, "")
    report = json.loads(said)
    assert report["ok"], [check for check in report["checks"] if not check["ok"]]
    assert report["proof"]["verified"] is True
    assert processes_of(data_dir) == []
