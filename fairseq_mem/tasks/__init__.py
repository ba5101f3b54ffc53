"""fairseq tasks, where fairseq has none that serves."""
