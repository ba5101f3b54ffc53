"""Small models, random or trained for seconds, in this process with fairseq's own trainer."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import options, tasks
from fairseq.data import Dictionary, LanguagePairDataset, indexed_dataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

import fairseq_mem  # noqa: F401  (registers the architectures)

WORDS = 12
LEARNED = 0.9  # of unseen sentences, right to the last word
MOST_UPDATES = 5000  # to learn it; some 200 are enough
SMALL = """
    --arch mem_transformer --encoder-layers 2 --decoder-layers 2 --encoder-attention-heads 2
    --decoder-attention-heads 2 --encoder-embed-dim 16 --decoder-embed-dim 16 --dropout 0
    --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32
    --max-source-positions 24 --max-target-positions 24 --source-lang de --target-lang en
    --criterion cross_entropy --optimizer adam --lr 0.01 --cpu --seed 1
""".split()


def dictionary(language: str, joined: bool) -> Dictionary:
    """The words of one or of two languages."""
    made = Dictionary()
    for letter in "st" if joined else {"de": "s", "en": "t"}[language]:
        for number in range(WORDS):
            made.add_symbol(f"{letter}{number}")
    return made


def write_dictionaries(folder: Path, joined: bool) -> None:
    """`dict.de.txt` and `dict.en.txt`."""
    for language in ("de", "en"):
        dictionary(language, joined).save(str(folder / f"dict.{language}.txt"))


def texts(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Sources of 2 to 5 words; target word i translates source word i."""
    numbers = random.Random(seed)
    pairs = []
    for _ in range(count):
        row = [numbers.randrange(WORDS) for _ in range(numbers.randrange(2, 6))]
        pairs.append(([f"s{n}" for n in row], [f"t{n}" for n in row]))
    return pairs


def batch_of(task: Any, pairs: list[tuple[list[str], list[str]]]) -> dict[str, Any]:
    """As fairseq's loader makes it."""
    sides = []
    for side, words in enumerate((task.source_dictionary, task.target_dictionary)):
        rows = [torch.tensor([*map(words.index, pair[side]), words.eos()]) for pair in pairs]
        sides += [rows, [len(row) for row in rows], words]
    data = LanguagePairDataset(*sides, shuffle=False)
    return data.collater([data[index] for index in range(len(data))])


@torch.no_grad()
def right(model: Any, batch: dict[str, Any]) -> float:
    """The share of sentences of which the model predicts every word."""
    model.eval()
    found = model(**batch["net_input"])[0].argmax(-1)  # B x T
    return (found.eq(batch["target"]) | batch["target"].eq(1)).all(1).float().mean().item()


def train(
    folder: Path,
    flags: list[str],
    updates: int | None = 0,
    save: str = "model.pt",
    texts: Callable[[int, int], list] = texts,
) -> Path:
    """Write the dictionaries and a checkpoint as fairseq's trainer does; returns its path.

    With ``updates=None`` it trains until the task is learned, however many updates that takes
    where sums are made in another order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_dictionaries(folder, joined="--share-all-embeddings" in flags)
    none = [] if "transformer" in flags else ["--memory-tokens", "0"]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, input_args=[str(folder), *SMALL, *none, *flags])
    cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(1)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    with torch.no_grad():  # biases and norms start at 0 and 1, where mistakes hide
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    unseen = batch_of(task, texts(100, -1))
    for update in range(MOST_UPDATES if updates is None else updates):
        trainer.train_step([batch_of(task, texts(32, update))])
        if updates is None and update % 25 == 24 and right(model, unseen) >= LEARNED:
            break
    else:
        assert updates is not None, f"{right(model, unseen):.0%} right: not learned"
    path = folder / save
    path.parent.mkdir(parents=True, exist_ok=True)
    trainer.consolidate_optimizer()  # must come first
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
    return path


def forget_dictionaries(checkpoint: Path) -> None:
    """Take out of a checkpoint which words it was trained with, so that others will do."""
    state = torch.load(checkpoint, weights_only=True)
    vars(state["cfg"]["model"]).pop("memory_dictionaries", None)
    torch.save(state, checkpoint)


def write_test_set(folder: Path, pairs: list[tuple[list[str], list[str]]]) -> None:
    """What preprocess.sh leaves beside the dictionaries in ``folder``, and `raw/` beside that."""
    raw = folder.parent / "raw"
    raw.mkdir()
    for side, language in enumerate(("de", "en")):
        words = Dictionary.load(str(folder / f"dict.{language}.txt"))
        path = str(folder / f"test.de-en.{language}")
        builder = indexed_dataset.make_builder(f"{path}.bin", "mmap", vocab_size=len(words))
        for pair in pairs:
            builder.add_item(torch.tensor([*map(words.index, pair[side]), words.eos()]))
        builder.finalize(f"{path}.idx")
        lines = "".join(" ".join(pair[side]) + "\n" for pair in pairs)
        (raw / f"test.{language}").write_text(lines, encoding="utf-8")
    (folder / "settings.txt").write_text("source de\ntarget en\nnormalize no\n")
