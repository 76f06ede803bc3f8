"""Policy-gradient training on the verifier's reward, and what is measured on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homeostat.core.controller import Controller
from homeostat.core.objective import Objective
from homeostat.core.treatment import State
from homeostat.objectives import covariance, group_advantage, token_mean
from homeostat.studies.lab.reasoning.base import generator
from homeostat.studies.lab.reasoning.model import Transformer
from homeostat.studies.lab.reasoning.sampling import Rollouts, pass_at_k, sample, score
from homeostat.studies.lab.reasoning.tasks import Chain


@dataclass(frozen=True)
class Rounds:
    """How long and on how much.

    Args:
        rounds: how often rollouts are sampled.
        updates: optimizer steps made on each round's rollouts, a part each: the staleness. 1 is on-policy; with k the
            last part was written by a policy k - 1 updates old.
        prompts, group: prompts an update, answers a prompt.
        rate: learning rate of Adam; the gradient's norm is clipped at 1.
    """

    rounds: int
    updates: int = 1
    prompts: int = 16
    group: int = 8
    rate: float = 3e-4


@dataclass
class Steered:
    """A controller that turns one knob of an objective by the token entropy, once an update.

    Begun with the knob's neutral 0 and a previous error of 0, so that the first error counts in full, as in EntroPIC.
    """

    controller: Controller
    knob: str = "alpha"
    state: State | None = None

    def turn(self, entropy: Tensor) -> dict[str, Tensor]:
        """The knob for this update."""
        if self.state is None:
            begun = self.controller.init(torch.zeros((), dtype=torch.float64))
            self.state = {**begun, "error": torch.zeros((), dtype=torch.float64)}
        value, self.state = self.controller.step(entropy, self.state)
        return {self.knob: value}


@dataclass
class Log:
    """Name -> one number an update (or a test)."""

    series: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float | Tensor) -> None:
        for name, value in values.items():
            self.series.setdefault(name, []).append(float(f"{float(value):.6g}"))


def batch_of(rollouts: Rollouts, logp: Tensor, entropy: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Every field that a policy-gradient objective may read."""
    advantage = group_advantage(rollouts.rewards.view(-1, rollouts.group)).flatten()
    return {
        "mask": rollouts.mask,
        "logp": logp,
        "old_logp": rollouts.logp,
        "advantage": advantage[:, None].expand_as(logp),
        "entropy": entropy,
        "noise": noise,
    }


def improve(
    model: Transformer,
    task: Chain,
    objectives: tuple[Objective, ...],
    rounds: Rounds,
    seed: int,
    *,
    steered: Steered | None = None,
    probe: bool = False,
    test: Callable[[int], None] = lambda update: None,
) -> Log:
    """Train a policy in place; the first objective's knob is the steered one.

    Args:
        probe: also measure the entropy on the same tokens after each update, for the change it made.
        test: called before the first update and after each round with the number of updates made.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rounds.rate, fused=True)
    asked, drawn, noise = (generator(seed, "improve", name) for name in ("prompts", "answers", "noise"))
    log = Log()
    test(0)
    for made in range(rounds.rounds):
        prompts = task.prompts(rounds.prompts * rounds.updates, asked)
        for part in sample(model, task, prompts, rounds.group, drawn).split(rounds.updates):
            logp, entropy = score(model, part.prompts, part.answers)
            batch = batch_of(part, logp, entropy, torch.rand(logp.shape, generator=noise))
            mean_entropy = token_mean(entropy.detach(), part.mask)
            turned = steered.turn(mean_entropy) if steered else {}
            _update(model, optimizer, objectives, batch, turned)
            spent = token_mean(covariance(logp.detach(), batch["advantage"], part.mask), part.mask)
            log.add(entropy=mean_entropy, reward=part.rewards.mean(), covariance=spent, **turned)
            if probe:
                with torch.no_grad():
                    after = token_mean(score(model, part.prompts, part.answers)[1], part.mask)
                log.add(change=after - mean_entropy)
        test((made + 1) * rounds.updates)
    return log


def _update(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    objectives: tuple[Objective, ...],
    batch: Mapping[str, Tensor],
    turned: Mapping[str, Tensor],
) -> None:
    losses = []
    for place, objective in enumerate(objectives):
        knobs = {**objective.knobs(), **(turned if place == 0 else {})}
        losses.append(objective({name: batch[name] for name in objective.fields}, knobs).values.sum())
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def tested(model: Transformer, task: Chain, seed: int, prompts: int, group: int) -> dict[str, float]:
    """pass@1, pass@k for k = group / 2, and mean token entropy on prompts kept for this; the same at every call."""
    source = generator(seed, "test")
    found = sample(model, task, task.prompts(prompts, source), group, source)
    with torch.no_grad():
        _, entropy = score(model, found.prompts, found.answers)
    correct = found.rewards.view(-1, group)
    return {
        "pass@1": pass_at_k(correct, 1).mean().item(),
        "pass@k": pass_at_k(correct, max(1, group // 2)).mean().item(),
        "entropy": token_mean(entropy, found.mask).item(),
    }
