"""A signature is of one model, by somebody who is listed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from autoseg import sharing
from autoseg.errors import MissingPath, ModelFileError, UsageError
from autoseg.pipeline import loading

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen on this machine")


def key(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key, and a list of signers with it alone."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    allowed = folder / f"allowed_{name}"
    allowed.write_text(f"{name}@example.org {(folder / f'{name}.pub').read_text()}")
    return folder / name, allowed


def test_a_signature_names_its_signer_and_is_of_one_model_only(model_file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(model_file, tmp_path / "m.autoseg"))
    mine, allowed = key(tmp_path, "ann")
    _, others = key(tmp_path, "bob")
    digest = sharing.open_model_file(path).digest
    with pytest.raises(MissingPath, match="no signature"):
        sharing.verify(path, digest, allowed)
    assert sharing.sign(path, digest, mine) == sharing.signature_file(path)
    assert sharing.verify(path, digest, allowed) == "ann@example.org"
    assert "signed by ann@example.org" in loading.load(path, device="cpu", verify=allowed).model.notes
    with pytest.raises(ModelFileError, match="not of this model"):
        sharing.verify(path, digest.replace(digest[0], "0" if digest[0] != "0" else "1"), allowed)
    with pytest.raises(ModelFileError, match="nobody who is listed"):
        loading.load(path, device="cpu", verify=others)
    sharing.signature_file(path).write_text("no signature")
    with pytest.raises(ModelFileError):
        sharing.verify(path, digest, allowed)


def test_what_cannot_sign_is_named(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match="no such key"):
        sharing.sign(model_file, "0", tmp_path / "key")
    (tmp_path / "key").write_text("no key")
    with pytest.raises(UsageError, match="cannot sign"):
        sharing.sign(tmp_path / "m.autoseg", "0", tmp_path / "key")
    with pytest.raises(UsageError, match="only model files"):
        loading.load(model_file.parent / "workspace", device="cpu", verify=tmp_path / "key")
