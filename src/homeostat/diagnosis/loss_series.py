"""What is read from losses and kept like vitals: always, at steps that no setting chooses."""

from __future__ import annotations

from collections.abc import Mapping

ENTROPY, SCALE, DIVERGENCE = "policy-entropy", "policy-scale", "policy-kl"
RETURNS, TARGETS, PREDICTIONS, FIT = "target-mean", "target-size", "prediction-size", "target-fit"

EVALUATION = "evaluation-loss"

LOSS_SERIES: Mapping[str, tuple[str, str]] = {
    ENTROPY: ("Entropy of a policy's discrete actions over the logarithm of their number, in 0..1.", "share"),
    SCALE: ("Geometric mean of the standard deviations of a policy's continuous actions.", "action"),
    DIVERGENCE: ("Distance of a policy from the one that acted: the mean of (r - 1) - ln r over the ratios r.", "nats"),
    RETURNS: ("Mean of the numbers that outputs are compared with: the returns, of a value function.", "target"),
    TARGETS: ("Root mean square of the numbers that outputs are compared with.", "target"),
    PREDICTIONS: ("Root mean square of the outputs that are compared with numbers.", "target"),
    FIT: ("Part of the variance of these numbers in a batch that the outputs explain: 1 is all of it.", "share"),
    EVALUATION: ("Mean loss of a pass of the script's own evaluation, through a loss module.", "loss"),
}
"""Name -> (meaning, unit)."""
