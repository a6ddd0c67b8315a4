"""Test claims about learning rates and batches on real data, each with a verdict: python reproduce.py claim=dual; see docs/claims.md."""

import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Carry out the command line and exit."""
    from noisescale.app.reproduce import main

    sys.exit(main(sys.argv[1:], Path(__file__).resolve()))


if __name__ == "__main__":
    main()
