"""A small model that has learned to translate a little, as a checkpoint and as an exported folder.

The export is written out here once more, for one kind of model, so that what serves models is
tested against something that did not grow together with it.
"""

import io
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ctranslate2.converters import fairseq as converter
from ctranslate2.specs import TransformerSpec
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_mem_serve import TextPipeline
from omegaconf import OmegaConf
from subword_nmt.learn_bpe import learn_bpe
from torch.nn import functional as F

import fairseq_mem  # noqa: F401  (registers the architectures)

WORDS = {
    "eins": "one", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five",
    "sechs": "six", "sieben": "seven", "acht": "eight", "neun": "nine", "zehn": "ten",
}  # fmt: skip
MOST_UPDATES = 3000  # it takes some 200
POSITIONS = 40  # the longest sentence, in tokens with the end mark
MEMORY, DECODER_MEMORY = 3, 2


class Made(NamedTuple):
    """Where everything is."""

    checkpoint: Path
    data: Path
    exported: Path


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Numbers in German, with quotes now and then, and in English."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        german = chance.choices(list(WORDS), k=chance.randrange(2, 9))
        english = [WORDS[word] for word in german]
        quote = chance.random() < 0.3
        made.append(
            (
                ("„{}.“" if quote else "{}.").format(" ".join(german)),
                ('"{}."' if quote else "{}.").format(" ".join(english)),
            )
        )
    return made


def make(folder: Path) -> Made:
    """Prepare data, train until most of it is learned, save and export."""
    data = folder / "data"
    data.mkdir()
    train = pairs(2000, seed=0)
    plain = [TextPipeline("de", "en", codes=None), TextPipeline("en", "de", codes=None)]
    tokenized = [[" ".join(p.split(text)) for text in t] for p, t in zip(plain, zip(*train))]
    codes = io.StringIO()
    learn_bpe(io.StringIO("\n".join(tokenized[0] + tokenized[1])), codes, 55)
    (data / "code").write_text(codes.getvalue(), encoding="utf-8")
    (data / "settings.txt").write_text("# by hand\nsource de\ntarget en\nnormalize yes\n")
    cut = [
        TextPipeline("de", "en", codes=data / "code"),
        TextPipeline("en", "de", codes=data / "code"),
    ]
    dictionaries = []
    for language, pipeline, texts in zip(("de", "en"), cut, zip(*train)):
        dictionary = Dictionary()
        for text in texts:
            for token in pipeline.split(text):
                dictionary.add_symbol(token)
        dictionary.finalize()
        dictionary.save(str(data / f"dict.{language}.txt"))
        dictionaries.append(dictionary)

    args = options.parse_args_and_arch(
        options.get_training_parser(),
        [
            str(data), "--arch", "mem_transformer", "--memory-tokens", str(MEMORY),
            "--memory-decoder-tokens", str(DECODER_MEMORY), "--source-lang", "de",
            "--target-lang", "en", "--encoder-layers", "2", "--decoder-layers", "2",
            "--encoder-embed-dim", "32", "--decoder-embed-dim", "32",
            "--encoder-ffn-embed-dim", "64", "--decoder-ffn-embed-dim", "64",
            "--encoder-attention-heads", "2", "--decoder-attention-heads", "2", "--dropout", "0",
            "--max-source-positions", str(POSITIONS), "--max-target-positions", str(POSITIONS),
        ],
    )  # fmt: skip
    torch.manual_seed(1)
    task = tasks.setup_task(args)
    model = task.build_model(args)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so small a model the fastest, and the same everywhere
    try:
        _train(model, task, cut, train)
    finally:
        torch.set_num_threads(threads)

    checkpoint = folder / "checkpoint.pt"
    cfg = OmegaConf.to_container(
        convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True
    )
    history = {
        "criterion_name": "",
        "optimizer_name": "",
        "lr_scheduler_state": {},
        "num_updates": 1,
    }
    torch.save(
        {
            "args": None, "cfg": cfg, "model": model.state_dict(), "optimizer_history": [history],
            "extra_state": {"train_iterator": {"epoch": 1}}, "last_optimizer_state": None,
        },
        checkpoint,
    )  # fmt: skip
    exported = folder / "exported"
    export(model, task, data, exported)
    return Made(checkpoint, data, exported)


def _train(model: Any, task: Any, cut: Any, train: Any) -> None:
    """Adam on random batches, until nine of ten unseen sentences are right to the last token.

    In float64 the order of sums, and with it the number of threads and the kind of CPU, makes no
    difference that training would enlarge to another model.
    """
    model.double().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    words = (task.source_dictionary, task.target_dictionary)
    pad = words[0].pad()

    def numbers(pairs: Any) -> list[list[torch.Tensor]]:
        return [
            [torch.tensor([*map(d.index, c.split(t)), d.eos()]) for d, c, t in zip(words, cut, p)]
            for p in pairs
        ]

    def predicted(rows: list[list[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B x T x V), teacher-forced, and the target (B x T)."""
        source, target = (
            torch.nn.utils.rnn.pad_sequence([row[side] for row in rows], True, pad)
            for side in (0, 1)
        )
        previous = torch.full_like(target, words[1].eos())
        previous[:, 1:] = target[:, :-1]
        return model(source, source.ne(pad).sum(1), previous)[0], target

    rows, unseen = numbers(train), numbers(pairs(100, seed=1))
    generator = torch.Generator().manual_seed(0)
    for update in range(1, MOST_UPDATES + 1):
        chosen = torch.randint(len(rows), (48,), generator=generator).tolist()
        logits, target = predicted([rows[i] for i in chosen])
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=pad)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 25 == 0:
            with torch.no_grad():
                logits, target = predicted(unseen)
            right = (logits.argmax(-1).eq(target) | target.eq(pad)).all(1).sum().item()
            if right >= 90:
                model.float().eval()
                return
    raise AssertionError(f"{right} of 100 sentences are right after {MOST_UPDATES} updates")


@torch.no_grad()
def export(model: Any, task: Any, data: Path, folder: Path) -> None:
    """Write the folder of a post-norm model with memory on both sides."""
    spec = TransformerSpec.from_config((2, 2), 2, pre_norm=False)
    converter.set_transformer_encoder(spec.encoder, model.encoder)
    converter.set_transformer_decoder(spec.decoder, model.decoder)
    vocabularies = [list(task.source_dictionary.symbols), list(task.target_dictionary.symbols)]
    slots = [[f"<mem-{i}>" for i in range(MEMORY)], [f"<dmem-{i}>" for i in range(DECODER_MEMORY)]]
    for side, part, embeddings in (
        (0, model.encoder, spec.encoder.embeddings[0]),
        (1, model.decoder, spec.decoder.embeddings),
    ):
        memory = part.memory.weight.numpy()
        vocabularies[side] += slots[side]
        embeddings.weight = np.concatenate(
            [part.embed_tokens.weight.numpy(), memory / part.embed_scale]
        )
        layers = (spec.encoder, spec.decoder)[side].position_encodings
        layers.encodings = np.concatenate(
            [
                np.zeros_like(memory),
                part.embed_positions.weights.numpy()[task.source_dictionary.pad() + 1 :],
            ]
        )
    projection = model.decoder.output_projection.weight.numpy()
    spec.decoder.projection.weight = np.concatenate(
        [projection, np.zeros_like(model.decoder.memory.weight.numpy())]
    )
    spec.decoder.projection.bias = np.zeros(len(vocabularies[1]), dtype=np.float32)
    spec.decoder.projection.bias[len(projection) :] = -30000
    spec.register_source_vocabulary(vocabularies[0])
    spec.register_target_vocabulary(vocabularies[1])
    spec.config.decoder_start_token = slots[1][0]
    spec.config.add_source_eos = True
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))
    (folder / "code").write_bytes((data / "code").read_bytes())
    description = {
        "format": 1, "fairseq_mem": "0.1.0", "source_language": "de", "target_language": "en",
        "source_prefix": slots[0], "target_prefix": [*slots[1][1:], "</s>"],
        "decoder_start_token": slots[1][0], "eos": "</s>", "tokenizer": "moses",
        "bpe": "subword_nmt", "max_source_tokens": POSITIONS, "max_target_tokens": POSITIONS,
        "quantization": "float32",
    }  # fmt: skip
    (folder / "fairseq_mem.json").write_text(json.dumps(description))
