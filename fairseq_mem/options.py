"""The ``--memory-*`` options and the controls: one table, which makes parsers, defaults and checks.

Names begin with ``memory_`` (but for ``attention_sink``): fairseq routes ``encoder_*`` and
``decoder_*`` into nested configs.
"""

from typing import Any, NamedTuple

from . import option_kinds as kinds
from .attention.controls import has_controls
from .errors import UserError
from .option_conflicts import check_head, lesion_problem
from .streaming.carry import CARRIES
from .updates import UPDATES

# model families
TRANSLATION, LANGUAGE_MODEL, TRANSFORMER_XL = "translation", "language model", "Transformer-XL"
SENTENCE_ENCODER = "sentence encoder"
FAMILIES = (TRANSLATION, LANGUAGE_MODEL, TRANSFORMER_XL, SENTENCE_ENCODER)
# memory begins anew in front of every text
BLOCKWISE = (TRANSLATION, LANGUAGE_MODEL, SENTENCE_ENCODER)

LESION_SCOPES = ("encoder", "cross", "decoder", "all")
HEADS = ("start", "memory")  # what a classification head reads
MAX_MEMORY_TOKENS = 4096  # the paper uses at most 20; more than this is a slip of the keyboard


class MemoryOption(NamedTuple):
    """One option.

    Attributes:
        name: as a checkpoint has it.
        kind: of its value.
        default: where an architecture presets nothing.
        families: the model families that have it.
        help: what it does; ``{place}`` is what memory stands in front of.
        at_inference: it is given through ``--model-overrides`` alone, no command line knows it.
    """

    name: str
    kind: kinds.Kind
    default: Any
    families: tuple[str, ...]
    help: str
    at_inference: bool = False

    @property
    def flag(self) -> str:
        """As typed on the command line."""
        return "--" + self.name.replace("_", "-")


PLACES = {
    TRANSLATION: "the encoder's input",
    LANGUAGE_MODEL: "every block of text",
    TRANSFORMER_XL: "every segment",
    SENTENCE_ENCODER: "the text, from <s> on",
}
OPTIONS = (
    MemoryOption(
        "memory_tokens",
        kinds.count(0, MAX_MEMORY_TOKENS, "; the paper uses 5 to 20"),
        20,
        FAMILIES,
        "memory tokens in front of {place}; 0 is the model without memory",
    ),
    MemoryOption(
        "memory_decoder_tokens",
        kinds.count(0, MAX_MEMORY_TOKENS, ""),
        0,
        (TRANSLATION,),
        "memory tokens in front of the decoder's input, under the causal mask (default 0, as in "
        "the paper)",
    ),
    MemoryOption(
        "memory_update",
        kinds.choice(tuple(sorted(UPDATES))),
        "shared",
        (TRANSLATION, SENTENCE_ENCODER),
        "how the encoder's memory is updated (set by the architecture)",
    ),
    MemoryOption(
        "memory_recurrence",
        kinds.count(0, None, "; 0 is none"),
        0,
        (TRANSLATION, TRANSFORMER_XL),
        "hand memory on from segment to segment (Transformer-XL), or from sentence to sentence of "
        "a document (translation, with --task document_translation), with back-propagation through "
        "N of them: a batch has N in a row (or --window-sentences). N counts the segment itself, "
        "so writing is trained from 2 on; 0 (default): every segment or sentence begins with the "
        "trained memory",
    ),
    MemoryOption(
        "memory_carry",
        kinds.choice(CARRIES),
        "gate",
        (TRANSLATION, TRANSFORMER_XL),
        "with --memory-recurrence: memory is handed on through a gate, which weighs what it was "
        "against what has been written, or as it was written (plain); default: gate in "
        "translation, plain in Transformer-XL",
    ),
    MemoryOption(
        "memory_init_std",
        kinds.scale(),
        None,
        FAMILIES,
        "standard deviation of the initial memory (default: the scale of the embedded text, which "
        "is 1, or d^-0.5 with --no-scale-embedding; of a sentence encoder it is measured in the "
        "checkpoint that gets memory)",
    ),
    MemoryOption(
        "memory_positions",
        kinds.switch(),
        False,
        BLOCKWISE,
        "number memory and text through: memory takes the first position codes, as in the "
        "authors' code (default: memory takes none)",
    ),
    MemoryOption(
        "memory_static",
        kinds.count(0, MAX_MEMORY_TOKENS, ""),
        0,
        FAMILIES,
        "a control: N trained keys and values in every attention, never updated (default 0)",
    ),
    MemoryOption(
        "attention_sink",
        kinds.switch(),
        False,
        FAMILIES,
        "a control: one learned number a head in the softmax's denominator of every attention",
    ),
    MemoryOption(
        "memory_only",
        kinds.switch(),
        False,
        FAMILIES,
        "train nothing but memory, its controller, the controls (and classification heads), freeze "
        "the rest",
    ),
    MemoryOption(
        "memory_head",
        kinds.choice(HEADS),
        "start",
        (SENTENCE_ENCODER,),
        "what a classification head reads: <s> (start, the default), or the maximum and the mean "
        "over memory (memory)",
    ),
    MemoryOption(
        "memory_unread",
        kinds.switch(),
        False,
        (SENTENCE_ENCODER,),
        "a control: memory reads the text and is read by the head alone, text and <s> never read "
        "it; needs --memory-head memory",
    ),
    MemoryOption(
        "memory_frozen",
        kinds.switch(),
        False,
        (SENTENCE_ENCODER,),
        "a control: the slots stay as they were initialised; with --memory-only nothing but "
        "controllers and classification heads is trained",
    ),
    MemoryOption(
        "memory_segments",
        kinds.count(0, 16, "; BERT has 2"),
        0,
        (SENTENCE_ENCODER,),
        "segment embeddings: a text's part up to the first </s> has the first, and so on (default "
        "0: none, as in RoBERTa; import-bert says what a checkpoint has)",
    ),
    MemoryOption(
        "memory_norm_epsilon",
        kinds.epsilon(),
        1e-5,
        (SENTENCE_ENCODER,),
        "the layer norms' epsilon (default 1e-5, as in fairseq; BERT has 1e-12)",
    ),
    MemoryOption(
        "memory_no_word_head",
        kinds.switch(),
        False,
        (SENTENCE_ENCODER,),
        "leave out the head that predicts masked words, for a checkpoint that has none",
    ),
    MemoryOption(
        "memory_grow",
        kinds.switch(),
        False,
        FAMILIES,
        "accept a checkpoint with fewer memory tokens than asked for; the missing ones are freshly "
        "initialised",
    ),
    MemoryOption(
        "memory_bf16",
        kinds.switch(),
        False,
        FAMILIES,
        "compute in bfloat16 on a CPU that has it",
        at_inference=True,
    ),
    MemoryOption(
        "memory_lesion",
        kinds.lesion(),
        "none",
        FAMILIES,
        "at inference, through --model-overrides: hide memory from the text, before the softmax "
        "(no-read), or set what text attends to memory to zero after it (zero-read)",
    ),
    MemoryOption(
        "memory_lesion_scope",
        kinds.choice(LESION_SCOPES),
        "encoder",
        (TRANSLATION,),
        "where: in the encoder (default), in the decoder's attention to the encoder (cross), in "
        "the decoder's self-attention, or in all three",
    ),
    MemoryOption(
        "memory_lesion_slots",
        kinds.numbers(),
        None,
        FAMILIES,
        "of these memory slots alone, numbered from 0: '0,3' (default: of all)",
        at_inference=True,
    ),
    MemoryOption(
        "memory_lesion_layers",
        kinds.numbers(),
        None,
        FAMILIES,
        "in these layers alone, of the encoder and of the decoder, numbered from 0 (default: all)",
        at_inference=True,
    ),
)


def of_family(family: str) -> list[MemoryOption]:
    """The options of a model family, in the table's order."""
    return [option for option in OPTIONS if family in option.families]


def add_memory_options(parser: Any, family: str) -> None:
    """Add a family's options to fairseq's group of model-specific arguments.

    None has a default here: it would win over the architecture's preset.
    """
    for option in of_family(family):
        text = option.help.format(place=PLACES[family])
        if option.at_inference:
            continue
        if option.kind.shown:
            parser.add_argument(
                option.flag, type=option.kind.parse, metavar=option.kind.shown, help=text
            )
        else:
            parser.add_argument(option.flag, action="store_true", help=text)


def set_memory_defaults(args: Any, family: str, **presets: Any) -> None:
    """Fill in the options that the user, or an older checkpoint, did not give.

    Args:
        args: the options, changed in place.
        family: of the model.
        presets: the architecture's own defaults.
    """
    for option in of_family(family):
        default = presets.get(option.name, option.default)
        setattr(args, option.name, getattr(args, option.name, default))


def check_memory_options(args: Any, family: str) -> None:
    """Refuse values that make no sense, wherever they come from (``--model-overrides`` too).

    Raises:
        UserError: names the option, its value and what to do.
    """
    for option in of_family(family):
        value = getattr(args, option.name)
        if wrong := option.kind.problem(value):
            raise UserError(f"{option.name} is {value!r}; {wrong}")
    for option in OPTIONS:
        value = getattr(args, option.name, option.default)
        if family not in option.families and value != option.default:
            having = f"{' and '.join(option.families)} models"
            raise UserError(
                f"{option.name} is {value!r}, which {having} have and a {family} has not; leave it "
                "out"
            )
    memory = args.memory_tokens + getattr(args, "memory_decoder_tokens", 0)
    if wrong := lesion_problem(args):
        raise UserError(wrong)
    if args.memory_only and memory == 0 and not has_controls(args):
        raise UserError(
            "memory_only trains nothing but memory, and there is none; give --memory-tokens"
        )
    if family == SENTENCE_ENCODER:
        check_head(args)
