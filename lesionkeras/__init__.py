"""Finding and outlining liver lesions in CT with TensorFlow and Keras."""

__version__ = "0.1.0"
