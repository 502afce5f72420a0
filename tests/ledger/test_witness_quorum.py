"""What a verifier refuses of witnesses and quorums (LEDGER.md 5F), each with its message."""

import dataclasses

import pytest
from witness_samples import NOW, SmallLog, signing_key

from ledger.checkpoint import Checkpoint
from ledger.cli import main
from ledger.errors import KeyRefused, Malformed, SignatureFailed
from ledger.note import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44, Note, SignatureLine, VerifierKey
from ledger.policy import Group, Policy, parse_policy
from ledger.primitives import has_ml_dsa_44

LOG = SmallLog()
SIZE = 9
NAMES = "abcde"
WITNESSES = {name: signing_key(f"{name}.example", 20 + at, COSIGNATURE_ED25519) for at, name in enumerate(NAMES)}
LINES = "".join(f"witness {name} {key.key}\n" for name, key in WITNESSES.items())
TWO_OF_THREE = f"{LINES}group g 2 a b c\nquorum g\n"
NESTED = f"{LINES}group x 2 a b c\ngroup y any d e\ngroup g all x y\nquorum g\n"
needs_ml_dsa = pytest.mark.skipif(not has_ml_dsa_44(), reason="this build of cryptography has no ML-DSA-44")


def policy(rest, log=LOG.key):
    return parse_policy("policy", f"log {log.key}\n{rest}".encode())


def note(*names, at=NOW, of=None):
    """The checkpoint of the log, cosigned; `of` is the checkpoint that the cosigners saw."""
    seen = of or LOG.checkpoint(SIZE)
    lines = [LOG.key.sign_checkpoint(LOG.checkpoint(SIZE), NOW)]
    lines += [WITNESSES[name].sign_checkpoint(seen, at) for name in names]
    return bytes(Note(LOG.checkpoint(SIZE).text, tuple(lines)))


def refused(policy, data):
    with pytest.raises(SignatureFailed) as caught:
        policy.open("checkpoint", data)
    return str(caught.value)


def test_two_of_three_are_enough():
    assert policy(TWO_OF_THREE).open("checkpoint", note("a", "c")).witnessed_by == ("a", "c")


def test_one_less_than_the_quorum_is_refused_and_says_who_cosigned():
    assert refused(policy(TWO_OF_THREE), note("a", "d")) == (
        "checkpoint of size 9, witnesses: expected the quorum g, from size 0 on, found a, d"
    )


def test_no_cosignature_at_all_is_refused():
    assert refused(policy(TWO_OF_THREE), note()).endswith("found no cosignature by a known witness")


@pytest.mark.parametrize("groups", [{}, {"g": Group(1, ())}, {"g": Group(1, ("a",))}])
def test_a_required_quorum_with_an_empty_list_of_witnesses_fails_closed(groups):
    plain = policy("quorum none\n")
    empty = Policy(plain.logs, {}, groups, "g")

    assert "expected the quorum g" in refused(empty, note("a", "b"))


def test_a_policy_whose_quorum_has_no_witnesses_is_no_policy():
    with pytest.raises(Malformed, match="the name of a witness or group above, found 'g'"):
        policy("quorum g\n")
    with pytest.raises(Malformed, match="all, any or 1 to 1"):
        policy(f"{LINES}group g 0 a\nquorum g\n")


def test_the_logs_own_key_as_witness_is_refused():
    own = VerifierKey("w.example", COSIGNATURE_ED25519, LOG.key.key.public)

    with pytest.raises(KeyRefused, match=r"each public key under one name and role, found the one of example\.com/log"):
        policy(f"witness w {own}\nquorum w\n")


def test_the_logs_own_signatures_are_no_cosignatures():
    data = note() + str(LOG.key.sign_checkpoint(LOG.checkpoint(SIZE), NOW)).encode()

    assert "no cosignature by a known witness" in refused(policy(TWO_OF_THREE), data)


@pytest.mark.parametrize("name", ["a.example", "other.example"])
def test_one_key_under_two_names_is_refused(name):
    again = VerifierKey(name, COSIGNATURE_ED25519, WITNESSES["a"].key.public)

    with pytest.raises(KeyRefused, match=r"expected each .* once|each public key under one name"):
        policy(f"{LINES}witness z {again}\nquorum z\n")


def test_one_witness_counts_once_however_often_it_cosigned():
    assert "found a" in refused(policy(TWO_OF_THREE), note("a", "a", "a"))


def test_a_cosignature_relabelled_to_another_name_is_a_bad_one():
    line = WITNESSES["a"].sign_checkpoint(LOG.checkpoint(SIZE), NOW)
    other = WITNESSES["b"].key
    relabelled = SignatureLine(other.name, other.key_id, line.signature)

    said = refused(policy(TWO_OF_THREE), note("a") + str(relabelled).encode())

    assert said == f"checkpoint: expected a good signature by {other.label}, found a bad one"


def test_a_cosignature_with_time_0_is_refused():
    assert "expected a time after 1970, found 0" in refused(policy(TWO_OF_THREE), note("a", "b", at=0))


def test_a_cosignature_from_the_future_is_refused_by_those_who_know_the_time():
    early = policy(TWO_OF_THREE).as_of(NOW - 301)

    assert refused(early, note("a", "b")) == (
        f"checkpoint, cosignature by {WITNESSES['a'].key.label} from the future: "
        f"expected at most {NOW - 301}, found {NOW}"
    )
    assert policy(TWO_OF_THREE).as_of(NOW - 300).open("checkpoint", note("a", "b")).at_seconds == NOW


def test_the_auditors_commands_refuse_a_cosignature_from_the_future(tmp_path, capsys):
    far = 2**62
    for name, data in (("policy", f"log {LOG.key.key}\n{TWO_OF_THREE}".encode()), ("old", note("a", "b", at=far))):
        (tmp_path / name).write_bytes(data)

    code = main(["consistency", str(tmp_path), "--old", str(tmp_path / "old"), "--policy", str(tmp_path / "policy")])

    assert code == 1
    assert "from the future" in capsys.readouterr().out


def test_a_cosignature_with_another_time_than_was_signed_is_refused():
    line = WITNESSES["a"].sign_checkpoint(LOG.checkpoint(SIZE), NOW)
    later = dataclasses.replace(line, signature=(NOW + 1).to_bytes(8, "big") + line.signature[8:])

    assert "a bad one" in refused(policy(TWO_OF_THREE), note("b") + str(later).encode())


@pytest.mark.parametrize(
    "seen",
    [LOG.checkpoint(SIZE - 1), Checkpoint("example.com/other", SIZE, LOG.checkpoint(SIZE).root)],
    ids=["older", "another origin"],
)
def test_a_cosignature_over_another_checkpoint_is_refused(seen):
    assert "a bad one" in refused(policy(TWO_OF_THREE), note("a", "b", of=seen))


def test_an_extension_line_added_to_a_cosigned_checkpoint_is_refused():
    assert "a bad one" in refused(policy(TWO_OF_THREE), note("a", "b").replace(b"\n\n", b"\nmore\n\n", 1))


def test_a_nested_quorum_is_satisfied_by_distinct_witnesses_of_each_group():
    assert policy(NESTED).open("checkpoint", note("a", "c", "e")).witnessed_by == ("a", "c", "e")


@pytest.mark.parametrize("names", ["aad", "ade", "abc", "de", "dde"])
def test_a_nested_quorum_satisfied_by_duplicates_only_is_refused(names):
    assert "expected the quorum g" in refused(policy(NESTED), note(*names))


def test_a_witness_cannot_be_counted_in_two_groups():
    with pytest.raises(Malformed, match="each name in one group at most"):
        policy(f"{LINES}group x any a\ngroup y any a\ngroup g all x y\nquorum g\n")


@pytest.mark.parametrize(("first", "is_needed"), [(9, True), (10, False)])
def test_a_quorum_holds_from_the_size_on_that_the_policy_names(first, is_needed):
    late = policy(f"# tally-quorum {first}\n{TWO_OF_THREE}")

    if is_needed:
        assert "the quorum g, from size 9 on" in refused(late, note("a"))
    else:
        assert late.open("checkpoint", note("a")).witnessed_by == ("a",)


@pytest.mark.parametrize("line", ["# tally-quorum", "# tally-quorum x", "# tally-quorum 1 2", "# tally-quorum -1"])
def test_a_first_size_that_is_none_is_refused(line):
    with pytest.raises(Malformed, match="policy, line 2"):
        policy(f"{line}\n{TWO_OF_THREE}")


def test_two_first_sizes_are_refused():
    with pytest.raises(Malformed, match="one tally-quorum line"):
        policy(f"# tally-quorum 1\n# tally-quorum 1\n{TWO_OF_THREE}")


def test_a_policy_says_where_logs_and_witnesses_answer():
    found = parse_policy(
        "policy",
        f"log {LOG.key.key} https://log.example/\nwitness a {WITNESSES['a'].key} http://a.example\n"
        f"witness b {WITNESSES['b'].key}\nquorum a\n".encode(),
    )

    assert [log.url for log in found.logs] == ["https://log.example/"]
    assert found.witness_urls == {"a": "http://a.example"}


# ML-DSA-44 cosignatures cover a structure, not the text


@pytest.fixture(scope="module")
def quantum_safe():
    return signing_key("q.example", 30, COSIGNATURE_ML_DSA_44)


@needs_ml_dsa
def test_an_ml_dsa_cosignature_counts(quantum_safe):
    found = policy(f"witness q {quantum_safe.key}\nquorum q\n").open("c", LOG.note(SIZE, LOG.key, quantum_safe))

    assert (found.witnessed_by, found.at_seconds) == (("q",), NOW)


def structure(name=b"q.example", at=NOW, origin=b"example.com/log", start=0, end=SIZE, root=None):
    names = bytes([len(name)]) + name + at.to_bytes(8, "big") + bytes([len(origin)]) + origin
    span = start.to_bytes(8, "big") + end.to_bytes(8, "big")
    return b"subtree/v1\n\0" + names + span + (root or LOG.checkpoint(SIZE).root)


@needs_ml_dsa
@pytest.mark.parametrize(
    ("signed", "is_good"),
    [
        ({}, True),
        ({"name": b"p.example"}, False),
        ({"origin": b"example.com/loh"}, False),
        ({"start": 1}, False),
        ({"start": 256, "end": 256 + SIZE}, False),
        ({"end": SIZE - 1}, False),
        ({"at": NOW + 1}, False),
        ({"root": bytes(32)}, False),
    ],
)
def test_an_ml_dsa_cosignature_over_anything_but_this_checkpoint_is_refused(quantum_safe, signed, is_good):
    raw = NOW.to_bytes(8, "big") + quantum_safe.secret.sign(structure(**signed))
    line = SignatureLine(quantum_safe.key.name, quantum_safe.key.key_id, raw)
    opening = policy(f"witness q {quantum_safe.key}\nquorum q\n")

    if is_good:
        assert opening.open("checkpoint", LOG.note(SIZE) + str(line).encode()).witnessed_by == ("q",)
    else:
        assert "a bad one" in refused(opening, LOG.note(SIZE) + str(line).encode())


@needs_ml_dsa
def test_a_sub_tree_signature_whose_time_is_0_is_no_cosignature_of_a_checkpoint(quantum_safe):
    raw = bytes(8) + quantum_safe.secret.sign(structure(at=0))
    line = SignatureLine(quantum_safe.key.name, quantum_safe.key.key_id, raw)

    said = refused(policy(f"witness q {quantum_safe.key}\nquorum q\n"), LOG.note(SIZE) + str(line).encode())

    assert "expected a time after 1970, found 0" in said


@needs_ml_dsa
def test_an_extension_line_that_no_log_signature_covers_is_refused():
    key = signing_key("example.com/log", 31, COSIGNATURE_ML_DSA_44)
    data = LOG.note(SIZE, key)
    opening = policy("quorum none\n", log=key)
    assert opening.open("checkpoint", data).checkpoint == LOG.checkpoint(SIZE)

    assert refused(opening, data.replace(b"\n\n", b"\nmore\n\n", 1)) == (
        "checkpoint, extension lines: expected a log signature of type 0x01 over them, found 0x06 alone"
    )
