"""Treatments: published interventions on training, planned as edits."""

from homeostat.treatments.adab2n import AdaB2N
from homeostat.treatments.classp import Classp
from homeostat.treatments.continual_backprop import ContinualBackprop
from homeostat.treatments.l2_init import L2Init
from homeostat.treatments.layer_norm import LayerNormInsertion
from homeostat.treatments.masked_softmax import MaskedSoftmax
from homeostat.treatments.redo import ReDo
from homeostat.treatments.rehearsal import PowerLawRehearsal
from homeostat.treatments.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbAtBoundaries
from homeostat.treatments.spectral import SpectralRegularization, WassersteinRegularization
from homeostat.treatments.temporal_ensemble import TemporalEnsemble

__all__ = [
    "AdaB2N",
    "Classp",
    "ContinualBackprop",
    "L2Init",
    "LayerNormInsertion",
    "MaskedSoftmax",
    "PowerLawRehearsal",
    "ReDo",
    "ShrinkAndPerturb",
    "ShrinkAndPerturbAtBoundaries",
    "SpectralRegularization",
    "TemporalEnsemble",
    "WassersteinRegularization",
]
