import msgspec
import pytest

from domain import catalogue, errors
from domain.catalogue import Key
from domain.player import AcceptQuest, CompleteQuest, RegisterPlayer
from domain.quest import PublishQuest, RetireQuest, Rewards, Step
from domain.token import MintTokens, SpendTokens, TransferTokens
from domain.values import EncryptedField, to_ms, to_time

AT_MS = 1_398_088_800_000


class World:
    """All aggregates as a plain dict: the slow, obvious way to run commands."""

    def __init__(self):
        self.states = {}
        self.events = []

    def run(self, aggregate, owner, command, at_ms=AT_MS):
        plan = catalogue.plan(Key(aggregate, owner), command)
        keys = (*plan.writes, *plan.reads, *plan.facts)
        states = {key: self.states.get(key, catalogue.initial(key.aggregate)) for key in keys}
        decided = catalogue.decide(plan, command, states, at_ms)
        for key, event in decided:
            before = self.states.get(key, catalogue.initial(key.aggregate))
            self.states[key] = catalogue.evolve(key.aggregate, before, event, at_ms)
        self.events += decided
        return decided

    def balance(self, owner):
        return self.states[Key("token", owner)].balance


def world(*, supply=None, players=("a", "b")):
    found = World()
    rewards = Rewards(xp=10, tokens=5, badge="first")
    found.run("quest", "q", PublishQuest(title="Q", steps=(Step(id="s"),), rewards=rewards, supply=supply))
    for name in players:
        found.run("player", name, RegisterPlayer())
        found.run("player", name, AcceptQuest(quest="q"))
    return found


def test_a_completion_writes_player_and_account_together():
    found = world()

    decided = found.run("player", "a", CompleteQuest(quest="q", elapsed_ms=9))

    names = [catalogue.STORED_NAMES[type(event)] for _, event in decided]
    assert names == ["quest-completed/1", "xp-awarded/1", "badge-awarded/1", "tokens-minted/1"]
    assert [key for key, _ in decided] == [Key("player", "a")] * 3 + [Key("token", "a")]
    assert found.balance("a") == 5


def test_the_first_get_the_badge_and_the_others_complete_without_it():
    found = world(supply=1)

    first = found.run("player", "a", CompleteQuest(quest="q", elapsed_ms=9))
    second = found.run("player", "b", CompleteQuest(quest="q", elapsed_ms=8))

    assert [catalogue.STORED_NAMES[type(event)] for _, event in first][2:] == [
        "badge-awarded/1",
        "tokens-minted/1",
        "supply-taken/1",
    ]
    assert [catalogue.STORED_NAMES[type(event)] for _, event in second] == [
        "quest-completed/1",
        "xp-awarded/1",
        "tokens-minted/1",
    ]
    assert found.states[Key("quest", "q")].taken == 1


def test_a_transfer_moves_tokens_and_makes_none():
    found = world()
    found.run("token", "a", MintTokens(amount=7))

    found.run("token", "a", TransferTokens(recipient="b", amount=3))

    assert (found.balance("a"), found.balance("b")) == (4, 3)


@pytest.mark.parametrize(
    ("owner", "command", "refusal", "line"),
    [
        ("a", SpendTokens(amount=1), errors.InsufficientTokens, "balance is 0, 1 needed"),
        ("a", TransferTokens(recipient="a", amount=1), errors.InvalidData, "cannot send tokens to itself"),
        ("nobody", MintTokens(amount=1), errors.NotRegistered, "nobody is not registered"),
    ],
)
def test_a_movement_that_cannot_be_is_refused(owner, command, refusal, line):
    found = world()

    with pytest.raises(refusal, match=line):
        found.run("token", owner, command)


def test_tokens_go_to_registered_players_only():
    found = world()
    found.run("token", "a", MintTokens(amount=7))

    with pytest.raises(errors.UnknownRecipient):
        found.run("token", "a", TransferTokens(recipient="nobody", amount=1))

    assert found.balance("a") == 7


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": (Step(id="s"), Step(id="s"))}, "names a step twice"),
        ({"divisions": ("d", "d")}, "names a division twice"),
        ({"supply": 3}, "has a supply but no badge"),
        ({"opens_at": "2014-02-30T00:00:00.000Z"}, "no moment of the calendar"),
        (
            {"opens_at": "2014-01-02T00:00:00.000Z", "closes_at": "2014-01-02T00:00:00.000Z"},
            "not after it opens",
        ),
    ],
)
def test_a_quest_that_contradicts_itself_is_refused(changes, line):
    with pytest.raises(errors.InvalidData, match=line):
        World().run("quest", "q", PublishQuest(title="Q", **changes))


def test_a_quest_is_published_once_and_retired_once():
    found = world()

    with pytest.raises(errors.QuestExists):
        found.run("quest", "q", PublishQuest(title="again"))
    found.run("quest", "q", RetireQuest())
    with pytest.raises(errors.RetiredQuest):
        found.run("quest", "q", RetireQuest())


def test_a_personal_field_enters_an_event_only_as_ciphertext():
    field = {"alg": "AES-256-GCM", "key_id": "k1", "nonce": "AAAAAAAAAAAAAAAA", "ciphertext": "c2VjcmV0"}

    command = msgspec.convert({"personal": {"name": field}}, RegisterPlayer)

    assert command.personal["name"] == EncryptedField(**field)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"personal": {"name": "Ada"}}, RegisterPlayer)


@pytest.mark.parametrize("at_ms", [0, 1, 999, AT_MS, -1, 253_370_764_799_999])
def test_a_time_survives_writing_and_reading(at_ms):
    assert to_ms(to_time(at_ms)) == at_ms
