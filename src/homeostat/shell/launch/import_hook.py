"""Call a function when the user's script has imported a package for the first time.

A script may set `OMP_NUM_THREADS` or the like before its `import torch`. If Homeostat imported torch first, that would
have no effect. So Homeostat starts right after the script's own import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportHook:
    """Calls `then` once, right after the top-level module `name` has been executed.

    It is a finder at the front of `sys.meta_path` that returns what the other finders find, and removes itself once
    the module is imported. A look-up without an import, or an import that fails, changes nothing.
    """

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self._then = name, then

    def await_import(self) -> None:
        """Start waiting; if the module is already imported, call `then` at once."""
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
        """The spec of the other finders for the awaited module, with a loader that calls `then`."""
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
