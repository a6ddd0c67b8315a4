"""Carrying out a plan: the loader, the callback that runs each update as planned, resuming, and a fast training loop."""
