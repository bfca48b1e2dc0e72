"""Packaging of lesionkeras; requirements.txt has the exact versions that were tried together."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "lesionkeras" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

BEAM = [
    "apache-beam>=2.77,<3",
    "mlcroissant>=1.1,<2",
]
SERVING = ["tensorflow-serving-api>=2.21,<2.22"]

setup(
    name="lesionkeras",
    version=VERSION,
    description="Finding and outlining liver lesions in CT with TensorFlow and Keras",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The lesionkeras contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["computed tomography", "liver lesion", "object detection", "keras", "tensorflow"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    packages=find_packages(
        include=["lesionkeras*", "tfds_builders*", "experiments*"], exclude=["*.dummy_data*"]
    ),
    package_data={
        "lesionkeras": ["py.typed"],
        "tfds_builders": ["*/README.md", "*/TAGS.txt", "*/CITATIONS.bib"],
    },
    python_requires=">=3.11",
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.13.2,<4",  # older ones have known security holes
        "keras-cv==0.9.0",  # its last release
        "tensorflow-datasets>=4.9.10,<5",
        "keras-tuner[bayesian]>=1.4.8,<2",
        "numpy>=2.3,<3",
        "pandas>=3,<4",
        "opencv-python-headless>=5,<6",
        "pydicom>=3,<4",
        "python-gdcm>=3,<4",  # decoders of compressed DICOM, BSD and MIT
        "pylibjpeg>=2,<3",
        "pylibjpeg-openjpeg>=2,<3",
        "isal>=1.7",  # .nii.gz at twice the speed of zlib
        "scipy>=1.16,<2",
        "matplotlib>=3.10,<4",
        "tensorboard>=2.20,<2.22",
        "protobuf>=6.31.1,<8",
        "importlib_resources>=6",  # TensorFlow Datasets imports it and does not declare it
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "beam": BEAM,
        "serving": SERVING,
        "dev": [
            *BEAM,
            "codespell>=2.4",
            "dill>=0.4",  # tfds.testing imports it and does not declare it
            "MedPy>=0.5.2",  # GPL: for the tests alone
            "mypy>=2.4",
            "nibabel>=5.3",
            "pandas-stubs>=3",
            "pre-commit>=4",
            "pycocotools>=2.0.11",
            "pyjpegls>=1.5",
            "pytest>=9",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "setuptools>=77",
            "SimpleITK>=2.5",
        ],
    },
)
