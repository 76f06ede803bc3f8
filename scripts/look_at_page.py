"""Photograph a report page in headless Chromium: light and dark, wide and as on a phone.

python scripts/look_at_page.py PAGE.html FOLDER [HEIGHT]
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--virtual-time-budget=20000",
]  # fmt: skip
SCHEMES = {"light": 1, "dark": 0}
WIDTHS = (1280, 400)


def photograph(page: Path, picture: Path, width: int, height: int, scheme: str) -> None:
    """One picture of the page's first `height` pixels."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        # A window is at least 500 pixels wide, so the page is looked at through a frame.
        frame = Path(profile) / "frame.html"
        style = f"border:0;width:{width}px;height:{height}px"
        frame.write_text(f'<body style="margin:0"><iframe src="{page.resolve().as_uri()}" style="{style}"></iframe>')
        command = [
            chromium, *FLAGS, f"--user-data-dir={profile}", f"--screenshot={picture}",
            f"--window-size={max(width, 500)},{height}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", frame.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=180)


if __name__ == "__main__":
    page, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    height = int(sys.argv[3]) if len(sys.argv) > 3 else 3000
    for scheme in SCHEMES:
        for width in WIDTHS:
            picture = folder / f"{page.stem}-{scheme}-{width}.png"
            photograph(page, picture, width, height, scheme)
            print(picture)
