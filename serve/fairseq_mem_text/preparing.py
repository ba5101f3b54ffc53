"""Raw parallel text to data that fairseq-train reads: the work of `preprocess.sh`.

Everything is made in the folder ``OUT/partial`` and moved up when it is complete; run again,
finished stages are kept. There, beside what becomes the data:

- ``lock``: who works here holds an exclusive ``flock`` on it
- ``settings.txt``: what is being made. What is in the folder counts as long as it is there: it is
  removed first and written last, so that what a kill left of a removal is never taken for finished
  stages. In the same way ``OUT/settings.txt`` says that the data are complete.
- ``complete``: all is made; ``placing``: what was in OUT before is removed
"""

import contextlib
import difflib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from .checks import check_documents, check_pair, verify
from .errors import TextError
from .progress import announce, show
from .stages import run_stage

MOST_PARTS = 64  # as many processes of fairseq's at a time, of some 60 MB each
MANY_PAIRS = 50_000
CHOOSE = "choose an --out that can be written to"


class Request(NamedTuple):
    """What is asked for; `preprocess.sh --help` explains it.

    Attributes:
        prefixes: of each split's raw text: train, valid and perhaps test.
        workers: processes.
    """

    source: str
    target: str
    prefixes: dict[str, str]
    out: Path
    bpe: int
    separate: bool
    normalize: bool
    nfc: bool
    remove_nonprinting: bool
    min_words: int
    max_words: int
    max_ratio: str  # as it was written, for the settings
    dedup: bool
    documents: bool
    max_positions: int
    workers: int
    redo: bool

    @property
    def languages(self) -> tuple[str, str]:
        """Of the source and of the target."""
        return self.source, self.target

    @property
    def partial(self) -> Path:
        """Where everything is made."""
        return self.out / "partial"

    @property
    def text(self) -> Path:
        """Where tokenised text is made."""
        return self.partial / "text"

    def max_tokens(self, split: str) -> int | None:
        """The longest line without its end mark, where no line may be dropped."""
        return None if split == "train" else self.max_positions - 1

    def codes(self, language: str) -> Path:
        """The merges of a language."""
        own = self.separate and language == self.target
        return self.partial / (f"code.{language}" if own else "code")


# ---------------------------------------------------------------- what was asked, what is there


def checked_settings(request: Request) -> tuple[list[str], int]:
    """The lines of settings.txt, with sums of the raw text, and the number of training pairs.

    Raises:
        TextError: the text is not fit for use.
    """
    lines = [
        f"source {request.source}",
        f"target {request.target}",
        f"bpe {request.bpe}",
        f"separate {yes_or_no(request.separate)}",
        f"normalize {yes_or_no(request.normalize)}",
        f"min-words {request.min_words}",
        f"max-words {request.max_words}",
        f"max-ratio {request.max_ratio}",
        f"max-positions {request.max_positions}",
    ]
    # Only where they are not as before these options were there: older data stays valid.
    for line, holds in (
        ("nfc yes", request.nfc),
        ("nonprinting remove", request.remove_nonprinting),
        ("dedup yes", request.dedup),
        ("documents yes", request.documents),
    ):
        lines += [line] if holds else []
    announce("== Checking the text")
    pairs = {}
    for split, prefix in request.prefixes.items():
        paths = [f"{prefix}.{language}" for language in request.languages]
        for language, (digest, count) in zip(
            request.languages, check_pair(paths, request.max_tokens(split))
        ):
            lines.append(f"{split}.{language} {digest} {count}")
            pairs[split] = count
        announce(f"{split}: {pairs[split]} pairs")
        if request.documents:
            announce(f"{split}: {check_documents(paths, split == 'train')} documents")
    return lines, pairs["train"]


def changed(path: Path, settings: Sequence[str]) -> list[str]:
    """What differs between the settings in a file and those asked for."""
    lines = path.read_text("utf-8", "replace").removesuffix("\n").split("\n")
    made = [line for line in lines if not line.startswith("#")]
    found = []
    matcher = difflib.SequenceMatcher(a=made, b=settings, autojunk=False)
    for what, i, i_end, j, j_end in matcher.get_opcodes():
        if what != "equal":
            found += [f"  made with {line}" for line in made[i:i_end]]
            found += [f"  asked for {line}" for line in settings[j:j_end]]
    return found


def is_complete(request: Request, settings: Sequence[str]) -> bool:
    """Whether the data are there.

    Raises:
        TextError: others are there, or what we didn't make.
    """
    out, partial = request.out, request.partial
    if (out / "settings.txt").exists():
        if request.redo:
            return False
        changes = changed(out / "settings.txt", settings)
        if not changes:
            announce(f"{out} is complete: nothing to do")
            return True
        if changes == ["  asked for nfc yes"]:
            announce(
                f"{out} is complete, made before characters were composed (NFC): nothing to do, "
                "or --redo"
            )
            return True
        announce("\n".join(changes))
        raise TextError(
            f"{out} holds data of other options or text (see above); choose another --out, or "
            "replace it with --redo"
        )
    ours = any((partial / name).exists() for name in ("lock", "settings.txt"))
    if not ours and out.is_dir() and holds_files(out):
        raise TextError(f"{out} holds files that preprocess.sh didn't make; choose another --out")
    return False


def holds_files(out: Path) -> bool:
    """Whether anything but folders called ``partial`` is in a folder."""
    return any(path.name != "partial" or not path.is_dir() for path in out.rglob("*"))


@contextlib.contextmanager
def locked(partial: Path) -> Iterator[int]:
    """Make the folder if need be, and hold its lock; gives the open descriptor.

    Raises:
        TextError: it cannot be written to, or somebody else works there.
    """
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise TextError(f"cannot make {partial}; {CHOOSE}") from None
    try:
        lock = os.open(partial / "lock", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        raise TextError(f"cannot write in {partial}; {CHOOSE}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TextError(
                f"another preprocess.sh is working in {partial.parent}; wait for it to end"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield lock
    finally:
        os.close(lock)


def begin_or_continue(request: Request, settings: Sequence[str]) -> None:
    """Keep what an interrupted run has made of the same data, or begin.

    Raises:
        TextError: nothing can be written.
    """
    partial = request.partial
    if (partial / "settings.txt").exists():
        changes = changed(partial / "settings.txt", settings)
        if not changes:
            announce("Continuing an unfinished run")
            return
        announce("\n".join(changes))
        announce("An unfinished run with other options or text (see above) is discarded")
        (partial / "settings.txt").unlink()
    for path in partial.iterdir():
        if path.name != "lock":
            remove(path)
    try:
        request.text.mkdir()
    except OSError:
        raise TextError(f"cannot make {request.text}; {CHOOSE}") from None
    versions = [f"# {name} {version(name)}" for name in ("sacremoses", "subword-nmt")]
    new = partial / "settings.new"
    try:
        new.write_text("\n".join([*versions, *settings]) + "\n", encoding="utf-8")
    except OSError:
        raise TextError(f"cannot write {new}; is the disk full?") from None
    new.rename(partial / "settings.txt")


# ---------------------------------------------------------------- the stages


def tokenize_and_clean(request: Request) -> None:
    """Raw to tokenised text, of each split that lacks it."""
    for split, prefix in request.prefixes.items():
        counts = request.text / f"{split}.counts"
        if not counts.exists():
            words = ["tokenize", "--source-lang", request.source, "--target-lang", request.target]
            words += ["--workers", str(request.workers)]
            words += ["--no-normalize"] if not request.normalize else []
            words += ["--nfc"] if request.nfc else []
            words += ["--remove-nonprinting"] if request.remove_nonprinting else []
            words += ["--documents"] if request.documents else []
            if split == "train":
                words += ["--clean", "--min-words", str(request.min_words)]
                words += ["--max-words", str(request.max_words), "--max-ratio", request.max_ratio]
                words += ["--dedup"] if request.dedup else []
            raw = [f"{prefix}.{language}" for language in request.languages]
            run_stage([*words, *raw, request.text / split])
        announce(f"{split}: {counts.read_text('utf-8').rstrip()}")


def segment(request: Request) -> None:
    """Learn BPE if need be, and apply it where it is not."""
    words: list[object]
    together = [(request.source,), (request.target,)] if request.separate else [request.languages]
    for languages in together:
        codes = request.codes(languages[0])
        if not codes.exists():
            words = ["learn-bpe", "--merges", request.bpe, "--workers", request.workers]
            texts = [request.text / f"train.{language}" for language in languages]
            run_stage([*words, "--output", codes, *texts])
    for split in request.prefixes:
        for language in request.languages:
            segmented = request.text / f"{split}.bpe.{language}"
            if not segmented.exists():
                codes, most = request.codes(language), request.max_tokens(split)
                words = ["apply-bpe", "--codes", codes, "--workers", request.workers]
                words += [] if most is None else ["--max-tokens", most]
                run_stage([*words, request.text / f"{split}.{language}", segmented])


def binarize(request: Request, pairs: int, lock: int) -> None:
    """Let fairseq-preprocess make its files.

    Raises:
        TextError: it failed, or lost something.
    """
    # fairseq gives all parts but the first to its workers, waits for them, then does the first one
    # itself: with long texts, smaller parts keep all cores busy. The data are the same.
    parts = request.workers
    if pairs >= MANY_PAIRS and parts > 1:
        parts *= 4
    folder, log = request.partial / "bin", request.partial / "fairseq.log"
    command = ["fairseq-preprocess", "--source-lang", request.source]
    command += ["--target-lang", request.target, "--workers", str(min(parts, MOST_PARTS))]
    command += [] if request.separate else ["--joined-dictionary"]
    for split in request.prefixes:
        command += [f"--{split}pref", str(request.text / f"{split}.bpe")]
    command += ["--destdir", str(folder)]
    shutil.rmtree(folder, ignore_errors=True)
    show(command)
    if run_logged(command, log, lock) != 0:
        last = log.read_text("utf-8", "replace").splitlines()[-5:]
        print(*last, sep="\n", file=sys.stderr)
        free = -(-shutil.disk_usage(request.out).free // 2**20)
        raise TextError(
            f"fairseq-preprocess failed (above; {free} MiB free in {request.out}); mend the cause "
            "and run again, finished stages are kept"
        )
    for line in (folder / "preprocess.log").read_text("utf-8").splitlines():
        if re.search(r"\] Dictionary|tokens,", line):
            announce(line)
    for split in request.prefixes:
        if request.documents:
            shutil.copy(request.text / f"{split}.documents", folder)
        for language in request.languages:
            verify(
                str(request.text / f"{split}.bpe.{language}"),
                str(folder / f"{split}.{request.source}-{request.target}.{language}"),
            )


def run_logged(command: Sequence[str], log: Path, lock: int) -> int:
    """Run a command, which inherits the lock, with its output in a file; return its exit status.

    If we are interrupted, it ends too, with all that it started.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(lock,),
            process_group=0,
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise


def put_into_place(request: Request) -> None:
    """Replace what is in OUT by what was made; its settings.txt goes first and comes last."""
    out, partial = request.out, request.partial
    if not (partial / "placing").exists():  # else a run was stopped here: what is in place is new
        (out / "settings.txt").unlink(missing_ok=True)
        for pattern in ("text", "code*", "dict.*", "train.*", "valid.*", "test.*"):
            for path in out.glob(pattern):
                remove(path)
        (partial / "placing").touch()
    for pattern in ("bin/*", "code*", "text"):
        for path in sorted(partial.glob(pattern)):
            path.rename(out / path.name)
    (partial / "settings.txt").rename(out / "settings.txt")
    shutil.rmtree(partial)


def prepare(request: Request) -> None:
    """Make the data, or what is missing of them.

    Raises:
        TextError: the text is not fit for use, or OUT cannot be written to or holds something else.
    """
    settings, pairs = checked_settings(request)
    if is_complete(request, settings):
        return
    with locked(request.partial) as lock:
        begin_or_continue(request, settings)
        if not (request.partial / "complete").exists():
            announce("== Tokenising")
            tokenize_and_clean(request)
            announce("== BPE")
            segment(request)
            announce("== Binarising")
            binarize(request, pairs, lock)
            (request.partial / "complete").touch()
        put_into_place(request)
    announce(f"== {request.out} is complete")


# ---------------------------------------------------------------- helpers


def yes_or_no(value: bool) -> str:
    """How the settings write it."""
    return "yes" if value else "no"


def remove(path: Path) -> None:
    """Remove a file, or a folder and what is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
