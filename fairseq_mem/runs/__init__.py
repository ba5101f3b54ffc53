"""Runs of training: their folders, the stages that fill them, and the report that compares them.

``folder`` says what a run is; ``stages``, ``checkpoints`` and ``jobs`` make runs, ``translation``
and ``language_model`` say in which order; ``collect``, ``compare`` and ``render`` report on them.
"""
