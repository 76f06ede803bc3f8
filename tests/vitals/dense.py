"""Curvature the slow way."""

import numpy as np
import torch
from torch.autograd.functional import hessian

from homeostat.core.snapshot import Probe


def dense_hessian(probe: Probe) -> np.ndarray:
    """The whole Hessian of a probe's loss over all parameters, in double precision [P, P]."""
    names, values = list(probe.parameters), [p.double() for p in probe.parameters.values()]
    sizes = [p.numel() for p in values]

    def loss(flat):
        parts = flat.split(sizes)
        return probe.loss({n: part.reshape(v.shape) for n, part, v in zip(names, parts, values, strict=True)})

    return torch.as_tensor(hessian(loss, torch.cat([v.flatten() for v in values]))).numpy()
