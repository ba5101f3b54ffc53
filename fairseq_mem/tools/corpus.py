"""The text work of preprocess.sh: check, tokenise and clean, learn and apply BPE, verify.

Run by its path (`python fairseq_mem/tools/corpus.py COMMAND`), so that preparing text needs
neither fairseq nor torch in memory: nothing of this package is imported here.

Text is streamed in small chunks to all cores and written in the order of the input. The output
equals, byte for byte, that of the libraries' own commands, `sacremoses normalize tokenize -a`
and `subword-nmt learn-joint-bpe-and-vocab` and `apply-bpe`, of text that is composed (`--nfc`).
What is common in language is done once: moses.py and bpe.py say how. What is serving's too, and
works on any text in linear time, is in serve/fairseq_mem_serve/linear.py.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib.util
import io
import itertools
import os
import shutil
import signal
import struct
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, BinaryIO, NamedTuple, NoReturn

CHUNK_LINES = 1000  # enough work to outweigh the cost of passing it between processes
COUNT_LINES = 20_000  # the more lines are counted at once, the fewer words are passed on
BLOCK_BYTES = 1 << 20
SECONDS_BETWEEN_PROGRESS = 10


class CorpusError(Exception):
    """What is wrong with the text or the disk, and what to do: one line for the user."""


SERVE = "../../serve/fairseq_mem_serve"


def beside(name: str, folder: str = "") -> Any:
    """The module in the file beside this one, without the package around it (that needs torch)."""
    if name not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), folder, name + ".py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


# ---------------------------------------------------------------- files


def cannot_write(path: str, error: OSError) -> CorpusError:
    cause = f"cannot write {path}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = os.path.dirname(path) or "."
        free = shutil.disk_usage(folder).free // 2**20 if os.path.isdir(folder) else 0
        return CorpusError(f"{cause} ({free} MiB free); free some space and run again")
    return CorpusError(f"{cause}; choose a folder that can be written to")


@contextlib.contextmanager
def written(*paths: str) -> Iterator[list[BinaryIO]]:
    """Files that appear under their names, in this order, only when all of them are complete."""
    partial = [path + ".partial" for path in paths]
    files: list[BinaryIO] = []
    try:
        for path in partial:
            files.append(open(path, "wb"))
        yield files
        for file in files:
            file.close()
        for temporary, path in zip(partial, paths):
            os.replace(temporary, path)
    except BaseException as error:
        for file in files:
            with contextlib.suppress(OSError):
                file.close()
        for path in partial:
            with contextlib.suppress(OSError):
                os.remove(path)
        if isinstance(error, OSError):
            raise cannot_write(error.filename or paths[0], error) from error
        raise


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb")
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}; check the prefix") from error
    with file:
        yield file


# ---------------------------------------------------------------- many cores, in order


def start_worker(prepare: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, once
    prepare(*arguments)


def in_order(
    pool: ProcessPoolExecutor, work: Callable[[Any], Any], chunks: Iterable[Any], workers: int
) -> Iterator[Any]:
    """`work` on every chunk, on all cores, results in the order of the chunks.

    Only a few chunks are under way at any time, so memory doesn't grow with the corpus.
    """
    pending: deque[Future[Any]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(work, chunk))
        if len(pending) >= 4 * workers:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextlib.contextmanager
def worker_pool(workers: int, prepare: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    pool = ProcessPoolExecutor(workers, initializer=start_worker, initargs=(prepare, *arguments))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def line_chunks(file: BinaryIO, lines: int = CHUNK_LINES) -> Iterator[list[bytes]]:
    while chunk := list(itertools.islice(file, lines)):
        yield chunk


def text_chunks(file: BinaryIO) -> Iterator[list[bytes]]:
    """`line_chunks` of raw text; a byte order mark at the start of the file is none of it."""
    if file.read(3) != b"\xef\xbb\xbf":
        file.seek(0)
    return line_chunks(file)


class Progress:
    """Says every few seconds how far we are; at the end how long it took."""

    def __init__(self, what: str, unit: str = "lines") -> None:
        self.what, self.unit, self.lines, self.start = what, unit, 0, time.monotonic()
        self.next_report = self.start + SECONDS_BETWEEN_PROGRESS

    def add(self, lines: int) -> None:
        self.lines += lines
        if time.monotonic() >= self.next_report:
            self.report()
            self.next_report = time.monotonic() + SECONDS_BETWEEN_PROGRESS

    def report(self) -> None:
        seconds = max(time.monotonic() - self.start, 1e-3)
        say(f"{self.what}: {self.lines:,} {self.unit}, {self.lines / seconds:,.0f} a second")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- check


def check_file(path: str, max_tokens: int | None) -> tuple[str, int]:
    """SHA-256 and number of lines of a raw text file that is fit for use.

    With `max_tokens` (validation and test text, of which no line may be dropped) a longer line,
    or one that some tools would read as two, is an error.
    """
    digest, lines_before = hashlib.sha256(), 0
    with opened(path) as file:
        while lines := file.readlines(BLOCK_BYTES):
            block = b"".join(lines)
            digest.update(block)
            try:
                block.decode("utf-8")
            except UnicodeDecodeError as error:
                number = lines_before + block.count(b"\n", 0, error.start) + 1
                raise CorpusError(
                    f"{path}, line {number}: not valid UTF-8 (byte 0x{block[error.start]:02x}); "
                    "convert the file, for instance: iconv -f ISO-8859-1 -t UTF-8"
                ) from None
            if max_tokens is not None:
                for number, line in enumerate(lines, lines_before + 1):
                    check_kept_line(path, number, line, max_tokens)
            lines_before += len(lines)
    if lines_before == 0:
        raise CorpusError(f"{path} is empty; give a file with one sentence a line")
    return digest.hexdigest(), lines_before


def check_kept_line(path: str, number: int, line: bytes, max_tokens: int) -> None:
    if b"\r" in line.rstrip(b"\r\n"):
        raise CorpusError(
            f"{path}, line {number}: a carriage return inside the line, which some tools read "
            "as two lines; remove it, for instance: tr '\\r' ' '"
        )
    if len(line) > 2 * max_tokens:  # a word and its space are two bytes at least
        refuse_long_line(path, number, len(line.split()), "words", max_tokens)


def refuse_long_line(path: str, number: int, length: int, unit: str, max_tokens: int) -> None:
    if length > max_tokens:
        raise CorpusError(
            f"{path}, line {number}: {length:,} {unit}, but a model of {max_tokens + 1} positions "
            f"takes {max_tokens:,}; split the line in both languages, or raise --max-positions"
        )


def check(arguments: argparse.Namespace) -> None:
    """Prints `sha256 lines` of the source and of the target file."""
    found = [check_file(path, arguments.max_tokens) for path in arguments.files]
    lines = [count for _, count in found]
    if len(set(lines)) > 1:
        both = " and ".join(f"{path} has {count:,}" for path, count in zip(arguments.files, lines))
        raise CorpusError(
            f"unequal numbers of lines: {both}; line N of one must translate the other's"
        )
    for digest, count in found:
        print(digest, count)


# ---------------------------------------------------------------- tokenise and clean

TOKENIZERS: list[Callable[[str], str]] = []  # of the source and of the target, in each worker


def prepare_tokenizers(languages: list[str], normalize: bool, printable: bool, nfc: bool) -> None:
    moses, linear = beside("moses"), beside("linear", SERVE)

    def tokenizer(language: str) -> Callable[[str], str]:
        tokenize_line: Callable[[str], str] = moses.Tokenizer(linear.LinearTokenizer(language))
        if not normalize:
            return tokenize_line
        normalize_line = moses.Normalizer(linear.LinearNormalizer(language), printable)
        if not nfc:
            return lambda line: tokenize_line(normalize_line(line))
        return lambda line: tokenize_line(normalize_line(linear.compose(line)))

    TOKENIZERS[:] = [tokenizer(language) for language in languages]


def drop_rule(source: str, target: str, limits: argparse.Namespace) -> str | None:
    """Which rule drops this pair of tokenised lines; None keeps it."""
    lengths = (len(source.split()), len(target.split()))
    if min(lengths) < limits.min_words:
        return f"shorter than {limits.min_words}"
    if max(lengths) > limits.max_words:
        return f"longer than {limits.max_words}"
    if max(lengths) > limits.max_ratio * min(lengths):
        return f"of a length ratio above {limits.max_ratio:g}"
    return None


PAIR_HASH_BYTES = 8  # of 4.5 million pairs, two are taken for one with a chance of 5e-7


class Tokenized(NamedTuple):
    """What a worker makes of a chunk: the kept lines, one hash for each pair, the dropped pairs."""

    sources: list[bytes]
    targets: list[bytes]
    hashes: list[bytes]
    dropped: Counter[str]


def tokenize_chunk(chunk: tuple[list[bytes], list[bytes], argparse.Namespace | None]) -> Tokenized:
    sources, targets, limits = chunk
    made = Tokenized([], [], [], Counter())
    for pair in zip(sources, targets):
        source, target = (
            tokenize_line(line.decode("utf-8")) for tokenize_line, line in zip(TOKENIZERS, pair)
        )
        rule = drop_rule(source, target, limits) if limits else None
        if rule:
            made.dropped[rule] += 1
            continue
        made.sources.append(f"{source}\n".encode())
        made.targets.append(f"{target}\n".encode())
        if limits and limits.dedup:
            both = made.sources[-1] + made.targets[-1]
            made.hashes.append(hashlib.blake2b(both, digest_size=PAIR_HASH_BYTES).digest())
    return made


def without_repeated(made: Tokenized, seen: set[bytes]) -> Tokenized:
    """The pairs that are not in `seen`, to which they are added."""
    kept = Tokenized([], [], [], made.dropped)
    for source, target, digest in zip(made.sources, made.targets, made.hashes):
        if digest in seen:
            kept.dropped["seen before"] += 1
        else:
            seen.add(digest)
            kept.sources.append(source)
            kept.targets.append(target)
    return kept


def tokenize(arguments: argparse.Namespace) -> None:
    limits = arguments if arguments.clean else None
    languages = [arguments.source_lang, arguments.target_lang]
    outputs = [f"{arguments.output}.{language}" for language in languages]
    progress, dropped = Progress(os.path.basename(arguments.output)), Counter[str]()
    seen: set[bytes] = set()
    with (
        opened(arguments.source) as source,
        opened(arguments.target) as target,
        written(*outputs, arguments.output + ".counts") as (source_out, target_out, counts_out),
        worker_pool(
            arguments.workers,
            prepare_tokenizers,
            languages,
            not arguments.no_normalize,
            arguments.remove_nonprinting,
            arguments.nfc,
        ) as pool,
    ):
        chunks = (
            (sources, targets, limits)
            for sources, targets in zip(text_chunks(source), text_chunks(target))
        )
        kept = 0
        for made in in_order(pool, tokenize_chunk, chunks, arguments.workers):
            read = len(made.sources) + made.dropped.total()
            if made.hashes:
                made = without_repeated(made, seen)
            source_out.writelines(made.sources)
            target_out.writelines(made.targets)
            dropped += made.dropped
            kept += len(made.sources)
            progress.add(read)
        if kept == 0:
            raise CorpusError(
                f"{arguments.source}: no pair is left of {progress.lines:,} "
                f"({rule_counts(dropped)}); check that the lines match, or widen the limits"
            )
        report = f"{progress.lines:,} pairs read, {kept:,} kept"
        if limits:
            report += f"; dropped: {rule_counts(dropped)}"
        counts_out.write(f"{report}\n".encode())
    progress.report()


def rule_counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {rule}" for rule, count in sorted(dropped.items())) or "none"


# ---------------------------------------------------------------- BPE


def prepare_nothing() -> None:
    pass


def count_words(lines: list[bytes]) -> tuple[int, Counter[str]]:
    words = Counter(b"".join(lines).decode("utf-8").replace("\n", " ").split(" "))
    del words[""]
    return len(lines), words


def learned_merges(words: Counter[str], wanted: int) -> Iterator[str]:
    bpe = beside("bpe")
    if bpe.learnable(words):
        for left, right in bpe.Learner(words).merges(wanted):
            yield f"{left} {right}"
        return
    from subword_nmt.learn_bpe import learn_bpe as learn_merges

    os.environ.setdefault("TQDM_DISABLE", "1")
    codes = io.StringIO()
    learn_merges([f"{word} {n}" for word, n in words.items()], codes, wanted, is_dict=True)
    yield from codes.getvalue().split("\n")[1:-1]


def learn_bpe(arguments: argparse.Namespace) -> None:
    words: Counter[str] = Counter()
    progress = Progress("counting words")
    with worker_pool(arguments.workers, prepare_nothing) as pool:
        for path in arguments.files:
            with opened(path) as file:
                chunks = line_chunks(file, COUNT_LINES)
                for lines, counted in in_order(pool, count_words, chunks, arguments.workers):
                    words.update(counted)
                    progress.add(lines)
    progress.report()
    progress = Progress("learning BPE", "merges")
    merges = 0
    with written(arguments.output) as (output,):
        output.write(b"#version: 0.2\n")
        for merge in learned_merges(words, arguments.merges):
            output.write(f"{merge}\n".encode())
            merges += 1
            progress.add(1)
    progress.report()
    if merges < arguments.merges:
        say("no pair of symbols is left that is there twice: BPE ends here")
    say(f"BPE: {merges:,} merges learned from {len(words):,} different words")


SEGMENT_LINE: list[Callable[[str], str]] = []  # one, in each worker
REMEMBERED_WORDS = 200_000  # in one process: some 50 MB


class Segmented(dict[str, str]):
    """Words and what BPE makes of them."""

    def __init__(self, bpe: Any) -> None:
        super().__init__()
        self.bpe, self.segment_word = bpe, beside("linear", SERVE).segment_word

    def __missing__(self, word: str) -> str:
        if len(self) >= REMEMBERED_WORDS:
            self.clear()
        self[word] = segmented = " ".join(self.segment_word(self.bpe, word))
        self.bpe.cache.clear()  # the library's own memory of words has no bound
        return segmented

    def segment_line(self, line: str) -> str:
        words = line.removesuffix("\n").split(" ")
        if "" in words or "\r" in line:
            kept: str = self.bpe.process_line(line)  # it keeps the spaces at both ends
            self.bpe.cache.clear()
            return kept
        end = "\n" if line.endswith("\n") else ""
        return " ".join([self[word] for word in words]) + end


def prepare_bpe(codes_path: str) -> None:
    from subword_nmt.apply_bpe import BPE

    with open(codes_path, encoding="utf-8-sig") as codes:
        SEGMENT_LINE[:] = [Segmented(BPE(codes)).segment_line]


def segment_chunk(lines: list[bytes]) -> list[bytes]:
    (segment_line,) = SEGMENT_LINE
    return [segment_line(line.decode("utf-8")).encode("utf-8") for line in lines]


def apply_bpe(arguments: argparse.Namespace) -> None:
    progress = Progress(os.path.basename(arguments.output))
    with (
        opened(arguments.input) as file,
        written(arguments.output) as (output,),
        worker_pool(arguments.workers, prepare_bpe, arguments.codes) as pool,
    ):
        for lines in in_order(pool, segment_chunk, line_chunks(file), arguments.workers):
            if arguments.max_tokens is not None:
                for number, line in enumerate(lines, progress.lines + 1):
                    refuse_long_line(
                        arguments.input,
                        number,
                        len(line.split()),
                        "BPE tokens",
                        arguments.max_tokens,
                    )
            output.write(b"".join(lines))
            progress.add(len(lines))
    progress.report()


# ---------------------------------------------------------------- verify

INDEX_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of the numbers, sentences
BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 4, 7: 8, 8: 2, 9: 4, 10: 8}  # fairseq's codes


def verify(arguments: argparse.Namespace) -> None:
    """fairseq-preprocess can lose a worker's error: compare what it wrote with the text."""
    with opened(arguments.text) as text:
        lines = sum(len(chunk) for chunk in line_chunks(text))
    try:
        with opened(arguments.binarized + ".idx") as index:
            magic, _, number_type, sentences = INDEX_HEADER.unpack(index.read(INDEX_HEADER.size))
            sizes = array("i", index.read(4 * sentences))
        tokens_bytes = os.path.getsize(arguments.binarized + ".bin")
        whole = (
            magic == b"MMIDIDX\0\0"
            and sentences == lines
            and sum(sizes) * BYTES_OF_TYPE[number_type] == tokens_bytes
        )
    except (struct.error, ValueError, KeyError, OSError):
        whole = False
    if not whole:
        raise CorpusError(
            f"{arguments.binarized}.bin and .idx don't hold the {lines:,} lines of "
            f"{arguments.text}; is the disk full? Run again"
        )


# ---------------------------------------------------------------- command line


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def arguments_from_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    added = command("check", check, "print sha256 and line count of raw parallel files")
    added.add_argument("--max-tokens", type=positive, help="refuse longer lines")
    added.add_argument("files", nargs="+")

    added = command("tokenize", tokenize, "raw pairs -> OUTPUT.LANG, tokenised")
    added.add_argument("--source-lang", required=True)
    added.add_argument("--target-lang", required=True)
    added.add_argument("--no-normalize", action="store_true", help="leave punctuation as it is")
    added.add_argument(
        "--remove-nonprinting", action="store_true", help="remove control characters"
    )
    added.add_argument("--nfc", action="store_true", help="compose characters before")
    added.add_argument("--clean", action="store_true", help="drop pairs by length and ratio")
    added.add_argument("--dedup", action="store_true", help="with --clean: drop repeated pairs")
    added.add_argument("--min-words", type=int, default=1)
    added.add_argument("--max-words", type=int, default=250)
    added.add_argument("--max-ratio", type=float, default=1.5)
    added.add_argument("--workers", type=positive, default=1)
    added.add_argument("source")
    added.add_argument("target")
    added.add_argument("output")

    added = command("learn-bpe", learn_bpe, "learn merges from tokenised text")
    added.add_argument("--merges", type=positive, required=True)
    added.add_argument("--workers", type=positive, default=1)
    added.add_argument("--output", required=True)
    added.add_argument("files", nargs="+")

    added = command("apply-bpe", apply_bpe, "split words by the merges")
    added.add_argument("--codes", required=True)
    added.add_argument("--max-tokens", type=positive, help="refuse longer lines")
    added.add_argument("--workers", type=positive, default=1)
    added.add_argument("input")
    added.add_argument("output")

    added = command("verify", verify, "compare binarised data with its text")
    added.add_argument("text")
    added.add_argument("binarized", help="without .bin and .idx")
    return parser.parse_args()


def stop(message: str, status: int = 1) -> NoReturn:
    say(f"corpus.py: {message}")
    sys.exit(status)


def main() -> None:
    arguments = arguments_from_command_line()
    # A polite kill is an interruption too, so that partial files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments.run(arguments)
    except CorpusError as error:
        stop(str(error))
    except BrokenProcessPool:
        stop("a worker process was killed (out of memory?); run again with fewer --workers")
    except ImportError as error:
        stop(f"{error}; install the requirements with `make install`, or set PYTHON")
    except KeyboardInterrupt:
        stop("interrupted; run the same command again to continue", 130)


if __name__ == "__main__":
    main()
