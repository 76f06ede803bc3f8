"""The cadence of each vital: from a share of wall time, or a fixed number of steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from homeostat.core.snapshot import Reading
from homeostat.core.vital import Vital

_TIERS = ("cheap", "moderate", "heavy")
_SHARES = {"cheap": 0.5, "moderate": 0.3, "heavy": 0.2}
_START = {"cheap": 10, "moderate": 50, "heavy": 500}
_RECENT = 5
_MOST_DEBT = 4.0
_BURST = tuple(2**n for n in range(8))
"""Steps after a boundary at which past tasks are evaluated regardless of the budget, which is paid back later."""
SLOWEST = 10**9
START_UP_STEPS = 2000
"""Last step with start-up readings, which are taken in addition to the budget while the credit lasts."""
OVERDRAFT_SECONDS = 0.2
"""For start-up readings at powers of two after the credit is used."""

LOSSES_DENSE = 16
"""Steps at the start whose loss is read, all of them."""
LOSSES_SPACING = 8
"""After these, a loss is read again when this share (one part in so many) of the run so far has passed."""
LOSSES_FAR = 400
"""Most steps between two readings of losses."""


@dataclass
class Credit:
    """Time for start-up readings, in addition to the budget; the networks of a run share it.

    What other processes take of the processor while a reading is made does not count.

    Args:
        seconds: the credit.
        used: used seconds.
        last: seconds of the last start-up reading. The credit ends before another one would exceed it.
        clock: seconds of the clock that the paid readings took.
        overdrawn: seconds of readings that were paid after the credit was used.
    """

    seconds: float
    used: float = 0.0
    last: float = 0.0
    clock: float = 0.0
    overdrawn: float = 0.0

    @property
    def lasts(self) -> bool:
        """Whether the credit suffices for another reading."""
        return self.used + self.last < self.seconds

    @property
    def covers_few(self) -> bool:
        """Whether a few readings are still paid for, where imports or a busy machine have used the credit."""
        return self.overdrawn + self.last < OVERDRAFT_SECONDS

    def take(self, seconds: float) -> None:
        """Subtract what was used for something else than a reading."""
        self.used += seconds

    def pay(self, seconds: float, running: float = 1.0) -> None:
        """Subtract the cost of a reading.

        Args:
            running: the part of these seconds in which this thread was running.
        """
        self.clock += seconds
        lasted = self.lasts
        self.last = seconds * min(running, 1.0)
        self.overdrawn += 0.0 if lasted else self.last
        self.used += self.last


class Cadence:
    """Decides which vitals are due at a step.

    Vitals of a cost tier share a cadence. That of a more expensive tier is a multiple of the cheaper one's, so that one
    capture serves several. Costs are the minimum of the last few measurements, which excludes the load of the machine.
    Step 1 is always measured, as baseline. If the budget sets the cadence, vitals of past tasks are also due 1, 2, 4,
    ... 128 steps after a boundary, when old tasks are most often lost; then the cadence is lower until the cost is
    paid.

    A short run ends before the budget pays for a few readings. So a credit pays for start-up readings, if the budget
    sets the cadence: cheap vitals are also due at steps 2, 4, 8, 12, 16, 24, ... (every 2^ceil(log4(step)) steps, 63
    readings in the first 2,000 steps), moderate ones at the powers of two. Once the credit is used, as happens soon on
    a busy machine, cheap vitals are still due at the powers of two, for at most `OVERDRAFT_SECONDS`.

    Args:
        vitals: the vitals.
        budget: share of wall time, e.g. 0.02.
        every: fixed cadence in steps for all vitals; the budget is then not used.
        fixed: vital name -> fixed cadence, for vitals that a treatment, a controller or the closed loop reads. They
            have no start-up readings.
        credit: time for start-up readings; None means that there are none.
    """

    def __init__(
        self,
        vitals: Sequence[Vital],
        budget: float,
        every: int | None = None,
        fixed: Mapping[str, int] | None = None,
        credit: Credit | None = None,
    ) -> None:
        self._tier = {v.name: v.cost for v in vitals}
        self._budget, self._all = budget, every
        self._fixed = {name: step for name, step in (fixed or {}).items() if name in self._tier}
        self._hasty = {
            v.name for v in vitals if Reading.TASKS in v.reads and every is None and v.name not in self._fixed
        }
        self._credit = credit or Credit(0.0)
        early = vitals if credit is not None and every is None else ()
        self._early = {v.name for v in early if v.cost != "heavy" and v.name not in self._fixed}
        self._early_cheap = {name for name in self._early if self._tier[name] == "cheap"}
        self._switch: int | None = None
        self._every = dict(_START)
        self._costs: dict[str, deque[float]] = {}
        self._warm = False
        self._base: deque[float] = deque(maxlen=_RECENT)

    def every(self, name: str) -> int:
        """The current cadence of a vital, in steps."""
        return self._all or self._fixed.get(name) or self._every[self._tier[name]]

    def cadences(self) -> dict[str, int]:
        """Vital -> current cadence in steps."""
        return {name: self.every(name) for name in self._tier}

    def due(self, step: int) -> tuple[str, ...]:
        """Names of the vitals to measure at the end of this step (first step: 1)."""
        extra = self._start_up(step) | (self._hasty if step in self._burst() else set())
        return tuple(name for name in self._tier if step == 1 or step % self.every(name) == 0 or name in extra)

    def boundary(self, step: int) -> None:
        """A new task begins after this step."""
        self._switch = step

    def _start_up(self, step: int) -> set[str]:
        """Names of the vitals with a start-up reading at this step. Step 1 does not count, as it is always measured."""
        if not 1 < step <= START_UP_STEPS or step % start_up_spacing(step):
            return set()
        doubled = step & (step - 1) == 0
        if self._credit.lasts:
            return self._early if doubled else self._early_cheap
        return self._early_cheap if doubled and self._credit.covers_few else set()

    def _next_start_up(self, step: int, names: set[str]) -> int | None:
        """The first step after `step` with a start-up reading of one of `names`."""
        doubled = 1 << step.bit_length()
        if not self._credit.lasts or not names & self._early_cheap:  # readings at powers of two alone
            return doubled if names & self._start_up(doubled) else None
        spacing = start_up_spacing(step + 1)
        at = (step // spacing + 1) * spacing
        return at if at <= START_UP_STEPS else None

    def _burst(self) -> tuple[int, ...]:
        return () if self._switch is None else tuple(self._switch + after for after in _BURST)

    def steady(self, name: str) -> bool:
        """Whether the vital's cadence is fixed in steps, not set by wall time."""
        return self._all is not None or name in self._fixed

    def next_due(self, step: int, names: Collection[str] | None = None) -> int:
        """The first step after `step` at which a vital (of `names`, if given) is due."""
        if step < 1:
            return 1
        asked = [name for name in self._tier if names is None or name in names]
        soon = [at for at in self._burst() if at > step] if self._hasty.intersection(asked) else []
        if (early := self._next_start_up(step, set(asked))) is not None:
            soon.append(early)
        steps = {self.every(name) for name in asked}
        return min([*soon, *((step // k + 1) * k for k in steps)]) if steps else step + SLOWEST

    def state_dict(self) -> dict[str, int]:
        """Cost tier -> cadence that the budget has set so far; "boundary": the step after which this task began."""
        return {**self._every, **({} if self._switch is None else {"boundary": self._switch})}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue with these cadences; costs are measured again on this machine."""
        self._every = {tier: int(state.get(tier, every)) for tier, every in self._every.items()}
        self._switch = state.get("boundary")

    def pay(self, step: int, costs: Mapping[str, float], base: float, running: float = 1.0) -> float:
        """Subtract the cost of this step's start-up reading from the credit; see `learn` for the arguments.

        Args:
            running: the part of these seconds in which this thread was running.

        Returns:
            The cost in seconds, 0 without a start-up reading.
        """
        if not (early := self._start_up(step)):
            return 0.0
        seconds = base + sum(cost for name, cost in costs.items() if name in early)
        self._credit.pay(seconds, running)
        return seconds

    def learn(self, costs: Mapping[str, float], base: float, step_seconds: float, debt: float = 1.0) -> bool:
        """Update from the cost of a sample.

        Args:
            costs: vital -> seconds spent measuring it.
            base: seconds of the sample that belong to no single vital (capture, transfer, diagnosis).
            step_seconds: time of a training step.
            debt: time spent so far, without the credit, divided by the budget so far; above 1 the cadence is lowered.

        Returns:
            Whether a cadence changed.
        """
        if not self._warm:  # the first sample includes one-time work inside torch: only heavy vitals count
            costs = {name: seconds for name, seconds in costs.items() if self._tier[name] == "heavy"}
        for name, seconds in costs.items():
            self._costs.setdefault(name, deque(maxlen=_RECENT)).append(seconds)
        if self._warm:
            self._base.append(base)
        self._warm = True
        if self._all or step_seconds <= 0:
            return False
        before = dict(self._every)
        previous = 1
        for tier in _TIERS:
            names = [n for n, t in self._tier.items() if t == tier and n not in self._fixed]
            known = [min(self._costs[n]) for n in names if n in self._costs]
            if not known:
                continue
            cost = sum(known) * len(names) / len(known) + (min(self._base) if tier == "cheap" and self._base else 0.0)
            wanted = cost / (self._share(tier) * self._budget * step_seconds) * min(max(debt, 1.0), _MOST_DEBT)
            previous = self._settle(tier, wanted, previous)
        return before != self._every

    def _share(self, tier: str) -> float:
        present = {t for n, t in self._tier.items() if n not in self._fixed}
        return _SHARES[tier] / sum(_SHARES[t] for t in present)

    def _settle(self, tier: str, wanted: float, multiple: int) -> int:
        """A round number at or above `wanted`; slows down at once, speeds up only when clearly too slow."""
        now = self._every[tier]
        if wanted > now or wanted < now / 4 or now % multiple:
            now = _round_up(max(wanted, multiple, 1), multiple)
        self._every[tier] = now
        return now


def start_up_spacing(step: int) -> int:
    """Steps between start-up readings at this step: the smallest power of two at or above its square root."""
    return 1 << -(-(step - 1).bit_length() // 2)


def next_loss_reading(step: int) -> int:
    """The step at which the graph of a loss is read after the one of this step."""
    return step + 1 if step < LOSSES_DENSE else step + min(max(1, step // LOSSES_SPACING), LOSSES_FAR)


def _round_up(wanted: float, multiple: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... at or above `wanted` that is a multiple of `multiple`."""
    scale = 1
    while scale <= SLOWEST:
        for digit in (1, 2, 5):
            if (value := digit * scale) >= wanted and value % multiple == 0:
                return value
        scale *= 10
    return SLOWEST
