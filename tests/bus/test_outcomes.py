"""The bodies of outcomes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.outcomes import AcceptedWriter, EventRef, accepted

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
TIME = "2026-11-21T10:00:00.000Z"


@given(
    TOKENS,
    TOKENS,
    TOKENS,
    st.integers(1, 2**53),
    st.lists(st.tuples(TOKENS.map("player.{}.3".format), st.sampled_from(["xp-awarded/1", "badge-awarded/1"]))),
)
def test_the_fast_writer_writes_the_bytes_of_the_slow_one(tenant, owner, command_id, first_seq, events):
    refs = [EventRef(event_id, name, first_seq + at) for at, (event_id, name) in enumerate(events)]

    fast = AcceptedWriter(tenant, TIME).body(f"player/{owner}", command_id, first_seq, events)

    assert fast == accepted(tenant, TIME, f"player/{owner}", command_id, refs)
