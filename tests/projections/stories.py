"""Streams for the projection tests, decided by the real domain, and the fold that the sinks are compared with.

The fold reads the JSON of the bodies and nothing else: it shares no code with the projectors.
"""

import json
import random
from collections import Counter, defaultdict

from bus.envelope import (
    COMMANDS_DECIDED,
    JSON,
    CommandsDecided,
    EventEnvelope,
    Recorded,
    encode_data,
    encode_event,
    schema_of,
    source_of,
    stored_name,
)
from bus.follower import StreamIdentity
from domain import catalogue
from domain.catalogue import Key
from domain.errors import Refused
from domain.player import AbandonQuest, AcceptQuest, CompleteQuest, ExpireAttempt, ReachStep, RegisterPlayer
from domain.quest import CloseQuest, PublishQuest, RetireQuest, Rewards, Step
from domain.token import MintTokens, SpendTokens, TransferTokens
from domain.values import to_ms, to_time

START_MS = 1_398_088_800_000  # 2014-04-21T14:00:00Z
STEPS = ("5k", "10k", "half", "40k")
DIVISIONS = ("runners", "runners-women", "wheelchairs")


class Story:
    """A stream of one tenant that grows by commands; refused ones leave nothing."""

    def __init__(self, tenant):
        self.tenant = tenant
        self.stream = StreamIdentity(f"EVENTS_{tenant}", "2026-11-21T10:00:00.123456789Z")
        self.records = []
        self._states = {}
        self._versions = Counter()
        self._commands = 0

    def tell(self, aggregate, owner, command, at_ms=START_MS):
        """Decide a command and record its events; returns them, nothing when it was refused."""
        needed = catalogue.plan(Key(aggregate, owner), command)
        keys = needed.keys
        states = {key: self._states.get(key, catalogue.initial(key.aggregate)) for key in keys}
        try:
            decided = catalogue.decide(needed, command, states, at_ms)
        except Refused:
            return []
        self._commands += 1
        for key, event in decided:
            before = self._states.get(key, catalogue.initial(key.aggregate))
            self._states[key] = catalogue.evolve(key.aggregate, before, event, at_ms)
        return [self.record(key.aggregate, key.id, event, at_ms) for key, event in decided]

    def decide_inbox(self):
        """End a batch as a worker does."""
        decided = CommandsDecided(partition=3, first_seq=1, last_seq=self._commands, accepted=self._commands, batch="b")
        return self.record("inbox", "3", decided, START_MS)

    def record(self, aggregate, owner, event, at_ms):
        """Put an event into the stream as it is."""
        subject = f"{aggregate}/{owner}"
        self._versions[subject] += 1
        name = stored_name(event)
        body = encode_event(
            EventEnvelope(
                specversion="1.0",
                id=f"{aggregate}.{owner}.{self._versions[subject]}",
                source=source_of(self.tenant),
                type=name,
                subject=subject,
                time=to_time(at_ms),
                recordedtime=to_time(START_MS + len(self.records)),
                datacontenttype=JSON,
                dataschema=schema_of(name),
                tenantid=self.tenant,
                aggregateversion=self._versions[subject],
                causationid=f"c{self._commands}",
                data=encode_data(event),
            )
        )
        self.records.append(Recorded(len(self.records) + 1, body))
        return self.records[-1]

    def batch(self, first, last):
        """Fresh records of these sequences, both included, as a reader would bring them."""
        return [Recorded(record.stream_seq, record.body) for record in self.records[first - 1 : last]]


def publish(story, quest="race", supply=None, **more):
    rewards = Rewards(xp=1000, tokens=26, badge="finisher")
    steps = tuple(Step(id=step, xp=10) for step in STEPS)
    command = PublishQuest(
        title='The "Race" \\ of, 2014', steps=steps, rewards=rewards, divisions=DIVISIONS, supply=supply, **more
    )
    return story.tell("quest", quest, command, START_MS - 3_600_000)


def finish(story, player, elapsed_ms, *, quest="race", divisions=("runners",)):
    """Register, accept and complete in one go."""
    story.tell("player", player, RegisterPlayer(region="USA", cohort=None), START_MS - 3_600_000)
    story.tell("player", player, AcceptQuest(quest=quest, divisions=divisions), START_MS)
    return story.tell("player", player, CompleteQuest(quest=quest, elapsed_ms=elapsed_ms), START_MS + elapsed_ms)


def random_story(tenant, seed, events=400, players=25, minutes=600, *, is_in_order=False):
    """A stream in which everything happens, in an order that the seed decides.

    With `is_in_order` the times of one player rise, and only those of different players are mixed.
    """
    dice = random.Random(seed)
    story = Story(tenant)
    closes_at = to_time(START_MS + 36 * 3_600_000)
    for quest, supply, more in (
        ("race", None, {"closes_at": closes_at}),
        ("hunt", 5, {}),
        ("NULL", None, {"attempt_deadline_ms": 1_800_000}),
    ):
        publish(story, quest, supply, **more)
    names = [*(f"p{number}" for number in range(players)), "NULL", "treasury"]
    while len(story.records) < events:
        player, quest = dice.choice(names), dice.choice(["race", "hunt", "NULL"])
        elapsed = dice.randrange(1, minutes // 10) * 600_000
        if is_in_order:
            elapsed = 600_000 * (sum(player.encode()) % 7) + 120_000 * len(story.records)
        command = dice.choices(
            [
                RegisterPlayer(region=dice.choice(["USA", None]), cohort=dice.choice(["c1", None])),
                AcceptQuest(quest=quest, divisions=tuple(dice.sample(DIVISIONS, dice.randrange(3)))),
                ReachStep(quest=quest, step=dice.choice(STEPS), elapsed_ms=elapsed),
                CompleteQuest(quest=quest, elapsed_ms=elapsed),
                AbandonQuest(quest=quest, reason=dice.choice(["", 'tired\\, "really"'])),
                ExpireAttempt(quest=quest, attempt=1),
                MintTokens(amount=dice.randrange(1, 50), reason=dice.choice(["", "gift"])),
                SpendTokens(amount=dice.randrange(1, 50), reason="a, b"),
                TransferTokens(recipient=dice.choice(names), amount=dice.randrange(1, 30)),
            ],
            [4, 4, 5, 3, 1, 1, 2, 2, 3],
        )[0]
        aggregate = "token" if "Tokens" in type(command).__name__ else "player"
        story.tell(aggregate, player, command, START_MS + elapsed)
        if dice.random() < 0.05:
            story.decide_inbox()
    story.tell("quest", "race", CloseQuest(), to_ms(closes_at))
    story.tell("quest", "hunt", RetireQuest(reason="over"))
    story.decide_inbox()
    return story


_QUEST_DAY = (
    "quest-accepted",
    "step-reached",
    "quest-completed",
    "quest-abandoned",
    "attempt-expired",
    "badge-awarded",
)


def fold(bodies):
    """What the read sides must hold after these bodies."""
    state = {
        "players": {}, "badges": set(), "attempts": {}, "steps": {}, "balances": defaultdict(int),
        "postings": [], "quests": {}, "quest_steps": {}, "scores": defaultdict(dict), "types": Counter(),
        "xp_awards": set(), "days": defaultdict(lambda: dict.fromkeys(("registered", "minted", "spent", "sent"), 0)),
        "quest_days": defaultdict(lambda: dict.fromkeys(_QUEST_DAY, 0)),
    }  # fmt: skip
    state["bodies"] = list(bodies)
    for stream_seq, body in enumerate(state["bodies"], 1):
        event = json.loads(body)
        state["types"][event["type"]] += 1
        if event["type"] != COMMANDS_DECIDED:
            _count_days(state, event)
            _fold_one(state, stream_seq, event, event["subject"].split("/")[1], event["data"])
    return state


def _fold_one(state, seq, event, owner, data):
    kind = event["type"].removesuffix("/1")
    attempt = (owner, data.get("quest"), data.get("attempt"))
    if kind == "player-registered":
        state["players"][owner] = [data["region"], data["cohort"], 0, 1]
    elif kind == "quest-accepted":
        state["attempts"][attempt] = ["accepted", None, data["divisions"]]
        state["quests"][data["quest"]]["accepted"] += 1
    elif kind == "step-reached":
        state["steps"][(*attempt, data["step"])] = data["elapsed_ms"]
        state["quest_steps"][data["quest"], data["step"]] += 1
    elif kind == "quest-completed":
        state["attempts"][attempt][0] = "completed"
        state["attempts"][attempt][1] = data["elapsed_ms"]
        state["quests"][data["quest"]]["completed"] += 1
        for board in ("", *(f":{division}" for division in data["divisions"])):
            state["scores"][f"quest:{data['quest']}{board}"][owner] = (data["elapsed_ms"], seq)
    elif kind == "quest-abandoned":
        state["attempts"][attempt][0] = "abandoned"
        state["quests"][data["quest"]]["abandoned"] += 1
    elif kind == "attempt-expired":
        state["attempts"][attempt][0] = "expired"
        state["quests"][data["quest"]]["expired"] += 1
    elif kind == "xp-awarded":
        state["players"][owner][2] += data["amount"]
        state["players"][owner][3] = data["level"]
        state["xp_awards"].add((owner, data["quest"], data["amount"], state["players"][owner][2]))
        state["scores"]["xp"][owner] = (-state["players"][owner][2], seq)
    elif kind == "badge-awarded":
        state["badges"].add((owner, data["quest"], data["badge"]))
    elif kind == "quest-published":
        state["quests"][owner] = {
            "title": data["title"],
            "accepted": 0,
            "completed": 0,
            "abandoned": 0,
            "expired": 0,
            "taken": 0,
        }
        state["quest_steps"] |= {(owner, step["id"]): 0 for step in data["steps"]}
    elif kind == "supply-taken":
        state["quests"][owner]["taken"] += 1
    elif kind.startswith("tokens-"):
        _fold_tokens(state, seq, kind, owner, data)


def _count_days(state, event):
    kind, day = event["type"].removesuffix("/1"), event["time"].split("T")[0]
    if kind in _QUEST_DAY:
        state["quest_days"][event["data"]["quest"], day][kind] += 1
    elif kind == "player-registered":
        state["days"][day]["registered"] += 1
    elif kind in {"tokens-minted", "tokens-spent", "tokens-sent"}:
        state["days"][day][kind.removeprefix("tokens-")] += event["data"]["amount"]


def _fold_tokens(state, seq, kind, owner, data):
    amount = data["amount"] if kind in {"tokens-minted", "tokens-received"} else -data["amount"]
    other = data.get("recipient") or data.get("sender") or "@treasury"
    sides = [(owner, amount, other)]
    if other == "@treasury":
        sides.append((other, -amount, owner))
    for account, change, counterparty in sides:
        state["balances"][account] += change
        state["postings"].append((account, seq, counterparty, change, data["reason"]))


def ranking(scores):
    """Players in the order of a board: by score, then by who was there first."""
    return sorted(scores, key=lambda player: scores[player])
