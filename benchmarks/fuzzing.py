"""Damaged NIfTI files by the thousand: each must end in a named error or in the right array, within the memory of an honest file.

    python benchmarks/fuzzing.py [--files N] [--seed S]

Headers with random bytes, fields with extreme values, cut and lengthened files, flipped bits inside gzip streams, NIfTI-1 and -2, both
byte orders. "Right" is what nibabel reads, where nibabel reads the file and its affine is usable, or the volume as it was before the
damage. A file that takes more than 5 s counts as a hang. Runs in one process, so its peak memory speaks for all files.
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from _report import peak_memory, report

from autoseg import images
from autoseg.errors import AutosegError

EXTREMES = (0, 1, -1, 7, 127, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 1e38, -1e38, 1e-38, np.nan, np.inf, -np.inf, 0.5)
HANG = 5  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, hang)
    rng = np.random.default_rng(given.seed)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        sources = sound_files(Path(folder))
        for source in sources:
            images.read(source[0])
        before, honest = peak_memory(), max(source[1].nbytes for source in sources)
        slowest = 0.0
        for number in range(given.files):
            path, how, volume = damage(sources[rng.integers(len(sources))], Path(folder), rng)
            started = time.perf_counter()
            outcome = judge(path, volume, gzipped=how.startswith("gzip"))
            slowest = max(slowest, time.perf_counter() - started)
            counts[outcome] += 1
            if outcome.startswith(("defect", "wrong", "hang")):
                print(number, how, outcome)
    bad = sum(count for name, count in counts.items() if name.startswith(("defect", "wrong", "hang")))
    figures = {"files": given.files, "bad": bad, "outcomes": dict(counts), "slowest_seconds": round(slowest, 3)}
    report("fuzzing", figures | {"honest_megabytes": honest / 1e6, "peak_growth_megabytes": (peak_memory() - before) / 1e6})


def sound_files(folder: Path) -> list[tuple[Path, np.ndarray]]:
    """Small and middling volumes of several types, versions and byte orders, and the values as stored."""
    rng = np.random.default_rng(1)
    files = []
    for number, (kind, shape) in enumerate(
        [("i2", (9, 10, 11)), ("u1", (20, 21, 3)), ("f4", (8, 9, 10)), ("f8", (5, 6, 7)), ("i2", (70, 71, 72)), ("u1", (12, 13, 14, 2))]
    ):
        array = rng.integers(0, 100, shape).astype(kind)
        affine = np.diag([-0.7, 0.9, 2.5, 1.0])
        affine[:3, 3] = (10, -20, 30)
        for suffix in (".nii", ".nii.gz"):
            kinds: Any = nib.Nifti2Image if number % 3 == 2 else nib.Nifti1Image
            image = kinds(array, affine)
            image.set_qform(affine, code=1)
            if number == 1:
                header = image.header.as_byteswapped()
                image = kinds(array, affine, header)
            path = folder / f"sound_{number}{suffix}"
            nib.save(image, path)
            files.append((path, array))
    return files


def damage(source: tuple[Path, np.ndarray], folder: Path, rng: np.random.Generator) -> tuple[Path, str, np.ndarray]:
    """Write a damaged copy."""
    path, volume = source
    data = path.read_bytes()
    packed = path.name.endswith(".gz")
    target = folder / f"damaged{''.join(path.suffixes)}"
    how = rng.choice(["bytes", "field", "cut", "longer", "flip"])
    if packed and how in ("cut", "longer", "flip"):
        content = bytearray(data)
        if how == "cut":
            content = content[: rng.integers(1, len(content))]
        elif how == "longer":
            content += rng.bytes(int(rng.integers(1, 5000)))
        else:
            content[rng.integers(10, len(content))] ^= 1 << int(rng.integers(8))
        target.write_bytes(content)
        return target, f"gzip {how}", volume
    content = bytearray(gzip.decompress(data) if packed else data)
    if how in ("bytes", "flip"):
        for place in rng.integers(0, 352, rng.integers(1, 8)):
            content[place] = int(rng.integers(256)) if how == "bytes" else content[place] ^ (1 << int(rng.integers(8)))
    elif how == "field":
        set_field(content, rng)
    elif how == "cut":
        content = content[: rng.integers(1, len(content))]
    else:
        content += rng.bytes(int(rng.integers(1, 5000)))
    target.write_bytes(gzip.compress(bytes(content), 1) if packed else bytes(content))
    return target, f"plain {how}", volume


def set_field(content: bytearray, rng: np.random.Generator) -> None:
    """Put an extreme number into some header fields, in the file's own layout."""
    layout = layout_of(content)
    header = np.frombuffer(bytes(content[: layout.itemsize]), dtype=layout).copy()
    names = [name for name in layout.names if layout[name].base.kind in "iuf"]
    for name in rng.choice(names, rng.integers(1, 4)):
        value = EXTREMES[rng.integers(len(EXTREMES))]
        kind = layout[name].base
        field = header[name][0] if header[name].ndim > 1 else header[name]
        with np.errstate(all="ignore"):
            field[rng.integers(len(field))] = np.asarray(np.nan_to_num(value) if kind.kind in "iu" else value, dtype="f8").astype(
                "i8" if kind.kind in "iu" else kind
            )
    content[: layout.itemsize] = header.tobytes()


def judge(path: Path, volume: np.ndarray, *, gzipped: bool) -> str:
    """What came of reading one file."""
    signal.alarm(HANG)
    try:
        image = images.read(path)
        images.read_header(path)
    except AutosegError as error:
        return (
            f"refused: {type(error).__name__}" if error.exit_code == 3 and error.file == str(path) else "defect: an error without its file"
        )
    except TimeoutError:
        return "hang"
    except Exception:  # noqa: BLE001 - a traceback is what this script looks for
        traceback.print_exc()
        return "defect: traceback"
    finally:
        signal.alarm(0)
    stored = np.stack([images.to_memory(channel, like=image) for channel in image.array], -1)
    if stored.size == volume.size and np.array_equal(stored.reshape(volume.shape).astype(float), volume.astype(np.float32)):
        return "read: the sound values"
    if gzipped:
        return "wrong: other values from a damaged stream"
    if any("vox_offset" in note for note in image.notes):
        return "read: behind the header"  # nibabel takes the header itself for voxels there
    return "read: as nibabel" if like_nibabel(path, stored) else "wrong: neither the sound values nor nibabel's"


def like_nibabel(path: Path, stored: np.ndarray) -> bool:
    """Whether nibabel reads the same values, once the header's codes of place, at which it may stumble, are set to 0."""
    content = path.read_bytes()
    content = bytearray(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    layout = layout_of(content)
    header = np.frombuffer(bytes(content[: layout.itemsize]), dtype=layout).copy()
    header["sform_code"] = header["qform_code"] = 0
    content[: layout.itemsize] = header.tobytes()
    path.with_suffix(".nii").write_bytes(content)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            theirs = nib.load(path.with_suffix(".nii")).get_fdata()
    except Exception:  # noqa: BLE001 - what nibabel refuses is looked at by hand
        return False
    with np.errstate(all="ignore"):
        return theirs.size == stored.size and np.array_equal(
            theirs.reshape(stored.shape, order="F").astype(np.float32), stored.astype(np.float32), equal_nan=True
        )


def layout_of(content: bytearray) -> np.dtype:
    """The header's layout, in the file's byte order."""
    two = content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    return (nib.Nifti2Header if two else nib.Nifti1Header).template_dtype.newbyteorder(">" if content[:2] == b"\0\0" else "<")


def hang(*_: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main()
