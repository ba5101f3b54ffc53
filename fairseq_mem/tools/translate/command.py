"""The command line of `fairseq-mem translate`, and loading what translates."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mem_text.arguments import finite, positive
from fairseq_mem_text.errors import TextError
from fairseq_mem_text.settings import settings_of

from ...errors import UserError
from .lines import Run
from .streams import opened, written

if TYPE_CHECKING:
    from fairseq_mem_serve import Batch, Found, Translator

NOT_ALL = 3  # exit status: some lines are empty because they could not be translated
CHUNK_LINES = 1000  # for each batch at a time; so there are enough of about one length


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "translate",
        help="translate raw text with a checkpoint or an exported model",
        description="Translates raw text, one sentence a line; line N of the output translates "
        "line N of the input.",
        epilog="The exit status is 0 if every line was translated, "
        f"{NOT_ALL} if some were not (too long, not UTF-8): each of these is named on standard "
        "error and leaves an empty line, the others are translated. With --json every line gives "
        'one object: "line" (from 1), "source", and "translations", best first, each with "text", '
        '"score" (log-probability, divided by the number of tokens with the end mark to the power '
        'of --length-penalty) and "tokens" (subwords); or "error" in place of "translations".',
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder made by fairseq-mem export, or a checkpoint (.pt)"
    )
    parser.add_argument("--input", metavar="FILE", help="raw text (default: standard input)")
    parser.add_argument(
        "--output", metavar="FILE", help="where to write (default: standard output)"
    )
    add_data_options(parser)
    parser.add_argument("--source-lang", metavar="LANG", help="refuse a model that reads another")
    parser.add_argument("--target-lang", metavar="LANG", help="refuse a model that writes another")
    parser.add_argument(
        "--engine",
        choices=("auto", "fairseq", "ctranslate2"),
        default="auto",
        help="auto: ctranslate2 for a folder, fairseq for a checkpoint",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of the CPU (default: all cores)"
    )
    parser.add_argument(
        "--batch-tokens",
        type=positive,
        default=4000,
        metavar="N",
        help="source tokens a batch, padding counted (default 4000)",
    )
    parser.add_argument("--beam", type=positive, default=4, metavar="N", help="default 4")
    parser.add_argument(
        "--length-penalty",
        type=penalty,
        default=1.0,
        metavar="P",
        help="fairseq's --lenpen, -10 to 10: above 1 favours longer translations (default 1)",
    )
    parser.add_argument(
        "--max-len-a",
        type=finite,
        default=1.2,
        metavar="A",
        help="at most A x source tokens (with the end mark) + B tokens (default 1.2)",
    )
    parser.add_argument("--max-len-b", type=finite, default=10.0, metavar="B", help="default 10")
    parser.add_argument(
        "--documents",
        action="store_true",
        help="an empty line (which stays) ends a document; memory is handed on within it, for "
        "models of --task document_translation",
    )
    parser.add_argument("--json", action="store_true", help="write JSON lines, see below")
    parser.add_argument(
        "--nbest", type=positive, default=1, metavar="N", help="translations a line, with --json"
    )
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a checkpoint's text is prepared; :func:`load` reads them."""
    parser.add_argument(
        "--data",
        metavar="DATA_BIN",
        help="with a checkpoint: the folder of its dictionaries and BPE codes (default: what it "
        "learned from, if still there)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("moses", "none"),
        help="of the data's text (default: what preprocess.sh did, none for other data)",
    )
    parser.add_argument(
        "--bpe-codes", metavar="FILE", help="BPE merges (default: DATA_BIN/code, if there)"
    )


def penalty(text: str) -> float:
    """A length penalty, from the command line."""
    number = finite(text)
    if abs(number) > 10:  # fairseq_mem_serve's limit, which is imported later
        raise argparse.ArgumentTypeError(f"{text} is not between -10 and 10")
    return number


def main(args: argparse.Namespace) -> int:
    """Translate; return the exit status."""
    if args.nbest > 1 and not args.json:
        raise UserError(f"--nbest {args.nbest} gives several translations a line: add --json")
    if args.max_len_a < 0 or args.max_len_a * 2 + args.max_len_b < 1:
        raise UserError(
            f"--max-len-a {args.max_len_a:g} and --max-len-b {args.max_len_b:g} allow no "
            "translation of a short line; raise them"
        )
    if args.nbest > args.beam:
        raise UserError(
            f"--nbest {args.nbest} is more than --beam {args.beam} can find: raise --beam"
        )
    try:
        import fairseq_mem_serve
    except ImportError as error:
        raise UserError(
            f"translate needs all that fairseq-mem requires ({error}): run `pip install .` in the "
            "checkout of fairseq_mem"
        ) from None
    with opened(args.input) as source:
        interactive = source.isatty()
        try:
            translator = load(args, interactive)
        except (TextError, ValueError, FileNotFoundError) as error:  # from fairseq_mem_serve
            raise UserError(str(error)) from error
        check_languages(args, translator)
        run = Run(args, translator, fairseq_mem_serve.TooLong, interactive)
        try:
            with written(args.output) as output:
                run.translate(source, output, CHUNK_LINES * translator.parallel)
        finally:
            run.progress.close()
    if run.failed:
        run.progress.say(f"{run.failed:,} of {run.lines:,} lines were left empty (named above)")
        return NOT_ALL
    return 0


# ---------------------------------------------------------------- the model


def load(args: argparse.Namespace, interactive: bool) -> "Translator":
    """Load the model with the engine that fits it, or that is asked for."""
    from fairseq_mem_serve import load_translator
    from fairseq_mem_serve.folder import DESCRIPTION

    model = Path(args.model)
    if not model.exists():
        raise UserError(
            f"there is no {model}; give a folder made by fairseq-mem export, or a checkpoint"
        )
    is_folder = model.is_dir()
    if is_folder and not (model / DESCRIPTION).is_file():
        raise UserError(
            f"{model} is a folder without {DESCRIPTION}, so not made by fairseq-mem export; give "
            "one that is, or a checkpoint's file, such as checkpoint_best.pt"
        )
    if is_folder and args.engine == "fairseq":
        raise UserError(f"{model} is an exported model, --engine fairseq takes a checkpoint (.pt)")
    if not is_folder and args.engine == "ctranslate2":
        raise UserError(
            f"{model} is a checkpoint, --engine ctranslate2 takes the folder that "
            "fairseq-mem export makes of it"
        )
    if is_folder and getattr(args, "documents", False):
        raise UserError(
            f"--documents: {model} is an exported model, which translates sentence by sentence; "
            "give a checkpoint of --task document_translation, or leave it out"
        )
    if is_folder:
        for option in ("data", "tokenizer", "bpe_codes"):
            value = getattr(args, option)
            if value is not None:
                raise UserError(
                    f"--{option.replace('_', '-')} {value}: {model} is an exported model, which "
                    "has its own; leave it out"
                )
        return load_translator(model, **engine_options(args, interactive))
    return load_checkpoint(args)


def engine_options(args: argparse.Namespace, interactive: bool) -> dict[str, Any]:
    """Where CTranslate2 computes, and with how many threads."""
    import ctranslate2

    gpus = ctranslate2.get_cuda_device_count()
    if args.device == "cuda" and gpus == 0:
        raise UserError("--device cuda: CTranslate2 sees no GPU here; leave it out")
    if gpus > 0 and args.device != "cpu":
        return {"device": "cuda"}
    threads = args.threads or cores()
    # A thread for each batch gives the most sentences a second, all for one the quickest answer.
    inter, intra = (1, threads) if interactive else (threads, 1)
    return {"device": "cpu", "threads": intra, "inter_threads": inter}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def check_languages(args: argparse.Namespace, translator: "Translator") -> None:
    """Refuse a language pair that is not the model's."""
    has = (translator.source_language, translator.target_language)
    wanted = (args.source_lang or has[0], args.target_lang or has[1])
    if wanted != has:
        raise UserError(
            f"{args.model} translates {has[0]} to {has[1]}, not {wanted[0]} to {wanted[1]}; "
            "give another model, or leave --source-lang and --target-lang out"
        )


def load_checkpoint(args: argparse.Namespace) -> "Translator":
    """Load a checkpoint of fairseq's.

    Raises:
        UserError: it cannot be loaded, or is no translation model's.
    """
    import torch
    from fairseq_mem_serve import TextPipeline, Translator

    from ..documents import context_of, hands_on
    from ..loading import load_translation_model

    if args.bpe_codes is not None and not Path(args.bpe_codes).is_file():
        raise UserError(f"--bpe-codes {args.bpe_codes}: there is no such file")
    for name in ("fairseq", "hydra"):  # they say at length what nobody asked
        logging.getLogger(name).setLevel(logging.WARNING)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    has_gpu = torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    model, cfg, task, data = load_translation_model(Path(args.model), args.data and Path(args.data))
    if has_gpu and args.device != "cpu":
        model.cuda()
    model.eval()
    model.prepare_for_inference_(cfg)
    source, target = task.cfg.source_lang, task.cfg.target_lang
    codes = args.bpe_codes and Path(args.bpe_codes)
    text = settings_of(data, source, args.tokenizer, codes)
    pipeline = TextPipeline(source, target, **text._asdict())

    def target_text() -> TextPipeline:
        of_target = settings_of(data, target, args.tokenizer, codes)
        return TextPipeline(target, source, **of_target._asdict())

    documents = getattr(args, "documents", False)
    if not documents and (hands_on(model) or context_of(task)):
        print(
            f"fairseq-mem: {args.model} is a model of documents; without --documents "
            "every line is a document of its own",
            file=sys.stderr,
        )
    return Translator(FairseqEngine(task, [model], documents), pipeline, target_text)


class FairseqEngine:
    """fairseq's own generator, for `fairseq_mem_serve.Translator`."""

    def __init__(self, task: Any, models: list[Any], documents: bool = False) -> None:
        from fairseq.utils import resolve_max_positions

        from ..documents import DocumentReader

        self.task, self.models = task, models
        self.device = next(models[0].parameters()).device
        positions = [task.max_positions(), *(model.max_positions() for model in models)]
        self.max_source_tokens = resolve_max_positions(*positions)[0]
        self.max_target_tokens = min(model.max_decoder_positions() for model in models)
        self.parallel = 1
        self.reader = None
        if documents:
            self.reader = DocumentReader(task, models, self.max_source_tokens)

    def search(
        self, batches: Sequence["Batch"], beam: int, length_penalty: float
    ) -> Iterator[list[list["Found"]]]:
        """See `fairseq_mem_serve.Engine`; the penalty changes nothing before the ranking."""
        options = argparse.Namespace(beam=beam, max_len_a=0, lenpen=1)
        generator = self.task.build_generator(self.models, options)
        for batch in batches:
            generator.max_len_b = batch.max_tokens
            yield self._search_batch(generator, batch)

    def score(
        self, sources: Sequence[list[str]], targets: Sequence[list[str]], indices: Sequence[int]
    ) -> list[list[float]]:
        """See `fairseq_mem_serve.Engine`; by fairseq's scorer."""
        from ..scoring import score_batch

        rows = self._rows(sources, indices)
        return score_batch(
            self.task, self.models, self.device, rows, targets, partial(self._add_memory, indices)
        )

    def _rows(self, sources: Sequence[list[str]], indices: Sequence[int]) -> list[Any]:
        """What the model reads: the words' numbers and the end mark, in documents the context."""
        import torch

        words = self.task.source_dictionary
        if self.reader is not None:
            return [self.reader.sentence(index) for index in indices]
        return [torch.tensor([*map(words.index, source), words.eos()]) for source in sources]

    def _add_memory(self, indices: Sequence[int], sample: dict[str, Any]) -> None:
        """What the memory of a batch's sentences begins as, if it is handed on."""
        if self.reader is not None and self.reader.encoders:
            lines = [indices[number] for number in sample["id"].tolist()]
            sample["net_input"]["memory"] = self.reader.memory(lines)

    def _search_batch(self, generator: Any, batch: "Batch") -> list[list["Found"]]:
        from fairseq.utils import apply_to_sample
        from fairseq_mem_serve import Found

        target_words = self.task.target_dictionary
        sentences = self._rows(batch.sources, batch.indices)
        dataset = self.task.build_dataset_for_inference(sentences, [len(s) for s in sentences])
        sample = dataset.collater([dataset[index] for index in range(len(sentences))])
        sample = apply_to_sample(lambda tensor: tensor.to(self.device), sample)
        self._add_memory(batch.indices, sample)
        found: list[list[Found]] = [[] for _ in sentences]
        hypotheses = self.task.inference_step(generator, self.models, sample)
        for index, of_sentence in zip(sample["id"].tolist(), hypotheses, strict=True):
            for hypothesis in of_sentence:
                tokens = hypothesis["tokens"].tolist()  # the end mark is the last
                log_prob = float(hypothesis["score"]) * len(tokens)
                found[index].append(Found([target_words[t] for t in tokens[:-1]], log_prob))
        return found
