"""Windows that close and attempts that expire: what the rules say once a timer, or anybody else, says so."""

import msgspec
import pytest

from domain import catalogue, player, quest
from domain.catalogue import Key
from domain.errors import Refused
from domain.player import AbandonQuest, AcceptQuest, CompleteQuest, ExpireAttempt, ReachStep, RegisterPlayer
from domain.quest import CloseQuest, PublishQuest, RetireQuest, Rewards, Step
from domain.values import to_ms, to_time

START_MS = to_ms("2026-11-21T10:00:00.000Z")
CLOSES_AT_MS = START_MS + 60_000
DEADLINE_MS = 10_000


class World:
    def __init__(self, **definition):
        self.states = {}
        rewards = Rewards(xp=10, tokens=5, badge="first")
        definition = {"title": "Q", "steps": (Step(id="s"),), "rewards": rewards, **definition}
        self.run("quest", "q", PublishQuest(**definition))
        self.run("player", "p", RegisterPlayer())

    def run(self, aggregate, owner, command, at_ms=START_MS):
        """Types of the events, or the refusal's code."""
        needed = catalogue.plan(Key(aggregate, owner), command)
        keys = needed.keys
        states = {key: self.states.get(key, catalogue.initial(key.aggregate)) for key in keys}
        try:
            decided = catalogue.decide(needed, command, states, at_ms)
        except Refused as refusal:
            return refusal.code
        for key, event in decided:
            before = self.states.get(key, catalogue.initial(key.aggregate))
            self.states[key] = catalogue.evolve(key.aggregate, before, event, at_ms)
        return [type(event).__name__ for _, event in decided]

    def play(self, command, at_ms=START_MS):
        return self.run("player", "p", command, at_ms)


ACCEPT = AcceptQuest(quest="q")
FINISH = CompleteQuest(quest="q", elapsed_ms=9)
EXPIRE = ExpireAttempt(quest="q", attempt=1)


@pytest.mark.parametrize(("late_ms", "told"), [(-1, "not-due"), (0, ["QuestClosed"]), (1, ["QuestClosed"])])
def test_a_quest_closes_when_its_window_is_over_and_not_before(late_ms, told):
    world = World(closes_at=to_time(CLOSES_AT_MS))

    assert world.run("quest", "q", CloseQuest(), CLOSES_AT_MS + late_ms) == told


def test_a_quest_closes_once():
    world = World(closes_at=to_time(CLOSES_AT_MS))
    world.run("quest", "q", CloseQuest(), CLOSES_AT_MS)

    assert world.run("quest", "q", CloseQuest(), CLOSES_AT_MS) == "quest-closed"


def test_a_quest_without_an_end_does_not_close():
    assert World().run("quest", "q", CloseQuest(), CLOSES_AT_MS) == "not-due"


def test_what_was_never_published_or_is_retired_does_not_close():
    world = World(closes_at=to_time(CLOSES_AT_MS))
    world.run("quest", "q", RetireQuest())

    assert world.run("quest", "q", CloseQuest(), CLOSES_AT_MS) == "quest-retired"
    assert world.run("quest", "x", CloseQuest(), CLOSES_AT_MS) == "unknown-quest"


@pytest.mark.parametrize("command", [FINISH, ReachStep(quest="q", step="s", elapsed_ms=1), AbandonQuest(quest="q")])
def test_a_recorded_closing_is_final_even_for_what_happened_in_time(command):
    world = World(closes_at=to_time(CLOSES_AT_MS))
    world.play(ACCEPT)
    world.run("quest", "q", CloseQuest(), CLOSES_AT_MS)

    assert world.play(command, CLOSES_AT_MS - 1) == "quest-closed"


def test_while_no_closing_is_recorded_the_time_of_what_happened_decides():
    world = World(closes_at=to_time(CLOSES_AT_MS))
    world.play(ACCEPT)

    assert world.play(FINISH, CLOSES_AT_MS) == "quest-closed"
    assert world.play(FINISH, CLOSES_AT_MS - 1)[0] == "QuestCompleted"


def test_a_closed_quest_can_still_be_retired():
    world = World(closes_at=to_time(CLOSES_AT_MS))
    world.run("quest", "q", CloseQuest(), CLOSES_AT_MS)

    assert world.run("quest", "q", RetireQuest(), CLOSES_AT_MS) == ["QuestRetired"]


@pytest.mark.parametrize(("late_ms", "told"), [(-1, "not-due"), (0, ["AttemptExpired"]), (1, ["AttemptExpired"])])
def test_an_attempt_expires_when_its_deadline_has_passed_and_not_before(late_ms, told):
    world = World(attempt_deadline_ms=DEADLINE_MS)
    world.play(ACCEPT)

    assert world.play(EXPIRE, START_MS + DEADLINE_MS + late_ms) == told


def test_the_deadline_counts_from_the_acceptance_and_is_part_of_the_event():
    world = World(attempt_deadline_ms=DEADLINE_MS)
    definition = world.states[Key("quest", "q")]

    (accepted,) = player.decide(ACCEPT, world.states[Key("player", "p")], "p", definition, START_MS + 5)

    assert accepted.deadline_at == to_time(START_MS + 5 + DEADLINE_MS)


def test_a_deadline_beyond_the_calendar_is_its_last_moment():
    world = World(attempt_deadline_ms=315_576_000_000)
    late_ms = to_ms("9998-12-31T00:00:00.000Z")
    definition = world.states[Key("quest", "q")]

    (accepted,) = player.decide(ACCEPT, world.states[Key("player", "p")], "p", definition, late_ms)

    assert accepted.deadline_at == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("command", [FINISH, ReachStep(quest="q", step="s", elapsed_ms=1), AbandonQuest(quest="q")])
def test_after_its_deadline_an_attempt_takes_nothing_whether_or_not_a_timer_fired(command):
    world = World(attempt_deadline_ms=DEADLINE_MS)
    world.play(ACCEPT)

    assert world.play(command, START_MS + DEADLINE_MS) == "attempt-expired"
    world.play(EXPIRE, START_MS + DEADLINE_MS)
    assert world.play(command, START_MS + DEADLINE_MS) == "attempt-expired"


def test_an_expired_attempt_is_followed_by_a_new_one_with_a_deadline_of_its_own():
    world = World(attempt_deadline_ms=DEADLINE_MS)
    world.play(ACCEPT)
    world.play(EXPIRE, START_MS + DEADLINE_MS)

    assert world.play(ACCEPT, START_MS + 20_000) == ["QuestAccepted"]
    attempt = world.states[Key("player", "p")].attempts["q"]
    assert (attempt.number, attempt.status, attempt.deadline_at_ms) == (2, "running", START_MS + 20_000 + DEADLINE_MS)
    assert world.play(FINISH, START_MS + 20_001)[0] == "QuestCompleted"


def test_accepting_again_after_the_deadline_ends_the_old_attempt_and_its_timer_finds_nothing():
    world = World(attempt_deadline_ms=DEADLINE_MS)
    world.play(ACCEPT)

    assert world.play(ACCEPT, START_MS + DEADLINE_MS - 1) == "already-accepted"
    assert world.play(ACCEPT, START_MS + DEADLINE_MS) == ["AttemptExpired", "QuestAccepted"]
    assert world.play(EXPIRE, START_MS + DEADLINE_MS) == "attempt-ended"


@pytest.mark.parametrize("ending", [FINISH, AbandonQuest(quest="q"), None])
def test_what_ended_otherwise_does_not_expire(ending):
    world = World(attempt_deadline_ms=DEADLINE_MS)
    if ending is not None:
        world.play(ACCEPT)
        world.play(ending)

    assert world.play(EXPIRE, START_MS + DEADLINE_MS) == "attempt-ended"


def test_an_attempt_without_a_deadline_does_not_expire():
    world = World()
    world.play(ACCEPT)

    assert world.play(EXPIRE, START_MS + DEADLINE_MS) == "not-due"


def test_an_attempt_expires_though_its_quest_is_closed_or_retired():
    world = World(attempt_deadline_ms=DEADLINE_MS, closes_at=to_time(START_MS + 1))
    world.play(ACCEPT)
    world.run("quest", "q", CloseQuest(), START_MS + 1)
    world.run("quest", "q", RetireQuest())

    assert world.play(EXPIRE, START_MS + DEADLINE_MS) == ["AttemptExpired"]


def test_events_of_quests_without_deadlines_have_the_bytes_that_they_always_had():
    world = World()
    definition = world.states[Key("quest", "q")]

    (accepted,) = player.decide(ACCEPT, world.states[Key("player", "p")], "p", definition, START_MS)
    (published,) = quest.decide(PublishQuest(title="Q"), quest.INITIAL, "q")

    assert accepted == player.QuestAccepted(quest="q", attempt=1, divisions=())
    assert msgspec.json.encode(accepted) == b'{"quest":"q","attempt":1,"divisions":[]}'
    assert b"attempt_deadline_ms" not in msgspec.json.encode(published)
