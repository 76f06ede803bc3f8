"""AdaB2N: batch normalisation with statistics balanced over the tasks of continual learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from homeostat.core.component import Cite, integer, knob, option
from homeostat.core.edits import Edit, ReplaceModule
from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.normalization.balanced_norm import BALANCED, Balanced, balanced
from homeostat.treatments.shapes import lead

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True, kw_only=True)
class AdaB2N(Treatment):
    """Balance the statistics of every batch normalisation over tasks. Replaces the layers before the first step.

    In training, item n of task k has the weight w_n in the batch's statistics, with m_k items of task k in the batch:

        w_n = share_k / m_k,   share_k = (prior * exp(psi_k) + m_k) / sum_j (prior * exp(psi_j) + m_j)
        mean = sum_n w_n x_n,   var = sum_n w_n (x_n - mean) ** 2

    share_k is the mean of a Dirichlet posterior. psi_k, one per layer and task, starts at 0 and is learned. The sum is
    over the tasks of the batch. With `absent` "zeros" it is over all tasks met so far: an absent task then counts as
    mean 0 and variance 0, and the weights add up to less than 1. Every layer adds to the loss

        penalty * (mean_c (mean - running_mean) ** 2 + mean_c (var - running_var) ** 2)

    with the running statistics after this batch as constants. The momentum of the running statistics depends on the
    number t of batches that the layer has seen (`num_batches_tracked`):

        running <- (1 - eta_t) running + eta_t batch,   eta_t = eta_{t-1} / (eta_{t-1} + (1 - eta) ** kappa),
        eta_1 = eta ** kappa

    where eta is the layer's momentum. `kappa` 1 is torch's moving average, 0 the mean over all batches; in between
    eta_t falls to 1 - (1 - eta) ** kappa. `kappa` is not learned.

    The shares need `run.batch` in the loop; it knows the tasks of items that treatments append. A loop with its own
    rehearsal calls `run.batch(inputs, targets, tasks=...)`. The penalty needs `run.loss` too. If no tasks are given and
    no treatment appends items, or the tasks are unknown, batch statistics are plain and nothing is added to the loss.
    With explicit `tasks=`, the penalty is added for a batch of one task too (`ada_t0=0` in the authors' code).

    A layer keeps its name, parameters, running statistics, hooks and optimizer state, and gains
    `<layer>.balance.log_concentration`. Its settings are fixed when it is replaced. In evaluation it is an ordinary
    batch normalisation with these running statistics. Non-finite batch statistics do not enter the running statistics.

    Source: Lyu, Wang, Zhang, Sun, Su, Zhu, Jing (2023), arXiv:2310.08855, and the released code: psi starts at 0, so
    `prior` is 1; kappa was searched in 0.1, 0.4, 0.7, 1 and the penalty in 0.01 .. 10 (CIFAR) and 1e-5 .. 0.01
    (Mini-ImageNet). Differences: the variance in the running statistics and in the penalty is unbiased, n / (n - 1)
    times the variance of n values, as in torch; absent tasks are left out by default; a layer that has seen batches
    before continues from their number.

    Raises:
        Refused: the network has no batch normalisation, or one without running statistics, with a momentum outside
            (0, 1] or of another class (SyncBatchNorm, lazy ones, subclasses); or it is a fleet.

    >>> AdaB2N(kappa=0.25).stage.value
    'modules'
    """

    name = "adab2n"
    cite = Cite.of("adab2n")
    stage = Stage.MODULES
    needs_batch_norm = True
    lines = (Stage.BATCH, Stage.LOSS)
    optimizer_state = "kept for the layer's parameters; the task weights join their group"
    declared: ClassVar[Mapping[str, str]] = {
        "lifts": "the replicas of a fleet share one module, which cannot be replaced per replica",
    }

    kappa: float = knob(
        0.5, low=0.0, high=1.0, neutral=1.0, unit="1", source="our choice; the authors searched 0.1 .. 1"
    )
    prior: float = knob(1.0, low=0.0, high=1e6, neutral=0.0, unit="items", source="the released code: exp(0)")
    penalty: float = knob(
        0.1, low=0.0, high=1e6, neutral=0.0, unit="1", source="our choice; the authors searched 1e-5 .. 10"
    )
    absent: str = option("left out", choices=("left out", "zeros"), doc="tasks that have no item in a batch")
    tasks: int = integer(100, doc="number of tasks that are distinguished; later tasks count as the last one")

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        if lead(view):
            raise Refused(self.name, "a fleet", "modules of stacked replicas cannot be replaced")
        layers = [path for path, kind in view.kinds.items() if issubclass(kind, _BATCH_NORMS)]
        if not layers:
            raise Refused(self.name, "the network", "there is no batch normalisation in it")
        return [self._balance(path, view.kinds[path], knobs) for path in layers], state

    def _balance(self, path: str, kind: type[nn.Module], knobs: Mapping[str, Tensor]) -> Edit:
        if kind not in BALANCED and not issubclass(kind, Balanced):
            raise Refused(self.name, path, f"it is a {kind.__name__}, not a BatchNorm1d, 2d or 3d of torch")
        values = {key: float(value) for key, value in knobs.items()}

        def make(module: nn.Module) -> nn.Module:
            self._check(path, module)
            return balanced(module, **values, absent_too=self.absent == "zeros", tasks=self.tasks)

        return ReplaceModule(path, make, f"balance the statistics of {path} over tasks")

    def _check(self, path: str, module: nn.Module) -> None:
        if not isinstance(module, _BATCH_NORMS) or module.running_mean is None or module.num_batches_tracked is None:
            raise Refused(self.name, path, "it keeps no running statistics, so there is nothing to balance")
        if module.momentum is None or not 0 < module.momentum <= 1:
            why = f"its momentum is {module.momentum}, and the generalised one needs a number in (0, 1]"
            raise Refused(self.name, path, why)

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """Every replaced layer kept its parameters and has trainable task weights."""
        for edit in edits:
            if f"{edit.target}.balance.log_concentration" not in after.parameters:
                return f"{edit.target} has no trainable task weights"
            for name in (n for n in before.parameters if n.rpartition(".")[0] == edit.target):
                if name not in after.parameters or not before.parameters[name].equal(after.parameters[name]):
                    return f"{name} has changed"
        return None
