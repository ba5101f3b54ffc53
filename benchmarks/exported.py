"""A contestant of the suite `generation`: the same checkpoint in CTranslate2."""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .batches import evenly
from .measure import Failed, Work

QUANTIZATIONS = ("float32", "int8")
PARTS = 4  # into so many parts a batch is cut when batches are searched side by side


@dataclass(frozen=True)
class TranslatingExported:
    """An exported checkpoint translates a test set: same sentences, beam and length limits.

    Which way of using the cores is the best is found out before the first round: all of them for
    one batch, or one for each of several smaller batches at a time.
    """

    path: str
    data: str
    flags: str
    quantization: str
    sentences: int
    tokens: int
    counts_model: bool = True

    def start(self, device: str) -> Callable[[], Work]:
        """Export in a process of its own, load, find the best threading."""
        import ctranslate2
        import torch
        from fairseq import tasks

        from .models import parse_generation

        cfg = parse_generation(self.flags, self.data)
        task = tasks.setup_task(cfg.task)
        task.load_dataset(cfg.dataset.gen_subset)
        samples = evenly(task.dataset(cfg.dataset.gen_subset), self.tokens, self.sentences)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "exported"
            command = [sys.executable, "-m", "fairseq_mem", "export", self.path, self.data]
            command += ["--out", str(folder), "--quantization", self.quantization]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(done.stderr.strip().splitlines()[-1])
            size = (folder / "model.bin").stat().st_size
            about = json.loads((folder / "fairseq_mem.json").read_text(encoding="utf-8"))
            cores = torch.get_num_threads()
            ways = {
                (inter, intra): ctranslate2.Translator(
                    str(folder),
                    device,
                    compute_type=about["compute_type"],
                    inter_threads=inter,
                    intra_threads=intra,
                )
                for inter, intra in {(1, cores), (cores, 1)}
            }
        found: dict[tuple[int, int], tuple[float, Callable[[], Work]]] = {}
        for (inter, intra), translator in ways.items():
            jobs = list(_jobs(samples, task, cfg.generation, about, 1 if inter == 1 else PARTS))
            detail: dict[str, Any] = {"threads": f"{inter} x {intra}", "model MB": size / 1e6}
            detail["first step, ms"] = _first_step(translator, jobs, about)
            run = _round(translator, jobs, task.target_dictionary, cfg.generation, about, detail)
            run()
            begin = time.perf_counter()
            run()
            found[inter, intra] = (time.perf_counter() - begin, run)
        best = min(found, key=lambda way: found[way][0])
        return found[best][1]


def _first_step(
    translator: Any, jobs: list[tuple[list[int], list[list[str]], int]], about: dict[str, Any]
) -> float:
    """Milliseconds a sentence to encode and to take one step without beams; the best of three."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        queued = [
            translator.translate_batch(
                sources, beam_size=1, max_input_length=0, asynchronous=True,
                target_prefix=[about["target_prefix"]] * len(sources),
                max_decoding_length=len(about["target_prefix"]) + 1,
            )
            for _, sources, _ in jobs
        ]  # fmt: skip
        for result in itertools.chain.from_iterable(queued):
            result.result()
        times.append(time.perf_counter() - begin)
    return 1000 * min(times) / sum(len(numbers) for numbers, _, _ in jobs)


def _jobs(
    samples: list[dict[str, Any]], task: Any, search: Any, about: dict[str, Any], parts: int
) -> Iterator[tuple[list[int], list[list[str]], int]]:
    """Numbers and words of sentences that are searched together, and their length limit."""
    words = task.source_dictionary
    for sample in samples:
        sources = sample["net_input"]["src_tokens"]
        rows = list(zip(sample["id"].tolist(), sources, strict=True))
        size = -(-len(rows) // parts)
        # fairseq's, whose generator sees the whole batch: its longest source, with the end mark
        limit = int(search.max_len_a * sources.size(1) + search.max_len_b)
        limit = min(limit, about["max_target_tokens"] - 1)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            texts = [[words[i] for i in row[row.ne(words.pad())][:-1]] for _, row in part]
            yield [number for number, _ in part], [about["source_prefix"] + t for t in texts], limit


def _round(
    translator: Any,
    jobs: list[tuple[list[int], list[list[str]], int]],
    words: Any,
    search: Any,
    about: dict[str, Any],
    detail: dict[str, Any],
) -> Callable[[], Work]:
    """Make what translates all jobs once."""
    prefix = about["target_prefix"]
    forced = len(prefix)

    def run() -> Work:
        queued = [
            translator.translate_batch(
                sources,
                target_prefix=[prefix] * len(sources) if forced else None,
                beam_size=search.beam,
                length_penalty=search.lenpen,
                max_decoding_length=forced + limit + 1,
                min_decoding_length=forced + 1,
                max_input_length=0,
                return_end_token=True,
                asynchronous=True,
            )
            for _, sources, limit in jobs
        ]
        hypotheses: dict[int, list[int]] = {}
        for (numbers, _, _), results in zip(jobs, queued, strict=True):
            for number, result in zip(numbers, results, strict=True):
                found = result.result().hypotheses[0][forced:]
                hypotheses[number] = [words.index(word) for word in found]
        return Work(len(hypotheses), {"hypotheses": hypotheses, **detail})

    return run
