"""Tells when the user's script imports a package for the first time, without importing it earlier than the script does.

A script may set `OMP_NUM_THREADS` or the like before its `import torch`; importing torch on its behalf would make that
come too late. So Homeostat starts in the moment the script's own import has finished.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Arrival:
    """Calls `then` once, right after the top-level module `name` has been executed.

    A finder at the front of `sys.meta_path` hands out what the other finders found; it never finds anything itself,
    and is gone once the module is there. A look-up without an import, or an import that fails, changes nothing.
    """

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self._then = name, then

    def await_import(self) -> None:
        """Start waiting; when the module is there already, `then` is called at once."""
        if self.name in sys.modules:
            self._then()
        else:
            sys.meta_path.insert(0, self)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Stop waiting."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)  # type: ignore[arg-type]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec the other finders have for the awaited module, with the news attached to its loader."""
        if name != self.name:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._attach(spec.loader)
        return spec

    def _attach(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:
                self.forget()
                self._then()

        loader.exec_module = exec_module
