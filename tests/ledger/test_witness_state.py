"""What a witness has recorded survives crashes, many requests at once and old copies: it never signs two branches."""

import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_crashes import Crash, Disk
from witness_samples import LOG, NOW, OTHER_HISTORY, STRANGER, RunningWitness, SmallLog

from ledger import files, witness_setup
from ledger.checkpoint import parse_checkpoint
from ledger.errors import HistoryForked, LogDamaged, SignerLocked
from ledger.files import Folder
from ledger.witness import checkpoint_path, parse_request
from ledger.witness_setup import look_at_logs, open_witness


@pytest.fixture
def witness(tmp_path):
    with RunningWitness(tmp_path / "w", LOG.policy) as witness:
        yield witness


def test_of_many_requests_at_once_only_one_branch_is_cosigned(tmp_path):
    with RunningWitness(tmp_path / "w", LOG.policy, STRANGER.policy) as witness:
        assert witness.add(LOG.request(0, 4))[0] == 200
        requests = [log.request(4, size) for size in range(5, 17) for log in (LOG, SmallLog(salt=b"x"))]
        extending = [LOG.request(4, size) for size in range(5, 21)]
        others = [STRANGER.request(0, 3)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(witness.add, [*requests, *extending, *others]))

        statuses = [status for status, *_ in answers]
        assert statuses[-1] == 200
        assert statuses[:-1].count(200) == 1
        assert set(statuses[:-1]) <= {200, 409, 422}
        size = next(parse_request(body) for body, (status, *_) in zip(requests + extending, answers, strict=False)
                    if status == 200)  # fmt: skip
        assert parse_checkpoint("signed", size.note)[0] == witness.witness.logs[LOG.origin][1]


def test_a_witness_that_is_killed_at_any_operation_never_signs_two_branches(tmp_path, monkeypatch):
    """The cosignature that left is always of the recorded history, whatever the crash left behind."""
    monkeypatch.setattr(witness_setup, "has_ml_dsa_44", lambda: False)
    disk = Disk(monkeypatch)
    fresh = RunningWitness(tmp_path / "fresh", LOG.policy)
    outcomes = set()
    for left in range(100):
        base = tmp_path / f"crash-{left}"
        shutil.copytree(fresh.base, base)
        signed = []
        disk.crash_at(left)
        try:
            with open_witness(base) as witness:
                for old, new in ((0, 4), (4, 9)):
                    assert witness.add_checkpoint(LOG.request(old, new), NOW).status == 200
                    signed.append(new)
        except Crash:
            pass
        is_over = disk.left is not None and disk.left > 0
        disk.tear(random.Random(left))
        with open_witness(base) as witness:
            recorded = witness.logs[LOG.origin][1]
            size = recorded.tree_size if recorded else 0
            assert size >= max(signed, default=0), left
            branch = witness.add_checkpoint(OTHER_HISTORY.request(size, size + 5), NOW)
            outcomes.add((size, branch.status))
            if signed:
                assert branch.status == 422
                assert witness.add_checkpoint(LOG.request(size, 12), NOW).status == 200
        if is_over:
            break
    assert {size for size, _ in outcomes} == {0, 4, 9}
    assert left > 10


@pytest.mark.parametrize("name", ["open", "write", "fsync"])
def test_a_failing_disk_ends_the_cosigning_of_that_log_until_a_new_start(tmp_path, monkeypatch, name):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with RunningWitness(tmp_path / "w", LOG.policy) as witness:
        assert witness.add(LOG.request(0, 4))[0] == 200
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, fail)
            answer = witness.witness.add_checkpoint
            with pytest.raises(OSError, match="No space"):
                answer(LOG.request(4, 9), NOW)
        assert witness.add(LOG.request(4, 9))[:2] == (
            500,
            b"example.com/log: stopped after a failed write; start the witness again\n",
        )
        witness.stop()
        witness.start()
        assert witness.add(LOG.request(4, 9))[0] == 200


def test_a_state_that_changed_under_a_running_witness_stops_it(witness):
    witness.add(LOG.request(0, 4))
    path = checkpoint_path(LOG.origin)
    older = Folder(witness.base / "state").read(path)
    witness.add(LOG.request(4, 9))
    Folder(witness.base / "state").replace(path, older)

    status, body, _ = witness.add(LOG.request(9, 12))

    assert (status, body) == (500, b"the state could not be written: start the witness again\n")


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "other keys", "other log"])
def test_a_damaged_state_is_refused_at_the_start(tmp_path, change):
    with RunningWitness(tmp_path / "w", LOG.policy) as witness:
        witness.add(LOG.request(0, 4))
    state = Folder(witness.base / "state")
    path = checkpoint_path(LOG.origin)
    data = state.read(path)
    other = RunningWitness(tmp_path / "other", LOG.policy, STRANGER.policy)
    with other:
        other.add(STRANGER.request(0, 2))
    changed = {
        "flip": bytes([data[0] ^ 1]) + data[1:],
        "cut": data[:-30],
        "empty": b"",
        "other keys": LOG.note(4),
        "other log": Folder(other.base / "state").read(checkpoint_path(STRANGER.origin)),
    }[change]
    state.replace(path, changed)

    with pytest.raises(LogDamaged, match=r"recorded checkpoint of example\.com/log: restore the state"):
        open_witness(witness.base)


def test_two_witnesses_over_one_folder_are_refused(witness):
    with pytest.raises(SignerLocked, match="in use by another signer or witness"):
        open_witness(witness.base)


class Published(Folder):
    """What a log publishes, as a `Source`."""

    def __init__(self, root, note):
        super().__init__(root)
        self.replace("checkpoint", note)


def test_a_state_restored_from_an_old_copy_is_noticed_by_what_the_log_publishes(tmp_path):
    policy = LOG.policy.replace("\nquorum", " https://log.example/\nquorum")
    with RunningWitness(tmp_path / "w", policy) as witness:
        answer = witness.add(LOG.request(0, 5))[1]
        published = Published(tmp_path / "log", LOG.note(5) + answer)
    shutil.rmtree(witness.base / "state")

    with open_witness(witness.base) as again:
        said = look_at_logs(witness.base, again, lambda _url: published)
        assert again.logs[LOG.origin][1] == LOG.checkpoint(5)
        assert again.add_checkpoint(OTHER_HISTORY.request(0, 9), NOW).status == 409
        assert again.add_checkpoint(OTHER_HISTORY.request(5, 9), NOW).status == 422

    assert said == [
        f"example.com/log: the state was old (size 0); own cosignature over {LOG.checkpoint(5)} found, and recorded"
    ]
    with open_witness(witness.base) as again:
        assert look_at_logs(witness.base, again, lambda _url: published) == []


def test_an_old_state_catches_up_once_the_tiles_prove_that_the_log_extends_it(witnessed, witnesses):
    witness = witnesses[0]
    witnessed.require("any", witness)
    witnessed.publish(300)
    old = shutil.copytree(witness.base / "state", witness.base / "old")
    witnessed.publish(400)
    witness.stop()
    shutil.rmtree(witness.base / "state")
    old.rename(witness.base / "state")
    lines = witnessed.plain_policy().split("\n")
    witness.trust("\n".join(f"{at} https://log.example/" if at.startswith("log ") else at for at in lines), "0.policy")
    origin = witnessed.keyring.origin

    with open_witness(witness.base) as again:
        (said,) = look_at_logs(witness.base, again, lambda _url: witnessed.folder)
        assert again.logs[origin][1].tree_size == 400
    assert said.startswith(f"{origin}: the state was old (size 300); own cosignature over size 400, root ")

    shutil.rmtree(witnessed.log_dir / "tile")
    Folder(witness.base / "state").replace(checkpoint_path(origin), witnessed.folder.read("checkpoint"))
    with open_witness(witness.base) as again:
        assert look_at_logs(witness.base, again, lambda _url: witnessed.folder) == []


def test_an_old_state_that_the_published_log_does_not_extend_stops_the_witness(tmp_path):
    policy = LOG.policy.replace("\nquorum", " https://log.example/\nquorum")
    with RunningWitness(tmp_path / "w", policy) as witness:
        witness.add(LOG.request(0, 4))
        old = Folder(witness.base / "state").read(checkpoint_path(LOG.origin))
    shutil.rmtree(witness.base / "state")
    with witness:
        answer = witness.add(OTHER_HISTORY.request(0, 4))[1]
    Folder(witness.base / "state").replace(checkpoint_path(LOG.origin), old)
    published = Published(tmp_path / "log", OTHER_HISTORY.note(4) + answer)

    with (
        open_witness(witness.base) as again,
        pytest.raises(HistoryForked, match=r"split view.*both notes are kept in .*evidence-1\.json"),
    ):
        look_at_logs(witness.base, again, lambda _url: published)


def test_a_log_that_does_not_answer_at_the_start_is_named(tmp_path):
    witness = RunningWitness(tmp_path / "w", LOG.policy.replace("\nquorum", " https://log.example/\nquorum"))

    with open_witness(witness.base) as opened:
        said = look_at_logs(witness.base, opened, lambda _url: Folder(tmp_path / "nothing"))

    assert said == [
        "example.com/log: its published checkpoint could not be compared with the state: checkpoint: "
        + "expected the file, found none"
    ]
