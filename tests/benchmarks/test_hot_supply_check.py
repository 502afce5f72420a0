"""The check of the hot quest finds a supply that went wrong, in each way in which it can."""

from __future__ import annotations

import json

import pytest

from benchmarks.hot_check import BADGE, COMPLETED, TAKEN, faults

QUEST = "hot"


def event(kind, subject, **data):
    return json.dumps({"type": kind, "subject": subject, "data": data}).encode()


def completion(number, taken=None):
    player = f"u{number}"
    found = [event(COMPLETED, f"player/{player}", quest=QUEST)]
    if taken is not None:
        found.append(event(BADGE, f"player/{player}", quest=QUEST, badge="b"))
        found.append(event(TAKEN, f"quest/{QUEST}", player=player, taken=taken))
    return found


def found_faults(*completions, supply=2, count=4):
    bodies = [body for events in completions for body in events]
    return faults(bodies, QUEST, supply=supply, completions=count, turn=lambda player: (0, int(player[1:])))


def test_a_supply_that_went_to_the_first_is_right():
    assert found_faults(completion(0, 1), completion(1, 2), completion(2), completion(3)) == []


def test_a_supply_greater_than_the_crowd_is_taken_by_everybody():
    assert found_faults(completion(0, 1), completion(1, 2), supply=5, count=2) == []


def test_events_of_other_quests_do_not_count():
    other = [event(COMPLETED, "player/u9", quest="other"), event(TAKEN, "quest/other", player="u9", taken=1)]

    assert found_faults(completion(0, 1), other, completion(1, 2), completion(2), completion(3)) == []


@pytest.mark.parametrize(
    "completions",
    [
        [completion(0, 1), completion(1), completion(2), completion(3)],
        [completion(0, 1), completion(1, 2), completion(2, 3), completion(3)],
        [completion(0, 1), completion(1, 1), completion(2), completion(3)],
        [completion(0, 1), completion(1), completion(2, 2), completion(3)],
        [completion(0, 1), completion(1, 2), completion(2), completion(2)],
        [completion(0, 1), completion(1, 2), completion(2)],
        [completion(1, 1), completion(0, 2), completion(2), completion(3)],
        [completion(0, 1), [*completion(1, 2)[:1], *completion(1, 2)[2:]], completion(2), completion(3)],
        [completion(0, 1), completion(1, 2)[:2], completion(2), completion(3)],
    ],
    ids=[
        "too few taken",
        "too many taken",
        "one taken twice",
        "not the first",
        "one player twice",
        "one lost",
        "out of order in a partition",
        "no badge",
        "badge without supply",
    ],
)
def test_a_supply_that_went_wrong_is_found(completions):
    assert found_faults(*completions)
