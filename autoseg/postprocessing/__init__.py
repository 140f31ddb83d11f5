"""Rules that clean up a label map: choosing them from out-of-fold results, applying them.

A rule on components removes some, 26-connected in a volume and 8-connected in a planar image: all but the largest, or those below a
volume. A rule on shapes fills holes, or closes or opens with a ball whose radius is in mm. What is removed becomes background or, where
regions are nested, the region around it; what is added was background, or the region around. A rule is adopted only when the mean Dice
of cases that the network had not seen improves with some certainty and no label gets worse; its evidence travels with it.
"""

from autoseg.postprocessing.applying import apply
from autoseg.postprocessing.learning import Measured, Triple, candidates, choose, learn, measure_case, shape_candidates
from autoseg.postprocessing.rules import POSTPROCESSING_FORMAT, Evidence, PostprocessingRules, Rule

__all__ = [
    "POSTPROCESSING_FORMAT",
    "Evidence",
    "Measured",
    "PostprocessingRules",
    "Rule",
    "Triple",
    "apply",
    "candidates",
    "choose",
    "learn",
    "measure_case",
    "shape_candidates",
]
