"""One setting of one model, translated and scored as fairseq's own commands would do it."""

import argparse
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from fairseq_mem_text.lines import read_lines

from ...errors import UserError
from ..loading import load_split, load_translation_model
from .settings import Setting


class Evaluation:
    """The test set, and how it is translated: the same for all settings."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cuda = torch.cuda.is_available() and not args.cpu
        if args.fp16 and not self.cuda:
            raise UserError("--fp16 is for a GPU; leave it out")
        self.task: Any = None
        self.batches: list[Any] = []
        self.references: list[str] = []
        self.moses: Any = None

    def load(self, checkpoint: Path, overrides: dict[str, Any]) -> Any:
        """Load the model and, the first time, the task with its dictionaries."""
        model, _, self.task, _ = load_translation_model(
            checkpoint, self.args.data, overrides, task=self.task
        )
        model.eval()
        if self.args.fp16:
            model.half()
        return model.cuda() if self.cuda else model

    def load_data(self, model: Any) -> None:
        """Read the test set, its batches, and the references.

        Raises:
            UserError: the references do not belong to it.
        """
        from fairseq import utils

        subset, args = self.args.gen_subset, self.args
        dataset = load_split(self.task, subset, args.data)
        if dataset.tgt is None:
            raise UserError(f"{subset} of {args.data} has no target side; give --gen-subset")
        try:
            batches = self.task.get_batch_iterator(
                dataset=dataset,
                max_tokens=args.max_tokens or (None if args.batch_size else 6000),
                max_sentences=args.batch_size,
                max_positions=utils.resolve_max_positions(
                    self.task.max_positions(), model.max_positions()
                ),
                required_batch_size_multiple=1,  # else fairseq drops the last sentences
                disable_iterator_cache=True,
            )
        except Exception as error:  # a sentence is too long, says fairseq
            raise UserError(f"{subset} of {args.data} cannot be used: {error}") from None
        self.batches = list(batches.next_epoch_itr(shuffle=False))
        if args.reference is None:
            self.references = self._in_order(
                (
                    int(number),
                    self._text(target[target.ne(self.task.target_dictionary.pad())], True),
                )
                for batch in self.batches
                for number, target in zip(batch["id"], batch["target"])
            )
            return
        try:
            self.references = read_lines(args.reference)
        except OSError as error:
            raise UserError(f"cannot read --reference {args.reference}: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"--reference {args.reference}: {error}") from None
        if len(self.references) != len(dataset):
            raise UserError(
                f"{args.reference} has {len(self.references)} lines, {subset} of {args.data} has "
                f"{len(dataset)} sentences; give the reference of this very set"
            )

    def _in_order(self, numbered: Iterable[tuple[int, str]]) -> list[str]:
        texts = dict(numbered)
        assert sorted(texts) == list(range(len(self.task.dataset(self.args.gen_subset))))
        return [texts[number] for number in range(len(texts))]

    def _text(self, tokens: Any, is_reference: bool = False) -> str:
        """Words of the dictionary to plain text, as ``fairseq-generate`` prints it."""
        words = self.task.target_dictionary.string(
            tokens.int().cpu(), self.args.post_process, escape_unk=is_reference
        )
        if self.args.tokenizer == "none":
            return words
        from fairseq.data.encoders import build_tokenizer

        if self.moses is None:
            self.moses = build_tokenizer(
                argparse.Namespace(
                    tokenizer="moses",
                    source_lang=self.task.cfg.source_lang,
                    target_lang=self.task.cfg.target_lang,
                    moses_no_dash_splits=False,
                    moses_no_escape=False,
                )
            )
        return self.moses.decode(words)

    @torch.no_grad()
    def evaluate(self, checkpoint: Path, setting: Setting, title: str) -> dict[str, Any]:
        """Evaluate one setting of one model.

        Returns:
            BLEU, its signature, the loss (bits a token, without label smoothing), the
            translations.
        """
        from fairseq import utils
        from fairseq.dataclass.configs import GenerationConfig
        from sacrebleu.metrics import BLEU
        from tqdm import tqdm

        start = time.monotonic()
        model = self.load(checkpoint, setting.overrides)
        if not self.batches:
            self.load_data(model)
        with tqdm(total=2 * len(self.references), desc=title, disable=None, leave=False) as bar:
            loss, tokens = 0.0, 0
            for batch in self._moved(utils):
                loss += self._loss(model, self.with_memory(batch, model))
                tokens += batch["ntokens"]
                bar.update(len(batch["id"]))

            args = self.args
            config = GenerationConfig(
                beam=args.beam, lenpen=args.lenpen, max_len_a=args.max_len_a,
                max_len_b=args.max_len_b,
            )  # fmt: skip
            model.prepare_for_inference_(argparse.Namespace(generation=config))
            generator = self.task.build_generator([model], config)
            numbered = []
            for batch in self._moved(utils):
                found = self.task.inference_step(generator, [model], batch)
                for number, hypotheses in zip(batch["id"], found):
                    numbered.append((int(number), self._text(hypotheses[0]["tokens"])))
                bar.update(len(batch["id"]))
        translations = self._in_order(numbered)
        metric = BLEU(trg_lang=self.task.cfg.target_lang or "")
        score = metric.corpus_score(translations, [self.references]).score
        return {
            "BLEU": score,
            "signature": str(metric.get_signature()),
            "loss": loss / tokens / math.log(2),
            "sentences": len(translations),
            "seconds": round(time.monotonic() - start, 1),
            "translations": translations,
        }

    def with_memory(self, batch: Any, model: Any) -> Any:
        """The batch; of documents with what each sentence's memory begins as, as in validation."""
        of_documents = getattr(self.task, "with_memory", None)
        return batch if of_documents is None else of_documents(batch, [model])

    def _moved(self, utils: Any) -> Iterable[Any]:
        for batch in self.batches:
            yield utils.move_to_cuda(batch) if self.cuda else batch

    def _loss(self, model: Any, batch: Any) -> float:
        """The summed loss of a batch's target, teacher-forced, in nats."""
        output = model(**batch["net_input"])
        log_probs = model.get_normalized_probs(output, log_probs=True, sample=batch)  # B x T x V
        target = batch["target"]
        chosen = log_probs.gather(2, target.unsqueeze(2)).squeeze(2)
        return -chosen[target.ne(self.task.target_dictionary.pad())].double().sum().item()
