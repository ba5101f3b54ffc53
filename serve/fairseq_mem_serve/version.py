"""The version, in a file of its own: it is read before what the package needs is installed."""

__version__ = "0.1.0"
