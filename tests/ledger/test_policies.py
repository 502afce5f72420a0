"""The trust root: which keys must have signed, which witnesses suffice, and which policy files are refused."""

import pytest

from ledger.checkpoint import Checkpoint
from ledger.errors import KeyRefused, Malformed, SignatureFailed
from ledger.keys import SigningKey, format_private_key, public_key
from ledger.note import COSIGNATURE_ED25519, ED25519, Note, SignatureLine
from ledger.policy import parse_policy

CHECKPOINT = Checkpoint("example.com/log", 100, bytes(range(32)))


def signer(name, number, algorithm=ED25519):
    seed = bytes([number]) * 32
    return SigningKey.parse(format_private_key(public_key(name, algorithm, seed), seed))


LOG = signer("example.com/log", 1)
OTHER_LOG_KEY = signer("example.com/log", 2)
WITNESSES = {name: signer(f"{name}.example", 10 + at, COSIGNATURE_ED25519) for at, name in enumerate("abcde")}
WITNESS_LINES = "".join(f"witness {name} {key.key}\n" for name, key in WITNESSES.items())


def policy(rest="quorum none\n", logs=f"log {LOG.key}\n"):
    return parse_policy("policy", (logs + rest).encode())


def note(*signers, checkpoint=CHECKPOINT, at=1_700_000_000):
    return bytes(Note(checkpoint.text, tuple(key.sign_checkpoint(checkpoint, at) for key in signers)))


def test_a_checkpoint_signed_by_the_log_opens():
    opened = policy().open("checkpoint", note(LOG))

    assert (opened.checkpoint, opened.signed_by) == (CHECKPOINT, (LOG.key.label,))


def test_a_right_origin_with_a_wrong_key_is_refused():
    with pytest.raises(SignatureFailed, match="none of a known key"):
        policy().open("checkpoint", note(OTHER_LOG_KEY))


@pytest.mark.parametrize("origin", ["example.com/Log", "example.com/log.", "example.com", "other.example/log"])
def test_a_wrong_origin_with_a_right_key_is_refused(origin):
    with pytest.raises(SignatureFailed, match="origin"):
        policy().open("checkpoint", note(LOG, checkpoint=Checkpoint(origin, 100, bytes(32))))


def ranged(*ranges):
    keys = (LOG, OTHER_LOG_KEY)
    return "".join(
        f"# tally-range {key.key.key_id.hex()} {span}\nlog {key.key}\n" for key, span in zip(keys, ranges, strict=True)
    )


@pytest.mark.parametrize(
    ("ranges", "signers", "problem"),
    [
        (("0 -", "0 -"), (LOG, OTHER_LOG_KEY), None),
        (("0 -", "0 -"), (LOG,), "a signature by"),
        (("0 99", "50 -"), (OTHER_LOG_KEY,), None),
        (("0 100", "101 -"), (LOG,), None),
        (("0 99", "50 -"), (LOG, OTHER_LOG_KEY), "sizes from 0 to 99"),
        (("0 -", "101 -"), (LOG, OTHER_LOG_KEY), "sizes from 101"),
        (("0 99", "101 -"), (), "a signature by"),
    ],
)
def test_a_key_with_a_range_signs_every_size_within_and_none_outside(ranges, signers, problem):
    opening = policy(logs=ranged(*ranges))
    data = note(*signers) if signers else note(WITNESSES["a"])

    if problem is None:
        assert len(opening.open("checkpoint", data).signed_by) == len(signers)
        return
    with pytest.raises(SignatureFailed, match=problem):
        opening.open("checkpoint", data)


def test_an_added_signature_of_a_known_key_that_is_bad_is_refused():
    bad = SignatureLine(OTHER_LOG_KEY.key.name, OTHER_LOG_KEY.key.key_id, bytes(64))
    opening = policy(logs=f"log {LOG.key}\nlog {OTHER_LOG_KEY.key}\n")

    with pytest.raises(SignatureFailed, match="bad one"):
        opening.open("checkpoint", note(LOG) + str(bad).encode())


@pytest.mark.parametrize(
    ("lines", "cosigners", "is_enough"),
    [
        ("quorum a\n", "a", True),
        ("quorum a\n", "", False),
        ("quorum a\n", "b", False),
        ("group g 2 a b c\nquorum g\n", "ab", True),
        ("group g 2 a b c\nquorum g\n", "b", False),
        ("group g 2 a b c\nquorum g\n", "bb", False),
        ("group g all a b\nquorum g\n", "a", False),
        ("group g any a b\nquorum g\n", "b", True),
        ("group x any a b\ngroup y any c d\ngroup g all x y\nquorum g\n", "ab", False),
        ("group x any a b\ngroup y any c d\ngroup g all x y\nquorum g\n", "bd", True),
    ],
)
def test_the_quorum_counts_distinct_known_witnesses(lines, cosigners, is_enough):
    opening = policy(WITNESS_LINES + lines)
    data = note(LOG, *(WITNESSES[name] for name in cosigners))

    if is_enough:
        assert set(opening.open("checkpoint", data).witnessed_by) == set(cosigners)
        return
    with pytest.raises(SignatureFailed, match="quorum"):
        opening.open("checkpoint", data)


def test_the_keys_of_the_log_do_not_count_as_witnesses():
    with pytest.raises(SignatureFailed, match="quorum"):
        policy(WITNESS_LINES + "quorum a\n").open("checkpoint", note(LOG, LOG))


def test_a_cosignature_relabelled_to_another_witness_is_not_its_own():
    line = WITNESSES["a"].sign_checkpoint(CHECKPOINT, 1_700_000_000)
    relabelled = SignatureLine(WITNESSES["b"].key.name, WITNESSES["b"].key.key_id, line.signature)

    with pytest.raises(SignatureFailed):
        policy(WITNESS_LINES + "quorum b\n").open("checkpoint", note(LOG) + str(relabelled).encode())


def test_a_cosignature_over_an_older_checkpoint_is_refused():
    older = WITNESSES["a"].sign_checkpoint(Checkpoint("example.com/log", 99, bytes(32)), 1_700_000_000)

    with pytest.raises(SignatureFailed):
        policy(WITNESS_LINES + "quorum a\n").open("checkpoint", note(LOG) + str(older).encode())


def test_a_cosignature_without_a_time_is_refused():
    with pytest.raises(SignatureFailed, match="time"):
        policy(WITNESS_LINES + "quorum a\n").open("checkpoint", note(LOG, WITNESSES["a"], at=0))


KEY_A = WITNESSES["a"].key
REFUSED = {
    "no quorum line": f"log {LOG.key}\n",
    "two quorum lines": f"log {LOG.key}\nquorum none\nquorum none\n",
    "no log": "quorum none\n",
    "unknown keyword": f"log {LOG.key}\nlogs {LOG.key}\nquorum none\n",
    "a quorum that is not defined": f"log {LOG.key}\nquorum a\n",
    "a quorum before its definition": f"log {LOG.key}\nquorum a\nwitness a {KEY_A}\n",
    "an unknown member": f"log {LOG.key}\ngroup g any a\nquorum g\n",
    "a group without members": f"log {LOG.key}\ngroup g any\nquorum g\n",
    "a member of two groups": f"log {LOG.key}\nwitness a {KEY_A}\ngroup g any a\ngroup h any a\nquorum g\n",
    "a member twice": f"log {LOG.key}\nwitness a {KEY_A}\ngroup g 2 a a\nquorum g\n",
    "more needed than members": f"log {LOG.key}\nwitness a {KEY_A}\ngroup g 2 a\nquorum g\n",
    "none needed": f"log {LOG.key}\nwitness a {KEY_A}\ngroup g 0 a\nquorum g\n",
    "a number with a sign": f"log {LOG.key}\nwitness a {KEY_A}\ngroup g +1 a\nquorum g\n",
    "a name twice": f"log {LOG.key}\nwitness a {KEY_A}\nwitness a {WITNESSES['b'].key}\nquorum a\n",
    "the name none": f"log {LOG.key}\nwitness none {KEY_A}\nquorum none\n",
    "a key twice": f"log {LOG.key}\nlog {LOG.key}\nquorum none\n",
    "a key under two names": f"log {LOG.key}\nlog {signer('example.com/other', 1).key}\nquorum none\n",
    "a log key as witness": f"log {LOG.key}\nwitness a {LOG.key}\nquorum none\n",
    "a witness key as log key": f"log {KEY_A}\nquorum none\n",
    "a range of no key": f"# tally-range 00000000 0 -\nlog {LOG.key}\nquorum none\n",
    "a range upside down": f"# tally-range {LOG.key.key_id.hex()} 5 4\nlog {LOG.key}\nquorum none\n",
    "a certificate key of another type": f"# tally-certificate {KEY_A}\nlog {LOG.key}\nquorum none\n",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_policy_file_is_refused_for(case):
    with pytest.raises((Malformed, KeyRefused)):
        parse_policy("policy", REFUSED[case].encode())


def test_a_policy_of_forty_logs_and_witnesses_is_read():
    logs = "".join(f"log {signer(f'log{i}.example', 50 + i).key} https://log{i}.example/\n" for i in range(40))
    witnesses = "".join(
        f"witness w{i} {signer(f'w{i}.example', 100 + i, COSIGNATURE_ED25519).key} https://w{i}.example/\n"
        f"group g{i} any w{i}\n"
        for i in range(40)
    )
    members = " ".join(f"g{i}" for i in range(40))

    found = parse_policy("policy", f"# a comment\n\n{logs}{witnesses}group all all {members}\nquorum all\n".encode())

    assert (len(found.logs), len(found.witnesses), found.groups["all"].needed) == (40, 40, 40)
