"""Faults of the machine that only a command which is started anew can meet: its surroundings.

No home, no place for temporary files, a locale that is not there, a folder that is gone; and
preprocess.sh, a recipe and the server, with closed streams and odd paths.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tool_inputs
from helpers.commands import HANGS, ROOT
from helpers.forked_commands import Ended
from helpers.preprocessing import preprocess, write_pair
from helpers.served import SERVE
from helpers.tool_tries import ODD, Try, contents

pytestmark = pytest.mark.cli
NAMES = list(tool_inputs.TOOLS)
AROUND = {
    "no home": {"HOME": None},
    "a home that is not there": {"HOME": "/nowhere"},
    "a home that is a file": {"HOME": "/dev/null"},
    "no place for temporary files": {"TMPDIR": "/nowhere", "TMP": "/nowhere"},
    "the C locale": {"LC_ALL": "C"},
    "a locale that is not there": {"LC_ALL": "xx_YY.UTF-8"},
    "ASCII": {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    "no terminal": {"TERM": None, "COLUMNS": "1"},
    "nothing": dict.fromkeys(set(os.environ) - {"PATH"}),
}


def surroundings(changes: dict[str, str | None]) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(SERVE)])
    made = {**os.environ, **changes, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return {name: value for name, value in made.items() if value is not None}


def started(words, **how) -> Ended:
    done = subprocess.run(
        list(map(str, words)), capture_output=True, timeout=HANGS, stdin=subprocess.DEVNULL, **how
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def start_tool(one: Try, **how) -> Ended:
    program = ["-m", "fairseq_cli.train"] if one.tool.train else ["-m", "fairseq_mem"]
    return started([sys.executable, *program, *one.words[1:]], cwd=one.folder, **how)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tool_inputs.make(tmp_path_factory.mktemp("inputs"))


@pytest.mark.tries(sample=1, soak=26)
def test_surroundings(seed, inputs, tmp_path):
    """All commands work, whatever is around them."""
    draw = random.Random(seed)
    fault = draw.choice(list(AROUND))
    one = Try(NAMES[seed % len(NAMES)], inputs, tmp_path)
    ended = start_tool(one, env=surroundings(AROUND[fault]))
    assert ended.status == 0, (fault, ended.errors)
    one.check_kept()
    assert one.out_path.exists() or ended.output


# ---------------------------------------------------------------- preprocess.sh

CLOSED = ('exec "$@" >&-', 'exec "$@" 2>&-', 'exec "$@" <&-', 'exec "$@" >/dev/full',
          'exec "$@" 2>/dev/full', '"$@" | head -1', 'exec "$@" >&- 2>&-')  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with small raw text, and what preprocess.sh makes of it."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, count in (("train", 40), ("valid", 8), ("test", 8)):
        write_pair(folder / "raw", name, count)
    done = preprocess(folder / "raw", folder / "data")
    assert done.returncode == 0, done.stderr
    return folder


def prepared(folder: Path) -> dict[str, bytes]:
    """What of the data does not tell when or where it was made."""
    return {name: data for name, data in contents(folder).items() if "log" not in name}


@pytest.mark.tries(sample=0, soak=24)
def test_preprocess(seed, raw, tmp_path):
    draw = random.Random(seed)
    kind = ("streams", "surroundings", "paths")[seed % 3]
    odd = draw.choice(ODD) if kind == "paths" else "here"
    folder = tmp_path / odd
    shutil.copytree(raw / "raw", folder / "raw")
    fault = draw.choice(list(AROUND)) if kind == "surroundings" else ""
    shell = draw.choice(CLOSED) if kind == "streams" else 'exec "$@"'
    if draw.random() < 0.5:  # relative, with the odd name in front
        where, before = tmp_path, Path(odd)
    else:
        where, before = ROOT, folder
    words = [ROOT / "preprocess.sh", "-s", "de", "-t", "en", "--out", before / "data", "--bpe", 100,
             "--workers", 2]  # fmt: skip
    for split in ("train", "valid", "test"):
        words += [f"--{split}", before / "raw" / split]
    environment = surroundings({**AROUND.get(fault, {}), "PYTHON": sys.executable})
    ended = started(["bash", "-c", shell, "bash", *words], cwd=where, env=environment)
    told = f"{seed}: {odd!r} {fault} {shell}: {ended.status}\n{ended.output!r}\n{ended.errors}"
    assert contents(folder / "raw") == contents(raw / "raw"), told
    whole = prepared(folder / "data") if (folder / "data").exists() else {}
    if (folder / "data/settings.txt").exists():
        assert whole == prepared(raw / "data"), told
    if ended.status != 0 or "head" in shell:
        assert "Traceback" not in ended.errors and "Exception ignored" not in ended.errors, told
        assert kind == "streams" or any(sign in odd for sign in ",:"), told
        assert shell != 'exec "$@"' or ended.last_line.startswith("preprocess.sh: "), told
    else:
        assert (folder / "data/settings.txt").exists() or ended.last_line, told


@pytest.mark.tries(sample=0, soak=4)
def test_two_preprocess_at_once(seed, raw, tmp_path):
    """One of them does it; the other says that it is at work."""
    words = [ROOT / "preprocess.sh", "-s", "de", "-t", "en", "--out", tmp_path / "data", "--bpe",
             "100", "--workers", "1"]  # fmt: skip
    for split in ("train", "valid", "test"):
        words += [f"--{split}", str(raw / "raw" / split)]
    environment = surroundings({"PYTHON": sys.executable})
    both = [
        subprocess.Popen(
            list(map(str, words)), env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=HANGS)[1] for process in both]
    statuses = sorted(process.returncode for process in both)
    assert statuses in ([0, 0], [0, 1]), errors
    if statuses == [0, 1]:
        assert any("another preprocess.sh is working" in one for one in errors), errors
    assert prepared(tmp_path / "data") == prepared(raw / "data")
