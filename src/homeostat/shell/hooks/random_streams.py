"""Read, set, seed or preserve the global random streams of Python, numpy, torch and its accelerators."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from homeostat.core.signals import pass_on
from homeostat.shell.hooks.module_tree import modules_in

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


def random_state() -> dict[str, Any]:
    """The state of every stream that is in use."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the user's own stream
    state: dict[str, Any] = {"python": random.getstate(), "numpy": (kind, keys, *rest), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set every stream in `state`, except those of devices that this machine lacks."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"].to("cpu"))
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number, stream in enumerate(state.get("cuda", [])[:devices]):
        torch.cuda.set_rng_state(stream, number)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextlib.contextmanager
def streams_kept() -> Iterator[None]:
    """Restore every stream after the block."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


def generators_of(model: nn.Module) -> list[Generator]:
    """The generators that a network's forward pass may use: its attributes, globals of its code, and closed-over
    variables."""
    found: dict[int, Generator] = {}
    for module in modules_in(model):
        forward = vars(module).get("forward", inspect.getattr_static(type(module), "forward"))
        code = getattr(forward, "__func__", forward)
        cells = [cell.cell_contents for cell in getattr(code, "__closure__", None) or () if _filled(cell)]
        for value in (*vars(module).values(), *getattr(code, "__globals__", {}).values(), *cells):
            if isinstance(value, Generator):
                found[id(value)] = value
    return list(found.values())


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError as error:
        pass_on(error)
        return False


@contextlib.contextmanager
def generators_kept(generators: Iterable[Generator]) -> Iterator[None]:
    """Context manager that restores the state of the given generators."""
    before = [(one, _state(one)) for one in generators]
    try:
        yield
    finally:
        for one, state in before:
            _set_state(one, state)


def _state(one: Generator) -> Any:
    if isinstance(one, torch.Generator):
        return one.get_state()
    if isinstance(one, np.random.Generator):
        return one.bit_generator.state
    return one.getstate() if isinstance(one, random.Random) else one.get_state()


def _set_state(one: Generator, state: Any) -> None:
    if isinstance(one, np.random.Generator):
        one.bit_generator.state = state
    elif isinstance(one, random.Random):
        one.setstate(state)
    else:
        one.set_state(state)


def reseed() -> None:
    """Seed every stream with 0."""
    # not torch.manual_seed, which would set a seed for a CUDA that is not initialised yet
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        for generator in torch.cuda.default_generators:
            generator.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
