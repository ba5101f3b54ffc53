"""The newest checkpoint that is whole: damage of all kinds is passed over, never raised."""

import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from fairseq_mem.runs.checkpoints import (
    complete_best,
    final_checkpoints,
    is_whole,
    main,
    newest_checkpoints,
    updates_of,
)


def test_newest_checkpoint_that_is_whole(tmp_path, capsys):
    for updates in (900, 1000, 1100):
        with zipfile.ZipFile(tmp_path / f"checkpoint_2_{updates}.pt", "w") as archive:
            archive.writestr("data", bytes(10_000))
    truncated = (tmp_path / "checkpoint_2_1100.pt").read_bytes()[:5000]
    (tmp_path / "checkpoint_2_1100.pt").write_bytes(truncated)
    (tmp_path / "checkpoint_best.pt").write_bytes(b"")
    main(tmp_path)
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path}/checkpoint_2_1000.pt\n"
    assert "1100.pt is damaged" in printed.err


def test_checkpoints_of_a_training_that_ended_with_an_epoch(tmp_path, capsys):
    for name in ("checkpoint1", "checkpoint_2_900", "checkpoint_2_1000", "checkpoint2"):
        torch.save(
            {"model": {}, "optimizer_history": [{"num_updates": 1016}]}, tmp_path / f"{name}.pt"
        )
    main(tmp_path, 1016, 3)
    names = [Path(line).stem for line in capsys.readouterr().out.splitlines()]
    assert names == ["checkpoint2", "checkpoint_2_1000", "checkpoint_2_900"]
    main(tmp_path, 1000, 3)  # not what was asked for
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("best", [None, b"PK cut short", b"an older one"])
def test_the_best_checkpoint_whose_copy_a_kill_prevented(tmp_path, best):
    """fairseq would go on from the newest one and take it for copied."""
    path = tmp_path / "checkpoint_best.pt"
    for updates, loss in ((10, 3.0), (20, 2.0)):
        state = {"model": {}, "extra_state": {"val_loss": loss, "best": loss}}
        torch.save(state, tmp_path / f"checkpoint_1_{updates}.pt")
    if best is not None:
        path.write_bytes(best)
    complete_best(tmp_path)
    assert path.read_bytes() == (tmp_path / "checkpoint_1_20.pt").read_bytes()
    for worse in ({"val_loss": 4.0, "best": 2.0}, {"val_loss": None}, None):
        torch.save({"model": {}, "extra_state": worse}, tmp_path / "checkpoint_1_30.pt")
        complete_best(tmp_path)
        assert path.read_bytes() == (tmp_path / "checkpoint_1_20.pt").read_bytes()


def test_damage_in_the_middle_is_seen(tmp_path, capsys):
    path = tmp_path / "checkpoint_1_10.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", bytes(10_000))
    damaged = bytearray(path.read_bytes())
    damaged[5000] = 1
    path.write_bytes(damaged)
    main(tmp_path)
    assert capsys.readouterr().out == ""


def test_no_checkpoint(tmp_path, capsys):
    main(tmp_path / "missing")
    assert capsys.readouterr().out == ""


def stored(path: Path) -> bytearray:
    """An archive without compression, as torch writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", bytes(10_000))
    return bytearray(path.read_bytes())


def test_a_file_with_the_mark_of_a_folder_is_damaged(tmp_path):
    """All its sums are right, and torch would leave the tensor unset."""
    path = tmp_path / "checkpoint_1_10.pt"
    archive = stored(path)
    assert is_whole(path)
    entry = archive.rindex(b"PK\x01\x02")
    archive[entry + 38] |= 0x10  # the external attributes in the archive's directory
    path.write_bytes(archive)
    assert not is_whole(path)


def test_damage_that_zipfile_has_other_words_for(tmp_path, capsys):
    """Each bit of the archive's directory, flipped: the one before is taken, nothing is raised."""
    old, new = (tmp_path / f"checkpoint_1_{updates}.pt" for updates in (10, 20))
    whole = stored(old)
    directory = whole.rindex(b"PK\1\2")
    raised = set()
    for place in range(directory, len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            new.write_bytes(damaged)
            try:
                with zipfile.ZipFile(new) as archive:
                    assert archive.testzip() is None
                    marked_as_folder = archive.infolist()[0].external_attr & 0x10
            except Exception as error:
                raised.add(type(error))
                assert newest_checkpoints(tmp_path) == [old]
            else:  # of a date, for instance
                chosen = [old] if marked_as_folder else [new, old]
                assert newest_checkpoints(tmp_path) == chosen
    assert {NotImplementedError, RuntimeError, zipfile.BadZipFile} <= raised
    capsys.readouterr()
    os.remove(new)
    os.mkfifo(new)  # would be waited for
    assert newest_checkpoints(tmp_path) == [old]
    assert f"{new} is damaged and not used" in capsys.readouterr().err


def test_a_name_in_the_archive_that_is_no_text(tmp_path):
    """Its flag says UTF-8."""
    path = tmp_path / "checkpoint_1_10.pt"
    content = stored(path)
    for place, flags, name in ((0, 6, 30), (content.rindex(b"PK\1\2"), 8, 46)):
        content[place + flags + 1] |= 0x08
        content[place + name] = 0xFF
    path.write_bytes(content)
    with pytest.raises(UnicodeDecodeError):
        zipfile.ZipFile(path)
    assert newest_checkpoints(tmp_path) == []


def test_no_damage_raises(tmp_path):
    path = tmp_path / "checkpoint_1_2.pt"
    whole = stored(path)
    rng = random.Random(1)
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        assert is_whole(path) in (True, False)


def test_what_is_no_regular_file_is_not_used(tmp_path):
    os.mkfifo(tmp_path / "checkpoint_1_3.pt")  # opening it would wait for ever
    (tmp_path / "checkpoint_1_4.pt").mkdir()
    stored(tmp_path / "checkpoint_1_2.pt")
    assert newest_checkpoints(tmp_path) == [tmp_path / "checkpoint_1_2.pt"]


@pytest.mark.parametrize(
    "content",
    [{"model": {}}, {"model": {}, "optimizer_history": []}, [1], {"optimizer_history": 3}],
)
def test_an_archive_that_is_no_checkpoint_of_fairseqs_ends_no_training(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint1.pt")
    assert updates_of(tmp_path / "checkpoint1.pt") is None
    assert final_checkpoints(tmp_path, 1016) == []
