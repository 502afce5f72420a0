"""Time stamp authorities for tests: `openssl ts` as a command and over HTTP; stamps made by hand, with any mistake."""

import datetime as dt
import subprocess
import threading
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ledger.der import BOOLEAN, CONTEXT, GENERALIZED_TIME, OBJECT_ID, OCTET_STRING, SEQUENCE, SET
from ledger.der import encode_der as der
from ledger.der import encode_integer as number

TIME_STAMPING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
SHA256, SHA1 = "2.16.840.1.101.3.4.2.1", "1.3.14.3.2.26"
ECDSA_SHA256, RSA_SHA256 = "1.2.840.10045.4.3.2", "1.2.840.113549.1.1.11"
YEAR = dt.timedelta(days=365)

CONFIG = """
[tsa]
default_tsa = cfg
[cfg]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
{certs}
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = {digests}
accuracy = secs:1
ordering = yes
tsa_name = no
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class Authority:
    """A root, an optional CA between, and a signer, all in one folder."""

    def __init__(
        self, folder, name="one", *, usage=TIME_STAMPING, critical=True, is_rsa=False, is_between=False, years=(1, 10),
        digests="sha256,sha384,sha512", root_ca=True,
    ):  # fmt: skip
        self.folder = folder
        folder.mkdir()
        self.name = name
        self.is_rsa = is_rsa
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self.valid = (now - years[0] * YEAR, now + years[1] * YEAR)
        root_key = self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._issue(f"root of {name}", root_key, None, ca=root_ca)
        issuer, issuer_key, self.between = self.root, root_key, []
        if is_between:
            between_key = self.between_key = ec.generate_private_key(ec.SECP384R1())
            self.between = [self._issue(f"between of {name}", between_key, (self.root, root_key), ca=True)]
            issuer, issuer_key = self.between[0], between_key
        self.key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
        extensions = [] if usage is None else [(usage, critical)]
        self.signer = self._issue(name, self.key, (issuer, issuer_key), extensions=extensions)
        certs = f"certs = {folder}/between.pem" if is_between else ""
        (folder / "serial").write_text("01\n")
        (folder / "ts.cnf").write_text(CONFIG.format(folder=folder, certs=certs, digests=digests))
        for file, certificate in {"ca": self.root, "tsa": self.signer, "between": (self.between or [None])[0]}.items():
            if certificate is not None:
                (folder / f"{file}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "tsa.key").write_bytes(pem)

    def _issue(self, name, key, issuer, *, ca=None, extensions=()):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.valid[0])
            .not_valid_after(self.valid[1])
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(issuer[1] if issuer else key, hashes.SHA256())

    def sign_again_with_sha_1(self):
        """Put another signature on the signer's certificate, one that `cryptography` makes no more."""
        pem = self.root_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "ca.key").write_bytes(pem)
        (self.folder / "ext").write_text("extendedKeyUsage = critical,timeStamping\n")
        public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.folder / "tsa.pub").write_bytes(public)
        options = "-new -force_pubkey tsa.pub -subj /CN=one -CA ca.pem -CAkey ca.key -sha1 -set_serial 77 -extfile ext"
        subprocess.run(
            ["openssl", "x509", *options.split(), "-out", "tsa.pem"],
            cwd=self.folder, check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        self.signer = x509.load_pem_x509_certificate((self.folder / "tsa.pem").read_bytes())

    def twin_between(self):
        """The CA between once more, with the same key, as if it had issued itself."""
        between = self.between[0]
        return self._issue(f"between of {self.name}", self.between_key, (between, self.between_key), ca=True)

    @property
    def root_der(self):
        return self.root.public_bytes(Encoding.DER)

    @property
    def command(self):
        """As the operator's settings name it: request on standard input, response on standard output."""
        return ["openssl", "ts", "-reply", "-config", str(self.folder / "ts.cnf"), "-queryfile", "/dev/stdin"]

    def answer(self, request):
        done = subprocess.run(self.command, input=request, capture_output=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def is_verified_by_openssl(self, response, message):
        """`openssl ts -verify`, as an outsider would run it."""
        (self.folder / "r.tsr").write_bytes(response)
        (self.folder / "data").write_bytes(message)
        files = ["-data", "data", "-in", "r.tsr", "-CAfile", "ca.pem"]
        done = subprocess.run(
            ["openssl", "ts", "-verify", *files], cwd=self.folder, capture_output=True, check=False, timeout=30
        )
        return done.returncode == 0 and b"Verification: OK" in done.stdout

    # by hand

    def forge(self, message, **changes):
        """A response like those of `openssl ts`, with what `changes` say otherwise."""
        said = {
            "status": 0, "at": dt.datetime.now(dt.UTC), "nonce": 7, "digest": SHA256, "content_type": TST_INFO,
            "version": 1,
            "named": self.signer, "certificates": [self.signer, *self.between], "signers": 1, "is_v1": False,
            "extensions": b"", "time": None, "spoil": lambda token: token,
        } | changes  # fmt: skip
        value = sha1(message).digest() if said["digest"] == SHA1 else sha256(message).digest()
        stamp = said["time"] or said["at"].strftime("%Y%m%d%H%M%SZ").encode()
        info = der(
            SEQUENCE, number(said["version"]), oid("1.2.3.4.1"),
            der(SEQUENCE, der(SEQUENCE, oid(said["digest"])), der(OCTET_STRING, value)), number(5),
            der(GENERALIZED_TIME, stamp), der(SEQUENCE, number(1)), der(BOOLEAN, b"\xff"),
            b"" if said["nonce"] is None else number(said["nonce"]), said["extensions"],
        )  # fmt: skip
        signer = self._signer_info(info, said)
        certificates = b"".join(sorted(c.public_bytes(Encoding.DER) for c in said["certificates"]))
        signed = der(
            SEQUENCE, number(3), der(SET, der(SEQUENCE, oid(SHA256))),
            der(SEQUENCE, oid(said["content_type"]), der(CONTEXT, der(OCTET_STRING, info))),
            der(CONTEXT, certificates), der(SET, signer * said["signers"]),
        )  # fmt: skip
        token = der(SEQUENCE, oid("1.2.840.113549.1.7.2"), der(CONTEXT, signed))
        return der(SEQUENCE, der(SEQUENCE, number(said["status"])), said["spoil"](token))

    def _signer_info(self, info, said):
        certificate = said["named"].public_bytes(Encoding.DER)
        named, kind = (sha1(certificate), "12") if said["is_v1"] else (sha256(certificate), "47")
        identity = der(SEQUENCE, der(SEQUENCE, der(SEQUENCE, der(OCTET_STRING, named.digest()))))
        attributes = sorted([
            der(SEQUENCE, oid("1.2.840.113549.1.9.3"), der(SET, oid(said["content_type"]))),
            der(SEQUENCE, oid("1.2.840.113549.1.9.4"), der(SET, der(OCTET_STRING, sha256(info).digest()))),
            der(SEQUENCE, oid(f"1.2.840.113549.1.9.16.2.{kind}"), der(SET, identity)),
        ])  # fmt: skip
        to_sign = der(SET, *attributes)
        if self.is_rsa:
            method, signature = RSA_SHA256, self.key.sign(to_sign, padding.PKCS1v15(), hashes.SHA256())
        else:
            method, signature = ECDSA_SHA256, self.key.sign(to_sign, ec.ECDSA(hashes.SHA256()))
        issuer = der(SEQUENCE, self.signer.issuer.public_bytes(), number(self.signer.serial_number))
        return der(
            SEQUENCE, number(1), issuer, der(SEQUENCE, oid(SHA256)), der(CONTEXT, *attributes),
            der(SEQUENCE, oid(method)), der(OCTET_STRING, signature),
        )  # fmt: skip


TST_INFO = "1.2.840.113549.1.9.16.1.4"


def oid(dotted):
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for value in (40 * first + second, *rest):
        digits = [value & 0x7F]
        while value := value >> 7:
            digits.append(value & 0x7F | 0x80)
        content += bytes(reversed(digits))
    return der(OBJECT_ID, content)


class AuthorityServer(ThreadingHTTPServer):
    """An authority over HTTP on the loopback address; `answer` may be replaced."""

    daemon_threads = True

    def __init__(self, authority):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = authority.answer
        self.asked = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/tsr"

    def handle_error(self, *_):
        """A client that hung up."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked += 1
        assert self.headers["Content-Type"] == "application/timestamp-query"
        answer = self.server.answer(self.rfile.read(int(self.headers["Content-Length"])))
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/timestamp-reply")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
