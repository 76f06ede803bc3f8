"""`homeostat run`, without the parser of the other commands, which takes longer to import than a short run may cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_FLAGS = {
    "--dry-run": ("dry_run", True),
    "--quiet": ("quiet", True),
    "-q": ("quiet", True),
    "--metrics": ("metrics", True),
    "--no-metrics": ("metrics", False),
}
_TEXTS = {
    "--vitals": "vitals",
    "--budget": "budget",
    "--record": "record",
    "--json": "json_file",
    "--fail-on": "fail_on",
}
_NUMBERS = {"--every": "every", "--seed": "seed"}
_LISTS = {"--treat": "treat", "--control": "control"}
DEFAULTS: dict[str, Any] = {
    "treat": (),
    "control": (),
    "dry_run": False,
    "vitals": "default",
    "budget": "2%",
    "every": None,
    "record": "homeostat-runs",
    "json_file": None,
    "seed": 0,
    "fail_on": None,
    "quiet": False,
    "metrics": True,
}
"""Options of `homeostat run` and their values by default."""


def quick_arguments(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]] | None:
    """The program and the options in a command line.

    Args:
        argv: after `homeostat run`.

    Returns:
        None if the full parser has to see it: help, errors, and ways to write an option that are not read here.
    """
    options, at = dict(DEFAULTS), 0
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "-m":
        name, value = argv[at], argv[at + 1] if at + 1 < len(argv) else ""
        if name in _FLAGS:
            option, on = _FLAGS[name]
            options[option] = on
            at += 1
            continue
        if not value or value.startswith("-"):
            return None
        if name in _LISTS:
            options[_LISTS[name]] = (*options[_LISTS[name]], value)
        elif name in _TEXTS:
            options[_TEXTS[name]] = value
        elif name in _NUMBERS and value.isascii() and value.isdecimal():
            options[_NUMBERS[name]] = int(value)
        else:
            return None
        at += 2
    if at >= len(argv) or options["fail_on"] not in (None, "warning", "critical"):
        return None
    return list(argv[at:]), options


def ready(program: Sequence[str], options: dict[str, Any]) -> Callable[[], None]:
    """Check a run. Returns the function that starts it.

    Raises:
        HomeostatError: it cannot start.
    """
    from homeostat.shell.launch.runner import Launch
    from homeostat.shell.run.settings import Settings

    given = dict(options)
    json_file, fail_on = given.pop("json_file"), given.pop("fail_on")
    settings = Settings.parse(**{**given, "record": Path(given["record"])})
    return Launch(program, settings, json_file=Path(json_file) if json_file else None, fail_on=fail_on).run
