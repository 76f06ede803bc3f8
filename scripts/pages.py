"""Pages that are made from the code: written, or with --check compared."""

from __future__ import annotations

import sys
from pathlib import Path


def keep(page: Path, text: str, target: str) -> int:
    """Write a page; with --check only say whether it is what it would be now, and 1 when it is not."""
    if "--check" not in sys.argv[1:]:
        page.write_text(text, encoding="utf-8")
        print(f"wrote {page.name}")
        return 0
    fresh = page.is_file() and page.read_text("utf-8") == text
    print(f"docs/{page.name} is up to date" if fresh else f"docs/{page.name} is stale: run `make {target}`")
    return 0 if fresh else 1
