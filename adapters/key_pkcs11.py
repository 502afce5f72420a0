"""An Ed25519 key in a security module, by PKCS#11 3.0 (CKM_EDDSA); named by a URI (RFC 7512).

    pkcs11:token=tally;object=log-ed25519?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/pin

`token` or `serial`, and `object` or `id`, must name one key. The module is `module-path` or TALLY_PKCS11_MODULE, the
PIN the first line of `pin-source` or TALLY_PKCS11_PIN; a PIN in the URI itself is refused, as URIs end up in logs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from adapters.errors import TallyError
from ledger.errors import excerpt
from ledger.note import ED25519, VerifierKey

_PATH: Final = frozenset({"token", "serial", "object", "id", "type"})
_QUERY: Final = frozenset({"module-path", "pin-source"})
_POINT_HEAD: Final = b"\x04\x20"  # CKA_EC_POINT is a DER OCTET STRING of 32 bytes; some modules leave the head out
_KEY_BYTES: Final = 32


def parse_uri(uri: str) -> dict[str, bytes]:
    """The attributes of a `pkcs11:` URI, decoded; raises `TallyError` for those that are unknown, twice or missing."""
    path, _, query = uri.removeprefix("pkcs11:").partition("?")
    found: dict[str, bytes] = {}
    for part, known in ((path.split(";"), _PATH), (query.split("&") if query else [], _QUERY)):
        for attribute in part:
            name, equals, value = attribute.partition("=")
            if name == "pin-value":
                raise TallyError("the URI has a PIN in it: put it in a file and name that as pin-source")
            if not equals or name not in known or name in found:
                raise TallyError(f"the URI has {excerpt(attribute)}, wanted each of {', '.join(sorted(known))} once")
            found[name] = unquote_to_bytes(value)
    if not ({"token", "serial"} & found.keys() and {"object", "id"} & found.keys()):
        raise TallyError(f"{excerpt(uri, 120)} names no key, wanted pkcs11:token=...;object=... (or serial, id)")
    if found.get("type", b"private") != b"private":
        raise TallyError(f"the URI has type={excerpt(found['type'].decode('latin-1'))}, wanted private")
    return found


class ModuleKey:
    """A `SigningService` whose key never leaves the module; the session is opened anew after a fault."""

    def __init__(self, uri: str, attributes: Mapping[str, bytes], module: str, pin: str, name: str) -> None:
        self._uri = uri
        self._attributes = attributes
        self._module = module
        self._pin = pin
        self._lock = threading.Lock()
        self._session: Any = None
        self._vkey = str(VerifierKey(name, ED25519, self._with_session(self._public)))

    @property
    def vkey(self) -> str:
        """The public half, as the module has it."""
        return self._vkey

    def sign(self, message: bytes) -> bytes:
        """The bare signature."""
        from pkcs11 import Mechanism, ObjectClass

        def sign(session: Any) -> bytes:
            return bytes(self._key(session, ObjectClass.PRIVATE_KEY).sign(message, mechanism=Mechanism.EDDSA))

        return self._with_session(sign)

    def _public(self, session: Any) -> bytes:
        from pkcs11 import Attribute, ObjectClass

        point = bytes(self._key(session, ObjectClass.PUBLIC_KEY)[Attribute.EC_POINT])
        public = point.removeprefix(_POINT_HEAD) if len(point) == _KEY_BYTES + len(_POINT_HEAD) else point
        if len(public) != _KEY_BYTES:
            raise TallyError(f"{self._uri}: the public key is {len(point)} bytes, wanted an Ed25519 key")
        return public

    def _key(self, session: Any, kind: Any) -> Any:
        from pkcs11 import KeyType

        named: dict[str, Any] = {}
        if "object" in self._attributes:
            named["label"] = self._attributes["object"].decode()
        if "id" in self._attributes:
            named["id"] = self._attributes["id"]
        return session.get_key(object_class=kind, key_type=KeyType.EC_EDWARDS, **named)

    def _with_session(self, use: Any) -> bytes:
        from pkcs11.exceptions import PKCS11Error

        with self._lock:
            try:
                if self._session is None:
                    self._session = self._open()
                done: bytes = use(self._session)
            except PKCS11Error as err:
                self._close()
                line = f"{type(err).__name__} {err}".strip()
                raise TallyError(f"{self._uri}: the module says {line}: check token, object and PIN") from err
        return done

    def _close(self) -> None:
        from pkcs11.exceptions import PKCS11Error

        session, self._session = self._session, None
        with contextlib.suppress(PKCS11Error):  # it may be the session that is broken
            if session is not None:
                session.close()

    def _open(self) -> Any:
        import pkcs11

        named: dict[str, Any] = {}
        if "token" in self._attributes:
            named["token_label"] = self._attributes["token"].decode()
        if "serial" in self._attributes:
            named["token_serial"] = self._attributes["serial"]
        try:
            library = pkcs11.lib(self._module)
        except RuntimeError as err:
            raise TallyError(f"PKCS#11 module {self._module} cannot be loaded: {err}") from err
        token = library.get_token(**named)
        try:
            return token.open(user_pin=self._pin)
        except pkcs11.UserAlreadyLoggedIn:  # who is logged in is so in all sessions of a process
            return token.open()


def open_pkcs11(environ: Mapping[str, str], uri: str, name: str, algorithm: int) -> ModuleKey:
    """The key that a URI names; raises `TallyError` with what is missing."""
    if algorithm != ED25519:
        raise TallyError(f"{uri}: modules keep Ed25519 keys here; keep the ML-DSA-44 key in a file, or behind exec:")
    attributes = parse_uri(uri)
    module = attributes.get("module-path", b"").decode() or environ.get("TALLY_PKCS11_MODULE", "")
    if not module:
        raise TallyError(f"{uri}: which module? name it as ?module-path=... or in TALLY_PKCS11_MODULE")
    return ModuleKey(uri, attributes, module, _pin(environ, uri, attributes), name)


def _pin(environ: Mapping[str, str], uri: str, attributes: Mapping[str, bytes]) -> str:
    source = attributes.get("pin-source")
    if source is None:
        pin = environ.get("TALLY_PKCS11_PIN", "")
    else:
        path = Path(source.decode().removeprefix("file:"))
        try:
            pin = path.read_text(encoding="utf-8").split("\n", 1)[0]
        except (OSError, ValueError) as err:
            raise TallyError(f"{uri}: pin-source {path} cannot be read ({err})") from err
    if not pin:
        raise TallyError(f"{uri}: no PIN: name a file as &pin-source=file:... or set TALLY_PKCS11_PIN")
    return pin
