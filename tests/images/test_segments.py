"""Names and colours for viewers: fields of `.seg.nrrd`, and the tables of ITK-SNAP, FSLeyes and FreeSurfer."""

from __future__ import annotations

import shlex

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from autoseg import images
from autoseg.colours import colour_tables, segments_of
from autoseg.labels import make_labels

LABELS = make_labels({"background": 0, "left kidney": 3, 'a "quoted" one': 7, "absent": 9})


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASR"])
def test_a_seg_nrrd_has_names_colours_and_extents_and_the_same_voxels(tmp_path, axes):
    array = np.zeros((8, 9, 10), dtype=np.int16)
    array[1:4, 2:6, 3:5] = 3
    array[6, 7, 8] = 7
    turned = nibabel.orientations.axcodes2ornt(axes)
    file = nibabel.Nifti1Image(array.T, np.diag([1.0, 2.0, 3.0, 1.0])).as_reoriented(turned)
    nibabel.save(file, tmp_path / "scan.nii.gz")
    like = images.read(tmp_path / "scan.nii.gz")
    target = tmp_path / "result.seg.nrrd"
    images.write_label(target, like.array[0], like=like, segments=segments_of(LABELS))

    read = sitk.ReadImage(str(target))
    fields = {key: read.GetMetaData(key) for key in read.GetMetaDataKeys()}
    assert [fields[f"Segment{n}_Name"] for n in range(3)] == ["left kidney", 'a "quoted" one', "absent"]
    assert [fields[f"Segment{n}_LabelValue"] for n in range(3)] == ["3", "7", "9"]
    assert fields["Segment0_Color"] == "1.000000 0.419608 0.419608" and fields["Segment2_Extent"] == "0 -1 0 -1 0 -1"
    voxels = sitk.GetArrayFromImage(read)
    for number, value in ((0, 3), (1, 7)):
        x0, x1, y0, y1, z0, z1 = map(int, fields[f"Segment{number}_Extent"].split())
        places = np.argwhere(voxels == value)
        assert places.min(0).tolist() == [z0, y0, x0] and places.max(0).tolist() == [z1, y1, x1]
    again = images.read_label(target)
    assert np.array_equal(again.array, like.array) and np.allclose(again.affine, like.affine)


def test_the_tables_name_every_value_with_one_colour():
    tables = colour_tables(LABELS)
    snap = [shlex.split(line) for line in tables["labels.itksnap.txt"].splitlines()]
    assert [(row[0], row[-1]) for row in snap] == [("0", "Clear Label"), ("3", "left kidney"), ("7", "a 'quoted' one"), ("9", "absent")]
    freesurfer = [line.split() for line in tables["labels.freesurfer.txt"].splitlines()]
    assert [row[:2] for row in freesurfer[1:3]] == [["3", "left_kidney"], ["7", 'a_"quoted"_one']] and {len(row) for row in freesurfer} == {
        6
    }
    fsleyes = [line.split(maxsplit=4) for line in tables["labels.lut"].splitlines()]
    for one, other, third in zip(snap[1:], fsleyes, freesurfer[1:], strict=True):
        assert [int(part) for part in one[1:4]] == [round(255 * float(part)) for part in other[1:4]] == [int(part) for part in third[2:5]]
