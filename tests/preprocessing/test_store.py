"""The store gives back what was put in, makes again only what it must, and can be killed at any moment."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg import files, images, locks, schema
from autoseg.cases import Case, Channel, Dataset, load_classes, load_image
from autoseg.errors import FaultyCases, GridMismatch, MissingPath, NotEnough, SettingsError, UnreadableFile, WorkerDied
from autoseg.geometry import affine_from_spacing
from autoseg.labels import make_labels
from autoseg.planning.configuration import Plan
from autoseg.preprocessing import store
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.locations import ANNOTATED

pytestmark = pytest.mark.slow

PlanMaker = Callable[..., Plan]


def prepare(dataset: Dataset, plan: Plan, folder: Path, *, workers: int = 0, name: str = "3d_fullres",
            waiting: Callable[[], None] | None = None) -> None:  # fmt: skip
    store.preprocess_dataset(dataset, plan, plan.configuration(name), folder, workers=workers, waiting=waiting)


def contents(folder: Path) -> dict[str, str]:
    """Every file under the folder with the hash of its bytes."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def stored_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(urllib.parse.unquote(path.parent.name) for path in folder.glob(f"[!.]*/{store.RECORD}")))


def made_at(folder: Path) -> dict[str, int]:
    """When the image of each case was written."""
    return {name: (folder / name / "image.b2nd").stat().st_mtime_ns for name in stored_names(folder)}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases whose arrays were made, in order, as long as that happens in this process."""
    names: list[str] = []

    def counting(case: Case, *, channels: int) -> images.Image:
        names.append(case.name)
        return load_image(case, channels=channels)

    monkeypatch.setattr(store, "load_image", counting)
    return names


@pytest.mark.parametrize("name", ["3d_fullres", "2d"])
def test_stored_arrays_are_the_prepared_ones(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, name: str) -> None:
    plan = make_plan()
    prepare(dataset, plan, tmp_path / "store", name=name)
    assert stored_names(tmp_path / "store") == ("case_0", "case_1", "case_2", "case_3")
    for case in dataset.cases:
        image = load_image(case, channels=1)
        classes = load_classes(case, plan.labels, like=image)
        prepared = preprocess_case(image, classes, plan=plan, configuration=plan.configuration(name))
        stored = store.open_case(tmp_path / "store", case.name)
        assert (stored.name, stored.shape, stored.channels) == (case.name, prepared.geometry.shape, 1)
        assert schema.dump(stored.geometry) == schema.dump(prepared.geometry)
        np.testing.assert_allclose(stored.image(), prepared.image, atol=1e-5 * float(np.ptp(prepared.image)))
        np.testing.assert_array_equal(stored.label(), prepared.label)
        assert stored.image().dtype == np.float32 and stored.mask() is None and stored.annotated is None
        part = (slice(1, 5), slice(10, 20), slice(3, 29))
        np.testing.assert_array_equal(stored.image(part), stored.image()[:, 1:5, 10:20, 3:29])
        np.testing.assert_array_equal(stored.label(part), stored.label()[1:5, 10:20, 3:29])
        assert set(stored.locations) == {1, 2}
        for key, voxels in stored.locations.items():
            assert (stored.label()[tuple(voxels.T)] == key).all()


def test_integers_that_are_not_resampled_lose_nothing(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    plan = make_plan(spacing=(2.5, 0.9, 1.1), normalization=("zscore",))
    prepare(dataset.only(["case_0"]), plan, tmp_path / "store")
    image = load_image(dataset.cases[0], channels=1)
    prepared = preprocess_case(image, None, plan=plan, configuration=plan.configuration("3d_fullres"))
    assert prepared.geometry.shape == prepared.geometry.box.shape
    stored = store.open_case(tmp_path / "store", "case_0").image()
    np.testing.assert_allclose(stored, prepared.image, atol=3e-7 * np.abs(prepared.image).max())


def test_masks_regions_ignored_voxels_and_partial_annotation_are_kept(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    labels = make_labels({"background": 0, "organ": 3}, ignore=7)
    case = dataclasses.replace(dataset.cases[0], annotated=("organ",))
    one = dataclasses.replace(dataset, labels=labels, cases=(case,))
    plan = make_plan(labels=labels, normalization=("zscore_mask",))
    prepare(one, plan, tmp_path / "store")
    stored = store.open_case(tmp_path / "store", "case_0")
    mask = stored.mask()
    assert mask is not None and mask.shape == stored.shape and mask.dtype == bool
    assert stored.annotated == ("organ",)
    assert stored.label().max() == labels.ignore_class == 2
    assert set(stored.locations) == {1, ANNOTATED}
    assert (stored.label()[tuple(stored.locations[ANNOTATED].T)] != 2).all()


def test_a_mask_per_label_is_painted_in_the_order_of_the_labels(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    case = dataset.cases[0]
    assert isinstance(case.label, Path)
    whole = images.read_label(case.label)
    organ, lesion = tmp_path / "organ.nii.gz", tmp_path / "lesion.nii.gz"
    images.write_image(organ, (whole.array > 0).astype(np.uint8), affine=whole.affine)
    images.write_image(lesion, (whole.array == 7).astype(np.uint8), affine=whole.affine)
    apart = dataclasses.replace(case, label=(("organ", organ), ("lesion", lesion)))
    prepare(dataset.only(["case_0"]), make_plan(), tmp_path / "a")
    prepare(dataclasses.replace(dataset, cases=(apart,)), make_plan(), tmp_path / "b")
    np.testing.assert_array_equal(store.open_case(tmp_path / "a", "case_0").label(), store.open_case(tmp_path / "b", "case_0").label())


def test_several_channels_keep_their_own_scales(tmp_path: Path, make_plan: PlanMaker) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for channel, scale in enumerate((1, 1000)):
        path = tmp_path / f"{channel}.nii.gz"
        images.write_image(path, scale * rng.normal(size=(1, 8, 9, 10)).astype(np.float32), affine=affine_from_spacing((1, 1, 1)))
        paths.append(path)
    label = tmp_path / "label.nii.gz"
    images.write_image(label, np.full((1, 8, 9, 10), 3, dtype=np.uint8), affine=affine_from_spacing((1, 1, 1)))
    plan = make_plan(normalization=("none", "none"), spacing=(1.5, 0.8, 1.0))
    case = Case(name="two", images=tuple(paths), label=label)
    channels = (Channel(name="a", modality="MR"), Channel(name="b", modality="MR"))
    dataset = Dataset(name="x", root=tmp_path, recipe="test", channels=channels, labels=plan.labels, cases=(case,))
    prepare(dataset, plan, tmp_path / "store")
    prepared = preprocess_case(load_image(case, channels=2), None, plan=plan, configuration=plan.configuration("3d_fullres"))
    stored = store.open_case(tmp_path / "store", "two")
    assert stored.channels == 2
    for found, expected in zip(stored.image(), prepared.image, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(np.ptp(expected)))


def test_odd_names_of_cases_are_names_of_folders(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    names = ("..", "a/b", "Müller, Änne", ".writing-x", "%41")
    cases = tuple(dataclasses.replace(dataset.cases[0], name=name) for name in names)
    prepare(dataclasses.replace(dataset, cases=cases), make_plan(), tmp_path / "store")
    assert stored_names(tmp_path / "store") == tuple(sorted(names))
    assert all(store.open_case(tmp_path / "store", name).name == name for name in names)


# --- again: only what must be ------------------------------------------------------------------------------------------------


def edit_label(dataset: Dataset, folder: Path) -> None:
    path = dataset.cases[2].label
    assert isinstance(path, Path)
    label = images.read_label(path)
    label.array[0, 8, 8, 8] = 7 - label.array[0, 8, 8, 8]
    images.write_image(path, label.array, affine=label.affine)


def truncate_image(dataset: Dataset, folder: Path) -> None:
    with open(folder / "case_2" / "image.b2nd", "r+b") as file:
        file.truncate(1000)


def flip_a_byte(dataset: Dataset, folder: Path) -> None:
    with open(folder / "case_2" / "label.b2nd", "r+b") as file:
        file.seek(300)
        byte = file.read(1)
        file.seek(300)
        file.write(bytes([byte[0] ^ 1]))


def flip_a_byte_and_hide_it(dataset: Dataset, folder: Path) -> None:
    before = (folder / "case_2" / "label.b2nd").stat()
    flip_a_byte(dataset, folder)
    os.utime(folder / "case_2" / "label.b2nd", ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_label_and_keep_its_time(dataset: Dataset, folder: Path) -> None:
    path = dataset.cases[2].label
    assert isinstance(path, Path)
    before = path.stat()
    edit_label(dataset, folder)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_locations(dataset: Dataset, folder: Path) -> None:
    (folder / "case_2" / "locations.npy").unlink()


def break_the_record(dataset: Dataset, folder: Path) -> None:
    (folder / "case_2" / "case.json").write_text('{"recipe": ')


def remove_the_case(dataset: Dataset, folder: Path) -> None:
    shutil.rmtree(folder / "case_2")


HARM = [
    edit_label,
    edit_label_and_keep_its_time,
    truncate_image,
    flip_a_byte,
    flip_a_byte_and_hide_it,
    remove_locations,
    break_the_record,
    remove_the_case,
]


@pytest.mark.parametrize("harm", HARM)
def test_exactly_what_was_changed_or_damaged_is_made_again(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, made: list[str], harm: Callable[[Dataset, Path], None]
) -> None:
    plan, folder = make_plan(), tmp_path / "store"
    prepare(dataset, plan, folder)
    assert sorted(made) == ["case_0", "case_1", "case_2", "case_3"]
    before = contents(folder)
    made.clear()
    prepare(dataset, plan, folder)
    assert made == []
    harm(dataset, folder)
    prepare(dataset, plan, folder)
    assert made == ["case_2"]
    changed = {name for name, digest in contents(folder).items() if before.get(name) != digest}
    assert bool(changed) == (harm in (edit_label, edit_label_and_keep_its_time)) and all(name.startswith("case_2") for name in changed)


def test_an_added_case_is_made_and_the_others_are_not(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, made: list[str]) -> None:
    plan, folder = make_plan(), tmp_path / "store"
    prepare(dataset.only(["case_0", "case_1", "case_3"]), plan, folder)
    made.clear()
    prepare(dataset, plan, folder)
    assert made == ["case_2"]


def test_files_that_were_only_touched_or_copied_are_not_made_again(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, made: list[str]
) -> None:
    plan, folder = make_plan(), tmp_path / "store"
    prepare(dataset, plan, folder)
    before = {name: digest for name, digest in contents(folder).items() if not name.endswith("case.json")}
    made.clear()
    dataset.cases[0].images[0].touch()
    (folder / "case_1" / "image.b2nd").touch()
    prepare(dataset, plan, folder)
    moved = tmp_path / "moved"
    shutil.copytree(dataset.root, moved)
    elsewhere = Dataset.from_json({**dataset.to_json(), "root": str(moved)})
    prepare(elsewhere, plan, folder)
    assert made == []
    assert {name: digest for name, digest in contents(folder).items() if not name.endswith("case.json")} == before
    recipe = store._Recipe(plan=plan, configuration=plan.configuration("3d_fullres"), folder=folder)
    assert all(store._is_current(case, recipe) for case in elsewhere.cases)  # and the next time nothing needs to be hashed


@pytest.mark.parametrize("change", [{"spacing": (2.1, 1.2, 1.0)}, {"normalization": ("zscore",)}, {"mean": 181.0}])
def test_a_plan_that_would_give_other_arrays_makes_all_again(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, made: list[str], change: dict[str, object]
) -> None:
    prepare(dataset, make_plan(), tmp_path / "store")
    made.clear()
    prepare(dataset, make_plan(**change), tmp_path / "store")
    assert sorted(made) == ["case_0", "case_1", "case_2", "case_3"]


def test_a_plan_with_another_patch_makes_nothing_again(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, made: list[str]) -> None:
    plan, folder = make_plan(normalization=("zscore",)), tmp_path / "store"
    prepare(dataset, plan, folder)
    made.clear()
    larger = dataclasses.replace(plan.configuration("3d_fullres"), patch_size=(16, 32, 32))
    other_mean = make_plan(normalization=("zscore",), mean=7.0)  # z-scores do not look at it
    store.preprocess_dataset(dataset, other_mean, larger, folder, workers=0)
    assert made == []


def test_slices_in_a_folder_are_watched_one_by_one(dataset: Dataset, tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"one")
    (series / "2.dcm").write_bytes(b"two")
    case = dataclasses.replace(dataset.cases[0], images=(series,))
    before = store._sources(case)
    assert [Path(source.file).name for source in before] == ["1.dcm", "2.dcm", "case_0_label.nii.gz"]
    (series / "2.dcm").write_bytes(b"2")
    assert store._sources(case) != before


def test_another_way_to_mend_the_grid_makes_the_case_again(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, made: list[str]) -> None:
    prepare(dataset, make_plan(), tmp_path / "store")
    made.clear()
    mended = dataclasses.replace(dataset.cases[3], grid_fix="copy-image")
    prepare(dataclasses.replace(dataset, cases=(*dataset.cases[:3], mended)), make_plan(), tmp_path / "store")
    assert made == ["case_3"]


# --- trouble -----------------------------------------------------------------------------------------------------------------


def test_one_faulty_case_is_told_and_the_others_are_there(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    shifted = images.read_label(dataset.cases[1].label).array[:, :-1]  # type: ignore[arg-type]
    images.write_image(dataset.cases[1].label, shifted, affine=affine_from_spacing((3.0, 0.9, 1.1)))  # type: ignore[arg-type]
    calls: list[tuple[int, int]] = []
    plan = make_plan()
    with pytest.raises(GridMismatch, match="case 'case_1'"):
        store.preprocess_dataset(
            dataset, plan, plan.configuration("3d_fullres"), tmp_path / "store", workers=0, progress=lambda *c: calls.append(c)
        )
    assert stored_names(tmp_path / "store") == ("case_0", "case_2", "case_3")
    assert calls == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_several_faulty_cases_are_told_together(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    for case in dataset.cases[:2]:
        case.images[0].write_bytes(case.images[0].read_bytes()[:2000])
    with pytest.raises(FaultyCases) as raised:
        prepare(dataset, make_plan(), tmp_path / "store", workers=2)
    assert [error.case for error in raised.value.errors] in (["case_0", "case_1"], ["case_1", "case_0"])
    assert stored_names(tmp_path / "store") == ("case_2", "case_3")


def test_a_missing_case_and_a_damaged_one_say_what_to_do(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    prepare(dataset.only(["case_2"]), make_plan(), tmp_path / "store")
    with pytest.raises(MissingPath, match="case_9"):
        store.open_case(tmp_path / "store", "case_9")
    truncate_image(dataset, tmp_path / "store")
    with pytest.raises(UnreadableFile, match="damaged"):
        store.open_case(tmp_path / "store", "case_2").image()
    file = tmp_path / "store/case_2/locations.npy"
    whole = file.read_bytes()
    for content in (b"", whole[:-2], whole[:6] + b"\x05" + whole[7:], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(content)
        with pytest.raises(UnreadableFile, match="damaged"):
            _ = store.open_case(tmp_path / "store", "case_2").locations


def test_a_data_set_that_was_moved_is_one_error_with_the_command_that_tells_its_place(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    moved = dataclasses.replace(
        dataset,
        root=gone,
        cases=tuple(dataclasses.replace(case, images=(gone / "i.nii.gz",), label=gone / "l.nii.gz") for case in dataset.cases),
    )
    with pytest.raises(MissingPath, match="not where it was planned") as caught:
        prepare(moved, make_plan(), tmp_path / "ws" / "preprocessed" / "3d_fullres")
    assert caught.value.file == str(gone) and f"autoseg plan NEW_PLACE -o {tmp_path / 'ws'}" in str(caught.value)


def test_a_worker_killed_in_the_middle_is_told_and_the_others_finish(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker kills itself where it would normalise: a scheme that only a worker can find does it."""
    plan = make_plan()
    killers = tmp_path / "killers"
    killers.mkdir()
    (killers / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import os, signal
        from autoseg.preprocessing import store
        whole = store.preprocess_case
        def dying(image, *a, **k):
            if image.array.shape[1:] == (17, 30, 38):
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(image, *a, **k)
        store.preprocess_case = dying
    """)
    )
    monkeypatch.setenv("PYTHONPATH", f"{killers}{os.pathsep}{Path(__file__).parents[2]}")
    with pytest.raises(WorkerDied, match="SIGKILL") as raised:
        prepare(dataset, plan, tmp_path / "store", workers=2)
    assert raised.value.case == "case_1" and raised.value.exit_code == 3
    assert stored_names(tmp_path / "store") == ("case_0", "case_2", "case_3")


def test_a_disk_too_small_is_told_before_work_begins(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(NotEnough, match="cannot hold") as raised:
        prepare(dataset, make_plan(), tmp_path / "store")
    assert raised.value.found == "1 kB free" and str(raised.value.expected).endswith(" kB") and made == []


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "label.b2nd":
            write(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NotEnough, match="disk is full"):
        prepare(dataset, make_plan(), tmp_path / "store", workers=0)
    assert list((tmp_path / "store").iterdir()) == []


SCRIPT = """
    import json, sys
    from pathlib import Path
    from autoseg.cases import Dataset
    from autoseg.planning.configuration import Plan
    from autoseg.preprocessing import store

    dataset = Dataset.from_json(json.loads(Path(sys.argv[1]).read_text()))
    plan = Plan.from_json(json.loads(Path(sys.argv[2]).read_text()))
    store.preprocess_dataset(dataset, plan, plan.configuration("3d_fullres"), Path(sys.argv[3]), workers=0)
"""


def test_a_killed_run_leaves_whole_cases_and_the_next_ends_as_if_undisturbed(
    dataset: Dataset, make_plan: PlanMaker, tmp_path: Path
) -> None:
    folder, undisturbed = tmp_path / "store", tmp_path / "undisturbed"
    names = [f"{case.name}_{i}" for i in range(12) for case in dataset.cases]
    dataset = dataclasses.replace(dataset, cases=tuple(dataclasses.replace(dataset.cases[i % 4], name=n) for i, n in enumerate(names)))
    files.write_json(tmp_path / "dataset.json", dataset.to_json())
    files.write_json(tmp_path / "plan.json", make_plan().to_json())
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *(str(tmp_path / n) for n in ("dataset.json", "plan.json"))]
    subprocess.run([*command, str(undisturbed)], cwd=Path(__file__).parents[2], check=True)
    rng = np.random.default_rng(0)
    finished: dict[str, int] = {}
    for _ in range(3):
        run = subprocess.Popen([*command, str(folder)], cwd=Path(__file__).parents[2])
        aim = len(finished) + int(rng.integers(2, 12))
        deadline = time.monotonic() + 60
        while len(stored_names(folder)) < aim and time.monotonic() < deadline:
            time.sleep(0.0005)
        run.kill()
        run.wait()
        now = made_at(folder)
        assert finished.items() <= now.items()  # whole cases are not touched again
        finished = now
    assert 0 < len(finished) < len(names)
    subprocess.run([*command, str(folder)], cwd=Path(__file__).parents[2], check=True)
    assert finished.items() <= made_at(folder).items()
    assert contents(folder) == contents(undisturbed)  # and nothing half-written is left


def test_the_number_of_workers_does_not_change_a_bit(dataset: Dataset, make_plan: PlanMaker, tmp_path: Path) -> None:
    prepare(dataset, make_plan(), tmp_path / "one", workers=1)
    prepare(dataset, make_plan(), tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ({"scale": ["x"]}, "scale[0]"),
        ({"geometry": {}}, "geometry.axis_order"),
        ({"locations": {"a": [0, 1]}}, "locations.a"),
        ({"files": 3}, "files"),
        ({"case": None}, "case"),
        ({"colour": 1}, "colour: no such key"),
    ],
)
def test_a_damaged_record_is_named_and_the_case_made_again(
    tmp_path: Path, dataset: Dataset, make_plan: PlanMaker, damage: dict[str, Any], place: str
) -> None:
    plan = make_plan()
    folder, one = tmp_path / "cache", dataset.only([dataset.cases[0].name])
    prepare(one, plan, folder)
    before = contents(folder)
    file = folder / one.cases[0].name / "case.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    with pytest.raises(UnreadableFile, match=re.escape(place)):
        store.open_case(folder, one.cases[0].name)
    prepare(one, plan, folder)
    assert contents(folder).keys() == before.keys() and store.open_case(folder, one.cases[0].name).channels == len(plan.channels)


@pytest.mark.parametrize("damage", [{"scale": [7.0]}, {"offset": [-3.5]}])
def test_a_record_that_was_changed_but_can_be_read_is_refused_and_the_case_made_again(
    tmp_path: Path, dataset: Dataset, make_plan: PlanMaker, damage: dict[str, Any]
) -> None:
    plan = make_plan()
    folder, one = tmp_path / "cache", dataset.only([dataset.cases[0].name])
    prepare(one, plan, folder)
    file = folder / one.cases[0].name / "case.json"
    before = json.loads(file.read_text())
    damage = {name: values * len(plan.channels) for name, values in damage.items()}
    file.write_text(json.dumps({**before, **damage}))
    with pytest.raises(UnreadableFile, match="changed since it was written"):
        store.open_case(folder, one.cases[0].name)
    prepare(one, plan, folder)
    assert json.loads(file.read_text()) == before


def test_a_record_of_an_earlier_version_without_a_checksum_is_current(tmp_path: Path, dataset: Dataset, make_plan: PlanMaker) -> None:
    plan = make_plan()
    folder, one = tmp_path / "cache", dataset.only([dataset.cases[0].name])
    prepare(one, plan, folder)
    file = folder / one.cases[0].name / "case.json"
    record = json.loads(file.read_text())
    del record["checksum"]
    times = file.stat()
    file.write_text(json.dumps(record))
    for path in file.parent.iterdir():
        os.utime(path, ns=(times.st_mtime_ns, times.st_mtime_ns))
    os.utime(file, ns=(times.st_mtime_ns, times.st_mtime_ns))
    made = made_at(folder)
    prepare(one, plan, folder)
    assert made_at(folder) == made and "checksum" not in json.loads(file.read_text())


def test_cases_that_another_process_trains_on_are_not_replaced(tmp_path: Path, dataset: Dataset, make_plan: PlanMaker) -> None:
    plan, folder = make_plan(), tmp_path / "cache"
    one, two = dataset.only([dataset.cases[0].name]), dataset.only([case.name for case in dataset.cases[:2]])
    prepare(one, plan, folder)
    with locks.in_use(folder):
        prepare(two, plan, folder)  # one more disturbs nobody
        os.utime(one.cases[0].images[0], (1, 1))
        before = made_at(folder)
        with pytest.raises(SettingsError, match="another process trains on the preprocessed cases"):
            prepare(two, plan, folder)
        assert made_at(folder) == before
    prepare(two, plan, folder)


def test_the_second_process_waits_and_finds_the_cases_made(tmp_path: Path, dataset: Dataset, make_plan: PlanMaker) -> None:
    plan, folder = make_plan(), tmp_path / "caches/cache"
    prepare(dataset, plan, folder)
    before, order = made_at(folder), list[str]()

    def prepare_again() -> None:
        prepare(dataset, plan, folder, waiting=lambda: order.append("waits"))
        order.append("done")

    with locks.in_turn(folder.parent):
        second = threading.Thread(target=prepare_again)
        second.start()
        while not order:
            time.sleep(0.01)
        time.sleep(0.2)
        assert order == ["waits"]
    second.join()
    assert order == ["waits", "done"] and made_at(folder) == before


@pytest.mark.parametrize("name", ["ж" * 100, "肝" * 66, "x" * 200, "50%ж" * 40, "%D0%B6" * 33])
def test_names_of_two_hundred_bytes_have_a_place_in_the_cache(tmp_path: Path, name: str) -> None:
    place = store._place(tmp_path, name)
    place.mkdir()  # percent-quoted, each letter would take six or nine bytes
    alike = {urllib.parse.quote(name), urllib.parse.unquote(name), name.replace("%", "%25")} - {name}
    assert place not in {store._place(tmp_path, other) for other in alike}, "two names never share a place"
