"""Read the numbers that a script hands to its logger: TensorBoard, Weights & Biases, MLflow, trackio, Lightning,
Transformers (and TRL), Stable-Baselines3.

While there are subscribers, the public functions of these libraries are wrapped, as soon as the script has imported
them. Nothing is imported for it. What the wrapped function receives and returns stays the same.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from homeostat.core.signals import pass_on
from homeostat.shell.hooks.torch_internals import is_plain, unseen
from homeostat.sinks.sink import PREFIX

Listener = Callable[[str, float], object]
Reader = Callable[[tuple[Any, ...], dict[str, Any]], Iterable[tuple[Any, Any]]]
"""From the arguments of a call (with self) to names and values."""

MOST_NAMES = 200
"""Names beyond so many are not read: some scripts log one name per item."""
_LONGEST = 200


@dataclass(frozen=True)
class LoggerFunction:
    """A function that receives numbers.

    Args:
        module: where it is defined.
        path: its name in the module, with the class before a dot.
        read: gives the names and values of a call.
    """

    module: str
    path: str
    read: Reader


def _named_value(name: str, value: str, place: int = 1) -> Reader:
    """A call with one name and one value at these places or keywords."""

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
        yield _argument(args, kwargs, place, name), _argument(args, kwargs, place + 1, value)

    return read


def _mapping(name: str, place: int = 1) -> Reader:
    """A call with a mapping of names to values; mappings inside are joined with a slash, as loggers do."""

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
        given = _argument(args, kwargs, place, name)
        if isinstance(given, Mapping):
            for key, value in given.items():
                if isinstance(value, Mapping):
                    yield from ((f"{key}/{inner}", number) for inner, number in value.items())
                else:
                    yield key, value

    return read


def _collected(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
    """What a logger of Stable-Baselines3 has collected when it writes."""
    return dict(args[0].name_to_value).items()


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


FUNCTIONS = (
    LoggerFunction("torch.utils.tensorboard.writer", "SummaryWriter.add_scalar", _named_value("tag", "scalar_value")),
    LoggerFunction("tensorboardX.writer", "SummaryWriter.add_scalar", _named_value("tag", "scalar_value")),
    LoggerFunction("wandb.sdk.wandb_run", "Run.log", _mapping("data")),
    LoggerFunction("wandb", "log", _mapping("data", 0)),  # `wandb.init` sets it to a method of the run
    LoggerFunction("mlflow.tracking.fluent", "log_metric", _named_value("key", "value", 0)),
    LoggerFunction("mlflow.tracking.fluent", "log_metrics", _mapping("metrics", 0)),
    LoggerFunction("mlflow", "log_metric", _named_value("key", "value", 0)),
    LoggerFunction("mlflow", "log_metrics", _mapping("metrics", 0)),
    LoggerFunction("trackio", "log", _mapping("metrics", 0)),
    LoggerFunction("transformers.trainer", "Trainer.log", _mapping("logs")),
    LoggerFunction(
        "lightning.pytorch.trainer.connectors.logger_connector.logger_connector",
        "_LoggerConnector.log_metrics",
        _mapping("metrics"),
    ),
    LoggerFunction(
        "pytorch_lightning.trainer.connectors.logger_connector.logger_connector",
        "_LoggerConnector.log_metrics",
        _mapping("metrics"),
    ),
    LoggerFunction("stable_baselines3.common.logger", "Logger.dump", _collected),
)


class LoggerHooks:
    """Wraps functions of loggers, and tells listeners what they are given.

    Several functions may be given the same number: a trainer's and the tracker's that it calls. The outermost is read.
    Processes that the script forks are not listened to.

    Attributes:
        on_error: called with an internal error in a wrapped function.
    """

    def __init__(self, functions: Iterable[LoggerFunction] = FUNCTIONS) -> None:
        self._functions = tuple(functions)
        self._listeners: list[Listener] = []
        self._wrapped: list[tuple[Any, str, Any, Any]] = []
        self._seen: set[LoggerFunction] = set()
        self._names: set[str] = set()
        self._inside = False
        self.on_error: list[Callable[[Exception], None]] = []

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with every name and value, in the thread that logs them."""
        self._listeners.append(listener)
        self.look()

    def unsubscribe(self, listener: Listener) -> None:
        """Stop; restores the functions after the last listener."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        if self._listeners:
            return
        for owner, name, original, ours in reversed(self._wrapped):
            if vars(owner).get(name) is ours:  # else somebody else has replaced it since
                setattr(owner, name, original)
        self._wrapped.clear()
        self._seen.clear()
        self._names.clear()

    def look(self) -> None:
        """Wrap functions of modules that have been imported since the last call."""
        if not self._listeners:
            return
        for function in self._functions:
            if function not in self._seen and (module := sys.modules.get(function.module)) is not None:
                self._wrap(function, module)

    def _wrap(self, function: LoggerFunction, module: Any) -> None:
        *outer, name = function.path.split(".")
        owner = functools.reduce(lambda found, part: vars(found).get(part), outer, module)
        original = None if owner is None else vars(owner).get(name)
        if not callable(original):
            return  # still being imported, or another version
        self._seen.add(function)
        pid = os.getpid()

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self._inside or os.getpid() != pid:
                return original(*args, **kwargs)
            self._hear(function.read, args, kwargs)
            self._inside = True
            try:
                return original(*args, **kwargs)
            finally:
                self._inside = False

        setattr(owner, name, wrapper)
        self._wrapped.append((owner, name, original, wrapper))

    def _hear(self, read: Reader, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            with unseen():
                for name, value in read(args, kwargs):
                    number = _number(value)
                    if isinstance(name, str) and number is not None and self._known(name := name[:_LONGEST]):
                        for tell in tuple(self._listeners):
                            tell(name, number)
        except Exception as error:
            pass_on(error)
            for report in tuple(self.on_error):
                report(error)

    def _known(self, name: str) -> bool:
        if name.startswith(PREFIX):  # written by a sink of ours
            return False
        if name not in self._names and len(self._names) < MOST_NAMES:
            self._names.add(name)
        return name in self._names


def _number(value: Any) -> float | None:
    """A number of any common type; None for texts, images, tables and the like."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Real):
        return _float(value)
    if isinstance(value, Tensor):
        single = is_plain(value) and value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
        return float(value.detach()) if single else None
    if type(value).__module__ == "numpy" and getattr(value, "size", 0) == 1 and value.dtype.kind in "iuf":
        return float(value.item())
    return None


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError as error:
        pass_on(error)
        return math.inf if value > 0 else -math.inf


LOGGER_HOOKS = LoggerHooks()
