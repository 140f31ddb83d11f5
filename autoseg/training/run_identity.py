"""What a run was begun with: its cases, all of the plan that shapes its arrays and its network, and the models of a previous stage.

A run may only resume with the same. Otherwise it would be validated on cases it has learned, or weights learned on one grid would
pass for a model of another. Its settings may change while it is under way, which is reported, except those that the saved state
depends on: the optimizer's moments and the averaged weights mean nothing under other ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoseg import schema
from autoseg.errors import PlanMismatch
from autoseg.planning.configuration import Configuration, Plan
from autoseg.training.settings import TrainingSettings

# of the plan and its configuration: neither explanations and forecasts, nor settings, which may change while a run is under way
_OF_PLAN = ("channels", "labels", "regions", "ignore", "pairs", "aliases", "axis_order", "orientation", "mirror_axes", "swap_axis",
            "intensities")  # fmt: skip
_NOT_OF_CONFIGURATION = ("predicted", "reasons")
# settings without which the saved state cannot be understood
_OF_STATE = ("ema", "optimizer.name", "optimizer.momentum", "optimizer.beta2", "optimizer.nesterov", "optimizer.weight_decay")
# settings that say what a run does from its beginning on: another value changes nothing that was begun
_OF_BEGINNING = ("augmentation.mirror_axes", "augmentation.mirror_from")


def identity_of(
    plan: Plan,
    configuration: Configuration,
    *,
    training: Iterable[str],
    validation: Iterable[str],
    previous: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Return plain JSON values to be kept in the state: "cases", "plan" and "previous", each a mapping.

    Parameters
    ----------
    training, validation : names of the cases, in any order
    previous : of a cascade: fold of the first stage -> hash of the weights that made the maps that are learned from
    """
    whole = plan.to_json()
    planned = {key: value for key, value in vars(configuration).items() if key not in _NOT_OF_CONFIGURATION}
    if planned.pop("architecture") is not None:  # runs of earlier versions know nothing of it
        planned["architecture"] = schema.dump(configuration.architecture)
    facts = {
        "cases": {"training": sorted(training), "validation": sorted(validation)},
        "plan": {key: whole[key] for key in _OF_PLAN if key in whole} | planned,
        "previous": dict(previous or {}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists, as they come back from the state
    return plain


def settings_of(settings: TrainingSettings) -> dict[str, Any]:
    """Return plain JSON values to be kept in the state: dotted name -> value.

    >>> from autoseg.presets import planner
    >>> from autoseg.training.settings import read_settings
    >>> settings_of(read_settings(planner().values["training"]))["optimizer.name"]
    'adamw'
    """
    flat: dict[str, Any] = {}
    for name, value in schema.dump(settings).items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    plain: dict[str, Any] = json.loads(json.dumps(flat))
    return plain


def changed_settings(kept: Mapping[str, Any], wanted: Mapping[str, Any], *, file: Path) -> list[str]:
    """Return the settings that differ from those of the saved state, a line each.

    Parameters
    ----------
    kept, wanted : what `settings_of` gave then and gives now
    file : the state, for the message

    Raises
    ------
    PlanMismatch : one of the settings that the state depends on differs
    """
    changed = [name for name in wanted if name in kept and kept[name] != wanted[name]]
    for name in changed:
        if name in _OF_STATE:
            raise PlanMismatch(
                f"the run was begun with another training setting: '{name}' differs",
                file=file,
                found=f"{name} = {json.dumps(kept[name])} in the saved state",
                expected=f"{json.dumps(wanted[name])}, as it is set now",
                fix=f"put it back (--set {name}={_typed(kept[name])}), or begin again with --overwrite",
            )
    reported = [name for name in changed if name not in _OF_BEGINNING]
    return [f"{name} is {json.dumps(wanted[name])} from here on, it was {json.dumps(kept[name])}" for name in reported]


def _typed(value: Any) -> str:
    """Return a value as it is typed after --set."""
    return value if isinstance(value, str) else json.dumps(value)


def refuse_another(kept: Mapping[str, Any] | None, wanted: Mapping[str, Any], *, file: Path) -> None:
    """Raise unless a run resumes with what it was begun with.

    Parameters
    ----------
    kept, wanted : what `identity_of` gave when the run was begun and gives now; `None`: not recorded
    file : the state, for the message

    Raises
    ------
    PlanMismatch : other cases in training or validation, another plan, or another first stage; the first difference is named
    """
    if kept is None:
        raise PlanMismatch(
            "the saved state does not record which cases and plan it was begun with",
            file=file,
            found="a state of an earlier version",
            fix="begin again with --overwrite",
        )
    for part, names in wanted["cases"].items():
        before = set(kept["cases"][part])
        if before != set(names):
            raise PlanMismatch(
                f"the run was begun with other {part} cases",
                file=file,
                found=_some("begun without", set(names) - before) or _some("begun with", before - set(names)),
                expected=f"the {len(names)} {part} cases of this fold",
                fix="put splits.json and the data back as they were, or begin again with --overwrite",
            )
    kept_plan, wanted_plan = kept["plan"], wanted["plan"]
    for key in {**wanted_plan, **kept_plan}:
        before_value, now = kept_plan.get(key), wanted_plan.get(key)
        if before_value != now:
            raise PlanMismatch(
                f"the run was begun with another plan: '{key}' differs",
                file=file,
                found=f"{key} = {json.dumps(before_value)} when it was begun",
                expected=f"{json.dumps(now)}, as in the plan now",
                fix="put plan.json back as it was, or begin again with --overwrite",
            )
    previous = wanted["previous"]
    recorded = kept.get("previous", previous)  # by an earlier version it was not
    if other := {fold for fold in {**previous, **recorded} if recorded.get(fold) != previous.get(fold)}:
        raise PlanMismatch(
            "the first stage of the cascade was trained again since this fold was begun",
            file=file,
            found=_some("other weights in", other),
            expected="the predictions of the models it was begun with",
            fix="put those folds back as they were, or begin this configuration alone again with --overwrite",
        )


def _some(what: str, names: set[str], most: int = 5) -> str:
    """Return a few of the names.

    >>> _some("begun with", {"b", "a", "c"}, 2)
    'begun with a, b and 1 more'
    """
    first = sorted(names)[:most]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what} {', '.join(first)}{rest}" if first else ""
