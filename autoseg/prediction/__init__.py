"""A checkpoint and a case become a label map on the case's own grid: fold ensemble, test-time flips, resampling back."""

from autoseg.prediction.ensembles import Member, combine, segment
from autoseg.prediction.model import Model, open_fold, open_model, parts_of, read_selection
from autoseg.prediction.segmenting import Segmentation, segment_preprocessed
from autoseg.prediction.stages import Stage, trained_folds

__all__ = [
    "Member",
    "Model",
    "Segmentation",
    "Stage",
    "combine",
    "open_fold",
    "open_model",
    "parts_of",
    "read_selection",
    "segment",
    "segment_preprocessed",
    "trained_folds",
]
