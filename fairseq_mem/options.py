"""The ``--memory-*`` options: their parser, their defaults, and which values make sense.

Names begin with ``memory_``: fairseq routes ``encoder_*`` and ``decoder_*`` into nested configs.
"""

import argparse
import ast
from typing import Any, NoReturn

from .errors import UserError
from .updates import UPDATES

LESIONS = ("none", "no-read", "zero-read")
LESION_SCOPES = ("encoder", "cross", "decoder", "all")
MAX_MEMORY_TOKENS = 4096  # the paper uses at most 20; more than this is a slip of the keyboard


def _token_count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= count <= MAX_MEMORY_TOKENS:
        raise argparse.ArgumentTypeError(
            f"{count} is not between 0 and {MAX_MEMORY_TOKENS}; the paper uses 5 to 20"
        )
    return count


def _no_lesion(text: str) -> str:
    """Only training commands parse our options, and a lesion is for a trained model."""
    if text == "none":
        return text
    raise argparse.ArgumentTypeError(
        "a lesion is for inference; train without it, then give fairseq-generate "
        f"--model-overrides \"{{'memory_lesion': '{text}'}}\""
    )


def add_memory_args(parser: Any, text: str = "encoder's input") -> None:
    """Add the memory options of all models to fairseq's group of model-specific arguments.

    No option has a default here: it would win over the architecture's preset.

    Args:
        text: what memory stands in front of.
    """
    # fmt: off
    parser.add_argument("--memory-tokens", type=_token_count, metavar="N",
                        help=f"memory tokens in front of the {text}; "
                             "0 is exactly fairseq's model")
    parser.add_argument("--memory-init-std", type=float, metavar="S",
                        help="standard deviation of the initial memory (default: the scale of "
                             "the embedded text: 1, or d^-0.5 with --no-scale-embedding)")
    parser.add_argument("--memory-positions", action="store_true",
                        help="number memory and text through: memory takes the first position "
                             "codes, as in the authors' code (default: memory takes none)")
    parser.add_argument("--memory-only", action="store_true",
                        help="train nothing but memory and its controller, freeze the rest")
    parser.add_argument("--memory-grow", action="store_true",
                        help="accept a checkpoint with fewer memory tokens than asked for; the "
                             "missing ones are freshly initialised")
    parser.add_argument("--memory-lesion", type=_no_lesion, metavar="{none,no-read,zero-read}",
                        help="at inference, through --model-overrides: hide memory from the text, "
                             "before the softmax (no-read) or after it (zero-read)")
    # fmt: on


def add_two_sided_memory_args(parser: Any) -> None:
    """Add the options of models with an encoder and a decoder."""
    # fmt: off
    parser.add_argument("--memory-decoder-tokens", type=_token_count, metavar="N",
                        help="memory tokens in front of the decoder's input, under the causal "
                             "mask (default 0, as in the paper)")
    parser.add_argument("--memory-update", choices=sorted(UPDATES),
                        help="how the encoder's memory is updated (set by the architecture)")
    parser.add_argument("--memory-lesion-scope", choices=LESION_SCOPES,
                        help="where: in the encoder (default), in the decoder's attention to the "
                             "encoder (cross), in the decoder's self-attention, or in all three")
    # fmt: on


def set_memory_defaults(args: Any, tokens: int, update: str = "shared") -> None:
    """Fill in the options that the user, or an older checkpoint, did not give."""
    args.memory_tokens = getattr(args, "memory_tokens", tokens)
    args.memory_decoder_tokens = getattr(args, "memory_decoder_tokens", 0)
    args.memory_update = getattr(args, "memory_update", update)
    args.memory_init_std = getattr(args, "memory_init_std", None)
    args.memory_positions = getattr(args, "memory_positions", False)
    args.memory_only = getattr(args, "memory_only", False)
    args.memory_grow = getattr(args, "memory_grow", False)
    args.memory_bf16 = getattr(args, "memory_bf16", False)
    args.memory_lesion = getattr(args, "memory_lesion", "none")
    args.memory_lesion_scope = getattr(args, "memory_lesion_scope", "encoder")


def check_memory_options(args: Any) -> None:
    """Refuse values that make no sense, wherever they come from (``--model-overrides`` too).

    Raises:
        UserError: names the option, its value and what to do.
    """
    for name in ("memory_tokens", "memory_decoder_tokens"):
        count = getattr(args, name)
        if not isinstance(count, int) or not 0 <= count <= MAX_MEMORY_TOKENS:
            raise UserError(
                f"{name} is {count!r}; give a whole number from 0 to {MAX_MEMORY_TOKENS}"
            )
    for name, choices in (
        ("memory_update", sorted(UPDATES)),
        ("memory_lesion", LESIONS),
        ("memory_lesion_scope", LESION_SCOPES),
    ):
        if getattr(args, name) not in choices:
            raise UserError(
                f"{name} is {getattr(args, name)!r}; choose one of {', '.join(choices)}"
            )
    if args.memory_init_std is not None and not 0 < args.memory_init_std < float("inf"):
        raise UserError(
            f"memory_init_std is {args.memory_init_std}; give a positive number, or leave it out: "
            "with all slots equal (0) they would stay equal for ever"
        )
    memory = args.memory_tokens + args.memory_decoder_tokens
    if args.memory_only and memory == 0:
        raise UserError(
            "memory_only trains nothing but memory, and there is none; give --memory-tokens"
        )
    if args.memory_positions and args.no_token_positional_embeddings:
        raise UserError(
            "memory_positions has no position codes to give with --no-token-positional-embeddings; "
            "leave one of the two out"
        )
    for side in ("encoder", "decoder"):
        if memory > 0 and getattr(args, f"{side}_xformers_att_config", None) is not None:
            raise UserError(
                f"--{side}-xformers-att-config does not know memory; leave it out: attention "
                "already runs through torch's fused kernels"
            )
    if memory > 0 and getattr(args, "cross_self_attention", False):
        raise UserError(
            "--cross-self-attention concatenates the encoder's output with the decoder's input, "
            "where memory has no place of its own; leave it out, or set --memory-tokens 0"
        )


def check_bands(
    kind: str, cutoff: Any, words: int, dim: int, factor: float, smallest: int = 1
) -> None:
    """Refuse an adaptive input or softmax that cannot be built, or with a band that holds nothing.

    Args:
        kind: ``"input"`` or ``"softmax"``, as in the options' names.
        cutoff: rising numbers, or the option's text; text that makes no sense is left to fairseq.
        words: in the dictionary.
        dim: width of the first band; each is ``factor`` times narrower than the one before.
        smallest: words that a band must have.

    Raises:
        UserError: names the option, its value and what to do.
    """
    try:
        given = ast.literal_eval(cutoff) if isinstance(cutoff, str) else cutoff
        ends = [int(end) for end in (given if isinstance(given, list | tuple) else [given])]
    except (ValueError, SyntaxError, TypeError):
        ends = []
    if not ends:
        return
    if ends[-1] > words:
        raise UserError(
            f"adaptive_{kind}_cutoff has {ends[-1]}, and the dictionary has {words} words; leave "
            "out what is beyond it"
        )
    if ends[-1] < words:
        ends.append(words)
    last = len(ends) - 1
    if not factor > 0 or dim // min(factor, dim + 1) ** last < 1:
        raise UserError(
            f"adaptive_{kind}_factor {factor:g} leaves the last of {last + 1} bands no width "
            f"({dim} / {factor:g}^{last} is below 1); give a smaller factor above 0, or fewer "
            "cut-offs"
        )
    for start, end in zip([0, *ends], ends, strict=False):
        if end - start < smallest:
            raise UserError(
                f"adaptive_{kind}_cutoff makes a band of {end - start} words ({start} to {end}), "
                f"and fairseq needs {smallest} at least; give other cut-offs"
            )


def refuse_context_window(window: int) -> NoReturn:
    """Of ``--context-window`` the cache of a stream is the better form.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"--context-window {window} reads the context again for every window; with streams the "
        "cache is the context: leave it out and give --model-overrides "
        f"\"{{'cache_length': {window}}}\""
    )


def _check_context_window(argv: list[str]) -> None:
    """What ``fairseq-eval-lm`` would stumble over before our task or model is asked.

    fairseq hands the words before a window from one window to the next, in each process that loads
    windows: several of them, or one that loads every second one, would mix the windows up.
    """
    if not any(word.startswith("--context-window") for word in argv):
        return
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--context-window", default="0")
    limits = ("--num-workers", "--num-shards", "--distributed-world-size")
    for option in limits:
        finder.add_argument(option, default="1", dest=option)
    finder.add_argument("--task")
    args = finder.parse_known_args(argv)[0]

    def number(text: str) -> int:
        return int(text) if text.isdecimal() else 0  # fairseq says what is wrong with other words

    window = number(args.context_window)
    if window == 0:
        return
    if args.task == "streaming_language_modeling":
        refuse_context_window(window)
    for option in limits:
        given = number(getattr(args, option))
        if given > 1:
            raise UserError(
                f"--context-window with {option} {given}: fairseq keeps the words before a window "
                "in the process that loads it, and several of them would mix the windows up; give "
                f"{option} 1"
            )


def check_command_line(argv: list[str]) -> None:
    """Refuse combinations of options before fairseq has begun its work.

    About an architecture without memory fairseq alone would say "unrecognized arguments", which
    does not tell that the architecture is the cause.

    Args:
        argv: the command line without the program's name.

    Raises:
        UserError: ``--arch`` names a registered architecture that knows no memory, a controller
            would be trained without memory, or ``--context-window`` does not go with the rest.
    """
    _check_context_window(argv)
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    given = [word.split("=")[0] for word in argv if word.startswith("--memory-")]
    # fairseq itself has --memory-efficient-fp16 and --memory-efficient-bf16
    given = [word for word in given if not word.startswith("--memory-efficient")]
    if not given:
        return
    finder = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    finder.add_argument("--arch", "-a", default=None)
    finder.add_argument("--memory-tokens")
    finder.add_argument("--memory-update")
    args = finder.parse_known_args(argv)[0]
    if args.arch not in ARCH_MODEL_REGISTRY:
        return
    ours = [name for name, model in ARCH_MODEL_REGISTRY.items() if hasattr(model, "has_memory")]
    if args.arch not in ours:
        raise UserError(
            f"{given[0]} needs an architecture with memory, and {args.arch} has none; "
            f"choose --arch from: {', '.join(sorted(ours))}"
        )
    ARCH_CONFIG_REGISTRY[args.arch](args)
    if args.memory_tokens == "0" and args.memory_update != "shared":
        raise UserError(
            f"memory_update {args.memory_update!r} has nothing to train with 0 memory tokens; "
            "give --memory-tokens, or --memory-update shared"
        )
