"""The contract of a curve: a family that is fitted to one or more runs and forecasts with an interval.

Fits are by least squares (scipy, imported for the first fit). Intervals are by the delta method: with J the derivatives
of the curve at the data, n points, p parameters and s^2 = (sum of squared residuals) / (n - p),

    covariance of the parameters   C = s^2 (J^T J)^-1
    interval of the curve at x     f(x) +- t * sqrt(g C g^T),          g = df/dparameters at x
    interval of an observation     f(x) +- t * sqrt(g C g^T + s^2)

t is the Student quantile with n - p degrees of freedom. For a family that is linear in its parameters, intervals are
exact for independent normal errors of equal variance; for others they are first-order approximations. Errors of points
of one training run are not independent, so the interval is too narrow; studies state this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homeostat.core.component import Component, find
from homeostat.core.errors import BadInput, BadSetting

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """A forecast at some points: mean [N], and the ends of the interval, low and high [N]."""

    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True, kw_only=True)
class Curve(Component, abstract=True):
    """A family of curves y = f(x; parameters).

    Class attributes:
        parameters: their names, in order.
        example: typical values, for the laws and for plots.
        domain: range of x on which the example is typical.
        spacing: usual spacing of x, "linear" or "log".
    """

    kind: ClassVar[str] = "curve"
    parameters: ClassVar[tuple[str, ...]]
    example: ClassVar[tuple[float, ...]]
    domain: ClassVar[tuple[float, float]]
    spacing: ClassVar[Literal["linear", "log"]] = "linear"

    def value(self, x: Array, parameters: Array) -> Array:
        """f(x; parameters), [N]. Pure."""
        raise NotImplementedError

    def derivative(self, x: Array, parameters: Array) -> Array:
        """df/dparameters, [N, P]. Pure."""
        raise NotImplementedError

    def start(self, x: Array, y: Array) -> Array:
        """Initial parameters of a fit, [P]; the solution if the family is linear in its parameters."""
        raise NotImplementedError

    def admit(self, x: Array) -> None:
        """Check that the family is defined at these points.

        Raises:
            BadInput: it is not; the message states the domain.
        """

    def fit(self, x: ArrayLike, y: ArrayLike) -> Fitted:
        """Fit by least squares.

        Args:
            x, y: [N] numbers, with N at least the number of parameters plus two.

        Raises:
            BadInput: too few points, numbers that are not finite, x or y constant, x outside the family's domain, or
                points that do not determine the parameters.
        """
        data = self._checked(x, y)
        found = _least_squares(self, *data)
        residual, slopes = data[1] - self.value(data[0], found), self.derivative(data[0], found)
        variance = float(residual @ residual) / (len(residual) - len(found))
        covariance = variance * _inverse(self.name, slopes)
        return Fitted(
            curve=self,
            values=tuple(found.tolist()),
            covariance=tuple(map(tuple, covariance.tolist())),
            noise=float(np.sqrt(variance)),
            points=len(residual),
        )

    def _checked(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        first, second = (np.array(values, dtype=np.float64) for values in (x, y))
        if first.ndim != 1 or first.shape != second.shape:
            raise BadInput(
                f"{self.name}: x and y must be two lists of one length, got {first.shape} and {second.shape}"
            )
        if len(first) < len(self.parameters) + 2:
            raise BadInput(f"{self.name} needs at least {len(self.parameters) + 2} points, got {len(first)}")
        for name, values in (("x", first), ("y", second)):
            if not np.isfinite(values).all():
                raise BadInput(f"{self.name}: {name} holds NaN or infinite values; leave out what was not measured")
            if np.ptp(values) == 0:
                raise BadInput(f"{self.name}: {name} is {values[0]:g} everywhere; a constant determines no curve")
        self.admit(first)
        order = np.lexsort((second, first))  # sorted, so that sums do not depend on the order of the points
        return first[order], second[order]


@dataclass(frozen=True)
class Fitted:
    """A fitted curve.

    Args:
        curve: the family.
        values: the parameters, in the order of the family.
        covariance: of the parameters, [P][P].
        noise: standard deviation of the residuals, in units of y.
        points: number of points of the fit.
    """

    curve: Curve
    values: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    noise: float
    points: int

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters by name."""
        return dict(zip(self.curve.parameters, self.values, strict=True))

    def forecast(
        self, x: ArrayLike, *, level: float = 0.95, of: Literal["observation", "curve"] = "observation"
    ) -> Forecast:
        """Forecast at x, with an interval.

        Args:
            x: a number or [N].
            level: coverage probability of the interval, 0 to 1.
            of: "observation" (a new, noisy point) or "curve" (the mean).

        Raises:
            BadInput: x is not finite or outside the family's domain.
            BadSetting: level is not between 0 and 1, or `of` is unknown.
        """
        if not 0 < level < 1 or of not in ("observation", "curve"):
            raise BadSetting(
                f"level must lie between 0 and 1 and of be 'observation' or 'curve', got {level!r}, {of!r}"
            )
        at, values = np.atleast_1d(np.array(x, dtype=np.float64)), np.array(self.values)
        if at.ndim != 1 or not np.isfinite(at).all():
            raise BadInput(f"{self.curve.name}: forecast at finite numbers, got {x!r}")
        self.curve.admit(at)
        mean, slopes = self.curve.value(at, values), self.curve.derivative(at, values)
        variance = np.einsum("np,pq,nq->n", slopes, np.array(self.covariance), slopes).clip(min=0)
        reach = self._quantile(level) * np.sqrt(variance + (self.noise**2 if of == "observation" else 0.0))
        return Forecast(mean, mean - reach, mean + reach)

    def interval(self, parameter: str, *, level: float = 0.95) -> tuple[float, float]:
        """Interval of one parameter.

        Raises:
            BadInput: the family has no such parameter.
        """
        if parameter not in self.curve.parameters:
            raise BadInput(
                f"{self.curve.name} has the parameters {', '.join(self.curve.parameters)}, not {parameter!r}"
            )
        at = self.curve.parameters.index(parameter)
        reach = self._quantile(level) * float(np.sqrt(max(self.covariance[at][at], 0.0)))
        return self.values[at] - reach, self.values[at] + reach

    def _quantile(self, level: float) -> float:
        stats = _scipy("stats")
        return float(stats.t.ppf(0.5 + level / 2, self.points - len(self.values)))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts, from which `from_json` restores the curve."""
        return {
            "curve": self.curve.name,
            "settings": self.curve.settings(),
            "parameters": self.parameters,
            "covariance": [list(row) for row in self.covariance],
            "noise": self.noise,
            "points": self.points,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """The fitted curve of a `to_json`.

        Raises:
            UnknownName: no curve has that name.
            BadInput: a field is missing.
        """
        try:
            curve = find("curve", row["curve"])(**row["settings"])
            values = tuple(float(row["parameters"][name]) for name in curve.parameters)
            covariance = tuple(tuple(map(float, line)) for line in row["covariance"])
            return cls(curve, values, covariance, float(row["noise"]), int(row["points"]))
        except KeyError as error:
            raise BadInput(f"this is not a fitted curve: it has no {error}") from None


def _scipy(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"scipy.{module}")
    except ImportError as error:
        raise BadInput("curves need scipy: pip install 'homeostat[studies]'") from error


def _least_squares(curve: Curve, x: Array, y: Array) -> Array:
    """Levenberg-Marquardt from the initial parameters of the family."""

    def residual(parameters: Array) -> Array:
        return curve.value(x, parameters) - y

    def jacobian(parameters: Array) -> Array:
        return curve.derivative(x, parameters)

    found = _scipy("optimize").least_squares(
        residual,
        curve.start(x, y),
        jac=jacobian,
        method="lm",
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    return np.asarray(found.x, dtype=np.float64)


def _inverse(name: str, slopes: Array) -> Array:
    """(J^T J)^-1 by the singular values of the scaled J.

    Raises:
        BadInput: the columns of J are not independent.
    """
    scale = np.linalg.norm(slopes, axis=0)
    if not np.isfinite(scale).all() or not scale.all():
        raise BadInput(f"{name}: these points do not determine every parameter; measure over a wider range of x")
    _, sizes, rows = np.linalg.svd(slopes / scale, full_matrices=False)
    if sizes[-1] < 1e-10 * sizes[0]:
        raise BadInput(f"{name}: these points do not determine every parameter; measure over a wider range of x")
    half = (rows.T / sizes) / scale[:, None]
    return half @ half.T
