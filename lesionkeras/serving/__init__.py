"""Trained networks as SavedModels for TensorFlow Serving, their contract, and a small client."""
