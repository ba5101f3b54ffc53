"""prepare.sh of the WMT-14 example, against a server on the loopback and small archives."""

import hashlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.commands import HANGS, ROOT
from helpers.preprocessing import ENGLISH, GERMAN, mounted, refused, sentences

SCRIPT = ROOT / "examples/wmt14_de_en/prepare.sh"
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
        self.stall_after: dict[str, int] = {}  # bytes that get through before nothing more comes
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

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        asked = re.match(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        self.asked.append((path, first))
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
            "PYTHON": sys.executable, "VENV": "", "WORK": str(self.work), "MIRROR": self.mirror.url,
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
        words = [str(SCRIPT), "--bpe", "100", "--workers", "2", *map(str, options)]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, **kwargs)

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
        self.mirror.go_on.set()
        self.mirror.server.shutdown()
        self.mirror.server.server_close()


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path, ARCHIVES)
    yield made
    made.close()


def succeeded(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def joined(language: str) -> bytes:
    base = GERMAN if language == "de" else ENGLISH
    return text(base, 0, sum(PAIRS.values())).replace(b"\t", b" ")


# ---------------------------------------------------------------- the whole way


@pytest.mark.cli
def test_from_a_server_to_binarised_data(world):
    world.without_cache()
    # The first run ends between its two steps.
    succeeded(world.raw())
    done = succeeded(world.prepare("--dedup"))
    assert "raw is complete: nothing to do" in done.stdout
    assert "europarl: 300 pairs read, 300 kept" in done.stdout
    assert "train: 600 pairs read" in done.stdout
    raw, data = world.work / "raw", world.work / "data-bin"
    for language, base in (("de", GERMAN), ("en", ENGLISH)):
        assert (raw / f"train.{language}").read_bytes() == joined(language)
        assert (raw / f"valid.{language}").read_bytes() == text(base, 600, 20)
        # sacreBLEU makes one space of several.
        expected = [" ".join(line.split()) for line in text(base, 620, 20).decode().splitlines()]
        assert (raw / f"test.{language}").read_text().splitlines() == expected
        for split in ("train", "valid", "test"):
            assert (data / f"{split}.de-en.{language}.bin").stat().st_size > 0
    # Only what is needed is unpacked.
    assert {path.name for path in (world.work / "unpacked").iterdir()} == {
        f"{name}.{end}"
        for name in ("europarl-v7.de-en", "commoncrawl.de-en", "news-commentary-v9.de-en",
                     "newstest2013")
        for end in ("de", "en", "json")
    }  # fmt: skip
    settings = (data / "settings.txt").read_text()
    assert "bpe 100" in settings and "nonprinting remove" in settings and "dedup yes" in settings

    # A second run asks nobody and changes nothing.
    before = {path: path.stat().st_mtime_ns for path in world.work.rglob("*")}
    world.close()
    again = succeeded(world.prepare("--dedup"))
    assert again.stdout.count("nothing to do") == 2
    assert {path: path.stat().st_mtime_ns for path in world.work.rglob("*")} == before
    # Other options are refused.
    refused(world.prepare(), "data of other options", "--redo")
    refused(world.prepare("--subset", 50), "was made with another subset", "--redo")
    assert {path: path.stat().st_mtime_ns for path in world.work.rglob("*")} == before


# ---------------------------------------------------------------- fetching


def test_broken_connection_is_taken_up_where_it_broke(world):
    world.mirror.break_after[EUROPARL] = [1000, 500]
    done = succeeded(world.raw())
    assert [first for path, first in world.mirror.asked if path == EUROPARL] == [0, 1000, 1500]
    assert "the connection broke; trying again (at 1,000 bytes)" in done.stderr
    assert (world.work / "raw/train.de").read_bytes() == joined("de")


def test_broken_connection_and_no_more_tries(world):
    world.environment["RETRIES"] = "0"
    world.mirror.break_after[COMMONCRAWL] = [700]
    refused(world.raw(), COMMONCRAWL, "700 of", "run again to continue", "MIRROR")
    assert (world.work / "downloads/training-parallel-commoncrawl.tgz.part").exists()
    assert not (world.work / "raw").exists()
    world.mirror.asked.clear()
    succeeded(world.raw())
    # Europarl was unpacked already, of Common Crawl the beginning was there.
    assert world.mirror.asked[0] == (COMMONCRAWL, 700)
    assert EUROPARL not in dict(world.mirror.asked)


def test_server_without_ranges_starts_again(world):
    world.mirror.ranges = False
    world.mirror.break_after[NEWS] = [800]
    succeeded(world.raw())
    assert [first for path, first in world.mirror.asked if path == NEWS] == [0, 800]
    assert (world.work / "raw/train.en").read_bytes() == joined("en")


def test_beginning_of_another_file_is_noticed(world):
    part = world.work / "downloads/training-parallel-nc-v9.tgz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"another file" * 20)
    refused(world.raw("--corpora", "news"), "sha256", "don't use it")
    assert not part.exists()
    part.write_bytes(b"longer than the whole" * 10_000)
    succeeded(world.raw("--corpora", "news"))


def test_wrong_checksum(world):
    right = world.path(DEV).read_bytes()
    world.path(DEV).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    refused(world.raw(), "dev.tgz", "sha256", "expected", "don't use it")
    assert not list((world.work / "downloads").glob("dev*"))
    assert not (world.work / "raw").exists()
    world.path(DEV).write_bytes(right)
    succeeded(world.raw())


def test_foreign_archive_is_left_alone(world):
    path = world.work / "downloads/dev.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    refused(world.raw(), "dev.tgz has 4 bytes", "remove")
    assert path.read_bytes() == b"mine"


def test_archives_that_are_there_are_used(world):
    downloads = world.folder / "elsewhere"
    downloads.mkdir()
    world.path(EUROPARL).rename(downloads / "training-parallel-europarl-v7.tgz")
    world.environment["DOWNLOADS"] = str(downloads)
    succeeded(world.raw())
    assert EUROPARL not in dict(world.mirror.asked)


@pytest.mark.parametrize("missing", [NEWS, TEST])
def test_file_that_the_server_lacks(world, missing):
    world.path(missing).unlink()
    world.without_cache()
    refused(world.prepare(), missing.split("/")[-1], "404", "MIRROR")
    assert len([path for path, _ in world.mirror.asked if path == missing]) == 1
    assert not (world.work / "raw").exists()


def test_server_that_says_nothing_more(world):
    """SacreBLEU's own download would wait for ever."""
    world.without_cache()
    world.mirror.stall_after[TEST] = 100
    code = f"import sys; sys.path.insert(0, {str(RAW.parent)!r}); import wmt14; "
    code += "wmt14.TIMEOUT_SECONDS = 2; wmt14.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(world.work)], capture_output=True, text=True,
        timeout=HANGS, env={**world.environment, "RETRIES": "0"},
    )  # fmt: skip
    refused(done, "the connection broke", "run again to continue")


def test_server_in_trouble_is_asked_again(world):
    world.without_cache()
    world.mirror.status = {NEWS: [503], TEST: [500]}
    done = succeeded(world.raw())
    assert "503" in done.stderr and "500" in done.stderr


def test_no_server(world, silent_port):
    world.environment.update(MIRROR=f"http://127.0.0.1:{silent_port}", RETRIES="0")
    refused(world.raw(), "no connection", "run again to continue")


# ---------------------------------------------------------------- archives


def test_archive_that_is_truncated_on_the_server(world):
    data = world.path(EUROPARL).read_bytes()
    world.path(EUROPARL).write_bytes(data[: len(data) // 2])
    refused(world.prepare(), f"{len(data) // 2:,} bytes, expected {len(data):,}", "MIRROR")


@pytest.mark.parametrize("path", [EUROPARL, TEST])
def test_truncated_archive_with_its_checksum(world, path):
    world.without_cache()
    data = world.path(path).read_bytes()
    world.path(path).write_bytes(data[: len(data) // 2])
    world.know()
    refused(world.raw(), path.split("/")[-1], "damaged", "MIRROR")
    assert not list((world.work / "unpacked").glob("europarl*.de*")) or path == TEST
    assert not (world.work / "raw").exists()


def test_archive_without_the_text(world):
    pack(world.path(NEWS), {"training/other.de": b"x\n"})
    world.know()
    refused(world.raw(), "ends without training/news-commentary-v9.de-en.de and", "MIRROR")


def test_unequal_line_counts(world):
    members = dict(ARCHIVES[COMMONCRAWL])
    members["commoncrawl.de-en.en"] += b"One line too many.\n"
    pack(world.path(COMMONCRAWL), members)
    world.know()
    refused(
        world.prepare(),
        "unequal numbers of lines", "commoncrawl.de-en.de has 200", "commoncrawl.de-en.en has 201",
    )  # fmt: skip
    assert not list((world.work / "unpacked").glob("commoncrawl*"))


def test_test_set_of_another_size(world):
    world.without_cache()
    world.checksums.write_text(world.checksums.read_text().replace("2014 20 ", "2014 3003 "))
    refused(world.raw(), TEST, "20 sentences, expected 3,003")


def test_test_set_that_sacrebleu_does_not_know(world):
    world.without_cache()
    world.checksums.write_text(re.sub("2014 20 .*", "2014 20 abcdef", world.checksums.read_text()))
    done = world.raw()
    refused(done, TEST, "not the file that sacreBLEU expects", "SACREBLEU")


def test_test_set_from_sacrebleus_cache(world):
    succeeded(world.raw())
    assert TEST not in dict(world.mirror.asked)
    assert (world.work / "raw/test.de").read_bytes() == text(GERMAN, 700, 20)
    # What was cut short there is fetched.
    (world.cache / "wmt14_full.de-en.src").write_bytes(text(GERMAN, 700, 10))
    succeeded(world.raw("--redo"))
    assert TEST in dict(world.mirror.asked)


# ---------------------------------------------------------------- disks and interruptions


@pytest.mark.parametrize("stage", ["download", "unpack", "join"])
def test_file_that_grows_too_large(world, stage):
    downloads = max(world.path(path).stat().st_size for path in ARCHIVES)
    unpacked = max(len(data) for members in ARCHIVES.values() for data in members.values())
    assert 4096 < downloads < unpacked < len(joined("de"))
    limit = {"download": 4096, "unpack": downloads + 100, "join": unpacked + 100}[stage]

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    refused(world.prepare(preexec_fn=limited), "cannot write", "File too large")
    assert not (world.work / "raw").exists()
    assert not list(world.work.rglob("*.partial"))
    succeeded(world.raw())
    assert (world.work / "raw/train.de").read_bytes() == joined("de")


@pytest.mark.parametrize("kib", [16, 80, 180])
def test_full_disk(world, kib):
    mounted(world.work, f"size={kib}k")
    try:
        refused(world.prepare(), "cannot write", "No space left", "free some space")
        assert not (world.work / "raw").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(world.work)], check=True)
        succeeded(world.raw())
        assert (world.work / "raw/train.de").read_bytes() == joined("de")
    finally:
        subprocess.run(["umount", str(world.work)], check=True)


def killed_while_stalled(world: World, path: str, sent: int, kill: int) -> int:
    world.mirror.stall_after[path] = sent
    process = subprocess.Popen(
        world.command(), env=world.environment, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert world.mirror.stalled.wait(HANGS)
        if path != TEST:
            part = world.work / "downloads" / (path.split("/")[-1] + ".part")
            while not (part.exists() and part.stat().st_size == sent):
                assert process.poll() is None
                world.mirror.go_on.wait(0.05)
    finally:
        os.killpg(process.pid, kill)
        _, errors = process.communicate(timeout=HANGS)
        world.mirror.stall_after.clear()
    assert b"Traceback" not in errors
    return process.returncode


@pytest.mark.parametrize(
    ("path", "kill"), [(NEWS, signal.SIGKILL), (TEST, signal.SIGKILL), (TEST, signal.SIGTERM)]
)
def test_goes_on_after_an_interruption(world, path, kill):
    if path == TEST:
        world.without_cache()
    sent = 2000
    status = killed_while_stalled(world, path, sent, kill)
    assert status == (-9 if kill == signal.SIGKILL else 130)
    assert not (world.work / "raw").exists()
    world.mirror.asked.clear()
    succeeded(world.raw())
    asked = dict(world.mirror.asked)
    assert EUROPARL not in asked and COMMONCRAWL not in asked
    if path == NEWS and kill == signal.SIGKILL:
        assert asked[NEWS] in (0, sent)  # what had reached the disk
    interrupted = world.made()

    world.environment["WORK"] = str(world.folder / "straight")
    world.work = world.folder / "straight"
    succeeded(world.raw())
    straight = world.made()
    assert interrupted.keys() == straight.keys()
    for name, data in straight.items():
        if not name.endswith(".json"):  # these hold times
            assert interrupted[name] == data, name


# ---------------------------------------------------------------- stale and foreign files


def test_changed_files_are_noticed(world):
    succeeded(world.raw())
    raw = world.work / "raw"
    with open(raw / "train.de", "a") as file:
        file.write("Noch ein Satz.\n")
    refused(world.raw(), "train.de was changed after it was made", f"remove {raw} and run again")
    with open(world.work / "unpacked/commoncrawl.de-en.en", "a") as file:
        file.write("One more sentence.\n")
    refused(world.raw("--redo"), "commoncrawl.de-en.en was changed", "commoncrawl.de-en.json")
    (world.work / "unpacked/commoncrawl.de-en.json").unlink()
    succeeded(world.raw("--redo"))
    assert (raw / "train.en").read_bytes() == joined("en")
    # A file that is gone is made again.
    (raw / "valid.de").unlink()
    succeeded(world.raw())
    assert (raw / "valid.de").read_bytes() == text(GERMAN, 600, 20)


def test_foreign_folder_is_refused(world):
    (world.work / "raw").mkdir(parents=True)
    (world.work / "raw/thesis.tex").write_text("mine")
    refused(world.raw(), "prepare.sh didn't make", "set WORK")
    refused(world.raw("--redo"), "prepare.sh didn't make", "set WORK")
    (world.work / "raw/manifest.json").write_text("[]")
    refused(world.raw(), "manifest.json is not what prepare.sh wrote")
    assert (world.work / "raw/thesis.tex").exists()
    assert not world.mirror.asked


def test_other_archives_are_noticed(world):
    succeeded(world.raw())
    pack(world.path(NEWS), both("training/news-commentary-v9.de-en", 0, 50))
    world.know()
    refused(world.raw(), "made with another archives", "--redo")
    # The archive that was fetched before is not the one asked for.
    refused(world.raw("--redo"), "nc-v9.tgz has", "remove")
    (world.work / "downloads/training-parallel-nc-v9.tgz").unlink()
    done = succeeded(world.raw("--redo"))
    assert "news: 50 pairs read" in done.stdout


# ---------------------------------------------------------------- what is taken of the text


def test_subset_is_spread_over_the_text(world):
    done = succeeded(world.raw("--subset", 60))
    lines = (world.work / "raw/train.de").read_bytes().splitlines(keepends=True)
    everything = joined("de").splitlines(keepends=True)
    assert lines == everything[9::10]
    assert (
        "europarl: 300 pairs read, 30 kept; dropped: 0 not valid UTF-8; 270 not in" in done.stdout
    )
    assert len((world.work / "raw/train.en").read_bytes().splitlines()) == 60
    assert json.loads((world.work / "raw/manifest.json").read_text())["settings"]["subset"] == 60


def test_subset_of_more_than_there_is(world):
    succeeded(world.raw("--subset", 10_000, "--corpora", "news"))
    assert len((world.work / "raw/train.en").read_bytes().splitlines()) == 100
    assert COMMONCRAWL not in dict(world.mirror.asked)


def test_lines_that_tools_would_misread(world):
    pairs = [
        (b"\xef\xbb\xbfgut\r\n", b"\xef\xbb\xbfgood\r\n"),
        ("Gr\u00f6\u00dfe\n".encode("latin-1"), b"size\n"),
        (b"ein\rWort\tmehr\x0b.\n", "one\u2028line \u00851 \u2029.\n".encode()),
        ("gr\u00f6\u00dfer\n".encode(), b"\xff\n"),
        (b"letzte", b"last"),
    ]
    members = {
        "training/news-commentary-v9.de-en.de": b"".join(german for german, _ in pairs),
        "training/news-commentary-v9.de-en.en": b"".join(english for _, english in pairs),
    }
    pack(world.path(NEWS), members)
    world.know()
    done = succeeded(world.raw("--corpora", "news"))
    assert "news: 5 pairs read, 3 kept; dropped: 2 not valid UTF-8" in done.stdout
    raw = world.work / "raw"
    assert (raw / "train.de").read_bytes() == b"gut \nein Wort mehr .\nletzte\n"
    assert (raw / "train.en").read_bytes() == b"good \none line  1  .\nlast\n"


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--subset", "0"], "--subset 0: give a whole number above 0"),
        (["--corpora", "news,un"], "--corpora news,un: give europarl"),
        (["--bpe", "x"], "--bpe x: give a whole number"),
        (["--frobnicate", "1"], "unknown option --frobnicate"),
        (["--subset"], "--subset needs a value"),
    ],
)
def test_options_are_checked(world, options, says):
    refused(world.prepare(*options), says)
    assert not world.mirror.asked


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RETRIES", "often", "RETRIES=often: give a whole number"),
        ("MIRROR", "not a url", "no address"),
        ("CHECKSUMS", "/dev/null/x", "cannot read"),
        ("PYTHON", "/nowhere/python", "make install"),
    ],
)
def test_variables_are_checked(world, name, value, says):
    world.environment[name] = value
    refused(world.prepare(), says)


@pytest.mark.parametrize("line", ["dev.tgz 12", "other.tgz 1 abc"])
def test_checksums_are_checked(world, line):
    world.checksums.write_text(line + "\n")
    refused(world.raw(), "dev.tgz 12" if "dev" in line else "no file other.tgz")


def test_help_names_every_option_and_variable():
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for option in re.findall(r"^ +(?:-h \| )?(--[a-z]+)\) ", SCRIPT.read_text(), re.MULTILINE):
        assert option in done.stdout
    for name in re.findall(r'environ\.get\("([A-Z]+)"', RAW.read_text()):
        assert f"  {name}=" in done.stdout


def test_sums_are_those_of_wmt():
    """The README's table, the code and TensorFlow Datasets' records agree."""
    code = RAW.read_text().replace("_", "")
    readme = (ROOT / "examples/wmt14_de_en/README.md").read_text()
    rows = re.findall(r"\| (\S+\.tgz) \| ([\d,]+) \| `([0-9a-f]{64})` \|", readme)
    assert len(rows) == 4
    for name, size, sha256 in rows:
        assert name.split("/")[-1] in code.replace("\n", "") or name in RAW.read_text()
        assert size.replace(",", "") in code
        assert sha256 in code
