"""`predict` goes on after any end, replaces nothing that is not its own, and one case that cannot be done is one failed case."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg import cli, images
from autoseg.errors import DiskFull, SomeCasesFailed, UnreadableFile, UsageError
from autoseg.pipeline import evaluating, predicting, records
from autoseg.shards import Shard
from tests.pipeline.heard import Heard
from tests.prediction.conftest import make_plan, make_workspace, only  # noqa: F401

NAMES = ("a", "b", "c d")


@pytest.fixture
def place(tmp_path, make_plan, make_workspace):  # noqa: F811
    """A workspace with one fold of a random network, and a folder of three scans with two channels."""
    make_workspace(only(make_plan(), "3d_fullres"), folds=1, root=tmp_path / "workspace")
    rng = np.random.default_rng(3)
    for name in NAMES:
        for channel in range(2):
            path = tmp_path / f"scans/{name}_000{channel}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(rng.normal(0, 1, (14, 13, 12)).astype(np.float32), np.eye(4)), path)
    return tmp_path


def predict(place: Path, output: Path | None = None, **options):
    heard = Heard()
    made = predicting.predict(place / "workspace", [place / "scans"], output or place / "out", device="cpu", tta=False, reporter=heard,
                              **options)  # fmt: skip
    return made, heard.said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the command runs after it."""


@pytest.fixture
def killed_after_label(monkeypatch):
    """The second label map is there, its record is not."""
    write, seen = images.write_label, []

    def dies(path, *given, **named):
        write(path, *given, **named)
        seen.append(path)
        if len(seen) == 2:
            monkeypatch.setattr(records.Record, "write", lambda self: None)
            raise Killed

    monkeypatch.setattr(images, "write_label", dies)


def test_the_same_command_goes_on_after_a_kill_between_label_and_record(place, killed_after_label, monkeypatch):
    with pytest.raises(Killed):
        predict(place)
    monkeypatch.undo()
    assert set(contents(place / "out")) == {"a.nii.gz", "b.nii.gz"}
    monkeypatch.setattr(records.files, "_alive", lambda pid: False)  # the process that was killed was this one
    (place / "out/.writing-17-x").touch()
    os.utime(place / "out/.writing-17-x", (0, 0))
    made, _ = predict(place)
    assert set(made["cases"]) == set(NAMES)
    predict(place, place / "undisturbed")
    assert contents(place / "out") == contents(place / "undisturbed")
    assert {path.name for path in (place / "out").iterdir()} == {f"{name}.nii.gz" for name in NAMES} | {"prediction.json"}


@pytest.mark.parametrize("how", ["relative", "renamed"])
def test_results_are_kept_where_the_same_place_has_another_path(place, monkeypatch, how):
    predict(place)
    output = place / "out"
    if how == "relative":
        monkeypatch.chdir(place)
        output = Path("out")
    else:
        output = output.rename(place / "results")
        (place / "scans").rename(place / "moved")
        shutil.copytree(place / "moved", place / "scans")
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")}
    predict(place, output)
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")} == before


def test_somebody_elses_file_is_still_not_replaced(place):
    (place / "out").mkdir()
    (place / "out/b.nii.gz").write_bytes(b"a reference")
    with pytest.raises(UsageError, match="no earlier prediction made"):
        predict(place)
    assert (place / "out/b.nii.gz").read_bytes() == b"a reference" and list((place / "out").iterdir()) == [place / "out/b.nii.gz"]


def test_results_of_another_model_are_replaced_with_overwrite_only(place, make_plan, make_workspace):  # noqa: F811
    predict(place)
    before = contents(place / "out")
    make_workspace(only(make_plan(), "3d_fullres"), folds=2, root=place / "workspace")
    with pytest.raises(UsageError, match="results of another model"):
        predict(place)
    assert contents(place / "out") == before
    predict(place, overwrite=True)
    assert contents(place / "out") != before
    predict(place)


@pytest.mark.parametrize("fault", [MemoryError("Unable to allocate 9.00 TiB"), RuntimeError("could not create a primitive")])
def test_a_scan_too_large_for_the_memory_is_one_failed_case(place, monkeypatch, fault):
    whole, seen = predicting.prediction.segment, []

    def segment(*given, **named):
        seen.append(1)
        if len(seen) == 2:
            raise fault
        return whole(*given, **named)

    monkeypatch.setattr(predicting.prediction, "segment", segment)
    with pytest.raises(SomeCasesFailed) as caught:
        predict(place)
    assert caught.value.exit_code == 4 and set(contents(place / "out")) == {"a.nii.gz", "c d.nii.gz"}
    row = next(csv.DictReader((place / "out/failed.csv").read_text().splitlines()))
    assert (row["case"], row["stage"], row["reason"]) == ("b", "segment", "the scan is too large for the memory there is")
    assert "12x13x14" in row["detail"] and "--workers" not in row["detail"]


def test_scans_that_do_not_fit_into_the_memory_allowed_are_refused_by_name_before_they_are_read(place, monkeypatch):
    monkeypatch.setattr("autoseg.cases.load_image", lambda *_, **__: pytest.fail("the scan was read"))
    with pytest.raises(SomeCasesFailed):
        predict(place, max_memory=10**6)
    rows = list(csv.DictReader((place / "out/failed.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == list(NAMES) and all("--max-memory" in row["detail"] for row in rows)


def test_with_a_limit_of_memory_maps_and_labels_are_those_without_it(place):
    predict(place, place / "free", probabilities=True, uncertainty=True)
    predict(place, place / "tight", probabilities=True, uncertainty=True, max_memory=10**12)
    assert contents(place / "free") == contents(place / "tight") and len(contents(place / "free")) == 9
    assert not list((place / "free").glob(".writing-*"))


def test_a_defect_is_not_taken_for_a_lack_of_memory(place, monkeypatch):
    def segment(*given, **named):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(predicting.prediction, "segment", segment)
    with pytest.raises(RuntimeError, match="mat1"):
        predict(place)


def test_a_full_disk_ends_the_command_with_what_is_kept_and_the_same_command_goes_on(place, monkeypatch):
    write = images.write_label

    def full(path, *given, **named):
        if path.name == "b.nii.gz":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, *given, **named)

    monkeypatch.setattr(images, "write_label", full)
    with pytest.raises(DiskFull) as caught:
        predict(place)
    assert caught.value.exit_code == 3 and "1 of 3 results" in str(caught.value)
    assert set(contents(place / "out")) == {"a.nii.gz"}  # the third was not begun
    monkeypatch.undo()
    kept = (place / "out/a.nii.gz").stat().st_mtime_ns
    predict(place)
    assert (place / "out/a.nii.gz").stat().st_mtime_ns == kept and len(contents(place / "out")) == 3


@pytest.mark.parametrize(
    "harm",
    [b'"fold', b'{"made_by": "autoseg predict", "cases": 3}', (b'"left": 7', b'"left": 8'), (b'"autoseg predict"', b'"autosfg predict"')],
)
def test_a_damaged_record_is_reported_never_taken_for_absent(place, harm):
    predict(place)
    record = place / "out/prediction.json"
    record.write_bytes(harm if isinstance(harm, bytes) else record.read_bytes().replace(*harm))
    (place / "references").mkdir()
    for path in (place / "out").glob("*.nii.gz"):
        shutil.copy(path, place / "references")
    for command in (lambda: predict(place), lambda: evaluating.evaluate(place / "out", place / "references", reporter=Heard())):
        with pytest.raises(UnreadableFile) as caught:
            command()
        assert str(record) in str(caught.value)


def test_rules_that_were_changed_by_hand_are_used_and_reported(place):
    rules = {"3d_fullres": {"format": 1, "rules": []}}
    file = place / "workspace/postprocessing.json"
    file.write_text(json.dumps(records.with_checksum(rules)))
    assert not [line for line in predict(place)[1] if "postprocessing.json" in line]
    rules["3d_fullres"]["rules"] = [{"target": None, "keep_largest": True, "drop_below": None, "evidence": None}]
    file.write_text(json.dumps(records.with_checksum({"3d_fullres": {}}) | rules))
    assert [line for line in predict(place, place / "other")[1] if line.startswith("warning") and "postprocessing.json was changed" in line]
    lost = records.with_checksum(rules)
    file.write_text(json.dumps({"3d_fullras" if name == "3d_fullres" else name: value for name, value in lost.items()}))
    assert [line for line in predict(place, place / "third")[1] if line.startswith("warning") and "postprocessing.json was changed" in line]


def test_each_case_is_one_line_until_the_record_is_written_once(place, monkeypatch):
    written, seen = [], []
    whole, segment = records.files.write_json, predicting.prediction.segment
    monkeypatch.setattr(records.files, "write_json", lambda *given: (written.append(given[0]), whole(*given)))

    def looked(*given, **named):
        seen.append([line for path in (place / "out/records").iterdir() for line in path.read_bytes().splitlines()])
        return segment(*given, **named)

    monkeypatch.setattr(predicting.prediction, "segment", looked)
    made, _ = predict(place)
    assert [len(lines) for lines in seen] == [2, 3, 4] and written == [place / "out/prediction.json"]
    assert set(records.read_record(place / "out/prediction.json")["cases"]) == set(made["cases"]) == set(NAMES)
    assert not (place / "out/records").exists()


@pytest.mark.parametrize("how", ["touched", "copied"])
def test_what_has_another_time_or_place_but_the_same_content_is_kept(place, how):
    first, _ = predict(place)
    before = contents(place / "out")
    if how == "touched":
        for path in (*(place / "scans").iterdir(), *(place / "out").glob("*.nii.gz")):
            os.utime(path, (1, 1))
    else:
        for name in ("scans", "out"):
            (place / name).rename(place / "old")
            shutil.copytree(place / "old", place / name, copy_function=shutil.copyfile)
            shutil.rmtree(place / "old")
    again, _ = predict(place)
    assert all(again["cases"][name]["seconds"] == first["cases"][name]["seconds"] for name in NAMES)  # not one was made again
    assert contents(place / "out") == before
    for channel in ("0000", "0001"):
        shutil.copyfile(place / f"scans/b_{channel}.nii.gz", place / f"scans/a_{channel}.nii.gz")
    third, _ = predict(place)
    assert contents(place / "out")["a.nii.gz"] == before["b.nii.gz"]
    assert third["cases"]["c d"]["seconds"] == first["cases"]["c d"]["seconds"]


def test_shards_do_their_own_cases_and_the_command_without_one_merges_them(place):
    made = {}
    for number in (1, 2, 3):
        made[number], _ = predict(place, shard=Shard(number, 3))
        assert set(made[number]["cases"]) == {name for name in NAMES if Shard(number, 3).holds(name)}
        assert not (place / "out/prediction.json").exists()
    again, _ = predict(place, shard=Shard(1, 2))  # another number of shards knows what was done
    merged, _ = predict(place)
    assert (
        merged["cases"]
        == {**made[1]["cases"], **made[2]["cases"], **made[3]["cases"]}
        == records.read_record(place / "out/prediction.json")["cases"]
    )
    assert again["cases"].items() <= merged["cases"].items()
    assert {path.name for path in (place / "out").iterdir()} == {f"{name}.nii.gz" for name in NAMES} | {"prediction.json"}


def test_a_shard_with_a_broken_scan_ends_with_4_and_the_merge_writes_failed_csv(place):
    for path in (place / "scans").glob("b_*"):
        path.write_bytes(b"broken")
    for number in (1, 2):
        if Shard(number, 2).holds("b"):
            with pytest.raises(SomeCasesFailed, match="1 of"):
                predict(place, shard=Shard(number, 2))
        else:
            predict(place, shard=Shard(number, 2))
    assert not (place / "out/failed.csv").exists()
    with pytest.raises(SomeCasesFailed, match="1 of 3"):
        predict(place)
    assert (place / "out/failed.csv").read_text().count("\nb,read,") == 1 and not (place / "out/records").exists()


def test_a_record_of_an_earlier_version_is_continued(place):
    first, _ = predict(place)
    record = place / "out/prediction.json"
    value = records.read_record(record)
    for facts in value["cases"].values():
        for key in ("input", "result"):
            facts[key] = [text.rpartition(" ")[0] for text in facts[key]]  # no hashes then
    record.write_text(json.dumps(value))
    again, _ = predict(place)
    assert again["cases"] == first["cases"]


def test_two_commands_into_one_folder_lose_nothing(place, monkeypatch):
    segment, nested = predicting.prediction.segment, []

    def other_starts(*given, **named):
        if not nested:
            nested.append(True)
            predicting.predict(place / "workspace", [place / "other"], place / "out", device="cpu", tta=False, reporter=Heard())
            nested.append(records.read_record(place / "out/prediction.json")["cases"])
        return segment(*given, **named)

    monkeypatch.setattr(predicting.prediction, "segment", other_starts)
    (place / "other").mkdir()
    for path in sorted((place / "scans").glob("c*")):
        path.rename(place / "other" / path.name)
    predict(place)
    assert set(nested[1]) == {"c d"}
    assert set(records.read_record(place / "out/prediction.json")["cases"]) == set(NAMES)
    assert {path.name for path in (place / "out").iterdir()} == {f"{name}.nii.gz" for name in NAMES} | {"prediction.json"}


def test_a_failed_csv_that_is_no_text_of_ours_stays(place):
    (place / "out").mkdir()
    (place / "out/failed.csv").write_bytes(b"\xff\xfe\x00")
    predict(place)
    assert (place / "out/failed.csv").read_bytes() == b"\xff\xfe\x00"


def test_the_command_line_says_exit_code_2_for_other_models_results(place, capsys):
    words = ["predict", place / "workspace", place / "scans", "-o", place / "out", "--no-tta", "--device", "cpu"]
    assert cli.main([str(word) for word in words]) == 0
    record = place / "out/prediction.json"
    value = records.read_record(record)
    value["results"] = dict.fromkeys(value["results"], "0" * 16)
    value["cases"] = {}
    record.write_text(json.dumps(records.with_checksum(value)))
    assert cli.main([str(word) for word in words]) == 2
    assert "--overwrite" in capsys.readouterr().err
