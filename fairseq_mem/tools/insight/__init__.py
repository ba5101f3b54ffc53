"""Looking into memory: what a trained model attends to, in one sentence and in a corpus."""
