"""Benchmarks against a hand-written loop, plain Lightning and what users would otherwise write: make bench."""
