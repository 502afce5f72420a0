"""One story that tells every command, event and outcome there is: examples for the documents, bytes for the corpus.

The bodies come out of the same functions as those of a worker, with times and ids given instead of taken.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from bus import outcomes, subjects
from bus.batch import Accepted, Batch, ParkedAnswer, RefusedAnswer
from bus.envelope import JSON, Recorded, decode_command
from bus.errors import BusError
from bus.owners import Owner
from bus.ports import Delivery
from domain.catalogue import COMMANDS, plan
from domain.errors import Refused

TENANT: Final = "boston"
#: The tenant of the story has one partition: every owner is in it.
PARTITION: Final = 0
RECORDED: Final = "2026-11-21T10:00:00.123Z"
RECEIVED_NS: Final = 1_795_255_200_119_482_313
ANSWERED: Final = "2026-11-21T10:00:00.131Z"
BATCH_ID: Final = "0199aa107d3f7a52b0f35b1c7a3f9e01"
#: The sequence of the story's first command, and of its first event.
FIRST_SEQ: Final = 1

_BEFORE, _START, _FINISH = "2014-04-21T13:00:00.000Z", "2014-04-21T14:00:00.000Z", "2014-04-21T16:08:37.200Z"
_DEADLINE, _CLOSING = "2014-04-21T14:10:00.000Z", "2014-04-22T02:00:00.000Z"
_TRACED: Final = {
    "correlationid": "wave-1",
    "actor": "timing mat “Boylston Street”",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
_RACE: Final = {
    "title": 'Boston "Patriots\' Day" Marathon \\ 2014: 42,195 m über Heartbreak Hill',
    "steps": [
        {"id": "half", "xp": 10, "geofence": {"lat_e7": 422964000, "lon_e7": -712927000, "radius_m": 50}},
        {"id": "40k", "xp": 10},
    ],
    "rewards": {"xp": 1000, "tokens": 26, "badge": "finisher-2014"},
    "opens_at": _START,
    "closes_at": _CLOSING,
    "divisions": ["runners", "runners-women"],
}
_SPRINT: Final = {"title": "Ten minutes", "attempt_deadline_ms": 600_000}
_EARLY: Final = {"title": "Early bird", "rewards": {"badge": "early-bird"}, "supply": 500}
_NAME: Final = {
    "alg": "AES-256-GCM",
    "key_id": "person-b19",
    "nonce": "AAECAwQFBgcICQoL",
    "ciphertext": "m2U0kWhfYj3tRZmnu5tUq0yQ0A==",
}
#: Ed25519 keys of the seeds 01 01 … and RFC 8032 7.1 test 1; the approvals are good (tests/ledger).
_KEY_1: Final = "tallyroot.example/ledger/boston+2c5fd84c"
_KEY_2: Final = "tallyroot.example/ledger/boston+025f3354"
_ADDED: Final = {
    "role": "log",
    "vkey": f"{_KEY_2}+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea",
    "approvals": [
        {
            "key": _KEY_1,
            "signature": "xO9BA12jdzUAimtnAkazi57LpYQmV9acSIZBohqlr6NgckpVc4c9AHXQlTGyASn9xfc+jxDvjqIKSoCDEcGjBw==",
        },
        {
            "key": _KEY_2,
            "signature": "9x9uQZOJNFqxV0Wj1cifsckG8feFLA8lTAE9FJhEzm3EW2Nkek4RpjJgCJvx50IANquZVfnX/6E846oz9Tc8Bw==",
        },
    ],
}
_RETIRED: Final = {
    "role": "log",
    "vkey": f"{_KEY_1}+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c",
    "approvals": [
        {
            "key": _KEY_2,
            "signature": "fzGTwtrrbuRMUTLTOPgnCp/koLLSwNg211EPS4yJu7lplFF5Xwv0usbje6by1vQzfUaSZOT8iFS/eRSMEqpUCA==",
        },
    ],
}

#: Command, id, data, time, optional attributes.
_TOLD: Final[tuple[tuple[str, str, dict[str, Any], str, dict[str, str]], ...]] = (
    ("PublishQuest", "boston-2014", _RACE, _BEFORE, {}),
    ("PublishQuest", "early-bird", _EARLY, _BEFORE, {}),
    ("RegisterPlayer", "b19", {"region": "USA", "cohort": "elite", "personal": {"name": _NAME}}, _BEFORE, {}),
    ("RegisterPlayer", "b20", {}, _BEFORE, {}),
    ("AcceptQuest", "b19", {"quest": "boston-2014", "divisions": ["runners"]}, _START, {}),
    ("ReachStep", "b19", {"quest": "boston-2014", "step": "half", "elapsed_ms": 3840000}, _FINISH, {}),
    ("CompleteQuest", "b19", {"quest": "boston-2014", "elapsed_ms": 7717200}, _FINISH, _TRACED),
    ("AcceptQuest", "b19", {"quest": "early-bird"}, _START, {}),
    ("CompleteQuest", "b19", {"quest": "early-bird", "elapsed_ms": 1}, _FINISH, {}),
    ("AcceptQuest", "b20", {"quest": "boston-2014"}, _START, {}),
    ("AbandonQuest", "b20", {"quest": "boston-2014", "reason": "cramp"}, _FINISH, {}),
    ("MintTokens", "b19", {"amount": 5, "reason": "prize draw"}, _FINISH, {}),
    ("SpendTokens", "b19", {"amount": 6, "reason": "cap"}, _FINISH, {}),
    ("TransferTokens", "b19", {"recipient": "b20", "amount": 20, "reason": "thanks"}, _FINISH, {}),
    ("SpendTokens", "b20", {"amount": 1000, "reason": "bicycle"}, _FINISH, {"actor": "shop"}),
    ("RetireQuest", "early-bird", {"reason": "the race is over"}, _FINISH, {}),
    ("PublishQuest", "sprint", _SPRINT, _BEFORE, {}),
    ("AcceptQuest", "b20", {"quest": "sprint"}, _START, {}),
    ("ExpireAttempt", "b20", {"quest": "sprint", "attempt": 1}, _DEADLINE, {"actor": "timers"}),
    ("CloseQuest", "boston-2014", {}, _CLOSING, {"actor": "timers"}),
    ("EnterZone", "b19", {"zone": "copley-square"}, _FINISH, {"actor": "gate"}),
    ("LeaveZone", "b19", {}, _FINISH, {"actor": "gate"}),
    ("AddKey", "keys", _ADDED, _FINISH, {"actor": "operator"}),
    ("RetireKey", "keys", _RETIRED, _FINISH, {"actor": "operator"}),
    ("MintTokens", "b20", {"amount": 7, "reason": "met a fault of ours"}, _FINISH, {}),
)
#: The last command, over which our own code is said to have failed.
_PARKED_SEQ: Final = FIRST_SEQ + len(_TOLD) - 1


class Example(NamedTuple):
    """One message: where it is published, and its bytes."""

    subject: str
    body: bytes


class Story(NamedTuple):
    """The commands in order, the events as one batch commits them, the outcomes as they are sent."""

    commands: list[Example]
    events: list[Example]
    outcomes: list[Example]


def story() -> Story:
    """Commands, events and outcomes of every type, refusal included; the same bytes each time."""
    commands = [_command(number, *told) for number, told in enumerate(_TOLD, FIRST_SEQ)]
    owners: dict[str, Owner] = {}
    batch = Batch(TENANT, RECORDED, lambda owner_id: owners.setdefault(owner_id, Owner()), lambda _: False)
    for seq, (example, told) in enumerate(zip(commands, _TOLD, strict=True), FIRST_SEQ):
        name, owner = told[:2]
        request = decode_command(TENANT, seq, (COMMANDS[name][1], owner, name), example.body)
        target = f"{request.target.aggregate}/{request.target.id}"
        if seq == _PARKED_SEQ:
            batch.park(seq, request.id, target, "RuntimeError: tried three times")
            continue
        try:
            batch.decide(request, target, plan(request.target, request.command))
        except Refused as refusal:
            batch.refuse(seq, request.id, target, refusal.code, refusal.message)
    deliveries = [
        Delivery(seq, example.subject, example.body, None, received_ns=RECEIVED_NS)
        for seq, example in enumerate(commands, FIRST_SEQ)
    ]
    batch.close(PARTITION, None, deliveries[0], deliveries[-1], BATCH_ID)
    events = [Example(message.subject, message.body) for message in batch.messages]
    return Story(commands, events, _outcomes(batch))


def records() -> list[Recorded]:
    """The story's events as they are read from the stream."""
    return [Recorded(seq, event.body) for seq, event in enumerate(story().events, FIRST_SEQ)]


def _command(number: int, name: str, owner: str, data: dict[str, Any], time: str, optional: dict[str, str]) -> Example:
    stored, aggregate, _ = COMMANDS[name]
    body = {
        "specversion": "1.0",
        "id": f"0199aa10-7c1e-7d52-b0f3-5b1c7a3f9e{number:02x}",
        "source": "//timing.example/finish",
        "type": stored,
        "subject": f"{aggregate}/{owner}",
        "time": time,
        "tenantid": TENANT,
        "datacontenttype": JSON,
        **optional,
        "data": data,
    }
    return Example(subjects.command(TENANT, aggregate, owner, name), msgspec.json.encode(body))


def _outcomes(batch: Batch) -> list[Example]:
    sent = []
    accepted = outcomes.AcceptedWriter(TENANT, ANSWERED)
    for answer in batch.answers:
        match answer:
            case Accepted(command_id, subject, first):
                body = accepted.body(subject, command_id, FIRST_SEQ + first, batch.events_of(answer))
            case RefusedAnswer(command_id, subject, code, message):
                body = outcomes.refused(TENANT, ANSWERED, subject, command_id, code, message)
            case ParkedAnswer(command_id, subject, reason):
                body = outcomes.parked(TENANT, ANSWERED, subject, command_id, reason)
            case _:
                raise BusError(f"the story repeats the command {answer.command_id}; wanted each once")
        sent.append(Example(subjects.outcome(TENANT, answer.command_id), body))
    return sent
