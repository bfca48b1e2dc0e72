"""Training: the run directory, the loop, checkpoints and what makes a run repeatable.

A run is `RunDirectory.open` -> `set_determinism` -> `compile_model` -> `fit` -> `finish`.
`run` and `log` import no TensorFlow, so that a wrong `--out` is answered at once.
"""
