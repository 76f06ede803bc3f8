"""Run the demo and keep the end of what it prints as docs/images/demo.svg, colours included."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "demo.svg"
WIDTH, LINES = 110, 40


def printed() -> str:
    """What the demo prints to a terminal that shows colours but no moving parts."""
    env = os.environ | {"COLUMNS": str(WIDTH), "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "TERM": "xterm-256color"}
    env.pop("NO_COLOR", None)
    command = [str(Path(sys.executable).with_name("homeostat")), "demo"]
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    lines = Text.from_ansi(printed().rstrip()).split("\n")[-LINES:]
    canvas = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    canvas.print(Text("\n").join(lines))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    canvas.save_svg(str(PICTURE), title="make demo")
    print(f"wrote {PICTURE.name}")


if __name__ == "__main__":
    main()
