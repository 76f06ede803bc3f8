"""Facts about a run in addition to its vitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from homeostat.diagnosis.loss_facts import LossFacts


@dataclass(frozen=True)
class OptimizerFacts:
    """The current settings of one optimizer.

    Args:
        name: class name, e.g. "SGD".
        learning_rate: of its first parameter group (1/step).
        momentum: of SGD, 0 if there is none.
        weight_decay: of its first parameter group, 0 if there is none.
        network: label of the network whose parameters it holds, "" if there is one network.
        shared: whether it also holds parameters of another network and is listed there already.
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
    """Layers between trained layers that do not train, as the first few losses show.

    Args:
        readings: losses whose graph was read for this.
        inside: layer -> number of its parameters, for frozen layers with trained layers before and behind them.
        matrices: those of these layers that have more than scales and shifts.
        share: share of all parameters that are in frozen layers.
        layers: number of frozen layers with more than scales and shifts, also of those that are not inside.
        cut: layers that run before `cut_before` and get no gradient, although an optimizer holds them.
        cut_before: a trained layer whose input has no gradient.
        cut_how: "no_grad" if these layers ran without a graph, else "detach"; "" if there is no cut.
        cut_meant: whether these layers are in evaluation mode and the layer behind them is not.
    """

    readings: int = 0
    inside: Mapping[str, int] = field(default_factory=dict[str, int])
    matrices: tuple[str, ...] = ()
    share: float = 0.0
    layers: int = 0
    cut: tuple[str, ...] = ()
    cut_before: str = ""
    cut_how: str = ""
    cut_meant: bool = False


@dataclass(frozen=True)
class ItemFacts:
    """What the items of a batch have to do with each other.

    Args:
        looks: how often it was looked at.
        influence: mean change of an item's outputs when the other items of its batch are replaced, over the deviation
            of the outputs within the batch; the largest of the looks.
        items: items of the batch.
    """

    looks: int = 0
    influence: float = 0.0
    items: int = 0


@dataclass(frozen=True)
class OutsideFacts:
    """What a script trains outside of the attached networks.

    Args:
        by_hand: no optimizer has stepped, but parameters that the losses depend on change.
        optimizers: number of optimizers that stepped although no live module owns their parameters.
        stale: for each optimizer, how many of its parameters no live module owns and never had a gradient, as text.
    """

    by_hand: bool = False
    optimizers: int = 0
    stale: tuple[str, ...] = ()


@dataclass(frozen=True)
class EarlierFacts:
    """How well the network still fits batches that it was trained on before the data changed.

    Knowledge is a share: 0 for guessing, 1 when everything is right. Of classes it is
    (accuracy - guess) / (1 - guess) with guess = share of the most frequent class; of numbers it is 1 - MSE / variance.

    Args:
        evaluations: how often earlier batches were evaluated.
        batches: number of earlier batches, different from the present ones, in the last evaluation.
        items: number of items in these batches.
        first, last: steps at which the first and the last of these batches were trained on.
        differ: how they differ from the present batches: "classes" or "inputs".
        then: knowledge of them when they were trained on, mean.
        now: knowledge of them at the last evaluation, mean.
        before: the same at the evaluation before it, NaN if there was none.
        present: knowledge of a present batch at the last evaluation.
        changes: how often a batch differed from the batch checked before it.
        losses: readings of losses together with the calls of the network.
        bootstrapped: those of a regression beside which the network was also called without gradients.
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
    losses: int = 0
    bootstrapped: int = 0


@dataclass(frozen=True)
class TargetFacts:
    """A network of the same architecture that no optimizer trains and that computes the targets of a network.

    Args:
        of: label of the network, "" if there is one network.
        steps: optimizer steps of the network since the copy was found.
        readings: readings at which it computed the targets.
        changed: whether its parameters have changed since it was found.
        copied: whether it had the initial values of the network.
        chosen: readings in which the network's outputs were values of actions, one of which was chosen.
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
        baselines: layers that these losses depend on and no policy does. They only predict returns.
        targets: networks that compute targets.
        chosen: readings of a regression of one output of each item, chosen by an index, as values of actions are.
    """

    readings: int = 0
    policies: int = 0
    baselines: tuple[str, ...] = ()
    targets: tuple[TargetFacts, ...] = ()
    chosen: int = 0

    @property
    def moving(self) -> bool:
        """Whether the loss depends on the policy, on values of actions, or on a target network, so that it does not
        measure progress."""
        most = max(self.readings, 1)
        return 2 * self.policies >= most or bool(self.targets) or 2 * self.chosen >= most


@dataclass(frozen=True)
class RateFacts:
    """The learning rate of an optimizer over the run.

    Args:
        highest: highest value so far.
        now: current value.
        spent_since: step since which it is below a hundredth of the highest value and below the first one; None if it
            is not. A rate that returns to its first value after a peak is not spent.
        first: value at the start.
    """

    highest: float = float("nan")
    now: float = float("nan")
    spent_since: int | None = None
    first: float = float("nan")


@dataclass(frozen=True)
class Facts:
    """Facts of a run that conditions read in addition to the vitals. The shell fills in what it knows.

    Args:
        steps: optimizer steps completed.
        backwards: backward passes (0 if not counted).
        ended: whether the run is over.
        optimizers: all optimizers of the run.
        unoptimized: parameters that receive a gradient, are in no optimizer and never changed.
        idle: parameters that require a gradient, receive none, are in no optimizer and never changed: a teacher or a
            forgotten branch, which look the same.
        no_gradient: parameters in an optimizer whose gradient has always been None and that never changed.
        frozen: layers between trained layers that do not train.
        outside: what is trained outside of the attached networks.
        skipped_steps: optimizer steps that a GradScaler skipped because gradients overflowed.
        scale: loss scale of the GradScaler.
        loss_scaled: whether a GradScaler is in use. A few non-finite gradients are then its search for the scale.
        resumed: whether training continues an earlier run: an optimizer had state when it was attached.
        probe: whether a probe batch was given.
        batch_size: samples (rows of activations) per forward pass, None if unknown.
        widths: layer -> number of its units.
        nonlinearity: layer -> "relu", "tanh", ... of its units.
        loss: what the graphs of the losses have shown.
        rates: learning rates, by network.
        earlier: how well batches trained on earlier are still fitted.
        task_ends: layer of the loss -> (step, level of the loss before it) of each upward jump of the loss, where a new
            task seems to begin.
        policy: policies and values in the losses.
        items: what the items of a batch have to do with each other.
        rebuilt: how often an optimizer was replaced by a new one over the same parameters.
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
    items: ItemFacts = ItemFacts()
    rebuilt: int = 0

    @property
    def several_objectives(self) -> bool:
        """Whether several optimizers train different objectives (actor and critic, generator and discriminator). A loss
        that rises or oscillates is then no fault, because its target moves."""
        return sum(not optimizer.shared for optimizer in self.optimizers) > 1

    @property
    def moving_targets(self) -> bool:
        """Whether the loss depends on a policy or on targets that networks compute, so that it does not measure
        progress."""
        own = self.earlier.losses >= 5 and 2 * self.earlier.bootstrapped >= self.earlier.losses
        return self.policy.moving or own

    def to_json(self) -> dict[str, Any]:
        """JSON-friendly form."""
        return asdict(self)
