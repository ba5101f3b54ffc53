"""`fairseq-mem translate`: raw text in, raw text out, with a checkpoint or an exported model.

Line N of the output translates line N of the input, whatever happens: a line that cannot be
translated is told on standard error and leaves an empty line. Text is translated as it comes, in
chunks, so that memory does not grow with the input, and somebody who writes one line into a pipe
gets its translation.
"""

from .command import add_parser, main

__all__ = ["add_parser", "main"]
