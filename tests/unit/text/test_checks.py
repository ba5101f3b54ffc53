"""What is looked for in text before it is prepared."""

import pytest
from fairseq_mem_text.checks import check_kept_line, refuse_long_line
from fairseq_mem_text.errors import TextError


def test_a_line_as_long_as_a_model_takes_is_kept():
    check_kept_line("valid.de", 3, b"a " * 8 + b"a\n", 9)
    refuse_long_line("valid.de", 3, 9, "words", 9)
    with pytest.raises(TextError, match=r"line 3: 10 words, but .* of 10 positions takes 9;"):
        refuse_long_line("valid.de", 3, 10, "words", 9)
    with pytest.raises(TextError, match="10 words"):
        check_kept_line("valid.de", 3, b"a " * 10, 9)
