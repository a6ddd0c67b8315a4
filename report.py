"""Compare runs: python report.py outputs/sweep/<sweep>; see docs/reports.md."""

import sys

from noisescale.app.report import main

if __name__ == "__main__":
    sys.exit(main())
