"""Mistakes that the autograd graph of the loss shows: inputs, dimensions and mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import BroadcastFacts, ClearingFacts, EvalModeFacts, LossFacts, SoftmaxFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import NEURALINT
from homeostat.diagnosis.thresholds import limit

_UMLAUT = Cite("Schoop, Huang and Hartmann", 2021, "UMLAUT: Debugging Deep Learning Programs", "", "CHI")


@dataclass(frozen=True, kw_only=True)
class GraphCondition(Condition, abstract=True):
    """A condition that shows in most readings of the graph of the loss.

    Settings:
        readings: readings of the loss before it is judged.
        share: smallest share of the readings that show it.
    """

    persistence: int = 1
    readings: float = limit(3, "policy: one odd batch is no mistake of the script", unit="readings")
    share: float = limit(0.5, "policy: what is wrong in the script shows in most steps", high=1.0, unit="of readings")

    def count(self, loss: LossFacts) -> tuple[int, int]:
        """Number of readings that show it, and number of readings."""
        raise NotImplementedError

    def text(self, loss: LossFacts) -> str:
        """The evidence in words."""
        raise NotImplementedError

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        shown, looked = self.count(facts.loss)
        if looked < self.readings or shown < self.share * looked:
            return {}
        return {NETWORK: Sign("warning", self.text(facts.loss), {"readings": min(shown, looked), "of": looked})}


@dataclass(frozen=True, kw_only=True)
class DuplicatedSoftmax(GraphCondition):
    """Probabilities enter a loss that applies softmax (or a sigmoid) itself: `cross_entropy(softmax(x), y)`."""

    cite = NEURALINT
    explains = SYMPTOMS
    explanation = (
        "The loss applies softmax to its inputs, and they are probabilities already. Logits between 0 and 1 cannot "
        "separate the classes: the loss stays high and its gradients are small."
    )
    remedies = (
        Remedy("give the loss the logits: remove the last softmax (or sigmoid) of the network"),
        Remedy("if the network must return probabilities, use nll_loss of their logarithm"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "softmax before cross entropy": Facts(
            steps=500, loss=LossFacts(readings=20, softmax=SoftmaxFacts(duplicated=20))
        ),
    }

    def count(self, loss: LossFacts) -> tuple[int, int]:
        return loss.softmax.duplicated, loss.readings

    def text(self, loss: LossFacts) -> str:
        return "probabilities enter a loss that expects logits: softmax is applied twice"


@dataclass(frozen=True, kw_only=True)
class MissingLogSoftmax(GraphCondition):
    """A negative log-likelihood is given logits or probabilities instead of log-probabilities: `nll_loss(x, y)`."""

    cite = NEURALINT
    explains = (*SYMPTOMS, "non-finite")
    explanation = (
        "nll_loss takes the value at the label as the logarithm of its probability. Logits can be raised for all "
        "classes at once, so the loss falls without bound; probabilities give weak gradients that vanish for the "
        "classes that are wrong."
    )
    remedies = (Remedy("use cross_entropy of the logits, or end the network with log_softmax(dim=1)"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "nll_loss of logits": Facts(steps=500, loss=LossFacts(readings=20, softmax=SoftmaxFacts(missing=20))),
    }

    def count(self, loss: LossFacts) -> tuple[int, int]:
        return loss.softmax.missing, loss.readings

    def text(self, loss: LossFacts) -> str:
        return "nll_loss is given numbers that are no logarithms of probabilities: these would sum to more than one"


@dataclass(frozen=True, kw_only=True)
class WrongSoftmaxDim(GraphCondition):
    """A softmax is over another dimension than the one that is summed over, or over the items of the batch."""

    cite = NEURALINT
    explains = SYMPTOMS
    explanation = (
        "A softmax is normalised over the wrong dimension. Attention weights that do not sum to one over the keys, or "
        "class probabilities that sum to one over the batch, carry almost no information."
    )
    remedies = (Remedy("apply softmax over the last dimension (dim=-1): the keys of attention, the classes of a loss"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "softmax over the queries": Facts(
            steps=500,
            loss=LossFacts(readings=20, softmax=SoftmaxFacts(wrong_dim=20, what="the softmax is over dimension 1")),
        ),
    }

    def count(self, loss: LossFacts) -> tuple[int, int]:
        return loss.softmax.wrong_dim, loss.readings

    def text(self, loss: LossFacts) -> str:
        return loss.softmax.what


@dataclass(frozen=True, kw_only=True)
class BroadcastLoss(GraphCondition):
    """Outputs [N, 1] are compared with targets [N]: broadcasting makes N x N differences of them."""

    cite = _UMLAUT
    explains = SYMPTOMS
    explanation = (
        "The shapes of outputs and targets differ, and broadcasting compares every output with every target. The best "
        "that the network can do is to give the mean of the targets for every input."
    )
    remedies = (Remedy("give outputs and targets the same shape: outputs.squeeze(1), or targets.unsqueeze(1)"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "targets without a dimension": Facts(
            steps=500,
            loss=LossFacts(
                readings=20, broadcast=BroadcastFacts(readings=20, shapes="outputs [32, 1] give a loss over [32, 32]")
            ),
        ),
    }

    def count(self, loss: LossFacts) -> tuple[int, int]:
        return loss.broadcast.readings, loss.readings

    def text(self, loss: LossFacts) -> str:
        return f"{loss.broadcast.shapes}: every output is compared with every target"


@dataclass(frozen=True, kw_only=True)
class GradientsAccumulate(GraphCondition):
    """Gradients are not cleared between optimizer steps, so every step uses the sum of all earlier gradients."""

    cite = _UMLAUT
    explains = SYMPTOMS
    explanation = (
        "The gradients of earlier steps are still there when the next backward pass adds to them. The steps grow "
        "with time and point where the loss used to fall."
    )
    remedies = (Remedy("call optimizer.zero_grad() once before each backward() (or after each step())"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "no zero_grad": Facts(steps=500, loss=LossFacts(readings=20, clearing=ClearingFacts(uncleared=19, checks=19))),
    }
    share: float = limit(0.9, "policy: a script that clears them now and then accumulates on purpose", high=1.0)

    def count(self, loss: LossFacts) -> tuple[int, int]:
        return loss.clearing.uncleared, loss.clearing.checks

    def text(self, loss: LossFacts) -> str:
        shown, looked = self.count(loss)
        return f"at {shown} of {looked} backward passes the gradients of the step before had not been cleared"


@dataclass(frozen=True, kw_only=True)
class TrainedInEvalMode(Condition):
    """A network is trained while all of it is in evaluation mode, and computes otherwise in training mode.

    It has dropout or batch norm, or the code of its own modules asks for `self.training`.

    Networks with a part in training mode (frozen batch norm) are not judged. The number of steps in evaluation mode
    counts, not the number of readings, which are denser at the start of a run.
    """

    cite = NEURALINT
    explains = (*SYMPTOMS, "batchnorm-mismatch", "loss-spikes")
    explanation = (
        "The forward pass that is trained runs in evaluation mode: dropout is off, and batch norm uses running "
        "statistics that are never updated."
    )
    remedies = (Remedy("call model.train() after every evaluation, before the next training step"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "never back in training mode": Facts(
            steps=500, loss=LossFacts(readings=40, eval_mode=EvalModeFacts(readings=38, since=20))
        ),
    }
    persistence: int = 1
    readings: float = limit(8, "policy: a step or two in evaluation mode may be meant", unit="readings")

    share: float = limit(0.5, "policy: what is wrong in the script shows in most steps", high=1.0, unit="of the steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        count, since = facts.loss.eval_mode.readings, facts.loss.eval_mode.since
        if count < self.readings or facts.steps - since < self.share * facts.steps:
            return {}
        text = f"the losses since step {since} were computed in evaluation mode ({count} were looked at)"
        return {NETWORK: Sign("warning", text, {"readings": count, "since": since})}
