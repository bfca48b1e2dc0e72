"""From a trained network to findings."""
