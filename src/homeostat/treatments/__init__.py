"""Treatments: published interventions on training, planned as edits."""

from homeostat.treatments.continual.classp import Classp
from homeostat.treatments.continual.masked_softmax import MaskedSoftmax
from homeostat.treatments.continual.rehearsal import PowerLawRehearsal
from homeostat.treatments.continual.temporal_ensemble import TemporalEnsemble
from homeostat.treatments.normalization.adab2n import AdaB2N
from homeostat.treatments.normalization.layer_norm import LayerNormInsertion
from homeostat.treatments.regularization.l2_init import L2Init
from homeostat.treatments.regularization.spectral import SpectralRegularization, WassersteinRegularization
from homeostat.treatments.resets.continual_backprop import ContinualBackprop
from homeostat.treatments.resets.redo import ReDo
from homeostat.treatments.resets.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbAtBoundaries
from homeostat.treatments.sparsity.granet import GraNet

__all__ = [
    "AdaB2N",
    "Classp",
    "ContinualBackprop",
    "GraNet",
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
