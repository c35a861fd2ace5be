"""Benchmarks: each prints a ratio against a peer or a limit, in one run. `python -m bench` runs all; results in README.md."""
