"""README.md, CONTRIBUTING.md and docs/: what they show is true of this checkout."""
