"""How often each vital is measured: a share of wall time sets it, or a fixed number of steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from homeostat.core.readings import Reading
from homeostat.core.vital import Vital

_TIERS = ("cheap", "moderate", "heavy")
_SHARES = {"cheap": 0.5, "moderate": 0.3, "heavy": 0.2}
_START = {"cheap": 10, "moderate": 50, "heavy": 500}
_RECENT = 5
_MOST_DEBT = 4.0
_BURST = tuple(2**n for n in range(8))
"""Steps after a boundary at which past tasks are looked at whatever the budget says, which is paid back later."""
SLOWEST = 10**9


class Cadence:
    """Decides which vitals are due at a step.

    Vitals of one cost tier share a cadence; that of a dearer tier is a multiple of the cheaper one's, so that
    one capture serves several. Costs are the smallest of the last few measured, which shuts out a busy machine. Step 1
    is always measured: it is the baseline. Where the budget sets the pace, what reads evaluation items of tasks is also
    due 1, 2, 4, ... 128 steps after a boundary, for that is when old tasks are lost; then the pace drops until it is
    paid for.

    Args:
        vitals: what is measured.
        budget: share of wall time, e.g. 0.02.
        every: fixed cadence in steps for all vitals; the budget is then not used.
        fixed: vital name -> fixed cadence, for what feeds a treatment, a controller or the closed loop.
    """

    def __init__(
        self, vitals: Sequence[Vital], budget: float, every: int | None = None, fixed: Mapping[str, int] | None = None
    ) -> None:
        self._tier = {v.name: v.cost for v in vitals}
        self._budget, self._all = budget, every
        self._fixed = {name: step for name, step in (fixed or {}).items() if name in self._tier}
        self._hasty = {
            v.name for v in vitals if Reading.TASKS in v.reads and every is None and v.name not in self._fixed
        }
        self._switch: int | None = None
        self._every = dict(_START)
        self._costs: dict[str, deque[float]] = {}
        self._warm = False
        self._base: deque[float] = deque(maxlen=_RECENT)

    def every(self, name: str) -> int:
        """The present cadence of a vital, in steps."""
        return self._all or self._fixed.get(name) or self._every[self._tier[name]]

    def cadences(self) -> dict[str, int]:
        """Vital -> present cadence in steps."""
        return {name: self.every(name) for name in self._tier}

    def due(self, step: int) -> tuple[str, ...]:
        """Names of the vitals to measure at the end of this step (first step: 1)."""
        hasty = self._hasty if step in self._burst() else ()
        return tuple(name for name in self._tier if step == 1 or step % self.every(name) == 0 or name in hasty)

    def boundary(self, step: int) -> None:
        """A new task begins after this step."""
        self._switch = step

    def _burst(self) -> tuple[int, ...]:
        return () if self._switch is None else tuple(self._switch + after for after in _BURST)

    def steady(self, name: str) -> bool:
        """Whether the vital's cadence is fixed in steps, not set by wall time."""
        return self._all is not None or name in self._fixed

    def next_due(self, step: int, names: Collection[str] | None = None) -> int:
        """The first step after `step` at which something (of `names`, when given) is due."""
        if step < 1:
            return 1
        asked = [name for name in self._tier if names is None or name in names]
        soon = [at for at in self._burst() if at > step] if self._hasty.intersection(asked) else []
        steps = {self.every(name) for name in asked}
        return min([*soon, *((step // k + 1) * k for k in steps)]) if steps else step + SLOWEST

    def state_dict(self) -> dict[str, int]:
        """Cost tier -> cadence that the budget has set so far; "boundary": the step after which this task began."""
        return {**self._every, **({} if self._switch is None else {"boundary": self._switch})}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue at that pace; what vitals cost on this machine is learned anew."""
        self._every = {tier: int(state.get(tier, every)) for tier, every in self._every.items()}
        self._switch = state.get("boundary")

    def learn(self, costs: Mapping[str, float], base: float, step_seconds: float, debt: float = 1.0) -> bool:
        """Update from what one sample cost.

        Args:
            costs: vital -> seconds spent measuring it.
            base: seconds of the sample that belong to no single vital (capture, transfer, diagnosis).
            step_seconds: a step of the user's own training.
            debt: what was spent so far over what the budget allowed so far; above 1 the pace drops until it is paid.

        Returns:
            Whether a cadence changed.
        """
        if not self._warm:  # the first sample also pays for first-time work inside torch: only the heavy ones count
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


def _round_up(wanted: float, multiple: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... at or above `wanted` that is a multiple of `multiple`."""
    scale = 1
    while scale <= SLOWEST:
        for digit in (1, 2, 5):
            if (value := digit * scale) >= wanted and value % multiple == 0:
                return value
        scale *= 10
    return SLOWEST
