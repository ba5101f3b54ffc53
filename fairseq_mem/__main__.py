"""`python -m fairseq_mem` is `fairseq-mem`."""

import sys

from .tools.cli import main

sys.exit(main())
