"""What is known about a run besides its vitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


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
class LossFacts:
    """What the autograd graphs of the losses have shown, over the readings of them so far.

    Args:
        readings: losses whose graph was read.
        duplicated_softmax: readings in which probabilities entered a loss that expects logits.
        softmax_dims: readings in which a softmax was over the wrong dimension.
        softmax_dim: what was wrong with it.
        broadcasts: readings in which the loss compared every output with every target.
        broadcast: the shapes, as text.
        unheld: parameters in the graph that no module and no optimizer holds and that do not change: shapes as text.
        eval_mode: readings in a row, up to the last one, in which a network with dropout or batch norm was in
            evaluation mode.
        eval_since: step of the first of them.
        uncleared: readings at which the gradients of the step before had not been cleared.
        clear_checks: readings at which that was looked at.
        classes: of a cross entropy, 0 without one.
        chance: the loss of guessing by the frequency of the labels (nats), NaN when unknown.
        target_variance: where the loss is a mean squared error: that of predicting the mean of the targets, median of
            the readings; NaN otherwise.
        early_entropy, late_entropy: of the labels in the first and in the last quarter of the readings (nats).
        label_order: "" unless a batch holds few of the classes; then "recurring" if classes come back after they were
            gone, "vanishing" if they do not.
        label_share: part of the classes seen so far that a batch holds, median.
        zero_weights: readings in which everything near the loss was multiplied by zeros.
        weights: readings in which something was multiplied by a constant.
        early_zero_weights: share of zero weights among the first quarter of these.
        input_size: root mean square of the inputs, NaN when unknown.
        input_offset: their mean over their standard deviation within a batch, the largest of the features.
        spreads: readings in which vectors were divided by their norm, in a loss without labels.
        spread: how much these vectors differ within a batch, median of the last 5: about 1 for directions without any
            preference, 0 when all are the same.
        attentions: readings in which attention weights were found.
        attention_entropy: of the weights over that of equal ones, mean of a layer, the lowest layer: 0..1, median of
            the last 5.
        first_attention_entropy: the same at the first reading.
        attention_spread: difference between the largest and the smallest logit of a query (nats), mean of a layer, the
            largest layer, median of the last 5.
        first_attention_spread: the same at the first reading.
        norms: readings of batch norms with running statistics from step 100 on, of the last 5.
        norm_values: numbers from which the statistics of a channel come, median of these.
        norm_shift: distance between running and batch mean in deviations, of the worst layer.
        norms_frozen: of these readings, those in which a batch norm used its running statistics.
        norms_unset: of these readings, those in which a batch norm had the running statistics of a new layer.
        norm_ratio: factor between running and batch variance, of the worst layer.
        outputs: readings of outputs and targets, of the last 5.
        output_spread: deviation of the outputs within a batch, median of these: of log-probabilities and logits, or of
            numbers over that of their targets.
        output_share, output_label_share: share of the most frequent class in predictions and labels.
        target_size, target_offset: root mean square of targets that are numbers, and |mean| over deviation.
        target_error: squared error over the variance of the targets.
        codes: readings of the code of a variational autoencoder, of the last 5.
        code_divergence: of the code from the prior (nats per item), median of these.
        pairs: readings of two batches that enter one layer in one loss (real and made ones), of the last 5.
        made_spread: deviation of one of them over that of the other, at most 1, median of these.
        after: layer -> the layers that its gradient comes through, as far as known.
    """

    readings: int = 0
    duplicated_softmax: int = 0
    softmax_dims: int = 0
    softmax_dim: str = ""
    broadcasts: int = 0
    broadcast: str = ""
    unheld: tuple[str, ...] = ()
    eval_mode: int = 0
    eval_since: int = 0
    uncleared: int = 0
    clear_checks: int = 0
    classes: int = 0
    chance: float = float("nan")
    target_variance: float = float("nan")
    early_entropy: float = float("nan")
    late_entropy: float = float("nan")
    label_order: str = ""
    label_share: float = float("nan")
    zero_weights: int = 0
    weights: int = 0
    early_zero_weights: float = float("nan")
    input_size: float = float("nan")
    input_offset: float = float("nan")
    spreads: int = 0
    spread: float = float("nan")
    attentions: int = 0
    attention_entropy: float = float("nan")
    first_attention_entropy: float = float("nan")
    attention_spread: float = float("nan")
    first_attention_spread: float = float("nan")
    norms: int = 0
    norms_frozen: int = 0
    norms_unset: int = 0
    norm_values: float = float("nan")
    norm_shift: float = float("nan")
    norm_ratio: float = float("nan")
    outputs: int = 0
    output_spread: float = float("nan")
    output_share: float = float("nan")
    output_label_share: float = float("nan")
    target_size: float = float("nan")
    target_offset: float = float("nan")
    target_error: float = float("nan")
    codes: int = 0
    code_divergence: float = float("nan")
    pairs: int = 0
    made_spread: float = float("nan")
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


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
    loss_scaled: bool = False
    resumed: bool = False
    probe: bool = False
    batch_size: int | None = None
    widths: Mapping[str, int] = field(default_factory=dict[str, int])
    nonlinearity: Mapping[str, str] = field(default_factory=dict[str, str])
    loss: LossFacts = LossFacts()
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
