"""Generative models that ignore their code, or that generate the same item again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.cite import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign
from homeostat.diagnosis.facts import Facts, OptimizerFacts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import GenerativeFacts, LossFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class PosteriorCollapse(Condition):
    """The code of a variational autoencoder equals the prior for every input: KL(q(z|x) || p(z)) is about zero.

    Settings:
        nats: largest divergence per item of a code that carries no information.
        steps: optimizer steps before it is judged.
    """

    cite = Cite("Bowman et al.", 2016, "Generating Sentences from a Continuous Space", "1511.06349")
    explains = ("dormant-units", "rank-collapse", "vanishing-gradients", "stalled-learning", "output-collapse")
    explanation = (
        "The encoder gives the prior for every input, so the code carries nothing and the decoder ignores it: samples "
        "are the decoder's alone."
    )
    remedies = (
        Remedy("anneal the weight of the divergence from 0, or lower it (beta below 1)"),
        Remedy(
            "check the weight: a mean over pixels against a sum over the code makes the divergence outweigh the fit"
        ),
        Remedy("allow each latent a few nats (free bits), or weaken the decoder"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "a code that says nothing": Facts(
            steps=1000, loss=LossFacts(readings=40, generative=GenerativeFacts(codes=5, code_divergence=1e-4))
        ),
    }
    persistence: int = 1
    nats: float = limit(0.05, "policy: a twentieth of a nat tells next to nothing apart", ease=1.5, unit="nats")
    steps: float = limit(200, "policy: a code may take that long to form", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        generative = facts.loss.generative
        if generative.codes < 5 or facts.steps < self.steps or not generative.code_divergence <= self.nats:
            return {}
        text = f"the divergence of the code from the prior is {generative.code_divergence:.2g} nats per item"
        return {NETWORK: Sign("warning", text, {"nats": generative.code_divergence})}


@dataclass(frozen=True, kw_only=True)
class ModeCollapse(Condition):
    """The items that a generator makes differ within a batch far less than real items do.

    Both must enter the discriminator in one loss, in a run with several optimizers.

    Settings:
        spread: largest standard deviation of one batch relative to that of the other.
        steps: optimizer steps before it is judged.
    """

    cite = Cite("Salimans et al.", 2016, "Improved Techniques for Training GANs", "1606.03498", "section 3.2")
    explains = ("rank-collapse", "vanishing-gradients", "dormant-units", "saturated-units")
    explanation = (
        "The generator makes nearly the same item whatever the noise. The discriminator learns to reject it, the "
        "generator moves on to another, and neither improves."
    )
    remedies = (
        Remedy("show the discriminator statistics of the batch (minibatch discrimination)"),
        Remedy("lower the rate of the generator, or train the discriminator more often"),
        Remedy("use a loss with a gradient penalty (WGAN-GP) or spectral normalisation"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "one item again and again": Facts(
            steps=1000,
            optimizers=(OptimizerFacts("Adam", network="g"), OptimizerFacts("Adam", network="d")),
            loss=LossFacts(readings=40, generative=GenerativeFacts(pairs=5, made_spread=0.01)),
        ),
    }
    persistence: int = 1
    spread: float = limit(0.15, "policy: generators that learn reach 0.5 to 1", ease=1.3, high=1.0)
    steps: float = limit(300, "policy: new generators make next to one item", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        generative = facts.loss.generative
        if generative.pairs < 5 or facts.steps < self.steps or not facts.several_objectives:
            return {}
        if not generative.made_spread <= self.spread:
            return {}
        text = f"one of real and made batches differs within itself by {generative.made_spread:.2g} of the other"
        return {NETWORK: Sign("warning", text, {"spread": generative.made_spread})}
