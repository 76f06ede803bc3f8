"""Shared code of studies of plasticity: a small network, a pass through a stream of tasks, and its accuracies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

import homeostat
from homeostat.core.treatment import Treatment
from homeostat.streams.tasks import TaskStream
from homeostat.vitals import dormant_fraction, effective_rank

FAST_ADAM = partial(Adam, fused=True)
"""Adam with one call into torch per step instead of several per parameter; small networks train faster."""


@dataclass(frozen=True)
class ArmSetup:
    """One arm: a network and an optimizer with one difference.

    Args:
        says: description of the difference.
        treatments: treatments applied with `homeostat.attach`.
        nonlinearity: of the hidden layers.
        layer_norm: a LayerNorm before every nonlinearity.
        optimizer: creates the optimizer from the parameters and a learning rate.
    """

    says: str
    treatments: tuple[Treatment, ...] = ()
    nonlinearity: Callable[[], nn.Module] = nn.ReLU
    layer_norm: bool = False
    optimizer: Callable[..., Optimizer] = FAST_ADAM

    def network(self, inputs: int, widths: Sequence[int], outputs: int) -> nn.Sequential:
        """A multi-layer perceptron with torch's default initialisation, from torch's global generator."""
        layers: list[nn.Module] = []
        for before, width in zip((inputs, *widths), widths, strict=False):
            layers += [nn.Linear(before, width), *([nn.LayerNorm(width)] if self.layer_norm else [])]
            layers.append(self.nonlinearity())
        return nn.Sequential(*layers, nn.Linear((inputs, *widths)[-1], outputs))


def l2(says: str, strength: float) -> ArmSetup:
    """Plain L2: `strength` * sum of squares added to the loss (Adam's own weight decay does exactly that)."""
    return ArmSetup(says, optimizer=partial(FAST_ADAM, weight_decay=2 * strength))


@dataclass
class TaskScores:
    """Results of training by task.

    Args:
        online: accuracy on each batch before training on it, averaged over the task.
        end: accuracy on all items of the task at its end.
        diverged: whether the loss was ever not finite; training continues in that case.
    """

    online: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    diverged: bool = False

    def early(self, series: str, tasks: int) -> float:
        """Mean over the first tasks."""
        values = getattr(self, series)[:tasks]
        return sum(values) / len(values)

    def late(self, series: str, tasks: int) -> float:
        """Mean over the last tasks."""
        values = getattr(self, series)[-tasks:]
        return sum(values) / len(values)


def train(
    model: nn.Module,
    optimizer: Optimizer,
    stream: TaskStream,
    treatments: Iterable[Treatment] = (),
    seed: int = 0,
    after_task: Callable[[int], None] = lambda task: None,
) -> TaskScores:
    """One pass through a stream of classification tasks with cross-entropy.

    Args:
        treatments: see `attached`.
        after_task: called at the end of each task with its number, inside `run.evaluation()` for treatments of stage
            "evaluation".
    """
    scores = TaskScores()
    with attached(model, optimizer, treatments, seed) as loop:
        for task in range(stream.count):
            loop.boundary(task)
            scores.online.append(_one_task(loop, stream, task, scores))
            with loop.evaluation():
                scores.end.append(accuracy(model, *stream.whole(task)))
                after_task(task)
    return scores


class StudyLoop:
    """A training loop that opens every stage to treatments, if there are any.

    Args:
        run: the run returned by `homeostat.attach`, or None.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, run: homeostat.AttachedRun | None) -> None:
        self.model, self.optimizer, self.run = model, optimizer, run
        self.batch = run.batch if run is not None else lambda inputs, targets: (inputs, targets)
        self.criterion = run.loss(nn.functional.cross_entropy) if run is not None else nn.functional.cross_entropy
        self.evaluation = run.evaluation if run is not None else contextlib.nullcontext

    def boundary(self, task: int) -> None:
        """Tell the run that a task begins; the first one begins with the run."""
        if self.run is not None and task:
            self.run.boundary(f"task {task}")

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch; returns the outputs of the given items before the step [N, ...] and the loss of all
        items."""
        inputs, extended = self.batch(inputs, targets)
        outputs = self.model(inputs)
        loss = self.criterion(outputs, extended)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return outputs.detach()[: len(targets)], loss.detach()


@contextlib.contextmanager
def attached(
    model: nn.Module, optimizer: Optimizer, treatments: Iterable[Treatment] = (), seed: int = 0
) -> Iterator[StudyLoop]:
    """A training loop with treatments applied with `homeostat.attach`, without measurements. Without treatments, the
    network is trained without Homeostat."""
    treatments = tuple(treatments)
    if not treatments:
        yield StudyLoop(model, optimizer, None)
        return
    with homeostat.attach(model, optimizer, treatments=treatments, vitals=(), seed=seed, strict=True) as run:
        yield StudyLoop(model, optimizer, run)


def _one_task(loop: StudyLoop, stream: TaskStream, task: int, scores: TaskScores) -> float:
    right = items = 0
    for step in range(stream.starts[task], stream.starts[task + 1]):
        inputs, targets = stream.batch(step)
        outputs, loss = loop.step(inputs, targets)
        scores.diverged |= not bool(torch.isfinite(loss))
        right += int((outputs.argmax(-1) == targets).sum())
        items += len(targets)
    return right / items


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Accuracy of the model, in evaluation mode."""
    model.eval()
    right = (model(inputs).argmax(-1) == targets).double().mean().item()
    model.train()
    return right


@torch.no_grad()
def hidden(model: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    """Outputs of the nonlinearities, layer by layer [N, H], in evaluation mode."""
    found, x = [], inputs
    model.eval()
    for module in model:
        x = module(x)
        if not isinstance(module, (nn.Linear, nn.LayerNorm)):
            found.append(x)
    model.train()
    return found


def condition(model: nn.Sequential, inputs: Tensor) -> dict[str, float]:
    """Dormant units (mean over hidden layers) and effective rank of the last hidden layer, on given items."""
    layers = hidden(model, inputs)
    dormant = torch.stack([dormant_fraction(layer) for layer in layers]).mean().item()
    return {"dormant": dormant, "rank": effective_rank(layers[-1]).item()}
