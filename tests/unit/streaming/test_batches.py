"""A text cut into rows and segments: every word once, and resumed where it was left."""

import pytest
import torch
from fairseq.data.indexed_dataset import make_builder
from fairseq.optim.amp_optimizer import AMPOptimizer
from helpers.random_models import EXACT, dictionary
from helpers.recurrent_models import Sentences, build, streaming_task, text, words

from fairseq_mem import UserError
from fairseq_mem.streaming.batches import Rows, StreamBatches, TokenStream, check_length
from fairseq_mem.streaming.state import StreamState


@pytest.mark.parametrize("total", [1, 7, 24, 25, 26, 27])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_word_is_predicted_once_from_the_one_before(total, workers):
    batch, seen = 2, []
    parts = [
        StreamBatches(text(total), Rows(batch, workers, n), 4, 2, pad=1) for n in range(workers)
    ]
    assert len({len(part) for part in parts}) == 1
    for part in parts:
        rows: list[list[int]] = [[] for _ in range(batch)]
        for number in range(len(part)):
            sample = part[number]
            tokens, target = sample["net_input"]["src_tokens"], sample["target"]
            assert sample["net_input"]["position"] == 4 * number
            assert tokens.shape == target.shape and tokens.size(1) <= 4
            assert sample["ntokens"] == target.ne(1).sum()
            for row in range(batch):
                for before, word in zip(tokens[row].tolist(), target[row].tolist(), strict=True):
                    if word == 1:
                        assert before == 1
                        continue
                    assert before == (2 if word == 10 else word - 1)
                    rows[row].append(word)
        for row in rows:  # contiguous
            assert row == list(range(row[0], row[0] + len(row))) if row else True
            seen += row
    assert seen == list(range(10, 10 + total))


def test_padding_at_the_end_of_a_row_changes_nothing():
    model = build(memory_tokens=2, memory_recurrence=2)
    batches = StreamBatches(text_of(words(1, 17)[0]), Rows(2), 4, 2, pad=dictionary().pad())
    assert batches.spans == [(0, 8), (8, 17)]
    together = [[], []]
    for number in range(len(batches)):
        sample = batches[number]
        logits = model(**sample["net_input"])[0]
        for row in range(2):
            together[row].append(logits[row][sample["target"][row].ne(1)])
    for row, (start, stop) in enumerate(batches.spans):
        alone = batches.stream.read(start - 1, stop)[None, :-1]
        torch.testing.assert_close(torch.cat(together[row]), model(alone, segment=2)[0][0], **EXACT)


def text_of(tokens: torch.Tensor) -> TokenStream:
    return TokenStream("test", Sentences(tokens.split(3)), first=dictionary().eos())


@pytest.mark.parametrize("total, rows, segment, cache, said", [
    (0, Rows(1), 4, 4, "'train' is empty"),
    (30, Rows(4, 2), 4, 0, "30 tokens, 3 for each of 8 rows .* segment of 4; give"),
    (30, Rows(4), 4, 9, "7 for each of 4 rows .* cache of 9"),
    (3, Rows(1), 4, 9, None),
    (32, Rows(4, 2), 4, 4, None),
])  # fmt: skip
def test_a_text_too_short_for_its_rows_is_refused(total, rows, segment, cache, said):
    if said is None:
        check_length(text(total), rows, segment, cache)
        return
    with pytest.raises(UserError, match=said):
        check_length(text(total), rows, segment, cache)


def test_a_state_is_for_the_rows_that_it_was_saved_from(tmp_path):
    """Training resumes with another number of workers, or on another text: its rows are others."""
    task = streaming_task(tmp_path)
    saved = StreamState(8, [torch.zeros(2, 5, 16)])

    def iterator(length, workers):
        return task.get_batch_iterator(text(length), max_sentences=2, num_shards=workers)

    reading = iterator(100, 2)
    batches = reading.next_epoch_itr()
    next(batches), next(batches)
    iterator(30, 1)  # of a validation
    task.place.streams = {True: saved}
    state = reading.state_dict()
    for length, workers, kept in ((100, 2, True), (100, 1, False), (101, 2, False)):
        iterator(length, workers).load_state_dict(state)
        assert (True in task.place.streams) == kept


@pytest.mark.parametrize("rows, workers, segment, batches, there", [
    (8, 1, 4, 63, 40), (16, 1, 4, 32, 20), (8, 2, 4, 32, 20), (8, 1, 8, 32, 20),
    (4, 1, 4, 125, 79), (500, 1, 4, 1, 0),
])  # fmt: skip
def test_resuming_with_other_rows_goes_on_at_the_same_part_of_the_epoch(
    tmp_path, rows, workers, segment, batches, there
):
    """Saved when 40 of 63 batches had been read."""

    def iterator(rows, workers, segment):
        task = streaming_task(tmp_path, tokens_per_sample=segment)
        task.place.streams = {}
        return task.get_batch_iterator(text(2000), max_sentences=rows, num_shards=workers)

    reading = iterator(8, 1, 4)
    batch = reading.next_epoch_itr()
    for _ in range(40):
        next(batch)
    assert len(reading) == 63
    resumed = iterator(rows, workers, segment)
    resumed.load_state_dict(reading.state_dict())
    assert len(resumed) == batches
    assert resumed.next_epoch_itr().n == there


@pytest.mark.parametrize("kind", ["mmap", "cached", "lazy"])
def test_every_format_of_binarised_data_is_read(tmp_path, kind):
    task, sentences = streaming_task(tmp_path), text(30).sentences
    for split in ("train", "train1"):  # two, which --combine-valid-subsets and the like join
        builder = make_builder(str(tmp_path / f"{split}.bin"), kind, vocab_size=len(dictionary()))
        for sentence in sentences:
            builder.add_item(sentence)
        builder.finalize(str(tmp_path / f"{split}.idx"))
    for combine in (False, True):
        task.load_dataset("train", combine=combine)
        expected = torch.arange(10, 40).repeat(2 if combine else 1)
        assert torch.equal(task.datasets["train"].read(0, len(expected)), expected)


class Overflowing(AMPOptimizer):
    """Stands in for --amp, which needs a GPU."""

    def __init__(self):
        pass

    def backward(self, loss):
        loss.backward()


def test_an_update_that_amp_repeats_reads_what_it_read_before(tmp_path, caplog):
    """Updates of two batches; the second overflows twice and is given up, the third once."""
    model = build(memory_tokens=2, memory_recurrence=2).train()
    task = streaming_task(tmp_path)
    task.place.streams = model.decoder.streams
    tokens = words(2, 48)

    def criterion(model, sample):
        return model(**sample["net_input"])[0].pow(2).sum(), 1, {}

    def update(number) -> list[float]:
        model.zero_grad()  # as the trainer does
        found = []
        for position in (16 * number, 16 * number + 8):
            part = tokens[:, position : position + 8]
            sample = {"net_input": {"src_tokens": part, "segment": 4, "position": position}}
            loss = task.train_step(sample, model, criterion, Overflowing(), 0)[0]
            found.append(loss.item())
        return found

    with torch.no_grad():
        logits = model(tokens, segment=4)[0].split(16, dim=1)
    for number in (0, 0, 1, 1, 1, 2, 2):
        expected = [part.pow(2).sum().item() for part in logits[number].split(8, dim=1)]
        assert update(number) == pytest.approx(expected, abs=1e-9)
    assert "nothing is known" not in caplog.text
