"""A Hydra plugin: `hydra/launcher=pool`."""
