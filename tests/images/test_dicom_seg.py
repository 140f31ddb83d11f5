"""Label maps as DICOM SEG and RTSTRUCT: on the grid and in the order of their series, voxel by voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.measure import grid_points_in_poly

from autoseg import images
from autoseg.colours import Segment
from autoseg.errors import LabelError, UnreadableFile
from autoseg.images.dicom_seg import outlines, structure_code

highdicom = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")

SEGMENTS = (
    Segment(value=3, name="kidney_left", colour="#ff6b6b"),
    Segment(value=7, name="odd thing", colour="#4dabf7"),
    Segment(value=9, name="liver", colour="#ffd43b"),
)
SHAPE = (6, 13, 11)
AXIAL = np.eye(3)
TURN = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.3, 1, 0.25], [0.15, -0.1, 1]]))[0]


def write_series(folder: Path, *, turn: np.ndarray = AXIAL, step: float = 2.5, modality: str = "CT", shuffled: bool = False) -> None:
    """Write a series of 0.8 x 0.6 mm pixels: `turn` has the row, column and slice direction as rows; a negative step goes the other way."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir()
    turn = turn * np.sign(np.linalg.det(turn)) if np.linalg.det(turn) < 0 else turn
    names = np.random.default_rng(1).permutation(SHAPE[0]) if shuffled else range(SHAPE[0])
    study, series, frame = (generate_uid(entropy_srcs=[str(folder), what]) for what in ("study", "series", "frame"))
    for number, name in enumerate(names):
        ds = pydicom.Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), str(number)])
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.Modality = study, series, frame, modality
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "A^B", "1", "", ""
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "20200101", "120000", "1", "", ""
        ds.SeriesNumber, ds.InstanceNumber, ds.PositionReferenceIndicator = 4, int(name) + 1, ""
        ds.Rows, ds.Columns = SHAPE[1:]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        if modality == "CT":
            ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
        ds.PixelSpacing, ds.SliceThickness = ["0.8", "0.6"], "2.5"
        ds.ImageOrientationPatient = [f"{value:.10f}" for value in turn[:2].reshape(-1)]
        ds.ImagePositionPatient = [f"{value:.8f}" for value in np.array([-30.0, 12, 5]) + turn[2] * step * number]
        ds.PixelData = np.full(SHAPE[1:], number, dtype="<i2").tobytes()
        ds.save_as(folder / f"{name:03d}.dcm", enforce_file_format=True)


CASES = {
    "axial CT": {},
    "oblique": {"turn": TURN},
    "reversed": {"turn": TURN, "step": -2.5, "shuffled": True},
    "sagittal MR": {"turn": np.array([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]]), "modality": "MR"},
}


def labels_on(image: images.Image) -> np.ndarray:
    """Blobs with a hole and single voxels; one segment does not occur, and the outer slices are empty."""
    rng = np.random.default_rng(0)
    array = np.zeros(image.shape, dtype=np.uint8)
    inner = tuple(slice(1, n - 1) for n in image.shape)
    array[inner] = rng.choice(np.array([0, 3, 9], dtype=np.uint8), size=tuple(n - 2 for n in image.shape))
    array[tuple(slice(n // 2 - 2, n // 2 + 2) for n in image.shape)] = 3
    return array


def by_source(image: images.Image, array: np.ndarray) -> dict[str, np.ndarray]:
    """Each slice of the label map as stored, by the UID of its source, found by the number that its pixels hold."""
    assert image.stored is not None
    stored = images.to_memory(array, like=image).transpose(2, 1, 0)
    numbers = images.to_memory(image.array[0], like=image).transpose(2, 1, 0)[:, 0, 0]
    found = {}
    for path in image.stored.path.iterdir():
        ds = pydicom.dcmread(path)
        value = float(ds.pixel_array[0, 0]) + float(ds.get("RescaleIntercept", 0))
        (place,) = np.flatnonzero(numbers == value)
        found[ds.SOPInstanceUID] = stored[place]
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_a_seg_is_equal_by_source_instance(name: str, form: str, tmp_path: Path) -> None:
    write_series(tmp_path / "series", **CASES[name])
    image = images.read(tmp_path / "series")
    array = labels_on(image)
    made_by = images.DicomObject(form=form, model="toy 2d", identity="ab12")
    images.write_label(tmp_path / "seg.dcm", array, like=image, segments=SEGMENTS, dicom=made_by)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers if n] == ["kidney_left", "liver"]
    expected = by_source(image, array)
    got = seg.get_pixels_by_source_instance(list(expected), combine_segments=True, assert_missing_frames_are_empty=True)
    wanted = np.stack(list(expected.values()))
    assert np.array_equal(np.array([0, 3, 9])[got], wanted) and wanted.any()
    assert seg.DeviceSerialNumber == "ab12" and seg.StudyInstanceUID == pydicom.dcmread(tmp_path / "series/000.dcm").StudyInstanceUID
    assert seg.get_segment_description(1).segmented_property_type.value == "64033007"


@pytest.mark.parametrize("name", CASES)
def test_contours_rasterised_again_are_the_label_map(name: str, tmp_path: Path) -> None:
    write_series(tmp_path / "series", **CASES[name])
    image = images.read(tmp_path / "series")
    array = labels_on(image)
    images.write_label(tmp_path / "rt.dcm", array, like=image, segments=SEGMENTS, dicom=images.DicomObject(form="rtstruct"))
    structures = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == ["kidney_left", "liver"]
    sources = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / "series").iterdir())}
    for value, roi in zip((3, 9), structures.ROIContourSequence, strict=True):
        found = {uid: np.zeros(SHAPE[1:], dtype=bool) for uid in sources}
        for contour in roi.ContourSequence:
            uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            ds = sources[uid]
            cosines = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) - np.array(ds.ImagePositionPatient, dtype=float)
            assert np.abs(points @ np.cross(*cosines)).max() < 1e-3  # in the plane of its slice
            rows, columns = points @ cosines[1] / 0.8, points @ cosines[0] / 0.6
            found[uid] ^= grid_points_in_poly(SHAPE[1:], np.stack([rows, columns], axis=1))
        expected = by_source(image, array)
        assert all(np.array_equal(found[uid], expected[uid] == value) for uid in sources)


def test_the_same_result_has_the_same_identifier_and_another_result_another(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    image = images.read(tmp_path / "series")
    array = labels_on(image)
    for name, values in (("a", array), ("b", array), ("c", np.where(array == 9, 0, array))):
        images.write_label(tmp_path / f"{name}.dcm", values, like=image, segments=SEGMENTS)
    one, same, other = (pydicom.dcmread(tmp_path / f"{name}.dcm").SOPInstanceUID for name in "abc")
    assert one == same != other


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    image = images.read(tmp_path / "series")
    with pytest.raises(LabelError, match="nothing was found"):
        images.write_label(tmp_path / "seg.dcm", np.zeros(image.shape, dtype=np.uint8), like=image, segments=SEGMENTS)
    images.write_label(tmp_path / "scan.nii.gz", labels_on(image), like=image)
    other = images.read(tmp_path / "scan.nii.gz")
    with pytest.raises(UnreadableFile, match="needs the DICOM series"):
        images.write_label(tmp_path / "seg.dcm", labels_on(image), like=other, segments=SEGMENTS)
    assert not (tmp_path / "seg.dcm").exists()


def test_codes_and_outlines() -> None:
    assert structure_code("Left Kidney").meaning == "Kidney" and structure_code("spleen").scheme_designator == "SCT"
    assert structure_code("lesion #2").scheme_designator == "99AUTOSEG"
    (square,) = outlines(np.pad(np.ones((2, 3), dtype=bool), 1))
    assert len(square) == 8 and outlines(np.zeros((3, 3), dtype=bool)) == []  # corners are cut
    assert len(outlines(np.pad(np.ones((3, 3), dtype=bool), 1) & ~np.pad(np.ones((1, 1), dtype=bool), 2))) == 2  # a hole
