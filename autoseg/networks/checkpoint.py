"""Weights together with their plan, and the state of a training: safetensors and JSON, never a pickle.

Each file is a safetensors file that carries its JSON description in its own header, with a SHA-256 over the tensors and a
checksum over that and the description. It is renamed into place when whole, so weights and description can never belong to
different moments. `model.json` is the readable copy of a model's description.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoseg import files
from autoseg.checksums import KEY, is_unchanged, with_checksum
from autoseg.errors import MissingPath, ModelError, UnreadableFile
from autoseg.workspace import Run

MODEL_FORMAT = 1
_HEADER = "autoseg"  # the only key in the safetensors header: of several, the order would change from process to process
_DIGEST = "sha256"  # key, in the JSON text under it, of the digest over the tensors
_DESCRIPTION = "description"
_DAMAGE = (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError)


def save_model(
    run: Run, weights: Mapping[str, Tensor], description: Mapping[str, Any], *, remarks: Mapping[str, Any] | None = None
) -> None:
    """Write `model.safetensors` and `model.json`: what `predict` needs of one trained fold.

    Parameters
    ----------
    weights : a network's state_dict, on any device and in any memory format
    description : plain JSON values: plan (`Plan.to_json()`), configuration, fold, version, epochs, scores, ...; `format` is
        added here, and to `model.json` the `digest` of the weights, by which a result names the model that it is of
    remarks : for `model.json` alone: what may differ between two runs that end with the same model, such as the time they took

    Raises
    ------
    NotEnough : the disk is full; what was there before is left as it was
    """
    whole = {"format": MODEL_FORMAT, **description}
    written = write_tensors(run.weights, weights, whole)
    files.write_json(run.description, with_checksum({**whole, **(remarks or {}), "digest": written}))


def load_model(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and description of one trained fold.

    Raises
    ------
    ModelError : it is missing, damaged, or it was written by another format version
    """
    return _of_known_format(*read_tensors(run.weights), run.weights)


def parse_model(content: bytes, *, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and description of one trained fold from the content of its `model.safetensors`; the weights have memory of their own.

    Raises
    ------
    ModelError : it is damaged, or was written by another format version
    """
    try:
        tensors = safetensors.torch.load(content)  # checks the header's length, names, types and places
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    except _DAMAGE as error:
        raise _damaged(file, str(error)) from None
    return _of_known_format(*_checked(tensors, metadata, file), file)


def _of_known_format(weights: dict[str, Tensor], description: dict[str, Any], file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if description.get("format") != MODEL_FORMAT:
        raise ModelError(
            "a model of another format",
            file=file,
            found=f"format {description.get('format')}",
            expected=f"format {MODEL_FORMAT}",
            fix="use the version of autoseg that made it, or train again",
        )
    return weights, description


def holds(run: Run, weights: Mapping[str, Tensor], *, steps: int) -> bool:
    """Return whether `model.safetensors` and `model.json` are whole, say the same, and are these weights after that many steps."""
    try:
        found, description = load_model(run)
        readable = files.read_json(run.description)
    except (MissingPath, ModelError, UnreadableFile):
        return False
    same = digest(weights)
    expected = {**json.loads(json.dumps(description)), "steps": steps, "digest": same}
    alike = description.get("steps") == steps and digest(found) == same and is_unchanged(readable) is not False
    return alike and isinstance(readable, dict) and {name: readable.get(name) for name in expected} == expected


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write what resuming needs: nested dicts, lists and tuples of tensors, numpy arrays and JSON scalars.

    The dicts may have text or integer keys, as optimizers have; floats come back bit for bit, NaN and infinity too.

    Raises
    ------
    NotEnough : the disk is full; the state before is left as it was
    """
    tensors: dict[str, Tensor] = {}
    tree = _flatten(dict(state), "state", tensors)
    write_tensors(_state_file(folder), tensors, {"format": MODEL_FORMAT, "state": tree})


def has_state(folder: Path) -> bool:
    """Whether `save_state` has written there."""
    return _state_file(folder).exists()


def load_state(folder: Path) -> dict[str, Any] | None:
    """Read what `save_state` wrote, on the CPU; `None` where nothing was saved.

    Raises
    ------
    ModelError : damaged, or written by another format version
    """
    path = _state_file(folder)
    if not path.exists():
        return None
    again = "begin again: the same command with --overwrite; until then predict continues with the model next to it"
    try:
        tensors, description = read_tensors(path)
    except ModelError as error:
        raise ModelError("the saved state of the training is damaged", file=path, found=error.found, fix=again) from None
    if description.get("format") != MODEL_FORMAT:
        raise ModelError(
            "a training state of another format",
            file=path,
            found=f"format {description.get('format')}",
            expected=f"format {MODEL_FORMAT}",
            fix=again,
        )
    try:
        state: dict[str, Any] = _unflatten(description["state"], tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError("the saved state of the training is damaged", file=path, found=f"no {error}", fix=again) from None
    return state


def write_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Write tensors with a JSON description in their header, whole or not at all; the SHA-256 over the tensors is returned."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    plain = _without_sharing(plain)
    sha256 = digest(plain)
    header = json.dumps(with_checksum({_DIGEST: sha256, _DESCRIPTION: description}), allow_nan=False)
    with files.atomic_write(path) as temporary:
        _save(plain, temporary, header)
    return sha256


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors, on the CPU, and the description in their header.

    Raises
    ------
    MissingPath : there is no such file
    ModelError : it is not one of ours, or damaged
    """
    if not path.exists():
        raise MissingPath("no such model file", file=path, fix="train first, or check the spelling of the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except PermissionError:
        raise MissingPath("the model file is not readable", file=path, found="permission denied", fix=f"chmod +r {path}") from None
    except _DAMAGE as error:
        raise _damaged(path, str(error)) from None
    return _checked(tensors, metadata, path)


def _checked(tensors: dict[str, Tensor], metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors with the description in their metadata; raise unless both are as they were written."""
    try:
        header = json.loads(metadata[_HEADER])
        if _DIGEST in metadata:  # how versions before the first release wrote it
            header = {_DIGEST: metadata[_DIGEST], _DESCRIPTION: header}
        elif header.keys() - {KEY} != {_DIGEST, _DESCRIPTION} or is_unchanged(header) is False:
            raise ValueError("the description in its header was changed since it was written")
        description, recorded = header[_DESCRIPTION], header[_DIGEST]
    except _DAMAGE as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(description, dict):
        raise _damaged(path, "the description in its header is not a table")
    if digest(tensors) != recorded:
        raise _damaged(path, "the SHA-256 of the weights is not the recorded one")
    return tensors, description


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values in the order of the names, as hexadecimal digits."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _save(tensors: dict[str, Tensor], path: Path, header: str) -> None:
    """Write a safetensors file: a full disk is an OSError as everywhere else, and others may read it where the umask lets them."""
    try:
        save_file(tensors, path, metadata={_HEADER: header})
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    other = path.with_name("mode")
    other.touch()
    path.chmod(other.stat().st_mode)


def _damaged(path: Path, found: str) -> ModelError:
    return ModelError(
        "the model file is damaged",
        file=path,
        found=found,
        expected="a safetensors file written by autoseg",
        fix="copy the file again; next to its training state, the same train command writes it again",
    )


def _state_file(folder: Path) -> Path:
    return folder / "state.safetensors"


def _without_sharing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with a storage each: safetensors refuses two views of one storage."""
    seen: set[int] = set()
    alone = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own = place not in seen and tensor.untyped_storage().nbytes() == tensor.nbytes
        alone[name] = tensor if own else tensor.clone()
        seen.add(place)
    return alone


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> list[Any]:
    """Return a JSON tree of [kind, content] with every tensor moved into `tensors`."""
    match value:
        case Tensor():
            tensors[name] = value
            return ["tensor", name]
        case np.ndarray():
            tensors[name] = torch.from_numpy(np.array(value))
            return ["array", name]
        case dict():
            assert all(isinstance(key, str | int) for key in value), f"keys of {name} must be text or integers"
            return ["dict", [[key, _flatten(item, f"{name}.{key}", tensors)] for key, item in value.items()]]
        case list() | tuple():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return [kind, [_flatten(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]]
        case np.generic():
            return _flatten(value.item(), name, tensors)
        case float() if not math.isfinite(value):
            return ["float", str(value)]
        case None | bool() | int() | float() | str():
            return ["value", value]
    raise TypeError(f"{name} is a {type(value).__name__}: only tensors, arrays and JSON values can be kept")


def _unflatten(tree: list[Any], tensors: Mapping[str, Tensor]) -> Any:
    kind, content = tree
    match kind:
        case "tensor":
            return tensors[content]
        case "array":
            return tensors[content].numpy()
        case "dict":
            return {key: _unflatten(item, tensors) for key, item in content}
        case "list":
            return [_unflatten(item, tensors) for item in content]
        case "tuple":
            return tuple(_unflatten(item, tensors) for item in content)
        case "float":
            return float(content)
    return content
