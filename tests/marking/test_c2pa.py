"""Content credentials, read back by c2pa's own reader."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from cryptography import x509
from PIL import Image

from tests.marking.pictures import texture
from w2w_registry.errors import BadImage
from w2w_registry.marking.c2pa import Statement, read, sign
from w2w_registry.marking.certificates import Credentials, make_credentials

pytest.importorskip("c2pa")
MODEL = "ab" * 32
STATEMENT = Statement(("w2w-registry", "1.0"), MODEL, True, 0xDEADBEEF)


@pytest.fixture(scope="module")
def credentials() -> Credentials:
    return make_credentials("A studio", datetime(2026, 6, 1, tzinfo=UTC))


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(texture(np.random.default_rng(0), 64)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_what_is_signed_is_read_back(credentials: Credentials, kind: str) -> None:
    data = encoded(kind)
    signed = sign(data, f"image/{kind}", STATEMENT, credentials)
    claim = read(signed, f"image/{kind}", credentials.root)
    assert claim is not None
    assert (claim.state, claim.issuer, claim.generator) == ("trusted", "A studio", "w2w-registry 1.0")
    assert claim.ai_generated
    assert claim.watermarked
    assert (claim.model, claim.mark, claim.problems) == (MODEL, 0xDEADBEEF, ())
    assert len(signed) - len(data) < 8000
    before, after = (np.asarray(Image.open(io.BytesIO(d))) for d in (data, signed))
    assert (before == after).all()


def test_a_signer_who_is_not_trusted_is_not_trusted(credentials: Credentials) -> None:
    signed = sign(encoded("png"), "image/png", STATEMENT, credentials)
    stranger = make_credentials("Someone else", datetime(2026, 6, 1, tzinfo=UTC))
    for root in (None, stranger.root):
        claim = read(signed, "image/png", root)
        assert claim is not None
        assert claim.state == "valid"


def test_changed_pixels_break_it(credentials: Credentials) -> None:
    signed = bytearray(sign(encoded("png"), "image/png", STATEMENT, credentials))
    signed[-100] ^= 1
    claim = read(bytes(signed), "image/png", credentials.root)
    assert claim is not None
    assert claim.state == "invalid"
    assert claim.problems


def test_an_unsigned_picture_has_none() -> None:
    assert read(encoded("png"), "image/png") is None


def test_what_is_no_picture_is_one_error(credentials: Credentials) -> None:
    with pytest.raises(BadImage, match="content credentials"):
        sign(b"no picture", "image/png", STATEMENT, credentials)


def test_a_mark_without_a_number_and_no_mark(credentials: Credentials) -> None:
    unbound = read(sign(encoded("png"), "image/png", Statement(("b", "1")), credentials), "image/png")
    assert unbound is not None
    assert (unbound.watermarked, unbound.mark, unbound.model) == (True, None, None)
    without = Statement(("b", "1"), watermarked=False)
    bare = read(sign(encoded("png"), "image/png", without, credentials), "image/png")
    assert bare is not None
    assert (bare.watermarked, bare.ai_generated) == (False, True)


def test_the_certificates_are_what_the_standard_asks_for(credentials: Credentials) -> None:
    leaf, root = x509.load_pem_x509_certificates(credentials.chain.encode())
    assert root.public_bytes is not None
    leaf.verify_directly_issued_by(root)
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert "1.3.6.1.4.1.62558.2.1" in [u.dotted_string for u in usages]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days > 3650
