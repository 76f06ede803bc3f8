"""What usually helps against each condition, and on what evidence.

A remedy names the treatment as `--treat` takes it, in rungs from mild to strong; the closed loop climbs them. The
verdict of the study it rests on is read when a finding is made, so it follows the studies and is never copied here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from homeostat.core.finding import Prescription


@dataclass(frozen=True)
class Remedy:
    """One way out.

    Args:
        do: what to do, in words.
        rungs: `--treat` texts from mild to strong; empty when it is the user's own change.
        study: id of the study it rests on, or "".
    """

    do: str
    rungs: tuple[str, ...] = ()
    study: str = ""

    @property
    def treatment(self) -> str:
        """Name of the treatment, without settings."""
        return self.rungs[0].partition(":")[0] if self.rungs else ""


_L2_INIT = Remedy(
    "pull the weights gently towards their initial values (regenerative L2)",
    ("l2-init:strength=1e-2", "l2-init:strength=3e-2"),
    "l2-init",
)
_CBP = Remedy(
    "reset the least used units at a slow rate (continual backprop)",
    ("continual-backprop:replacement_rate=1e-4", "continual-backprop:replacement_rate=1e-3"),
    "continual-backprop",
)
_REDO = Remedy(
    "reset dormant units now and then (ReDo)",
    ("redo:threshold=0.025,every=100", "redo:threshold=0.1,every=100"),
    "redo",
)
_SHRINK = Remedy(
    "shrink the weights a little and add fresh initial noise (shrink and perturb)",
    ("shrink-and-perturb:shrink=0.9999,perturb=0.01414", "shrink-and-perturb:shrink=0.999,perturb=0.0447"),
    "shrink-and-perturb",
)
_SPECTRAL = Remedy(
    "keep the largest singular value of every layer near one (spectral regularisation)",
    ("spectral-regularization:strength=1e-4", "spectral-regularization:strength=1e-3"),
    "spectral-regularization",
)
_NORM = Remedy("put layer normalisation before the nonlinearities", ("layer-norm-insertion",))
_LOWER_RATE = Remedy("lower the learning rate, or warm it up")
_CLIP = Remedy("clip the gradient norm (torch.nn.utils.clip_grad_norm_)")
_INIT = Remedy("start from a scaled initialisation (He for ReLU, Glorot for tanh)")

REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "dormant-units": (_REDO, _L2_INIT, _CBP, _SHRINK, _LOWER_RATE),
    "saturated-units": (_L2_INIT, _SHRINK, _NORM, _INIT, _LOWER_RATE),
    "rank-collapse": (_L2_INIT, _SHRINK, _CBP, _SPECTRAL, _LOWER_RATE),
    "loss-of-plasticity": (_L2_INIT, _SHRINK, _CBP, _REDO),
    "vanishing-gradients": (
        Remedy("use a non-saturating nonlinearity, or add skip connections or normalisation"),
        _NORM,
        _INIT,
    ),
    "exploding-gradients": (_LOWER_RATE, _CLIP, _INIT),
    "non-finite": (_LOWER_RATE, _CLIP, Remedy("look for a division, logarithm or root of zero in the loss")),
    "edge-of-stability": (
        Remedy("nothing while the loss falls: this is how full-batch gradient descent ordinarily trains"),
        _LOWER_RATE,
    ),
    "oscillating-loss": (_LOWER_RATE, Remedy("use larger batches"), _CLIP),
    "untrained-parameters": (
        Remedy("pass them to the optimizer (build it after the last layer), or set requires_grad_(False)"),
        Remedy("look for a detach(), a no_grad() or a branch of forward that is never taken"),
    ),
    "stalled-learning": (
        Remedy("raise the learning rate"),
        Remedy("check that the targets belong to the inputs, and that the loss is what backward() is called on"),
        _INIT,
    ),
    "stability-gap": (
        Remedy("use and judge averaged weights while a task is learned", ("temporal-ensemble",), "ocl-ema"),
        Remedy("take smaller steps right after a switch: warm the learning rate up again"),
        Remedy("begin to rehearse old items before the switch, or rehearse more of them at first"),
    ),
    "no-optimizer-step": (Remedy("call optimizer.step() after backward()"),),
}


def remedies_for(condition: str) -> tuple[Remedy, ...]:
    """Every remedy for a condition, most promising first; empty for an unknown one."""
    return REMEDIES.get(condition, ())


def prescriptions_for(condition: str) -> tuple[Prescription, ...]:
    """The remedies as a finding carries them, each with its study's verdict as of now."""
    return tuple(
        Prescription(r.do, r.rungs[0] if r.rungs else "", r.study, verdict(r.study)) for r in remedies_for(condition)
    )


@cache
def verdict(study: str) -> str:
    """The verdict of a study, "untested" while there is none; read once per process."""
    if not study:
        return "untested"
    found = _verdict_of(study)
    return str(found["verdict"]) if found else "untested"


def _verdict_of(study: str) -> dict | None:
    try:
        return importlib.import_module("homeostat.catalogue").verdict_of(study)
    except (ImportError, AttributeError, KeyError):
        return None
