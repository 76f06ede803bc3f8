"""Vitals: measurements of a run. Pure functions on tensors, and the components that apply them to a run."""

from homeostat.vitals.activations.alignment import match_activations, match_weights, permuted
from homeostat.vitals.activations.rank import (
    EffectiveRank,
    SRank,
    StableRank,
    effective_rank,
    singular_values,
    srank,
    stable_rank,
)
from homeostat.vitals.activations.sparsity import Sparsity
from homeostat.vitals.activations.units import (
    ActiveUnits,
    DeadUnits,
    DormantUnits,
    SaturatedUnits,
    active_fraction,
    dead_fraction,
    dormant_fraction,
    saturated_fraction,
)
from homeostat.vitals.continual.past_tasks import PlasticGradient, StableGradient, TaskAccuracy, TaskAlignment
from homeostat.vitals.continual.probe_task import Plasticity, plasticity
from homeostat.vitals.dynamics.curvature import Sharpness, edge, sharpness, top_eigenpair
from homeostat.vitals.dynamics.curvature_norms import HessianNorm, HessianTrace, hessian_moments, stochastic_edge
from homeostat.vitals.dynamics.twins import TwinBarrier, TwinDistance, distance, linear_cka, loss_barrier, mixed
from homeostat.vitals.optimization.finite import NonFinite, non_finite
from homeostat.vitals.optimization.gradients import GradientNorm, UpdateRatio, gradient_norm, update_ratio
from homeostat.vitals.optimization.loss import Loss
from homeostat.vitals.optimization.weights import WeightNorm, weight_norm

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
    "Sparsity",
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
