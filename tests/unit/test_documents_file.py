"""``SPLIT.documents``: read, or refused in one line."""

import os

import pytest

from fairseq_mem import UserError
from fairseq_mem.streaming.documents import read_documents


def written(folder, text: str):
    path = folder / "train.documents"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_documents_file(tmp_path):
    path = written(tmp_path, "a\na\nb\nc d\r\nc d\n")
    assert read_documents(path, 5).lengths.tolist() == [2, 1, 2]
    assert read_documents(written(tmp_path, "\ufeffa\na\nb\n"), 3).lengths.tolist() == [2, 1]
    none = read_documents(tmp_path / "valid.documents", 3)
    assert none.lengths.tolist() == [1, 1, 1] and none.first.tolist() == [0, 1, 2]
    assert read_documents(written(tmp_path, "x\n" * 4), 4).lengths.tolist() == [4]


@pytest.mark.parametrize("text, said", [
    ("a\na\n", "has 2 lines, and the split has 3 sentences"),
    ("", "has 0 lines"),
    ("a\n\nb\n", "line 2 is empty"),
    ("a\nb\na\n", "line 3 takes up document 'a' again, which ended at line 1"),
])  # fmt: skip
def test_documents_files_that_do_not_fit(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        read_documents(written(tmp_path, text), 3)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_documents_file_that_is_no_file(tmp_path):
    """It is neither read as none, nor waited for."""
    path = tmp_path / "train.documents"
    for make in (os.mkfifo, os.mkdir):
        make(path)
        with pytest.raises(UserError, match="cannot be read: no regular file"):
            read_documents(path, 3)
        path.rmdir() if path.is_dir() else path.unlink()
