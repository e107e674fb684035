"""Signing through sigstore, against a stand-in where model-signing would call the real service; and bad keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import model_signing.signing
import model_signing.verifying
import pytest
import sigstore.oidc

from w2w_registry.cli.app import main
from w2w_registry.errors import BadFile, IntegrityError, SigningError, UsageError
from w2w_registry.messages import message
from w2w_registry.services import signing
from w2w_registry.services.signing import Sigstore


class Stand:
    """What model-signing makes of the options, in the place of its sigstore signer or verifier."""

    made: list[dict[str, Any]]
    refuses: Exception | None = None

    def __init__(self, **options: Any) -> None:
        self.made.append(options)

    def sign(self, payload: Any) -> Stand:
        if self.refuses is not None:
            raise self.refuses
        return self

    def write(self, path: Path) -> None:
        path.write_text("a bundle")


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> type[Stand]:
    class Own(Stand):
        made: list[dict[str, Any]] = []  # noqa: RUF012

    monkeypatch.setattr(model_signing.signing.sigstore, "Signer", Own)
    monkeypatch.setattr(sigstore.oidc, "detect_credential", lambda *a: None)
    return Own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "export"
    made.mkdir()
    (made / "adapter.safetensors").write_bytes(b"weights")
    return made


@pytest.mark.parametrize("strange", ["pipe", "link", "dangling"])
def test_only_files_are_signed_and_verified(folder: Path, tmp_path: Path, strange: str) -> None:
    key = signing.new_key_pair(tmp_path / "keys")
    signing.sign_folder(folder, Path(key["private_key"]))
    beside = folder / "beside"
    if strange == "pipe":
        os.mkfifo(beside)
    else:
        beside.symlink_to(folder / ("adapter.safetensors" if strange == "link" else "none"))
    with pytest.raises(BadFile, match="beside: neither a file nor a folder"):
        signing.sign_folder(folder, Path(key["private_key"]))
    with pytest.raises(BadFile, match="beside: neither a file nor a folder"):
        signing.verify_folder(folder, public_key=Path(key["public_key"]))


def given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def test_an_identity_token_is_handed_on(stand: type[Stand], folder: Path) -> None:
    signing.sign_folder(folder, Sigstore(identity_token="a.b.c"))
    assert [given(options) for options in stand.made] == [{"identity_token": "a.b.c"}]
    assert (folder / "model.sig").read_text() == "a bundle"


def test_the_credentials_of_a_job_are_used_when_there_are_any(
    stand: type[Stand], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SigningError, match="offers no credentials"):
        signing.sign_folder(folder, Sigstore(ambient=True, interactive=True))
    assert stand.made == []
    monkeypatch.setattr(sigstore.oidc, "detect_credential", lambda *a: "a.b.c")
    signing.sign_folder(folder, Sigstore(ambient=True))
    assert [given(options) for options in stand.made] == [{"use_ambient_credentials": True}]


def test_a_person_is_asked_only_where_one_sits(stand: type[Stand], folder: Path) -> None:
    with pytest.raises(SigningError, match="nobody can be asked who signs"):
        signing.sign_folder(folder, Sigstore())
    assert stand.made == []
    signing.sign_folder(folder, Sigstore(interactive=True))
    assert [given(options) for options in stand.made] == [{}]


@pytest.mark.parametrize(
    ("error", "hinted"),
    [
        (sigstore.errors.TUFError("Failed to refresh TUF metadata"), True),
        (sigstore.errors.NetworkError("no route\nto host"), True),
        (sigstore.oidc.IdentityError("Identity token is malformed or missing claims"), False),
        (sigstore.oidc.IssuerError("no such issuer"), False),
    ],
)
def test_failures_are_one_line(stand: type[Stand], folder: Path, error: Exception, hinted: bool) -> None:
    stand.refuses = error
    with pytest.raises(SigningError) as caught:
        signing.sign_folder(folder, Sigstore(identity_token="x"))
    text = message(caught.value)
    assert text.startswith(f"sigstore: {str(error).splitlines()[0]}")
    assert "\n" not in text
    assert ("internet" in text) == hinted
    assert caught.value.exit_code == 9
    assert not (folder / "model.sig").exists()


def test_our_own_mistakes_stay_bugs(stand: type[Stand], folder: Path) -> None:
    stand.refuses = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        signing.sign_folder(folder, Sigstore(identity_token="x"))


def test_the_command_takes_a_token_and_never_waits(
    stand: type[Stand], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIGSTORE_ID_TOKEN", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["sign", str(folder)])
    assert stopped.value.code == 9
    assert capsys.readouterr().err.startswith("error: sigstore: not at a terminal, so nobody can be asked who signs")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", "from.the.environment")
    with pytest.raises(SystemExit) as stopped:
        main(["sign", str(folder)])
    assert stopped.value.code in (None, 0)
    assert [given(options) for options in stand.made] == [{"identity_token": "from.the.environment"}]


def test_a_sigstore_signature_is_checked_against_who_and_by_whose_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.sig").write_text("a bundle")
    for half in ({"identity": "ann@example.org"}, {"issuer": "https://issuer.example"}):
        with pytest.raises(UsageError, match="both"):
            signing.verify_folder(folder, **half)
    with pytest.raises(BadFile, match="no key"):
        signing.verify_folder(folder)
    asked: list[dict[str, Any]] = []

    class Refusing:
        def __init__(self, **options: Any) -> None:
            asked.append(given(options))
            raise sigstore.errors.VerificationError("Certificate's SANs do not match ann@example.org")

    monkeypatch.setattr(model_signing.verifying.sigstore, "Verifier", Refusing)
    with pytest.raises(IntegrityError, match="do not match"):
        signing.verify_folder(folder, identity="ann@example.org", issuer="https://issuer.example")
    assert asked == [{"identity": "ann@example.org", "oidc_issuer": "https://issuer.example"}]


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_said(folder: Path, tmp_path: Path, content: bytes) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(content)
    with pytest.raises(BadFile, match="not a usable private key"):
        signing.sign_folder(folder, key)
    signing.sign_folder(folder, Path(signing.new_key_pair(tmp_path / "keys")["private_key"]))
    with pytest.raises(BadFile, match="not a usable public key"):
        signing.verify_folder(folder, public_key=key)


def test_a_folder_named_from_here_is_signed_and_verified(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(words))
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out + shown.err

    monkeypatch.chdir(folder.parent)
    assert run("sign", "missing", "--new-key", "keys")[0] == 5
    assert not Path("keys").exists()
    assert run("sign", "export", "--new-key", "keys")[0] == 0
    check = ("verify", "export", "--key", "keys/signing.pub")
    assert run(*check) == (0, "OK: export is as it was signed\n")
    monkeypatch.chdir(folder)
    assert run("verify", ".", "--key", "../keys/signing.pub")[0] == 0
    (folder / "adapter.safetensors").write_bytes(b"others")
    (folder / "more.txt").write_text("x")
    code, text = run("verify", "../export", "--key", "../keys/signing.pub")
    assert code == 6
    assert text == "error: folder ../export is not as it was signed: adapter.safetensors changed; more.txt added\n"
    (folder / "more.txt").unlink()
    (folder / "adapter.safetensors").unlink()
    (folder / "b.txt").write_text("x")
    code, text = run("verify", ".", "--key", "../keys/signing.pub")
    assert text == "error: folder . is not as it was signed: b.txt added; adapter.safetensors removed\n"
