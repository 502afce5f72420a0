"""Each comparison holds for what is right, and fails when one input, event or row is altered."""

from __future__ import annotations

import json

import pytest

from simulations.checks import (
    Official,
    check_board,
    check_books,
    check_completions,
    check_history,
    check_leaves,
    check_moments,
    check_sizes,
    check_totals,
    check_types,
    read_official,
)
from simulations.fold import Fold
from simulations.moments import Moment, digest

OFFICIAL = {"b1": Official(1, 100), "b2": Official(2, 200), "b3": Official(3, 200), "b4": Official(4, 400)}
BOARD = [("b1", 100), ("b2", 200), ("b3", 200), ("b4", 400)]


def event(kind: str, subject: str, version: int, cause: str, **data: object) -> bytes:
    aggregate, owner = subject.split("/")
    body = {"specversion": "1.0", "id": f"{aggregate}.{owner}.{version}", "type": kind, "subject": subject}
    return json.dumps({**body, "aggregateversion": version, "causationid": cause, "data": data}).encode()


STREAM = [
    event("quest-published/1", "quest/q", 1, "c1"),
    event("player-registered/1", "player/a", 1, "c2"),
    event("quest-completed/1", "player/a", 2, "c3", quest="q", elapsed_ms=5),
    event("xp-awarded/1", "player/a", 3, "c3", quest="q", amount=50, total=50),
    event("tokens-minted/1", "token/a", 1, "c3", amount=26, balance=26),
    event("commands-decided/1", "inbox/0", 1, "batch", accepted=3, refused=[[4, "c4", "unknown-quest", "…"]]),
    event("xp-awarded/1", "player/a", 4, "c5", quest="r", amount=10, total=60),
    event("tokens-spent/1", "token/a", 2, "c6", amount=6, balance=20),
]


def folded(stream: list[bytes], first: int = 1) -> Fold:
    fold = Fold()
    for stream_seq, body in enumerate(stream, first):
        fold.add(stream_seq, body)
    return fold


def altered(index: int, body: bytes) -> list[bytes]:
    return [*STREAM[:index], body, *STREAM[index + 1 :]]


# -- leaderboards -----------------------------------------------------------------------------------------------------


def test_a_board_in_official_order_holds():
    assert check_board("runners", BOARD, OFFICIAL).ok


def test_equal_times_may_stand_in_either_order():
    assert check_board("runners", [BOARD[0], BOARD[2], BOARD[1], BOARD[3]], OFFICIAL).ok


@pytest.mark.parametrize(
    "board",
    [
        pytest.param([BOARD[1], BOARD[0], *BOARD[2:]], id="two entries swapped"),
        pytest.param(BOARD[:-1], id="one missing"),
        pytest.param([*BOARD, ("b5", 500)], id="one too many"),
        pytest.param([*BOARD, ("b4", 400)], id="one twice"),
        pytest.param([("b1", 101), *BOARD[1:]], id="one time altered by a millisecond"),
        pytest.param([], id="empty"),
    ],
)
def test_an_altered_board_fails(board):
    assert not check_board("runners", board, OFFICIAL).ok


def test_an_inversion_against_the_official_ranks_is_named():
    official = {**OFFICIAL, "b1": Official(4, 100), "b4": Official(1, 400)}

    finding = check_board("runners", BOARD, official)

    assert not finding.ok
    assert "inversion" in finding.detail


def test_the_official_results_are_consistent_with_themselves():
    official = read_official()

    for division, finishers in official.items():
        board = sorted(((player, entry.elapsed_ms) for player, entry in finishers.items()), key=lambda entry: entry[1])
        assert check_board(division, board, finishers).ok, division
    assert len(official["runners"]) == 31_931
    assert len(official["runners-men"]) + len(official["runners-women"]) == 31_931
    assert len(official["wheelchairs"]) == 53


# -- counts and sums --------------------------------------------------------------------------------------------------


def test_as_many_events_as_leaves_as_rows_hold():
    assert check_sizes(7, 7, 7).ok


@pytest.mark.parametrize("sizes", [(8, 7, 7), (7, 6, 7), (7, 7, 8)])
def test_one_event_leaf_or_row_more_or_less_fails(sizes):
    assert not check_sizes(*sizes).ok


def test_another_leaf_fails():
    assert check_leaves("ab" * 32, "ab" * 32).ok
    assert not check_leaves("ab" * 32, "ab" * 31 + "aa").ok


def test_events_by_type_are_compared_exactly():
    predicted = {"a/1": 2, "b/1": 1}

    assert check_types("events", {"b/1": 1, "a/1": 2}, predicted).ok
    assert not check_types("events", {"b/1": 1, "a/1": 3}, predicted).ok
    assert not check_types("events", {"a/1": 2}, predicted).ok
    assert not check_types("events", {**predicted, "c/1": 1}, predicted).ok


def test_totals_are_compared_player_by_player():
    right = {"a": 50, "b": 60}

    assert check_totals("XP", {"events": right, "postgres": dict(right), "redis": {**right, "c": 0}}).ok
    swapped = check_totals("XP", {"events": right, "postgres": {"a": 60, "b": 50}})
    assert not swapped.ok
    assert "postgres" in swapped.detail
    assert not check_totals("XP", {"events": right, "redis": {"a": 50, "b": 61}}).ok
    assert not check_totals("XP", {"events": right, "redis": {"a": 50}}).ok


def test_books_sum_to_zero_or_fail():
    assert check_books({"a": 26, "b": 26}, -52).ok
    assert not check_books({"a": 26, "b": 27}, -52).ok
    assert not check_books({"a": 26, "b": 26}, -51).ok


# -- the stream -------------------------------------------------------------------------------------------------------


def test_a_fold_says_what_the_events_say():
    fold = folded(STREAM)

    assert check_history(fold).ok
    assert (fold.stream_seq, fold.inbox_events, fold.commands) == (8, 1, 5)
    assert fold.domain_types == {
        "quest-published/1": 1,
        "player-registered/1": 1,
        "quest-completed/1": 1,
        "xp-awarded/1": 2,
        "tokens-minted/1": 1,
        "tokens-spent/1": 1,
    }
    assert (fold.xp, fold.tokens, fold.treasury) == ({"a": 60}, {"a": 20}, -20)
    assert (fold.board("quest:q"), fold.board("xp"), fold.board("quest:other")) == ([("a", 5)], [("a", 60)], [])
    assert fold.refused == {"unknown-quest": 1}


def test_a_fold_tells_the_commands_of_one_sender_from_others():
    fold = Fold("c3")
    for stream_seq, body in enumerate(STREAM, 1):
        fold.add(stream_seq, body)

    assert fold.own.types == {"quest-completed/1": 1, "xp-awarded/1": 1, "tokens-minted/1": 1}
    assert (fold.own.xp, fold.own.tokens, fold.own.finishers) == ({"a": 50}, {"a": 26}, {"a"})


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        pytest.param(STREAM[:1] + STREAM[2:], "version 2", id="one event lost"),
        pytest.param([*STREAM, STREAM[-1]], "version 2", id="one event doubled"),
        pytest.param(
            [*STREAM, event("tokens-minted/1", "token/a", 3, "c3", amount=26, balance=46)],
            "repeats command c3",
            id="one command executed twice",
        ),
        pytest.param(
            [*STREAM, event("tokens-spent/1", "token/a", 3, "c6", amount=6, balance=14)],
            "another tokens-spent/1 of command c6",
            id="one command executed twice in a row",
        ),
        pytest.param(
            altered(3, event("xp-awarded/1", "player/a", 3, "c3", quest="q", amount=51, total=50)),
            "states 50 XP",
            id="one award altered",
        ),
        pytest.param(
            altered(7, event("tokens-spent/1", "token/a", 2, "c6", amount=6, balance=21)),
            "states a balance of 21",
            id="one balance altered",
        ),
        pytest.param(altered(5, STREAM[5][:-1]), "cannot be read", id="one byte cut off"),
    ],
)
def test_an_altered_stream_fails(stream, named):
    finding = check_history(folded(stream))

    assert not finding.ok
    assert named in finding.detail


def test_a_gap_in_the_stream_fails():
    assert not check_history(folded(STREAM, first=2)).ok


def test_a_board_of_the_fold_is_in_the_order_in_which_scores_were_reached():
    fold = Fold()
    for seq, (player, elapsed_ms) in enumerate([("a", 9), ("b", 5), ("c", 9), ("d", 5)], 1):
        more = {"quest": "q", "elapsed_ms": elapsed_ms, "divisions": ["x"] if player < "c" else []}
        fold.add(seq, event("quest-completed/1", f"player/{player}", 1, f"c{seq}", **more))

    assert fold.board("quest:q") == [("b", 5), ("d", 5), ("a", 9), ("c", 9)]
    assert fold.board("division:q:x") == [("b", 5), ("a", 9)]


def test_a_moment_that_is_not_what_the_fold_had_then_fails():
    right = {"xp": digest([("a", 60), ("b", 50)]), "quest:q": digest([])}
    moments = [Moment(3, right), Moment(9, right)]
    swapped = {**right, "xp": digest([("b", 50), ("a", 60)])}

    assert check_moments(moments, {3: right, 9: right}).ok
    wrong = check_moments(moments, {3: right, 9: swapped})
    assert not wrong.ok
    assert "xp after event 9" in wrong.detail
    assert not check_moments(moments, {3: right}).ok
    assert not check_moments([], {}).ok


def test_each_player_completes_exactly_once():
    fold = folded(STREAM)

    assert check_completions("q", ["a"], fold).ok
    assert "1 lost" in check_completions("q", ["a", "b"], fold).detail
    assert not check_completions("q", ["a", "b"], fold).ok
    assert not check_completions("q", [], fold).ok
    twice = folded([*STREAM, event("quest-completed/1", "player/a", 5, "c7", quest="q", elapsed_ms=5)])
    assert not check_completions("q", ["a"], twice).ok
