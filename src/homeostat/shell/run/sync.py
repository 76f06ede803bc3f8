"""Synchronise measurements and edits across DDP ranks."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from homeostat.core.errors import BadInput, Refused
from homeostat.core.finding import JournalEntry
from homeostat.core.signals import pass_on
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Treatment
from homeostat.shell.ddp.process_group import find_ranks
from homeostat.shell.network import Network
from homeostat.shell.observe.observer import Observer
from homeostat.shell.run.treatments import TreatmentRunner
from homeostat.shell.unit_graph.trace import UnitGraph

CHECK_EVERY = 100
"""Steps between two checks that the ranks have equal weights and the same treatments."""


class RankSync:
    """Synchronises a network on this rank with the other ranks. Does nothing with a single process.

    A run that only measures does not communicate, so it may be attached on one rank alone.

    Args:
        treatments, observer: of the network.
        acts: whether anything may change the run: treatments, controllers, the closed loop.
        settings: JSON-friendly settings; they must be equal on all ranks.
        add_entry: takes journal entries.
        on_end: called if the ranks can no longer act together; ends controllers and the closed loop.
    """

    def __init__(
        self,
        network: Network,
        treatments: TreatmentRunner,
        observer: Observer,
        acts: Callable[[], bool],
        settings: Any,
        add_entry: Callable[[JournalEntry], None],
        on_end: Callable[[], None],
    ) -> None:
        self._network, self._treatments, self._observer = network, treatments, observer
        self._acts, self._settings, self._add_entry, self._on_end = acts, settings, add_entry, on_end
        self._readers: dict[str, Treatment] = {}

    def agreed(self, trace: UnitGraph) -> UnitGraph:
        """Connect to the other ranks, and keep of the trace only what all ranks found.

        Raises:
            Refused: a rank did not arrive, or has other settings (in a strict run; else it is written to the journal).
        """
        if not self._acts():
            return trace
        ranks = self._network.ranks or find_ranks(self._network.model)
        if ranks is None:
            return trace
        mine = [group.layer for group in trace.groups], list(trace.taps)
        try:
            heard = ranks.exchange([self._settings, *mine])
            if any(settings != self._settings for settings, _, _ in heard):
                raise BadInput("the ranks were attached with different settings")
        except BadInput as error:
            pass_on(error)
            self.end(str(error))
            return trace
        self._network.ranks = ranks
        groups = set(mine[0]).intersection(*(found for _, found, _ in heard))
        taps = set(mine[1]).intersection(*(found for _, _, found in heard))
        alone = {layer: "another rank could not pair its units" for layer in set(mine[0]) - groups}
        return replace(
            trace,
            groups=tuple(group for group in trace.groups if group.layer in groups),
            taps={layer: tap for layer, tap in trace.taps.items() if layer in taps},
            refused={**trace.refused, **alone},
        )

    def gathered(self, step: int, activations: dict[str, Tensor]) -> dict[str, Tensor]:
        """Activations of a step for treatments: those of all ranks if a treatment reads activations."""
        if self._network.ranks is None or self._treatments.traced is None:
            return activations
        applied = self._treatments.applied
        self._readers |= {c.name: c.treatment for c in applied if c.begun and Reading.ACTIVATIONS in c.treatment.reads}
        due = any(treatment.due(step) for treatment in self._readers.values())
        return self._of_all(activations, {group.layer for group in self._treatments.traced.units} if due else set())

    def pooled(self, step: int, activations: dict[str, Tensor]) -> dict[str, Tensor]:
        """Activations for vitals: those of all ranks if a controller or the closed loop reads them, else those of this
        rank's batch.
        """
        capture = self._observer.capture
        steady = capture is not None and self._observer.steady(step)
        return self._of_all(activations, set(capture.taps) if steady and capture is not None else set())

    def _of_all(self, activations: dict[str, Tensor], layers: set[str]) -> dict[str, Tensor]:
        ranks = self._network.ranks
        if ranks is None or not layers:
            return activations
        if ranks.uneven:
            self.end("the ranks may run out of batches one after another (join()), so they cannot meet on every step")
            return activations
        mine = {layer: rows for layer, rows in activations.items() if layer in layers}
        return {**activations, **ranks.gather(mine, layers, self._network.device)}

    def check(self, step: int) -> None:
        """Every `CHECK_EVERY` steps, check that the ranks have equal weights and the same treatments."""
        ranks = self._network.ranks
        if ranks is None or (step % CHECK_EVERY and step != 1):
            return
        names = ",".join(sorted(applied.name for applied in self._treatments.applied))
        if ranks.equal(zlib.crc32(names.encode()), self._network.values().values(), self._network.device):
            here = {applied.name for applied in self._treatments.applied}
            self._readers = {name: reader for name, reader in self._readers.items() if name in here}
        else:
            self.end(f"at step {step} the ranks no longer hold equal weights or give the same treatments")

    def next_due(self, step: int) -> int | None:
        """The next step at which the ranks communicate in any case."""
        if self._network.ranks is None:
            return None
        check = (step // CHECK_EVERY + 1) * CHECK_EVERY
        readers = self._readers.values()
        return next((s for s in range(step + 1, check) if any(reader.due(s) for reader in readers)), check)

    def end(self, why: str) -> None:
        """End all treatments and controllers on this rank, so that the ranks do not diverge further.

        Raises:
            Refused: in a strict run.
        """
        self._network.ranks = None
        self._readers.clear()
        self._on_end()
        for applied in list(self._treatments.applied):
            self._treatments.stop(applied.name, "refuse", why)
        self._add_entry(JournalEntry(self._network.step, "homeostat", "error", self._network.label, why))
        if self._treatments.strict:
            raise Refused("homeostat", self._network.label or "this network", why)
