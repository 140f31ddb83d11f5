"""Finds and reads `planners/*.toml` and `datasets/*.toml`; the only code that knows where they are.

A planner preset is a tree of tables whose leaves are values. A number, wherever it stands, states its unit and its source::

    extends = "resenc-m"                 # state only what differs
    description = "one sentence for the list of planners"

    [memory_3d]
    budget = { value = 2_100_000_000, unit = "feature-map values", source = "nnU-Net v2, nnUNetPlannerResEncL" }
    norm = "group"                       # texts and true/false may stand bare

The preset at the end of the chain of `extends` that starts at `default` is the *root*. It defines every key there is, with its
unit and kind; any other preset only changes values. `choices` in a leaf of the root lists the texts that may stand there:
`{ value = "group", choices = ["group", "instance"] }`, or beside a number, `{ value = 8, choices = ["auto"], ... }`.
The choices of what has a dictionary of records, such as losses, are their names (`_CHOICES`).

What the values mean is handled in `planning/` and `training/`; what a recipe means, that of `cases`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from autoseg import files, losses
from autoseg.architectures import ARCHITECTURES
from autoseg.errors import MissingPath, SettingsError
from autoseg.normalization import NORMALIZATIONS

KINDS = ("planners", "datasets")
DEFAULT_PLANNER = "default"

_LEAF_KEYS = ("value", "unit", "source", "choices")
_CHOICES = {
    "network.kind": tuple(ARCHITECTURES),
    "training.loss.pixel": losses.VOXEL_LOSSES,
    "training.loss.overlap": losses.REGION_LOSSES,
    **{f"normalization.{modality}": tuple(NORMALIZATIONS) for modality in ("CT", "RGB", "rescaled", "unchanged", "other")},
}
_HEAD_KEYS = ("extends", "description")  # of the file, not of the tree


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A planner preset with all that it extends, complete. `preset["memory_3d"]["budget"]` is a plain value."""

    name: str
    description: str
    extends: tuple[str, ...]  # the presets it builds on, nearest first; empty for the root
    values: Mapping[str, Any]  # nested tables, plain values
    documented: Mapping[str, Any]  # the same tree; each leaf {"value": ..., "unit": ..., "source": ...}

    def __getitem__(self, key: str) -> Any:
        """The table or value of that name."""
        return self.values[key]


def folder(kind: str) -> Path:
    """Where the presets of a kind lie: in the installed package, else at the top of the checkout.

    Parameters
    ----------
    kind : "planners" or "datasets"

    Raises
    ------
    MissingPath : neither place has them; the installation is incomplete
    """
    assert kind in KINDS, kind
    package = Path(__file__).resolve().parent
    for place in (package / kind, package.parent / kind):
        if place.is_dir():
            return place
    raise MissingPath(f"this installation of autoseg lacks its {kind}", file=package / kind, fix="install autoseg again")


def planner_names() -> tuple[str, ...]:
    """Names of the planners that come with autoseg, the default one first."""
    return tuple(sorted(_names("planners"), key=lambda name: (name != DEFAULT_PLANNER, name)))


def recipe_names() -> tuple[str, ...]:
    """Names of the data set recipes that come with autoseg, sorted."""
    return tuple(sorted(_names("datasets")))


def planner(name_or_path: str | Path = DEFAULT_PLANNER) -> Preset:
    """The planner preset of that name, or in that TOML file, with everything that it extends filled in.

    Parameters
    ----------
    name_or_path : a name of `planner_names()`, or a file; a str is a file if it ends in ".toml"

    Raises
    ------
    SettingsError : no such name; not TOML; a key that the root does not have (the nearest known one is offered); a number without
        unit or source; another unit or kind than the root's; presets that extend each other in a circle
    MissingPath : no such file
    """
    chain = _chain(_find("planners", name_or_path))
    root = _chain(_find("planners", DEFAULT_PLANNER))[-1]
    if chain[-1].path != root.path:
        raise SettingsError(
            "a planner that extends nothing",
            file=chain[-1].path,
            expected="each planner builds on another one and states only what differs",
            fix=f'put extends = "{DEFAULT_PLANNER}" at its top (known planners: {", ".join(planner_names())})',
        )
    documented = _documented(root, schema=None)
    schema = documented
    for file in reversed(chain[:-1]):
        documented = _merged(documented, _documented(file, schema=schema))
    return Preset(
        name=chain[0].name,
        description=str(chain[0].head.get("description", "")),
        extends=tuple(file.name for file in chain[1:]),
        values=plain(documented),
        documented=documented,
    )


def recipe(name_or_path: str | Path) -> dict[str, Any]:
    """The data set recipe of that name, or in that TOML file, as it stands there. `cases` knows its keys and refuses others.

    Parameters
    ----------
    name_or_path : a name of `recipe_names()`, or a file; a str is a file if it ends in ".toml"

    Raises
    ------
    SettingsError : no such name, or not TOML
    MissingPath : no such file
    """
    return files.read_toml(_find("datasets", name_or_path))


def plain(documented: Mapping[str, Any]) -> dict[str, Any]:
    """A documented tree with each leaf replaced by its value.

    >>> plain({"epochs": {"value": 1000, "unit": "epochs", "source": "Isensee 2021"}, "momentum": {"value": 0.99}})
    {'epochs': 1000, 'momentum': 0.99}
    """
    return {key: node["value"] if _is_leaf(node) else plain(node) for key, node in documented.items()}


def refuse_unknown(
    found: Collection[str], known: Collection[str], *, what: str = "key", file: Path | None = None, fix: str | None = None
) -> None:
    """Nothing, if all that was found is known.

    Parameters
    ----------
    found, known : names, or dotted keys
    what : what the names are, for the message
    file : where they were found

    Raises
    ------
    SettingsError : for the first one that is not known, with the known one nearest to it
    """
    for name in found:
        if name in known:
            continue
        close = nearest(name, known)
        raise SettingsError(
            f"unknown {what} '{name}'",
            file=file,
            found=name,
            expected=f"one of: {', '.join(known)}" if len(known) <= 12 else None,
            fix=fix or (f"did you mean '{close}'?" if close else "remove it"),
        )


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name most like `name`; None where nothing is known. In dotted keys the last part counts twice.

    >>> nearest("memory_3d.budgt", ["memory_3d.budget", "memory_2d.budget", "training.batch"])
    'memory_3d.budget'
    """

    def likeness(other: str) -> float:
        """How alike two dotted names are, their last parts counted twice."""
        ends = name.rpartition(".")[2].casefold(), other.rpartition(".")[2].casefold()
        return SequenceMatcher(None, name.casefold(), other.casefold()).ratio() + SequenceMatcher(None, *ends).ratio()

    return max(known, key=likeness, default=None)


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    name: str
    head: Mapping[str, Any]  # extends, description
    tree: Mapping[str, Any]  # the rest, as written


def _names(kind: str) -> Iterator[str]:
    return (path.stem for path in folder(kind).glob("*.toml"))


def _find(kind: str, name_or_path: str | Path, *, beside: Path | None = None) -> Path:
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml"):
        path = Path(name_or_path) if beside is None else beside / name_or_path
        if not path.is_file():
            raise MissingPath("no such file", file=path, fix="check the spelling of the path")
        return path.resolve()
    known = planner_names() if kind == "planners" else recipe_names()
    what = "planner" if kind == "planners" else "recipe"
    if name_or_path not in known:
        close = nearest(name_or_path, known)
        hint = f"did you mean '{close}'? " if close else ""
        refuse_unknown([name_or_path], known, what=what, fix=f"{hint}A {what} of your own is given as a file that ends in .toml")
    return (folder(kind) / f"{name_or_path}.toml").resolve()


def _chain(path: Path) -> list[_File]:
    """The file and all that it extends, nearest first."""
    chain: list[_File] = []
    while True:
        table = files.read_toml(path)
        head = {key: table.pop(key) for key in _HEAD_KEYS if key in table}
        chain.append(_File(path=path, name=path.stem, head=head, tree=table))
        base = head.get("extends")
        if base is None:
            return chain
        if not isinstance(base, str):
            raise SettingsError("extends is not a name", file=path, found=repr(base), expected='for example extends = "default"')
        path = _find("planners", base, beside=path.parent)
        if path in [file.path for file in chain]:
            circle = " -> ".join([*(file.name for file in chain), path.stem])
            raise SettingsError(
                "planners extend each other in a circle", file=chain[0].path, found=circle, fix="let one of them extend another"
            )


def _is_leaf(node: Any) -> bool:
    return isinstance(node, Mapping) and "value" in node


def _leaves(documented: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, node in documented.items():
        if _is_leaf(node):
            yield prefix + key, node
        else:
            yield from _leaves(node, f"{prefix}{key}.")


def _documented(file: _File, *, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The tree of one file with every leaf in its full form, held against the schema; the root, without one, against itself."""
    tree = _full_form(file.tree, file=file.path, prefix="")
    leaves = dict(_leaves(tree))
    if schema is None:
        for key, names in _CHOICES.items():
            if isinstance(leaf := leaves.get(key), dict):
                leaf["choices"] = list(names)
    known = leaves if schema is None else dict(_leaves(schema))
    for key, leaf in leaves.items():
        _check_place(key, known, file=file.path)
        _check_against(leaf, known[key], key=key, file=file.path)
        if schema is not None and "choices" in leaf:
            raise SettingsError(f"the choices of '{key}' are stated by the root preset alone", file=file.path, fix="remove choices here")
    return tree


def _full_form(table: Mapping[str, Any], *, file: Path, prefix: str) -> dict[str, Any]:
    full: dict[str, Any] = {}
    for name, node in table.items():
        key = prefix + name
        if not isinstance(node, Mapping):
            full[name] = _leaf({"value": node}, key=key, file=file)
        elif _is_leaf(node) or (node and set(node) <= set(_LEAF_KEYS)):
            full[name] = _leaf(node, key=key, file=file)
        else:
            full[name] = _full_form(node, file=file, prefix=f"{key}.")
    return full


def _leaf(node: Mapping[str, Any], *, key: str, file: Path) -> dict[str, Any]:
    """A checked leaf: known parts only, a value that TOML can state, unit and source where there is a number."""
    refuse_unknown([f"{key}.{part}" for part in node], [f"{key}.{part}" for part in _LEAF_KEYS], file=file)
    if "value" not in node:
        raise SettingsError(f"'{key}' states no value", file=file, found=", ".join(node), fix=f"give {key} a value")
    _kind(node["value"], key=key, file=file)
    for part in ("unit", "source"):
        text = node.get(part)
        if (text is not None or _holds_number(node["value"])) and (not isinstance(text, str) or not text.strip()):
            raise SettingsError(
                f"the number '{key}' lacks its {part}",
                file=file,
                found=f"{node['value']}",
                expected='{ value = ..., unit = "...", source = "..." }',
                fix="say what it counts and where it comes from: a paper, a piece of code, a measurement",
            )
    return dict(node)


def _kind(value: Any, *, key: str, file: Path | None) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        for item in value:
            _kind(item, key=key, file=file)
        return "list"
    raise SettingsError(
        f"'{key}' has a value of no use", file=file, found=repr(value), expected="a number, a text, true or false, or a list of them"
    )


def _holds_number(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_number(item) for item in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_place(key: str, known: Collection[str], *, file: Path) -> None:
    if key in known:
        return
    if any(other.startswith(f"{key}.") for other in known):
        raise SettingsError(f"'{key}' is a table, not a value", file=file, fix=f"write [{key}] above its values")
    refuse_unknown([key], known, file=file)


def _check_against(leaf: Mapping[str, Any], schema: Mapping[str, Any], *, key: str, file: Path | None) -> None:
    """A leaf is one of the schema's choices, or has its kind and unit."""
    value, choices, unit = leaf["value"], schema.get("choices", []), schema.get("unit")
    if isinstance(value, str) and choices:
        refuse_unknown([value], choices, what=f"choice for {key}", file=file)
        return
    found, wanted = _kind(value, key=key, file=file), _kind(schema["value"], key=key, file=file)
    if wanted == "text" and unit is not None:
        wanted = "number"  # the root's own value is one of its choices, such as "auto", in place of a number
    if found != wanted:
        raise SettingsError(
            f"'{key}' is of the wrong kind",
            file=file,
            found=f"{found}: {value!r}",
            expected=f"{wanted}, as {schema['value']!r}" + (f", or one of: {', '.join(choices)}" if choices else ""),
        )
    if leaf.get("unit") != unit:
        raise SettingsError(
            f"'{key}' is given in another unit",
            file=file,
            found=str(leaf.get("unit")),
            expected=str(unit),
            fix="convert the value, or correct the name of the unit",
        )


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over`; the unit and the choices of the base stay. Shares nothing that could be changed."""
    merged: dict[str, Any] = {}
    for key in (*base, *(key for key in over if key not in base)):
        node = over.get(key, base.get(key))
        if _is_leaf(node):
            merged[key] = {**{part: base[key][part] for part in ("unit", "choices") if part in base.get(key, {})}, **node}
        else:
            merged[key] = _merged(base.get(key, {}), over.get(key, {}))
    return merged
