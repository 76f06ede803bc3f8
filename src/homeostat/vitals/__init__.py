"""Vitals: measurements of a run. Pure functions on tensors, and the components that wire them to a run."""

from homeostat.vitals.alignment import match_activations, match_weights, permuted
from homeostat.vitals.curvature import Sharpness, edge, sharpness, top_eigenpair
from homeostat.vitals.curvature_norms import HessianNorm, HessianTrace, hessian_moments, stochastic_edge
from homeostat.vitals.finite import NonFinite, non_finite
from homeostat.vitals.gradients import GradientNorm, UpdateRatio, gradient_norm, update_ratio
from homeostat.vitals.loss import Loss
from homeostat.vitals.past_tasks import PlasticGradient, StableGradient, TaskAccuracy, TaskAlignment
from homeostat.vitals.probe_task import Plasticity, plasticity
from homeostat.vitals.rank import EffectiveRank, SRank, StableRank, effective_rank, singular_values, srank, stable_rank
from homeostat.vitals.twins import TwinBarrier, TwinDistance, distance, linear_cka, loss_barrier, mixed
from homeostat.vitals.units import (
    ActiveUnits,
    DeadUnits,
    DormantUnits,
    SaturatedUnits,
    active_fraction,
    dead_fraction,
    dormant_fraction,
    saturated_fraction,
)
from homeostat.vitals.weights import WeightNorm, weight_norm

__all__ = [
    "ActiveUnits",
    "DeadUnits",
    "DormantUnits",
    "EffectiveRank",
    "GradientNorm",
    "HessianNorm",
    "HessianTrace",
    "Loss",
    "NonFinite",
    "PlasticGradient",
    "Plasticity",
    "SRank",
    "SaturatedUnits",
    "Sharpness",
    "StableGradient",
    "StableRank",
    "TaskAccuracy",
    "TaskAlignment",
    "TwinBarrier",
    "TwinDistance",
    "UpdateRatio",
    "WeightNorm",
    "active_fraction",
    "dead_fraction",
    "distance",
    "dormant_fraction",
    "edge",
    "effective_rank",
    "gradient_norm",
    "hessian_moments",
    "linear_cka",
    "loss_barrier",
    "match_activations",
    "match_weights",
    "mixed",
    "non_finite",
    "permuted",
    "plasticity",
    "saturated_fraction",
    "sharpness",
    "singular_values",
    "srank",
    "stable_rank",
    "stochastic_edge",
    "top_eigenpair",
    "update_ratio",
    "weight_norm",
]
