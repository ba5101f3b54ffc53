"""Ways to damage files, each by a random generator: what disks, networks and strangers do."""

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]

ODD = [
    None, True, False, 0, -1, 1, 1.5, 1e308, float("nan"), float("inf"), 10**9, 2**63, 10**400, "",
    "x", "</s>", "\0", "x" * 10**5, "../../ran", "/dev/zero", [], {}, [None], [1, 2], [["x"]],
    {"a": 1}, "\u2028", "\ud800", "\x1b]0;title\a",
]  # fmt: skip


def odd(chance: random.Random) -> object:
    """A value that is of another kind, or out of all proportion."""
    return copy.deepcopy(chance.choice(ODD))


# ---------------------------------------------------------------- bytes


def cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def cut_short(path: Path, chance: random.Random) -> None:
    """The end of the file is missing, or something stands behind it."""
    data = path.read_bytes()
    kept = data[: -chance.randrange(1, 100)]
    path.write_bytes(kept if chance.random() < 0.5 else data + chance.randbytes(9))


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 1, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def overwrite(path: Path, chance: random.Random) -> None:
    """A block of a disk is of zeros, or of something else."""
    data = bytearray(path.read_bytes())
    start, size = chance.randrange(len(data)), chance.randrange(1, 600)
    block = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
    data[start : start + size] = block[: len(data) - start]
    path.write_bytes(data)


def shift(path: Path, chance: random.Random) -> None:
    """Some bytes more, or some less, in the middle."""
    data = path.read_bytes()
    place, size = chance.randrange(len(data)), chance.randrange(1, 40)
    more = chance.randbytes(size) if chance.random() < 0.5 else b""
    path.write_bytes(data[:place] + more + data[place + (0 if more else size) :])


def scramble(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.choice([b"", b"\0" * 9, b"\xff\xfe{}", b"\n", chance.randbytes(300)]))


BYTES: list[Damage] = [cut, cut_short, flip, flip, overwrite, shift, scramble]

# ---------------------------------------------------------------- the place


def missing(path: Path, chance: random.Random) -> None:
    path.unlink()


def fifo(path: Path, chance: random.Random) -> None:
    """Whoever reads it waits for ever."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path, chance: random.Random) -> None:
    """To nowhere, to itself, to a folder, to what never ends."""
    path.unlink()
    path.symlink_to(chance.choice(["nowhere", path.name, ".", "/dev/zero"]))


PLACES: list[Damage] = [missing, fifo, folder, link]

# ---------------------------------------------------------------- text


def lines(path: Path, chance: random.Random) -> None:
    """A line is odd, missing, there twice, or in another encoding; or one is moved."""
    found = path.read_bytes().split(b"\n")
    place = chance.randrange(len(found))
    line = found[place]
    found[place : place + 1] = chance.choice([
        [], [line, line], [b""], [b"\xff" + line], [line[::-1]], [line + b"\0"], [b"  " + line],
        [line + b"\r"], [line.replace(b" ", b"\t")], [line, b"9" * 5000], [b"x " * 3000],
        [line.replace(b" ", b" -")], [line + b" 1" * 3], [line.rpartition(b" ")[0]],
        [line.decode("utf-8").encode("utf-16")], [b"\xe2\x80\xa8", line],
        [b"\xef\xbb\xbf" + line], [*found[:1], line],
    ])  # fmt: skip
    path.write_bytes(b"\n".join(found))


# ---------------------------------------------------------------- JSON


def nest(path: Path, chance: random.Random) -> None:
    """Lists in each other, more of them than a parser or a loop takes."""
    depth = chance.choice([40, 100, 900, 10**5])
    whole = chance.random() < 0.7
    text = "[" * depth + ("]" * depth if whole else "")
    path.write_text(chance.choice(['{"format": 1, "tokenizer": %s}', "%s"]) % text)


def retype(path: Path, chance: random.Random) -> None:
    """An odd value somewhere in JSON, at any depth."""
    value = json.loads(path.read_text(encoding="utf-8"))
    box = value
    while True:
        keys = list(box) if isinstance(box, dict) else list(range(len(box)))
        if not keys:
            box = value
            continue
        key = chance.choice(keys)
        if not (isinstance(box[key], dict | list) and chance.random() < 0.6):
            break
        box = box[key]
        if not box:
            return nest(path, chance)
    act = chance.choice(["set", "set", "delete", "add"])
    if act == "delete":
        del box[key]
    elif act == "add" and isinstance(box, list):
        box.append(odd(chance))
    else:
        box[key] = odd(chance)
    if chance.random() < 0.05:
        value = odd(chance)
    path.write_text(json.dumps(value), encoding="utf-8")


JSON: list[Damage] = [nest, retype, retype, retype]
