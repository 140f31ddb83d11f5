"""A lease: a file that says who holds a folder, where locks of the file system reach one machine only, or do not exist.

Its holder touches it every `BEAT` seconds. Who meets it watches it, by its own clock: where it is touched, the folder is held; where it is
silent for `PATIENCE` beats, its holder is dead or cut off, and is followed. The lease has a token: a holder that was frozen, and wakes when
another has followed it, no longer finds its own, and must stop (`require`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoseg.errors import SettingsError

BEAT = 15.0  # seconds
PATIENCE = 3  # beats; network file systems show a new time after a few seconds, and nothing local keeps a thread waiting for longer
NAME = ".lease"
_FORGOTTEN = 3600.0  # seconds without a sign of life, after which clocks that differ are no reason to believe in one

_held: dict[Path, str] = {}  # folder -> token, of this process


@contextlib.contextmanager
def lease(folder: Path, *, doing: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold `folder` by a file in it.

    Parameters
    ----------
    doing : what is done there, in the user's words
    waiting : given a sentence before the sign of life of another holder is awaited

    Raises
    ------
    SettingsError : somebody else holds it, on whichever machine
    """
    path, token, over = folder / NAME, secrets.token_hex(8), threading.Event()
    while not _taken(path, {**_process(), "token": token, "doing": doing}):
        owner, beat = _look(path)
        if owner is not None:
            if waiting is not None and not _surely_dead(owner):
                waiting(f"{_described(owner)} held this folder last: waiting up to {PATIENCE * BEAT:g} s for its sign of life ({folder})")
            _follow_or_refuse(path, owner, beat, token)
    beating = threading.Thread(target=_beat, args=(path, token, over), daemon=True, name=f"lease of {folder}")
    beating.start()
    _held[folder.resolve()] = token
    try:
        yield
    finally:
        over.set()
        _held.pop(folder.resolve(), None)
        if _token(path) == token:
            path.unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Return whether there is a lease on a folder whose holder may be alive; nobody is waited for."""
    owner, beat = _look(folder / NAME)
    return owner is not None and not _surely_dead(owner) and time.time() - beat / 1e9 < _FORGOTTEN


def require(folder: Path) -> None:
    """Raise if this process held the lease on a folder, and another has followed it meanwhile; before anything is written there.

    Raises
    ------
    SettingsError : it has
    """
    token = _held.get(folder.resolve())
    if token is None:
        return
    owner, _ = _look(folder / NAME)
    if owner is None or owner.get("token") != token:
        raise SettingsError(
            "another process has taken over this folder, because this one gave no sign of life",
            file=folder,
            found=_described(owner) if owner else "the lease of this process is gone",
            expected=f"a sign of life every {BEAT:g} s",
            fix="let the other process go on; what this one saved before is kept",
        )


def _taken(path: Path, owner: dict[str, Any]) -> bool:
    """Make the lease, whole and only where there is none: link(2) is atomic on every network file system."""
    temporary = path.with_name(f"{NAME}-{owner['token']}")
    temporary.write_text(json.dumps(owner))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: O_EXCL does it, though not whole
        try:
            with open(path, "x") as file:
                file.write(json.dumps(owner))
        except FileExistsError:
            return False
    finally:
        temporary.unlink()
    return True


def _follow_or_refuse(path: Path, owner: dict[str, Any], beat: int, token: str) -> None:
    """Take a dead holder's lease away; raise if it is alive."""
    begin = time.monotonic()
    while not _surely_dead(owner) and time.monotonic() - begin < PATIENCE * BEAT:
        time.sleep(BEAT / 10)
        now, later = _look(path)
        if now is None or now.get("token") != owner.get("token"):
            return  # given back, or followed by another: from the start
        if later != beat:
            raise SettingsError(
                f"another process is {owner.get('doing', 'working here')}",
                file=path.parent,
                found=_described(owner),
                fix="wait for it, end it, or choose another fold or workspace",
            )
    away = path.with_name(f"{NAME}-after-{token}")
    with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
        os.rename(path, away)
        followed, _ = _look(away)
        if followed is not None and followed.get("token") != owner.get("token"):  # that was the lease of who was quicker: put it back
            with contextlib.suppress(OSError):
                os.link(away, path)
        away.unlink()


def _beat(path: Path, token: str, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            if _token(path) == token:
                os.utime(path)


def _token(path: Path) -> str | None:
    owner, _ = _look(path)
    return None if owner is None else str(owner.get("token"))


def _look(path: Path) -> tuple[dict[str, Any] | None, int]:
    """Return who holds it, and the time of its last sign of life; opening asks the server, past what is cached here."""
    try:
        with open(path) as file:
            return dict(json.loads(file.read() or "{}")), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None, 0
    except (ValueError, TypeError):  # cut: of a holder that died while it wrote
        return {}, path.stat().st_mtime_ns if path.exists() else 0


def _described(owner: dict[str, Any]) -> str:
    job = f", job {owner['job']}" if owner.get("job") else ""
    return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown machine')}{job}"


def _process() -> dict[str, Any]:
    """What identifies this process among all machines, containers and starts of them."""
    facts: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts |= {"boot": boot, "space": os.readlink("/proc/self/ns/pid"), "start": _start("self")}
    return facts


def _start(pid: object) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _surely_dead(owner: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine and container that is not there any more."""
    mine = _process()
    if "boot" not in mine or any(owner.get(key) != mine[key] for key in ("boot", "space")):
        return False
    try:
        return _start(owner.get("pid")) != owner.get("start")
    except OSError:
        return True
