"""Post-processing rules as data: what they say, their evidence, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoseg import schema
from autoseg.errors import SettingsError

POSTPROCESSING_FORMAT = 2  # 1: components only
READ_FORMATS = (1, 2)
_SECOND = ("fill_holes", "closing", "opening")  # keys that the second format added


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a rule did to the out-of-fold results it was chosen on."""

    dice_before: float  # mean over the labels of their means over the cases
    dice_after: float
    gain_low: float  # bootstrap interval of the gain, resampling cases
    gain_high: float
    cases: int
    cases_changed: int


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is done to one target; exactly one of the fields after it is set."""

    says: str = field(default="", compare=False)  # the rule as a sentence, in a file
    target: str | None  # name of a label or region; None: all foreground together
    keep_largest: bool = False  # equal largest ones are all kept
    drop_below: float | None = None  # mm3; smaller components are removed
    fill_holes: bool = False  # background that the target encloses; in a planar image, within the slice
    closing: float | None = None  # mm, radius of the ball
    opening: float | None = None  # mm, radius of the ball
    evidence: Evidence | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the rule as a sentence for a report."""
        what = "all foreground together" if self.target is None else f"'{self.target}'"
        if self.keep_largest:
            return f"keep only the largest component of {what}"
        if self.drop_below is not None:
            return f"drop components of {what} below {self.drop_below:g} mm3"
        if self.fill_holes:
            return f"fill the holes of {what}"
        if self.closing is not None:
            return f"close gaps of {what}, with a ball of {self.closing:g} mm radius"
        return f"open {what}, with a ball of {self.opening:g} mm radius: thinner parts are removed"

    @property
    def of_components(self) -> bool:
        """Whether whole components are removed, and nothing else is changed."""
        return self.keep_largest or self.drop_below is not None

    @property
    def size(self) -> float:
        """The volume or radius of a rule that has one; of two equally good rules the one that changes less is taken."""
        return self.drop_below or self.closing or self.opening or 0.0

    @property
    def is_one(self) -> bool:
        """Whether the rule says exactly one thing, with sizes above zero."""
        sizes = [size for size in (self.drop_below, self.closing, self.opening) if size is not None]
        return self.keep_largest + self.fill_holes + len(sizes) == 1 and all(size > 0 for size in sizes)


@dataclass(frozen=True, kw_only=True)
class PostprocessingRules:
    """Rules in the order in which they are applied; an empty list is valid."""

    format: int = POSTPROCESSING_FORMAT
    rules: tuple[Rule, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """Return what the rules do, a sentence each, for a report."""
        return tuple(str(rule) for rule in self.rules)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for postprocessing.json: in the first format where there are only rules on components."""
        plain: dict[str, Any] = schema.dump(replace(self, rules=tuple(replace(rule, says=str(rule)) for rule in self.rules)))
        if all(rule.of_components for rule in self.rules):
            kept = [{name: value for name, value in rule.items() if name not in _SECOND} for rule in plain["rules"]]
            return plain | {"format": 1, "rules": kept}
        return plain

    @staticmethod
    def from_json(value: Any) -> PostprocessingRules:
        """Return the inverse of `to_json`; a rule written by hand needs `target` and one of the five things to do, see `Rule`.

        Raises
        ------
        SettingsError : another format version, a rule that says nothing or too much, or a value that cannot be one of a rule
        """
        fix = "correct the rule in postprocessing.json, or choose the rules again: autoseg select"
        found = value.get("format") if isinstance(value, Mapping) else None
        known = found if found in READ_FORMATS else POSTPROCESSING_FORMAT
        record = schema.parse(PostprocessingRules, value, what="a list of post-processing rules", fix=fix, format=known)
        for rule in record.rules:
            if not rule.is_one:
                raise SettingsError(
                    "a post-processing rule cannot be used",
                    found=", ".join(f"{name} = {value}" for name, value in vars(rule).items() if name not in ("says", "evidence")),
                    expected="a target, and one of keep_largest = true, drop_below = a volume in mm3, fill_holes = true, "
                    "closing = a radius in mm, opening = a radius in mm",
                    fix=fix,
                )
        return replace(record, format=POSTPROCESSING_FORMAT)
