"""Treatments: published interventions on training, planned as edits."""

from homeostat.treatments.continual_backprop import ContinualBackprop
from homeostat.treatments.l2_init import L2Init
from homeostat.treatments.layer_norm import LayerNormInsertion
from homeostat.treatments.redo import ReDo
from homeostat.treatments.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbAtBoundaries
from homeostat.treatments.spectral import SpectralRegularization, WassersteinRegularization

__all__ = [
    "ContinualBackprop",
    "L2Init",
    "LayerNormInsertion",
    "ReDo",
    "ShrinkAndPerturb",
    "ShrinkAndPerturbAtBoundaries",
    "SpectralRegularization",
    "WassersteinRegularization",
]
