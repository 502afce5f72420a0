"""Time stamps (RFC 3161): ours and others' programs accept the same ones, and every bad one is refused by name."""

import datetime as dt
import re
import shutil

import pytest
from authorities import SHA1, TST_INFO, Authority, oid
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from ledger.cms import read_signed
from ledger.der import SEQUENCE, Fields, read_der
from ledger.der import encode_der as der
from ledger.errors import LedgerError, Malformed, TimestampFailed
from ledger.timestamps import load_roots, require_not_before, timestamp_request, verify_timestamp

MESSAGE = b"tallyroot.example/ledger/boston\n300\nroot\n\n- signatures\n"
NONCE = 0x9F3A_0000_1234_5678
BOTH_USES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING])

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (Debian: openssl)")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    made = {}

    def make(**options):
        key = repr(options)
        if key not in made:
            made[key] = Authority(tmp_path_factory.mktemp("authority") / "a", **options)
        return made[key]

    return make


def check(authority, response, message=MESSAGE, **options):
    return verify_timestamp("stamp", response, message, load_roots("root", [authority.root_der]), **options)


def theirs(authority, request, response, message):
    """What rfc3161-client says: None, or why not."""
    client = pytest.importorskip("rfc3161_client", reason="rfc3161-client is not installed")
    builder = client.VerifierBuilder().nonce(request) if request is not None else client.VerifierBuilder()
    verifier = builder.add_root_certificate(authority.root).build()
    try:
        assert verifier.verify_message(client.decode_timestamp_response(response), message)
    except (client.VerificationError, ValueError) as err:
        return str(err)
    return None


@needs_openssl
@pytest.mark.parametrize("options", [{}, {"is_rsa": True}, {"is_between": True}])
def test_a_stamp_of_openssl_is_accepted_by_us_by_openssl_and_by_rfc3161_client(make, options):
    authority = make(**options)
    response = authority.answer(timestamp_request(MESSAGE, NONCE))

    stamp = check(authority, response, nonce=NONCE)

    assert abs(stamp.at - dt.datetime.now(dt.UTC)) < dt.timedelta(hours=1)
    assert (stamp.policy, stamp.nonce, stamp.accuracy) == ("1.2.3.4.1", NONCE, dt.timedelta(seconds=1))
    assert authority.is_verified_by_openssl(response, MESSAGE)
    if not authority.between:  # openssl leaves several certificates unsorted, which rfc3161-client calls no DER
        assert theirs(authority, NONCE, response, MESSAGE) is None


@needs_openssl
def test_an_altered_message_or_stamp_is_refused_by_us_by_openssl_and_by_rfc3161_client(make):
    authority = make()
    response = authority.answer(timestamp_request(MESSAGE, NONCE))
    altered = response[:-1] + bytes([response[-1] ^ 1])

    assert not authority.is_verified_by_openssl(response, MESSAGE + b"x")
    assert not authority.is_verified_by_openssl(altered, MESSAGE)
    assert theirs(authority, NONCE, response, MESSAGE + b"x") is not None
    assert theirs(authority, NONCE, altered, MESSAGE) is not None
    with pytest.raises(TimestampFailed, match=r"imprint: expected .*, that of the checkpoint, found"):
        check(authority, response, MESSAGE + b"x")
    with pytest.raises(TimestampFailed, match=r"signature: expected a good one by 'CN=one', found a bad one"):
        check(authority, altered)


@needs_openssl
def test_the_requests_of_rfc3161_client_and_ours_are_answered_alike(make):
    client = pytest.importorskip("rfc3161_client", reason="rfc3161-client is not installed")
    builder = client.TimestampRequestBuilder().data(MESSAGE).hash_algorithm(client.HashAlgorithm.SHA256)
    request = builder.nonce(nonce=True).cert_request(cert_request=True).build()
    nonce = request.nonce

    assert timestamp_request(MESSAGE, nonce) == request.as_bytes()
    assert check(make(), make().answer(request.as_bytes()), nonce=nonce).nonce == nonce


@needs_openssl
@pytest.mark.parametrize("options", [{}, {"is_rsa": True}, {"is_between": True}])
def test_our_forgery_without_a_flaw_passes_everywhere_so_that_its_flaws_are_what_is_refused(make, options):
    authority = make(**options)
    for changes in ({}, {"is_v1": True}):
        response = authority.forge(MESSAGE, **changes)

        assert check(authority, response, nonce=7).serial == 5
        assert authority.is_verified_by_openssl(response, MESSAGE)
        assert theirs(authority, None, response, MESSAGE) is None


FLAWS = {
    "wrong root": ({}, {"name": "other"}, "chain: expected one that ends at 'CN=root of other', found issuer 'CN=root"),
    "EKU missing": ({"usage": None}, None, "extended key usage: expected time stamping, critical, found none"),
    "EKU not critical": (
        {"critical": False},
        None,
        "extended key usage: expected a critical one, found one that is not",
    ),
    "EKU for code too": ({"usage": BOTH_USES}, None, "extended key usage: expected time stamping alone, found 1.3.6.1"),
    "signer expired": ({"years": (3, -1)}, None, "certificate of 'CN=one': expected a time from .* to .*, found"),
    "root is no CA": ({"root_ca": False}, None, "issuer 'CN=root of one': expected a CA over 0 others"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_stamp_by_a_wrong_certificate_is_refused(make, flaw):
    options, root_of, message = FLAWS[flaw]
    authority = make(**options)
    trusted = make(**root_of) if root_of else authority

    with pytest.raises(TimestampFailed, match=message):
        verify_timestamp("stamp", authority.forge(MESSAGE), MESSAGE, load_roots("root", [trusted.root_der]))


def test_a_root_of_the_same_name_and_another_key_is_refused(make, tmp_path):
    twin = Authority(tmp_path / "twin")

    with pytest.raises(TimestampFailed, match="signature on a certificate: expected a good one, found a bad one"):
        check(twin, make().forge(MESSAGE))


def test_a_missing_certificate_between_is_refused(make):
    authority = make(is_between=True)

    with pytest.raises(TimestampFailed, match="found issuer 'CN=between of one'"):
        check(authority, authority.forge(MESSAGE, certificates=[authority.signer]))


def test_a_maze_of_certificates_is_given_up(make, tmp_path):
    """Sixteen certificates that all issue each other: more ways than anybody would walk."""
    authority = Authority(tmp_path / "maze", is_between=True)
    twins = [authority.twin_between() for _ in range(14)]
    response = authority.forge(MESSAGE, certificates=[authority.signer, *authority.between, *twins])

    with pytest.raises(TimestampFailed, match="chain: expected one within 100 tries, found none"):
        check(make(), response)


def test_no_root_at_all_is_refused(make):
    with pytest.raises(TimestampFailed, match="a root, of which there is none"):
        verify_timestamp("stamp", make().forge(MESSAGE), MESSAGE, [])


NOT_GRANTED = {2: "rejection", 3: "waiting", 4: "revocation warning", 5: "revocation notification", 6: "status 6"}


@pytest.mark.parametrize("status", NOT_GRANTED)
def test_a_status_that_is_not_granted_is_refused(make, status):
    with pytest.raises(TimestampFailed, match=f"status: expected granted, found {NOT_GRANTED[status]}"):
        check(make(), make().forge(MESSAGE, status=status))


@needs_openssl
def test_a_refusal_of_openssl_is_a_refusal_here(make):
    authority = make(name="picky", digests="sha512")

    with pytest.raises(TimestampFailed, match="status: expected granted, found rejection"):
        check(authority, authority.answer(timestamp_request(MESSAGE, NONCE)))


@needs_openssl
def test_the_answer_to_another_request_is_refused_by_its_nonce(make):
    replayed = make().answer(timestamp_request(MESSAGE, NONCE))

    assert theirs(make(), NONCE + 1, replayed, MESSAGE) is not None
    with pytest.raises(TimestampFailed, match=f"nonce: expected {NONCE + 1:x}, that of the request, found {NONCE:x}"):
        check(make(), replayed, nonce=NONCE + 1)
    with pytest.raises(TimestampFailed, match="nonce: expected 1, that of the request, found none"):
        check(make(), make().forge(MESSAGE, nonce=None), nonce=1)


def test_a_stamp_for_another_checkpoint_is_refused(make):
    with pytest.raises(TimestampFailed, match=r"imprint: expected .*, that of the checkpoint, found"):
        check(make(), make().forge(b"another checkpoint\n"))


def test_a_stamp_older_than_its_checkpoint_is_refused(make):
    at = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
    stamp = check(make(), make().forge(MESSAGE, at=at))
    second = int(at.timestamp())

    require_not_before("stamp", stamp, second + 1)  # the authority says that it is accurate to a second
    require_not_before("stamp", stamp, None)
    with pytest.raises(
        TimestampFailed, match=rf"genTime: expected second {second + 2}, .* or later, found {second + 1}"
    ):
        require_not_before("stamp", stamp, second + 2)


def test_a_sha_1_imprint_is_refused(make):
    with pytest.raises(TimestampFailed, match="imprint, digest: expected SHA-256, SHA-384 or SHA-512, found SHA-1"):
        check(make(), make().forge(MESSAGE, digest=SHA1))


MISTAKES = {
    "two signers": ({"signers": 2}, "signers: expected 1, found 2"),
    "no signer": ({"signers": 0}, "signers: expected 1, found 0"),
    "another content": ({"content_type": "1.2.840.113549.1.7.1"}, f"content type: expected {TST_INFO}, found 1.2.840"),
    "another version": ({"version": 2}, "version: expected 1, found 2"),
    "no certificate": ({"certificates": []}, "certificates: expected 1 to 16, found 0"),
    "an unknown extension": ({"extensions": der(0xA1, der(SEQUENCE))}, "extensions: expected none"),
    "local time": ({"time": b"20261101120000"}, "genTime: expected a GeneralizedTime in UTC"),
    "a month 13": ({"time": b"20261301120000Z"}, "genTime: expected a GeneralizedTime in UTC"),
    "zeros in a fraction": ({"time": b"20261101120000.50Z"}, "genTime: expected a GeneralizedTime in UTC"),
    "bytes behind the token": ({"spoil": lambda token: token + b"\x05\x00"}, "expected the end, found DER tag 0x05"),
    "no token": ({"spoil": lambda _: b""}, "expected DER tag 0x30, found the end"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_malformed_stamp_is_refused(make, mistake):
    changes, message = MISTAKES[mistake]

    with pytest.raises(LedgerError, match=message):
        check(make(), make().forge(MESSAGE, **changes))


def test_a_stamp_that_names_another_certificate_as_its_signer_is_refused(make):
    with pytest.raises(TimestampFailed, match="signing certificate: expected"):
        check(make(), make().forge(MESSAGE, named=make().root))


@needs_openssl
def test_a_certificate_signed_with_sha_1_is_refused(tmp_path):
    authority = Authority(tmp_path / "old")
    authority.sign_again_with_sha_1()

    with pytest.raises(TimestampFailed, match="signature on a certificate: expected SHA-2, found sha1"):
        check(authority, authority.forge(MESSAGE))


def test_no_flipped_bit_in_what_was_signed_and_no_cut_of_a_stamp_passes(make):
    authority = make()
    response = authority.forge(MESSAGE, certificates=[authority.signer])
    token = Fields("t", read_der("t", response, SEQUENCE))
    token.take(SEQUENCE)
    signed = read_signed("t", token.take(SEQUENCE), TST_INFO)
    parts = (signed.content, signed.attributes[1:], signed.signature, authority.signer.public_bytes(Encoding.DER))
    places = [at for part in parts for at in range(response.index(part), response.index(part) + len(part))]
    assert check(authority, response)
    assert len(places) > 500

    for at in places:
        spoiled = response[:at] + bytes([response[at] ^ 1 << at % 8]) + response[at + 1 :]
        with pytest.raises(LedgerError):
            check(authority, spoiled)
    for end in range(0, len(response), 7):
        with pytest.raises(LedgerError):
            check(authority, response[:end])


BAD_DER = [
    ("", "a tag of one byte and a length, found nothing"),
    ("30", "a tag of one byte and a length"),
    ("1f8101", "a tag of one byte"),
    ("3080 0000", "a length in its shortest form"),
    ("308100", "a length in its shortest form"),
    ("30817f" + "00" * 127, "a length in its shortest form"),
    ("30820080" + "00" * 128, "a length in its shortest form"),
    ("3085 0000000001 00", "a length in its shortest form"),
    ("3005 0201", "5 bytes, found 2"),
    ("3000 00", "expected 2 bytes of DER, found 3"),
    ("3100", "tag 0x30, found 0x31"),
]


@pytest.mark.parametrize(("text", "message"), BAD_DER)
def test_what_is_no_der_is_refused(text, message):
    with pytest.raises(Malformed, match=re.escape(message)):
        read_der("it", bytes.fromhex(text.replace(" ", "")), SEQUENCE)


def test_a_root_that_is_no_certificate_is_refused(make):
    with pytest.raises(Malformed, match=r"expected an X.509 certificate in DER"):
        load_roots("root", [make().root.public_bytes(Encoding.PEM)])


def test_object_identifiers_are_written_and_read_alike():
    from ledger.der import Element, object_id

    for name in ("1.2.840.113549.1.9.16.1.4", "2.16.840.1.101.3.4.2.1", "0.9.2342", "2.999.3"):
        assert object_id("o", Element(6, oid(name)[2:], b"")) == name
