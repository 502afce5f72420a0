"""The projectors as pure functions: events in, writes out."""

import pytest
from stories import START_MS, STEPS, Story, finish, publish, random_story

from bus.envelope import Recorded
from bus.gist import KINDS
from domain.player import AcceptQuest, CompleteQuest, ReachStep, RegisterPlayer
from domain.token import MintTokens, SpendTokens, TransferTokens
from projections import analytics, leaderboards, positions, read_models
from projections.boards import Board, BoardSettings, Definition, quest_board, xp_board
from projections.errors import OutOfOrder, UnknownEvent
from projections.leaderboards import Projector
from projections.read_models import TREASURY


def story_with_two_finishers():
    story = Story("t")
    publish(story)
    finish(story, "ann", 7_200_000, divisions=("runners", "runners-women"))
    finish(story, "bob", 7_200_000, divisions=("wheelchairs",))
    return story


def test_a_completion_is_scored_over_all_and_in_its_divisions():
    boards = Projector(BoardSettings()).project(story_with_two_finishers().records).boards

    told = {
        name: {player: value for player, (value, _) in changes.by_player.items()} for name, changes in boards.items()
    }
    assert told == {
        "xp": {"ann": -1000, "bob": -1000},
        "quest:race": {"ann": 7_200_000, "bob": 7_200_000},
        "division:race:runners": {"ann": 7_200_000},
        "division:race:runners-women": {"ann": 7_200_000},
        "division:race:wheelchairs": {"bob": 7_200_000},
    }


def test_several_xp_awards_in_a_batch_add_up_and_the_last_one_says_since_when():
    story = Story("t")
    for quest in ("race", "hunt"):
        publish(story, quest)
        finish(story, "ann", 600_000, quest=quest)

    changes = Projector(BoardSettings()).project(story.records).boards["xp"]

    last = next(r.stream_seq for r in reversed(story.records) if r.event.type == "xp-awarded/1")
    assert changes.by_player == {"ann": (-2000, last)}


def test_who_got_there_first_sorts_first_among_equal_scores():
    by_player = Projector(BoardSettings()).project(story_with_two_finishers().records).boards["quest:race"].by_player
    ann, bob = (leaderboards.member_of(by_player[player][1], player) for player in ("ann", "bob"))

    assert ann < bob
    wide = [1, 9, 10, 15, 16, 255, 256, 0xFFFFF, 0x100000, 2**48 - 1]
    assert sorted(wide, key=lambda seq: leaderboards.member_of(seq, "player")) == wide
    assert [leaderboards.player_of(leaderboards.member_of(seq, "7eve")) for seq in wide] == ["7eve"] * len(wide)
    assert [leaderboards.player_of(member) for member in (ann, bob)] == ["ann", "bob"]


def test_names_of_boards_cannot_meet():
    daily = Definition(name="quest-a", metric="xp", window="day")
    boards = [xp_board(), quest_board("xp"), quest_board("a", "b"), quest_board("a-b"), quest_board("a")]
    boards += [Board(daily, "2014-04-21"), Board(daily, "2014-04-21", ("b",)), Board(daily, "", ("b",))]

    assert len({board.name for board in boards}) == len(boards)


@pytest.mark.parametrize("projector", [Projector(BoardSettings()), read_models], ids=["leaderboards", "read models"])
def test_an_event_of_an_unknown_type_is_refused_by_name(projector):
    body = story_with_two_finishers().records[-1].body
    stranger = Recorded(9, body.replace(b'"tokens-minted/1"', b'"tokens-melted/1"'))

    with pytest.raises(UnknownEvent, match="tokens-melted/1"):
        projector.project([stranger])


def test_every_type_of_event_changes_the_read_models_or_is_passed_over_by_name():
    assert {*read_models.HANDLERS, *read_models.PASSED_OVER} == KINDS.keys()
    assert not read_models.PASSED_OVER & read_models.HANDLERS.keys()


def test_what_happens_to_a_row_in_the_batch_that_adds_it_is_in_the_row():
    story = Story("t")
    publish(story)
    story.tell("player", "ann", RegisterPlayer(region="USA", cohort="c1"))
    story.tell("player", "ann", AcceptQuest(quest="race", divisions=("runners",)))
    story.tell("player", "ann", ReachStep(quest="race", step=STEPS[0], elapsed_ms=60_000), START_MS + 60_000)
    story.tell("player", "ann", CompleteQuest(quest="race", elapsed_ms=90_000), START_MS + 90_000)

    writes = read_models.project(story.records)

    assert writes.players == {"ann": ["ann", "USA", "c1", "2014-04-21T14:00:00.000Z", 1010, 4]}
    row = writes.attempts["ann", "race", 1]
    assert row[3:] == [
        '{"runners"}', "completed", "2014-04-21T14:00:00.000Z", "2014-04-21T14:01:30.000Z", 90_000
    ]  # fmt: skip
    assert not writes.players_changed
    assert not writes.attempts_changed


def test_what_happens_to_an_older_row_is_a_change_of_it():
    story = Story("t")
    publish(story)
    story.tell("player", "ann", RegisterPlayer())
    story.tell("player", "ann", AcceptQuest(quest="race"))
    before = len(story.records)
    story.tell("player", "ann", CompleteQuest(quest="race", elapsed_ms=90_000), START_MS + 90_000)

    writes = read_models.project(story.records[before:])

    assert writes.players_changed == {"ann": (1000, 4)}
    assert writes.attempts_changed["ann", "race", 1].status == "completed"
    assert (writes.quests_changed["race"].completed, writes.quests_changed["race"].best_ms) == (1, 90_000)
    assert not writes.players
    assert not writes.attempts


def test_every_movement_has_two_sides_that_sum_to_zero():
    story = Story("t")
    for player in ("ann", "bob"):
        story.tell("player", player, RegisterPlayer())
    story.tell("token", "ann", MintTokens(amount=50, reason="gift"))
    story.tell("token", "ann", TransferTokens(recipient="bob", amount=20))
    story.tell("token", "bob", SpendTokens(amount=5))

    writes = read_models.project(story.records)

    sides = [(account, other, amount) for account, _, other, amount, *_ in writes.postings]
    assert sides == [
        ("ann", TREASURY, 50), (TREASURY, "ann", -50),
        ("ann", "bob", -20), ("bob", "ann", 20),
        ("bob", TREASURY, -5), (TREASURY, "bob", 5),
    ]  # fmt: skip
    assert writes.balances == {"ann": 30, "bob": 15}
    assert writes.treasury == -45


def test_the_first_half_of_a_transfer_waits_for_the_second():
    story = Story("t")
    for player in ("ann", "bob"):
        story.tell("player", player, RegisterPlayer())
    story.tell("token", "ann", MintTokens(amount=50))
    story.tell("token", "ann", TransferTokens(recipient="bob", amount=20))

    assert read_models.whole_movements(story.records) == 5
    assert read_models.whole_movements(story.records[:4]) == 3
    assert read_models.whole_movements([]) == 0


def test_the_body_of_every_event_can_be_built_again_from_its_row():
    story = random_story("t", seed=3)

    rows = analytics.project(story.records)

    for at, record in enumerate(story.records):
        row = {name: getattr(rows, name)[at] for name in rows.__struct_fields__}
        assert analytics.body_of(row) == record.body
        assert analytics.is_faithful(row)


def test_a_row_that_is_altered_in_any_column_is_found_out():
    record = story_with_two_finishers().records[-1]
    rows = analytics.project([record])
    row = {name: getattr(rows, name)[0] for name in rows.__struct_fields__}

    for name, value in row.items():
        if name == "stream_seq":  # not in the body: the order is what the position and the gapless count hold
            continue
        other = value + 1 if isinstance(value, int) else b"x" * 32 if name == "leaf_hash" else "other"
        altered = b'{"amount":27}' if name == "data" else other
        assert not analytics.is_faithful(row | {name: altered}), name


def test_a_position_moves_only_over_records_that_follow_it_without_a_gap():
    story = story_with_two_finishers()
    start = positions.start(story.stream)

    third = positions.advance("x", start, story.batch(1, 3))

    assert third.stream_seq == 3
    assert positions.advance("x", third, []) is third
    for wrong in (story.batch(1, 3), story.batch(5, 6), [*story.batch(4, 4), *story.batch(6, 6)]):
        with pytest.raises(OutOfOrder):
            positions.advance("x", third, wrong)
