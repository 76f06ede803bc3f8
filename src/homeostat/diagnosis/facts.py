"""What is known about a run besides its vitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from homeostat.diagnosis.loss_facts import LossFacts


@dataclass(frozen=True)
class OptimizerFacts:
    """One optimizer, as it stands now.

    Args:
        name: class name, e.g. "SGD".
        learning_rate: of its first parameter group (1/step).
        momentum: SGD's momentum, 0 when there is none.
        weight_decay: of its first parameter group, 0 when there is none.
        network: label of the network whose parameters it holds, "" when there is one network.
        shared: it holds parameters of another network too, and is listed with that one already.
    """

    name: str
    learning_rate: float = float("nan")
    momentum: float = 0.0
    weight_decay: float = 0.0
    network: str = ""
    shared: bool = False


@dataclass(frozen=True)
class ScaleFacts:
    """The loss scale of a GradScaler.

    Args:
        steps: steps under a scale, with those that were left out.
        skipped: steps that were left out because gradients were not finite.
        first: the first scale.
        now: the scale of the last step.
        recent: the last steps, at most 32.
        recent_skipped: those of them that were left out.
    """

    steps: int = 0
    skipped: int = 0
    first: float = float("nan")
    now: float = float("nan")
    recent: int = 0
    recent_skipped: int = 0


@dataclass(frozen=True)
class FrozenFacts:
    """Layers that stay as they are amid layers that are trained, as the first few losses show them.

    Args:
        readings: losses whose graph was read for it.
        inside: layer -> number of its parameters, of frozen layers with trained layers before and behind them.
        matrices: those of them with more than scales and shifts.
        share: part of all parameters that is in frozen layers.
        cut: layers that compute before `cut_before` and get no gradient, although an optimizer holds them.
        cut_before: a trained layer whose input has no gradient.
        cut_how: "no_grad" if these layers ran without a graph, else "detach"; "" without a cut.
        cut_meant: these layers are in evaluation mode and the one behind them is not.
    """

    readings: int = 0
    inside: Mapping[str, int] = field(default_factory=dict[str, int])
    matrices: tuple[str, ...] = ()
    share: float = 0.0
    cut: tuple[str, ...] = ()
    cut_before: str = ""
    cut_how: str = ""
    cut_meant: bool = False


@dataclass(frozen=True)
class OutsideFacts:
    """What a script trains outside of the networks that are followed.

    Args:
        by_hand: no optimizer has stepped, but what the losses depend on changes.
        optimizers: optimizers that stepped although no live module owns what they hold.
        stale: how many parameters of which optimizer no live module owns and never had a gradient.
    """

    by_hand: bool = False
    optimizers: int = 0
    stale: tuple[str, ...] = ()


@dataclass(frozen=True)
class EarlierFacts:
    """What became of batches that the network was trained on earlier, where the data have changed since.

    Knowledge is a share: 0 for guessing, 1 when everything is right. Of classes it is
    (accuracy - guess) / (1 - guess) with guess = share of the most frequent class; of numbers it is 1 - MSE / variance.

    Args:
        evaluations: how often earlier batches were evaluated.
        batches: earlier batches, unlike the present ones, that were evaluated at last.
        items: their items.
        first, last: the steps at which the first and the last of them were trained on.
        differ: what tells them from the present batches: "classes" or "inputs".
        then: knowledge of them when they were trained on, mean.
        now: knowledge of them at the last evaluation, mean.
        before: the same at the evaluation before, NaN when there was none.
        present: knowledge of a present batch at the last evaluation.
        changes: how often a batch looked unlike the one looked at before it.
    """

    evaluations: int = 0
    batches: int = 0
    items: int = 0
    first: int = 0
    last: int = 0
    differ: str = ""
    then: float = float("nan")
    now: float = float("nan")
    before: float = float("nan")
    present: float = float("nan")
    changes: int = 0


@dataclass(frozen=True)
class TargetFacts:
    """A copy of a network's architecture that no optimizer trains, and that gives the targets of that network.

    Args:
        of: label of the network, "" when there is one network.
        steps: optimizer steps of the network since the copy was found.
        readings: at which it was seen to give the targets.
        changed: its parameters have changed since it was found.
        copied: it had the values from which the network started.
        chosen: readings in which the network's outputs were values of actions, of which one was chosen.
    """

    of: str = ""
    steps: int = 0
    readings: int = 0
    changed: bool = False
    copied: bool = True
    chosen: int = 0


@dataclass(frozen=True)
class PolicyFacts:
    """Policies and values, as the autograd graphs of the losses show them.

    Args:
        readings: steps at which losses were read.
        policies: losses with a policy gradient.
        baselines: layers that these losses depend on and no policy does: they only predict returns.
        targets: networks that give targets.
    """

    readings: int = 0
    policies: int = 0
    baselines: tuple[str, ...] = ()
    targets: tuple[TargetFacts, ...] = ()

    @property
    def moving(self) -> bool:
        """The loss follows what the policy does, or a target network: its course is no measure of progress."""
        return 2 * self.policies >= max(self.readings, 1) or bool(self.targets)


@dataclass(frozen=True)
class RateFacts:
    """The learning rate of an optimizer over the run.

    Args:
        highest: the highest one so far.
        now: the present one.
        spent_since: the step since which it is below a hundredth of the highest and below the first, None when it is
            not. A rate that is back where it began after a spike has not been spent.
        first: the one at the start.
    """

    highest: float = float("nan")
    now: float = float("nan")
    spent_since: int | None = None
    first: float = float("nan")


@dataclass(frozen=True)
class Facts:
    """Facts of the run that conditions read beside the vitals; the shell fills in what it knows.

    Args:
        steps: optimizer steps completed.
        backwards: backward passes seen (0 when not counted).
        ended: the run is over; nothing more will come.
        optimizers: every optimizer seen.
        unoptimized: parameters that require a gradient and receive one, that no optimizer holds, and never changed.
        idle: parameters that require a gradient, get none, that no optimizer holds, and that never changed (a teacher,
            or a forgotten branch: cannot be told apart).
        no_gradient: parameters that an optimizer holds but whose gradient was None so far, and that never changed.
        frozen: layers that stay as they are amid layers that are trained.
        outside: what is trained outside of the networks that are followed.
        skipped_steps: optimizer steps a GradScaler left out because gradients overflowed.
        scale: the loss scale of a GradScaler.
        loss_scaled: a GradScaler is at work, so a few non-finite gradients are its search for the scale.
        resumed: training did not start here (an optimizer had state when it was attached).
        probe: a probe batch was given.
        batch_size: samples (rows of activations) per forward pass, None when unknown.
        widths: layer -> number of its units.
        nonlinearity: layer -> "relu", "tanh", ... of its units.
        loss: what the graphs of the losses have shown.
        rates: learning rates, by network.
        earlier: what became of batches trained on earlier.
        task_ends: layer of the loss -> (step, level of the loss before it) of the jumps of the loss, where a new task
            seems to begin.
        policy: policies and values in the losses.
    """

    steps: int = 0
    backwards: int = 0
    ended: bool = False
    optimizers: tuple[OptimizerFacts, ...] = ()
    unoptimized: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    no_gradient: tuple[str, ...] = ()
    frozen: FrozenFacts = field(default_factory=FrozenFacts)
    outside: OutsideFacts = field(default_factory=OutsideFacts)
    skipped_steps: int = 0
    scale: ScaleFacts = ScaleFacts()
    loss_scaled: bool = False
    resumed: bool = False
    probe: bool = False
    batch_size: int | None = None
    widths: Mapping[str, int] = field(default_factory=dict[str, int])
    nonlinearity: Mapping[str, str] = field(default_factory=dict[str, str])
    loss: LossFacts = field(default_factory=LossFacts)
    rates: Mapping[str, RateFacts] = field(default_factory=dict[str, RateFacts])
    earlier: EarlierFacts = EarlierFacts()
    task_ends: Mapping[str, tuple[tuple[int, float], ...]] = field(
        default_factory=dict[str, tuple[tuple[int, float], ...]]
    )
    policy: PolicyFacts = PolicyFacts()

    @property
    def several_objectives(self) -> bool:
        """Several optimizers are at work (actor and critic, generator and discriminator): a loss that rises or
        oscillates is then no sign of sickness, because the target moves."""
        return sum(not optimizer.shared for optimizer in self.optimizers) > 1

    def to_json(self) -> dict[str, Any]:
        """JSON-friendly form."""
        return asdict(self)
