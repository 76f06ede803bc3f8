"""Keep the modules of the script and of Homeostat apart, so that neither imports the other's files.

Under `python SCRIPT` a file `statistics.py` beside the script takes precedence over the standard library. Homeostat
imports some modules before the script starts and more while it runs. The script must see neither.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from homeostat.core.signals import pass_on

_ALWAYS_LOADED = frozenset(
    "__init__ __main__ abc codecs encodings genericpath homeostat importlib io ntpath numpy os posixpath runpy site "
    "sitecustomize stat sys torch types usercustomize zipimport".split()
)
"""Modules that every interpreter loads before a script starts, and modules that Homeostat and the script must share."""


class ModuleIsolation:
    """Hides modules from the script that its folder has files for, and restores them for Homeostat's own work.

    Args:
        folder: `sys.path[0]` of the script; None when Python was told not to prepend it (-P, -I).
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._names = _module_names(folder) if folder else frozenset()
        self._ours: dict[str, ModuleType] = {}

    def begin(self) -> None:
        """Hide what the script must import itself. Called once, right before it starts."""
        self._ours = self._take()

    @contextmanager
    def own_imports(self) -> Iterator[None]:
        """Imports in the block find installed modules, never files beside the script."""
        theirs, path = self._take(), list(sys.path)
        sys.modules.update(self._ours)
        if self._folder in sys.path:
            sys.path.remove(self._folder)
        try:
            yield
        finally:
            sys.path[:] = path
            self._ours = self._take()
            sys.modules.update(theirs)

    def _take(self) -> dict[str, ModuleType]:
        roots = {name for name in self._names if name in sys.modules}
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in roots}


def _module_names(folder: str) -> frozenset[str]:
    """Names that `import` would find in the folder and that are not loaded from there."""
    names = set()
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                stem, dot, _ = entry.name.partition(".")
                package = not dot and os.path.isfile(os.path.join(entry.path, "__init__.py"))
                if package or entry.name.endswith((".py", ".so", ".pyd")):
                    names.add(stem)
    except OSError as error:
        pass_on(error)
        return frozenset()
    return frozenset(n for n in names - _ALWAYS_LOADED - set(sys.builtin_module_names) if not _lives_in(n, folder))


def _lives_in(name: str, folder: str) -> bool:
    """Whether the loaded module of that name is the file in the folder itself."""
    origin = getattr(sys.modules.get(name), "__file__", None)
    return origin is not None and os.path.realpath(origin).startswith(os.path.join(os.path.realpath(folder), ""))
