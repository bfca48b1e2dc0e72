"""One file a command: `python -m experiments.NAME`."""
