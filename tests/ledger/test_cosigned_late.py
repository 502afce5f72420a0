"""A witness that answers after the quorum was there is heard too: its line is added, and none is ever lost."""

import time

import pytest
from log_samples import NOV_21, events
from witness_samples import NOW, Puppet, grow

from ledger.checkpoint import parse_checkpoint
from ledger.errors import HistoryForked
from ledger.witness import parse_request


def sign_until(writer, holds):
    deadline = time.monotonic() + 60
    while not holds():
        writer.sign(NOV_21)
        assert time.monotonic() < deadline, f"{writer.witnesses()}"
        time.sleep(0.005)


def witnessed_by(log):
    return set(log.policy().open("checkpoint", log.published).witnessed_by)


class Latecomer(Puppet):
    """Cosigns what it is asked for once `go_on` is set."""

    def __init__(self):
        super().__init__(self._cosign)
        self.asked = []

    def _cosign(self, handler, body):
        checkpoint = parse_checkpoint("asked", parse_request(body).note)[0]
        self.asked.append(checkpoint.tree_size)
        self.go_on.wait(60)
        line = self.key.sign_checkpoint(checkpoint, NOW)
        handler.say(200, str(line).encode())


def test_a_late_cosignature_is_added_behind_those_that_are_published(witnessed, witnesses):
    witnessed.require(2, *witnesses)
    writer = witnessed.open()
    grow(writer, 300)
    witnesses[0].stop()
    grow(writer, 310)
    before = witnessed.published
    assert witnessed_by(witnessed) == {"w1", "w2"}
    witnesses[0].start()

    sign_until(writer, lambda: len(witnessed_by(witnessed)) == 3)

    assert witnessed.published.startswith(before)
    assert witnessed.published_size() == 310
    report = witnessed.audit()
    assert set(report.checkpoint.witnessed_by) == {"w0", "w1", "w2"}
    after = witnessed.published
    for _ in range(5):
        writer.sign(NOV_21)
    assert witnessed.published == after
    writer.close(NOV_21)
    assert witnessed.published == after
    again = witnessed.open()
    assert witnessed.published == after
    grow(again, 320)
    again.close(NOV_21)
    assert witnessed.audit().checkpoint.checkpoint.tree_size == 320


def test_it_is_added_while_a_newer_checkpoint_waits_for_its_quorum(witnessed, witnesses):
    with Latecomer() as late:
        witnessed.require(2, late, *witnesses[:2])
        writer = witnessed.open()
        late.go_on.set()
        sign_until(writer, lambda: writer.witnesses()[0].tree_size == 0)
        late.go_on.clear()
        grow(writer, 300)
        sign_until(writer, lambda: 300 in late.asked)  # who is asked later is asked for the newest alone
        assert "w0" not in witnessed_by(witnessed)
        for witness in witnesses[:2]:
            witness.stop()
        writer.append(events(300, 400))
        writer.sign(NOV_21)
        assert (writer.pending.tree_size, witnessed.published_size()) == (400, 300)

        late.go_on.set()
        sign_until(writer, lambda: len(witnessed_by(witnessed)) == 3)

        assert (writer.pending.tree_size, witnessed.published_size()) == (400, 300)
        witnesses[0].start()
        sign_until(writer, lambda: witnessed.published_size() == 400)
        writer.close(NOV_21)
    assert witnessed.audit().checkpoint.checkpoint.tree_size == 400


def test_nothing_is_added_to_a_checkpoint_that_another_signer_put_there(witnessed, witnesses):
    witnessed.require(2, *witnesses)
    writer = witnessed.open()
    grow(writer, 300)
    witnesses[0].stop()
    grow(writer, 310)
    other = witnessed.published[:-100]
    witnessed.folder.replace("checkpoint", other)
    witnesses[0].start()

    with pytest.raises(HistoryForked, match="checkpoint: nothing was signed: expected the last checkpoint signed here"):
        sign_until(writer, lambda: len(writer.witnesses()) == 0)

    assert witnessed.published == other
    writer.abandon()
