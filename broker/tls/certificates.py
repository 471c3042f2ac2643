"""The certificate of a server: read, checked, and noticed when it is renewed.

What the web server is given is a copy in a directory of the process. So a worker that starts while somebody replaces
the two files never sees one old and one new.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from broker.errors import SettingsError

FOLDER = "tls"  # in the data directory
SOON_SECS = 14 * 86_400.0  # a certificate that ends within this time is warned of
_LEAST_RSA_BITS, _MOST_RSA_BITS = 2048, 4096
_OTHERS = 0o007  # permissions of neither owner nor group


class Certificate(NamedTuple):
    """A pair that was read and checked."""

    pem: bytes  # the certificate, those that signed it, and the key
    until: float  # seconds since the epoch

    @property
    def digest(self) -> str:
        """It differs when anything in the pair differs."""
        return hashlib.sha256(self.pem).hexdigest()


def read(section: str, cert: str, key: str) -> Certificate | None:
    """The pair that `[section] cert` and `key` name, None when both are empty.

    Raises `SettingsError` when one is missing, can't be read, does not fit the other, is over, or is open to others.
    """
    if not cert and not key:
        return None
    if not cert or not key:
        missing = "key" if cert else "cert"
        raise SettingsError(f"[{section}] {missing} is missing: a certificate and its key are needed, or neither")
    certificate, private = _bytes(section, "cert", cert), _bytes(section, "key", key)
    if (mode := os.stat(key).st_mode) & _OTHERS:
        raise SettingsError(
            f"[{section}] key = {key!r} may be used by everybody (mode {mode & 0o777:o}); chmod 600 it, or 640"
        )
    until = _end(section, cert, certificate)
    _check_kind(section, cert, certificate)
    if until <= time.time():
        raise SettingsError(f"[{section}] cert = {cert!r} has ended on {day(until)}; renew it")
    pem = certificate.rstrip(b"\n") + b"\n" + private
    try:
        _load(pem)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SettingsError(
            f"[{section}] key = {key!r} is not the key of cert = {cert!r}, or can't be used: {error}; a key without "
            "a password is needed"
        ) from error
    return Certificate(pem, until)


class CertificateEnd:
    """When the certificate in a file ends; the file is read again when it was touched."""

    def __init__(self, cert: str) -> None:
        """`cert` is a path; "": there is none."""
        self._cert = cert
        self._known = 0.0
        self._looked: tuple[int, int, int] | None = None

    def until(self) -> float:
        """Seconds since the epoch; 0 when there is no certificate that can be read."""
        if not self._cert:
            return 0.0
        looked = _stamp(self._cert)
        if looked != self._looked:
            self._looked = looked
            try:
                self._known = _end("", self._cert, Path(self._cert).read_bytes())
            except (OSError, SettingsError):  # the web server's log says more
                self._known = 0.0
        return self._known


def warnings(ends: Mapping[str, float], now: float) -> list[str]:
    """A sentence for each certificate that ends soon or has ended. `ends`: whose it is, and when it ends (0: none)."""
    return [
        f"the certificate of {name} {'ends' if end > now else 'has ended'} on {day(end)}; renew it"
        for name, end in sorted(ends.items())
        if end and end - now < SOON_SECS
    ]


def day(moment: float) -> str:
    """A moment as a day, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


class CertificateFiles:
    """The copy of a pair that the web server reads, and whether its source has changed."""

    def __init__(self, section: str, cert: str, key: str, directory: Path) -> None:
        """`directory` is private to the process; a folder is made in it."""
        self._section = section
        self._cert = cert
        self._key = key
        self._folder = directory / FOLDER
        self._known = ""
        self._looked: tuple[tuple[int, int, int], ...] = ()
        self.path: Path | None = None  # of the newest copy; None: no TLS
        self.until = 0.0

    def take(self) -> bool:
        """Read the pair, and copy it when it is another one than before; whether it is. Raises `SettingsError`."""
        looked = self._look()
        found = read(self._section, self._cert, self._key)
        self._looked = looked
        if found is None or found.digest == self._known:
            return False
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{found.digest[:16]}.pem"
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(found.pem)
            for old in self._folder.iterdir():
                if old != path:
                    old.unlink()
        except OSError as error:
            raise SettingsError(f"{self._folder} can't be used for the certificate: {error}") from error
        self._known, self.path, self.until = found.digest, path, found.until
        return True

    def changed(self) -> bool:
        """Whether one of the two files was touched since the last `take`."""
        return bool(self._cert) and self._look() != self._looked

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key) if path)


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns


def _bytes(section: str, name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"[{section}] {name} = {path!r} can't be read: {error.strerror or error}") from error


def _end(section: str, path: str, pem: bytes) -> float:
    from cryptography import x509  # it takes memory, and only TLS needs it

    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except ValueError as error:
        raise SettingsError(f"[{section}] cert = {path!r} is no certificate in PEM: {error}") from error


def _check_kind(section: str, path: str, pem: bytes) -> None:
    """Raises `SettingsError` for a key that the web server (rustls) can't serve with, though OpenSSL could."""
    from cryptography import x509  # it takes memory, and only TLS needs it
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    key = x509.load_pem_x509_certificate(pem).public_key()
    good = (
        isinstance(key, ed25519.Ed25519PublicKey)
        or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1))
        or (isinstance(key, rsa.RSAPublicKey) and _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS)
    )
    if not good:
        raise SettingsError(
            f"[{section}] cert = {path!r} has a key of a kind that is not served: P-256, P-384, Ed25519, or RSA with "
            f"{_LEAST_RSA_BITS} to {_MOST_RSA_BITS} bits is needed"
        )


def _load(pem: bytes) -> None:
    """Load what was read, not the files again: somebody may be replacing them. Raises `OSError` or `ValueError`."""
    with os.fdopen(os.memfd_create("pair"), "wb") as file:
        file.write(pem)
        file.flush()
        path = f"/proc/self/fd/{file.fileno()}"
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password=_no_password)


def _no_password() -> str:
    raise ValueError("the key has a password")
