"""python -m recondite: the command line."""

import sys

from recondite.cli import main

if __name__ == "__main__":
    sys.exit(main())
