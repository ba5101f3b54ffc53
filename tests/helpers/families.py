"""What must hold of a model of each family: the losses it is trained by, and what it computes."""

from random import Random
from typing import Any, ClassVar

import torch
from torch import Tensor

from helpers import promises
from helpers.from_flags import Built
from helpers.language_models import normalized
from helpers.promises import NEARLY, PAD, shifted, texts
from helpers.random_models import EXACT, dictionary

HEAD = "sentence_classification_head"
ALWAYS = ["--optimizer", "adam", "--lr", "0.01", "--cpu", "--criterion", "cross_entropy"]


def sizes(*sides: str) -> list[str]:
    return [
        word for side in sides for word in (
            f"--{side}-layers", "2", f"--{side}-embed-dim", "16", f"--{side}-ffn-embed-dim", "24",
            f"--{side}-attention-heads", "2",
        )
    ] + ["--dropout", "0", "--attention-dropout", "0", "--activation-dropout", "0",
         "--memory-tokens", "3"]  # fmt: skip


class Family:
    """One kind of model.

    Attributes:
        usual: its flags, which others replace.
        stock: fairseq has the architecture, without memory.
    """

    usual: ClassVar[list[str]]
    stock = True

    def __init__(self, built: Built, seed: int) -> None:
        self.built, self.random = built, Random(seed)
        longest = built.model.max_positions()
        self.longest = min([7, *(longest if isinstance(longest, tuple) else [longest])])
        assert self.longest >= 1, "no text fits into the model, and it is not refused"
        self.make()

    def make(self) -> None:
        """Texts."""

    def adapt(self, model: Any) -> None:
        """What a model needs before its state is loaded."""

    def loss(self, model: Any) -> Tensor:
        """Of a batch; its gradient reaches all that is used."""
        sample = self.sample(model)
        return self.built.criterion(model, sample)[0]

    def sample(self, model: Any) -> dict[str, Any]:
        raise NotImplementedError

    def output(self, model: Any) -> Tensor:
        """Of everything, to be compared bit for bit."""
        raise NotImplementedError

    def holds(self, model: Any) -> None:
        """The invariants of a model in float64 that is evaluated."""
        raise NotImplementedError


class Translation(Family):
    """``mem_transformer``: sentences, and with recurrence documents."""

    usual: ClassVar = [
        "--task", "translation", "--source-lang", "de", "--target-lang", "en", "--arch",
        "mem_transformer", *sizes("encoder", "decoder"), "--max-source-positions", "20",
        "--max-target-positions", "20", *ALWAYS,
    ]  # fmt: skip

    def make(self) -> None:
        self.source = texts(self.random, 3, self.longest, left=self.random.random() < 0.5)
        self.target = texts(self.random, 3, self.longest, left=False)
        self.beam = self.random.randint(1, 4)

    def sample(self, model: Any) -> dict[str, Any]:
        inputs = {
            "src_tokens": self.source, "src_lengths": self.source.ne(PAD).sum(1),
            "prev_output_tokens": shifted(self.target),
        }  # fmt: skip
        if getattr(model.encoder, "recurrent", False):
            inputs["steps"] = [2, 1]
        return {
            "net_input": inputs, "target": self.target, "id": torch.arange(3), "nsentences": 3,
            "ntokens": int(self.target.ne(PAD).sum()),
        }  # fmt: skip

    def read(self, model: Any, source: Tensor, previous: Tensor) -> Tensor:
        return model(source, source.ne(PAD).sum(1), previous)[0]

    def output(self, model: Any) -> Tensor:
        return self.read(model, self.source, shifted(self.target))

    def holds(self, model: Any) -> None:
        previous = shifted(self.target)
        promises.padding_changes_nothing(
            lambda source, target: self.read(model, source, target), self.source, previous, **NEARLY
        )
        rows = self.source
        promises.no_text_sees_the_future(
            lambda tokens: self.read(model, rows[:1], tokens), previous[:1], self.random
        )
        if self.longest >= 6:
            promises.step_by_step(
                model, lambda: model.encoder(rows),
                lambda which, tokens: self.read(model, rows[which], tokens),
                self.random, self.beam,
            )  # fmt: skip
            promises.search_needs_no_cache(model, rows, self.beam)
        if getattr(model.encoder, "recurrent", False):
            self.documents(model)

    def documents(self, model: Any) -> None:
        """Two documents, of two sentences and of one, together and alone."""
        previous = shifted(self.target)
        whole = model(self.source, None, previous, steps=[2, 1])[0]
        for rows, steps in (([0, 2], [1, 1]), ([1], [1])):
            alone = model(self.source[rows], None, previous[rows], steps=steps)[0]
            real = previous[rows].ne(PAD)
            torch.testing.assert_close(whole[rows][real], alone[real], **NEARLY)


class LanguageModel(Family):
    """``mem_transformer_lm``."""

    usual: ClassVar = [
        "--task", "language_modeling", "--arch", "mem_transformer_lm", *sizes("decoder"),
        "--max-target-positions", "20", "--tokens-per-sample", "12", "--decoder-input-dim", "16",
        "--decoder-output-dim", "16", *ALWAYS,
    ]  # fmt: skip

    def make(self) -> None:
        self.text = texts(self.random, 3, self.longest, left=self.random.random() < 0.3)
        self.input = shifted(self.text)

    def sample(self, model: Any) -> dict[str, Any]:
        inputs = {"src_tokens": self.input, "src_lengths": self.input.ne(PAD).sum(1)}
        return {
            "net_input": inputs, "target": self.text, "id": torch.arange(3), "nsentences": 3,
            "ntokens": int(self.text.ne(PAD).sum()),
        }  # fmt: skip

    def read(self, model: Any, tokens: Tensor) -> Tensor:
        return normalized(model, model(tokens)[0])

    def output(self, model: Any) -> Tensor:
        return model(self.input)[0]

    def holds(self, model: Any) -> None:
        def read(tokens: Tensor) -> Tensor:
            return self.read(model, tokens)

        promises.padding_changes_nothing(read, self.input, **NEARLY)
        promises.no_text_sees_the_future(read, self.input[:1], self.random)
        if self.longest >= 6:
            promises.step_by_step(
                model, lambda: None, lambda _, tokens: model(tokens)[0], self.random, 1
            )


class TransformerXL(Family):
    """``mem_transformer_xl``."""

    stock = False
    usual: ClassVar = [
        "--task", "streaming_language_modeling", "--arch", "mem_transformer_xl",
        *sizes("decoder"), "--tokens-per-sample", "4", "--cache-length", "5", "--batch-size", "2",
        *ALWAYS,
    ]  # fmt: skip

    def make(self) -> None:
        words = [self.random.randint(4, len(dictionary()) - 1) for _ in range(3 * 13)]
        words[:4] = [4, 9, 17, 23]  # every band of an adaptive input has some
        self.tokens = torch.tensor(words).view(3, 13)
        self.segment = self.built.task.segment

    def sample(self, model: Any) -> dict[str, Any]:
        inputs = {"src_tokens": self.tokens[:, :-1], "segment": self.segment, "position": 0}
        return {"net_input": inputs, "target": self.tokens[:, 1:].contiguous(), "ntokens": 36,
                "nsentences": 3}  # fmt: skip

    def read(self, model: Any, tokens: Tensor, **place: int) -> Tensor:
        return model(tokens, segment=self.segment, features_only=True, **place)[0]

    def output(self, model: Any) -> Tensor:
        return model(self.tokens, segment=self.segment)[0]

    def holds(self, model: Any) -> None:
        whole = self.read(model, self.tokens)
        for row in range(3):
            alone = self.read(model, self.tokens[row : row + 1])
            torch.testing.assert_close(whole[row : row + 1], alone, **EXACT)
        promises.no_text_sees_the_future(
            lambda tokens: self.read(model, tokens), self.tokens, self.random
        )
        size = self.segment * self.random.randint(1, 3)
        for training in (False, True):  # dropout or none, the weights are what they are
            model.train(training)
            if training and any(getattr(m, "p", 0) for m in model.modules()):
                continue
            if training and model.args.memory_lesion != "none":
                continue
            parts = [
                self.read(model, part, position=number * size).detach()
                for number, part in enumerate(self.tokens.split(size, dim=1))
            ]
            torch.testing.assert_close(torch.cat(parts, dim=1), whole.detach(), **EXACT)
        model.eval()


class SentenceEncoder(Family):
    """``mem_roberta``, with a head that classifies."""

    usual: ClassVar = [
        "--task", "masked_lm", "--arch", "mem_roberta", *sizes("encoder"),
        "--tokens-per-sample", "20", "--max-positions", "20", "--pooler-dropout", "0",
        *ALWAYS,
    ]  # fmt: skip

    def make(self) -> None:
        self.text = texts(self.random, 3, self.longest, left=False, first=dictionary().bos())
        if self.longest > 3:
            self.text[0, self.longest // 2] = dictionary().eos()
        self.adapt(self.built.model)

    def adapt(self, model: Any) -> None:
        torch.manual_seed(7)
        model.register_classification_head(HEAD, num_classes=4)

    def words(self, model: Any, tokens: Tensor) -> Tensor:
        only = model.encoder.lm_head is None
        return model(tokens, features_only=only)[0]

    def classes(self, model: Any, tokens: Tensor) -> Tensor:
        return model(tokens, classification_head_name=HEAD)[0]

    def loss(self, model: Any) -> Tensor:
        weights = torch.linspace(-1, 1, 4)
        words = self.words(model, self.text)
        classes = self.classes(model, self.text) @ weights.to(words)
        return words.float().pow(2).mean() + classes.sum()

    def output(self, model: Any) -> Tensor:
        flat = [self.words(model, self.text).flatten(), self.classes(model, self.text).flatten()]
        return torch.cat(flat)

    def holds(self, model: Any) -> None:
        promises.padding_changes_nothing(lambda t: self.words(model, t), self.text, **NEARLY)
        whole = self.classes(model, self.text)
        for row, tokens in enumerate(self.text):
            alone = self.classes(model, tokens[tokens.ne(PAD)][None])
            torch.testing.assert_close(whole[row : row + 1], alone, **NEARLY)


# of ours, around fairseq's own parts
SHELLS = (
    "MemTransformerModel", "MemTransformerLanguageModel", "MemRobertaModel", "MemRobertaEncoder",
)  # fmt: skip


def is_stock(model: Any) -> bool:
    """Whether nothing of ours runs in it, and nothing of fairseq's is left out."""
    if getattr(model.encoder if hasattr(model, "encoder") else None, "lm_head", 1) is None:
        return False
    return not [
        module for module in model.modules()
        if "fairseq_mem" in type(module).__module__ and type(module).__name__ not in SHELLS
    ]  # fmt: skip
