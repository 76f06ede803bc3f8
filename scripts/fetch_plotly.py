"""Fetch the plotting bundle of the report page from npm's registry, and check it by its hash.

python scripts/fetch_plotly.py

For another version, change VERSION and INTEGRITY; `npm view plotly.js-basic-dist-min dist.integrity` prints the latter.
"""

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

NAME, VERSION = "plotly.js-basic-dist-min", "4.1.1"
URL = f"https://registry.npmjs.org/{NAME}/-/{NAME}-{VERSION}.tgz"
INTEGRITY = "sha512-1oNF8PeQx2hv/y7tqEVWKD3JGwn/MGEMQ8mL9HUwsaqG9FGy/OU5FHUHvzqbqxN4mnwZGI9abTiE775C4kkjMQ=="
SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
"""SHA-256 of the bundle; a test compares it with the file in the repository."""
ASSETS = Path(__file__).resolve().parent.parent / "src" / "homeostat" / "report" / "assets"
FILES = {"package/plotly-basic.min.js": "plotly-basic.min.js", "package/LICENSE": "plotly-LICENSE.txt"}


def fetch() -> None:
    """Download the package and unpack the bundle and its licence."""
    with urllib.request.urlopen(URL, timeout=60) as answer:
        package = answer.read()
    found = f"sha512-{base64.b64encode(hashlib.sha512(package).digest()).decode()}"
    if found != INTEGRITY:
        sys.exit(f"{URL} has {found}, not {INTEGRITY}")
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        for member, name in FILES.items():
            file = tar.extractfile(member)
            if file is None:
                sys.exit(f"{URL} has no {member}")
            (ASSETS / name).write_bytes(file.read())
            print(ASSETS / name)


if __name__ == "__main__":
    fetch()
