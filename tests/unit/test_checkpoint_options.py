"""An option that does harm is found wherever it hides in a checkpoint's options."""

from argparse import Namespace
from pathlib import Path

import pytest

from fairseq_mem import UserError
from fairseq_mem.checkpoints import check_options

HARM = "${oc.env:HOME}"


@pytest.mark.parametrize(
    "hidden",
    [HARM, [HARM], (HARM,), {HARM}, frozenset({HARM}), {"x": [HARM]}, Namespace(x={HARM})],
    ids=str,
)
@pytest.mark.parametrize("place", ["args", "cfg"])
def test_nothing_hides_it(hidden, place):
    state = {place: Namespace(task="translation", option=hidden)}
    with pytest.raises(UserError, match="asks for more than another option"):
        check_options(Path("model.pt"), state)
