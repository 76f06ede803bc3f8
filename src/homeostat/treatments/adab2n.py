"""AdaB2N: batch normalisation whose statistics are balanced over the tasks of continual learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit, ReplaceModule
from homeostat.core.errors import BadSetting, Refused
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.balanced_norm import BALANCED, Balanced, balanced
from homeostat.treatments.shapes import lead


@dataclass(frozen=True, kw_only=True)
class AdaB2N(Treatment):
    """Balance the statistics of every batch normalisation over tasks, before the first step.

    In training, item n of task k has the weight w_n in the batch's statistics (m_k: items of task k in the batch):

        w_n = share_k / m_k,   share_k = (prior * exp(psi_k) + m_k) / sum_j (prior * exp(psi_j) + m_j)
        mean = sum_n w_n x_n,   var = sum_n w_n (x_n - mean) ** 2

    the mean of a Dirichlet posterior; psi_k, one for each layer and task, starts at 0 and is learned. The sum is over
    the tasks of the batch; with `absent` "zeros" over all tasks met, so that one without an item counts as mean and
    variance 0 (the weights then add up to less than 1). To the loss is added, for every layer,

        penalty * (mean_c (mean - running_mean) ** 2 + mean_c (var - running_var) ** 2)

    with the running statistics after this batch as constants. These move by a momentum that depends on the number t of
    batches the layer has seen (`num_batches_tracked`):

        running <- (1 - eta_t) running + eta_t batch,   eta_t = eta_{t-1} / (eta_{t-1} + (1 - eta) ** kappa),
        eta_1 = eta ** kappa

    where eta is the layer's own momentum: `kappa` 1 is torch's moving average, 0 the mean over all batches; in between
    eta_t falls to 1 - (1 - eta) ** kappa. `kappa` is not learned.

    The shares need `run.batch` (which knows the tasks of the items that treatments append; who rehearses by his own
    hand gives `run.batch(inputs, targets, tasks=...)`), the penalty needs `run.loss` too. Where the batch is of the
    present task only, or its tasks are not known, batch statistics are plain and nothing is added to the loss.

    A layer keeps its name, parameters, running statistics, hooks and optimizer state, and gains
    `<layer>.balance.log_concentration`. Settings hold from the surgery on. In evaluation it is an ordinary batch
    normalisation with these running statistics. Statistics that are not finite are not taken into the running ones.

    Source: Lyu, Wang, Zhang, Sun, Su, Zhu, Jing (2023), arXiv:2310.08855, and the released code: psi starts at 0, so
    `prior` is 1; kappa was searched in 0.1, 0.4, 0.7, 1 and the penalty in 0.01 .. 10 (CIFAR) and 1e-5 .. 0.01
    (Mini-ImageNet). Other than there: the running variance is the unbiased one, as in torch, times n / (n - 1) for n
    values; absent tasks are left out by default; and a layer that has seen batches before goes on at their number.

    Raises:
        Refused: no batch normalisation, one without running statistics or a momentum in (0, 1], another kind of it
            (SyncBatchNorm, lazy ones, subclasses), or a fleet.

    >>> AdaB2N(kappa=0.25).stage.value
    'surgery'
    """

    name = "adab2n"
    cite = Cite(
        "Lyu, Wang, Zhang, Sun, Su, Zhu, Jing",
        2023,
        "Overcoming Recency Bias of Normalization Statistics in Continual Learning: Balance and Adaptation",
        "2310.08855",
    )
    entries = ("adab2n",)
    stage = Stage.SURGERY
    needs_batch_norm = True
    lines = (Stage.BATCH, Stage.LOSS)
    optimizer_state: ClassVar[str] = "kept for the layer's parameters; the tasks' weights join their group"
    declared: ClassVar[Mapping[str, str]] = {
        "lifts": "stacked replicas have no modules of their own to replace",
    }

    kappa: float = knob(
        0.5, low=0.0, high=1.0, neutral=1.0, unit="1", source="this project's; searched in 0.1 .. 1 by the authors"
    )
    prior: float = knob(1.0, low=0.0, high=1e6, neutral=0.0, unit="items", source="the released code: exp(0)")
    penalty: float = knob(
        0.1, low=0.0, high=1e6, neutral=0.0, unit="1", source="this project's; searched in 1e-5 .. 10 by the authors"
    )
    absent: str = option("left out", choices=("left out", "zeros"), doc="tasks that have no item in a batch")
    tasks: int = option(100, doc="tasks that are told apart; the last stands for all later ones too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.tasks, bool) or not isinstance(self.tasks, int) or self.tasks < 1:
            raise BadSetting(f"{self.name}.tasks must be a whole number of at least 1, got {self.tasks!r}")

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        if lead(view):
            raise Refused(self.name, "a fleet", "modules of stacked replicas cannot be replaced")
        layers = [path for path, kind in view.kinds.items() if issubclass(kind, _BatchNorm)]
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
        if not isinstance(module, _BatchNorm) or module.running_mean is None or module.num_batches_tracked is None:
            raise Refused(self.name, path, "it keeps no running statistics, so there is nothing to balance")
        if module.momentum is None or not 0 < module.momentum <= 1:
            why = f"its momentum is {module.momentum}, and the generalised one needs a number in (0, 1]"
            raise Refused(self.name, path, why)

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """Every replaced layer kept its parameters, and has weights of tasks that are trained."""
        for edit in edits:
            if f"{edit.target}.balance.log_concentration" not in after.parameters:
                return f"{edit.target} has no trainable weights of tasks"
            for name in (n for n in before.parameters if n.rpartition(".")[0] == edit.target):
                if name not in after.parameters or not before.parameters[name].equal(after.parameters[name]):
                    return f"{name} did not stay as it was"
        return None
