"""A seeded abdominal CT phantom with liver lesions whose truth is known."""
