"""Model files are the same for the same members, and each damaged or hostile one is refused by name or gives the same model."""

from __future__ import annotations

import io
import json
import pickle
import re
import stat
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from autoseg import sharing
from autoseg.checksums import with_checksum, without_checksum
from autoseg.errors import AutosegError, MissingPath, ModelError, ModelFileError
from autoseg.networks import checkpoint
from autoseg.pipeline import loading
from autoseg.prediction import Model, open_model
from autoseg.sharing import archive

WEIGHTS = "runs/2d/fold_0/model.safetensors"
Members = dict[str, bytes]


class Payload:
    """Would write a file when unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


def state(model: Model) -> dict[str, torch.Tensor]:
    return model.stages[-1].networks[0].state_dict()


def packed(entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> bytes:
    """A zip of members in that order, stored."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as zip_file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in entries:
            info = name if isinstance(name, zipfile.ZipInfo) else archive._info(name, len(content))
            zip_file.writestr(info, content)
    return data.getvalue()


def manifest_of(members: Members, **changed: Any) -> bytes:
    entries = tuple(archive._entry(name, io.BytesIO(content)) for name, content in members.items())
    value = {"format": 1, "version": "0.1.0", "configuration": "2d", "digest": archive.digest_of("2d", entries)}
    listed = [{"name": entry.name, "size": entry.size, "sha256": entry.sha256} for entry in entries]
    return json.dumps(with_checksum({**value, "files": listed, **changed})).encode()


def honest(members: Members, **changed: Any) -> bytes:
    """A file whose manifest is right for whatever is in it, as an attacker would make it."""
    return packed([("manifest.json", manifest_of(members, **changed)), *members.items()])


def with_info(members: Members, name: str = WEIGHTS, **attributes: Any) -> bytes:
    """A file in which the record of one member says something else."""
    info = archive._info(name, len(members[name]))
    for key, value in attributes.items():
        setattr(info, key, value)
    return packed([("manifest.json", manifest_of(members)), *((info if key == name else key, value) for key, value in members.items())])


def patched(content: bytes, old: bytes, new: bytes, *, last: bool = False) -> bytes:
    at = content.rindex(old) if last else content.index(old)
    return content[:at] + new + content[at + len(old) :]


def central(content: bytes, offset: int, value: bytes) -> bytes:
    """Change bytes in the directory's record of the weights."""
    at = content.rindex(WEIGHTS.encode()) - 46 + offset
    return content[:at] + value + content[at + len(value) :]


def weights(members: Members, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], **description: Any) -> Members:
    """Members whose weights are others, with all checksums right."""
    tensors, known = checkpoint.parse_model(members[WEIGHTS], file=Path("x"))
    header = json.dumps(with_checksum({"sha256": checkpoint.digest(changed := change(tensors)), "description": {**known, **description}}))
    return {**members, WEIGHTS: safetensors.torch.save({k: v.contiguous() for k, v in changed.items()}, {"autoseg": header})}


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: change(value) if name == min(tensors) else value for name, value in tensors.items()}


def plan_with(members: Members, **changed: Any) -> Members:
    """Members whose plan has another value in its configuration."""
    _, description = checkpoint.parse_model(members[WEIGHTS], file=Path("x"))
    description["plan"]["configurations"]["2d"] |= changed
    return weights(members, lambda tensors: tensors, plan=description["plan"])


def doubled(members: Members, other: str) -> bytes:
    return packed([("manifest.json", manifest_of(members)), *members.items(), (other, b"{}")])


def same(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors


BRACKETS = b"[" * 100_000
# What is made of a file's content and its members; "same" says that the same model is read.
HOSTILE: dict[str, Callable[[bytes, Members], bytes]] = {
    "empty": lambda c, m: b"",
    "text": lambda c, m: b"<html>not found</html>" * 50,
    "cut in half": lambda c, m: c[: len(c) // 2],
    "cut by one byte": lambda c, m: c[:-1],
    "the end alone": lambda c, m: c[-22:],
    "junk before": lambda c, m: b"#!/bin/sh\n" + c,
    "junk after": lambda c, m: c + b"junk",
    "a zip after it": lambda c, m: c + packed([("manifest.json", b"{}")]),
    "a comment": lambda c, m: c[:-2] + struct.pack("<H", 4) + b"more",
    "junk between": lambda c, m: patched(c, b"PK\1\2", b"junkPK\1\2"),
    "an entry count that lies": lambda c, m: c[:-14] + struct.pack("<HH", 999, 999) + c[-10:],
    "a count of 65535": lambda c, m: c[:-14] + b"\xff\xff\xff\xff" + c[-10:],
    "a directory elsewhere": lambda c, m: c[:-6] + struct.pack("<I", 7) + c[-2:],
    "a changed weight": lambda c, m: c[: c.index(m[WEIGHTS]) + 9000] + b"\x77" + c[c.index(m[WEIGHTS]) + 9001 :],
    "a changed plan": lambda c, m: patched(c, b'"toy"', b'"tox"'),
    "a changed card": lambda c, m: patched(c, b"not stated", b"not STATED"),
    "a changed manifest": lambda c, m: patched(c, b'"version": "0.1.0"', b'"version": "0.1.9"'),
    "weights compressed": lambda c, m: with_info(m, compress_type=zipfile.ZIP_DEFLATED),
    "a bomb": lambda c, m: packed([(archive._info("manifest.json", 0), b"{}"), (_bomb(), bytes(50_000_000))]),
    "a size that lies": lambda c, m: central(c, 24, struct.pack("<I", 1 << 30)),
    "both sizes lie": lambda c, m: central(c, 20, struct.pack("<II", 1 << 30, 1 << 30)),
    "a smaller size": lambda c, m: central(c, 20, struct.pack("<II", 5, 5)),
    "encrypted": lambda c, m: central(c, 8, b"\1\0"),
    "an unknown method": lambda c, m: central(c, 10, b"\x63\0"),
    "a place that lies": lambda c, m: central(c, 42, struct.pack("<I", 0)),
    "a place beyond": lambda c, m: central(c, 42, struct.pack("<I", 1 << 31)),
    "a symbolic link": lambda c, m: with_info(m, external_attr=(stat.S_IFLNK | 0o777) << 16),
    "a device": lambda c, m: with_info(m, external_attr=(stat.S_IFCHR | 0o777) << 16),
    "a folder up": lambda c, m: honest({**m, "../../evil.json": b"{}"}),
    "an absolute name": lambda c, m: honest({**m, "/etc/evil": b"{}"}),
    "a drive": lambda c, m: honest({**m, "c:evil": b"{}"}),
    "a backslash": lambda c, m: honest({**m, "a\\b.json": b"{}"}),
    "a hidden name": lambda c, m: honest({**m, ".bashrc": b"{}"}),
    "too deep": lambda c, m: honest({**m, "a/b/c/d/e.json": b"{}"}),
    "a name with NUL": lambda c, m: honest({**m, "evilx.json": b"{}"}).replace(b"evilx.json", b"evil\0.json"),
    "a member twice": lambda c, m: doubled(m, "plan.json"),
    "a member twice but for case": lambda c, m: doubled(m, "PLAN.json"),
    "a member more": lambda c, m: doubled(m, "more.json"),
    "a member less": lambda c, m: packed([("manifest.json", manifest_of(m)), *list(m.items())[:-1]]),
    "1,001 members": lambda c, m: honest({**m, **{f"more_{i}": b"" for i in range(1001)}}),
    "no manifest": lambda c, m: packed(list(m.items())),
    "the manifest last": lambda c, m: packed([*m.items(), ("manifest.json", manifest_of(m))]),
    "a manifest of brackets": lambda c, m: packed([("manifest.json", BRACKETS), *m.items()]),
    "a manifest that is a list": lambda c, m: packed([("manifest.json", b"[]"), *m.items()]),
    "a manifest in UTF-16": lambda c, m: packed([("manifest.json", manifest_of(m).decode().encode("utf-16")), *m.items()]),
    "a manifest with NaN": lambda c, m: honest(m, configuration=float("nan")),
    "a manifest with a number of 5,000 digits": lambda c, m: packed([("manifest.json", b'{"format": ' + b"9" * 5000 + b"}"), *m.items()]),
    "an unknown key": lambda c, m: honest(m, run="rm -rf /"),
    "a future format": lambda c, m: honest(m, format=2, version="9.9"),
    "format 0": lambda c, m: honest(m, format=0),
    "format true": lambda c, m: honest(m, format=True),
    "another digest": lambda c, m: honest(m, digest="0" * 64),
    "a configuration that is not there": lambda c, m: honest(m, configuration="3d_fullres"),
    "a pickle for weights": lambda c, m: honest({**m, WEIGHTS: pickle.dumps(Payload())}),
    "no weights": lambda c, m: honest({**m, WEIGHTS: b""}),
    "a header of 1 GB": lambda c, m: honest({**m, WEIGHTS: struct.pack("<Q", 1 << 30) + m[WEIGHTS][8:]}),
    "a header of brackets": lambda c, m: honest({**m, WEIGHTS: struct.pack("<Q", len(BRACKETS)) + BRACKETS}),
    "weights with NaN": lambda c, m: honest(weights(m, first(lambda w: w * float("nan")))),
    "weights with infinity": lambda c, m: honest(weights(m, first(lambda w: w / 0.0))),
    "weights of another shape": lambda c, m: honest(weights(m, first(lambda w: w[:1]))),
    "weights of another type": lambda c, m: honest(weights(m, first(lambda w: w.half()))),
    "a tensor more": lambda c, m: honest(weights(m, lambda t: {**t, "more": torch.zeros(3)})),
    "a tensor less": lambda c, m: honest(weights(m, lambda t: {k: t[k] for k in sorted(t)[1:]})),
    "weights of another fold": lambda c, m: honest(weights(m, same, fold=3)),
    "a future format of the weights": lambda c, m: honest(weights(m, same, format=99)),
    "no plan": lambda c, m: honest(weights(m, same, plan={})),
    "a plan of brackets": lambda c, m: honest({**m, "fingerprint.json": BRACKETS}),
    "a network that would be imported": lambda c, m: honest(plan_with(m, network="antigravity:fly")),
    "a network of a billion blocks": lambda c, m: honest(plan_with(m, blocks_per_stage=[10**9] * 3)),
    "a network of a million features": lambda c, m: honest(plan_with(m, features_per_stage=[10**6] * 3)),
    "features of 300 digits": lambda c, m: honest(plan_with(m, features_per_stage=[10**300] * 3)),
    "a patch of 300 digits": lambda c, m: honest(plan_with(m, patch_size=[1, 10**300, 12])),
    "a spacing of 0": lambda c, m: honest(plan_with(m, spacing=[0, 0, 0])),
    "rules of brackets": lambda c, m: honest({**m, "selection.json": BRACKETS, "postprocessing.json": BRACKETS}),
    "a card that is a list": lambda c, m: honest({**m, "card.json": b"[1]"}),
    "same: another date": lambda c, m: with_info(m, date_time=(2020, 5, 5, 5, 5, 4)),
    "same: another order": lambda c, m: packed([("manifest.json", manifest_of(m)), *reversed(m.items())]),
    "same: without a card": lambda c, m: honest({k: v for k, v in m.items() if "card" not in k and "README" not in k}),
}


def _bomb() -> zipfile.ZipInfo:
    info = archive._info(WEIGHTS, 50_000_000)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def test_there_are_enough_hostile_files() -> None:
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_file_is_refused_by_name_or_gives_the_same_model(
    name: str, model_file: Path, members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.autoseg"
    path.write_bytes(HOSTILE[name](model_file.read_bytes(), members))
    before = path.read_bytes()
    try:
        model = loading.load(path, device="cpu").model
    except AutosegError as error:
        assert not name.startswith("same") and error.file and str(path) in error.file and error.fix, str(error)
    else:
        assert name.startswith("same"), "it was read"
        expected = state(open_model(model_file, device="cpu"))
        assert all(torch.equal(value, expected[key]) for key, value in state(model).items())
    assert "antigravity" not in sys.modules
    assert [item.name for item in tmp_path.iterdir()] == ["model.autoseg"] and path.read_bytes() == before


def test_a_byte_changed_anywhere_is_refused_or_changes_nothing(model_file: Path, tmp_path: Path) -> None:
    content, path = model_file.read_bytes(), tmp_path / "model.autoseg"
    expected = state(open_model(model_file, device="cpu"))
    places = [*range(0, 1200, 37), *range(1200, len(content) - 600, 1999), *range(len(content) - 600, len(content), 13)]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
        try:
            found = state(open_model(path, device="cpu"))
        except AutosegError:
            continue
        assert all(torch.equal(value, expected[key]) for key, value in found.items()), place


def test_the_same_members_give_the_same_bytes_in_any_order(members: Members, tmp_path: Path) -> None:
    first_digest = sharing.write_model_file(tmp_path / "a.autoseg", members, configuration="2d")
    second = sharing.write_model_file(tmp_path / "b.autoseg", dict(reversed(members.items())), configuration="2d")
    assert first_digest == second and (tmp_path / "a.autoseg").read_bytes() == (tmp_path / "b.autoseg").read_bytes()
    other = sharing.write_model_file(tmp_path / "b.autoseg", {**members, "README.md": b"other"}, configuration="2d")
    assert other != second


def test_a_newer_format_names_the_version_that_made_it(members: Members, tmp_path: Path) -> None:
    (tmp_path / "m.autoseg").write_bytes(honest(members, format=2, version="9.9"))
    with pytest.raises(ModelFileError, match="needs a newer autoseg") as caught:
        open_model(tmp_path / "m.autoseg", device="cpu")
    assert "9.9" in str(caught.value)


def test_an_earlier_format_is_converted_step_by_step(members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.autoseg"
    value = without_checksum(json.loads(manifest_of(members)))
    value["main"] = value.pop("configuration")
    path.write_bytes(packed([("manifest.json", json.dumps(with_checksum(value)).encode()), *members.items()]))
    monkeypatch.setattr(archive, "FORMAT", 3)
    renamed = lambda old: {**{k: v for k, v in old.items() if k != "main"}, "configuration": old["main"], "format": 2}  # noqa: E731
    monkeypatch.setattr(archive, "_CONVERTERS", {1: renamed, 2: lambda old: {**old, "format": 3}})
    assert sharing.open_model_file(path).manifest.format == 3


def test_a_model_file_lists_what_it_holds(model_file: Path) -> None:
    file = sharing.open_model_file(model_file)
    assert file.children(model_file / "runs") == ["2d"] and file.children(model_file / "nothing") == []
    assert file.exists(model_file / WEIGHTS) and not file.exists(model_file / "run") and re.fullmatch("[0-9a-f]{64}", file.digest)
    with pytest.raises(MissingPath):
        file.read(model_file / "splits.json")
    with pytest.raises(ModelError, match="no trained fold 4"):
        open_model(model_file, folds=[4], device="cpu")
