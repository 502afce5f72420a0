"""The signer as a follower of the event stream, and what the operator's commands tell of its log."""

import asyncio
import json
from argparse import ArgumentParser
from types import SimpleNamespace

import pytest
from log_samples import DAY_MS, NOV_21, event

from adapters.commands import keys, prove, roots
from adapters.errors import TallyError
from adapters.published_log import log_status
from adapters.settings import Settings
from adapters.signer import ENTRIES_AT_ONCE, Signer, read_position
from bus.envelope import Recorded
from bus.follower import StreamIdentity, leaf_hash
from ledger.cli import main
from ledger.errors import SignerLocked, WrongUse

STREAM = StreamIdentity("EVENTS_boston", "2026-11-21T09:00:00Z")


class Clock:
    def __init__(self):
        self.now_ms = NOV_21

    def __call__(self):
        return self.now_ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def installation(tmp_path):
    """Settings of an installation without servers."""
    return Settings.load(tmp_path / "data", {}, need=("log_dir", "keys_dir"))


def records(first, last):
    return [Recorded(seq, event(seq - 1)) for seq in range(first, last + 1)]


async def follow(settings, clock, *batches):
    """Open, take batches up to each sequence, close."""
    signer = Signer(settings, now_ms=clock)
    position = await signer.open("boston", STREAM)
    at = position.stream_seq
    for last in batches:
        await signer.apply(records(at + 1, last))
        at = last
        clock.now_ms += 250
        await signer.idle()
    await signer.close()
    return position


def test_a_signer_stands_where_its_last_checkpoint_is(installation, clock):
    first = asyncio.run(follow(installation, clock, 10, 300))
    second = asyncio.run(follow(installation, clock, 301))
    third = asyncio.run(read_position(installation, "boston"))

    assert (first.stream_seq, first.leaf_hash, first.stream_created) == (0, "", STREAM.created)
    assert (second.stream_seq, second.leaf_hash) == (300, leaf_hash(event(299)))
    assert (third.stream_seq, third.leaf_hash, third.stream_created) == (301, leaf_hash(event(300)), STREAM.created)


def test_what_was_not_signed_before_a_crash_is_asked_for_again(installation, clock):
    async def crash():
        signer = Signer(installation, now_ms=clock)
        await signer.open("boston", STREAM)
        await signer.apply(records(1, 300))
        clock.now_ms += 250
        await signer.idle()
        await signer.apply(records(301, 900))
        return await signer.open("boston", STREAM)

    assert asyncio.run(crash()).stream_seq == 300


BROKEN_STREAMS = {
    "the beginning lost": ([2, 3], "got event 2, wanted 1"),
    "one lost in between": ([1, 2, 4, 5], "got event 4, wanted 3"),
    "one twice": ([1, 2, 2, 3], "got event 2, wanted 3"),
    "two in another order": ([1, 3, 2, 4], "got event 3, wanted 2"),
}


@pytest.mark.parametrize("case", BROKEN_STREAMS)
def test_events_that_the_store_lost_repeated_or_reordered_are_refused_before_any_is_signed(installation, clock, case):
    seqs, message = BROKEN_STREAMS[case]

    async def apply():
        signer = Signer(installation, now_ms=clock)
        await signer.open("boston", STREAM)
        try:
            await signer.apply([Recorded(seq, event(seq - 1)) for seq in seqs])
        finally:
            await signer.close()

    with pytest.raises(TallyError, match=message):
        asyncio.run(apply())
    assert asyncio.run(read_position(installation, "boston")).stream_seq == 0


def test_checkpoints_come_at_most_five_times_a_second(installation, clock):
    async def hurry():
        signer = Signer(installation, now_ms=clock)
        await signer.open("boston", STREAM)
        sizes = []
        for seq in range(1, 11):
            await signer.apply(records(seq, seq))
            await signer.idle()
            sizes.append((await read_position(installation, "boston")).stream_seq)
            clock.now_ms += 50
        await signer.close()
        return sizes

    assert asyncio.run(hurry()) == [1, 1, 1, 1, 5, 5, 5, 5, 9, 9]


@pytest.mark.parametrize(("signing_ms", "steps_between"), [(0, 4), (30, 6), (60, 12), (5_000, 14)])
def test_signing_that_takes_long_gets_a_tenth_of_the_time_and_comes_once_a_second_all_the_same(
    installation, clock, signing_ms, steps_between
):
    class SlowClock:
        """The time at which signing ends is asked for as well."""

        def __init__(self):
            self.is_signing = False

        def __call__(self):
            self.is_signing = not self.is_signing
            return clock.now_ms + (0 if self.is_signing else signing_ms)

    async def hurry():
        slow = SlowClock()
        signer = Signer(installation, now_ms=slow)
        await signer.open("boston", STREAM)
        sizes = []
        for seq in range(1, 31):
            slow.is_signing = False
            await signer.apply(records(seq, seq))
            await signer.idle()
            sizes.append((await read_position(installation, "boston")).stream_seq)
            clock.now_ms += 50
        clock.now_ms += 150
        slow.is_signing = False
        await signer.idle()
        sizes.append((await read_position(installation, "boston")).stream_seq)
        await signer.close()
        return sizes

    *sizes, after_a_pause = asyncio.run(hurry())

    assert sorted(set(sizes)) == list(range(1, 31, steps_between))
    assert after_a_pause == 30


def test_while_many_events_come_whole_bundles_are_signed_and_the_rest_with_the_next_checkpoint(installation, clock):
    async def flow():
        signer = Signer(installation, now_ms=clock)
        await signer.open("boston", STREAM)
        sizes, at = [], 0
        for last in (1_500, 3_000, None):
            if last:
                await signer.apply(records(at + 1, last))
                at = last
            await signer.idle()
            sizes.append((await read_position(installation, "boston")).stream_seq)
            clock.now_ms += 250
        await signer.close()
        return sizes

    assert asyncio.run(flow()) == [1_280, 2_816, 3_000]


def test_events_gather_until_they_are_worth_writing_or_are_to_be_signed(installation, clock):
    async def gather():
        signer = Signer(installation, now_ms=clock)
        await signer.open("boston", STREAM)
        bundle = installation.log_dir / "boston" / "tile" / "entries" / "000"
        found = []
        for last in (1_000, ENTRIES_AT_ONCE - 1, ENTRIES_AT_ONCE):
            first = 1 + (0 if last == 1_000 else found[-1][0])
            await signer.apply(records(first, last))
            found.append((last, bundle.exists()))
        await signer.close()
        return found

    assert asyncio.run(gather()) == [(1_000, False), (ENTRIES_AT_ONCE - 1, False), (ENTRIES_AT_ONCE, True)]
    assert asyncio.run(read_position(installation, "boston")).stream_seq == ENTRIES_AT_ONCE


def test_a_log_of_another_stream_says_so_by_its_position(installation, clock):
    asyncio.run(follow(installation, clock, 5))

    async def open_other():
        signer = Signer(installation, now_ms=clock)
        position = await signer.open("boston", StreamIdentity("EVENTS_boston", "2027-01-01T00:00:00Z"))
        await signer.close()
        return position

    assert asyncio.run(open_other()).stream_created == STREAM.created


def test_a_second_signer_of_the_tenant_is_refused_while_the_first_lives(installation, clock):
    async def two():
        first, second = Signer(installation, now_ms=clock), Signer(installation, now_ms=clock)
        await first.open("boston", STREAM)
        try:
            await second.open("boston", STREAM)
        finally:
            await first.close()

    with pytest.raises(SignerLocked, match="another signer"):
        asyncio.run(two())


def test_an_idle_signer_closes_the_month_when_its_time_comes(installation, clock):
    async def wait():
        signer = Signer(installation, now_ms=clock)
        await signer.open("boston", STREAM)
        await signer.apply(records(1, 7))
        await signer.idle()
        clock.now_ms += 30 * DAY_MS
        await signer.idle()
        await signer.close()

    asyncio.run(wait())

    assert (installation.log_dir / "boston/roots/2026-11.dsse.json").exists()


def test_the_status_of_a_log_is_its_last_checkpoint(installation, clock):
    assert log_status(installation.log_dir / "boston") is None

    asyncio.run(follow(installation, clock, 260))
    status = log_status(installation.log_dir / "boston")

    assert status.tree_size == 260
    assert 0 <= status.age_ms < 60_000
    assert len(status.chain_head) == len(status.root) == 64


def run(module, installation, *arguments):
    parser = ArgumentParser()
    parser.set_defaults(data=installation.data_dir, tenant="boston")
    module.configure(parser)
    return module.run(parser.parse_args(arguments))


@pytest.fixture
def signed(installation, clock, monkeypatch):
    """An installation whose servers are down, with two months of log."""
    for variable in ("TALLY_NATS_URL", "TALLY_LOG_DIR", "TALLY_KEYS_DIR"):
        monkeypatch.delenv(variable, raising=False)
    asyncio.run(follow(installation, clock, 300))
    clock.now_ms += 30 * DAY_MS
    asyncio.run(follow(installation, clock, 400))
    return installation


def test_prove_writes_a_receipt_that_verify_accepts(signed, tmp_path, capsys):
    receipt, proof, entry = (tmp_path / name for name in ("a.receipt", "a.tlog-proof", "a.json"))
    policy = signed.keys_dir / "boston" / "policy"

    code = run(
        prove, signed, "player.b3.4", "-o", str(receipt), "--tlog-proof", str(proof), "--entry", str(entry), "--json"
    )

    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (found["leaf_index"], found["tree_size"], found["month_closed"]) == (24, 300, True)
    assert entry.read_bytes() == event(24)
    assert main(["verify", str(receipt), "--policy", str(policy)]) == 0
    assert main(["verify", str(proof), "--entry", str(entry), "--policy", str(policy)]) == 0
    assert main(["audit", str(signed.log_dir / "boston"), "--policy", str(policy)]) == 0


@pytest.mark.parametrize("event_id", ["player.b3.400", "player.nobody.1", "nonsense", "player.b3.4 "])
def test_prove_says_that_an_event_is_not_there(signed, event_id):
    with pytest.raises(TallyError, match="is not in"):
        run(prove, signed, event_id)


def test_prove_finds_an_event_through_the_stream_when_there_is_one(signed, tmp_path, monkeypatch):
    async def ask(*_):
        return 25

    monkeypatch.setattr(prove, "_ask_stream", ask)
    monkeypatch.setenv("TALLY_NATS_URL", "nats://unused")

    assert run(prove, signed, "player.b3.4", "-o", str(tmp_path / "r")) == 0


def test_prove_says_when_no_checkpoint_covers_an_event_in_time(signed, monkeypatch):
    async def ask(*_):
        return 401

    monkeypatch.setattr(prove, "_ask_stream", ask)
    monkeypatch.setenv("TALLY_NATS_URL", "nats://unused")

    with pytest.raises(TallyError, match=r"no checkpoint covers the event after 0\.1 s"):
        run(prove, signed, "player.b1.58", "--wait", "0.1")


def test_roots_lists_and_shows_the_months(signed, capsys):
    assert run(roots, signed, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["2026-11", "certified", "300"],
        ["2026-12", "provisional", "100"],
    ]
    assert run(roots, signed, "--json", "show", "2026-11") == 0
    assert json.loads(capsys.readouterr().out)["predicate"]["closing"]["size"] == 300
    assert run(roots, signed, "show", "2026-12") == 0
    assert "leaves        300 to 399, tree size 400" in capsys.readouterr().out
    with pytest.raises(TallyError, match="2026-10 has no root"):
        run(roots, signed, "show", "2026-10")


def test_keys_are_made_once_and_shown_without_their_secrets(installation, capsys):
    assert run(keys, installation, "generate", "--origin", "log.example.org/boston") == 0
    shown = capsys.readouterr().out
    assert "log.example.org/boston+" in shown
    assert "PRIVATE" not in shown
    assert run(keys, installation, "--json", "list") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["keys"]}
    assert set(rows) >= {"log-ed25519", "certificate-ed25519"}
    log_key = rows["log-ed25519"]
    assert [log_key[name] for name in ("role", "first_size", "last_size", "kept")] == ["log", 0, None, "plain"]
    with pytest.raises(Exception, match="never replaced"):
        run(keys, installation, "generate")


def test_keys_generate_wants_a_tenant_by_name(installation):
    args = SimpleNamespace(data=installation.data_dir, tenant=None, action="generate")

    with pytest.raises(TallyError, match="--tenant NAME"):
        keys.run(args)


def test_prove_all_writes_what_verify_accepts(signed, tmp_path, capsys):
    proof = tmp_path / "b3.receipt"

    code = run(prove, signed, "--all", "--player", "b3", "--month", "2026-11", "-o", str(proof), "--json")

    assert code == 0
    assert json.loads(capsys.readouterr().out)["events"] == {"player/b3": 43, "token/b3": 0}
    assert main(["verify", str(proof), "--policy", str(signed.keys_dir / "boston" / "policy")]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all"],
        ["--all", "--player", "b3"],
        ["--all", "--month", "2026-11"],
        ["player.b3.1", "--all", "--player", "b3", "--month", "2026-11"],
        ["player.b3.1", "--month", "2026-11"],
    ],
)
def test_prove_says_what_goes_together(signed, arguments):
    with pytest.raises(TallyError, match="--all"):
        run(prove, signed, *arguments)


def test_keys_that_are_encrypted_sign_when_the_environment_has_their_passphrase(
    installation, clock, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("ledger.keycrypt.LOG2_N", 14)
    (tmp_path / "pass").write_text("correct horse\n")
    (tmp_path / "pass").chmod(0o600)
    run(keys, installation, "generate")
    monkeypatch.setenv("TALLY_KEYS_PASSPHRASE_FILE", str(tmp_path / "pass"))

    assert run(keys, installation, "encrypt") == 0
    assert capsys.readouterr().out.count(" encrypted ") >= 2
    assert asyncio.run(follow(installation, clock, 5)).stream_seq == 0
    monkeypatch.delenv("TALLY_KEYS_PASSPHRASE_FILE")
    with pytest.raises(WrongUse, match="the keys are encrypted: name a file with their passphrase"):
        asyncio.run(follow(installation, clock))
