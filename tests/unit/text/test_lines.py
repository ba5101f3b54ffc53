r"""Only ``\n`` ends a line, and a byte order mark counts at the start of a file alone."""

import pytest
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.lines import opened, read_lines, text_chunks

MARK = b"\xef\xbb\xbf"
BODY = "eins  \r\n zwei\u2028drei\x85\t\r\r\n\n\ufeffvier\rfünf ".encode()
LINES = ["eins  ", " zwei\u2028drei\x85\t\r", "", "\ufeffvier\rfünf "]


@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_are_read_as_they_are(tmp_path, mark, end):
    (tmp_path / "text").write_bytes(mark + BODY + end)
    assert read_lines(tmp_path / "text") == LINES
    with opened(str(tmp_path / "text")) as file:
        (chunk,) = text_chunks(file)
    assert b"".join(chunk) == BODY + end and len(chunk) == len(LINES)


def test_a_line_that_is_no_text_is_named(tmp_path):
    (tmp_path / "text").write_bytes(b"gut\nnicht \xff gut\n")
    with pytest.raises(ValueError, match=r"line 2 of text: not valid UTF-8 \(byte 0xff\)"):
        read_lines(tmp_path / "text")


def test_a_device_that_never_ends_is_refused(tmp_path):
    """In a folder of texts it is a link that somebody made by mistake."""
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="zero is a device that never ends"):
        read_lines(tmp_path / "zero")
    with pytest.raises(TextError, match="zero is a device"), opened(str(tmp_path / "zero")):
        pass
    (tmp_path / "null").symlink_to("/dev/null")
    assert read_lines(tmp_path / "null") == []
