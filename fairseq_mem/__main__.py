"""`python -m fairseq_mem` is `fairseq-mem`."""

import sys

from .errors import UserError

try:
    from .tools.cli import main
except ModuleNotFoundError as error:
    if error.name != "fairseq_mem_text":
        raise
    raise UserError(
        "fairseq-mem is not installed here; run `pip install .` in its checkout"
    ) from None

sys.exit(main())
