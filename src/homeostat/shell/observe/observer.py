"""Measures a network: which vitals, when, from which readings, at what cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from homeostat.core.signals import pass_on
from homeostat.core.snapshot import Probe, Reading, Readings, Twin
from homeostat.core.vital import Vital
from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.random_streams import streams_kept
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Capture
from homeostat.shell.observe.cadence import Cadence
from homeostat.shell.observe.task_probe import TaskProbes
from homeostat.shell.observe.twin_reader import TwinReader

_APART = frozenset({Reading.PROBE, Reading.TASKS})
"""Readings that run a copy of the network."""
_WHOLE = frozenset({Reading.WEIGHTS, Reading.GRADIENTS, Reading.UPDATES, Reading.INITIAL, Reading.TWIN}) | _APART
"""Readings that need whole parameters."""
Row = tuple[int, str, str, float | None]
"""(step, vital, layer, value or None where it could not be measured)."""


class Observer:
    """The vitals of one network.

    Args:
        network: the network.
        vitals: the requested vitals; those that need a missing probe are dropped, with a report.
        cadence: their cadence.
        not_measured: takes (what, why), once each.
        make_probe: returns the probe at this step, or None if the user gave no probe batch.
        failed: takes (what, why) if a vital has failed and is no longer measured; None means `not_measured`.
        twin_reader: reader of the twin, None if the user gave none.
        tasks: the evaluation items of tasks, None if the user gave none.
    """

    def __init__(
        self,
        network: Network,
        vitals: Sequence[Vital],
        cadence: Cadence,
        not_measured: Callable[[str, str], None],
        make_probe: Callable[[], Probe] | None = None,
        failed: Callable[[str, str], None] | None = None,
        tasks: TaskProbes | None = None,
        twin_reader: TwinReader | None = None,
    ) -> None:
        self.network, self.cadence, self.tasks, self.twin_reader = network, cadence, tasks, twin_reader
        self.not_measured, self._make_probe, self._failed = not_measured, make_probe, failed or not_measured
        self.vitals = {v.name: v for v in vitals if self._possible(v)}
        self.capture: Capture | None = None
        self.nonlinearity: dict[str, str] = {}
        self.initial: dict[str, Tensor] = {}
        if any(Reading.INITIAL in v.reads for v in self.vitals.values()):
            self.initial = {n: p.clone() for n, p in network.values().items()}
        self._readers = [v for v in self.vitals.values() if Reading.ACTIVATIONS in v.reads]
        self._lead = 1
        self._last: dict[str, int] = {}
        self.rows: int | None = None
        self._window: list[Mapping[str, Tensor]] = []
        self._before: dict[str, Tensor] = {}
        self._sane: set[tuple[str, str]] = set()
        self._odd: set[tuple[str, str]] = set()

    def _possible(self, vital: Vital) -> bool:
        if Reading.PROBE in vital.reads and self._make_probe is None:
            self.not_measured(vital.name, "needs a probe batch: attach(model, optimizer, probe=(batch, loss_fn))")
            return False
        if Reading.TWIN in vital.reads and self.twin_reader is None:
            self.not_measured(
                vital.name, "needs a second network: attach(..., measure=MeasureOptions(twin=other_model))"
            )
            return False
        if Reading.TASKS in vital.reads and self.tasks is None:
            self.not_measured(
                vital.name,
                "needs evaluation items of tasks: attach(..., measure=MeasureOptions(tasks=(sets, loss_fn)))",
            )
            return False
        if vital.reads & _WHOLE and (name := self.network.sharded()):
            self.not_measured(vital.name, f"{name} is sharded over processes, and only a part of it is here")
            return False
        return True

    def due(self, step: int) -> list[str]:
        """Names of the vitals due at the end of the step with this number."""
        return [name for name in self.cadence.due(step) if name in self.vitals]

    def reads(self, reading: Reading, step: int) -> bool:
        """Whether a vital due at this step reads this."""
        return any(reading in self.vitals[name].reads for name in self.due(step))

    def capture_from(self, step: int) -> int:
        """The first step after `step` whose activations are needed: the next due one, or a few before it if a batch is
        smaller than the vitals need."""
        due = self.cadence.next_due(step, [v.name for v in self._readers])
        return max(step + 1, due - self._lead + 1)

    def steady(self, step: int) -> bool:
        """Whether a vital that reads activations is due at this step at a fixed cadence."""
        due = self.cadence.due(step)
        return any(v.name in due and self.cadence.steady(v.name) for v in self._readers)

    def collect(self, step: int, activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add captured activations; at a due step, return all since the window opened.

        Batches smaller than the vitals' `min_samples` are combined over several steps.
        """
        if step < self.capture_from(step - 1):
            return {}  # captured for a treatment, before the window opens
        self._window.append(activations)
        if not self.reads(Reading.ACTIVATIONS, step):
            return {}
        layers = dict.fromkeys(layer for part in self._window for layer in part)
        joined = {k: torch.cat([part[k] for part in self._window if k in part]) for k in layers}
        ranks = self.network.ranks
        rows = max((len(v) for v in joined.values()), default=0) * (1 if ranks is None else ranks.size)
        if rows:
            needed = max(getattr(v, "min_samples", 1) for v in self._readers)
            self.rows = a_step = max(rows // self._lead, 1)
            self._lead = max(1, -(-needed // a_step))
        self._window = []
        return joined

    def state_dict(self) -> dict[str, Any]:
        """The state for continuing in another process: the open window, initial values, missing vitals."""
        step = self.network.step
        if self.capture is not None and step and step >= self.capture_from(step - 1):
            self._window += [taken] if (taken := self.capture.take()) else []
        return {
            "lead": self._lead,
            "rows": self.rows,
            "window": [dict(part) for part in self._window],
            "initial": dict(self.initial),
            "measured": sorted(self.vitals),
            "sane": sorted(map(list, self._sane)),
            "odd": sorted(map(list, self._odd)),
            "cadence": self.cadence.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], asked: Collection[str]) -> None:
        """Continue from `state_dict`.

        Args:
            asked: names of the vitals of the saved run's settings; those that it did not measure had failed.
        """
        self._lead, self.rows = state["lead"], state["rows"]
        if self.twin_reader is not None:
            self.twin_reader.begin()
        self._window = [dict(part) for part in state["window"]]
        self.initial = dict(state["initial"]) or self.initial
        for name in set(asked) - set(state["measured"]):
            if name in self.vitals and not self.vitals[name].reads & _APART:
                del self.vitals[name]
        self._sane, self._odd = {(a, b) for a, b in state["sane"]}, {(a, b) for a, b in state["odd"]}
        self.cadence.load_state_dict(state["cadence"])

    def drop_captured(self) -> None:
        """The step was skipped: drop its readings."""
        if self.capture is not None:
            self.capture.take()

    def before_update(self, step: int) -> None:
        """Store the weights before the optimizer's update, if a due vital reads updates."""
        if self.reads(Reading.UPDATES, step) or self.reads(Reading.WEIGHTS, step):
            self._before = {n: p.clone() for n, p in self.network.values().items()}

    def sample(
        self, step: int, activations: Mapping[str, Tensor], loss: Tensor | None, only: Iterable[str] | None = None
    ) -> tuple[list[Row], dict[str, float]]:
        """Measure the due vitals.

        Args:
            step: number of the step that has just ended.
            activations: layer -> [N, H].
            loss: mean loss since the last sample, 0-dim.
            only: measure exactly these vitals instead.

        Returns:
            Rows for the record, and vital -> seconds spent on it. Values leave the device in one transfer.
        """
        names = [n for n in (self.due(step) if only is None else only) if n in self.vitals]
        readings = self._readings(step, names, activations, loss)
        measured: list[tuple[str, str, Tensor]] = []
        costs: dict[str, float] = {}
        for name in names:
            start = CLOCK.now()
            try:
                apart = bool(self.vitals[name].reads & _APART)
                with torch.no_grad(), streams_kept() if apart else contextlib.nullcontext():
                    values = self.vitals[name](readings)
                measured += [(name, self.network.named(layer), _one(value)) for layer, value in values.items()]
            except Exception as error:
                pass_on(error)
                self._failed(name, f"an internal error, reported once: {type(error).__name__}: {error}")
                del self.vitals[name]
            costs[name], self._last[name] = CLOCK.now() - start, step
        self._before = {}
        return self._rows(step, measured), costs

    def boundary(self, step: int) -> list[Row]:
        """A task ends after this step: measure the vitals of tasks, unless this step has measured them.

        Returns rows for the record; none before the first step.
        """
        self.cadence.boundary(step)
        asked = [n for n, v in self.vitals.items() if v.reads == {Reading.TASKS} and self._last.get(n) != step]
        return self.sample(step, {}, None, asked)[0] if step and asked else []

    def never_measured(self) -> list[tuple[str, str]]:
        """(vital, layer) pairs that were always missing."""
        return sorted(self._odd - self._sane)

    def _readings(
        self, step: int, names: Sequence[str], activations: Mapping[str, Tensor], loss: Tensor | None
    ) -> Readings:
        wanted = {reading for name in names for reading in self.vitals[name].reads}
        after = self.network.values() if self._before else {}
        updates = {n: after[n] - w for n, w in self._before.items() if n in after and after[n].shape == w.shape}
        tasks, present = self.tasks() if Reading.TASKS in wanted and self.tasks is not None else ({}, "")
        probe = self._make_probe() if Reading.PROBE in wanted and self._make_probe is not None else None
        return Readings(
            step=step,
            activations=activations if Reading.ACTIVATIONS in wanted else {},
            nonlinearity=self.nonlinearity,
            weights=self._before,
            gradients=self.network.gradients() if Reading.GRADIENTS in wanted else {},
            updates=updates if Reading.UPDATES in wanted else {},
            loss=loss,
            initial=self.initial,
            probe=probe,
            twin=self._twin(names, probe) if Reading.TWIN in wanted else None,
            tasks=tasks,
            present=present,
        )

    def _twin(self, names: Sequence[str], probe: Probe | None) -> Twin | None:
        """Both networks, or None, with a report, if they have different numbers of steps."""
        if self.twin_reader is None:
            return None
        if not (why := self.twin_reader.why_not()):
            return self.twin_reader(probe)
        for name in names:
            if Reading.TWIN in self.vitals[name].reads:
                self.not_measured(name, why)
        return None

    def _rows(self, step: int, measured: Sequence[tuple[str, str, Tensor]]) -> list[Row]:
        if not measured:
            return []
        numbers = torch.stack([value.cpu() for _, _, value in measured]).tolist()
        rows: list[Row] = []
        for (name, layer, _), number in zip(measured, numbers, strict=True):
            missing = number != number
            (self._odd if missing else self._sane).add((name, layer))
            rows.append((step, name, layer, None if missing else number))
        return rows


def _one(value: Tensor) -> Tensor:
    """The value of a layer as one float64 number on its device.

    Raises:
        TypeError: it is not a number.
    """
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        shown = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"a vital must return one number per layer, got {shown}")
    return value.detach().double().reshape(())
