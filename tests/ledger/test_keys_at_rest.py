"""Private keys at rest: under a passphrase, readable by nobody else, refused when weak or changed."""

import unicodedata
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from log_samples import NOV_21

from ledger.encoding import encode_base64
from ledger.errors import KeyRefused, Malformed, WrongUse
from ledger.files import Folder
from ledger.keycrypt import encrypt_key, parse_encrypted_key
from ledger.keyring import generate_keys, load_keyring
from ledger.keys import KeyOpener, SigningKey, decrypt_file, encrypt_file, public_key, write_key
from ledger.note import COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44, ED25519
from ledger.passphrase import passphrase_from
from ledger.primitives import require_random_seed
from ledger.writer import LogWriter

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PASSPHRASE = "correct horse ☃ battery"
CHEAP = 14


@cache
def sealed(passphrase=PASSPHRASE, algorithm=ED25519, log2_n=CHEAP):
    key = public_key("log.example.org/boston", algorithm, SEED)
    return encrypt_key(key, SEED, passphrase, salt=bytes(range(16)), nonce=bytes(range(12)), log2_n=log2_n)


def opened(text, passphrase=PASSPHRASE):
    return SigningKey.parse(text, lambda _label: passphrase)


@pytest.mark.parametrize("algorithm", [ED25519, COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44])
def test_an_encrypted_key_opens_with_its_passphrase(algorithm):
    key = opened(sealed(algorithm=algorithm))

    assert key.key == public_key("log.example.org/boston", algorithm, SEED)


def test_a_passphrase_is_the_same_however_its_accents_were_typed():
    composed, decomposed = (unicodedata.normalize(form, "Zürich é") for form in ("NFC", "NFD"))

    assert composed != decomposed
    assert opened(sealed(composed), decomposed).key.name == "log.example.org/boston"


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE + " ", PASSPHRASE[:-1], PASSPHRASE.upper()])
def test_another_passphrase_is_refused(passphrase):
    with pytest.raises(KeyRefused, match="the passphrase that it was encrypted with, and an unchanged file"):
        opened(sealed(), passphrase)


def test_an_encrypted_key_without_a_passphrase_says_what_is_missing():
    with pytest.raises(KeyRefused, match="a passphrase for it"):
        SigningKey.parse(sealed())


def test_an_encrypted_key_with_a_changed_byte_in_any_field_is_refused():
    form = parse_encrypted_key(sealed())
    data = form.header + form.sealed

    assert len(data) == 81
    for at in (0, 1, 2, 3, 4, 5, 20, 21, 32, 33, 64, 65, 80):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((KeyRefused, Malformed)):
            opened(str(form._replace(header=changed[:33], sealed=changed[33:])))


@pytest.mark.parametrize("change", [("boston+", "bostom+"), ("boston+", "boston++"), ("ENCRYPTED", "PRIVATE")])
def test_a_relabelled_encrypted_key_is_refused(change):
    with pytest.raises((KeyRefused, Malformed)):
        opened(sealed().replace(*change))


def test_every_proper_prefix_of_an_encrypted_key_is_refused():
    text = sealed()

    for length in range(len(text)):
        with pytest.raises((KeyRefused, Malformed)):
            opened(text[:length])


@pytest.mark.parametrize(("at", "value"), [(0, 2), (2, 13), (2, 21), (2, 255), (3, 9), (4, 2)])
def test_a_cost_that_is_too_low_or_would_exhaust_the_machine_is_refused_before_it_is_paid(at, value):
    form = parse_encrypted_key(sealed())
    header = form.header[:at] + bytes([value]) + form.header[at + 1 :]

    with pytest.raises(KeyRefused, match=r"version 1|cost of scrypt"):
        parse_encrypted_key(str(form._replace(header=header)))


def test_no_refusal_shows_a_secret():
    secret = encode_base64(bytes([1]) + SEED)
    for text in (f"PRIVATE+KEY+{secret}", f"PRIVATE+KEY+a+{secret}", f"PRIVATE+KEY+a+00000000+{secret}x", secret):
        with pytest.raises(KeyRefused) as refusal:
            SigningKey.parse(text)
        assert secret[:12] not in str(refusal.value)


def test_random_seeds_of_every_first_byte_are_taken():
    for first in range(256):
        require_random_seed("key", bytes([first]) + SEED[1:])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


def cheaply(monkeypatch):
    """Scrypt at its least cost: guessing is not what these tests are about."""
    monkeypatch.setattr("ledger.keycrypt.LOG2_N", CHEAP)


def test_a_set_is_made_encrypted_and_signs_with_its_passphrase(folder, tmp_path, monkeypatch):
    cheaply(monkeypatch)
    opener = KeyOpener(passphrase=lambda _label: PASSPHRASE, encrypts=True)

    generate_keys(folder, "log.example.org/boston", opener=opener)
    writer = LogWriter.open(tmp_path / "log", load_keyring(folder, opener), NOV_21)
    writer.close(NOV_21)

    assert all(path.read_text().startswith("ENCRYPTED+KEY+") for path in folder.glob("*.key"))
    with pytest.raises(KeyRefused, match="a passphrase for it"):
        load_keyring(folder)


def test_files_are_encrypted_and_decrypted_in_place(folder, monkeypatch):
    cheaply(monkeypatch)
    generate_keys(folder, "log.example.org/boston")
    path = folder / "log-ed25519.key"
    before = path.read_bytes()

    assert encrypt_file(path, lambda _label: PASSPHRASE)
    assert not encrypt_file(path, lambda _label: PASSPHRASE)
    assert path.read_bytes() != before
    assert path.stat().st_mode & 0o777 == 0o600
    assert decrypt_file(path, lambda _label: PASSPHRASE)
    assert not decrypt_file(path, lambda _label: PASSPHRASE)
    assert path.read_bytes() == before


def test_a_plain_key_that_others_can_read_is_refused(folder):
    generate_keys(folder, "log.example.org/boston")
    (folder / "log-ed25519.key").chmod(0o640)

    with pytest.raises(KeyRefused, match="others can read it: chmod 600"):
        load_keyring(folder)


@pytest.mark.parametrize("seed", [bytes(32), b"\x01" * 32, b"ab" * 16, bytes(range(32)), bytes(range(7, 39))])
def test_a_seed_that_nobody_draws_is_refused(folder, seed):
    folder.mkdir()
    write_key(Folder(folder), "witness", public_key("witness.example", ED25519, seed), seed, None)

    with pytest.raises(KeyRefused, match="not random"):
        KeyOpener().open(folder, "witness")


def test_a_private_key_under_another_id_is_refused():
    text = f"PRIVATE+KEY+log.example.org/boston+00000000+{encode_base64(bytes([ED25519]) + SEED)}"

    with pytest.raises(KeyRefused, match="key ID"):
        SigningKey.parse(text)


def test_a_passphrase_comes_from_its_file_first_then_from_the_environment_then_from_a_person(tmp_path):
    path = tmp_path / "pass"
    path.write_text("from the file\nanother line\n")
    path.chmod(0o600)
    both = {"TALLY_KEYS_PASSPHRASE_FILE": str(path), "TALLY_KEYS_PASSPHRASE": "from the environment"}
    asked = count()

    def ask(_prompt):
        next(asked)
        return "typed"

    typed = passphrase_from({}, ask)

    assert passphrase_from(both)("a") == "from the file"
    assert passphrase_from({"TALLY_KEYS_PASSPHRASE": "from the environment"}, ask)("a") == "from the environment"
    assert [typed("a"), typed("b"), next(asked)] == ["typed", "typed", 1]


def test_a_passphrase_that_is_nowhere_empty_or_open_to_others_is_refused(tmp_path):
    path = tmp_path / "pass"
    path.write_text("secret\n")
    path.chmod(0o644)
    named = {"TALLY_KEYS_PASSPHRASE_FILE": str(path)}

    with pytest.raises(WrongUse, match="chmod 600"):
        passphrase_from(named)("a")
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(WrongUse, match="first line"):
        passphrase_from(named)("a")
    with pytest.raises(WrongUse, match="cannot be read"):
        passphrase_from({"TALLY_KEYS_PASSPHRASE_FILE": str(tmp_path / "none")})("a")
    with pytest.raises(WrongUse, match="the keys are encrypted"):
        passphrase_from({})("a")


def test_the_example_of_the_formats_page_is_what_the_code_writes_and_reads():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    header = parse_encrypted_key(sealed()).header

    assert f"{sealed()}\n{opened(sealed()).key}\n" in page
    assert header.hex() == "01010e0801" + bytes(range(16)).hex() + bytes(range(12)).hex()
