"""A fold of the event stream for the checks: it reads stored bytes and shares no code with what it checks.

It counts, sums the amounts that events state, and notes what no correct ledger holds: a gap in the stream, a version
out of turn, a stated total that the amounts do not add up to, a command that was executed twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Final

import msgspec

INBOX_EVENT: Final = "commands-decided/1"
FAULTS_KEPT: Final = 20


class _Envelope(msgspec.Struct, gc=False):
    id: str
    type: str
    subject: str
    aggregateversion: int
    causationid: str
    data: msgspec.Raw


class _Facts(msgspec.Struct, gc=False):
    """Those fields of any event's data that the fold looks at."""

    quest: str = ""
    amount: int = 0
    total: int = 0
    balance: int = 0
    elapsed_ms: int = 0
    refused: list[list[Any]] = []
    divisions: list[str] = []


_envelope_of: Final = msgspec.json.Decoder(_Envelope).decode
_facts_of: Final = msgspec.json.Decoder(_Facts).decode
_SIGN: Final = {"tokens-minted/1": 1, "tokens-received/1": 1, "tokens-spent/1": -1, "tokens-sent/1": -1}
_WITH_TREASURY: Final = frozenset({"tokens-minted/1", "tokens-spent/1"})


class Own:
    """What the commands of one sender did, known by the prefix of their ids; others may have used the tenant too."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.types: Counter[str] = Counter()
        self.xp: dict[str, int] = defaultdict(int)
        self.tokens: dict[str, int] = defaultdict(int)
        self.finishers: set[str] = set()


class Fold:
    """What the events say, taken one by one in stream order from the first on."""

    def __init__(self, own_prefix: str = "") -> None:
        self.own = Own(own_prefix)
        self.stream_seq = 0
        self.types: Counter[str] = Counter()
        self.xp: dict[str, int] = defaultdict(int)
        self.tokens: dict[str, int] = defaultdict(int)
        self.treasury = 0
        self.completions: Counter[tuple[str, str]] = Counter()
        self._scores: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        self.refused: Counter[str] = Counter()
        self.faults: list[str] = []
        self.faults_total = 0
        self._versions: dict[str, int] = {}
        self._commands: set[str] = set()
        self._command = ""
        self._effects: set[tuple[str, str]] = set()

    @property
    def domain_types(self) -> dict[str, int]:
        """Events by type without those of inboxes."""
        return {name: count for name, count in self.types.items() if name != INBOX_EVENT}

    @property
    def inbox_events(self) -> int:
        """How many batches were committed."""
        return self.types[INBOX_EVENT]

    @property
    def commands(self) -> int:
        """How many commands left events."""
        return len(self._commands)

    def board(self, name: str) -> list[tuple[str, int]]:
        """A leaderboard as it must be now, by the ledger's own name for it: players and scores, the best first."""
        scores = self._scores[name]
        return [(player, abs(scores[player][0])) for player in sorted(scores, key=lambda each: scores[each])]

    def add(self, stream_seq: int, body: bytes) -> None:
        """Take the next event."""
        if stream_seq != self.stream_seq + 1:
            self._fault(f"event {stream_seq} of the stream follows event {self.stream_seq}")
        self.stream_seq = stream_seq
        try:
            event = _envelope_of(body)
            facts = _facts_of(event.data)
        except msgspec.MsgspecError as err:
            self._fault(f"event {stream_seq} of the stream cannot be read: {err}")
            return
        self.types[event.type] += 1
        version = self._versions.get(event.subject, 0) + 1
        if event.aggregateversion != version:
            self._fault(f"{event.id} has version {event.aggregateversion}, {event.subject} was to get {version}")
        self._versions[event.subject] = event.aggregateversion
        if event.type == INBOX_EVENT:
            self.refused.update(entry[2] for entry in facts.refused)
            return
        self._attribute(event)
        self._account(event, facts)

    def _attribute(self, event: _Envelope) -> None:
        """The events of one command stand together, and none has a type twice on one aggregate."""
        effect = (event.subject, event.type)
        if event.causationid != self._command:
            self._command = event.causationid
            self._effects.clear()
            if self._command in self._commands:
                self._fault(f"{event.id} repeats command {self._command}, whose events stand further up")
            self._commands.add(self._command)
        elif effect in self._effects:
            self._fault(f"{event.id} is another {event.type} of command {self._command} on {event.subject}")
        self._effects.add(effect)

    def _account(self, event: _Envelope, facts: _Facts) -> None:
        owner = event.subject.partition("/")[2]
        kind = event.type
        if event.causationid.startswith(self.own.prefix):
            self._account_own(owner, kind, facts)
        if kind == "quest-completed/1":
            self.completions[owner, facts.quest] += 1
            for board in (f"quest:{facts.quest}", *(f"division:{facts.quest}:{one}" for one in facts.divisions)):
                self._scores[board][owner] = (facts.elapsed_ms, self.stream_seq)
        elif kind == "xp-awarded/1":
            self.xp[owner] += facts.amount
            self._scores["xp"][owner] = (-self.xp[owner], self.stream_seq)
            if self.xp[owner] != facts.total:
                self._fault(f"{event.id} states {facts.total} XP, its player's awards add up to {self.xp[owner]}")
        elif kind in _SIGN:
            self.tokens[owner] += _SIGN[kind] * facts.amount
            if kind in _WITH_TREASURY:
                self.treasury -= _SIGN[kind] * facts.amount
            if self.tokens[owner] != facts.balance:
                self._fault(f"{event.id} states a balance of {facts.balance}, movements add up to {self.tokens[owner]}")

    def _account_own(self, owner: str, kind: str, facts: _Facts) -> None:
        own = self.own
        own.types[kind] += 1
        if kind == "quest-completed/1":
            own.finishers.add(owner)
        elif kind == "xp-awarded/1":
            own.xp[owner] += facts.amount
        elif kind in _SIGN:
            own.tokens[owner] += _SIGN[kind] * facts.amount

    def _fault(self, line: str) -> None:
        self.faults_total += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(line)
