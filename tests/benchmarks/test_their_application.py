"""The application that we compare ourselves with does the same work: held in memory, by the library alone."""

from __future__ import annotations

import pytest

from benchmarks.eventsourcing_app import Account, Player, Quests


@pytest.fixture
def application():
    made = Quests(env={"PERSISTENCE_MODULE": "eventsourcing.popo"})
    made.set_up(["ada"], "q")
    return made


def stored(application):
    found = application.recorder.select_notifications(start=1, limit=100)
    return [notification.topic.rpartition(".")[2] for notification in found]


def test_a_completion_is_four_events_of_two_aggregates(application):
    before = len(stored(application))

    application.complete("ada", "q", 1_000, "c1")

    player = application.repository.get(Player.create_id("ada"))
    account = application.repository.get(Account.create_id("ada"))
    assert stored(application)[before:] == ["QuestCompleted", "XpAwarded", "BadgeAwarded", "TokensMinted"]
    assert (player.xp, player.badges, account.balance) == (100, ["burst"], 5)


def test_a_command_that_comes_again_changes_nothing(application):
    application.complete("ada", "q", 1_000, "c1")
    before = stored(application)

    application.complete("ada", "q", 1_000, "c1")

    assert stored(application) == before


def test_a_completion_of_a_quest_that_was_not_accepted_is_refused(application):
    with pytest.raises(ValueError, match="not accepted"):
        application.complete("ada", "other", 1_000, "c1")
