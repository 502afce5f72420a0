"""The state of any aggregate at any past sequence or moment."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import examples
from bus.errors import BusError
from bus.timetravel import Moment, Past, TravelRefused, is_cut, parse_at, parse_keys, sequence_at
from domain import catalogue
from domain.catalogue import Key
from domain.values import to_ms

RECORDS = examples.records()
B19, ACCOUNT, EARLY, INBOX = Key("player", "b19"), Key("token", "b19"), Key("quest", "early-bird"), Key("inbox", "0")


def history(key):
    return [record for record in RECORDS if record.event.subject == f"{key.aggregate}/{key.id}"]


def past(key, up_to_seq, shown_max=99):
    found = Past(key, up_to_seq, shown_max)
    found.apply(history(key))
    return found


@pytest.mark.parametrize("key", sorted({Key(*record.event.subject.split("/")) for record in RECORDS} - {INBOX}))
def test_at_every_sequence_an_aggregate_is_the_fold_of_its_events_so_far(key):
    for up_to_seq in range(len(RECORDS) + 2):
        so_far = [record for record in history(key) if record.stream_seq <= up_to_seq]
        state = catalogue.initial(key.aggregate)
        for record in so_far:
            state = catalogue.evolve(key.aggregate, state, record.data, to_ms(record.event.time))

        found = past(key, up_to_seq)

        assert (found.state, found.version, list(found.shown)) == (state, len(so_far), so_far)


def test_an_inbox_adds_up_what_was_decided():
    state = past(INBOX, len(RECORDS)).state

    commands = len(examples.story().commands)
    assert (state.batches, state.last_seq, state.accepted) == (1, commands, commands - 2)
    assert (state.refused, state.parked) == (1, 1)


def test_only_the_newest_events_are_kept_to_be_shown():
    found = past(B19, len(RECORDS), shown_max=2)

    assert found.version == 11
    assert [record.event.aggregateversion for record in found.shown] == [10, 11]


@pytest.mark.parametrize("spoil", [lambda h: h[1:], lambda h: [h[0], *h[2:]], lambda h: [h[0], h[0], *h[1:]]])
def test_a_history_with_a_gap_or_a_repetition_is_refused(spoil):
    with pytest.raises(BusError, match="wanted version"):
        Past(B19, len(RECORDS), 9).apply(spoil(history(B19)))


def test_an_event_of_another_aggregate_is_refused():
    with pytest.raises(BusError, match="version 1 of token/b19, wanted version 1 of player/b19"):
        Past(B19, len(RECORDS), 9).apply(history(ACCOUNT))


def test_a_cut_between_two_events_of_one_command_is_seen():
    cuts = [one.stream_seq for one, other in pairwise(RECORDS) if is_cut(one, other)]

    assert cuts[:6] == [7, 8, 9, 12, 13, 19]
    assert not is_cut(RECORDS[-1], None)


def test_keys_are_read_strictly_and_each_once():
    assert parse_keys(["player/b19", "token/b19", "player/b19", "inbox/0"]) == [B19, ACCOUNT, INBOX]


@pytest.mark.parametrize(
    "text", ["", "player", "player/", "/b19", "person/b19", "player/b 19", "player/a/b", "player/*"]
)
def test_what_is_no_aggregate_is_refused_in_one_line(text):
    with pytest.raises(TravelRefused, match="wanted quest/ID or player/ID or token/ID or ledger/ID or inbox/ID"):
        parse_keys([text])


def test_a_point_is_a_sequence_or_a_time_with_its_zone():
    assert parse_at("40213") == 40213
    assert parse_at("2026-11-21T10:00:00Z") == Moment("2026-11-21T10:00:00Z", 1795255200000)
    assert parse_at("2026-11-21T11:00:00+01:00").at_ms == 1795255200000


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "01", "1_0", " 1", "٣", "yesterday", "2026-11-21T10:00:00", "2026-13-01T00:00:00Z"]
)
def test_what_is_no_point_is_refused_in_one_line(text):
    with pytest.raises(TravelRefused, match="wanted a sequence from 1 or a time with its zone"):
        parse_at(text)


def found_at(at_ms, times, last_seq=None):
    asked = []

    async def recorded_ms(seq):
        asked.append(seq)
        return times[seq - 1]

    found = asyncio.run(sequence_at(at_ms, len(times) if last_seq is None else last_seq, recorded_ms))
    assert len(asked) <= len(times).bit_length()
    return found


@given(st.lists(st.integers(0, 50)), st.integers(-1, 51))
def test_in_a_stream_whose_times_rise_it_is_the_last_event_recorded_by_then(times, at_ms):
    times = sorted(times)

    assert found_at(at_ms, times) == sum(1 for one in times if one <= at_ms)


@given(st.lists(st.integers(0, 50), max_size=70), st.integers(-1, 51))
def test_with_clocks_that_differ_it_is_a_point_where_the_log_passes_the_moment(times, at_ms):
    seq = found_at(at_ms, times)

    assert seq == 0 or times[seq - 1] <= at_ms
    assert seq == len(times) or times[seq] > at_ms


@given(st.lists(st.integers(0, 50), max_size=70), st.lists(st.integers(51, 99), max_size=70), st.integers(0, 50))
def test_the_same_moment_means_the_same_sequence_when_the_stream_has_grown(times, later, at_ms):
    assert found_at(at_ms, times + later) == found_at(at_ms, times)
