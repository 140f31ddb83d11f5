"""Where some voxels of each class are, so that training can centre patches on rare structures without searching for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.labels import Labels

ANNOTATED = -1  # key of "any annotated voxel", present where a data set has an ignore label
FEWEST = 10_000  # voxels kept per key, if there are as many. Source: nnU-Net 2.8.1
SHARE = 0.01  # of a key's voxels, kept at least. Source: nnU-Net 2.8.1
SEED = 1234  # one stream per case, keys in their order. Source: nnU-Net 2.8.1


def wanted_keys(labels: Labels) -> dict[int, tuple[int, ...]]:
    """Return the keys of a data set and the classes that belong to each.

    Without regions a key is a foreground class. With regions key i + 1 is region i. `ANNOTATED` is all classes but the ignored.
    """
    if labels.regions:
        keys = {i + 1: labels.classes_of(region.members) for i, region in enumerate(labels.regions)}
    else:
        keys = {index: (index,) for index in range(1, labels.class_count)}
    if labels.ignore is not None:
        keys[ANNOTATED] = tuple(range(labels.class_count))
    return keys


def find_locations(
    classes: NDArray[Any],
    keys: Mapping[int, Sequence[int]],
    *,
    outside: NDArray[np.bool_] | None = None,
    fewest: int = FEWEST,
    share: float = SHARE,
    seed: int = SEED,
) -> dict[int, NDArray[np.integer[Any]]]:
    """Choose voxels for each key at random.

    Parameters
    ----------
    classes : (z, y, x)
    keys : key to its classes, in the order in which they draw
    outside : (z, y, x), background outside what was not zero; it comes before the rest of the background
    fewest, share : voxels per key: at least this number and at least this share, or all there are

    Returns
    -------
    key to (n, 3) voxel indices, uint16 where they fit, else int32; (0, 3) where a key's classes are absent

    Source: nnU-Net 2.8.1, sampling of foreground locations; the same voxels in the same order.
    """
    kind = np.uint16 if max(classes.shape) <= np.iinfo(np.uint16).max else np.int32
    groups = _voxels_by_class(classes, sorted({c for members in keys.values() for c in members}), outside)
    stream = np.random.RandomState(seed)  # the reference's generator: the same voxels are chosen
    found = {}
    for key, members in keys.items():
        parts = [groups[c] for c in members]
        total = sum(len(part) for part in parts)
        if total == 0:
            found[key] = np.zeros((0, 3), dtype=kind)
            continue
        count = max(min(fewest, total), int(np.ceil(total * share)))
        chosen = stream.choice(total, count, replace=False)
        flat = (parts[0] if len(parts) == 1 else np.concatenate(parts))[chosen]
        found[key] = np.stack(np.unravel_index(flat, classes.shape), axis=1).astype(kind)
    return found


def _voxels_by_class(classes: NDArray[Any], members: Sequence[int], outside: NDArray[np.bool_] | None) -> dict[int, NDArray[Any]]:
    """Return flat indices of the voxels of each class, ascending; background outside comes before background inside."""
    flat = np.ascontiguousarray(classes).reshape(-1)
    index_kind = np.uint32 if flat.size < 1 << 32 else np.int64
    voxels = np.flatnonzero(flat).astype(index_kind)  # the foreground: one stable sort instead of one search per class
    labels = flat[voxels]
    order = np.argsort(labels, kind="stable")
    voxels, labels = voxels[order], labels[order]
    bounds = np.searchsorted(labels, [*members, max(members, default=0) + 1])
    ends = np.searchsorted(labels, members, side="right")
    groups = {c: voxels[begin:end] for c, begin, end in zip(members, bounds, ends, strict=False)}
    if 0 in groups:
        background = flat == 0
        if outside is None:
            groups[0] = np.flatnonzero(background).astype(index_kind)
        else:
            apart = outside.reshape(-1)
            parts = [np.flatnonzero(background & apart), np.flatnonzero(background & ~apart)]
            groups[0] = np.concatenate(parts).astype(index_kind)
    return groups
