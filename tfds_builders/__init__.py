"""Data sets in TFDS's own shape, one folder each, and the one function that opens them."""

from tfds_builders.prepare import Beam as Beam
from tfds_builders.prepare import open_builder as open_builder
