"""`python -m medianode` and the `medianode` program."""

import sys

from medianode.cli import main

if __name__ == "__main__":
    sys.exit(main())
