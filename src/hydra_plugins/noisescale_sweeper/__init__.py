"""A Hydra plugin: `hydra/sweeper=unfinished`."""
