"""What observes a training: each measure is a pure estimator with its thin callback beside it."""
