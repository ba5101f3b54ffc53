"""Translating line after line: what cannot be translated is told and leaves an empty line."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from fairseq_mem_text.lines import is_empty

from ...errors import UserError, first_line
from .streams import Progress, decoded, read_chunks

if TYPE_CHECKING:
    from fairseq_mem_serve import Hypothesis, Translator


class Run:
    """One run of the command: what came so far, and what could not be translated.

    Attributes:
        lines: lines read.
        failed: how many of them could not be translated.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        translator: "Translator",
        too_long: type[Exception],
        interactive: bool,
    ) -> None:
        self.translator, self.too_long = translator, too_long
        self.reader = getattr(translator.engine, "reader", None)
        self.json = args.json
        self.options = {
            "beam": args.beam,
            "nbest": args.nbest,
            "length_penalty": args.length_penalty,
            "max_len_a": args.max_len_a,
            "max_len_b": args.max_len_b,
            "batch_tokens": args.batch_tokens,
        }
        self.prompt = f"{translator.source_language}-{translator.target_language}> "
        self.interactive = interactive
        self.progress = Progress(shown=not interactive)
        self.lines = self.failed = 0

    def translate(self, source: BinaryIO, output: BinaryIO, most_lines: int) -> None:
        """Translate what comes from ``source``, at most ``most_lines`` at a time."""
        self._ask()
        for chunk in read_chunks(source.fileno(), most_lines):
            for line in self._translated(chunk):
                output.write(line.encode("utf-8") + b"\n")
            output.flush()
            self._ask()
        if self.interactive:
            print(file=sys.stderr)  # behind the last prompt

    def _ask(self) -> None:
        if self.interactive:
            print(self.prompt, end="", file=sys.stderr, flush=True)

    def _translated(self, chunk: list[bytes | None]) -> list[str]:
        """The lines of output for some lines of input (None: too long to be kept)."""
        texts: list[str] = []
        tokens: list[list[str]] = []
        errors: dict[int, str] = {}
        for index, line in enumerate(chunk):
            text, error = decoded(line, first=self.lines + index == 0)
            split: list[str] = []
            if error is None:
                try:
                    split = self.translator.split(text)
                except self.too_long as caught:
                    error = str(caught)
            if error is not None:
                errors[index] = error
                self.progress.say(f"line {self.lines + index + 1}: {error}; it is left empty")
            texts.append(text)
            tokens.append(split)
        lengths = None
        if self.reader is not None:
            # a line that cannot be used is none of the document, and doesn't end it
            ends = [n not in errors and is_empty(text) for n, text in enumerate(texts)]
            self.reader.read(tokens, ends)
            lengths = [self.reader.length(n) for n in range(len(tokens))]
        first = self.lines + 1
        self.progress.add(sum(not split for split in tokens))
        try:
            found = self.translator.translate_tokens(
                tokens, **self.options, lengths=lengths, progress=self.progress.add
            )
        except (RuntimeError, ValueError) as error:  # of CTranslate2 and torch: no memory, ...
            raise UserError(
                f"cannot translate lines {first} to {self.lines + len(chunk)}: {first_line(error)}"
            ) from error
        self.lines += len(chunk)
        self.failed += len(errors)
        if not self.json:
            return [hypotheses[0].text for hypotheses in found]
        return [
            as_json(first + index, text, hypotheses, errors.get(index))
            for index, (text, hypotheses) in enumerate(zip(texts, found, strict=True))
        ]


def as_json(line: int, source: str, found: list["Hypothesis"], error: str | None) -> str:
    """One line of JSON, as the command's help describes it."""
    record: dict[str, Any] = {"line": line, "source": source}
    if error is None:
        record["translations"] = [hypothesis._asdict() for hypothesis in found]
    else:
        record["error"] = error
    return json.dumps(record, ensure_ascii=False)
