"""WMT-14 German-English raw text: fetch, check, unpack, put together. prepare.sh runs it.

    python wmt14.py WORK [--corpora europarl,commoncrawl,news] [--subset N] [--redo]

makes WORK/raw/{train,valid,test}.{de,en}, one sentence a line. Archives are kept in
WORK/downloads, what is needed of them in WORK/unpacked. Whatever has its final name is complete:
it is made under another name, and a manifest says what it was made from. So a second run goes on
where the first one ended, and text that is changed or made otherwise is noticed, not used.

Environment: MIRROR, DOWNLOADS, CHECKSUMS, RETRIES, SACREBLEU; see prepare.sh --help.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from archives import TRAIN, VALID, Archive, check_known_names, overridden, read_checksums
from fairseq_mem_text.arguments import positive
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import BLOCK_BYTES, Source, fetch
from fairseq_mem_text.files import cannot_write, written
from fairseq_mem_text.lines import opened, text_chunks
from fairseq_mem_text.progress import Progress, say
from newstest2014 import TEST_LINES, fetch_test_set

LANGUAGES = ("de", "en")
ELSEWHERE = "set MIRROR to another server"


# ---------------------------------------------------------------- manifests


def stamp(path: Path) -> list[int]:
    """What changes when a file is written to."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def made_before(manifest: Path, folder: Path, remedy: str) -> dict[str, Any] | None:
    """The manifest, if its files are there and as they were made; None if one is missing."""
    try:
        made: dict[str, Any] = json.loads(manifest.read_text())
        files = made["files"].items()
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TextError(f"{manifest} is not what prepare.sh wrote; {remedy}") from None
    for name, expected in files:
        path = folder / name
        if not path.exists():
            return None
        if stamp(path) != expected:
            raise TextError(f"{path} was changed after it was made; {remedy}")
    return made


def refuse_changes(made: dict[str, Any], asked: dict[str, Any], what: str, remedy: str) -> None:
    before, now = made.get("settings", {}), asked
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    for name in changed:
        print(
            f"  made with {name} {before.get(name)}",
            f"  asked for {name} {now.get(name)}",
            sep="\n",
        )
    if changed:
        sys.stdout.flush()
        raise TextError(f"{what} was made with another {', '.join(changed)} (see above); {remedy}")


# ---------------------------------------------------------------- unpack


def unpack(
    archive: Archive, work: Path, downloads: Path, mirror: str | None, retries: int, redo: bool
) -> tuple[dict[str, Path], int]:
    """The two text files of an archive and their number of lines; fetches it if need be."""
    folder, base = work / "unpacked", archive.text.rpartition("/")[2]
    paths = {language: folder / f"{base}.{language}" for language in LANGUAGES}
    manifest = folder / f"{base}.json"
    remedy = f"remove {manifest} and run again"
    made = made_before(manifest, folder, remedy)
    settings = {"sha256": archive.sha256}
    if made is not None and not (redo and made.get("settings") != settings):
        refuse_changes(made, settings, str(folder / base), remedy)
        return paths, made["lines"]
    url = f"{mirror or archive.server}/{archive.path}"
    source = Source(url, archive.sha256, archive.bytes, ELSEWHERE)
    packed = fetch(source, make_folder(downloads) / archive.name, retries)
    make_folder(folder)
    say(f"{archive.name}: unpacking {archive.text}.de and .en")
    with written(*map(str, paths.values()), str(manifest)) as (*outputs, manifest_out):
        lines = copy_members(packed, archive, outputs)
        if len(set(lines)) > 1:
            both = " and ".join(f"{path} has {n:,}" for path, n in zip(paths.values(), lines))
            raise TextError(
                f"unequal numbers of lines: {both}; line N of one must translate the other's: "
                f"{archive.name} is damaged at its source, set MIRROR to another server"
            )
        made = {
            "settings": settings,
            "lines": lines[0],
            "files": {
                path.name: stamp(path.with_name(path.name + ".partial")) for path in paths.values()
            },
        }
        manifest_out.write(json.dumps(made, indent=1).encode())
    say(f"{base}: {lines[0]:,} pairs")
    return paths, lines[0]


def copy_members(packed: Path, archive: Archive, outputs: list[BinaryIO]) -> list[int]:
    """Copies the text of both languages out of the archive, read once and as a stream.

    Returns the numbers of lines.
    """
    wanted = {f"{archive.text}.{language}": at for at, language in enumerate(LANGUAGES)}
    lines = [0] * len(wanted)
    damaged = f"remove {packed} and run again, or set MIRROR to another server"
    try:
        with tarfile.open(packed, "r|gz") as tar:
            for member in tar:
                at = wanted.pop(member.name.removeprefix("./"), None)
                if at is None:
                    continue
                text = tar.extractfile(member)
                if text is None:
                    raise TextError(f"{packed}: {member.name} is no file; {damaged}")
                end = b"\n"
                while block := text.read(BLOCK_BYTES):
                    write(outputs[at], block)
                    lines[at] += block.count(b"\n")
                    end = block[-1:]
                if end != b"\n":
                    write(outputs[at], b"\n")
                    lines[at] += 1
                outputs[at].flush()
                if not wanted:
                    break
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise TextError(f"{packed} is truncated or damaged ({error}); {damaged}") from None
    if wanted:
        raise TextError(f"{packed} ends without {' and '.join(wanted)}; {damaged}")
    return lines


def write(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()  # to be there after a kill
    except OSError as error:
        raise cannot_write(file.name, error) from error


def make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    return folder


# ---------------------------------------------------------------- put together

# What some tools take for the end of a line or of a field.
SPACES = bytes.maketrans(b"\t\v\f\r", b"    ")
WIDE_SPACES = [character.encode() for character in "\u0085\u2028\u2029"]


def tidy(lines: list[bytes]) -> list[bytes | None]:
    """Each line with plain spaces; None instead of one that is not valid UTF-8."""
    return [tidy_line(line) for line in lines]


def tidy_line(line: bytes) -> bytes | None:
    if line.isascii():
        return line.translate(SPACES)
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return None
    line = line.translate(SPACES)
    for character in WIDE_SPACES:
        line = line.replace(character, b" ")
    return line


def join_corpora(
    texts: dict[str, tuple[dict[str, Path], int]], prefix: Path, subset: int | None
) -> list[str]:
    """All training text behind each other, or `subset` pairs at even distances. Returns counts."""
    total = sum(lines for _, lines in texts.values())
    wanted = min(subset or total, total)
    counts, seen = [], 0
    progress = Progress("raw training text")
    outputs = [f"{prefix}.{language}" for language in LANGUAGES]
    with written(*outputs) as (german_out, english_out):
        for name, (paths, _) in texts.items():
            read = kept = invalid = 0
            with (
                opened(str(paths["de"])) as german,
                opened(str(paths["en"])) as english,
            ):
                for pairs in zip(text_chunks(german), text_chunks(english)):
                    chosen: list[tuple[bytes, bytes]] = []
                    for pair in zip(*map(tidy, pairs)):
                        seen += 1
                        if seen * wanted // total == (seen - 1) * wanted // total:
                            continue
                        if None in pair:
                            invalid += 1
                        else:
                            chosen.append(pair)
                    german_out.writelines(line for line, _ in chosen)
                    english_out.writelines(line for _, line in chosen)
                    kept += len(chosen)
                    read += len(pairs[0])
                    progress.add(len(pairs[0]))
            left_out = read - kept - invalid
            counts.append(
                f"{name}: {read:,} pairs read, {kept:,} kept; dropped: {invalid:,} not valid UTF-8"
                + (f"; {left_out:,} not in the subset" if subset else "")
            )
    progress.report()
    return counts


def put_together(arguments: argparse.Namespace) -> None:
    work, corpora, subset = arguments.work, arguments.corpora, arguments.subset
    checksums = read_checksums()
    check_known_names(checksums)
    trains = {name: overridden(TRAIN[name], checksums) for name in corpora}
    valid = overridden(VALID, checksums)
    test_lines, test_md5 = checksums.get("newstest2014", (TEST_LINES, None))
    asked = {
        "corpora": ",".join(corpora),
        "subset": subset or "all",
        "archives": [archive.sha256[:16] for archive in (*trains.values(), valid)],
        "newstest2014": [test_lines, test_md5 or "sacreBLEU's"],
    }
    raw = work / "raw"
    remedy = "set WORK to another folder, or replace it with --redo"
    if raw.exists() and not (raw / "manifest.json").exists():  # whatever --redo says
        raise TextError(
            f"{raw} holds files that prepare.sh didn't make; set WORK to another folder"
        )
    if raw.exists() and not arguments.redo:
        made = made_before(raw / "manifest.json", raw, f"remove {raw} and run again")
        if made is not None:
            refuse_changes(made, asked, str(raw), remedy)
            print(*made["counts"], f"{raw} is complete: nothing to do", sep="\n", flush=True)
            return
    mirror = (os.environ.get("MIRROR") or "").rstrip("/") or None
    downloads = Path(os.environ.get("DOWNLOADS") or work / "downloads")
    retries = retries_from_environment()
    texts = {
        name: unpack(archive, work, downloads, mirror, retries, arguments.redo)
        for name, archive in {**trains, "valid": valid}.items()
    }
    valid_paths, valid_lines = texts.pop("valid")
    partial = work / "raw.partial"
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        test_paths = fetch_test_set(partial / "sacrebleu", mirror, test_lines, test_md5, retries)
        for language, test_path in zip(LANGUAGES, test_paths):
            copy(test_path, partial / f"test.{language}")
            copy(valid_paths[language], partial / f"valid.{language}")
        counts = join_corpora(texts, partial / "train", subset)
        counts += [f"newstest2013: {valid_lines:,} pairs", f"newstest2014: {test_lines:,} pairs"]
        shutil.rmtree(partial / "sacrebleu", ignore_errors=True)
        files = {path.name: stamp(path) for path in sorted(partial.iterdir())}
        made = {"settings": asked, "counts": counts, "files": files}
        with written(str(partial / "manifest.json")) as (manifest,):
            manifest.write(json.dumps(made, indent=1).encode())
        shutil.rmtree(raw, ignore_errors=True)  # there only with --redo, or not whole
        os.replace(partial, raw)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(*counts, f"{raw} is complete", sep="\n", flush=True)


def copy(source: Path, target: Path) -> None:
    with opened(str(source)) as file, written(str(target)) as (output,):
        shutil.copyfileobj(file, output)


# ---------------------------------------------------------------- command line


def retries_from_environment() -> int:
    text = os.environ.get("RETRIES") or "5"
    if not text.isdigit():
        raise TextError(f"RETRIES={text}: give a whole number")
    return int(text)


def corpora_list(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in TRAIN:
            raise argparse.ArgumentTypeError(f"no corpus {name!r}; there are {', '.join(TRAIN)}")
    return [name for name in TRAIN if name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=corpora_list, default=list(TRAIN))
    parser.add_argument("--subset", type=positive)
    parser.add_argument("--redo", action="store_true")
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        put_together(arguments)
    except TextError as error:
        say(f"prepare.sh: {error}")
        sys.exit(1)
    except OSError as error:
        say(f"prepare.sh: {cannot_write(str(error.filename or arguments.work), error)}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("prepare.sh: interrupted; run the same command again to continue")
        sys.exit(130)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
