"""Losses, advantages and rewards: pure functions that give shares of the batch's loss and diagnostics."""

from homeostat.objectives.policy.covariance import ClipCov, KLCov
from homeostat.objectives.policy.entropic import Entropic
from homeostat.objectives.policy.policy_gradient import ClippedPolicyGradient, EntropyBonus
from homeostat.objectives.preference.dpo_shift import DPOShift, shift_schedule
from homeostat.objectives.tokens import (
    covariance,
    group_advantage,
    likelihood_displacement,
    token_entropy,
    token_mean,
)

__all__ = [
    "ClipCov",
    "ClippedPolicyGradient",
    "DPOShift",
    "Entropic",
    "EntropyBonus",
    "KLCov",
    "covariance",
    "group_advantage",
    "likelihood_displacement",
    "shift_schedule",
    "token_entropy",
    "token_mean",
]
