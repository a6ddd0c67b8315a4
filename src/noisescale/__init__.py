"""Learning-rate schedules and batch-size strategies: you schedule the noise."""

__version__ = "0.1.0"
