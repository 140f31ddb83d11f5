"""Cases become one `Fingerprint`: shapes, spacings, intensity statistics. No images are needed afterwards to plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoseg.cases import Channel
from autoseg.errors import SettingsError
from autoseg.geometry import Shape, Spacing
from autoseg.labels import Labels

FINGERPRINT_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ChannelIntensities:
    """Foreground intensities of one channel over the data set."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What the fingerprint keeps of one case."""

    name: str
    spacing: Spacing  # mm, canonical (z, y, x)
    shape: Shape  # voxels, before the crop
    shape_after_crop: Shape  # voxels, of the box around everything that is not zero
    files: Mapping[str, str]  # file -> hash of its bytes


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The data set, measured."""

    name: str
    channels: tuple[Channel, ...]
    labels: Labels
    cases: tuple[CaseFacts, ...]
    intensities: tuple[ChannelIntensities, ...]  # per channel
    relative_size_after_crop: float  # median over cases of voxels after / before the crop
    label_voxels: Mapping[str, int]  # label name -> voxels over all cases
    version: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for fingerprint.json."""
        return {
            "format": FINGERPRINT_FORMAT,
            "version": self.version,
            "name": self.name,
            "channels": [{"name": c.name, "modality": c.modality} for c in self.channels],
            **self.labels.to_json(),
            "relative_size_after_crop": self.relative_size_after_crop,
            "label_voxels": dict(self.label_voxels),
            "intensities": [vars(i) for i in self.intensities],
            "cases": [
                {
                    "case": c.name,
                    "spacing": list(c.spacing),
                    "shape": list(c.shape),
                    "shape_after_crop": list(c.shape_after_crop),
                    "files": dict(c.files),
                }
                for c in self.cases
            ],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Fingerprint:
        """The inverse of `to_json`.

        Raises
        ------
        SettingsError : written by another format version, or a key is missing
        """
        if value.get("format") != FINGERPRINT_FORMAT:
            raise SettingsError(
                "a fingerprint of another format",
                found=f"format {value.get('format')}",
                expected=f"format {FINGERPRINT_FORMAT}",
                fix="plan again from the images",
            )
        try:
            return Fingerprint(
                version=value.get("version", ""),
                name=value["name"],
                channels=tuple(Channel(name=c["name"], modality=c["modality"]) for c in value["channels"]),
                labels=Labels.from_json(dict(value)),
                relative_size_after_crop=value["relative_size_after_crop"],
                label_voxels=dict(value["label_voxels"]),
                intensities=tuple(ChannelIntensities(**i) for i in value["intensities"]),
                cases=tuple(
                    CaseFacts(
                        name=c["case"],
                        spacing=tuple(c["spacing"]),
                        shape=tuple(c["shape"]),
                        shape_after_crop=tuple(c["shape_after_crop"]),
                        files=dict(c["files"]),
                    )
                    for c in value["cases"]
                ),
            )
        except KeyError as error:
            raise SettingsError("a fingerprint lacks a key", found=f"no {error}", fix="plan again from the images") from None
