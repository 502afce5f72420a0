"""No event type of the domain is one that a projector has never heard of."""

from datetime import date

from bus.examples import records
from domain.catalogue import EVENTS
from projections import lake, leaderboards, read_models, segments
from projections.boards import BoardSettings

EVERY = records()


def test_every_projector_takes_an_event_of_every_type():
    facts = [
        lake.Fact(record.stream_seq, record.event.type, date(2014, 4, 21), "b19", bytes(record.event.data).decode())
        for record in EVERY
    ]

    read_models.project(EVERY)
    leaderboards.Projector(BoardSettings()).project(EVERY)
    lake.fold(lake.TABLES.values(), facts)

    assert {record.event.type for record in EVERY} >= EVENTS.keys()
    assert segments.project(EVERY)
