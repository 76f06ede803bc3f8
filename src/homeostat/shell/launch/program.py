"""Find the user's program and run it in this process, exactly as `python SCRIPT` or `python -m MODULE` would."""

from __future__ import annotations

import builtins
import difflib
import io
import os
import runpy
import shutil
import sys
import types
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from types import TracebackType
from typing import Any

from homeostat.core.errors import BadInput


@dataclass(frozen=True)
class Program:
    """A script or module with its arguments.

    Args:
        name: script, folder, zip file or module, as the user wrote it.
        args: its own arguments, untouched.
        module: run as `python -m name`.
    """

    name: str
    args: tuple[str, ...] = ()
    module: bool = False

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Program:
        """From `SCRIPT ARGS`, `-m MODULE ARGS` or `-mMODULE ARGS`.

        Raises:
            BadInput: there is no such script; the message names near ones.
        """
        first, *rest = argv or [""]
        if first == "-m":
            if not rest:
                raise BadInput("-m needs the name of a module, as in `homeostat run -m package.module ARGS`")
            return cls(rest[0], tuple(rest[1:]), module=True)
        if first.startswith("-m"):
            return cls(first[2:], tuple(rest), module=True)
        return cls(_existing(first), tuple(rest))

    @property
    def folder(self) -> str | None:
        """What Python puts at the front of `sys.path`; None if that is switched off (-P, -I, PYTHONSAFEPATH)."""
        if self._is_archive:
            return os.path.abspath(self.name)
        if sys.flags.safe_path:
            return None
        return os.getcwd() if self.module else os.path.dirname(os.path.realpath(self.name))

    @property
    def _is_archive(self) -> bool:
        """A folder or zip file with a `__main__.py` inside."""
        return not self.module and (os.path.isdir(self.name) or zipfile.is_zipfile(self.name))

    def run(self) -> None:
        """Run it as the real `__main__` of this process. All its exceptions propagate, SystemExit too.

        An exception that ends the process is shown by Python itself, through the script's own `sys.excepthook`, less
        the frames that are not the script's.
        """
        global _launcher
        _launcher = sys.modules["__main__"]
        sys.modules["__main__"] = main = _fresh_main()
        sys.argv = ["-m" if self.module else self.name, *self.args]
        if not sys.flags.safe_path:
            del sys.path[0]
        if self.folder is not None:
            sys.path.insert(0, self.folder)
        try:
            if self.module or self._is_archive:
                _run_module(self.name if self.module else "__main__", self.module)
            else:
                _run_file(os.path.abspath(self.name), main.__dict__)
        except SystemExit:
            raise
        except BaseException:
            _hide_launcher_frames()
            raise


_launcher: types.ModuleType | None = None
"""The module that was `__main__` before; kept alive because its frames are still running."""


def _fresh_main() -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    return main


def _run_file(path: str, namespace: dict[str, Any]) -> None:
    namespace.update(__file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path))
    if path.endswith(".pyc"):
        loader = namespace["__loader__"] = SourcelessFileLoader("__main__", path)
        code = loader.get_code("__main__")
    else:
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, namespace)  # type: ignore[arg-type]


def _run_module(name: str, alter_argv: bool) -> None:
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]


_OURS = (_run_file.__code__, _run_module.__code__)


def _hide_launcher_frames() -> None:
    """Let the hook that shows an uncaught exception see only the frames `python SCRIPT` would have had."""
    show = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        traceback = _script_frames(traceback)
        sys.last_traceback = traceback
        show(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = excepthook


def _script_frames(traceback: TracebackType | None) -> TracebackType | None:
    here = traceback
    while here is not None and here.tb_frame.f_code not in _OURS:
        here = here.tb_next
    return traceback if here is None else here.tb_next


def _existing(name: str) -> str:
    """The script itself, or the Python program of that name on PATH (`pytest`, a console script)."""
    if os.path.exists(name):
        return name
    program = shutil.which(name) if name and os.path.basename(name) == name else None
    if os.path.basename(name).startswith("python") and program:
        raise BadInput(
            f"homeostat runs the script in its own interpreter: leave {name!r} out, as in `homeostat run train.py`"
        )
    if program and _is_python(program):
        return program
    if program:
        raise BadInput(f"{name!r} is a program, but not one written in Python: give the script it runs")
    folder = os.path.dirname(name) or "."
    scripts = [f for f in os.listdir(folder) if f.endswith(".py")] if os.path.isdir(folder) else []
    near = difflib.get_close_matches(os.path.basename(name), scripts, n=1)
    hint = (
        f"did you mean {os.path.join(os.path.dirname(name), near[0])!r}?"
        if near
        else "check the path, or use -m MODULE"
    )
    raise BadInput(f"there is no script {name!r}: {hint}")


def _is_python(program: str) -> bool:
    with open(program, "rb") as file:
        first = file.readline(200)
    return first.startswith(b"#!") and b"python" in first
