"""CT files to arrays in HU: 16-bit PNG, windows and sizes."""
