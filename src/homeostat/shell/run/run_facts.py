"""Facts of a run for the diagnosis, in addition to its vitals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from homeostat.diagnosis.facts import EarlierFacts, Facts, ItemFacts, OptimizerFacts, OutsideFacts
from homeostat.shell.hooks.parameter_changes import BY_HAND
from homeostat.shell.hooks.step_hooks import STEP_HOOKS
from homeostat.shell.network import Network
from homeostat.shell.observe.loss_collector import LossCollector
from homeostat.shell.observe.observer import Observer


def gather_facts(
    networks: Sequence[tuple[Network, Mapping[str, int]]],
    *,
    steps: int,
    ended: bool,
    outside: OutsideFacts,
    scaled: bool,
    probe: bool,
    backwards: int,
    nonlinearity: Mapping[str, str],
    batch_size: int | None,
    losses: LossCollector,
    earlier: EarlierFacts,
    items: ItemFacts,
    task_ends: Mapping[str, tuple[tuple[int, float], ...]],
) -> Facts:
    """The current facts of the networks.

    Args:
        networks: each with its layers' widths as captured; those the script has let go count only for their steps. At
            the end of the run those count that it had at the last facts: functions have returned by then.
        steps: of the network that has taken most.
        ended: the run is over.
        outside: what is trained outside of these networks.
        scaled: a GradScaler is at work.
        probe: a probe batch was given.
        backwards: backward passes of this run.
        nonlinearity: layer, with its network's label -> what its units do.
        losses: what is known from the losses.
        earlier: what became of batches trained on earlier.
        items: what the items of a batch have to do with each other.
        task_ends: layer of the loss -> (step, level before it) of its jumps.
        batch_size: rows of the smallest batch of activations seen last, None before any.
    """
    for network, _ in networks:
        network.present = network.present if ended else network.alive
    living = [network for network, _ in networks if network.present]
    unheld = [(network, *network.unheld()) for network in living]
    return Facts(
        steps=steps,
        backwards=backwards,
        ended=ended,
        optimizers=tuple(_optimizer_facts(living)),
        frozen=losses.frozen.facts(),
        scale=losses.scale.facts(),
        outside=outside,
        unoptimized=tuple(n.named(name) for n, got, _ in unheld for name in got),
        idle=tuple(n.named(name) for n, _, idle in unheld for name in idle),
        no_gradient=tuple(n.named(name) for n in living for name in sorted(n.no_gradient)),
        skipped_steps=sum(network.skipped for network, _ in networks),
        loss_scaled=scaled,
        resumed=any(network.resumed for network, _ in networks),
        probe=probe,
        batch_size=batch_size,
        loss=losses.facts(),
        earlier=earlier,
        items=items,
        rebuilt=max((network.rebuilt for network in living), default=0),
        task_ends=dict(task_ends),
        policy=losses.policies.facts(),
        rates={network.label: network.rate for network in living},
        nonlinearity=dict(nonlinearity),
        widths={network.named(k): w for network, widths in networks for k, w in widths.items()},
    )


def _optimizer_facts(networks: Sequence[Network]) -> list[OptimizerFacts]:
    """Each network's optimizers; one that several networks share is marked where it comes again."""
    found, counted = list[OptimizerFacts](), set[int]()
    for network in networks:
        for key, facts in network.optimizer_facts():
            found.append(replace(facts, shared=key in counted))
            counted.add(key)
    return found


def unmeasured(networks: Sequence[tuple[Network, Observer]]) -> Iterator[tuple[str, str]]:
    """(what, why) of what a run, at its end, did not measure."""
    for network, observer in networks:
        for vital, layer in observer.never_measured():
            yield f"{vital} @ {layer}", "always missing: constant, empty or non-finite input"
        if by_hand := network.updated_by_hand():
            yield f"updates of {', '.join(map(network.named, by_hand))}", BY_HAND
    if STEP_HOOKS.compiled:
        yield "steps of a compiled optimizer", "no hook is called in what torch.compile runs"
