"""Observing a training: each measure is a pure estimator, with a thin callback beside it."""
