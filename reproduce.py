"""Test claims about learning rates and batches on real data, each with a verdict: python reproduce.py claim=dual; see docs/claims.md."""

import sys
from pathlib import Path

from noisescale.app.reproduce import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve()))
