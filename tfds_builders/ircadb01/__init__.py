"""3D-IRCADb-01: liver and tumours of 20 patients."""
