"""Pictures for people: segmentations over their images (`overlay.py`) and the curves of a training run (`curves.py`).

Every function returns the bytes of a PNG; writing files is left to the callers. matplotlib and scikit-image are imported inside the
functions, and matplotlib without its global state, so that nothing here opens a window or slows down a command that draws nothing.
"""

from autoseg.pictures.curves import CURVES, progress
from autoseg.pictures.overlay import Overlay, legend, overlays, panels

__all__ = ["CURVES", "Overlay", "legend", "overlays", "panels", "progress"]
