"""Traces a network at its first forward pass: its units, taps and initial distributions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch import Tensor

from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.module_tree import parameters_in
from homeostat.shell.hooks.torch_internals import unseen
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Capture, CompiledCapture
from homeostat.shell.observe.compiled import eager_pass, find_entrance, on_call
from homeostat.shell.observe.observer import Observer
from homeostat.shell.run.treatments import TreatmentRunner
from homeostat.shell.unit_graph.first_pass import FirstPass, ordinary, small_copy
from homeostat.shell.unit_graph.init_distributions import fresh_distributions, norm_parameters
from homeostat.shell.unit_graph.trace import Tap, UnitGraph, observation_taps, trace_units
from homeostat.shell.unit_graph.traced_network import TracedNetwork

PATIENCE = 3
"""Number of optimizer steps to wait for a call of the model, before its layers are read without one."""
LARGEST_TRACED = 20_000_000
"""Larger networks are traced only if a treatment needs their units, because tracing copies the network."""


class LazyTrace:
    """Traces the units of a network with the arguments of its first call.

    Args:
        network, treatments, observer: of one network; treatments and observer receive the result.
        not_measured: takes (what, why).
        agreed: with several ranks, keeps of a trace only what all ranks found.
        on_known: called after tracing, so that hooks can be installed before the layers run.
        guard: catches and reports errors during the user's forward pass.
        to_pair: whether anything may change the run. Then units are paired, which runs a copy of the network; otherwise
            only the user's first pass is observed.

    Attributes:
        waiting: whether the model has not been called yet.
        since: step since which it waits.
        widths: layer -> number of captured units.
        seconds: time spent on tracing.
    """

    def __init__(
        self,
        network: Network,
        treatments: TreatmentRunner,
        observer: Observer,
        not_measured: Callable[[str, str], None],
        agreed: Callable[[UnitGraph], UnitGraph],
        on_known: Callable[[], None],
        guard: Callable[[str], AbstractContextManager[None]],
        to_pair: Callable[[], bool],
    ) -> None:
        self._network, self._treatments, self._observer, self._not_measured = (
            network,
            treatments,
            observer,
            not_measured,
        )
        self._agreed, self._on_known, self._guard, self._to_pair = agreed, on_known, guard, to_pair
        self._listening: FirstPass | None = None
        self._kept: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        treatments.pair = self.pair
        self._handle: Any = None
        self._example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        treatments.relearn = self._relearn
        self.since = network.step
        self.waiting = True
        self._at_entrance = False
        self.widths: dict[str, int] = {}
        self.seconds = 0.0

    def await_first_call(self) -> None:
        """Trace at the next training call of the model."""
        model = self._network.model
        entrance = find_entrance(model, self._network.compiled)
        self._at_entrance = entrance is not None
        self._network.compiled |= self._at_entrance
        self._handle = on_call(model if entrance is None else entrance, self._guarded)

    def _guarded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self._guard("tracing the network"):
            if self.waiting and not ordinary(args, kwargs):
                return  # fake, nested or batched tensors: the next call may be usable
            if self._to_pair():
                self.learn_from(args, kwargs)
            elif self.waiting:
                self._listen(args, kwargs)
        if isinstance(capture := self._observer.capture, CompiledCapture) and capture.installed:
            capture.read(args, kwargs)  # its hook is in place from the next call on

    def learn_from(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Trace the network with the arguments of one of its calls."""
        if not self.waiting:
            return
        began = CLOCK.now()
        self.cancel()
        self._example = args, kwargs
        try:
            self._finish(self._traced(args, kwargs))
        finally:
            self._example = None
        self.seconds += CLOCK.now() - began

    def _listen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the taps in the pass that begins now, or, for a compiled network, in an eager pass."""
        self.cancel()
        self._kept = small_copy(args, kwargs)
        if self._at_entrance:
            self._listening = FirstPass(self._network.model, self._guard, lambda: None)
            self._listening.begin(args, kwargs)
            try:
                eager_pass(self._network.model, args, kwargs, gradients=True)
            finally:
                self._heard()
        else:
            self._listening = FirstPass(self._network.model, self._guard, self._returned)
            self._listening.begin(args, kwargs)

    def _returned(self) -> None:
        """The network has returned. Parts under gradient checkpointing are visible only in the backward pass."""
        if self._listening is None or self._listening.hidden:
            return
        if self._listening.made:
            self._heard()
        else:
            self.cancel()
            self.await_first_call()

    def step_ended(self) -> None:
        """Use the observations of a step in which only parts of the network were called, or parts were hidden."""
        if self._listening is not None and self._listening.made:
            self._heard(at_end=True)

    def _heard(self, at_end: bool = False) -> None:
        """End the first pass: take its taps and their readings."""
        began, listening = CLOCK.now(), self._listening
        self._listening = None
        if listening is None:
            return
        listening.remove()
        with unseen():
            found = listening.taps()
            taps = {layer: tap for layer, (tap, _) in found.items()}
            self._finish(UnitGraph(taps=taps or observation_taps(self._network.model)), observed=True)
            capture = self._observer.capture
            if capture is not None and not isinstance(capture, CompiledCapture):
                if at_end:
                    capture.install(taps)
                capture.adopt({layer: (event.head, event.training) for layer, (_, event) in found.items()})
        self.seconds += CLOCK.now() - began

    def pair(self) -> None:
        """Pair the units now, for a treatment that starts while the network is only observed."""
        traced = self._treatments.traced
        if traced is None or not traced.observed:
            return
        if self._kept is None:
            self._treatments.traced = self._relearn()
            return
        trace = self._agreed(self._traced(*self._kept))
        self._take_taps({**self._taps(), **trace.taps})
        self._treatments.traced = replace(traced, units=trace.groups, refused=dict(trace.refused), observed=False)

    def units(self) -> dict[str, int]:
        """Layer -> number of units, for layers whose units could be paired."""
        traced = self._treatments.traced
        if traced is None:
            return {}
        if traced.observed and self._kept is not None:
            trace = self._traced(*self._kept)
            self._treatments.traced = traced = replace(traced, units=trace.groups, refused=dict(trace.refused))
        return {group.layer: group.width for group in traced.units}

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> UnitGraph:
        size = sum(p.numel() for p in parameters_in(self._network.model))
        needed = any(c.treatment.needs_units for c in self._treatments.applied)
        if size > LARGEST_TRACED and not needed:
            return UnitGraph(taps=observation_taps(self._network.model))
        with warnings.catch_warnings():  # torch's warnings about our passes do not concern the user's
            warnings.simplefilter("ignore")
            return trace_units(self._network.model, args, kwargs)

    def _relearn(self) -> TracedNetwork | None:
        """Trace the network again after edits of modules; None if that has to wait for its next call."""
        if self._example is not None:
            return self._noted(self._traced(*self._example))
        self.waiting, self.since = True, self._network.step
        self.await_first_call()
        return None

    def recall(self, traced: TracedNetwork, taps: dict[str, Tap], widths: dict[str, int]) -> None:
        """Use the trace of the interrupted run, because trained weights would give a worse one."""
        self.cancel()
        self.waiting = False
        self._agreed(UnitGraph(traced.units, taps=taps))
        self._take_taps(taps)
        self.widths = dict(widths)
        self._treatments.settle(traced)

    def after_step(self, step: int) -> None:
        """Stop waiting for a call after some steps without one."""
        if not self.waiting or self._await_compiled():
            return
        if step - self.since >= PATIENCE:
            self.cancel()
            name = type(self._network.model).__name__
            why = f"{name} itself was never called in {PATIENCE} steps, only its parts: its units cannot be paired"
            self._finish(UnitGraph(taps=observation_taps(self._network.model), refused={"the network": why}))
        elif self._listening is None and not self._at_entrance and not self._to_pair():
            self.cancel()  # the network itself was not called: observe its parts
            self._listening = FirstPass(self._network.model, self._guard, self._returned)

    def fell_silent(self) -> bool:
        """Hooks do not fire: if the network was compiled since, read it eagerly. Return whether it was compiled."""
        capture = self._observer.capture
        if capture is None or isinstance(capture, CompiledCapture) or find_entrance(self._network.model, True) is None:
            return False
        self._network.compiled = True
        self._capture(capture.taps)
        return True

    def _capture(self, taps: Mapping[str, Tap]) -> None:
        entrance = find_entrance(self._network.model, self._network.compiled)
        if self._observer.capture is not None:
            self._observer.capture.remove()
        if entrance is None:
            self._observer.capture = Capture(self._network, taps, self._guard)
        else:
            self._observer.capture = CompiledCapture(self._network, taps, self._guard, entrance)

    def _await_compiled(self) -> bool:
        """Whether the network was compiled after `attach`; then its next call is intercepted."""
        if self._at_entrance or find_entrance(self._network.model) is None:
            return False
        self._network.compiled = True
        self.cancel()
        self.await_first_call()
        return True

    def cancel(self) -> None:
        """Stop waiting."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self._listening is not None:
            self._listening.remove()
            self._listening = None

    def note_widths(self, activations: dict[str, Tensor]) -> None:
        """Store the width of each captured layer."""
        for layer, value in activations.items():
            self.widths.setdefault(layer, value.shape[-1])

    def _finish(self, trace: UnitGraph, observed: bool = False) -> None:
        self.waiting = False
        self._treatments.settle(self._noted(trace, observed))
        self._on_known()

    def _taps(self) -> Mapping[str, Tap]:
        return {} if self._observer.capture is None else self._observer.capture.taps

    def _take_taps(self, taps: Mapping[str, Tap]) -> None:
        self._capture(taps)
        self._observer.nonlinearity = {layer: tap.nonlinearity for layer, tap in taps.items()}

    def _noted(self, trace: UnitGraph, observed: bool = False) -> TracedNetwork:
        """Store the taps for the observer; return the trace for treatments."""
        trace = self._agreed(trace)
        self._take_taps(trace.taps)
        if any(c.treatment.needs_units for c in self._treatments.applied):
            for layer, why in trace.refused.items():
                self._not_measured(f"units of {self._network.named(layer)}", why)
        return TracedNetwork(
            units=trace.groups,
            refused=dict(trace.refused),
            fresh=fresh_distributions(self._network.model),
            norms=norm_parameters(self._network.model),
            observed=observed,
        )
