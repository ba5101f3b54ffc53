"""Fetch one of GLUE's files, or go on with it: python download.py URL SHA256 FILE NAME.

NAME is the variable with which the user names another server.
"""

import sys
from pathlib import Path

from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import Source, fetch

if __name__ == "__main__":
    url, checksum, file, name = sys.argv[1:]
    try:
        fetch(Source(url, checksum, None, f"set {name} to a mirror"), Path(file))
    except (TextError, OSError) as problem:
        sys.exit(f"prepare.sh: {problem}")
