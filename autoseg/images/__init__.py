"""Image files: foreign axis orders and orientations end here, nothing below knows them.

Every format's module hands over the array as stored with its affine in our axis order; this room turns both to the canonical
orientation, and back when writing. `formats` lists the formats.
"""

from autoseg.images.canonical import from_memory, to_memory
from autoseg.images.dicom_seg import require_highdicom
from autoseg.images.formats import (
    PICTURES,
    SUFFIXES,
    hash_image,
    header_of,
    is_label_picture,
    label_suffix,
    size_and_time,
    stem_of,
    suffix_of,
)
from autoseg.images.grids import grid_gap, require_same_grid
from autoseg.images.reading import read, read_channels, read_header, read_label
from autoseg.images.signatures import is_series
from autoseg.images.types import DicomObject, Header, Image, Stored
from autoseg.images.writing import write_image, write_label

__all__ = [
    "PICTURES",
    "SUFFIXES",
    "DicomObject",
    "Header",
    "Image",
    "Stored",
    "from_memory",
    "grid_gap",
    "hash_image",
    "header_of",
    "is_label_picture",
    "is_series",
    "label_suffix",
    "read",
    "read_channels",
    "read_header",
    "read_label",
    "require_highdicom",
    "require_same_grid",
    "size_and_time",
    "stem_of",
    "suffix_of",
    "to_memory",
    "write_image",
    "write_label",
]
