"""The family of errors: messages, exit codes, and their way between processes."""

import copy
import errno
import inspect

import pytest

from autoseg import errors


def family() -> list[type[errors.AutosegError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.AutosegError)]


def test_every_error_is_drawn_in_the_tree_of_the_module():
    for kind in family():
        assert kind.__name__ in (errors.__doc__ or ""), kind


def test_exit_codes_are_those_promised():
    assert {kind.exit_code for kind in family() if kind is not errors.AutosegError} == {2, 3, 4, 130}
    assert all(kind.exit_code == 3 for kind in family() if issubclass(kind, errors.InputError))


def test_a_message_names_file_found_expected_and_remedy():
    text = str(errors.GridMismatch("not on one grid", case="liver_017", file="a.nii", found="(1, 2)", expected="(2, 1)", fix="resample it"))
    first, *rows = text.splitlines()
    assert first == "GridMismatch: case 'liver_017': not on one grid"
    assert [row.split()[0] for row in rows] == ["file", "found", "expected", "fix"]


def test_several_faults_are_told_at_once():
    error = errors.FaultyCases([errors.MissingLabel("no label", case="a"), errors.UnreadableFile("ends early", case="b")], fix="mend them")
    assert "case 'a'" in str(error) and "case 'b'" in str(error) and "2 faults" in str(error) and "mend them" in str(error)


def test_many_faults_of_one_kind_are_told_once_and_every_case_is_named():
    many = [errors.MissingLabel("no label", case=f"case{i}", fix="here it is") for i in range(40)]
    rare = [errors.WorkerDied("no result", case=f"w{i}", details={"stage": "s", "cause": "oom"}) for i in range(14)]
    rare += [errors.WorkerDied("no result", case="odd", found="KeyError", details={"stage": "s", "cause": "defect", "trace": "line 1"})]
    text = str(errors.FaultyCases([*many, *rare]))
    assert text.count("here it is") == errors.TOLD and all(f"case{i}" in text for i in range(40))
    assert "37 more" in text and "11 more" in text and "55 faults" in text
    assert "KeyError" in text and "line 1" in text


@pytest.mark.parametrize("kind", family())
def test_an_error_survives_the_way_between_processes(kind):
    error = (
        kind([errors.MissingLabel("no label")]) if kind is errors.FaultyCases else kind("text", case="c", fix="do this", details={"a": "b"})
    )
    again = copy.deepcopy(error)  # by way of __reduce__, as a caller's process pool does
    assert type(again) is kind and str(again) == str(error)


def test_a_full_disk_and_exhausted_memory_are_recognised_inside_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device", "x")
    try:
        raise RuntimeError("writing failed") from full
    except RuntimeError as error:
        known = errors.short_of_space(error)
    assert isinstance(known, errors.NotEnough) and "disk" in str(known)
    assert isinstance(errors.short_of_space(MemoryError()), errors.NotEnough)
    assert errors.short_of_space(ValueError()) is None
