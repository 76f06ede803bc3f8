"""Treatments: published interventions on training, planned as edits."""

from homeostat.treatments.constraints.fire import Fire
from homeostat.treatments.constraints.norm_projection import NormProjection
from homeostat.treatments.constraints.weight_clipping import WeightClipping
from homeostat.treatments.continual.classp import Classp
from homeostat.treatments.continual.consolidation import ElasticWeightConsolidation, SynapticIntelligence
from homeostat.treatments.continual.masked_softmax import MaskedSoftmax
from homeostat.treatments.continual.rehearsal import PowerLawRehearsal
from homeostat.treatments.continual.replay import ExperienceReplay
from homeostat.treatments.continual.temporal_ensemble import TemporalEnsemble
from homeostat.treatments.continual.upgd import Upgd
from homeostat.treatments.normalization.adab2n import AdaB2N
from homeostat.treatments.normalization.layer_norm import LayerNormInsertion
from homeostat.treatments.regularization.l2_init import L2Init
from homeostat.treatments.regularization.parseval import ParsevalRegularization
from homeostat.treatments.regularization.spectral import SpectralRegularization, WassersteinRegularization
from homeostat.treatments.resets.continual_backprop import ContinualBackprop
from homeostat.treatments.resets.hare_and_tortoise import HareAndTortoise
from homeostat.treatments.resets.layer_reset import LayerReset
from homeostat.treatments.resets.redo import ReDo
from homeostat.treatments.resets.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbAtBoundaries
from homeostat.treatments.sparsity.granet import GraNet

__all__ = [
    "AdaB2N",
    "Classp",
    "ContinualBackprop",
    "ElasticWeightConsolidation",
    "ExperienceReplay",
    "Fire",
    "GraNet",
    "HareAndTortoise",
    "L2Init",
    "LayerNormInsertion",
    "LayerReset",
    "MaskedSoftmax",
    "NormProjection",
    "ParsevalRegularization",
    "PowerLawRehearsal",
    "ReDo",
    "ShrinkAndPerturb",
    "ShrinkAndPerturbAtBoundaries",
    "SpectralRegularization",
    "SynapticIntelligence",
    "TemporalEnsemble",
    "Upgd",
    "WassersteinRegularization",
    "WeightClipping",
]
