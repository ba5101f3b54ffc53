"""WordPiece, BERT's way of cutting text into words of its dictionary, through `tokenizers`.

``import-bert`` writes a ``tokenizer.json`` (the format of `tokenizers`) with the vocabulary and
what is done to the text before. ``--bpe wordpiece --wordpiece-file tokenizer.json`` gives it to
fairseq's commands. Text is text: a "[SEP]" in it is three signs, never the special symbol.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from .errors import UserError, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "tokenizer.json"
UNKNOWN = "[UNK]"
CONTINUED = "##"  # begins a piece that goes on with a word


def import_tokenizers() -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "WordPiece needs tokenizers, which is not installed; run: "
            "pip install 'fairseq-mem[bert]'"
        ) from None
    return tokenizers


def make_tokenizer(
    vocabulary: dict[str, int], lowercase: bool, strip_accents: bool | None, chinese: bool
) -> "Tokenizer":
    """BERT's: clean the text, split it at spaces and punctuation, cut words into pieces.

    Args:
        vocabulary: the number of every word.
        lowercase: as BERT's ``do_lower_case``.
        strip_accents: None: where text is lower-cased.
        chinese: put spaces around Chinese characters.
    """
    tokenizers = import_tokenizers()
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUED
        )
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece(prefix=CONTINUED)
    return made


def find_tokenizer(*folders: str) -> Path | None:
    """The first ``tokenizer.json`` in some folders."""
    return next((path for path in (Path(one) / NAME for one in folders) if path.is_file()), None)


class WordPiece:
    """Text to pieces of the fairseq dictionary, and back.

    Args:
        path: of the ``tokenizer.json``.

    Raises:
        UserError: it is missing or damaged, or `tokenizers` is not installed.
    """

    def __init__(self, path: Path) -> None:
        tokenizers = import_tokenizers()
        if not path.is_file():
            raise UserError(f"there is no {path}; give the {NAME} that import-bert wrote")
        try:
            self.tokenizer = tokenizers.Tokenizer.from_file(str(path))
            model = self.tokenizer.model
            if not isinstance(model, tokenizers.models.WordPiece) or model.unk_token != UNKNOWN:
                raise ValueError(f"no WordPiece with {UNKNOWN}")
            if model.token_to_id(UNKNOWN) is None:  # else it would tell it at a word
                raise ValueError(f"{UNKNOWN} is not in its vocabulary")
        except Exception as error:  # the library has one class for all
            raise UserError(
                f"{path} is no {NAME} ({first_line(error)}); give the one that import-bert wrote"
            ) from None
        self.unknown = UNKNOWN

    def pieces(self, text: str) -> list[str]:
        """The words of the dictionary that make up ``text``."""
        found = self.tokenizer.encode(text, add_special_tokens=False).tokens
        return ["<unk>" if piece == self.unknown else piece for piece in found]

    def encode(self, text: str) -> str:
        """The pieces with spaces between them, as fairseq wants them."""
        return " ".join(self.pieces(text))

    def decode(self, text: str) -> str:
        """Pieces as text; what was lost of it (case, spaces) stays lost."""
        return text.replace(f" {CONTINUED}", "").removeprefix(CONTINUED)

    def is_beginning_of_word(self, piece: str) -> bool:
        """For ``--mask-whole-words``."""
        return not piece.startswith(CONTINUED)


@dataclass
class WordPieceConfig(FairseqDataclass):
    """The options of ``--bpe wordpiece``."""

    wordpiece_file: str = field(
        default="", metadata={"help": "the tokenizer.json that import-bert wrote"}
    )


@register_bpe("wordpiece", dataclass=WordPieceConfig)
class WordPieceOfOptions(WordPiece):
    """``--bpe wordpiece``; see :class:`WordPiece`."""

    def __init__(self, cfg: WordPieceConfig) -> None:
        super().__init__(Path(cfg.wordpiece_file))
