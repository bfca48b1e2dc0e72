"""LiTS: liver and liver tumours in CT."""
