"""`python -m fairseq_mem_serve.http` is `fairseq-mem-serve`."""

import sys

from .main import main

sys.exit(main())
