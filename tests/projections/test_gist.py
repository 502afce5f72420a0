"""The gist of an event is what envelope and data say, read the short way or the long one."""

import json

import pytest
from stories import random_story

from bus import gist
from bus.envelope import COMMANDS_DECIDED, Recorded
from bus.errors import WireError
from bus.gist import KINDS, gist_of
from domain.catalogue import EVENTS


def plain(record):
    return record.event.subject, record.event.time, record.data


def test_it_is_what_envelope_and_data_say(tenant):
    records = random_story(tenant, seed=110).records

    for record in records:
        found = gist_of(Recorded(record.stream_seq, record.body))
        assert (found.subject, found.time) == plain(record)[:2]
        assert type(found) is KINDS[record.event.type]
        if record.event.type != COMMANDS_DECIDED:
            assert found.data == record.data


def test_the_long_way_finds_the_same(tenant, monkeypatch):
    records = random_story(tenant, seed=111).records
    short = [gist_of(Recorded(record.stream_seq, record.body)) for record in records]
    monkeypatch.setattr(gist, "_decoder", Refusing())

    assert [gist_of(Recorded(record.stream_seq, record.body)) for record in records] == short


class Refusing:
    def decode(self, body):
        raise gist.msgspec.ValidationError(body[:20])


def test_it_is_read_once(tenant):
    record = random_story(tenant, seed=112, events=20).records[0]

    assert gist_of(record) is gist_of(record)


def test_every_event_has_one():
    assert KINDS.keys() == {*EVENTS, COMMANDS_DECIDED}


def test_an_unknown_type_has_none_and_a_broken_body_is_said(tenant):
    record = random_story(tenant, seed=113, events=20).records[0]
    event = json.loads(record.body)

    assert gist_of(Recorded(1, json.dumps(event | {"type": "from-tomorrow/1"}).encode())) is None
    for body in (b"", b"{}", record.body[:-1], json.dumps(event | {"data": 7}).encode()):
        with pytest.raises(WireError):
            gist_of(Recorded(1, body))
