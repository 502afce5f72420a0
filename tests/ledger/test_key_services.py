"""Keys that are elsewhere: in the environment, in another file, behind a program, a package or a security module."""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from log_samples import NOV_21, event

from adapters import key_program
from adapters.cli import main
from adapters.errors import TallyError
from adapters.key_pkcs11 import parse_uri
from adapters.key_services import opener_with
from ledger.audit import audit_log
from ledger.errors import KeyRefused, SignatureFailed
from ledger.files import Folder
from ledger.keyring import generate_keys, load_keyring
from ledger.keys import SigningKey, format_private_key, new_key
from ledger.note import COSIGNATURE_ML_DSA_44, ED25519
from ledger.writer import LogWriter

ORIGIN = "log.example.org/boston"
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "key_program.py"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib64/libsofthsm2.so")
MODULE = next((path for path in MODULES if Path(path).exists()), None)
PIN = "2481"


def opener(environ=None):
    return opener_with({**os.environ, **(environ or {})}, lambda _label: "unused", encrypts=False)


def publish(tmp_path, references, environ=None):
    """A log whose keys are partly elsewhere, signed and audited; returns its keyring."""
    folder, log_dir = tmp_path / "keys", tmp_path / "log"
    generate_keys(folder, ORIGIN, opener=opener(environ), references=references)
    keyring = load_keyring(folder, opener(environ))
    writer = LogWriter.open(log_dir, keyring, NOV_21)
    writer.append([event(number) for number in range(5)])
    writer.close(NOV_21)
    assert audit_log(Folder(log_dir), keyring.policy).checkpoint.checkpoint.tree_size == 5
    for role in references:
        assert not (folder / f"{role}.key").exists()
    return keyring


def test_keys_in_the_environment_and_in_another_file_sign_a_log(tmp_path):
    key, seed = new_key(ORIGIN, ED25519)
    other, other_seed = new_key(f"{ORIGIN}/certificates", ED25519)
    elsewhere = tmp_path / "elsewhere.key"
    elsewhere.write_text(f"{format_private_key(other, other_seed)}\n")
    elsewhere.chmod(0o600)
    references = {"log-ed25519": "env:LOG_KEY", "certificate-ed25519": f"file:{elsewhere}"}

    keyring = publish(tmp_path, references, {"LOG_KEY": format_private_key(key, seed)})

    assert keyring.log_keys[0].key == key
    assert keyring.certificate_keys[0].key == other


@pytest.fixture
def program(tmp_path):
    seed = tmp_path / "seed"
    seed.write_text(secrets.token_bytes(32).hex())
    command = shlex.join([sys.executable, str(EXAMPLE), str(seed)])
    yield f"exec:{command}"
    key_program._program(command).stop()


def test_a_program_of_another_process_signs_a_log(tmp_path, program):
    keyring = publish(tmp_path, {"log-ed25519": program})

    assert keyring.log_keys[0].key.name == ORIGIN


PROGRAMS = {
    "no JSON": ("print('hello', flush=True)", "answered 'hello"),
    "another answer": ("print('{\"signature\": 5}', flush=True)", 'wanted {"public":"<base64>"}'),
    "an error": ('print(\'{"error": "no such key"}\', flush=True)', "no such key"),
    "the end": ("raise SystemExit(3)", "ended, or answered 0 bytes"),
    "silence": ("import time; time.sleep(60)", "gave no answer within 0.5 s"),
    "a line without end": ("print('x' * 70_000, end='', flush=True); import time; time.sleep(60)", "without a newline"),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_program_that_fails_is_named_with_what_it_said(case, monkeypatch):
    code, problem = PROGRAMS[case]
    monkeypatch.setattr(key_program, "ANSWER_S", 0.5 if case == "silence" else 10.0)
    command = shlex.join([sys.executable, "-c", f"import sys\nfor line in sys.stdin:\n    {code}"])

    with pytest.raises(TallyError) as refusal:
        opener().open_service(f"exec:{command}", ORIGIN, ED25519)

    assert problem in str(refusal.value)


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(TallyError, match="cannot be started"):
        opener().open_service("exec:/nonexistent/kms", ORIGIN, ED25519)


def test_a_program_that_ended_is_started_again(program):
    service = opener().open_service(program, ORIGIN, ED25519)
    running = key_program._program(program.removeprefix("exec:"))
    running._process.kill()
    running._process.wait()

    assert len(service.sign(b"message")) == 64


class Lying:
    """A service that answers with a signature over something else."""

    def __init__(self, name):
        key, seed = new_key(name, ED25519)
        self._key = SigningKey.of_secret(name, key.key_id.hex(), ED25519, seed)
        self.vkey = str(key)

    def sign(self, message):
        return self._key.secret.sign(message + b"!")


def test_a_service_that_signs_something_else_is_found_out_before_its_signature_is_used():
    service = Lying(ORIGIN)
    key = SigningKey.at_service(service, service._key.key)

    with pytest.raises(SignatureFailed, match=r"signing service of .*: expected a good signature"):
        key.secret.sign(b"message")


def test_a_service_with_another_key_than_the_public_half_beside_it_is_refused():
    service = Lying(ORIGIN)

    with pytest.raises(KeyRefused, match="expected that key, found"):
        SigningKey.at_service(service, new_key(ORIGIN, ED25519)[0])


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE is not set"),
        ("env:", "wanted <scheme>:<rest>"),
        ("vault", "wanted <scheme>:<rest>"),
        ("vault:key", "wanted one of env, file, exec, pkcs11"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_is_wanted(reference, problem):
    with pytest.raises(TallyError, match=problem):
        opener().open_service(reference, ORIGIN, ED25519)


PLUGGED = """
from ledger.keys import SigningKey, new_key, split_secret
from adapters.key_services import LocalKey
from pathlib import Path

def open_key(reference, name, algorithm):
    path = Path(reference.removeprefix("acme:"))
    return LocalKey(SigningKey.of_secret(*split_secret(path.read_text().strip())))
"""


def test_an_installed_package_may_bring_a_scheme_of_its_own(tmp_path):
    key, seed = new_key(ORIGIN, ED25519)
    (tmp_path / "hsm").write_text(format_private_key(key, seed))
    (tmp_path / "acme_keys.py").write_text(PLUGGED)
    info = tmp_path / "acme_keys-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-keys\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tally.keys]\nacme = acme_keys:open_key\n")
    command = [sys.executable, "-m", "adapters.cli", "keys", "generate", "--tenant", "boston", "--origin", ORIGIN]
    command += ["--at", f"log-ed25519=acme:{tmp_path / 'hsm'}", "--data", str(tmp_path / "data"), "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(EXAMPLE.parents[2])])}

    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert answer.returncode == 0, answer.stderr
    rows = {row["name"]: row for row in json.loads(answer.stdout)["keys"]}
    assert rows["log-ed25519"]["key"] == key.label
    assert rows["log-ed25519"]["kept"] == f"acme:{tmp_path / 'hsm'}"


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A SoftHSM token of the test's own with an Ed25519 key; returns its URI without a PIN."""
    tool = shutil.which("softhsm2-util")
    if tool is None or MODULE is None:
        pytest.skip("softhsm2 is not installed (Debian package softhsm2)")
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed (extra hsm)")
    from pkcs11.util.ec import encode_named_curve_parameters

    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    label = f"tally-{tmp_path.name[-20:]}"
    command = [tool, "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "135790"]
    subprocess.run(command, check=True, capture_output=True)
    library = pkcs11.lib(MODULE)
    library.reinitialize()
    curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
    with library.get_token(token_label=label).open(user_pin=PIN, rw=True) as session:
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC_EDWARDS, curve, local=True)
        generate = pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN
        parameters.generate_keypair(mechanism=generate, store=True, label="log", id=b"\x01")
    return f"pkcs11:token={label};object=log?module-path={MODULE}"


def test_a_key_in_a_security_module_signs_a_log(tmp_path, token):
    pin = tmp_path / "pin"
    pin.write_text(f"{PIN}\n")

    keyring = publish(tmp_path, {"log-ed25519": f"{token}&pin-source=file:{pin}"})

    assert keyring.log_keys[0].key.name == ORIGIN


def test_a_module_that_refuses_says_so_in_one_line(token):
    environ = {"TALLY_PKCS11_PIN": PIN}

    with pytest.raises(TallyError, match="NoSuchKey"):
        opener(environ).open_service(token.replace("object=log", "object=other"), ORIGIN, ED25519)
    with pytest.raises(TallyError, match=r"no PIN: name a file as &pin-source"):
        opener().open_service(token, ORIGIN, ED25519)
    with pytest.raises(TallyError, match="ML-DSA-44 key in a file"):
        opener(environ).open_service(token, ORIGIN, COSIGNATURE_ML_DSA_44)
    with pytest.raises(TallyError, match=r"PinIncorrect|the module says"):
        opener({"TALLY_PKCS11_PIN": "0000"}).open_service(token, ORIGIN, ED25519)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("pkcs11:", "wanted each of"),
        ("pkcs11:token=a", "names no key"),
        ("pkcs11:object=a", "names no key"),
        ("pkcs11:token=a;token=b;object=c", "wanted each of"),
        ("pkcs11:token=a;object=b;colour=red", "wanted each of"),
        ("pkcs11:token=a;object=b?pin-value=1234", "has a PIN in it"),
        ("pkcs11:token=a;object=b;type=cert", "wanted private"),
        ("pkcs11:token=a;object", "wanted each of"),
    ],
)
def test_a_uri_that_names_no_key_is_refused(uri, problem):
    with pytest.raises(TallyError, match=problem):
        parse_uri(uri)


def test_a_uri_is_decoded_as_rfc_7512_says():
    found = parse_uri("pkcs11:token=The%20Software;id=%69%00;type=private?module-path=/a%3Bb.so&pin-source=file:/p")

    assert found["token"] == b"The Software"
    assert found["id"] == b"i\x00"
    assert found["module-path"] == b"/a;b.so"


def test_the_help_of_tally_keys_shows_how_it_is_used(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["keys", "--help"])

    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for word in ("generate", "list", "rotate", "retire", "encrypt", "decrypt", "TALLY_KEYS_PASSPHRASE_FILE", "pkcs11"):
        assert word in shown
