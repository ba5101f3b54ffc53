"""prepare.sh of the WMT-14 example fetches: broken connections, wrong files, full disks, kills."""

import os
import resource
import signal
import subprocess
import sys

import pytest
from helpers.commands import HANGS
from helpers.preprocessing import mounted, refused
from helpers.wmt14 import (
    ARCHIVES,
    COMMONCRAWL,
    DEV,
    EUROPARL,
    NEWS,
    RAW,
    TEST,
    World,
    joined,
    succeeded,
)


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
    world.mirror.stall(TEST, 100)
    code = f"import sys; sys.path.insert(0, {str(RAW.parent)!r}); import newstest2014, wmt14; "
    code += "newstest2014.TIMEOUT_SECONDS = 2; wmt14.main()"
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
    world.mirror.stall(path, sent)
    process = subprocess.Popen(
        world.command(), env=world.environment, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert world.mirror.stalled.wait(HANGS)
        name, there = path.split("/")[-1] + ".part", sent
        if path == TEST:  # sacreBLEU opens its file, and writes to it when it has all of it
            name, there = "*test-full.tgz", 0
        while not any(part.stat().st_size == there for part in world.work.rglob(name)):
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
    sent = 1000
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
