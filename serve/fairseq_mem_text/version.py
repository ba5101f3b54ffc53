"""The version of all packages here, which is told nowhere else."""

__version__ = "0.1.0"
