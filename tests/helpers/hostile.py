"""What a stranger would put into a checkpoint: code, options with code in them, sizes, odd types.

Every payload makes the folder ``ran`` in the working folder, if it is run.
"""

import argparse
import builtins
import importlib
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fairseq_mem.literals import OPTIONS
from helpers.damage import odd

CODE = "__import__('os').mkdir('ran')"
CODES = [
    CODE, f"({CODE},)", f"[{CODE}] * 2", f"(lambda: {CODE})()", f"[{CODE} for _ in (1,)]",
    "exec('import os; os.mkdir(\"ran\")')", f"{{'x': {CODE}}}", f"1,{CODE}", f"1 if {CODE} else 2",
    f"f'{{{CODE}}}'", "().__class__.__base__.__subclasses__()", f" \t{CODE}", f"({CODE})#",
    f"[x := {CODE}]", f"True and {CODE}",
]  # fmt: skip
RESOLVERS = [
    "${oc.env:HOME}", "${oc.decode:${oc.env:HOME}}", "x${oc.create:{a: 1}}", "${oc.env:A,${task}}",
    "${hydra:runtime.cwd}", "$${oc.env:HOME}", "\\${oc.env:HOME}", "${  oc.env:HOME}",
    "${${x}}", "${oc.dict.keys:task}", "${a[0]}", "${", "${a",
]  # fmt: skip
FILES = ["../../ran", "/dev/zero", "ran", "$(mkdir ran)", "ran;mkdir ran", "| mkdir ran", "a\0b"]


class Runs:
    """A pickle of it calls a function when it is read."""

    def __init__(self, chance: random.Random) -> None:
        self.call: tuple[Callable[..., Any], tuple[Any, ...]] = chance.choice([
            (os.mkdir, ("ran",)), (os.system, ("mkdir ran",)), (builtins.eval, (CODE,)),
            (builtins.exec, (CODE,)), (open, ("ran", "w")), (getattr, (os, "mkdir")),
            (importlib.import_module, ("this",)), (pickle.loads, (pickle.dumps(1),)),
            (torch.load, ("model.pt",)), (torch.save, ({}, "ran")), (Path, ("ran",)),
            (argparse.FileType("w"), ("ran",)), (os.popen, ("mkdir ran",)), (map, (eval, [CODE])),
        ])  # fmt: skip

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


# ---------------------------------------------------------------- into the options or the weights


def boxes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """All dictionaries of names and values in a checkpoint's options and notes."""
    found: list[dict[str, Any]] = []
    waiting: list[Any] = [state]
    while waiting:
        box = waiting.pop()
        box = vars(box) if isinstance(box, argparse.Namespace) else box
        if isinstance(box, dict) and box and not any(map(torch.is_tensor, box.values())):
            found.append(box)
            waiting += box.values()
    return found


def code_in_an_option(state: dict[str, Any], chance: random.Random) -> None:
    """Where fairseq evaluates, or anywhere else."""
    text = chance.choice(CODES)
    model, task = vars(state["cfg"]["model"]), boxes(state["cfg"]["task"])[0]
    if chance.random() < 0.7:
        chance.choice([model, model, task])[chance.choice(sorted(OPTIONS))] = text
    else:
        box = chance.choice(boxes(state))
        box[chance.choice(list(box))] = text


def a_resolver(state: dict[str, Any], chance: random.Random) -> None:
    box = chance.choice(boxes(state["cfg"]))
    text = chance.choice(RESOLVERS)
    box[chance.choice(list(box))] = chance.choice([text, [text], {"a": text}])


def a_file(state: dict[str, Any], chance: random.Random) -> None:
    """A path, a device or a shell's command where a name belongs."""
    box = chance.choice(boxes(state["cfg"]))
    texts = [name for name, value in box.items() if value is None or isinstance(value, str)]
    box[chance.choice(texts or list(box))] = chance.choice(FILES)


def another_type(state: dict[str, Any], chance: random.Random) -> None:
    """An option, or a whole part, of another type."""
    model = vars(state["cfg"]["model"])
    box = chance.choice([model, model, *boxes(state)])
    box[chance.choice(list(box))] = odd(chance)


def no_option(state: dict[str, Any], chance: random.Random) -> None:
    box = chance.choice([vars(state["cfg"]["model"]), *boxes(state)])
    for _ in range(chance.choice([1, 1, 5])):
        if box:
            del box[chance.choice(list(box))]


def another_model(state: dict[str, Any], chance: random.Random) -> None:
    """The name of any architecture, task, criterion or optimizer that there is."""
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_REGISTRY

    cfg = state["cfg"]
    kind = chance.choice(["model", "task", *REGISTRIES])
    names = {"model": ARCH_MODEL_REGISTRY, "task": TASK_REGISTRY}.get(kind)
    name = chance.choice(sorted(REGISTRIES[kind]["registry"] if names is None else names))
    box = vars(cfg["model"]) if kind == "model" else cfg.get(kind)
    if not isinstance(box, dict):
        box = cfg[kind] = {}
    box.update({"_name": name, kind: name})
    if kind == "model":
        box["arch"] = name
    if chance.random() < 0.5:
        code_in_an_option(state, chance)


def a_tensor(state: dict[str, Any], chance: random.Random) -> None:
    """Weights that are no such weights."""
    weights = state["model"]
    name = chance.choice(list(weights))
    old = weights[name].float()
    one = torch.ones(1)
    new = chance.choice([
        lambda: one.expand(10**12), lambda: old.to(torch.complex64), lambda: old.int(),
        lambda: old.to_sparse(), lambda: old * float("nan"), lambda: old[..., :0], lambda: "text",
        lambda: None, lambda: [1.0], lambda: one.expand(old.shape), lambda: old.flatten(),
        lambda: old.bool(), lambda: torch.quantize_per_tensor(old, 0.1, 0, torch.qint8),
        lambda: torch.empty(old.shape, device="meta"), lambda: torch.nn.Parameter(old),
        lambda: old.new_empty(0, 10**9), lambda: old.double(), lambda: old.to(torch.float8_e5m2),
    ])  # fmt: skip
    act = chance.choice(["set", "set", "set", "rename", "delete", "add"])
    if act in ("rename", "delete"):
        del weights[name]
    if act != "delete":
        odd_names = ["\0", "a" * 10**4, "encoder.layers.99999.fc1.weight", "encoder", 7, None,
                     "encoder.memory.weight", "__class__", "a\x1b]0;x\a\n"]  # fmt: skip
        weights[name if act == "set" else chance.choice(odd_names)] = new()


def nested(state: dict[str, Any], chance: random.Random) -> None:
    """More deeply than recursion goes; a circle, too."""
    box = chance.choice(boxes(state))
    value: Any = []
    if chance.random() < 0.3:
        value.append(value)
    for _ in range(chance.choice([50, 300])):
        value = [value] if chance.random() < 0.5 else {"a": value}
    box[chance.choice(list(box))] = value


def code_in_a_pickle(state: dict[str, Any], chance: random.Random) -> None:
    box = chance.choice([*boxes(state), state["model"]])
    box[chance.choice(list(box))] = chance.choice([Runs(chance), [Runs(chance)]])


CHANGES = [
    code_in_an_option, code_in_an_option, a_resolver, a_file, another_type, another_type,
    another_type, no_option, another_model, a_tensor, a_tensor, nested, code_in_a_pickle,
]  # fmt: skip

# ---------------------------------------------------------------- files made by hand


def opcodes(chance: random.Random) -> bytes:
    """A program for the unpickler: calls by all its ways, and whatever else it knows."""
    names = [
        b"os\nmkdir\n", b"posix\nmkdir\n", b"builtins\neval\n", b"builtins\nexec\n",
        b"__builtin__\neval\n", b"builtins\ngetattr\n", b"torch\nload\n", b"torch.hub\nload\n",
        b"argparse\nNamespace\n", b"collections\ndefaultdict\n", b"collections\nOrderedDict\n",
        b"omegaconf.dictconfig\nDictConfig\n", b"omegaconf.nodes\nAnyNode\n", b"builtins\ndict\n",
        b"omegaconf.base\nMetadata\n", b"torch._utils\n_rebuild_tensor_v2\n",
        b"torch._utils\n_rebuild_parameter\n", b"torch\nSize\n", b"torch\nFloatStorage\n",
        b"fairseq.distributed.utils\n_TensorPlaceholder\n", b"typing\nAny\n", b"builtins\nlist\n",
    ]  # fmt: skip
    text = chance.choice([b"ran", CODE.encode(), b"mkdir ran"])
    whole = [b"\x80\x02"]
    for _ in range(chance.randrange(1, 25)):
        name = chance.choice(names)
        argument = b"X" + struct.pack("<I", len(text)) + text
        whole.append(chance.choice([
            b"c" + name + argument + b"\x85R", b"(" + argument + b"i" + name,
            b"(c" + name + argument + b"o", b"c" + name + argument + b"\x85\x81",
            b"".join(b"\x8c" + bytes([len(part)]) + part for part in name.split(b"\n")[:2])
            + b"\x93" + argument + b"\x85R",
            b"c" + name + b")R}" + argument + b"K\x01sb", b"c" + name + b")\x81N}" + argument
            + b"K\x01s\x86b", b"\x82\x01", b"(lp0\n", b"}q\x00", argument + b"q\x01", b"h\x00",
            b"(" + argument + b"t", argument + b"Q", b"0", b"2", b"(", b"1", b"N", b"K\x01",
            b"c" + name + b"(c" + name + b"\x85R", b"I" + b"9" * 30 + b"\n", b"j\xff\xff\xff\x7f",
            b"r\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8, b"(" * 900,
            b"c" + name + b"}R", b"P7\n", b"\x8a\xff" + b"\x01" * 255, b"F1e999\n", b"a", b"s",
        ]))  # fmt: skip
    return b"".join([*whole, b"."])


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> None:
    """Write an archive again, with other contents and the right sums."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            if (changed := change(name, data)) is not None:
                archive.writestr(name, changed)


def pickled_program(path: Path, chance: random.Random) -> None:
    """In an archive, or as a file of the old form."""
    if chance.random() < 0.6:
        program = opcodes(chance)
        rewritten(path, lambda name, data: program if name.endswith("data.pkl") else data)
        return
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    info = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    parts = [*magic, info, opcodes(chance), pickle.dumps([], 2)]
    parts[chance.choice([0, 1, 2, 3, 3, 3, 4])] = opcodes(chance)
    path.write_bytes(b"".join(parts))


def spoiled_program(path: Path, chance: random.Random) -> None:
    """The sound one, with some other bytes and the right sums."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return data
        spoiled = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 8])):
            spoiled[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(spoiled)

    rewritten(path, change)


def another_archive(path: Path, chance: random.Random) -> None:
    """Of a TorchScript, packed, with names that lead outside, without its data, of other order."""
    kind = chance.randrange(6)
    if kind == 0:
        rewritten(path, lambda _, data: data)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/constants.pkl", opcodes(chance))
    elif kind == 1:
        rewritten(path, lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    elif kind == 2:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("../../ran", b"x")
            archive.writestr("archive/data/0", bytes(9))
    elif kind == 3:
        rewritten(path, lambda name, data: None if "/data/" in name else data)
    elif kind == 4:
        rewritten(path, lambda name, data: b"big" if "byteorder" in name else data)
    else:
        rewritten(path, lambda name, data: data[:4] if "/data/" in name else data)


def a_tar(path: Path, chance: random.Random) -> None:
    """torch reads archives of a third kind, too."""
    import io
    import tarfile

    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            data = opcodes(chance)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


BY_HAND = [
    pickled_program,
    pickled_program,
    spoiled_program,
    spoiled_program,
    another_archive,
    a_tar,
]
