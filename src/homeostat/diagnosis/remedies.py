"""Remedies that several conditions share."""

from __future__ import annotations

from homeostat.diagnosis.prescriptions import Remedy

L2_INIT = Remedy(
    "pull the weights gently towards their initial values (regenerative L2)",
    ("l2-init:strength=1e-2", "l2-init:strength=3e-2"),
    "l2-init",
)
CONTINUAL_BACKPROP = Remedy(
    "reset the least used units at a slow rate (continual backprop)",
    ("continual-backprop:replacement_rate=1e-4", "continual-backprop:replacement_rate=1e-3"),
    "continual-backprop",
)
REDO = Remedy(
    "reset dormant units now and then (ReDo)",
    ("redo:threshold=0.025,every=100", "redo:threshold=0.1,every=100"),
    "redo",
)
SHRINK_AND_PERTURB = Remedy(
    "shrink the weights a little and add fresh initial noise (shrink and perturb)",
    ("shrink-and-perturb:shrink=0.9999,perturb=0.01414", "shrink-and-perturb:shrink=0.999,perturb=0.0447"),
    "shrink-and-perturb",
)
SPECTRAL = Remedy(
    "keep the largest singular value of every layer near one (spectral regularisation)",
    ("spectral-regularization:strength=1e-4", "spectral-regularization:strength=1e-3"),
    "spectral-regularization",
)
LAYER_NORM = Remedy("put layer normalisation before the nonlinearities", ("layer-norm-insertion",))
LOWER_RATE = Remedy("lower the learning rate, or warm it up")
CLIP = Remedy("clip the gradient norm (torch.nn.utils.clip_grad_norm_)")
SCALED_INIT = Remedy("start from a scaled initialisation (He for ReLU, Glorot for tanh)")
