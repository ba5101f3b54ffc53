"""Text that is read on and on: batches of contiguous rows, and where reading had come to."""
