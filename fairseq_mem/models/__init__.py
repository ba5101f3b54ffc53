"""One file per model family: its options and its presets."""
