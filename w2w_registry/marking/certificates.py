"""Keys and certificates for content credentials, made by the registry itself.

A self-made root proves that pictures come from the holder of this registry's key, to whoever was given the root; it
says nothing about who that is. An owner with a certificate from a public authority puts its chain in the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CLAIM_SIGNING: Final = "1.3.6.1.4.1.62558.2.1"
"""c2pa-kp-claimSigning (C2PA 2.1, §14.5.1)."""
ROOT_DAYS: Final = 365 * 30
LEAF_DAYS: Final = 365 * 10
"""Without a timestamp authority a picture stays valid only as long as the leaf does."""


SELF_MADE: Final = "w2w-registry, self-made"
"""In whose name certificates are while nobody has said who the organisation is."""


@dataclass(frozen=True)
class Credentials:
    """PEM texts: the chain, leaf first; the leaf's private key (PKCS#8, not encrypted); the root to be trusted."""

    chain: str
    key: str
    root: str


def make_credentials(name: str, now: datetime) -> Credentials:
    """A new root and a new signing certificate (ES256), both in the name of ``name`` (64 characters at most)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, leaf_name = _name(name, "content credentials, self-made root"), _name(name, "content credentials")
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION, x509.ObjectIdentifier(CLAIM_SIGNING)])
    root = (
        _certificate(root_name, root_name, root_key, root_key, now, ROOT_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=False), critical=True)
    )
    leaf = (
        _certificate(leaf_name, root_name, leaf_key, root_key, now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(usages, critical=False)
    )
    signed_root, signed_leaf = _signed(root, root_key), _signed(leaf, root_key)
    return Credentials(signed_leaf + signed_root, _pem(leaf_key), signed_root)


def issuer(chain: str) -> str | None:
    """The organisation that the first certificate among these PEM texts names. Raises ValueError: there is none."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    leaf = x509.load_pem_x509_certificates(chain.encode())[0]
    named = leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(named[0].value) if named else None


def _name(organisation: str, common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation[:64] or "w2w-registry"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    signer: EllipticCurvePrivateKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A clock a little behind must not find the certificate not yet valid.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=not signs,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _pem(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
