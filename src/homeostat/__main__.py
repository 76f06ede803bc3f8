"""`python -m homeostat`: the same as the command `homeostat`."""

import sys

from homeostat.cli import main

if __name__ == "__main__":
    sys.exit(main())
