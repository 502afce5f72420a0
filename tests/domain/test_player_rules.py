import pytest

from domain import errors, player, quest
from domain.player import AbandonQuest, AcceptQuest, CompleteQuest, PlayerState, ReachStep, RegisterPlayer
from domain.quest import PublishQuest, QuestState, RetireQuest, Rewards, Step

START = 1_398_088_800_000


def race(**changes) -> QuestState:
    definition = {
        "title": "Race",
        "steps": (Step(id="5k", xp=10), Step(id="10k", xp=10)),
        "rewards": Rewards(xp=100, tokens=26, badge="finisher"),
        "divisions": ("runners",),
    }
    command = PublishQuest(**{**definition, **changes})
    (published,) = quest.decide(command, quest.INITIAL, "race")
    return quest.evolve(quest.INITIAL, published)


def given(*commands, definition: QuestState | None = None, at_ms: int = START) -> PlayerState:
    state = player.INITIAL
    for command in commands:
        if isinstance(command, RegisterPlayer):
            events = player.register(command, state, "p")
        else:
            events = player.decide(command, state, "p", definition or race(), at_ms)
        for event in events:
            state = player.evolve(state, event, at_ms)
    return state


REGISTERED = RegisterPlayer(region="USA")
ACCEPTED = AcceptQuest(quest="race", divisions=("runners",))


def test_a_completion_awards_the_quests_xp_and_that_of_the_steps_reached():
    state = given(REGISTERED, ACCEPTED, ReachStep(quest="race", step="5k", elapsed_ms=900_000))

    events = player.decide(CompleteQuest(quest="race", elapsed_ms=2_000_000), state, "p", race(), START)

    assert [type(event).__name__ for event in events] == ["QuestCompleted", "XpAwarded", "BadgeAwarded"]
    assert events[0].steps_reached == 1
    assert events[0].steps_total == 2
    assert events[0].divisions == ("runners",)
    assert (events[1].amount, events[1].total, events[1].level) == (110, 110, 2)


def test_a_missed_step_does_not_stop_a_finish():
    state = given(REGISTERED, ACCEPTED)

    events = player.decide(CompleteQuest(quest="race", elapsed_ms=1), state, "p", race(), START)

    assert events[0].steps_reached == 0
    assert events[1].amount == 100


@pytest.mark.parametrize(
    ("history", "command", "refusal"),
    [
        ([], ACCEPTED, errors.NotRegistered),
        ([REGISTERED], CompleteQuest(quest="race", elapsed_ms=1), errors.NotAccepted),
        ([REGISTERED, ACCEPTED], ACCEPTED, errors.AlreadyAccepted),
        ([REGISTERED], AcceptQuest(quest="race", divisions=("swimmers",)), errors.UnknownDivision),
        ([REGISTERED, ACCEPTED], ReachStep(quest="race", step="moon", elapsed_ms=1), errors.UnknownStep),
        (
            [REGISTERED, ACCEPTED, ReachStep(quest="race", step="5k", elapsed_ms=1)],
            ReachStep(quest="race", step="5k", elapsed_ms=2),
            errors.StepAlreadyReached,
        ),
        (
            [REGISTERED, ACCEPTED, ReachStep(quest="race", step="5k", elapsed_ms=50)],
            CompleteQuest(quest="race", elapsed_ms=49),
            errors.FinishBeforeStart,
        ),
        (
            [REGISTERED, ACCEPTED, CompleteQuest(quest="race", elapsed_ms=1)],
            CompleteQuest(quest="race", elapsed_ms=1),
            errors.AlreadyCompleted,
        ),
        ([REGISTERED, ACCEPTED, CompleteQuest(quest="race", elapsed_ms=1)], ACCEPTED, errors.AlreadyCompleted),
        ([REGISTERED, ACCEPTED, AbandonQuest(quest="race")], AbandonQuest(quest="race"), errors.NotAccepted),
    ],
)
def test_a_rule_that_says_no_refuses_and_says_why(history, command, refusal):
    state = given(*history)

    with pytest.raises(refusal) as caught:
        player.decide(command, state, "p", race(), START)

    assert caught.value.code != "refused"
    assert "\n" not in caught.value.message


def test_a_finish_before_the_start_is_refused():
    state = given(REGISTERED, ACCEPTED)

    with pytest.raises(errors.FinishBeforeStart, match="lies before the start"):
        player.decide(CompleteQuest(quest="race", elapsed_ms=5), state, "p", race(), START - 1)


def test_an_abandoned_quest_can_be_accepted_again_as_a_new_attempt():
    state = given(REGISTERED, ACCEPTED, ReachStep(quest="race", step="5k", elapsed_ms=5), AbandonQuest(quest="race"))

    (accepted,) = player.decide(ACCEPTED, state, "p", race(), START)

    assert accepted.attempt == 2
    assert player.evolve(state, accepted, START).attempts["race"].steps == ()


@pytest.mark.parametrize(
    ("offset_ms", "refusal"), [(-1, errors.QuestNotOpen), (0, None), (999, None), (1000, errors.QuestClosed)]
)
def test_the_window_is_half_open(offset_ms, refusal):
    definition = race(opens_at="2014-04-21T14:00:00.000Z", closes_at="2014-04-21T14:00:01.000Z")
    state = given(REGISTERED)

    if refusal is None:
        assert player.decide(ACCEPTED, state, "p", definition, START + offset_ms)
    else:
        with pytest.raises(refusal, match="2014-04-21T14:00:0"):
            player.decide(ACCEPTED, state, "p", definition, START + offset_ms)


def test_a_retired_quest_takes_nothing():
    definition = race()
    (retired,) = quest.decide(RetireQuest(reason="over"), definition, "race")
    definition = quest.evolve(definition, retired)

    with pytest.raises(errors.RetiredQuest):
        player.decide(ACCEPTED, given(REGISTERED), "p", definition, START)


def test_an_unpublished_quest_is_unknown():
    with pytest.raises(errors.UnknownQuest):
        player.decide(ACCEPTED, given(REGISTERED), "p", quest.INITIAL, START)


def test_a_player_registers_once():
    with pytest.raises(errors.AlreadyRegistered):
        player.register(REGISTERED, given(REGISTERED), "p")


@pytest.mark.parametrize(("xp", "level"), [(0, 1), (99, 1), (100, 2), (399, 2), (400, 3), (10_000, 11)])
def test_each_level_takes_longer_than_the_one_before(xp, level):
    assert player.level_of(xp) == level
