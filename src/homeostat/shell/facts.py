"""What diagnosis is told of a run beside its vitals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from homeostat.diagnosis.facts import Facts
from homeostat.shell.network import Network


def gather_facts(
    networks: Sequence[tuple[Network, Mapping[str, int]]],
    *,
    steps: int,
    ended: bool,
    scaled: bool,
    probe: bool,
    backwards: int,
    nonlinearity: Mapping[str, str],
    batch_size: int | None,
) -> Facts:
    """The facts of these networks as they are now.

    Args:
        networks: each with its layers' widths as captured; those the script has let go count only for their steps.
        steps: of the network that has taken most.
        ended: the run is over.
        scaled: a GradScaler is at work.
        probe: a probe batch was given.
        backwards: backward passes of this run.
        nonlinearity: layer, with its network's label -> what its units do.
        batch_size: rows of the smallest batch of activations seen last, None before any.
    """
    living = [network for network, _ in networks if network.alive]
    unheld = [(network, *network.unheld()) for network in living]
    return Facts(
        steps=steps,
        backwards=backwards,
        ended=ended,
        optimizers=tuple(f for network in living for f in network.optimizer_facts()),
        unoptimized=tuple(n.named(name) for n, got, _ in unheld for name in got),
        idle=tuple(n.named(name) for n, _, idle in unheld for name in idle),
        no_gradient=tuple(n.named(name) for n in living for name in sorted(n.no_gradient)),
        skipped_steps=sum(network.skipped for network, _ in networks),
        loss_scaled=scaled,
        resumed=any(network.resumed for network, _ in networks),
        probe=probe,
        batch_size=batch_size,
        nonlinearity=dict(nonlinearity),
        widths={network.named(k): w for network, widths in networks for k, w in widths.items()},
    )
