"""A user's folder and a dataset recipe become a tuple of cases; no file is copied, renamed or written.

`find` reads a folder in a known layout, or a list of cases; `find_inputs` what is given to `predict`; `load_image` and
`load_classes` read the files of one case. The layouts themselves are data: `datasets/*.toml`, in the language of `recipes`.
"""

from __future__ import annotations

from autoseg.cases.finding import find, groups_by_name
from autoseg.cases.inputs import find_inputs
from autoseg.cases.loading import load_classes, load_image, load_label
from autoseg.cases.names import modality_of
from autoseg.cases.recipes import MODALITIES
from autoseg.cases.values import Case, Channel, Dataset, left_out

__all__ = [
    "MODALITIES",
    "Case",
    "Channel",
    "Dataset",
    "find",
    "find_inputs",
    "groups_by_name",
    "left_out",
    "load_classes",
    "load_image",
    "load_label",
    "modality_of",
]
