"""Any bytes for every parser of ours: what comes is a result, or what the parser says it raises.

`fuzz.py` finds more, led by what it reaches; what it found is here.
"""

import hypothesis
import pytest
from helpers import parsers
from hypothesis import strategies

# Found by fuzz.py and by the trials below; each had ended in something else.
FOUND = [
    ("command line", b"--context-window\n" + b"9" * 5000),
    ("option: numbers", b"9" * 5000),
    ("signature", b"nrefs" + b"\0" * 5000),
    ("tokenizer.json", parsers.TOKENIZER.replace(b'"[UNK]",', b'"[UNKM",')),
    ("tokenizer.json", parsers.TOKENIZER.replace(b'"[UNK]":', b'"[UNKM":')),
    ("index", b"MMIDIDX\0MMIDIDX\0\0\1\0\0\0\0\0\0\0\x08\0\2\1"),
]
EXAMPLES = 25  # a try


def inputs(parser: parsers.Parser) -> strategies.SearchStrategy[bytes]:
    """Sound inputs with pieces cut out, doubled and put in; or pieces alone; or any bytes."""
    pieces = strategies.one_of(
        strategies.sampled_from([*parser.words, *parser.samples, b"\0", b"\xff", b"\n", b" "]),
        strategies.binary(max_size=8),
    )

    def changed(whole: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
        for where, cut, piece in changes:
            place = int(where * len(whole))
            whole = whole[:place] + piece + whole[place + cut :]
        return whole

    places = strategies.floats(0, 1, allow_nan=False)
    change = strategies.tuples(places, strategies.integers(0, 20), pieces)
    return strategies.one_of(
        strategies.builds(
            changed, strategies.sampled_from(parser.samples), strategies.lists(change, max_size=6)
        ),
        strategies.lists(pieces, max_size=30).map(b"".join),
    )


@pytest.mark.parametrize("name", parsers.PARSERS)
@pytest.mark.tries(sample=1, soak=20)
def test_any_bytes(name, seed):
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs(parsers.PARSERS[name]))
    def check(data: bytes) -> None:
        parsers.check(name, data)

    check()


@pytest.mark.parametrize("name", parsers.PARSERS)
def test_sound_inputs_are_read(name):
    """Else the fuzzing would begin with what is refused."""
    parser = parsers.PARSERS[name]
    assert any(reads(parser, sample) for sample in parser.samples)


def reads(parser: parsers.Parser, sample: bytes) -> bool:
    try:
        parser.read(sample)
    except parser.raises:
        return False
    return True


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found(name, data):
    parsers.check(name, data)
