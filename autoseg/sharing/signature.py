"""A detached signature of a model's digest, by OpenSSH: keys that people have, no network, no further package.

`FILE.autoseg.sig` is an ordinary SSH signature with the namespace `autoseg-model` over the digest and a line feed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from autoseg import files
from autoseg.errors import MissingPath, ModelFileError, UsageError

NAMESPACE = "autoseg-model"
_SECONDS = 120  # a key with a passphrase or on a token waits for its owner


def signature_file(path: Path) -> Path:
    """Return where the signature of a model file is.

    >>> signature_file(Path("liver.autoseg")).name
    'liver.autoseg.sig'
    """
    return path.with_name(path.name + ".sig")


def sign(path: Path, digest: str, key: Path) -> Path:
    """Write the signature of a model file next to it.

    Parameters
    ----------
    digest : of the model
    key : a private SSH key, or the public one of a key that the SSH agent holds

    Raises
    ------
    MissingPath : no such key
    UsageError : ssh-keygen cannot sign with it
    """
    if not key.is_file():
        raise MissingPath("no such key", file=key, fix="name a private SSH key, such as ~/.ssh/id_ed25519; ssh-keygen -t ed25519 makes one")
    done = _ssh_keygen(["sign", "-f", str(key), "-n", NAMESPACE], digest)
    if done.returncode or b"BEGIN SSH SIGNATURE" not in done.stdout:
        raise UsageError("ssh-keygen cannot sign with this key", file=key, found=_said(done), fix="name a private SSH key with --sign")
    target = signature_file(path)
    files.write_bytes(target, done.stdout)
    return target


def verify(path: Path, digest: str, allowed: Path) -> str:
    """Return who signed a model file.

    Parameters
    ----------
    digest : of the model, as computed from the file
    allowed : an `allowed_signers` file of OpenSSH: one line `NAME KEYTYPE KEY` for each person who is trusted

    Raises
    ------
    MissingPath : no signature next to the file, or no such file of signers
    ModelFileError : the signature is of another file, or by nobody in the list
    """
    signature = signature_file(path)
    if not allowed.is_file():
        raise MissingPath("no such list of signers", file=allowed, fix="write one line for each: NAME ssh-ed25519 AAAA...")
    if not signature.is_file():
        raise MissingPath("the model file has no signature", file=signature, fix="ask its authors for it, or leave out --verify")
    found = _ssh_keygen(["find-principals", "-s", str(signature), "-f", str(allowed)], digest)
    names = found.stdout.decode(errors="replace").split("\n")[0].strip()
    if found.returncode or not names:
        raise _bad(signature, f"a signature by nobody who is listed in {allowed}", _said(found))
    name = names.split(",")[0]
    done = _ssh_keygen(["verify", "-f", str(allowed), "-I", name, "-n", NAMESPACE, "-s", str(signature)], digest)
    if done.returncode:
        raise _bad(signature, "the signature is not of this model", _said(done))
    return name


def _bad(signature: Path, summary: str, found: str) -> ModelFileError:
    return ModelFileError(
        summary, file=signature, found=found, expected="a signature by one of the listed signers, of the digest of this model",
        fix="ask the authors of the model for the file and its signature again",
    )  # fmt: skip


def _ssh_keygen(words: Sequence[str], digest: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", *words], input=f"{digest}\n".encode(), capture_output=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UsageError("signatures need ssh-keygen", found="no such program", fix="install OpenSSH 8.2 or newer") from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            "ssh-keygen does not answer", found=f"nothing within {_SECONDS} s", fix="unlock the key first: ssh-add KEY"
        ) from None


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()[:300]
