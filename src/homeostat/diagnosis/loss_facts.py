"""What the autograd graphs of the losses have shown, by subject. "Readings" are losses whose graph was read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SoftmaxFacts:
    """Softmax in the graph of the loss.

    Args:
        duplicated: readings in which probabilities entered a loss that expects logits.
        missing: readings in which a negative log-likelihood was given no logarithms of probabilities.
        wrong_dim: readings in which a softmax was over the wrong dimension.
        what: what was wrong with the dimension, as a sentence.
    """

    duplicated: int = 0
    missing: int = 0
    wrong_dim: int = 0
    what: str = ""


@dataclass(frozen=True)
class BroadcastFacts:
    """Losses that compare every output with every target.

    Args:
        readings: readings of such a loss.
        shapes: the shapes, as text.
    """

    readings: int = 0
    shapes: str = ""


@dataclass(frozen=True)
class ClearingFacts:
    """Whether gradients are cleared between optimizer steps.

    Args:
        checks: readings at which it was checked.
        uncleared: those at which the gradients of the previous step still existed.
        lost: backward passes of a step whose gradients were gone before the next one, median of the steps.
    """

    checks: int = 0
    uncleared: int = 0
    lost: float = 0.0


@dataclass(frozen=True)
class LeakFacts:
    """Targets that are among the inputs.

    Args:
        readings: readings in which a network was given the tokens that it was to find.
        how: in which way, as a sentence.
    """

    readings: int = 0
    how: str = ""


@dataclass(frozen=True)
class EvalModeFacts:
    """Losses of networks with dropout or batch norm that are in evaluation mode.

    Args:
        readings: consecutive readings of such losses, up to the latest reading.
        since: step of the first of them.
    """

    readings: int = 0
    since: int = 0


@dataclass(frozen=True)
class LabelFacts:
    """Labels of a cross entropy.

    Args:
        classes: number of classes, 0 without a cross entropy.
        chance: loss of guessing by the frequency of the labels (nats), NaN if unknown.
        early_entropy, late_entropy: of the labels in the first and in the last quarter of the readings (nats).
        order: "" unless a batch holds few of the classes; then "recurring" if classes come back after they were gone,
            else "vanishing".
        share: share of the classes so far that a batch holds, median.
    """

    classes: int = 0
    chance: float = math.nan
    early_entropy: float = math.nan
    late_entropy: float = math.nan
    order: str = ""
    share: float = math.nan


@dataclass(frozen=True)
class WeightingFacts:
    """Losses of which something is multiplied by a constant, e.g. log-probabilities by advantages.

    Args:
        readings: readings of such losses.
        zero: those in which everything near the loss was multiplied by zeros.
        early_zero: share of these in the first quarter of the readings.
    """

    readings: int = 0
    zero: int = 0
    early_zero: float = math.nan


@dataclass(frozen=True)
class InputFacts:
    """Inputs of the network, at the latest reading.

    Args:
        size: root mean square, NaN if unknown.
        offset: |mean| over standard deviation within a batch, median of the features.
    """

    size: float = math.nan
    offset: float = math.nan


@dataclass(frozen=True)
class DirectionFacts:
    """Vectors that are divided by their norm, in a loss without labels.

    Args:
        readings: readings of such losses, at most 160.
        spread: how much these vectors differ within a batch, median of the last 5: about 1 if all directions are
            equally likely, 0 if all vectors are the same.
    """

    readings: int = 0
    spread: float = math.nan


@dataclass(frozen=True)
class AttentionFacts:
    """Attention weights and logits.

    Args:
        readings: readings in which attention weights were found.
        entropy: entropy of the weights over that of equal ones, in 0..1: mean of a layer, lowest layer, median of the
            last 5 readings.
        spread: difference between the largest and the smallest logit of a query (nats): mean of a layer, largest
            layer, median of the last 5 readings.
        first_entropy, first_spread: the same at the first reading.
    """

    readings: int = 0
    entropy: float = math.nan
    spread: float = math.nan
    first_entropy: float = math.nan
    first_spread: float = math.nan


@dataclass(frozen=True)
class BatchNormFacts:
    """Batch norms with running statistics, from step 100 on. All numbers are of the last 5 readings.

    Args:
        readings: number of readings.
        frozen: readings in which a batch norm used its running statistics.
        unset: readings in which a batch norm had the running statistics of a new layer.
        values: numbers from which the statistics of a channel are computed, median.
        shift: distance between running and batch mean in standard deviations, worst layer, median.
        ratio: factor between running and batch variance, worst layer, median.
    """

    readings: int = 0
    frozen: int = 0
    unset: int = 0
    values: float = math.nan
    shift: float = math.nan
    ratio: float = math.nan


@dataclass(frozen=True)
class OutputFacts:
    """Outputs that a loss compares with targets. All numbers are of the last 5 readings.

    Args:
        readings: number of readings.
        spread: standard deviation of the outputs within a batch, median: of log-probabilities and logits, or of
            numbers over that of their targets.
        share, label_share: share of the most frequent class in predictions and in labels, median.
    """

    readings: int = 0
    spread: float = math.nan
    share: float = math.nan
    label_share: float = math.nan


@dataclass(frozen=True)
class RegressionFacts:
    """Targets that are numbers.

    Args:
        size, offset: root mean square of the targets, and |mean| over standard deviation; medians of the last 5
            readings.
        error: squared error over the variance of the targets, median of the last 5 readings.
        variance: loss of predicting the mean of the targets, median of the readings of a mean squared error.
    """

    size: float = math.nan
    offset: float = math.nan
    error: float = math.nan
    variance: float = math.nan


@dataclass(frozen=True)
class OrderFacts:
    """The order of targets that are numbers.

    Args:
        readings: number of readings, at most 160.
        within: variance within a batch over that of all targets, median.
        recurring: whether the means of the batches have about the same range in both halves of the readings.
    """

    readings: int = 0
    within: float = math.nan
    recurring: bool = False


@dataclass(frozen=True)
class GenerativeFacts:
    """Variational autoencoders and discriminators. All numbers are of the last 5 readings.

    Args:
        codes: readings of the code of a variational autoencoder.
        code_divergence: divergence of the code from the prior (nats per item), median.
        pairs: readings of a loss in which two batches enter one layer (real and generated ones).
        made_spread: standard deviation of one of these batches over that of the other, at most 1, median.
    """

    codes: int = 0
    code_divergence: float = math.nan
    pairs: int = 0
    made_spread: float = math.nan


@dataclass(frozen=True)
class LossFacts:
    """What the graphs of the losses have shown so far.

    Args:
        readings: number of readings.
        unheld: parameters in the graph that no module and no optimizer holds and that do not change: shapes as text.
        strangers: parameters in the graph of no followed network that do not change, while two optimizers train the
            same parameters: shapes as text.
        after: layer -> the layers that its gradient comes through, as far as known.
    """

    readings: int = 0
    softmax: SoftmaxFacts = SoftmaxFacts()
    broadcast: BroadcastFacts = BroadcastFacts()
    clearing: ClearingFacts = ClearingFacts()
    leak: LeakFacts = LeakFacts()
    eval_mode: EvalModeFacts = EvalModeFacts()
    labels: LabelFacts = LabelFacts()
    weighting: WeightingFacts = WeightingFacts()
    inputs: InputFacts = InputFacts()
    directions: DirectionFacts = DirectionFacts()
    attention: AttentionFacts = AttentionFacts()
    batch_norm: BatchNormFacts = BatchNormFacts()
    outputs: OutputFacts = OutputFacts()
    regression: RegressionFacts = RegressionFacts()
    target_order: OrderFacts = OrderFacts()
    generative: GenerativeFacts = GenerativeFacts()
    unheld: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def known_guesses(self) -> list[float]:
        """Losses of guessing that are known: of classes, and of numbers."""
        return [level for level in (self.labels.chance, self.regression.variance) if level > 0]
