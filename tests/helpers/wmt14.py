"""WMT-14's archives, small, on a server of the loopback that breaks when it is told to."""

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from helpers.commands import ROOT, python
from helpers.preprocessing import ENGLISH, GERMAN, sentences

PREPARE = ROOT / "examples/wmt14_de_en/prepare.sh"
RAW = ROOT / "examples/wmt14_de_en/wmt14.py"

EUROPARL = "wmt13/training-parallel-europarl-v7.tgz"
COMMONCRAWL = "wmt13/training-parallel-commoncrawl.tgz"
NEWS = "wmt14/training-parallel-nc-v9.tgz"
DEV = "wmt19/translation-task/dev.tgz"
TEST = "wmt14/test-full.tgz"
PAIRS = {"europarl": 300, "commoncrawl": 200, "news": 100}

# ---------------------------------------------------------------- archives and their server


def pack(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def text(base: list[str], first: int, count: int) -> bytes:
    lines = sentences(base, first + count).splitlines(keepends=True)
    return "".join(lines[first:]).encode()


def both(path: str, first: int, count: int) -> dict[str, bytes]:
    return {f"{path}.de": text(GERMAN, first, count), f"{path}.en": text(ENGLISH, first, count)}


def sgml(kind: str, data: bytes) -> bytes:
    lines = data.decode().splitlines()
    body = "".join(f'<seg id="{number}">{line}</seg>\n' for number, line in enumerate(lines, 1))
    return f'<{kind} setid="x">\n<doc docid="d" genre="n" origlang="de">\n{body}</doc>\n'.encode()


ARCHIVES = {
    EUROPARL: {
        "training/europarl-v7.cs-en.cs": b"nepot\xc5\x99ebujeme\n",
        **both("training/europarl-v7.de-en", 0, 300),
        "training/europarl-v7.fr-en.fr": b"inutile\n",
    },
    COMMONCRAWL: {"commoncrawl.cs-en.cs": b"x\n", **both("commoncrawl.de-en", 300, 200)},
    NEWS: both("training/news-commentary-v9.de-en", 500, 100),
    DEV: {**both("dev/newstest2013", 600, 20), "dev/newstest2013-src.de.sgm": b"<seg>"},
    TEST: {
        "test-full/newstest2014-deen-src.de.sgm": sgml("srcset", text(GERMAN, 620, 20)),
        "test-full/newstest2014-deen-ref.en.sgm": sgml("refset", text(ENGLISH, 620, 20)),
    },
}


class Mirror:
    """Serves a folder, with ranges, and breaks on request. `asked` holds (path, first byte)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, int]] = []
        self.break_after: dict[str, list[int]] = {}  # bytes that get through, for each try
        self.stall_after: dict[str, int] = {}  # by stall()
        self.status: dict[str, list[int]] = {}  # instead of the file, for each try
        self.ranges = True
        self.stalled, self.go_on = threading.Event(), threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stall(self, path: str, after: int) -> None:
        """Only the first ``after`` bytes of ``path`` get through, and it isn't whole by then."""
        size = os.path.getsize(self.folder / path)
        assert after < size, f"{path} has {size} bytes: nothing is missing after {after}"
        self.stall_after[path] = after

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        asked = re.match(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        self.asked.append((path, first))
        if first and self.ranges and first >= os.path.getsize(self.folder / path):
            return handler.send_error(416)
        if not self.ranges:
            first = 0
        if self.status.get(path):
            return handler.send_error(self.status[path].pop(0))
        if not (self.folder / path).exists():
            return handler.send_error(404)
        data = (self.folder / path).read_bytes()
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(len(data) - first))
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        data = data[first:]
        if self.break_after.get(path):
            handler.wfile.write(data[: self.break_after[path].pop(0)])
        elif path in self.stall_after:
            handler.wfile.write(data[: self.stall_after[path]])
            handler.wfile.flush()
            self.stalled.set()
            self.go_on.wait(60)
        else:
            handler.wfile.write(data)
        return None

    def close(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


class World:
    """A mirror, the checksums of what it has, and the environment of prepare.sh."""

    def __init__(self, folder: Path, archives: dict[str, dict[str, bytes]]) -> None:
        self.folder, self.work = folder, folder / "work with a space"
        self.checksums = folder / "checksums"
        for path, members in archives.items():
            pack(folder / "mirror" / path, members)
        self.mirror = Mirror(folder / "mirror")
        self.know()
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "SACREBLEU"},
            "PYTHON": python(), "VENV": "", "WORK": str(self.work), "MIRROR": self.mirror.url,
            "CHECKSUMS": str(self.checksums), "RETRIES": "1", "HOME": str(folder / "home"),
        }  # fmt: skip
        self.cache = folder / "home/.sacrebleu/wmt14/full"  # sacreBLEU's
        self.cache.mkdir(parents=True)
        for field, base in (("src", GERMAN), ("ref", ENGLISH)):
            (self.cache / f"wmt14_full.de-en.{field}").write_bytes(text(base, 700, 20))

    def without_cache(self) -> None:
        """The test set has to be fetched; importing sacreBLEU is what takes most of the time."""
        (self.cache / "wmt14_full.de-en.src").unlink()

    def path(self, name: str) -> Path:
        return self.mirror.folder / name

    def know(self) -> None:
        """Takes the mirror's files, as they are, for the right ones."""
        lines = []
        for name in (EUROPARL, COMMONCRAWL, NEWS, DEV):
            data = self.path(name).read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            lines.append(f"{name.split('/')[-1]} {len(data)} {sha256}\n")
        lines.append(f"newstest2014 20 {hashlib.md5(self.path(TEST).read_bytes()).hexdigest()}\n")
        self.checksums.write_text("".join(lines))

    def prepare(self, *options: object, **kwargs) -> subprocess.CompletedProcess:
        words = [str(PREPARE), "--bpe", "100", "--workers", "2", *map(str, options)]
        environment = self.environment
        if kwargs:  # a limit on the script is none of a fork's
            environment = {**environment, "PYTHON": sys.executable}
        return subprocess.run(words, env=environment, capture_output=True, text=True, **kwargs)

    def command(self, *options: object) -> list[str]:
        """prepare.sh's first step, as it shows it: it makes the raw text."""
        return [sys.executable, str(RAW), *map(str, options), str(self.work)]

    def raw(self, *options: object, **kwargs) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*options), env=self.environment, capture_output=True, text=True, **kwargs
        )

    def made(self) -> dict[str, bytes]:
        """All that is in the work folder, but not the archives."""
        return {
            str(path.relative_to(self.work)): path.read_bytes()
            for path in sorted(self.work.rglob("*"))
            if path.is_file() and path.name != "lock" and path.parent.name != "downloads"
        }

    def close(self) -> None:
        self.mirror.close()


def succeeded(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def joined(language: str) -> bytes:
    base = GERMAN if language == "de" else ENGLISH
    return text(base, 0, sum(PAIRS.values())).replace(b"\t", b" ")
