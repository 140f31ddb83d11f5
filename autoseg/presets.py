"""Finds and reads `planners/*.toml` and `datasets/*.toml`; the only code that knows where they are.

A planner preset is a tree of tables whose leaves are values. Every number states its unit and its source::

    extends = "resenc-m"                 # state only what differs
    description = "one sentence for the list of planners"

    [memory_3d]
    budget = { value = 2_100_000_000, unit = "feature-map values", source = "nnU-Net v2, nnUNetPlannerResEncL" }
    norm = "group"                       # text and true/false need neither

The preset at the end of the chain of `extends` that starts at `default` is the *root*. It defines every key there is, with its
unit and kind; any other preset only changes values. `choices` in a leaf of the root lists the names it can have:
`{ value = "group", choices = ["group", "instance"] }`, or, for a number, `{ value = 8, choices = ["auto"], ... }`.
The choices of what has a dictionary of records, such as losses, are their names (`_CHOICES`).

What the values mean is handled in `planning/` and `training/`; what a recipe means, that of `cases`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, Union

from autoseg import extensions, files, losses, schema
from autoseg.architectures import NETWORKS, choices
from autoseg.errors import MissingPath, SettingsError
from autoseg.normalization import NORMALIZATIONS

KINDS = ("planners", "datasets")  # folders at the top; those of the networks are in `planners/networks`
DEFAULT_PLANNER = "default"
DEFAULT_NETWORK = "unet"

_OWN = ("network.kind", "training.loss.pixel", "training.loss.overlap")
_CHOICES = {
    "network.kind": tuple(NETWORKS),
    **{f"network.{name}": names for name, names in choices().items()},
    "training.loss.pixel": losses.VOXEL_LOSSES,
    "training.loss.overlap": losses.REGION_LOSSES,
    "training.loss.further": losses.SHAPE_LOSSES,
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
        """Return the table or value of that name."""
        return self.values[key]


def folder(kind: str) -> Path:
    """Return the folder of the presets of a kind: in the installed package, else at the top of the checkout.

    Parameters
    ----------
    kind : "planners", "networks" or "datasets"

    Raises
    ------
    MissingPath : neither place has them; the installation is incomplete
    """
    assert kind in (*KINDS, "networks"), kind
    package = Path(__file__).resolve().parent
    inner = Path("planners", "networks") if kind == "networks" else Path(kind)
    for place in (package / inner, package.parent / inner):
        if place.is_dir():
            return place
    raise MissingPath(f"this installation of autoseg lacks its {kind}", file=package / kind, fix="install autoseg again")


def planner_names() -> tuple[str, ...]:
    """Return the names of the planners that come with autoseg, the default one first."""
    return tuple(sorted(_names("planners"), key=lambda name: (name != DEFAULT_PLANNER, name)))


def network_names() -> tuple[str, ...]:
    """Return the names of the networks that come with autoseg, the default one first."""
    return tuple(sorted(_names("networks"), key=lambda name: (name != DEFAULT_NETWORK, name)))


def networks() -> dict[str, str]:
    """Return the description of each network that comes with autoseg, by its name, the default one first."""
    return {name: str(_chain("networks", _find("networks", name))[0].head.get("description", "")) for name in network_names()}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the data set recipes that come with autoseg, sorted."""
    return tuple(sorted(_names("datasets")))


def planner(
    name_or_path: str | Path = DEFAULT_PLANNER, *, network: str | Path | None = None, changes: Mapping[str, Any] | None = None
) -> Preset:
    """Read the planner preset of that name, or in that TOML file, with everything that it extends filled in.

    Parameters
    ----------
    name_or_path : a name of `planner_names()`, or a file; a str is a file if it ends in ".toml"
    network : a name of `network_names()`, a file, or "module:callable" of a user's own; its values replace the planner's
    changes : dotted name -> value, for instance {"network.attention": "se"}; a text is read as TOML where it replaces anything but text

    Raises
    ------
    SettingsError : no such name; not TOML; presets that extend each other in a circle; a key that the root does not have (the nearest
        known one is offered), a number without unit or source, another unit or kind than the root's: all such places of a file are named
    MissingPath : no such file
    """
    chain = _chain("planners", _find("planners", name_or_path))
    default = _find("planners", DEFAULT_PLANNER)
    if all(file.path != default for file in chain) and chain[-1].path != _chain("planners", default)[-1].path:
        raise SettingsError(
            "planner has no `extends`",
            file=chain[-1].path,
            expected="each planner extends another one and states only what differs",
            fix=f'put extends = "{DEFAULT_PLANNER}" at its top (known planners: {", ".join(planner_names())})',
        )
    documented = base = _documented(chain[-1], root=None)
    for file in reversed(chain[:-1]):
        documented = _merged(documented, _documented(file, root=base))
    if network is not None:
        documented = _with_network(documented, network, root=base)
    if changes:
        stated = _File(path=Path("--set"), name="with --set", head={}, tree=_tree(changes, dict(_leaves(base))))
        documented = _merged(documented, _documented(stated, root=base))
    return Preset(
        name=chain[0].name,
        description=str(chain[0].head.get("description", "")),
        extends=tuple(file.name for file in chain[1:]),
        values=plain(documented),
        documented=documented,
    )


def _with_network(documented: dict[str, Any], network: str | Path, *, root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a planner's tree with the values of a network in place of its own."""
    network = extensions.registered().get(network, network) if isinstance(network, str) else network
    if isinstance(network, str) and extensions.is_own(network):
        return _merged(documented, {"network": {"kind": {"value": network}}})
    chain = _chain("networks", _find("networks", network))
    for file in reversed(chain):
        documented = _merged(documented, _documented(file, root=root))
    if all("kind" not in file.tree.get("network", {}) for file in chain):
        documented = _merged(documented, {"network": {"kind": {"value": chain[0].name}}})
    return documented


def _tree(changes: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return changes by dotted name as the tree of a preset."""
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        *tables, key = name.split(".")
        at = tree
        for table in tables:
            at = at.setdefault(table, {})
        leaf = known.get(name, {})
        if isinstance(value, str) and not isinstance(leaf.get("value", ""), str):
            value = files.toml_value(value)
        at[key] = {"value": value, **({"unit": leaf["unit"], "source": "plan --set"} if "unit" in leaf else {})}
    return tree


def recipe(name_or_path: str | Path) -> dict[str, Any]:
    """Read the data set recipe of that name, or in that TOML file, unchecked: `cases` knows its keys and refuses others.

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
    """Return a documented tree with each leaf replaced by its value.

    >>> plain({"epochs": {"value": 1000, "unit": "epochs", "source": "Isensee 2021"}, "momentum": {"value": 0.99}})
    {'epochs': 1000, 'momentum': 0.99}
    """
    return {key: node["value"] if _is_leaf(node) else plain(node) for key, node in documented.items()}


def refuse_unknown(
    found: Collection[str], known: Collection[str], *, what: str = "key", file: Path | None = None, fix: str | None = None
) -> None:
    """Raise `SettingsError` unless all that was found is known.

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
        close = schema.nearest(name, known)
        raise SettingsError(
            f"unknown {what} '{name}'",
            file=file,
            found=name,
            expected=f"one of: {', '.join(known)}" if len(known) <= 12 else None,
            fix=fix or (f"did you mean '{close}'?" if close else "remove it"),
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    name: str
    head: Mapping[str, Any]  # extends, description
    tree: Mapping[str, Any]  # the rest, as written


def _names(kind: str) -> Iterator[str]:
    return (path.stem for path in folder(kind).glob("*.toml"))


def _find(kind: str, name_or_path: str | Path, *, relative_to: Path | None = None) -> Path:
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml"):
        path = Path(name_or_path) if relative_to is None else relative_to / name_or_path
        if not path.is_file():
            raise MissingPath("no such file", file=path, fix="check the spelling of the path")
        return path.resolve()
    known = {"planners": planner_names, "networks": network_names, "datasets": recipe_names}[kind]()
    what = {"planners": "planner", "networks": "network", "datasets": "recipe"}[kind]
    if name_or_path not in known:
        close = schema.nearest(name_or_path, known)
        hint = f"did you mean '{close}'? " if close else ""
        refuse_unknown([name_or_path], known, what=what, fix=f"{hint}For a {what} of your own, give a file that ends in .toml")
    return (folder(kind) / f"{name_or_path}.toml").resolve()


def _chain(kind: str, path: Path) -> list[_File]:
    """Return the file and all that it extends, nearest first."""
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
        path = _find(kind, base, relative_to=path.parent)
        if path in [file.path for file in chain]:
            circle = " -> ".join([*(file.name for file in chain), path.stem])
            raise SettingsError(
                f"{kind} extend each other in a circle", file=chain[0].path, found=circle, fix="let one of them extend another"
            )


def _is_leaf(node: Any) -> bool:
    return isinstance(node, Mapping) and ("value" in node or (bool(node) and set(node) <= {"unit", "source", "choices"}))


def _leaves(documented: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, node in documented.items():
        if _is_leaf(node):
            yield prefix + key, node
        else:
            yield from _leaves(node, f"{prefix}{key}.")


def _documented(file: _File, *, root: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tree of one file with every leaf in its full form, compared with that of the root; the root, without one, with itself."""
    tree = _full_form(file.tree)
    leaves = dict(_leaves(tree))
    if root is None:
        for key, names in _CHOICES.items():
            if key in leaves:
                leaves[key].update(choices=list(names))
    known = leaves if root is None else dict(_leaves(root))
    found = []
    for key, leaf in leaves.items():
        if key in _OWN and isinstance(own := leaf.get("value"), str) and extensions.is_own(own):
            continue  # a user's own code: its module decides
        if key.startswith("network.arguments."):
            continue  # those of a network from elsewhere: it knows them
        if key in known:
            found += [f"{key}.{fault}" for fault in _leaf_faults(leaf, known[key], is_root=root is None)]
        else:
            found.append(f"{key}: {schema.unknown_key(key, known)}")
    if found:
        fix = 'correct these places; a number is given as { value = ..., unit = "what it counts", source = "a paper, code, a measurement" }'
        raise schema.failure(found, what=f"the preset '{file.name}'", fix=fix, file=file.path)
    return tree


def _full_form(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: dict(node) if _is_leaf(node) else _full_form(node) if isinstance(node, Mapping) else {"value": node}
        for name, node in table.items()
    }


def _leaf_faults(leaf: Mapping[str, Any], known: Mapping[str, Any], *, is_root: bool) -> Iterator[str]:
    """Yield what is wrong with a leaf: it holds a value of the root's kind, or one of its choices; a number has a unit and a source."""
    unit, choices = known.get("unit"), tuple(known.get("choices", ()))
    kind = _kind(known.get("value"), numeric=isinstance(unit, str))
    if choices:
        named = Literal.__getitem__(choices)
        kind = named if kind is str else Union[kind, named]  # noqa: UP007
    given = {part: value for part, value in leaf.items() if part == "value" or (str(value).strip() and not (is_root and part == "choices"))}
    yield from schema.faults(_record(kind, _holds_number(leaf.get("value"))), given)
    if given.get("unit", unit) != unit:
        yield f"unit: {given['unit']!r} instead of {unit!r}"


@functools.cache
def _record(kind: Any, numeric: bool) -> type:
    """Return the record of a leaf whose value is of a type."""
    fields: list[tuple[str, Any, Any]] = [("value", kind, field())]
    for name in ("unit", "source"):
        fields.append((name, str, field()) if numeric else (name, str | None, field(default=None)))
    return make_dataclass("Leaf", fields, frozen=True, kw_only=True)


def _kind(value: Any, *, numeric: bool) -> Any:
    """Return the type of the values that are of the same kind as one of the root's."""
    if isinstance(value, list):
        items = {_kind(item, numeric=numeric) for item in value} or {float if numeric else str}
        return tuple.__class_getitem__((Union.__getitem__(tuple(items)), ...))
    if isinstance(value, bool):
        return bool
    # a text with a unit is one of the root's choices, such as "auto", in place of a number
    return str if isinstance(value, str) and not numeric else float


def _holds_number(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_number, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the leaves of `over`; the unit and the choices of the base stay. Shares nothing that could be changed."""
    merged: dict[str, Any] = {}
    for key in (*base, *(key for key in over if key not in base)):
        node = over.get(key, base.get(key))
        if _is_leaf(node):
            merged[key] = {**{part: base[key][part] for part in ("unit", "choices") if part in base.get(key, {})}, **node}
        else:
            merged[key] = _merged(base.get(key, {}), over.get(key, {}))
    return merged
