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
        network: label of the network whose parameters it holds, "" when there is one network.
    """

    name: str
    learning_rate: float = float("nan")
    momentum: float = 0.0
    network: str = ""


@dataclass(frozen=True)
class Facts:
    """Facts of the run that conditions read beside the vitals; the shell fills in what it knows.

    Args:
        steps: optimizer steps completed.
        backwards: backward passes seen (0 when not counted).
        ended: the run is over; nothing more will come.
        optimizers: every optimizer seen.
        unoptimized: parameters that require a gradient and receive one, but that no optimizer holds.
        idle: parameters that require a gradient, get none, and that no optimizer holds (a target network, or a
            forgotten branch: cannot be told apart).
        no_gradient: parameters that an optimizer holds but whose gradient was None at every step so far.
        skipped_steps: optimizer steps a GradScaler left out because gradients overflowed.
        loss_scaled: a GradScaler is at work, so a few non-finite gradients are its search for the scale.
        resumed: training did not start here (an optimizer had state when it was attached).
        probe: a probe batch was given.
        batch_size: samples (rows of activations) per forward pass, None when unknown.
        widths: layer -> number of its units.
        nonlinearity: layer -> "relu", "tanh", ... of its units.
    """

    steps: int = 0
    backwards: int = 0
    ended: bool = False
    optimizers: tuple[OptimizerFacts, ...] = ()
    unoptimized: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    no_gradient: tuple[str, ...] = ()
    skipped_steps: int = 0
    loss_scaled: bool = False
    resumed: bool = False
    probe: bool = False
    batch_size: int | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    nonlinearity: Mapping[str, str] = field(default_factory=dict)

    @property
    def several_objectives(self) -> bool:
        """Several optimizers are at work (actor and critic, generator and discriminator): a loss that rises or
        oscillates is then no sign of sickness, because the target moves."""
        return len(self.optimizers) > 1

    def to_json(self) -> dict[str, Any]:
        """JSON-friendly form."""
        return asdict(self)
