"""The parsers that are ours: what each may raise, what it is given, and words of its language."""

import argparse
import functools
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairseq_mem_serve import folder
from fairseq_mem_serve.http import interface, sentences
from fairseq_mem_serve.http.main import read_keys
from fairseq_mem_serve.http.settings import Refused
from fairseq_mem_text import arguments, checks, files, lines, settings
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.pipeline import TextPipeline

from fairseq_mem import command_line, literals, option_kinds
from fairseq_mem.checkpoints import is_whole_archive
from fairseq_mem.errors import UserError
from fairseq_mem.runs import metrics, statistics
from fairseq_mem.runs.collect import natural
from fairseq_mem.runs.folder import Run, read_run
from fairseq_mem.streaming.documents import read_documents
from fairseq_mem.tools import bert_folder, export, score
from fairseq_mem.wordpiece import WordPiece


class Parser(NamedTuple):
    """What is fuzzed.

    Attributes:
        read: takes any bytes.
        raises: what it says it may raise.
        samples: sound inputs.
        words: pieces of its language.
    """

    read: Callable[[bytes], object]
    raises: tuple[type[BaseException], ...]
    samples: Sequence[bytes]
    words: Sequence[bytes] = ()


PARSERS: dict[str, Parser] = {}


@functools.cache
def scratch() -> Path:
    """A folder for what is read from files; in memory where there is such a place."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() else None
    made = tempfile.TemporaryDirectory(prefix="fuzzed", dir=parent)
    scratch.kept = made  # type: ignore[attr-defined]
    return Path(made.name)


def of_file(read: Callable[[Path], object], name: str = "fuzzed") -> Callable[[bytes], object]:
    """A parser of files, given the bytes of one."""

    def call(data: bytes) -> object:
        path = scratch() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return call


def of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """A parser of strings; what is no UTF-8 comes as surrogates, as on a command line."""
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def add(
    name: str, read: Callable[[bytes], object], raises: Any, *samples: bytes, words: bytes = b""
) -> None:
    """Register a parser; ``words`` has spaces between them."""
    kinds = raises if isinstance(raises, tuple) else (raises,)
    PARSERS[name] = Parser(read, kinds, samples, words.split())


# ---------------------------------------------------------------- files

JSON = b'{ } [ ] : , " null true false NaN Infinity 1e999 -0 \\ud800 \\u0000 "a" [[[[[[[[ {"a":'
add("documents", of_file(lambda path: read_documents(path, 3)), UserError, b"a\na\nb\n", b"1\n2\n3")
add(
    "settings", of_file(lambda path: settings.settings_of(path.parent, "de"), "text/settings.txt"),
    TextError, b"# x\nsource de\ntarget en\nnormalize yes\nnonprinting remove\nnfc yes\n",
    words=b"normalize yes nonprinting remove nfc \n # source",
)  # fmt: skip
CODES = b"#version: 0.2\na b\nab c</w>\ns 1</w>\n"
CODE_WORDS = b"#version: 0.1 0.2 0.3 </w> \n a b \xc2\xa0 \xe2\x80\xa8 @@"


def merges(path: Path) -> object:
    """As for a model: read, and used on a word or two."""
    made = TextPipeline("de", "en", codes=path, tokenizer=None)
    return made.join(made.split("abc s1 \u2028x abcabc"))


add("merges", of_file(merges), ValueError, CODES, words=CODE_WORDS)
add("merges to export", of_file(export._check_codes), UserError, CODES, words=CODE_WORDS)
add(
    "JSON",
    of_file(files.read_json),
    ValueError,
    b'{"a": [1, {"b": null}], "c": "\\u00e4"}',
    words=JSON,
)
add(
    "lines", of_file(lines.read_lines), ValueError,
    b"\xef\xbb\xbfa b\r\nc\n", "ä\u2028ö\n".encode(),
    words=b"\r \n \xef\xbb\xbf \xff",
)  # fmt: skip
add(
    "raw text", of_file(lambda path: checks.check_file(str(path), 5)), TextError, b"a b\nc\n",
    words=b"\r \n \xff \x00",
)  # fmt: skip


def index(path: Path) -> object:
    """fairseq's index of some numbers, as it is compared with the text."""
    (path.parent / "lines").write_bytes(b"a\nb\n")
    (path.parent / "fuzzed.bin").write_bytes(bytes(10))
    return checks.verify(str(path.parent / "lines"), str(path.with_suffix("")))


INDEX = b"MMIDIDX\0\0" + struct.pack("<QBQ2iQQ", 1, 8, 2, 3, 2, 0, 6)
add("index", of_file(index, "fuzzed.idx"), TextError, INDEX)
SETTINGS = b'{"format": 1, "model": "m", "size": "s", "data": "d", "seed": 1, "updates": 2'
RESULT = SETTINGS + (
    b', "metrics": {"BLEU": {"value": 1.5, "better": "higher"}}, "signatures": {"BLEU": "nrefs:1"},'
    b' "versions": {}, "commands": [], "parameters": 3, "wall_seconds": 1.0}'
)


def run(path: Path) -> object:
    """A run's folder, whatever its result says."""
    found = read_run(path.parent, "name")
    if not found.reason:
        return natural(found.model), found.group
    assert "\n" not in found.reason and len(found.reason) < 1000
    return found.reason


add(
    "run", of_file(run, "run/result.json"), (), RESULT, words=JSON + b" metrics value better higher"
)


def predictions(path: Path) -> object:
    """Outputs of a classifier."""
    return metrics.read_predictions(Run(path.parent, "name"))


add(
    "predictions", of_file(predictions, "run/predictions.tsv"), ValueError,
    b"target\tprediction\n1\t0\n0\t0\n", words=b"target\tprediction \t \n nan 1 0",
)  # fmt: skip
add(
    "signature", of_text(lambda text: statistics.scorer_of("chrF", text)), ValueError,
    b"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0", words=b"| : nc nw lc nrefs:1",
)  # fmt: skip
add(
    "contrastive set", of_file(score.read_items), UserError,
    b'{"source": "a", "candidates": ["b", "c"], "category": "x"}\n\n', words=JSON + b" candidates",
)  # fmt: skip
BERT = (
    b'{"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8, '
    b'"num_attention_heads": 2, "max_position_embeddings": 9, "type_vocab_size": 2, '
    b'"hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1}'
)
add("BERT's configuration", of_file(bert_folder._read_config), UserError, BERT, words=JSON)
add(
    "BERT's vocabulary", of_file(bert_folder._read_vocabulary), UserError,
    b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n", words=b"[PAD] \r \n ## #fairseq:overwrite <s>",
)  # fmt: skip


def tokenizer(path: Path) -> object:
    """tokenizers' own file; a text is cut with it, too."""
    return WordPiece(path).encode("abc [SEP] \u2028x")


TOKENIZER = (
    b'{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,'
    b'"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":null,"decoder":null,"model":'
    b'{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",'
    b'"max_input_chars_per_word":100,"vocab":{"[UNK]":0,"a":1,"##b":2}}}'
)
add("tokenizer.json", of_file(tokenizer), UserError, TOKENIZER, words=JSON)
KEYS = (ValueError,)
add("keys of a server", of_file(read_keys), KEYS, b"key\n# other\n", words=b"\n \xff \x00")
add("archive", of_file(lambda path: is_whole_archive(path.open("rb"))), (), b"PK\x03\x04")

# ---------------------------------------------------------------- an exported folder

DESCRIPTION = (
    b'{"format": 1, "source_language": "de", "target_language": "en", "source_prefix": ["<mem-0>"],'
    b'"target_prefix": [], "tokenizer": "moses", "bpe": null, "max_source_tokens": 9, '
    b'"max_target_tokens": 9, "sha256": {}, "eos": "</s>", "text_end": null}'
)


def description(path: Path) -> object:
    """Of a model, and of the files beside it."""
    for name, data in (("model.bin", b"x"), ("config.json", CONFIG)):
        (path.parent / name).write_bytes(data)
    return folder.check_files(path.parent, folder.read_description(path.parent))


def vocabulary(path: Path) -> object:
    """Of one side of a model."""
    return folder.read_vocabulary(path.parent, "source")


CONFIG = (
    b'{"add_source_bos": false, "add_source_eos": true, "bos_token": "</s>", "eos_token": "</s>", '
    b'"unk_token": "<unk>", "decoder_start_token": "</s>", "layer_norm_epsilon": null}'
)


def configuration(path: Path) -> object:
    """CTranslate2's, of a model."""
    (path.parent / "model.bin").write_bytes(b"x")
    return folder.check_files(path.parent, {"bpe": None, "decoder_start_token": "</s>"})


add(
    "description",
    of_file(description, "exported/fairseq_mem.json"),
    ValueError,
    DESCRIPTION,
    words=JSON,
)
add("configuration", of_file(configuration, "config/config.json"), ValueError, CONFIG, words=JSON)
add(
    "vocabulary", of_file(vocabulary, "words/source_vocabulary.json"), ValueError,
    b'["<s>", "<pad>", "</s>", "<unk>", "a"]', words=JSON,
)  # fmt: skip

# ---------------------------------------------------------------- what is typed, or sent

NUMBERS = b"- + . _ e 0 9 inf nan \xd9\xa3 \xc2\xb2 , ' None"
DIGITS = b"9" * 5000  # more than Python makes a number of
ARGUMENT = (argparse.ArgumentTypeError, ValueError)  # both of which argparse tells
for kind in (arguments.count, arguments.positive, arguments.finite):
    add(f"argument: {kind.__name__}", of_text(kind), ARGUMENT, b"12", b"0.5", DIGITS, words=NUMBERS)


def option(kind: option_kinds.Kind) -> Callable[[str], object]:
    """A value as it is checked, which never fails, and as it is parsed."""

    def call(text: str) -> object:
        try:
            kind.problem(text)
        except Exception as error:
            raise AssertionError(f"{text!r} is no value to check") from error
        return kind.parse(text)

    return call


for name, kind_of_option in (
    ("count", option_kinds.count(0, 9, "")), ("scale", option_kinds.scale()),
    ("choice", option_kinds.choice(("a", "b"))), ("lesion", option_kinds.lesion()),
    ("epsilon", option_kinds.epsilon()), ("numbers", option_kinds.numbers()),
):  # fmt: skip
    add(
        f"option: {name}", of_text(option(kind_of_option)), ARGUMENT,
        b"1", b"0,3", b"a", b"none", b"0.5", DIGITS, words=NUMBERS,
    )  # fmt: skip
add(
    "command line",
    of_text(lambda text: command_line.check_arguments(text.split("\n"))), UserError,
    b"--arch\nmem_transformer\n--memory-tokens=0\n--memory-update\nctrl",
    b"--context-window\n5\n--num-workers=2", b"--context-window\n" + DIGITS,
    b"-a\ntransformer\n--memory-tokens",
    words=b"\n --arch -a = --context-window --memory- 0 transformer_lm --task \xd9\xa3",
)  # fmt: skip
add(
    "literal", of_text(literals.evaluate), UserError, b"[(512, 3)] * 20 + (1,)", b"{'a': -1e3}",
    words=b"( ) [ ] { } * + - / , 'a' 1 9**9 lambda: if else not f'{1}' __import__ . :=",
)  # fmt: skip
add("shown", of_text(literals.shown), (), b"\x1b]0;", words=b"\x1b \xff")


def request(data: bytes) -> object:
    """The first line is the type of the rest."""
    kind, _, body = data.partition(b"\n")
    return interface.read_request(body, kind.decode("latin-1"), 3)


add(
    "request", request, Refused,
    b'application/json\n{"q": ["a b", "c"], "source": "de", "target": "en", "beam": 4, "nbest": 2}',
    b"application/x-www-form-urlencoded\nq=a+b&q=%C3%A4&source=de&target=en&scores=true&beam=3",
    words=JSON + b" q source target alternatives api_key % & = + \n format text",
)  # fmt: skip


def divided(data: bytes) -> object:
    """A text is all there again when its sentences are put together."""
    text = data.decode("utf-8", "replace")
    parts, gaps = sentences.divide(text, "de")
    assert text == "".join(gap + part for gap, part in zip(gaps, [*parts, ""], strict=True))
    return sentences.put_together(parts, gaps, "de")


add(
    "sentences",
    divided,
    (),
    "Das. Ist z. B.  so!\r\n\n „Ja?“ Nein…".encode(),
    words=b". ! ? \r \n \xe3\x80\x82",
)


# ---------------------------------------------------------------- examples


def tsv(path: Path) -> object:
    """Somebody's rows, for the GLUE example."""
    from examples.glue import glue

    return glue.own_task({"train": path, "valid": None, "test": None}, False)


add(
    "TSV", of_file(tsv), TextError, b"label\tsentence1\tsentence2\n1\ta b\tc\n0\td\te f\n",
    b"score\tsentence\n0.5\ta\n", words=b"label sentence sentence1 score \t \n \r \" \x00",
)  # fmt: skip


def check(name: str, data: bytes) -> None:
    """Give some bytes to a parser: whatever else it raises goes on."""
    parser = PARSERS[name]
    try:
        parser.read(data)
    except parser.raises as refused:
        said = str(refused)
        assert name.startswith(("argument", "option")) or len(said) < 1500, f"{len(said)}: {said}"
        if isinstance(refused, UserError | TextError):
            assert "\n" not in said, said
