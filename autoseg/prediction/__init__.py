"""A checkpoint and a case become a label map on the case's own grid: fold ensemble, test-time flips, resampling back."""

from autoseg.prediction.model import Model, Stage, open_fold, open_model, read_selection, trained_folds
from autoseg.prediction.segmenting import Segmentation, segment, segment_preprocessed

__all__ = [
    "Model",
    "Segmentation",
    "Stage",
    "open_fold",
    "open_model",
    "read_selection",
    "segment",
    "segment_preprocessed",
    "trained_folds",
]
