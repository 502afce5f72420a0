"""Signed notes, keys and checkpoints: published examples are accepted, malformed and forged ones refused."""

import base64

import pytest

from ledger.checkpoint import Checkpoint, parse_checkpoint, signed_message
from ledger.errors import KeyRefused, Malformed, SignatureFailed
from ledger.keys import SigningKey, format_private_key, public_key
from ledger.note import ED25519, Note, SignatureLine, VerifierKey, parse_note, verify_plain
from ledger.policy import parse_policy
from ledger.primitives import has_ml_dsa_44

CRYPTOGRAPHY = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NEUMANN_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
EXAMPLES = {
    "C2SP": (
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "This is an example message.\n",
        "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=",
    ),
    "golang.org/x/mod": (
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        CRYPTOGRAPHY,
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=",
    ),
    "EnochRoot": (
        "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop",
        CRYPTOGRAPHY,
        "rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=",
    ),
    "sum.golang.org": (
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "go.sum database tree\n35225469\nvt5T6GaLCXvyHFl9VUvvItR43XZxfLgftEcTyO3eJCQ=\n",
        "Az3grpukl5AXaVfYkLiDGORx/DN2nlcS5kZHR5uYOBV2KA2HgXpD+gu9HHONebHLAyaKbbTM75QTtPydhKCExixSfwQ=",
    ),
}
SUMDB_KEY, SUMDB_TEXT, SUMDB_SIGNATURE = EXAMPLES["sum.golang.org"]
NEUMANN_KEY, _, NEUMANN_SIGNATURE = EXAMPLES["golang.org/x/mod"]


def note_of(vkey, text, signature):
    return f"{text}\n— {vkey.partition('+')[0]} {signature}\n".encode()


GOOD = note_of(NEUMANN_KEY, CRYPTOGRAPHY, NEUMANN_SIGNATURE)
KEYS = [VerifierKey.parse(NEUMANN_KEY)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_published_note_is_accepted_under_its_key_and_no_other(name):
    vkey, text, signature = EXAMPLES[name]
    key = VerifierKey.parse(vkey)
    note = parse_note(name, note_of(vkey, text, signature))

    assert verify_plain(name, note, [key]) == [key]
    assert str(key) == vkey
    assert bytes(note) == note_of(vkey, text, signature)
    other = next(VerifierKey.parse(v) for v, _, _ in EXAMPLES.values() if v != vkey)
    with pytest.raises(SignatureFailed):
        verify_plain(name, note, [other])


def test_a_published_signature_is_reproduced_from_its_private_key():
    signer = SigningKey.parse(NEUMANN_SKEY)
    line = SignatureLine(signer.key.name, signer.key.key_id, signer.secret.sign(CRYPTOGRAPHY.encode()))

    assert bytes(Note(CRYPTOGRAPHY, (line,))) == GOOD
    assert str(signer.key) == NEUMANN_KEY


def test_the_checkpoint_of_sigsum_is_reproduced():
    seed = bytes([0x11]) + bytes(31)
    name = "sigsum.org/v1/tree/e796172b92befd62d9dc67e41c2f5bc9d3100a3023b20b1ca40288dd1c679e69"
    signer = SigningKey.parse(format_private_key(public_key(name, ED25519, seed), seed))
    root = base64.b64decode("HA5HAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")

    line = signer.sign_checkpoint(Checkpoint(name, 10, root), 0)

    assert str(line) == (
        f"— {name} gJ2ho0n8F8olcerUF1FFdv235A/5as/coWrpLrtE7ovMeP5whgwouYExowG/lTznxu6OUGjjt5yJQ6bXtTcf718MqAQ=\n"
    )


def test_the_real_head_of_the_go_checksum_database_opens_although_origin_and_key_name_differ():
    policy = parse_policy("policy", f"log {SUMDB_KEY}\nquorum none\n".encode())
    data = note_of(SUMDB_KEY, SUMDB_TEXT, SUMDB_SIGNATURE)

    opened = policy.open("head", data, origin="go.sum database tree")

    assert opened.checkpoint.tree_size == 35225469
    assert opened.at_seconds is None
    with pytest.raises(SignatureFailed, match="origin"):
        policy.open("head", data)


MALFORMED = {
    "no final newline": GOOD[:-1],
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "control character": GOOD.replace(b"problem", b"prob\x01em", 1),
    "invalid UTF-8": GOOD.replace(b"problem", b"prob\xffem", 1),
    "hyphen for the em dash": GOOD.replace("— ".encode(), b"- "),
    "en dash for the em dash": GOOD.replace("— ".encode(), "\u2013 ".encode()),
    "two spaces": GOOD.replace("— ".encode(), "—  ".encode()),
    "empty name": GOOD.replace(b"PeterNeumann ", b" "),
    "name with a plus": GOOD.replace(b"PeterNeumann", b"Peter+Neumann"),
    "name with a Unicode space": GOOD.replace(b"PeterNeumann", "Peter\u00a0Neumann".encode()),
    "no signature": (CRYPTOGRAPHY + "\n").encode(),
    "no empty line": GOOD.replace(b"\n\n", b"\n"),
    "junk after the signatures": GOOD + b"junk\n",
    "101 signatures": GOOD + GOOD.split(b"\n\n")[1] * 100,
    "more than a megabyte": b"x" * 1_000_001 + GOOD,
    "URL-safe base64": GOOD.replace(b"/ZJkuBS9UG/", b"_ZJkuBS9UG_"),
    "unpadded base64": GOOD.replace(b"nAM=\n", b"nAM\n"),
    "non-canonical base64": GOOD.replace(b"nAM=\n", b"nAN=\n"),
    "signature of four bytes": GOOD.split(b"\n\n")[0] + "\n\n— PeterNeumann x08gow==\n".encode(),
    "empty": b"",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_note_is_refused(case):
    with pytest.raises(Malformed):
        parse_note("note", MALFORMED[case])


def test_a_note_with_sixteen_or_a_hundred_signatures_is_read():
    line = GOOD.split(b"\n\n")[1]

    assert len(parse_note("note", GOOD + line * 15).signatures) == 16
    assert len(parse_note("note", GOOD + line * 99).signatures) == 100


def test_a_text_with_empty_lines_is_split_at_the_last():
    note = parse_note("note", b"a\n\nb\n\n" + GOOD.split(b"\n\n")[1])

    assert note.text == "a\n\nb\n"


def test_a_bad_signature_of_a_known_key_refuses_the_note_even_beside_a_good_one():
    bad = SignatureLine(KEYS[0].name, KEYS[0].key_id, bytes(64))

    with pytest.raises(SignatureFailed, match="PeterNeumann"):
        verify_plain("note", parse_note("note", GOOD + str(bad).encode()), KEYS)


def test_signatures_of_unknown_keys_are_passed_over():
    unknown = SignatureLine("somebody", b"\1\2\3\4", bytes(64))
    note = parse_note("note", GOOD + str(unknown).encode())

    assert verify_plain("note", note, KEYS) == KEYS


def test_a_signature_moved_from_another_note_is_refused():
    moved = note_of(NEUMANN_KEY, "Another text.\n", NEUMANN_SIGNATURE)

    with pytest.raises(SignatureFailed):
        verify_plain("note", parse_note("note", moved), KEYS)


def test_two_keys_of_one_name_and_id_are_ambiguous():
    with pytest.raises(KeyRefused, match="once"):
        verify_plain("note", parse_note("note", GOOD), KEYS * 2)


def test_every_proper_prefix_and_every_changed_byte_of_a_vkey_is_refused():
    for end in range(len(NEUMANN_KEY)):
        with pytest.raises(Malformed):
            VerifierKey.parse(NEUMANN_KEY[:end])
    for at in range(len(NEUMANN_KEY)):
        changed = NEUMANN_KEY[:at] + chr(ord(NEUMANN_KEY[at]) + 1) + NEUMANN_KEY[at + 1 :]
        with pytest.raises(Malformed):
            VerifierKey.parse(changed)


LOW_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
]
NON_CANONICAL = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    *(f"{low:02x}{'ff' * 30}{high}" for low in range(0xED, 0x100) for high in ("7f", "ff")),
]


@pytest.mark.parametrize("public", LOW_ORDER + NON_CANONICAL)
def test_a_weak_ed25519_key_is_refused(public):
    with pytest.raises(KeyRefused):
        VerifierKey("weak", ED25519, bytes.fromhex(public))


@pytest.mark.parametrize("algorithm", [0x00, 0x02, 0x03, 0x05, 0xFA, 0xFF])
def test_a_key_of_an_unknown_type_is_refused(algorithm):
    with pytest.raises(KeyRefused, match="type"):
        VerifierKey("name", algorithm, bytes(32))


ROOT = "HA5HAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def checkpoint_text(*, origin="example.com/log", size="15", root=ROOT, rest=""):
    return f"{origin}\n{size}\n{root}\n{rest}".encode() + b"\n" + GOOD.split(b"\n\n")[1]


@pytest.mark.parametrize(
    "size", ["015", "+15", "-1", "1_5", " 15", "15 ", "", "\u0661\u0665", "9223372036854775808", "1e3", "0x0f", "15.0"]
)
def test_a_size_in_any_but_its_one_form_is_refused(size):
    with pytest.raises(Malformed, match="size"):
        parse_checkpoint("checkpoint", checkpoint_text(size=size))


@pytest.mark.parametrize(
    "changes",
    [
        {"root": base64.b64encode(bytes(31)).decode()},
        {"root": base64.b64encode(bytes(33)).decode()},
        {"root": ROOT[:-2] + "B="},
        {"root": ROOT.replace("/", "_").replace("H", "-", 1)},
        {"root": ROOT + "\n"},
        {"rest": "\n"},
        {"rest": "extension\n\nmore\n"},
        {"origin": ""},
        {"origin": "example.com/\u200blog"},
        {"size": "0"},
    ],
)
def test_a_malformed_checkpoint_is_refused(changes):
    with pytest.raises(Malformed):
        parse_checkpoint("checkpoint", checkpoint_text(**changes))


def test_extension_lines_are_read_and_written_again():
    checkpoint, note = parse_checkpoint("checkpoint", checkpoint_text(rest="one\ntwo\n"))

    assert checkpoint.extensions == ("one", "two")
    assert checkpoint.text == note.text


def test_the_bytes_under_an_ml_dsa_signature_are_those_of_the_specification():
    checkpoint = Checkpoint("example.com/log", 15, bytes(range(32)), ("an extension",))

    message = signed_message(checkpoint, "witness.example/w", 0x06, 1_700_000_000)

    assert message.hex(" ").startswith("73 75 62 74 72 65 65 2f 76 31 0a 00 11 77 69 74")
    assert message == (
        b"subtree/v1\n\0"
        + b"\x11witness.example/w"
        + (1_700_000_000).to_bytes(8, "big")
        + b"\x0fexample.com/log"
        + bytes(8)
        + (15).to_bytes(8, "big")
        + bytes(range(32))
    )


def test_the_bytes_under_a_timed_ed25519_signature_hold_the_whole_text():
    checkpoint = Checkpoint("example.com/log", 15, bytes(32), ("an extension",))

    assert signed_message(checkpoint, "w", 0x04, 7) == b"cosignature/v1\ntime 7\n" + checkpoint.text.encode()


@pytest.mark.skipif(not has_ml_dsa_44(), reason="this build of cryptography has no ML-DSA-44")
def test_an_ml_dsa_signature_binds_origin_size_root_name_and_time():
    key = public_key("example.com/log", 0x06, bytes(32))
    signer = SigningKey.parse(format_private_key(key, bytes(32)))
    policy = parse_policy("policy", f"log {key}\nquorum none\n".encode())
    checkpoint = Checkpoint("example.com/log", 15, bytes(32))
    line = signer.sign_checkpoint(checkpoint, 1_700_000_000)

    assert policy.open("good", bytes(Note(checkpoint.text, (line,)))).at_seconds == 1_700_000_000
    altered_time = SignatureLine(line.name, line.key_id, line.signature[:7] + b"\xff" + line.signature[8:])
    for text, changed in (
        (Checkpoint("example.com/log", 16, bytes(32)).text, line),
        (Checkpoint("example.com/log", 15, bytes(31) + b"\1").text, line),
        (checkpoint.text, altered_time),
        (checkpoint.text, SignatureLine(line.name, line.key_id, bytes(8) + line.signature[8:])),
        (checkpoint.text, SignatureLine(line.name, line.key_id, line.signature[:-1])),
    ):
        with pytest.raises(SignatureFailed):
            policy.open("altered", bytes(Note(text, (changed,))))
