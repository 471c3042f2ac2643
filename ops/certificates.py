"""`manage.py certificates`: a certificate authority for an internal network, and certificates of servers."""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import PulzarError

AUTHORITY = "ca"  # ca.pem is for [security] ca of every machine; ca.key signs, and belongs on none of them
DAYS, MAX_DAYS = 365, 825
AUTHORITY_DAYS = 3650
_HOST = re.compile(
    r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII
)
_EXAMPLES = """\
  manage.py certificates --make /root/pulzar-ca store.example 10.0.0.5
  manage.py certificates --show /root/pulzar-ca
The first one writes store.example.pem and store.example.key, good for both names, and the authority when there is none.
Copy ca.pem to every machine, and never ca.key."""


class CertificateError(PulzarError):
    """Raised when a certificate can't be made; the message is for a person."""


def main(arguments: Sequence[str]) -> int:
    """Make a certificate, or show those of a directory; exit status 0 when it was done, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="manage.py certificates",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="names and IP addresses that the server is reached at")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--make", type=Path, metavar="DIR", help="make a certificate, signed by the authority in DIR")
    what.add_argument("--show", type=Path, metavar="DIR", help="show the certificates in DIR and when they end")
    parser.add_argument(
        "--days", type=int, default=DAYS, help=f"how long a certificate is good: 1 to {MAX_DAYS}; {DAYS} by default"
    )
    parser.add_argument("--renew", action="store_true", help="replace a certificate of this name, with a new key")
    given = parser.parse_intermixed_args(arguments)
    if bool(given.make) != bool(given.names):
        parser.error("--make needs names, and --show none")
    if not 1 <= given.days <= MAX_DAYS:
        parser.error(f"--days {given.days}: give a number from 1 to {MAX_DAYS}")
    try:
        lines = make(given.make, given.names, given.days, renew=given.renew) if given.make else show(given.show)
        for line in lines:
            print(line)
    except (PulzarError, OSError) as error:
        print(f"manage.py: {error}", file=sys.stderr)
        return 1
    return 0


def make(directory: Path, names: Sequence[str], days: int, *, renew: bool = False) -> list[str]:
    """Make a certificate for a server in a directory, and the authority when there is none; returns news.

    Raises `CertificateError` when the names can't be used, or there is one already and `renew` is not set.
    """

    plain = [_checked(name) for name in names]
    own = plain[0].replace(":", "_")
    if own == AUTHORITY:
        raise CertificateError(f"{AUTHORITY!r} is the name of the authority's files; give another name first")
    target = directory / f"{own}.pem"
    if target.exists() and not renew:
        raise CertificateError(f"{target} exists already; give --renew to replace it, and its key")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    news = []
    signer, signer_key = directory / f"{AUTHORITY}.pem", directory / f"{AUTHORITY}.key"
    now = datetime.datetime.now(datetime.UTC)
    if not signer.exists() and not signer_key.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(f"Pulzar internal authority, {now:%Y-%m-%d}")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(signer_key, _key_text(key), 0o600)
        _write(signer, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        news.append(f"{signer}: a new authority; copy it to every machine, and set [security] ca to it")
    try:
        issuer = x509.load_pem_x509_certificate(signer.read_bytes())
        issuer_key = serialization.load_pem_private_key(signer_key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(f"the authority in {directory} can't be used: {error}") from error
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey) or issuer_key.public_key() != issuer.public_key():
        raise CertificateError(f"{signer_key} is not the key of {signer}")
    until = min(now + datetime.timedelta(days), issuer.not_valid_after_utc)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_named(plain[0]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in plain]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    # The key first: a server that looks in between finds a pair that does not fit, and keeps the old one.
    _write(directory / f"{own}.key", _key_text(key), 0o600)
    _write(target, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    news.append(f"{target} and its .key: for {', '.join(plain)}, until {until:%Y-%m-%d}")
    return news


def show(directory: Path) -> list[str]:
    """A line for each certificate in a directory. Raises `CertificateError` when there is none."""

    lines = []
    for path in sorted(directory.glob("*.pem")):
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            lines.append(f"{path}: no certificate: {error}")
            continue
        left = (found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days
        state = "has ended" if left < 0 else f"ends in {left} days"
        lines.append(f"{path}: {', '.join(_names(found))}; {state}, {found.not_valid_after_utc:%Y-%m-%d}")
    if not lines:
        raise CertificateError(f"{directory} has no certificates (*.pem)")
    return lines


def _names(found: x509.Certificate) -> Iterator[str]:

    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        yield found.subject.rfc4514_string()
        return
    for name in extension.value:
        yield str(name.value)


def _checked(name: str) -> str:
    """A host name in lower case, or an address; raises `CertificateError`."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        plain = name.lower().removesuffix(".")
    if not _HOST.fullmatch(plain):
        raise CertificateError(f"{name!r} is no name of a host and no IP address")
    return plain


def _general(name: str) -> x509.GeneralName:

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _named(name: str) -> x509.Name:

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _usage(*, signs: bool) -> x509.KeyUsage:

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file at once; its permissions are there from the first moment."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
