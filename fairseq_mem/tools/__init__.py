"""The `fairseq-mem` command: cli.py, and one file per sub-command."""
