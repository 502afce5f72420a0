"""The signature around a time stamp (CMS SignedData, RFC 5652) and the certificates behind it (RFC 5280).

Small and strict: one signer, signed attributes, RSA or ECDSA with SHA-2, a chain to a root that the policy names, valid
at the time that the stamp states. Nobody is asked whether a certificate was revoked: this is checked offline, and years
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha1, sha256
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from ledger.der import CONTEXT, INTEGER, OBJECT_ID, OCTET_STRING, SEQUENCE, SET, Element, Fields, integer, object_id
from ledger.der import read_der as _read
from ledger.errors import Malformed, TimestampFailed, excerpt

DIGESTS: Final[dict[str, hashes.HashAlgorithm]] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
_SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
_CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE: Final = "1.2.840.113549.1.9.16.2.12"  # RFC 2634: names it by SHA-1
_SIGNING_CERTIFICATE_V2: Final = "1.2.840.113549.1.9.16.2.47"  # RFC 5035
_RSA: Final = {
    "1.2.840.113549.1.1.1": None,
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
}
_ECDSA: Final = {
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_RSA_BITS_MIN: Final = 2048
_CERTIFICATES_MAX: Final = 16
_CHAIN_MAX: Final = 6
_TRIES_MAX: Final = 100
_WEAK: Final = (hashes.MD5, hashes.SHA1)
_UNDERSTOOD: Final = {
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.ExtendedKeyUsage.oid,
}


class SignedContent(NamedTuple):
    """What was signed, read but not believed: `require_signed` checks it."""

    content: bytes
    certificates: tuple[x509.Certificate, ...]
    signer: x509.Certificate
    digest: hashes.HashAlgorithm
    attributes: bytes
    algorithm: str
    signature: bytes


def load_certificate(what: str, data: bytes) -> x509.Certificate:
    """A certificate in DER; raises `Malformed`."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        # Read now what is otherwise read, and may fail, at its first use.
        list(certificate.extensions)
        certificate.public_key()
        for name in (certificate.subject, certificate.issuer):
            name.public_bytes()
    except (
        ValueError,
        TypeError,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ) as err:
        raise Malformed(
            f"{what}, certificate", expected="an X.509 certificate in DER", found=excerpt(str(err))
        ) from err
    return certificate


def digest_of(what: str, element: Element) -> hashes.HashAlgorithm:
    """The digest that an AlgorithmIdentifier names; raises `TimestampFailed` unless it is SHA-256, -384 or -512."""
    name = object_id(what, Fields(what, element).take(OBJECT_ID))
    if name not in DIGESTS:
        shown = {"1.3.14.3.2.26": "SHA-1", "1.2.840.113549.2.5": "MD5"}.get(name, name)
        raise TimestampFailed(f"{what}, digest", expected="SHA-256, SHA-384 or SHA-512", found=shown)
    return DIGESTS[name]


def digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    hashing = hashes.Hash(algorithm)
    hashing.update(data)
    return hashing.finalize()


def read_signed(what: str, token: Element, content_type: str) -> SignedContent:
    """Read a ContentInfo with SignedData of one signer; raises `Malformed` or `TimestampFailed`."""
    outer = Fields(what, token)
    _require_type(what, outer.take(OBJECT_ID), _SIGNED_DATA)
    fields = Fields(what, _read(what, outer.take(CONTEXT).content, SEQUENCE))
    outer.finish()
    integer(what, fields.take(INTEGER))
    fields.take(SET)  # the digests that the signers use: each signer says its own
    encapsulated = Fields(what, fields.take(SEQUENCE))
    _require_type(what, encapsulated.take(OBJECT_ID), content_type)
    content = _read(what, encapsulated.take(CONTEXT).content, OCTET_STRING).content
    encapsulated.finish()
    stored = fields.take_if(CONTEXT)
    found = Fields(what, stored).take_all(SEQUENCE) if stored is not None else []
    if not 1 <= len(found) <= _CERTIFICATES_MAX:
        raise TimestampFailed(f"{what}, certificates", expected=f"1 to {_CERTIFICATES_MAX}", found=len(found))
    certificates = tuple(load_certificate(what, element.raw) for element in found)
    fields.take_if(CONTEXT + 1)
    signers = Fields(what, fields.take(SET)).take_all(SEQUENCE)
    fields.finish()
    if len(signers) != 1:
        raise TimestampFailed(f"{what}, signers", expected=1, found=len(signers))
    return _read_signer(what, signers[0], content_type, content, certificates)


def _read_signer(
    what: str, element: Element, content_type: str, content: bytes, certificates: tuple[x509.Certificate, ...]
) -> SignedContent:
    fields = Fields(what, element)
    integer(what, fields.take(INTEGER))
    signer = _find_signer(what, fields, certificates)
    algorithm = digest_of(f"{what}, signer", fields.take(SEQUENCE))
    signed = fields.take(CONTEXT)
    method = object_id(what, Fields(what, fields.take(SEQUENCE)).take(OBJECT_ID))
    signature = fields.take(OCTET_STRING).content
    fields.take_if(CONTEXT + 1)
    fields.finish()
    attributes = _attributes(what, signed)
    _require_type(what, _read(what, _attribute(what, attributes, _CONTENT_TYPE), OBJECT_ID), content_type)
    stated = _read(what, _attribute(what, attributes, _MESSAGE_DIGEST), OCTET_STRING).content
    if stated != digest(algorithm, content):
        raise TimestampFailed(f"{what}, message digest", expected=digest(algorithm, content).hex(), found=stated.hex())
    _require_named(what, attributes, signer)
    # RFC 5652 5.4: signed is the SET OF itself, not its implicit tag.
    return SignedContent(content, certificates, signer, algorithm, b"\x31" + signed.raw[1:], method, signature)


def _find_signer(what: str, fields: Fields, certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    by_key = fields.take_if(0x80)
    if by_key is not None:
        identifiers = [(_key_identifier(certificate), certificate) for certificate in certificates]
        found = [certificate for identifier, certificate in identifiers if identifier == by_key.content]
    else:
        named = Fields(what, fields.take(SEQUENCE))
        issuer, serial = named.take(SEQUENCE).raw, integer(what, named.take(INTEGER))
        named.finish()
        found = [c for c in certificates if (c.issuer.public_bytes(), c.serial_number) == (issuer, serial)]
    if len(found) != 1:
        raise TimestampFailed(f"{what}, signer", expected="its certificate within, once", found=len(found))
    return found[0]


def _key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _attributes(what: str, signed: Element) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for element in Fields(what, signed).take_all(SEQUENCE):
        fields = Fields(what, element)
        name = object_id(what, fields.take(OBJECT_ID))
        if name in found:
            raise TimestampFailed(f"{what}, signed attribute {name}", expected="once", found="twice")
        found[name] = fields.take(SET).content
        fields.finish()
    return found


def _attribute(what: str, attributes: dict[str, bytes], name: str) -> bytes:
    if name not in attributes:
        raise TimestampFailed(f"{what}, signed attribute {name}", expected="once", found="none")
    return attributes[name]


def _require_type(what: str, element: Element, expected: str) -> None:
    found = object_id(what, element)
    if found != expected:
        raise TimestampFailed(f"{what}, content type", expected=expected, found=found)


def _require_named(what: str, attributes: dict[str, bytes], signer: x509.Certificate) -> None:
    """The signed attributes name the signer's certificate, so that nobody can put another in (RFC 5816)."""
    der = signer.public_bytes(Encoding.DER)
    named = [(name, attributes[name]) for name in (_SIGNING_CERTIFICATE_V2, _SIGNING_CERTIFICATE) if name in attributes]
    if not named:
        raise TimestampFailed(f"{what}, signing certificate", expected="the signer's digest", found="none")
    for name, value in named:
        first = Fields(what, Fields(what, _read(what, value, SEQUENCE)).take(SEQUENCE)).take(SEQUENCE)
        fields = Fields(what, first)
        stated = fields.take_if(SEQUENCE) if name == _SIGNING_CERTIFICATE_V2 else None
        if name == _SIGNING_CERTIFICATE:
            expected = sha1(der, usedforsecurity=False).digest()
        else:
            expected = sha256(der).digest() if stated is None else digest(digest_of(what, stated), der)
        found = fields.take(OCTET_STRING).content
        if found != expected:
            raise TimestampFailed(f"{what}, signing certificate", expected=expected.hex(), found=found.hex())


def require_signed(what: str, signed: SignedContent, roots: Sequence[x509.Certificate], at: datetime) -> None:
    """Raises `TimestampFailed` unless an authority under one of the roots signed, with a certificate valid then."""
    _require_time_stamping(what, signed.signer)
    _require_valid(what, signed.signer, at)
    _require_chain(what, signed, roots, at)
    name = signed.digest.name
    key = signed.signer.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey) and _RSA.get(signed.algorithm, "") in {None, name}:
            if key.key_size < _RSA_BITS_MIN:
                raise TimestampFailed(f"{what}, RSA key", expected=f"{_RSA_BITS_MIN} bits", found=key.key_size)
            key.verify(signed.signature, signed.attributes, padding.PKCS1v15(), signed.digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and _ECDSA.get(signed.algorithm) == name:
            key.verify(signed.signature, signed.attributes, ec.ECDSA(signed.digest))
        else:
            raise TimestampFailed(
                f"{what}, signature", expected=f"RSA or ECDSA with {name}", found=f"algorithm {signed.algorithm}"
            )
    except InvalidSignature as err:
        subject = excerpt(signed.signer.subject.rfc4514_string())
        raise TimestampFailed(f"{what}, signature", expected=f"a good one by {subject}", found="a bad one") from err


def _require_time_stamping(what: str, signer: x509.Certificate) -> None:
    """RFC 3161 2.3: an extended key usage of time stamping alone, critical."""
    what = f"{what}, signer's extended key usage"
    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound as err:
        raise TimestampFailed(what, expected="time stamping, critical", found="none") from err
    if list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        found = " ".join(oid.dotted_string for oid in usage.value)
        raise TimestampFailed(what, expected="time stamping alone", found=found)
    if not usage.critical:
        raise TimestampFailed(what, expected="a critical one", found="one that is not")


def _require_valid(what: str, certificate: x509.Certificate, at: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject = excerpt(certificate.subject.rfc4514_string())
    if not first <= at <= last:
        raise TimestampFailed(f"{what}, certificate of {subject}", expected=f"a time from {first} to {last}", found=at)
    strange = [e.oid.dotted_string for e in certificate.extensions if e.critical and e.oid not in _UNDERSTOOD]
    if strange:
        found = " ".join(strange)
        raise TimestampFailed(
            f"{what}, certificate of {subject}", expected="no unknown critical extension", found=found
        )


def _require_chain(what: str, signed: SignedContent, roots: Sequence[x509.Certificate], at: datetime) -> None:
    """A path from the signer over certificates in the token to a root; every way is tried, the last no is told."""
    problem: TimestampFailed | None = None
    paths: list[tuple[x509.Certificate, ...]] = [(signed.signer,)]
    tries = 0
    while paths:
        path = paths.pop()
        between = [c for c in signed.certificates if c not in path] if len(path) < _CHAIN_MAX else []
        for issuer in (c for c in (*roots, *between) if c.subject == path[-1].issuer):
            tries += 1
            if tries > _TRIES_MAX:
                raise TimestampFailed(f"{what}, chain", expected=f"one within {_TRIES_MAX} tries", found="none")
            try:
                _require_issued(what, path[-1], issuer, len(path) - 1, at)
            except TimestampFailed as err:
                problem = err
                continue
            if issuer in roots:
                return
            paths.append((*path, issuer))
    names = " or ".join(excerpt(root.subject.rfc4514_string()) for root in roots) or "a root, of which there is none"
    found = problem or f"issuer {excerpt(signed.signer.issuer.rfc4514_string())}"
    raise TimestampFailed(f"{what}, chain", expected=f"one that ends at {names}", found=found)


def _require_issued(
    what: str, certificate: x509.Certificate, issuer: x509.Certificate, below: int, at: datetime
) -> None:
    subject = excerpt(issuer.subject.rfc4514_string())
    what = f"{what}, issuer {subject}"
    _require_valid(what, issuer, at)
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as err:
        raise TimestampFailed(what, expected="a CA certificate", found="no basic constraints") from err
    if not constraints.ca or (constraints.path_length is not None and constraints.path_length < below):
        raise TimestampFailed(what, expected=f"a CA over {below} others", found=constraints)
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is not None and not usage.key_cert_sign:
        raise TimestampFailed(what, expected="a key that signs certificates", found="another key usage")
    if isinstance(certificate.signature_hash_algorithm, _WEAK):
        found = certificate.signature_hash_algorithm.name
        raise TimestampFailed(f"{what}, signature on a certificate", expected="SHA-2", found=found)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise TimestampFailed(f"{what}, signature on a certificate", expected="a good one", found="a bad one") from err
