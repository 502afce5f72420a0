import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.envelope import (
    BODY_BYTES_MAX,
    EventEnvelope,
    EventWriter,
    Recorded,
    command_id_of,
    decode_command,
    encode_data,
    encode_event,
    optional_attributes,
)
from bus.errors import Malformed, WireError
from domain.catalogue import Key
from domain.token import TokensMinted

GOOD = {
    "specversion": "1.0",
    "id": "c-1",
    "source": "//timing.example/finish",
    "type": "complete-quest/1",
    "subject": "player/b19",
    "time": "2014-04-21T16:08:37.200Z",
    "tenantid": "boston",
    "datacontenttype": "application/json",
    "data": {"quest": "boston-2014", "elapsed_ms": 7717200},
}
ADDRESS = ("player", "b19", "CompleteQuest")


def decode(body, address=ADDRESS, tenant="boston"):
    return decode_command(tenant, 7, address, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_good_command_is_read():
    request = decode(GOOD)

    assert request.id == "c-1"
    assert request.target == Key("player", "b19")
    assert request.command.elapsed_ms == 7717200
    assert request.at_ms == 1398096517200


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("2014-04-21T12:08:37.2-04:00", "2014-04-21T16:08:37.200Z"),
        ("2014-04-21T16:08:37Z", "2014-04-21T16:08:37.000Z"),
        ("2014-04-21 16:08:37.200999Z", "2014-04-21T16:08:37.200Z"),
        ("2014-W17-1T14:00:00.000Z", "2014-04-21T14:00:00.000Z"),
    ],
)
def test_a_time_is_stored_in_one_form(written, stored):
    assert decode({**GOOD, "time": written}).time == stored


def test_attributes_that_cloudevents_allows_are_passed_over():
    assert decode({**GOOD, "sequence": "12", "partitionkey": "x"}).id == "c-1"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": ""}, "malformed"),
        ({"id": "a b"}, "malformed"),
        ({"id": "x" * 65}, "malformed"),
        ({"id": 5}, "malformed"),
        ({"specversion": "0.3"}, "malformed"),
        ({"source": ""}, "malformed"),
        ({"type": "complete-quest/2"}, "unknown-command"),
        ({"subject": "player/b20"}, "malformed"),
        ({"tenantid": "berlin"}, "wrong-tenant"),
        ({"time": "yesterday"}, "malformed"),
        ({"time": "2014-04-21T16:08:37"}, "malformed"),
        ({"time": "1850-01-01T00:00:00Z"}, "malformed"),
        ({"time": "0001-01-01T00:00:00+23:00"}, "malformed"),
        ({"datacontenttype": "text/plain"}, "malformed"),
        ({"data": {"quest": "boston-2014"}}, "invalid-data"),
        ({"data": {"quest": "boston-2014", "elapsed_ms": 1, "extra": 1}}, "invalid-data"),
        ({"data": {"quest": "boston-2014", "elapsed_ms": "1"}}, "invalid-data"),
        ({"data": {"quest": "boston-2014", "elapsed_ms": 1.5}}, "invalid-data"),
        ({"data": {"quest": "boston-2014", "elapsed_ms": 0}}, "invalid-data"),
        ({"data": {"quest": "bos.ton", "elapsed_ms": 1}}, "invalid-data"),
        ({"data": {"quest": "q\n", "elapsed_ms": 1}}, "invalid-data"),
        ({"data": None}, "invalid-data"),
        ({"data": []}, "invalid-data"),
    ],
)
def test_a_command_that_does_not_fit_is_refused_with_a_code_and_a_line(change, code):
    with pytest.raises(Malformed) as caught:
        decode({**GOOD, **change})

    assert caught.value.code == code
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type", "subject", "time", "data"])
def test_a_missing_attribute_is_named(missing):
    with pytest.raises(Malformed, match=missing):
        decode({key: value for key, value in GOOD.items() if key != missing})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"id":"\xff"}', b"[" * 5000, b"1e999", b"{}x"]
)
def test_bytes_that_are_no_command_are_malformed(body):
    with pytest.raises(Malformed) as caught:
        decode(body)

    assert caught.value.code == "malformed"


def test_an_oversized_body_is_too_large():
    body = json.dumps({**GOOD, "padding": "x" * BODY_BYTES_MAX}).encode()

    with pytest.raises(Malformed, match="at most 65535") as caught:
        decode(body)

    assert caught.value.code == "too-large"


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (("player", "b19", "Nonsense"), "unknown-command"),
        (("player", "b19", "MintTokens"), "unknown-command"),
        (("token", "b19", "CompleteQuest"), "unknown-command"),
        (("player", "b$19", "CompleteQuest"), "invalid-id"),
    ],
)
def test_a_subject_that_does_not_fit_is_refused(address, code):
    with pytest.raises(Malformed) as caught:
        decode(GOOD, address)

    assert caught.value.code == code


@given(st.binary(max_size=300))
def test_no_bytes_whatever_break_the_reading(body):
    with pytest.raises(Malformed):
        decode(body)
    assert command_id_of(body, 12) == "seq-12"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_data_whatever_break_the_reading(data):
    with pytest.raises(Malformed) as caught:
        decode({**GOOD, "data": data})

    assert caught.value.code in {"invalid-data", "malformed", "too-large"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id":"c-9"}', "c-9"),
        (b'{"id":"a b"}', "seq-3"),
        (b'{"id":7}', "seq-3"),
        (b"nonsense", "seq-3"),
        (b"[]", "seq-3"),
    ],
)
def test_a_command_that_cannot_be_read_is_named_as_well_as_can_be(body, expected):
    assert command_id_of(body, 3) == expected


def test_an_event_is_written_again_byte_for_byte():
    body = (
        b'{"specversion":"1.0","id":"player.b19.12","source":"//tallyroot/boston","type":"xp-awarded/1",'
        b'"subject":"player/b19","time":"2014-04-21T16:08:37.200Z","recordedtime":"2026-11-21T10:00:00.000Z",'
        b'"datacontenttype":"application/json","dataschema":"urn:tallyroot:schema:xp-awarded:1","tenantid":"boston",'
        b'"aggregateversion":12,"causationid":"c-1","data":{"quest":"q","amount":1,"total":1,"level":1}}'
    )

    record = Recorded(5, body)

    assert encode_event(record.event) == body
    assert record.data.total == 1


def test_an_event_of_an_unknown_type_says_so():
    body = b'{"specversion":"1.0","id":"x.y.1","source":"s","type":"unheard-of/9",'
    body += b'"subject":"x/y","time":"t","recordedtime":"t",'
    body += b'"datacontenttype":"j","dataschema":"d","tenantid":"b","aggregateversion":1,"causationid":"c","data":{}}'

    with pytest.raises(WireError, match="unheard-of/9"):
        _ = Recorded(1, body).data


@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.integers(1, 2**53),
    st.text(max_size=50),
    st.none() | st.text(min_size=1, max_size=20),
)
def test_the_fast_writer_writes_the_bytes_of_the_slow_one(owner, version, reason, actor):
    event = TokensMinted(amount=5, balance=9, reason=reason)
    time, recorded = "2014-04-21T16:08:37.200Z", "2026-11-21T10:00:00.000Z"
    slow = EventEnvelope(
        specversion="1.0",
        id=f"token.{owner}.{version}",
        source="//tallyroot/boston",
        type="tokens-minted/1",
        subject=f"token/{owner}",
        time=time,
        recordedtime=recorded,
        datacontenttype="application/json",
        dataschema="urn:tallyroot:schema:tokens-minted:1",
        tenantid="boston",
        aggregateversion=version,
        causationid="c-1",
        correlationid=actor,
        actor=actor,
        data=encode_data(event),
    )

    optional = optional_attributes(actor, actor, None)
    event_id, name = f"token.{owner}.{version}", f"token/{owner}"
    _, fast = EventWriter("boston", recorded).body(event_id, name, version, event, time, "c-1", optional)

    assert fast == encode_event(slow)
