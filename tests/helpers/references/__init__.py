"""Slow, obvious implementations, against which the fast ones are checked."""
