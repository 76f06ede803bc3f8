"""Stable-Baselines3: a callback that measures an agent during training, and optionally treats and controls it.

    from homeostat.integrations.sb3 import HomeostatCallback

    with HomeostatCallback(treatments=["redo"]) as homeostat:
        SAC("MlpPolicy", "Pendulum-v1").learn(10_000, callback=homeostat)
    print(homeostat.findings())

Networks are named as the library names them ("actor", "critic", "q_net", "policy"). Networks that no optimizer trains
(target networks) are measured and never treated. Works with SAC, TD3, DDPG, DQN, PPO and A2C.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from homeostat.core.controller import Controller
from homeostat.core.dial import Dial, Gauge
from homeostat.core.errors import BadInput, BadSetting, HomeostatError
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.treatment import Treatment
from homeostat.integrations.sb3_agent import ReplayRatio, ScheduledRate, Trained, networks
from homeostat.record.reader import Points
from homeostat.shell.hooks.step_hooks import STEP_HOOKS, Arguments
from homeostat.shell.network import Network
from homeostat.shell.run import atexit
from homeostat.shell.run.failures import warn
from homeostat.shell.run.open_record import open_for
from homeostat.shell.run.run import Run
from homeostat.shell.run.settings import DEFAULT_BUDGET, Settings, chosen
from homeostat.vitals import weight_norm

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
else:
    try:
        from stable_baselines3.common.callbacks import BaseCallback
    except ImportError as error:
        raise ImportError("this needs Stable-Baselines3: pip install 'homeostat[rl]'") from error

REPLAY_RATIO = "replay-ratio"


class HomeostatCallback(BaseCallback):
    """Measures and treats the networks of an agent at their optimizer steps.

    As a context manager, it covers all calls of `learn` inside as one run, and always closes the run. Without a context
    manager, each call of `learn` is a run.

    Args:
        treatments, controllers, vitals, record, seed, budget, every, dry_run, gauges: as for `homeostat.attach`. With
            several networks, a controller's vital names one: "active-units@critic". Controllers may turn "lr" (of that
            network; it multiplies the agent's own schedule) and, off policy, "replay-ratio".
        dials: further numbers that controllers can set.
        treat: names of the networks that treatments are applied to; by default all trained networks.
        strict: raise refusals and internal errors.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
        UnknownName, BadSetting: an argument is invalid.
    """

    def __init__(
        self,
        *,
        treatments: Iterable[Treatment | str] = (),
        controllers: Iterable[Controller | str] = (),
        vitals: str | Sequence[str] = "default",
        treat: Iterable[str] | None = None,
        record: Path | str | None = None,
        seed: int = 0,
        budget: float = DEFAULT_BUDGET,
        every: int | None = None,
        dry_run: bool = False,
        strict: bool = False,
        dials: Mapping[str, Dial] = MappingProxyType({}),
        gauges: Mapping[str, Gauge] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._given: dict[str, Any] = {
            **chosen(treatments, controllers),
            "vitals": vitals if isinstance(vitals, str) else tuple(vitals),
            "budget": budget,
            "every": every,
            "seed": seed,
            "dry_run": dry_run,
            "record": None if record is None else Path(record),
            "gauges": dict(gauges),
        }
        self._dials, self._treat, self._strict = dict(dials), None if treat is None else set(treat), strict
        self._inside = False
        self._follow: _Follow | None = None

    # ---- methods called by Stable-Baselines3

    def _on_training_start(self) -> None:
        if self._follow is not None and self._follow.agent is self.model and self._inside and not self._follow.ended:
            return
        self.close("interrupted")
        replay = ReplayRatio.of(self.model)
        if replay is None and any(c.knob == REPLAY_RATIO for c in self._given["controllers"]):
            raise BadSetting(f"{type(self.model).__name__} has no {REPLAY_RATIO}: it needs train_freq=(n, 'step')")
        dials = {**({REPLAY_RATIO: replay.dial()} if replay else {}), **self._dials}
        found, targets = networks(self.model)
        settings = Settings(dials=dials, **self._given)
        self._check(found, settings)
        self._follow = _Follow(self.model, found, targets, settings, self._treat, self._strict)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if not self._inside:
            self.close()

    def _check(self, found: Sequence[Trained], settings: Settings) -> None:
        names = [network.name for network in found]
        if unknown := sorted((self._treat or set()) - set(names)):
            raise BadSetting(f"this agent trains {', '.join(names)}; there is no {unknown[0]!r} to treat")
        for controller in settings.controllers:
            vital, _, part = controller.vital.partition("@")
            if len(names) > 1 and part.partition(".")[0] not in names:
                raise BadSetting(f"{controller.name}: say for whom it reads {vital}: {vital}@{' or @'.join(names)}")

    # ---- start and end

    def __enter__(self) -> Self:
        self._inside = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._inside = False
        if kind is None:
            self.close()
        else:
            self.close("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    def close(self, status: str = "finished") -> None:
        """End the run: remove all hooks and close the record. Results stay readable. May be called repeatedly."""
        if self._follow is not None:
            self._follow.end(status)

    # ---- results

    @property
    def id(self) -> str:
        """Name of the run, as `homeostat runs` lists it."""
        return self._seen.run.record.run

    @property
    def path(self) -> Path | None:
        """Path of the record, or None if it is in memory."""
        return self._seen.run.record.path

    @property
    def dials(self) -> dict[str, Dial]:
        """Dials by name, without learning rates."""
        return dict(self._seen.run.settings.dials)

    @property
    def _seen(self) -> _Follow:
        if self._follow is None:
            raise BadInput("there is no run yet: pass this callback to agent.learn(..., callback=...)")
        return self._follow

    def findings(self) -> list[Finding]:
        """The current findings, causes before what follows from them."""
        return list(self._seen.run.findings)

    def vitals(self) -> dict[str, dict[str, Points]]:
        """Vital -> layer -> [(step, value)]; layer names begin with the name of the network."""
        return self._seen.run.record.vitals()

    def journal(self) -> list[JournalEntry]:
        """The journal entries of the run."""
        self._flush()
        return self._seen.run.record.journal()

    def not_measured(self) -> dict[str, str]:
        """What could not be measured or treated -> reason."""
        return {entry.what: entry.why for entry in self._seen.run.record.not_measured()}

    def report(self, path: Path | str) -> Path:
        """Write the report page (needs the `report` extra)."""
        from homeostat.report import write_report

        self._flush()
        return write_report(self._seen.run.record, Path(path))

    def to_json(self) -> dict[str, Any]:
        """The record of the run, as written by `--json`."""
        from homeostat.record.export import to_json

        self._flush()
        return to_json(self._seen.run.record)

    def _flush(self) -> None:
        for network_run in self._seen.run.networks:
            network_run.treatments.flush()


class _Follow:
    """One run over the networks of an agent; each network is attached at its first optimizer step.

    Acting in the environment also calls the networks, so nothing is measured before the first step.
    """

    def __init__(
        self,
        agent: Any,
        found: Sequence[Trained],
        targets: Mapping[str, nn.Module],
        settings: Settings,
        treat: set[str] | None,
        strict: bool,
    ) -> None:
        self.agent, self.ended = agent, False
        self.run = Run(settings, open_for(settings, None, warn, strict), strict, on_sample=self._sampled)
        self._strict = strict
        self._treat, self._waiting = treat, {id(n.optimizer): n for n in found}
        self._targets = dict(targets)
        self._rates: list[ScheduledRate] = []
        STEP_HOOKS.subscribe(self)
        self.run.start()
        atexit.begin(self.end)

    def before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Attach a network before the first step of its optimizer."""
        if (new := self._waiting.pop(id(optimizer), None)) is None:
            return None
        with self.run.guard("following a network"):
            network = Network(new.name, new.module, [optimizer])
            rate = ScheduledRate(network)
            network.dials |= {"lr": rate.dial(), **self.run.settings.dials}
            self._rates.append(rate)
            self._add(network)
        return None

    def _add(self, network: Network) -> None:
        try:
            chosen = self._treat is None or network.label in self._treat
            self.run.add(network, treated=chosen).tracing.await_first_call()
        except HomeostatError as error:
            if self._strict:
                raise
            self.run.add_entry(JournalEntry(0, "homeostat", "refuse", network.label, str(error)))
            self.run.not_measured(network.label, str(error))

    def after_step(self, optimizer: Any) -> None:
        """Nothing to do: the run uses its own hooks."""

    def _sampled(self, step: int, loss: float | None, findings: list[Finding]) -> None:
        """Measures the weights of target networks on the sampled steps of the trained networks."""
        rows = []
        for name, module in self._targets.items():
            values = {n: p.detach() for n, p in module.named_parameters()}
            rows += [(step, "weight-norm", f"{name}.{k}", float(v)) for k, v in weight_norm(values).items()]
        if rows:
            self.run.keep(rows)

    def end(self, status: str = "finished") -> None:
        if self.ended:
            return
        self.ended = True
        atexit.done(self.end)
        STEP_HOOKS.unsubscribe(self)
        for rate in self._rates:
            rate.remove()
        self.run.stop(status)
