"""Temporal ensembles: evaluate with a moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit, SetBuffer, SetValues
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import lead, statistic_dtype


@dataclass(frozen=True, kw_only=True)
class TemporalEnsemble(Treatment):
    """Keep an exponential moving average of the weights and use it in evaluations. Training is not changed.

        average <- d_t average + (1 - d_t) theta,   d_t = min(decay, (1 + t) / (10 + t)),   t = 0, 1, ... updates

    The warm-up of d_t reduces the influence of the first weights; without `warm_up`, d_t = `decay`. The average starts
    at the weights of the first step. Floating-point buffers (running statistics of batch norm) are averaged too; other
    buffers, such as step counts, are copied.

    State: `updates` [*R] (t) and one average for every trained parameter and every buffer, in at least float32.

    Source: Soutif-Cormerais et al. (2023), arXiv:2306.16817. The default decay is that of the authors' code
    (AlbinSou/online_ema: 0.99 in every configuration). Their warm-up differs: decay 0.9 in the first iterations, then
    0.99.

    >>> TemporalEnsemble(decay=0.995).name
    'temporal-ensemble'
    """

    name = "temporal-ensemble"
    cite = Cite.of("ocl-ema")
    stage = Stage.EVALUATION

    decay: float = knob(0.99, low=0.0, high=1.0, neutral=0.0, unit="1/update", source="the authors' code")
    warm_up: bool = option(True, doc="limit the decay in the first updates to (1 + t) / (10 + t)")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        averages = {key: now.detach().to(_kept_in(now)).clone() for key, now in _tensors(view).items()}
        some = next(iter(view.parameters.values()))
        updates = torch.zeros(some.shape[: lead(view)], dtype=torch.int64, device=some.device)
        return {"updates": updates, **averages}

    def follow(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> State:
        t = state["updates"].double()
        decay = knobs["decay"].to(t.device)
        if self.warm_up:
            decay = torch.minimum(decay, (1 + t) / (10 + t))
        after = {"updates": state["updates"] + 1}
        for key, now in _tensors(view).items():
            average = state[key]
            value = now.detach().to(average.dtype)
            after[key] = (
                torch.lerp(average, value, broadcast_knob(1 - decay, value)) if value.is_floating_point() else value
            )
        return after

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits: list[Edit] = [SetValues(n, state[f"parameter/{n}"].to(p.dtype)) for n, p in view.parameters.items()]
        edits += [SetBuffer(n, state[f"buffer/{n}"].to(b.dtype)) for n, b in view.buffers.items()]
        return edits, state


def _tensors(view: View) -> dict[str, Tensor]:
    parameters = {f"parameter/{name}": value for name, value in view.parameters.items()}
    return {**parameters, **{f"buffer/{name}": value for name, value in view.buffers.items()}}


def _kept_in(now: Tensor) -> torch.dtype:
    return statistic_dtype(now) if now.is_floating_point() else now.dtype
