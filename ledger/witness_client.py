"""The log's side of the witness protocol: cosignatures over one signed checkpoint at a time, before it is published.

Each witness has a thread of its own: a slow or dead one delays itself, and the checkpoint only when the quorum needs
it. A witness that has recorded more than this log ever signed, or another root, is an alarm and no reason to try
again: the evidence is kept beside the remembered checkpoint, and nothing is signed until somebody has looked.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.checkpoint import verify_signature
from ledger.encoding import parse_decimal
from ledger.errors import HistoryForked, LedgerError, NotWitnessed, SignatureFailed, WrongUse, excerpt
from ledger.files import Folder
from ledger.history import keep_evidence
from ledger.note import SignatureLine, VerifierKey, parse_note
from ledger.policy import FUTURE_SECONDS_MAX, OpenedCheckpoint, Policy
from ledger.reader import LogReader
from ledger.witness import ADD_CHECKPOINT, SIZE_TYPE, AddCheckpoint, checkpoint_path, parse_cosignatures
from ledger.witness_link import WitnessLink

RETRY_S: Final = 0.25
RETRY_MAX_S: Final = 10.0
CLOSE_S: Final = 1.0  # a thread that just connects somewhere ends by itself


@dataclass(slots=True)
class WitnessStanding:
    """How one witness stands: the last size that it cosigned, and what went wrong since, if anything."""

    name: str
    url: str
    tree_size: int | None = None
    problem: str | None = None


@dataclass(slots=True)
class _Asked:
    """One witness service with the keys that the policy gives it.

    `lines` are cosignatures of the current note; `answered` are the last two notes that it answered for, each with its
    lines: between two looks of the log it can answer for the note before and for the current one.
    """

    keys: dict[str, VerifierKey]
    link: WitnessLink
    standing: WitnessStanding
    recorded: int = 0
    lines: list[SignatureLine] = field(default_factory=list)
    answered: deque[tuple[bytes, list[SignatureLine]]] = field(default_factory=lambda: deque(maxlen=2))

    @property
    def done(self) -> bytes:
        """The last note that it answered for."""
        return self.answered[-1][0] if self.answered else b""


class Cosigning:
    """Asks the witnesses of a policy; `ask` returns at once, `quorate` says whether enough of them have answered."""

    def __init__(self, policy: Policy, log_dir: Path, memory: Path, signed: OpenedCheckpoint | None) -> None:
        """`memory` is the remembered checkpoint, beside which evidence is kept; `signed` the last one published.

        Raises `WrongUse` when the policy does not say where enough witnesses answer.
        """
        if not policy.is_quorate(policy.witness_urls):
            raise WrongUse(
                f"policy: quorum {policy.quorum}",
                expected="a URL at the end of the line of enough witnesses (witness <name> <vkey> <url>)",
                found=", ".join(policy.witness_urls) or "none",
            )
        self._policy = policy
        self._folder = Folder(log_dir)
        self._memory = memory
        self._changed = threading.Condition()
        self._current: OpenedCheckpoint | None = None
        self._alarm: HistoryForked | None = None
        self._is_closed = False
        self._is_new = False
        self._is_late = False
        self._now_seconds = 0
        self._asked = [
            self._witness(url, {name: policy.witnesses[name] for name, at in policy.witness_urls.items() if at == url})
            for url in dict.fromkeys(policy.witness_urls.values())
        ]
        if signed is not None:
            self._remember(signed)
        self._threads = [
            threading.Thread(target=self._run, args=(asked,), name=f"cosigning {asked.standing.name}", daemon=True)
            for asked in self._asked
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _witness(url: str, keys: dict[str, VerifierKey]) -> _Asked:
        return _Asked(keys, WitnessLink(url), WitnessStanding(", ".join(keys), url))

    def _remember(self, signed: OpenedCheckpoint) -> None:
        note = parse_note("published checkpoint", signed.note)
        for asked in self._asked:
            if any(note.by(key) for key in asked.keys.values()):
                asked.recorded = asked.standing.tree_size = signed.checkpoint.tree_size

    def turn(self, policy: Policy) -> None:
        """Open checkpoints under a policy in which the log's keys have turned; the witnesses stay those of before."""
        with self._changed:
            self._policy = policy

    def ask(self, signed: OpenedCheckpoint, now_seconds: int) -> None:
        """Begin to ask for cosignatures over a checkpoint that the log has signed."""
        with self._changed:
            self._current, self._now_seconds = signed, now_seconds
            for asked in self._asked:
                asked.lines = []
            self._is_new = True
            self._changed.notify_all()

    def ask_missing(self, signed: OpenedCheckpoint, published: OpenedCheckpoint, now_seconds: int) -> None:
        """Begin to ask those that are missing on a published checkpoint, as the log signed it; for `late` to take."""
        note = parse_note("published checkpoint", published.note)
        with self._changed:
            self._current, self._now_seconds = signed, now_seconds
            for asked in self._asked:
                if all(note.by(key) for key in asked.keys.values()):
                    asked.answered.append((signed.note, []))
            self._changed.notify_all()

    def quorate(self, now_seconds: int) -> OpenedCheckpoint | None:
        """The checkpoint with its cosignatures, None while the quorum is not there; raises `HistoryForked`."""
        with self._changed:
            self._now_seconds = now_seconds
            self._require_no_alarm()
            if self._current is None or not self._is_new:
                return None
            self._is_new = False
            origin = self._current.checkpoint.origin
            lines = [line for asked in self._asked for line in asked.lines]
            note = self._current.note + "".join(map(str, lines)).encode()
        try:
            return self._policy.open("cosigned checkpoint", note, origin=origin)
        except SignatureFailed:
            return None

    def wait(self, now_seconds: int, timeout_s: float) -> OpenedCheckpoint | None:
        """As `quorate`, waiting for it."""
        deadline = time.monotonic() + timeout_s
        while (found := self.quorate(now_seconds)) is None and (left := deadline - time.monotonic()) > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._is_new or self._alarm is not None, left)
        return found

    def late(self, published: OpenedCheckpoint) -> OpenedCheckpoint | None:
        """The published checkpoint with the cosignatures that came since behind all that it has; None when none did.

        Raises `HistoryForked`.
        """
        with self._changed:
            self._require_no_alarm()
            if not self._is_late:
                return None
            self._is_late = False
            there = {(line.name, line.key_id) for line in parse_note("published checkpoint", published.note).signatures}
            lines = [
                line
                for asked in self._asked
                for note, theirs in asked.answered
                if published.note.startswith(note)
                for line in theirs
                if (line.name, line.key_id) not in there
            ]
        if not lines:
            return None
        note = published.note + "".join(map(str, lines)).encode()
        return self._policy.open("cosigned checkpoint", note, origin=published.checkpoint.origin)

    def _require_no_alarm(self) -> None:
        if self._alarm is not None:
            raise self._alarm

    def standings(self) -> list[WitnessStanding]:
        with self._changed:
            return [
                WitnessStanding(at.name, at.url, at.tree_size, at.problem)
                for at in (asked.standing for asked in self._asked)
            ]

    def close(self) -> None:
        """Ask no more; what is under way comes to nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for asked in self._asked:
            asked.link.interrupt()
        for thread in self._threads:
            thread.join(CLOSE_S)

    # one thread for each witness

    def _run(self, asked: _Asked) -> None:
        try:
            self._keep_asking(asked)
        finally:
            asked.link.close()

    def _keep_asking(self, asked: _Asked) -> None:
        wait_s = RETRY_S
        while (current := self._next(asked)) is not None:
            try:
                lines = self._cosign(asked, current)
            except HistoryForked as err:
                self._sound_the_alarm(asked, err)
                return
            except (LedgerError, OSError, http.client.HTTPException, ValueError) as err:
                problem = " ".join(f"{err}".split()) if isinstance(err, LedgerError) else f"{type(err).__name__} {err}"
                self._pause(asked, problem, wait_s)
                wait_s = min(2 * wait_s, RETRY_MAX_S)
            else:
                self._take(asked, current, lines)
                wait_s = RETRY_S

    def _next(self, asked: _Asked) -> OpenedCheckpoint | None:
        """The checkpoint that this witness has not cosigned; None when there will be none."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or (self._current is not None and self._current.note != asked.done)
            )
            return None if self._is_closed else self._current

    def _take(self, asked: _Asked, current: OpenedCheckpoint, lines: list[SignatureLine]) -> None:
        with self._changed:
            asked.answered.append((current.note, lines))
            if not lines:
                return
            self._is_late = True
            asked.recorded = asked.standing.tree_size = current.checkpoint.tree_size
            asked.standing.problem = None
            if self._current is current:
                asked.lines = lines
                self._is_new = True
            self._changed.notify_all()

    def _pause(self, asked: _Asked, problem: str, wait_s: float) -> None:
        asked.link.close()
        with self._changed:
            asked.standing.problem = problem
            self._changed.wait_for(lambda: self._is_closed, wait_s)

    def _sound_the_alarm(self, asked: _Asked, err: HistoryForked) -> None:
        with self._changed:
            asked.standing.problem = f"{err}"
            self._alarm = self._alarm or err
            self._changed.notify_all()

    def _cosign(self, asked: _Asked, current: OpenedCheckpoint) -> list[SignatureLine]:
        """Ask once, and once more from the size that the witness says it has recorded.

        Nothing when it has recorded a later checkpoint of this log already: whoever reads that may bring it there.
        """
        size = current.checkpoint.tree_size
        old = min(asked.recorded, size)
        status, kind, body = self._post(asked, current, old)
        if status == 409 and kind.partition(";")[0] == SIZE_TYPE:
            recorded = parse_decimal("recorded size", body.decode("ascii", "replace").removesuffix("\n"))
            latest = self._latest(current)
            if recorded > latest.checkpoint.tree_size:
                raise self._conflict(asked, latest, f"has recorded size {recorded}, more than was ever signed")
            before, asked.recorded = asked.recorded, recorded
            if recorded > size:
                return []
            if recorded == old:
                raise self._refusal(asked, current, status, body)
            status, kind, body = self._post(asked, current, recorded)
            if status == 200 and recorded < before:
                # Nothing of ours is wrong: its state is older than its cosignatures, which its operator must know.
                asked.link.say(f"forgot what it cosigned: size {before}, it had recorded {recorded}")
        if status != 200:
            raise self._refusal(asked, current, status, body)
        return self._own_lines(asked, current, body)

    def _post(self, asked: _Asked, current: OpenedCheckpoint, old: int) -> tuple[int, str, bytes]:
        size = current.checkpoint.tree_size
        proof = LogReader(self._folder, size).consistency_proof(old) if 0 < old < size else []
        request = AddCheckpoint(old, tuple(proof), current.note)
        return asked.link.request("POST", ADD_CHECKPOINT, bytes(request))

    def _latest(self, current: OpenedCheckpoint) -> OpenedCheckpoint:
        """The largest checkpoint that was signed: another may have become quorate while this witness was slow."""
        with self._changed:
            return self._current or current

    def _own_lines(self, asked: _Asked, current: OpenedCheckpoint, body: bytes) -> list[SignatureLine]:
        keys = {(key.name, key.key_id): key for key in asked.keys.values()}
        known = [
            (keys[line.name, line.key_id], line)
            for line in parse_cosignatures("answer", body)
            if (line.name, line.key_id) in keys
        ]
        for key, line in known:
            at_seconds = verify_signature("answer", current.checkpoint, key, line) or 0
            now = self._now_seconds
            if at_seconds > now + FUTURE_SECONDS_MAX:
                raise NotWitnessed("cosignature from the future", expected=f"at most {now}", found=at_seconds)
        if not known:
            labels = " or ".join(key.label for key in keys.values())
            raise NotWitnessed("answer", expected=f"a cosignature by {labels}", found="none")
        return [line for _, line in known]

    def _refusal(self, asked: _Asked, current: OpenedCheckpoint, status: int, body: bytes) -> LedgerError:
        """What a refusal means: an alarm when the witness can show that this log signed another history."""
        problem = NotWitnessed(f"answer {status}", expected="200", found=excerpt(body.decode("utf-8", "replace")))
        if status not in {409, 422}:
            return problem
        shown = self._shown(asked, current)
        if shown is None:
            return problem
        latest = self._latest(current)
        size, ours = shown.checkpoint.tree_size, latest.checkpoint.tree_size
        if size <= ours and LogReader(self._folder, ours).root(size) == shown.checkpoint.root:
            return problem
        return self._conflict(asked, latest, f"was shown another history, {shown.checkpoint}", shown)

    def _shown(self, asked: _Asked, current: OpenedCheckpoint) -> OpenedCheckpoint | None:
        """The checkpoint that the witness cosigned last, when the log's own signature is on it."""
        origin = current.checkpoint.origin
        try:
            status, _, body = asked.link.request("GET", checkpoint_path(origin))
            return self._policy.without_quorum().open("shown", body, origin=origin) if status == 200 else None
        except (LedgerError, OSError, http.client.HTTPException):
            return None

    def _conflict(
        self, asked: _Asked, current: OpenedCheckpoint, what: str, shown: OpenedCheckpoint | None = None
    ) -> HistoryForked:
        if Folder(self._memory.parent).read(self._memory.name) != current.note:
            return HistoryForked(
                f"witness {asked.standing.name} {what}: {self._memory} is of another signer, which took over; "
                "nothing more is signed here"
            )
        shown = shown or self._shown(asked, current)
        problem = HistoryForked(
            f"witness {asked.standing.name} {what}: expected what this log signed, {current.checkpoint}, or less; "
            "another signer has its keys, this one was set back, or the witness is wrong"
        )
        found = shown.note if shown else f"nothing that the log signed; {asked.link.url} says so\n".encode()
        try:
            kept = keep_evidence(self._memory, problem, current.note, found)
        except OSError as err:
            return HistoryForked(f"{problem}; nothing more is signed; the evidence could not be kept: {err}")
        return HistoryForked(f"{problem}; nothing more is signed until {kept} has been looked at and moved away")
