"""`python -m lineament`: the command line, where the environment's `bin` folder is not on the path."""

import sys

from lineament.cli import main

if __name__ == "__main__":
    sys.exit(main())
