"""Fetching from a server of the loopback whose files' size nobody knows, and packages by pip."""

import hashlib
import subprocess
import zipfile

import pytest
from fairseq_mem_text import fetching
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.fetching import Source, fetch, fetch_package
from fairseq_mem_text.files import sha256
from helpers.wmt14 import Mirror

DATA = bytes(range(256)) * 40
WHEEL = "loaf-1.0-py3-none-any.whl"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "LONGEST_PAUSE", 0)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "loaf").write_bytes(DATA)
    made = Mirror(tmp_path / "mirror")
    yield made
    made.close()


def source(mirror: Mirror, size: int | None = None, data: bytes = DATA) -> Source:
    digest = hashlib.sha256(data).hexdigest()
    return Source(f"{mirror.url}/loaf", digest, size, "ask the baker")


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_goes_on_where_it_broke(mirror, tmp_path, size):
    mirror.break_after["loaf"] = [1000, 500]
    path = fetch(source(mirror, size), tmp_path / "loaf")
    assert path.read_bytes() == DATA and not (tmp_path / "loaf.part").exists()
    assert [first for _, first in mirror.asked] == [0, 1000, 1500]
    fetch(source(mirror, size), path)
    assert len(mirror.asked) == 3  # it is there


def test_a_part_that_is_whole_only_gets_its_name(mirror, tmp_path):
    (tmp_path / "loaf.part").write_bytes(DATA)
    assert fetch(source(mirror), tmp_path / "loaf").read_bytes() == DATA
    (tmp_path / "other.part").write_bytes(DATA * 2)  # begun with something else
    assert fetch(source(mirror), tmp_path / "other").read_bytes() == DATA


def test_another_file_is_refused_and_not_kept(mirror, tmp_path):
    with pytest.raises(TextError, match="don't use it, ask the baker"):
        fetch(source(mirror, data=b"cake"), tmp_path / "loaf")
    with pytest.raises(TextError, match=r"10,240 bytes, expected 7; .* ask the baker"):
        fetch(source(mirror, 7), tmp_path / "loaf")
    assert [path.name for path in tmp_path.iterdir()] == ["mirror"]
    (tmp_path / "loaf").write_bytes(b"mine")
    with pytest.raises(TextError, match=r"remove .*loaf and run again"):
        fetch(source(mirror), tmp_path / "loaf")


def test_what_is_not_there_is_asked_for_once(mirror, tmp_path):
    (mirror.folder / "loaf").unlink()
    missing = source(mirror)
    for url in (missing.url, (tmp_path / "nowhere").as_uri()):
        with pytest.raises(TextError, match=r"cannot fetch .*; ask the baker, or put loaf into"):
            fetch(missing._replace(url=url), tmp_path / "loaf")
    with pytest.raises(TextError, match="no address; ask the baker"):
        fetch(missing._replace(url="bread"), tmp_path / "loaf")
    assert len(mirror.asked) == 1


def test_no_more_tries_than_asked_for(mirror, tmp_path):
    mirror.status["loaf"] = [503] * 9
    with pytest.raises(TextError, match=r"503 .*; 0 bytes are kept: run again to continue, or ask"):
        fetch(source(mirror), tmp_path / "loaf", retries=2)
    assert len(mirror.asked) == 3


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that pip takes a wheel from; there is no other index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(
            "loaf-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: loaf\nVersion: 1.0\n"
        )
        wheel.writestr("loaf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("loaf-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_package_is_fetched_once(shelf, tmp_path, monkeypatch):
    digest, path = sha256(shelf / WHEEL), tmp_path / "cache" / WHEEL
    (tmp_path / "cache" / "partial").mkdir(parents=True)
    (tmp_path / "cache" / "partial" / WHEEL).write_bytes(b"left by a kill")
    path.write_bytes(b"copied here by hand, not whole")
    assert fetch_package("loaf==1.0", path, digest).read_bytes() == (shelf / WHEEL).read_bytes()
    assert [there.name for there in path.parent.iterdir()] == [WHEEL]
    monkeypatch.setattr(subprocess, "run", None)  # a second download would fail
    assert fetch_package("loaf==1.0", path, digest) == path


def test_a_package_that_is_another_is_refused(shelf, tmp_path):
    with pytest.raises(TextError, match=r"expected 0{64}.*don't use it"):
        fetch_package("loaf==1.0", tmp_path / "cache" / WHEEL, "0" * 64)
    with pytest.raises(TextError, match=f"check the network .*, or put {WHEEL} into"):
        fetch_package("loaf==2.0", tmp_path / "cache" / WHEEL, "0" * 64)
    assert not list((tmp_path / "cache").iterdir())
