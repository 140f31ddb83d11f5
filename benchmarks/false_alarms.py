"""How often `check` warns of data that is clean: random sets of phantoms of every size and kind; ends with one line of JSON.

    python benchmarks/false_alarms.py [--sets 1000] [--seed 0] [--largest 200]

A set has 3 to 200 cases (small ones more often), one modality (CT or MR, with noise), and 1 to 12 labels of four kinds: organs that
have a place, left/right pairs, labels nested in others, and lesions anywhere that many cases lack (no
case lacks every label). Spacing and size differ a little
from case to case. Nothing is wrong in any of them, so every warning and every error is a false alarm.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from _report import report
from numpy.typing import NDArray

from autoseg import cases, checking

MOST_SHOWN = 5  # warned sets of each kind, so that they can be looked at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest", type=int, default=200)
    given = parser.parse_args()
    warned: dict[str, list[str]] = collections.defaultdict(list)
    alarmed = total = 0
    begin = time.monotonic()
    for number in range(given.sets):
        rng = np.random.default_rng([given.seed, number])
        with tempfile.TemporaryDirectory() as folder:
            what, size = write_set(Path(folder), rng, given.largest)
            faults = [fault for fault in checking.check(cases.find(Path(folder) / "cases.csv"), workers=0) if fault.severity != "note"]
        total += size
        alarmed += bool(faults)
        for code in sorted({fault.code for fault in faults}):
            first = next(fault for fault in faults if fault.code == code)
            warned[code].append(f"set {number} ({what}): {checking.sentence(first)}")
    for code, texts in warned.items():
        print(f"{code}: {len(texts)} sets")
        print("\n".join(f"  {text}" for text in texts[:MOST_SHOWN]))
    share = alarmed / given.sets
    print(f"{alarmed} of {given.sets} clean sets ({total} cases) raised a warning: {100 * share:.1f} %")
    by_code = {f"sets_with_{code}": len(texts) for code, texts in warned.items()}
    report("false_alarms", {"sets": given.sets, "cases": total, "warned_sets": alarmed, "warned_share": round(share, 4), **by_code,
                            "seconds": round(time.monotonic() - begin, 1)})  # fmt: skip


def write_set(folder: Path, rng: np.random.Generator, largest: int) -> tuple[str, int]:
    """Write a clean data set with its list of cases; return what it is, and its number of cases."""
    count = int(np.exp(rng.uniform(np.log(3), np.log(largest + 1))))
    modality = str(rng.choice(["CT", "MR"]))
    shape = rng.integers((10, 24, 24), (24, 48, 48))
    spacing = np.array([rng.uniform(1, 5), *[rng.uniform(0.5, 1.5)] * 2])
    labels = _labels(rng, int(rng.integers(1, 13)))
    outline = rng.uniform(0.38, 0.47, 3)  # of the body, equal in all cases or not
    same_body = bool(rng.random() < 0.3)
    noise = float(rng.uniform(8, 30))
    rows = [f"case,{modality},label"]
    for index in range(count):
        scale = np.ones(3) if same_body else rng.uniform(0.9, 1.1, 3)
        size = np.maximum(8, (shape * scale).astype(int))
        image, label = _case(rng, size, outline if same_body else outline * rng.uniform(0.92, 1.05, 3), labels, modality, noise)
        steps = spacing if same_body else spacing * rng.uniform(0.97, 1.03)
        affine = np.diag([*steps[::-1], 1.0])
        affine[:3, 3] = rng.uniform(-50, 50, 3)
        for kind, array in (("image", image), ("label", label)):
            nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array.T), affine), folder / f"case{index:03d}_{kind}.nii")
        rows.append(f"case{index:03d},case{index:03d}_image.nii,case{index:03d}_label.nii")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    kinds = collections.Counter(label["kind"] for label in labels)
    return f"{count} cases of {modality}, {', '.join(f'{number} {kind}' for kind, number in kinds.items())}", count


def _labels(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Kind, place, size and brightness of each label; places are shares of the volume."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        kind = str(rng.choice(["organ", "pair", "nested", "lesion"], p=[0.4, 0.2, 0.15, 0.25]))
        place, radius, bright = rng.uniform(0.3, 0.7, 3), rng.uniform(0.06, 0.14), float(rng.uniform(-80, 120))
        if kind == "pair" and len(found) + 2 <= count:
            place[2] = rng.uniform(0.22, 0.38)
            other = place.copy()
            other[2] = 1 - place[2]
            found += [{"kind": kind, "place": where, "radius": radius, "bright": bright} for where in (place, other)]
        elif kind == "nested" and found:
            within = int(rng.integers(len(found)))
            found.append({**found[within], "kind": kind, "within": within, "radius": 0.6 * found[within]["radius"], "bright": bright})
        elif kind in ("organ", "lesion"):
            share = float(rng.uniform(0.4, 1.0)) if kind == "lesion" else 1.0
            found.append({"kind": kind, "place": place, "radius": radius, "bright": bright, "share": share})
    return found


def _case(
    rng: np.random.Generator, size: NDArray[Any], outline: NDArray[Any], labels: list[dict[str, Any]], modality: str, noise: float
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One scan with its label map, (z, y, x)."""
    grid = [(np.arange(n) + 0.5) / n for n in size]
    z, y, x = np.meshgrid(*grid, indexing="ij")
    body = sum(((axis - 0.5) / radius) ** 2 for axis, radius in zip((z, y, x), outline, strict=True)) < 1
    image = np.where(body, 40.0 if modality == "CT" else 300.0, -1000.0 if modality == "CT" else 0.0)
    label = np.zeros(tuple(size), dtype=np.uint8)
    places: list[NDArray[Any] | None] = []  # of each label; None: this case lacks it
    for value, one in enumerate(labels, start=1):
        place = one["place"] + rng.normal(0, 0.012, 3)
        if one["kind"] == "nested":
            outer = places[one["within"]]
            place = None if outer is None else outer + rng.normal(0, 0.005, 3)
        elif one["kind"] == "lesion":
            there = rng.random() < one["share"] or (value == len(labels) and not label.any())
            place = rng.uniform(0.25, 0.75, 3) if there else None
        places.append(place)
        if place is None:
            continue
        radius = one["radius"] * rng.uniform(0.85, 1.15) * (rng.uniform(0.6, 1.4) if one["kind"] == "lesion" else 1.0)
        inside = body & (sum(((axis - middle) / radius) ** 2 for axis, middle in zip((z, y, x), place, strict=True)) < 1)
        label[inside] = value
        image[inside] += one["bright"]
    if modality == "MR":
        image *= rng.uniform(0.7, 1.4)
    return (image + rng.normal(0, noise, image.shape)).astype(np.int16), label


if __name__ == "__main__":
    main()
