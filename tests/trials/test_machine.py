"""Faults of the machine: each command works, or says in one line why not; nothing is half-made.

A full disk, a folder that cannot be written to, closed streams, odd paths, two at once: whatever
the machine does, the files that were there are as they were, and each new one is whole.
"""

import os
import random
import resource
import subprocess
import time
from pathlib import Path

import pytest
from helpers import tool_inputs
from helpers.forked_commands import closed, into, mount, run
from helpers.tool_tries import ODD, SPEAKERS, Try, check_told, contents

PAGE = 4096
NAMES = list(tool_inputs.TOOLS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    from fairseq_mem.runs import charts

    charts.new_figure(1, 1)  # imports what takes longest, once for all forks
    folder = tmp_path_factory.mktemp("inputs")
    return tool_inputs.make(folder)


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    """What each command makes if all goes well: files by name, and the standard output."""
    made = {}

    def of(name):
        if name not in made:
            well = Try(name, inputs, tmp_path_factory.mktemp("well"))
            ended = well.run()
            assert ended.status == 0, ended.errors
            files = contents(well.out_path) if well.tool.result else {}
            made[name] = files, ended.output
        return made[name]

    return of


def chosen(seed, names=NAMES):
    """The seeds take all commands in turn."""
    return names[seed % len(names)], random.Random(seed)


WRITERS = [name for name in NAMES if tool_inputs.TOOLS[name].result]


@pytest.fixture
def disk(tmp_path):
    """A small file system in the folder ``disk``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, "size=64m")
    except subprocess.CalledProcessError:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def pages(files):
    return sum(-(-len(data) // PAGE) for data in files.values())


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.tries(sample=2, soak=66)
def test_a_full_disk(seed, inputs, results, tmp_path, disk):
    name, draw = chosen(seed, WRITERS)
    wanted, _ = results(name)
    one = Try(name, inputs, tmp_path, "disk/out")
    if draw.random() < 0.5:
        one.put_old(wanted)
    (disk / "full").write_bytes(b"0" * PAGE)  # no size at all would mean no limit
    free = draw.randrange(pages(wanted))
    remount(disk, f"size={(pages(contents(disk)) + free) * PAGE}")
    ended = one.run()
    if not one.old:  # else what is replaced makes room
        assert ended.status != 0
    one.check(ended, wanted)
    assert (
        ended.status == 0
        or one.tool.train
        or any(says in ended.last_line for says in ("No space left on device", "disk is full"))
    ), ended.errors


@pytest.mark.tries(sample=2, soak=44)
def test_files_that_may_not_grow(seed, inputs, results, tmp_path):
    name, draw = chosen(seed, WRITERS)
    wanted, _ = results(name)
    one = Try(name, inputs, tmp_path)
    if draw.random() < 0.5:
        one.put_old(wanted)
    most = draw.randrange(max(map(len, wanted.values())))
    ended = one.run(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    assert ended.status != 0
    one.check(ended, wanted)


@pytest.mark.tries(sample=1, soak=22)
def test_a_folder_that_cannot_be_written_to(seed, inputs, results, tmp_path, disk):
    name, draw = chosen(seed, WRITERS)
    wanted, _ = results(name)
    one = Try(name, inputs, tmp_path, "disk/out")
    if draw.random() < 0.5:
        one.put_old(wanted)
    remount(disk, "ro")
    ended = one.run()
    assert ended.status != 0
    one.check(ended, wanted, "" if one.tool.train else "Read-only file system")


@pytest.mark.tries(sample=1, soak=13)
def test_inputs_that_cannot_be_written_to(seed, inputs, results, tmp_path, disk):
    """They need not be."""
    name, _ = chosen(seed)
    wanted, _ = results(name)
    one = Try(name, inputs, disk, "../out")
    remount(disk, "ro")
    ended = one.run()
    assert ended.status == 0, ended.errors
    one.check(ended, wanted)


STREAMS = {
    "output full": lambda: into("/dev/full", 1),
    "output closed": lambda: closed(1),
    "errors full": lambda: into("/dev/full", 2),
    "errors closed": lambda: closed(2),
    "all closed": lambda: closed(0, 1, 2),
    "input closed": lambda: closed(0),
}


@pytest.mark.parametrize("fault", STREAMS)
@pytest.mark.tries(sample=1, soak=13)
def test_streams_that_cannot_be_used(seed, fault, inputs, results, tmp_path):
    name, _ = chosen(seed + list(STREAMS).index(fault))
    wanted, output = results(name)
    one = Try(name, inputs, tmp_path)
    ended = one.run(STREAMS[fault])
    told = f"{one.words}: {ended.status} {ended.errors}"
    one.check_kept()
    one.check_result(wanted, whole=ended.status == 0)
    is_lost = fault.startswith(("output", "all")) and not one.tool.result
    if is_lost or (fault == "output full" and output):
        assert ended.status != 0, told
    elif fault != "errors full":
        assert ended.status == 0, told
    if ended.status != 0 and not fault.startswith(("errors", "all")):
        check_told(ended, one.tool.train)
    if ended.status == 0 and fault.startswith(("errors", "input")) and not one.tool.train:
        assert ended.output == output, told  # errors must not get into it


@pytest.mark.tries(sample=1, soak=26)
def test_a_reader_that_leaves(seed, inputs, results, tmp_path):
    """As with ``| head -1``: it ends quietly, as if the signal for that had ended it."""
    name, draw = chosen(seed)
    wanted, _ = results(name)
    one = Try(name, inputs, tmp_path)
    ended = one.run(lines=draw.randrange(3))
    one.check_kept()
    one.check_result(wanted, whole=one.tool.result or ended.status == 0)
    assert ended.status in (0, 141), ended.errors
    for noise in ("Broken pipe", "Traceback", "Exception ignored"):
        assert noise not in ended.errors


@pytest.mark.tries(sample=2, soak=78)
def test_odd_paths(seed, inputs, results, tmp_path):
    name, draw = chosen(seed)
    wanted, output = results(name)
    odd = draw.choice(ODD)
    one = Try(name, inputs, tmp_path / odd)
    ended = run_from(one, draw.choice(["inside", "beside", "anywhere"]), odd)
    one.check_kept()
    if ended.status == 0:
        assert contents(one.out_path).keys() >= wanted.keys() if one.tool.result else (
            ended.output == output
        )  # fmt: skip
    else:
        one.check_result(wanted, whole=False)
        assert odd.startswith("-") or ":" in odd or "," in odd, (odd, ended.errors)
        if ended.status != 2:
            check_told(ended, one.tool.train)


def run_from(one, place, odd):
    """Its files named from inside the odd folder, from beside it, or by their whole paths."""
    before = {"inside": Path(), "beside": Path(odd), "anywhere": one.folder}[place]
    where = one.folder.parent if place == "beside" else one.folder
    words = [one.words[0], *one.tool.words(before / "in", before / one.out)]
    return run(one.program, words, lambda: os.chdir(where))


@pytest.mark.tries(sample=1, soak=36)
def test_two_at_once(seed, inputs, results, tmp_path):
    """Into one place: one line or all of it from each, and the result is that of one."""
    name, draw = chosen(seed, [name for name in WRITERS if name != "fairseq-train"])
    wanted, _ = results(name)
    one = Try(name, inputs, tmp_path)
    if draw.random() < 0.5:
        one.put_old(wanted)
    first = one.start()
    time.sleep(draw.choice([0, draw.random() / 2]))
    second = one.start()
    for ended in (first.wait(), second.wait()):
        assert ended.status == 0 or ended.last_line.startswith(SPEAKERS), ended.errors
        assert "Traceback" not in ended.errors, ended.errors
    one.check_kept()
    one.check_result(wanted)
