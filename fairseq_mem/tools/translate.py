"""`fairseq-mem translate`: raw text in, raw text out, with a checkpoint or an exported model.

Line N of the output translates line N of the input, whatever happens: a line that cannot be
translated is told on standard error and leaves an empty line. Text is translated as it comes, in
chunks, so that memory does not grow with the input, and somebody who writes one line into a pipe
gets its translation.
"""

import argparse
import contextlib
import errno
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fairseq_mem_text.arguments import finite, positive
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.files import partial_name
from fairseq_mem_text.settings import settings_of

from ..errors import UserError, first_line

if TYPE_CHECKING:
    from fairseq_mem_serve import Batch, Found, Hypothesis, Translator

DESCRIPTION = "fairseq_mem.json"  # in a folder that `fairseq-mem export` wrote
NOT_ALL = 3  # exit status: some lines are empty because they could not be translated
CHUNK_LINES = 1000  # for each batch at a time; so there are enough of about one length
BLOCK_BYTES = 1 << 16
MOST_LINE_BYTES = 1 << 20  # a longer line is not even kept
SECONDS_TO_WAIT = 0.05  # for more input before what is there gets translated ...
MOST_SECONDS_TO_WAIT = 0.5  # ... and altogether, for somebody who goes on writing
SECONDS_BETWEEN_PROGRESS = 10


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "translate",
        help="translate raw text with a checkpoint or an exported model",
        description="Translates raw text, one sentence a line; line N of the output translates "
        "line N of the input.",
        epilog="The exit status is 0 if every line was translated, "
        f"{NOT_ALL} if some were not (too long, not UTF-8): each of these is named on standard "
        "error and leaves an empty line, the others are translated. With --json every line gives "
        'one object: "line" (from 1), "source", and "translations", best first, each with "text", '
        '"score" (log-probability, divided by the number of tokens with the end mark to the power '
        'of --length-penalty) and "tokens" (subwords); or "error" in place of "translations".',
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder made by fairseq-mem export, or a checkpoint (.pt)"
    )
    parser.add_argument("--input", metavar="FILE", help="raw text (default: standard input)")
    parser.add_argument(
        "--output", metavar="FILE", help="where to write (default: standard output)"
    )
    parser.add_argument(
        "--data",
        metavar="DATA_BIN",
        help="with a checkpoint: the folder of its dictionaries and BPE codes (default: what it "
        "learned from, if still there)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("moses", "none"),
        help="of the data's text (default: what preprocess.sh did, none for other data)",
    )
    parser.add_argument(
        "--bpe-codes", metavar="FILE", help="BPE merges (default: DATA_BIN/code, if there)"
    )
    parser.add_argument("--source-lang", metavar="LANG", help="refuse a model that reads another")
    parser.add_argument("--target-lang", metavar="LANG", help="refuse a model that writes another")
    parser.add_argument(
        "--engine",
        choices=("auto", "fairseq", "ctranslate2"),
        default="auto",
        help="auto: ctranslate2 for a folder, fairseq for a checkpoint",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of the CPU (default: all cores)"
    )
    parser.add_argument(
        "--batch-tokens",
        type=positive,
        default=4000,
        metavar="N",
        help="source tokens a batch, padding counted (default 4000)",
    )
    parser.add_argument("--beam", type=positive, default=4, metavar="N", help="default 4")
    parser.add_argument(
        "--length-penalty",
        type=penalty,
        default=1.0,
        metavar="P",
        help="fairseq's --lenpen, -10 to 10: above 1 favours longer translations (default 1)",
    )
    parser.add_argument(
        "--max-len-a",
        type=finite,
        default=1.2,
        metavar="A",
        help="at most A x source tokens (with the end mark) + B tokens (default 1.2)",
    )
    parser.add_argument("--max-len-b", type=finite, default=10.0, metavar="B", help="default 10")
    parser.add_argument("--json", action="store_true", help="write JSON lines, see below")
    parser.add_argument(
        "--nbest", type=positive, default=1, metavar="N", help="translations a line, with --json"
    )
    return parser


def penalty(text: str) -> float:
    """A length penalty, from the command line."""
    number = finite(text)
    if abs(number) > 10:  # fairseq_mem_serve's limit, which is imported later
        raise argparse.ArgumentTypeError(f"{text} is not between -10 and 10")
    return number


def main(args: argparse.Namespace) -> int:
    """Translate; return the exit status."""
    if args.nbest > 1 and not args.json:
        raise UserError(f"--nbest {args.nbest} gives several translations a line: add --json")
    if args.max_len_a < 0 or args.max_len_a * 2 + args.max_len_b < 1:
        raise UserError(
            f"--max-len-a {args.max_len_a:g} and --max-len-b {args.max_len_b:g} allow no "
            "translation of a short line; raise them"
        )
    if args.nbest > args.beam:
        raise UserError(
            f"--nbest {args.nbest} is more than --beam {args.beam} can find: raise --beam"
        )
    try:
        import fairseq_mem_serve
    except ImportError as error:
        raise UserError(
            f"translate needs all that fairseq-mem requires ({error}): run `pip install .` in the "
            "checkout of fairseq_mem"
        ) from None
    with opened(args.input) as source:
        interactive = source.isatty()
        try:
            translator = load(args, interactive)
        except (TextError, ValueError, FileNotFoundError) as error:  # from fairseq_mem_serve
            raise UserError(str(error)) from error
        check_languages(args, translator)
        run = Run(args, translator, fairseq_mem_serve.TooLong, interactive)
        try:
            with written(args.output) as output:
                run.translate(source, output, CHUNK_LINES * translator.parallel)
        except BrokenPipeError:  # whoever reads our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + 13  # as if SIGPIPE had ended us
        finally:
            run.progress.close()
    if run.failed:
        run.progress.say(f"{run.failed:,} of {run.lines:,} lines were left empty (named above)")
        return NOT_ALL
    return 0


# ---------------------------------------------------------------- the model


def load(args: argparse.Namespace, interactive: bool) -> "Translator":
    """Load the model with the engine that fits it, or that is asked for."""
    from fairseq_mem_serve import load_translator

    model = Path(args.model)
    if not model.exists():
        raise UserError(
            f"there is no {model}; give a folder made by fairseq-mem export, or a checkpoint"
        )
    is_folder = model.is_dir()
    if is_folder and not (model / DESCRIPTION).is_file():
        raise UserError(
            f"{model} is a folder without {DESCRIPTION}, so not made by fairseq-mem export; give "
            "one that is, or a checkpoint's file, such as checkpoint_best.pt"
        )
    if is_folder and args.engine == "fairseq":
        raise UserError(f"{model} is an exported model, --engine fairseq takes a checkpoint (.pt)")
    if not is_folder and args.engine == "ctranslate2":
        raise UserError(
            f"{model} is a checkpoint, --engine ctranslate2 takes the folder that "
            "fairseq-mem export makes of it"
        )
    if is_folder:
        for option in ("data", "tokenizer", "bpe_codes"):
            value = getattr(args, option)
            if value is not None:
                raise UserError(
                    f"--{option.replace('_', '-')} {value}: {model} is an exported model, which "
                    "has its own; leave it out"
                )
        return load_translator(model, **engine_options(args, interactive))
    return load_checkpoint(args)


def engine_options(args: argparse.Namespace, interactive: bool) -> dict[str, Any]:
    """Where CTranslate2 computes, and with how many threads."""
    import ctranslate2

    gpus = ctranslate2.get_cuda_device_count()
    if args.device == "cuda" and gpus == 0:
        raise UserError("--device cuda: CTranslate2 sees no GPU here; leave it out")
    if gpus > 0 and args.device != "cpu":
        return {"device": "cuda"}
    threads = args.threads or cores()
    # A thread for each batch gives the most sentences a second, all for one the quickest answer.
    inter, intra = (1, threads) if interactive else (threads, 1)
    return {"device": "cpu", "threads": intra, "inter_threads": inter}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def check_languages(args: argparse.Namespace, translator: "Translator") -> None:
    """Refuse a language pair that is not the model's."""
    has = (translator.source_language, translator.target_language)
    wanted = (args.source_lang or has[0], args.target_lang or has[1])
    if wanted != has:
        raise UserError(
            f"{args.model} translates {has[0]} to {has[1]}, not {wanted[0]} to {wanted[1]}; "
            "give another model, or leave --source-lang and --target-lang out"
        )


def load_checkpoint(args: argparse.Namespace) -> "Translator":
    """Load a checkpoint of fairseq's.

    Raises:
        UserError: it cannot be loaded, or is no translation model's.
    """
    import torch
    from fairseq_mem_serve import TextPipeline, Translator

    from .loading import load_translation_model

    if args.bpe_codes is not None and not Path(args.bpe_codes).is_file():
        raise UserError(f"--bpe-codes {args.bpe_codes}: there is no such file")
    for name in ("fairseq", "hydra"):  # they say at length what nobody asked
        logging.getLogger(name).setLevel(logging.WARNING)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    has_gpu = torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    model, cfg, task, data = load_translation_model(Path(args.model), args.data and Path(args.data))
    if has_gpu and args.device != "cpu":
        model.cuda()
    model.eval()
    model.prepare_for_inference_(cfg)
    source, target = task.cfg.source_lang, task.cfg.target_lang
    codes = args.bpe_codes and Path(args.bpe_codes)
    text = settings_of(data, source, args.tokenizer, codes)
    pipeline = TextPipeline(source, target, **text._asdict())
    return Translator(FairseqEngine(task, [model]), pipeline)


class FairseqEngine:
    """fairseq's own generator, for `fairseq_mem_serve.Translator`."""

    def __init__(self, task: Any, models: list[Any]) -> None:
        from fairseq.utils import resolve_max_positions

        self.task, self.models = task, models
        self.device = next(models[0].parameters()).device
        positions = [task.max_positions(), *(model.max_positions() for model in models)]
        self.max_source_tokens = resolve_max_positions(*positions)[0]
        self.max_target_tokens = min(model.max_decoder_positions() for model in models)
        self.parallel = 1

    def search(
        self, batches: Sequence["Batch"], beam: int, length_penalty: float
    ) -> Iterator[list[list["Found"]]]:
        """See `fairseq_mem_serve.Engine`; the penalty changes nothing before the ranking."""
        options = argparse.Namespace(beam=beam, max_len_a=0, lenpen=1)
        generator = self.task.build_generator(self.models, options)
        for batch in batches:
            generator.max_len_b = batch.max_tokens
            yield self._search_batch(generator, batch)

    def _search_batch(self, generator: Any, batch: "Batch") -> list[list["Found"]]:
        import torch
        from fairseq.utils import apply_to_sample
        from fairseq_mem_serve import Found

        words, target_words = self.task.source_dictionary, self.task.target_dictionary
        sentences = [
            torch.tensor([*map(words.index, source), words.eos()]) for source in batch.sources
        ]
        dataset = self.task.build_dataset_for_inference(sentences, [len(s) for s in sentences])
        sample = dataset.collater([dataset[index] for index in range(len(sentences))])
        sample = apply_to_sample(lambda tensor: tensor.to(self.device), sample)
        found: list[list[Found]] = [[] for _ in sentences]
        hypotheses = self.task.inference_step(generator, self.models, sample)
        for index, of_sentence in zip(sample["id"].tolist(), hypotheses, strict=True):
            for hypothesis in of_sentence:
                tokens = hypothesis["tokens"].tolist()  # the end mark is the last
                log_prob = float(hypothesis["score"]) * len(tokens)
                found[index].append(Found([target_words[t] for t in tokens[:-1]], log_prob))
        return found


# ---------------------------------------------------------------- the run


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
        first = self.lines + 1
        self.progress.add(sum(not split for split in tokens))
        try:
            found = self.translator.translate_tokens(
                tokens, **self.options, progress=self.progress.add
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


def decoded(line: bytes | None, first: bool) -> tuple[str, str | None]:
    """The text of a line of input, and what is wrong with it."""
    if line is None:
        return "", f"more than {MOST_LINE_BYTES:,} bytes, too long for any model; split it"
    if first:
        line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    try:
        return line.decode("utf-8").removesuffix("\r"), None
    except UnicodeDecodeError as error:
        return line.decode("utf-8", "replace"), (
            f"not valid UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}); convert the "
            "text, for instance: iconv -f ISO-8859-1 -t UTF-8"
        )


def as_json(line: int, source: str, found: list["Hypothesis"], error: str | None) -> str:
    """One line of JSON, as the command's help describes it."""
    record: dict[str, Any] = {"line": line, "source": source}
    if error is None:
        record["translations"] = [hypothesis._asdict() for hypothesis in found]
    else:
        record["error"] = error
    return json.dumps(record, ensure_ascii=False)


# ---------------------------------------------------------------- input and output


@contextlib.contextmanager
def opened(path: str | None) -> Iterator[BinaryIO]:
    """The input, unbuffered."""
    if path is None:
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb", buffering=0)
    except OSError as error:
        raise UserError(f"cannot read --input {path}: {error.strerror}") from error
    with file:
        yield file


def read_chunks(file: int, most_lines: int) -> Iterator[list[bytes | None]]:
    r"""Lines without their ``\n``, as many at a time as are there but at most ``most_lines``.

    None stands for a line of more than MOST_LINE_BYTES. The last line may lack its ``\n``.
    """
    lines: list[bytes | None] = []
    since = 0.0  # when the first of them came
    rest = bytearray()  # of a line that has not ended yet
    too_long = False  # that line; no more of it is kept
    while block := read_block(file):
        *ends, tail = block.split(b"\n")
        if not lines:
            since = time.monotonic()
        for end in ends:
            rest += end
            too_long |= len(rest) > MOST_LINE_BYTES
            lines.append(None if too_long else bytes(rest))
            rest.clear()
            too_long = False
        rest += tail
        if len(rest) > MOST_LINE_BYTES:
            too_long = True
            rest.clear()
        while len(lines) >= most_lines:
            yield lines[:most_lines]
            lines = lines[most_lines:]
            since = time.monotonic()
        wait = min(SECONDS_TO_WAIT, since + MOST_SECONDS_TO_WAIT - time.monotonic())
        if lines and not (wait > 0 and select.select([file], [], [], wait)[0]):
            yield lines
            lines = []
    if rest or too_long:
        lines.append(None if too_long else bytes(rest))
    while lines:
        yield lines[:most_lines]
        lines = lines[most_lines:]


def read_block(file: int) -> bytes:
    """What is there of the input, nothing at its end."""
    try:
        return os.read(file, BLOCK_BYTES)
    except OSError as error:
        raise UserError(f"cannot read the input: {error.strerror}") from error


@contextlib.contextmanager
def written(path: str | None) -> Iterator[BinaryIO]:
    """The output; a file appears under its name only when it is complete."""
    if path is None:
        yield sys.stdout.buffer
        return
    goal = os.path.realpath(path)
    if os.path.exists(goal) and not os.path.isfile(goal):  # a pipe, /dev/null
        with open(goal, "wb") as file:
            yield file
        return
    partial = partial_name(Path(goal))
    try:
        with open(partial, "xb") as file:
            yield file
        os.replace(partial, goal)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: str, error: OSError) -> UserError:
    """What is wrong with the output."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"cannot write --output {path}: the disk is full; nothing was kept")
    return UserError(f"cannot write --output {path}: {error.strerror}")


class Progress:
    """On standard error: a bar on a terminal, else a line every few seconds; and messages."""

    def __init__(self, shown: bool) -> None:
        self.shown, self.lines = shown, 0
        self.start = self.last = time.monotonic()
        self.bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(unit=" lines", file=sys.stderr)

    def add(self, lines: int) -> None:
        """So many lines more are translated."""
        self.lines += lines
        if self.bar is not None:
            self.bar.update(lines)
        elif self.shown and time.monotonic() - self.last >= SECONDS_BETWEEN_PROGRESS:
            self.last = time.monotonic()
            a_second = self.lines / (self.last - self.start)
            self.say(f"{self.lines:,} lines, {a_second:,.1f} a second")

    def say(self, message: str) -> None:
        """Print a message of the command's."""
        write: Callable[..., None] = print if self.bar is None else self.bar.write
        write(f"fairseq-mem translate: {message}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
