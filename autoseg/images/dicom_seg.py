"""DICOM objects of a label map: segmentations (SEG) by highdicom, contours (RTSTRUCT) of our own; always on the grid of their series.

highdicom and pydicom are an extra: `pip install 'autoseg-unet[dicom]'`. Nothing else of autoseg needs them.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.colours import Segment
from autoseg.errors import LabelError, UnreadableFile, UsageError
from autoseg.images.types import Order
from autoseg.version import __version__

if TYPE_CHECKING:
    from pydicom import Dataset

_ALL_FRAMES = 64 << 20  # bytes up to which empty frames are written as well: some viewers shift what has gaps
_SCHEME = "99AUTOSEG"  # private: of a structure for which DICOM has no code by that name
_SIDES = ("left", "right")
_CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"


def require_highdicom() -> None:
    """Raise unless DICOM objects can be written here.

    Raises
    ------
    UsageError : highdicom is not installed
    """
    if importlib.util.find_spec("highdicom") is None:
        raise UsageError(
            "DICOM objects need highdicom", found="not installed", fix="pip install 'autoseg-unet[dicom]', or write .nii.gz instead"
        )


def write(order: Order) -> None:
    """Write the label map of a DICOM series as one DICOM object.

    Raises
    ------
    UsageError : highdicom is not installed
    UnreadableFile : the scan is not a DICOM series, or a tag of it cannot be used
    LabelError : nothing was found: viewers hang on an object without a segment
    """
    if not order.header:
        raise UnreadableFile(
            "a DICOM object needs the DICOM series of its scan", file=order.target, found="a scan of another format",
            expected="a folder of DICOM slices", fix="write .nii.gz instead",
        )  # fmt: skip
    require_highdicom()
    import pydicom

    array = order.array[0].astype(np.uint16)
    segments = [segment for segment in order.segments if (array == segment.value).any()]
    if not segments:
        raise LabelError(
            "nothing was found, and a DICOM object needs a segment", file=order.target, fix="write .nii.gz, which can be empty"
        )
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in order.header]
    make = _structures if order.dicom.form == "rtstruct" else _segmentation
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags of the scanner that are not quite as the standard wants them
            make(sources, array, segments, order).save_as(order.path, enforce_file_format=True)
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(
            "a tag of the series cannot be used for a DICOM object", file=order.header[0], found=str(error).splitlines()[0][:300],
            fix="correct that tag in the series, or write .nii.gz instead",
        ) from None  # fmt: skip


def _segmentation(sources: Sequence[Dataset], array: NDArray[np.uint16], segments: Sequence[Segment], order: Order) -> Any:
    """Return a SEG; its segments are numbered 1, 2, ... in the order of the labels, without those that do not occur."""
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    numbered = np.zeros(array.shape, dtype=np.uint8 if len(segments) < 256 else np.uint16)
    for number, segment in enumerate(segments, start=1):
        numbered[array == segment.value] = number
    labelmap = order.dicom.form == "labelmap"
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_model(order), family=codes.DCM.ArtificialIntelligence, version=__version__, source="autoseg"
    )
    descriptions = [_described(number, segment, algorithm) for number, segment in enumerate(segments, start=1)]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=numbered if len(sources) > 1 or "NumberOfFrames" in sources[0] else numbered[0],
        segmentation_type="LABELMAP" if labelmap else "BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=_uid(order, sources, "series"),
        series_number=_series_number(sources),
        sop_instance_uid=_uid(order, sources, "instance"),
        instance_number=1,
        manufacturer="autoseg",
        manufacturer_model_name=_model(order),
        software_versions=__version__,
        device_serial_number=(order.dicom.identity or "0")[:64],
        content_label="SEGMENTATION",
        series_description=f"Segmentation by {_model(order)}"[:64],
        omit_empty_frames=array.size * (1 if labelmap else len(segments) / 8) > _ALL_FRAMES,
        transfer_syntax_uid=RLELossless if labelmap else ExplicitVRLittleEndian,
    )


def _described(number: int, segment: Segment, algorithm: Any) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    red, green, blue = segment.rgb
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=structure_code(segment.name),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(red, green, blue),
    )


def structure_code(name: str) -> Any:
    """Return the SNOMED code that DICOM's free set has under a structure's name, its side left out; else one of a private scheme.

    >>> structure_code("kidney_left").value, structure_code("blob 7").scheme_designator
    ('64033007', '99AUTOSEG')
    """
    from pydicom.sr.codedict import codes

    words = [word for word in name.replace("_", " ").replace("-", " ").split() if word.casefold() not in _SIDES]
    keyword = "".join(word[:1].upper() + word[1:] for word in words)
    try:
        return getattr(codes.SCT, keyword) if keyword.isidentifier() else _private(name)
    except (AttributeError, RuntimeError):
        return _private(name)


def _private(name: str) -> Any:
    return _code("".join(letter for letter in name if letter.isalnum())[:16].upper() or "X", _SCHEME, name[:64])


def _code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.sr.coding import Code

    return Code(value, scheme, meaning)


def _structures(sources: Sequence[Dataset], array: NDArray[np.uint16], segments: Sequence[Segment], order: Order) -> Dataset:
    """Return an RTSTRUCT: closed planar contours halfway between inner and outer voxels; holes are further contours of their slice."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    if len(sources) != len(array):
        raise ValueError("NumberOfFrames: contours refer to slices, and this is one file with all of them; write a SEG instead")
    made, first, now = Dataset(), sources[0], datetime.datetime.now()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID(_CONTOURS)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = _uid(order, sources, "instance")
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
                 "ReferringPhysicianName", "SpecificCharacterSet"):  # fmt: skip
        setattr(made, name, first.get(name, "" if name != "SpecificCharacterSet" else "ISO_IR 192"))
    made.StudyInstanceUID, made.SeriesInstanceUID = first.StudyInstanceUID, _uid(order, sources, "series")
    made.FrameOfReferenceUID, made.Modality, made.SeriesNumber = first.FrameOfReferenceUID, "RTSTRUCT", _series_number(sources)
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = "autoseg", _model(order), __version__
    made.DeviceSerialNumber, made.OperatorsName = (order.dicom.identity or "0")[:64], ""
    made.StructureSetLabel, made.StructureSetName = "autoseg", _model(order)
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.SeriesDescription, made.ApprovalStatus = f"Contours by {_model(order)}"[:64], "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_references(sources)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, segment in enumerate(segments, start=1):
        roi, contours, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID = number, first.FrameOfReferenceUID
        roi.ROIName, roi.ROIGenerationAlgorithm = segment.name[:64], "AUTOMATIC"
        contours.ReferencedROINumber, contours.ROIDisplayColor = number, list(segment.rgb)
        contours.ContourSequence = [
            _contour(source, points) for source, plane in zip(sources, array, strict=True) for points in outlines(plane == segment.value)
        ]
        seen.ObservationNumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType, seen.ROIInterpreter = "", ""
        made.StructureSetROISequence.append(roi)
        made.ROIContourSequence.append(contours)
        made.RTROIObservationsSequence.append(seen)
    return made


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the closed outlines `(points, 2)` of a mask `(rows, columns)`, in rows and columns; corners alone, the first not repeated."""
    from skimage.measure import find_contours

    if not mask.any():
        return []
    found = []
    for line in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        points = line[:-1] - 1
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        corner = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
        found.append(points[corner])
    return found


def _contour(source: Dataset, points: NDArray[np.float64]) -> Dataset:
    """Return an outline in rows and columns of a slice as contour in mm of the patient."""
    from pydicom.dataset import Dataset

    cosines = np.asarray(source.ImageOrientationPatient, dtype=float).reshape(2, 3)
    heights, widths = (float(step) for step in source.PixelSpacing)
    places = (
        np.asarray(source.ImagePositionPatient, dtype=float) + points[:, 1:] * widths * cosines[0] + points[:, :1] * heights * cosines[1]
    )
    contour, image = Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    contour.ContourImageSequence = [image]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    contour.ContourData = [f"{value:.6g}" if abs(value) < 1e-3 else f"{value:.4f}" for value in places.reshape(-1)]
    return contour


def _references(sources: Sequence[Dataset]) -> Dataset:
    """Return the frame of reference with the study, the series and every slice."""
    from pydicom.dataset import Dataset

    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = sources[0].SeriesInstanceUID, []
    for source in sources:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        series.ContourImageSequence.append(image)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", sources[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = sources[0].FrameOfReferenceUID, [study]
    return frame


def _uid(order: Order, sources: Sequence[Dataset], what: str) -> Any:
    """Return an identifier that the same model, series, result and type of object give again."""
    from pydicom.uid import generate_uid

    content = hashlib.sha256(order.array.tobytes()).hexdigest()
    return generate_uid(entropy_srcs=[order.dicom.identity, sources[0].SeriesInstanceUID, order.dicom.form, content, what])


def _model(order: Order) -> str:
    return (order.dicom.model or "autoseg")[:64]


def _series_number(sources: Sequence[Dataset]) -> int:
    number = sources[0].get("SeriesNumber")
    return min(9000 + int(number), 2**31 - 1) if number is not None and math.isfinite(float(number)) and number >= 0 else 9000
