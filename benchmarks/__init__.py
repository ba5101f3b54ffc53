"""Side-by-side measurements: `python benchmarks/run.py`; see README.md here."""
