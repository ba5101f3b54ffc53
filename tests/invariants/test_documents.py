"""Memory along documents: the encoder, windows, reading whole documents."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.data import LanguagePairDataset
from helpers.random_models import EXACT, build, dictionary, logits, sentences, shifted
from helpers.references.documents import encode_document

from fairseq_mem import UserError
from fairseq_mem.streaming.carry import GatedCarry, fit_carry
from fairseq_mem.streaming.documents import (
    DocumentPairs,
    Documents,
    Windows,
    WithContext,
)
from fairseq_mem.streaming.remembered import read_in_front, remember

LENGTHS = [3, 1, 2, 5, 1, 2]  # sentences of the documents
DOCUMENTS = Documents(LENGTHS)
SIDE = [3, 7, 4, 5, 2, 6, 3, 4, 4, 2, 8, 5, 3, 6]  # words of their sentences, with the end mark
every_carry = pytest.mark.parametrize("carry", ["gate", "plain"])


def model(carry="gate", **options):
    return build(memory_tokens=3, memory_recurrence=3, memory_carry=carry, **options)


def rows(seed: int) -> list[torch.Tensor]:
    """One side's sentences."""
    padded = sentences(SIDE if seed == 1 else SIDE[::-1], seed=seed)
    return [row[row.ne(dictionary().pad())] for row in padded]


SOURCE, TARGET = rows(1), rows(2)


def pairs(documents: Documents = DOCUMENTS) -> DocumentPairs:
    words = dictionary()
    sides = []
    for side in (SOURCE, TARGET):
        sides += [side, [len(row) for row in side], words]
    return DocumentPairs(LanguagePairDataset(*sides), documents, "valid")


def windows(size: int = 3, hand_on: bool = True, seed: int = 1) -> Windows:
    return Windows(pairs(), size, seed, hand_on)


def scored(chosen, batch) -> dict[int, torch.Tensor]:
    """The logits of a batch, by the numbers of its sentences, without padding."""
    out = chosen(**batch["net_input"])[0]
    lengths = batch["target"].ne(dictionary().pad()).sum(1)
    return {number: out[row, : lengths[row]] for row, number in enumerate(batch["id"].tolist())}


def through_documents(chosen) -> dict[int, torch.Tensor]:
    """Every sentence's logits, documents read one by one in one batch a document."""
    found = {}
    for start, length in zip(DOCUMENTS.starts, DOCUMENTS.lengths, strict=False):
        whole = Windows(pairs(), 99, 1, hand_on=True)
        number = int(np.flatnonzero(whole.spans[:, 0] == start)[0])
        assert whole.spans[number, 1] - start == length
        found.update(scored(chosen, whole.collater([whole[number]])))
    return found


# ------------------------------------------------------------ the encoder


@every_carry
@pytest.mark.parametrize(
    "options", [dict(), dict(encoder_normalize_before=True), dict(memory_positions=True)], ids=str
)
def test_equals_the_reference_sentence_by_sentence(carry, options):
    chosen = model(carry, **options)
    document = SOURCE[6:11]
    expected = encode_document(chosen.encoder, document)
    tokens = torch.nn.utils.rnn.pad_sequence(document, True, dictionary().pad())
    out = chosen.encoder(tokens, steps=[1] * 5)["encoder_out"][0]
    for row, outputs in enumerate(expected):
        torch.testing.assert_close(out[: len(outputs), row], outputs, **EXACT)


@every_carry
@pytest.mark.parametrize("options", [
    dict(), dict(encoder_normalize_before=True), dict(memory_positions=True),
    dict(memory_update="ctrl"), dict(memory_update="bottleneck"), dict(memory_decoder_tokens=2),
], ids=str)  # fmt: skip
def test_a_document_alone_equals_the_document_among_others(carry, options):
    chosen = model(carry, **options)
    whole = Windows(pairs(), 99, 1, hand_on=True)
    among = scored(chosen, whole.collater([whole[number] for number in range(len(whole))]))
    alone = through_documents(chosen)
    assert among.keys() == alone.keys() == set(range(14))
    for number, out in alone.items():
        torch.testing.assert_close(among[number], out, rtol=0, atol=1e-6)


@every_carry
@pytest.mark.parametrize("most_tokens", [1, 40, 10_000])
def test_documents_that_were_read_before_equal_those_in_one_pass(carry, most_tokens):
    """Whatever the batches, also of sentences in any order."""
    chosen = model(carry)
    before = remember(chosen.encoder, SOURCE, np.array(SIDE), DOCUMENTS, most_tokens)
    alone = through_documents(chosen)
    data = pairs()
    for batch in ([13, 2, 8, 0], [9, 7, 6, 10], [1, 3, 4, 5, 11, 12]):
        batch = data.collater([data[number] for number in batch])
        batch["net_input"]["memory"] = {chosen.encoder: before.before(batch["id"])}
        for number, out in scored(chosen, batch).items():
            torch.testing.assert_close(out, alone[number], rtol=0, atol=1e-6)


def test_a_sentence_that_is_too_long_hands_on_what_it_was_given():
    chosen = model(max_source_positions=3)  # the first one just fits
    documents = Documents([3])
    of_three, of_two = [SOURCE[0], SOURCE[1], SOURCE[2]], [SOURCE[0], SOURCE[2]]
    assert [len(row) for row in of_three] == [3, 7, 4]
    skipped = remember(chosen.encoder, of_three, np.array([3, 7, 4]), documents)
    without = remember(chosen.encoder, of_two, np.array([3, 4]), Documents([2]))
    last = skipped.before(torch.tensor([2]))
    torch.testing.assert_close(last, without.before(torch.tensor([1])), **EXACT)
    assert not torch.equal(last[:, 0], chosen.encoder.memory.weight)


def test_memory_begins_fresh_with_every_document():
    chosen = model()
    before = remember(chosen.encoder, SOURCE, np.array(SIDE), DOCUMENTS)
    held = before.before(torch.arange(14)).transpose(0, 1)
    fresh = chosen.encoder.memory.weight
    begins = {int(start) for start in DOCUMENTS.starts[:-1]}
    assert {n for n in range(14) if torch.equal(held[n], fresh)} == begins


def changed_by(number: int, side: str) -> set[int]:
    """The sentences whose logits change with a word of sentence ``number``."""
    chosen = model()
    before = through_documents(chosen)
    rows = SOURCE if side == "source" else TARGET
    word = rows[number][0].clone()
    rows[number][0] = (word - 4 + 1) % 20 + 4
    after = through_documents(chosen)
    rows[number][0] = word
    return {n for n in before if (before[n] - after[n]).abs().max() > 1e-9}


def test_no_sentence_sees_a_later_one_or_another_document():
    assert changed_by(8, "source") == {8, 9, 10}  # of a document of 6 to 10
    assert changed_by(10, "source") == {10}
    assert changed_by(7, "target") == {7}  # memory comes from the source alone


def test_gradients_reach_back_through_the_window_and_no_further():
    chosen = model().train()
    batch = windows(3)
    start = int(np.flatnonzero(batch.spans[:, 1] - batch.spans[:, 0] == 3)[0])
    embedded = []
    chosen.encoder.embed_tokens.register_forward_hook(
        lambda module, inputs, output: embedded.append(output) or output.retain_grad()
    )
    collated = batch.collater([batch[start]])
    out = chosen(**collated["net_input"])[0]
    out[-1].pow(2).sum().backward()  # of the last sentence
    assert [bool(g.any()) for g in embedded[0].grad] == [True, True, True]
    assert collated["net_input"]["steps"] == [1, 1, 1]
    assert collated["id"].tolist() == list(range(*batch.spans[start]))


@every_carry
@pytest.mark.parametrize("size", [1, 3])
def test_every_parameter_gets_a_gradient(carry, size):
    """Of zero, where nothing is handed on: distributed training stops where there is none."""
    chosen = model(carry).train()
    batch = windows(size)
    batch = batch.collater([batch[number] for number in range(len(batch))])
    chosen(**batch["net_input"])[0].pow(2).sum().backward()
    for name, parameter in chosen.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or (size == 1 and "carry" in name), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    chosen = model(double=False).to(dtype).train()
    batch = windows().collater([windows()[number] for number in range(3)])
    out = chosen(**batch["net_input"])[0]
    out.float().pow(2).mean().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in chosen.parameters())


@every_carry
def test_the_new_parameters_are_the_gates(carry):
    plain = dict(build(memory_tokens=3).named_parameters())
    found = dict(model(carry).named_parameters())
    new = {name: found[name].numel() for name in found.keys() - plain.keys()}
    gate = {"encoder.carry.gate.weight": 2 * 16**2, "encoder.carry.gate.bias": 16}
    assert new == (gate if carry == "gate" else {})
    only = model(carry, memory_only=True)
    trained = {name for name, p in only.named_parameters() if p.requires_grad}
    assert trained == {"encoder.memory.weight", *new}


def test_without_memory_or_recurrence_it_is_the_model_of_sentences():
    source, target = sentences([5, 3]), sentences([4, 6], seed=3)
    for options in (dict(memory_tokens=0, memory_recurrence=3), dict(memory_tokens=3)):
        found = build(**options)
        expected = build(**{**options, "memory_recurrence": 0})
        assert not getattr(found.encoder, "recurrent", False)
        assert {type(module) for module in found.modules()} == {
            type(module) for module in expected.modules()
        }
        assert torch.equal(
            logits(found, source, shifted(target)), logits(expected, source, shifted(target))
        )


def test_the_gates_gradients():
    carry = GatedCarry(4).double()
    pair = [torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(carry, pair)


def test_checkpoints_of_sentence_models_and_of_document_models(caplog):
    sentence, document = build(memory_tokens=3), model()
    state = sentence.state_dict()
    document.load_state_dict({**state})
    assert [line for line in caplog.messages if "gate of memory is freshly init" in line]
    sentence.load_state_dict(document.state_dict())  # leaves the gate out
    build(memory_tokens=0).load_state_dict(document.state_dict())
    caplog.clear()
    document.load_state_dict(model().state_dict())
    assert not caplog.messages
    state = {"encoder.carry.gate.bias": 1}
    fit_carry(state, "encoder.carry", None)
    assert not state


@pytest.mark.parametrize("lesion", ["no-read", "zero-read"])
@pytest.mark.parametrize("kept", [1, 2])
def test_fewer_slots_and_lesions(lesion, kept):
    """Where text may not see memory no sentence depends on the one before.

    A zero-read leaves memory's share in the softmax's sum.
    """
    trained = model()
    looked_at = model(memory_lesion=lesion, memory_lesion_scope="all")
    fewer = build(memory_tokens=kept, memory_recurrence=3)
    for other in (looked_at, fewer):
        other.load_state_dict(trained.state_dict())
    tokens = torch.nn.utils.rnn.pad_sequence(SOURCE[:2], True, dictionary().pad())
    batch = dict(src_lengths=None, prev_output_tokens=shifted(tokens), steps=[1, 1])
    other = tokens.clone()
    other[0, 0] = (other[0, 0] - 4 + 1) % 20 + 4
    for chosen, depends in ((looked_at, lesion == "zero-read"), (fewer, True)):
        one, two = (chosen(src_tokens=t, **batch)[0][1] for t in (tokens, other))
        assert ((one - two).abs().max() > 1e-9) == depends


def test_a_task_of_sentences_is_refused():
    from fairseq.models import ARCH_MODEL_REGISTRY

    words = dictionary()
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    with pytest.raises(UserError, match="give --task document_translation"):
        ARCH_MODEL_REGISTRY["mem_transformer"].build_model(
            SimpleNamespace(memory_recurrence=2), task
        )


# ------------------------------------------------------------ windows and batches


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_windows_are_the_documents_cut(size):
    seen = set()
    data = windows(size)
    for epoch in range(1, 9):
        data.set_epoch(epoch)
        covered = [number for start, stop in data.spans for number in range(start, stop)]
        assert covered == list(range(14))
        for start, stop in data.spans:
            assert 0 < stop - start <= size and DOCUMENTS.first[start] == DOCUMENTS.first[stop - 1]
        cut = np.bincount(DOCUMENTS.first[data.spans[:, 0]], minlength=14)[DOCUMENTS.starts[:-1]]
        assert (cut[DOCUMENTS.lengths <= size] == 1).all()
        seen.add(tuple(data.spans[:, 0]))
    assert len(seen) > 1 or size == 1
    data.set_epoch(3)
    assert np.array_equal(data.spans, windows_of(size, 3).spans)  # of the epoch alone


def windows_of(size, epoch):
    data = windows(size)
    data.set_epoch(epoch)
    return data


def test_batches_are_the_same_with_and_without_memory_and_never_too_large():
    both = [Windows(pairs(), 2, 1, hand_on) for hand_on in (True, False)]
    batches = []
    for data in both:
        np.random.seed(5)
        found = data.batch_by_size(data.ordered_indices(), max_tokens=40)
        batches.append([data.collater([data[n] for n in batch]) for batch in found])
    for with_memory, without in zip(*batches, strict=True):
        steps = with_memory["net_input"].pop("steps")
        assert sum(steps) == len(with_memory["id"]) == with_memory["nsentences"]
        assert sorted(steps, reverse=True) == steps
        assert "steps" not in without["net_input"]
        for name in ("id", "target"):
            assert torch.equal(with_memory[name], without[name])
        for name, value in without["net_input"].items():
            assert torch.equal(with_memory["net_input"][name], value)
            if value.dim() == 2:
                assert value.numel() <= 40
    assert sorted(n for b in batches[1] for n in b["id"].tolist()) == list(range(14))


def test_windows_that_do_not_fit(caplog):
    data = windows(3)
    batches = data.batch_by_size(data.ordered_indices(), max_tokens=21)
    assert sum(map(len, batches)) < len(data)
    assert "more than --max-tokens 21, padding counted, and are left out" in caplog.text
    with pytest.raises(UserError, match="--max-tokens 3 has no room for a window of 3"):
        data.batch_by_size(data.ordered_indices(), max_tokens=3)


def test_rows_keep_what_is_theirs():
    data = windows(3)
    batch = data.collater([data[number] for number in range(len(data))])
    for row, number in enumerate(batch["id"].tolist()):
        pad = dictionary().pad()
        for tokens, sentence in (
            (batch["net_input"]["src_tokens"][row], SOURCE[number]),
            (batch["target"][row], TARGET[number]),
        ):
            assert torch.equal(tokens[tokens.ne(pad)], sentence)
        assert batch["net_input"]["src_lengths"][row] == len(SOURCE[number])


# ------------------------------------------------------------ context


@pytest.mark.parametrize("count", [1, 2])
def test_sentences_in_front(count):
    sizes = np.array(SIDE)
    data = WithContext(SOURCE, sizes, DOCUMENTS, count, 100)
    for number in range(14):
        first = max(int(DOCUMENTS.first[number]), number - count)
        assert torch.equal(data[number], torch.cat(SOURCE[first : number + 1]))
        assert data.sizes[number] == len(data[number])
    short = WithContext(SOURCE, sizes, DOCUMENTS, 2, 8)
    assert len(short[8]) == 8 and len(short[10]) == 8  # 4 + 4 of 4 + 4 + 3; 8 alone


def test_what_is_in_front_of_a_window_is_read_without_gradient():
    """Memory begins as in one pass over the whole document; in a document's first window fresh."""
    chosen = model()
    data = Windows(pairs(), 3, 1, hand_on=True, before=99)
    batch = data.collater([data[number] for number in range(len(data))])
    begins = read_in_front(chosen.encoder, batch["net_input"]["steps"][0], batch["before"])
    starts = batch["id"][: begins.size(1)]
    expected = remember(chosen.encoder, SOURCE, np.array(SIDE), DOCUMENTS).before(starts)
    torch.testing.assert_close(begins, expected, rtol=0, atol=1e-6)
    inputs = {**batch["net_input"], "memory": {chosen.encoder: begins}}
    alone = through_documents(chosen)
    for number, out in scored(chosen, {**batch, "net_input": inputs}).items():
        torch.testing.assert_close(out, alone[number], rtol=0, atol=1e-6)
    fresh = torch.tensor([number in DOCUMENTS.starts for number in starts.tolist()])
    weight = chosen.encoder.memory.weight
    for row, first in enumerate(fresh):
        (grad,) = torch.autograd.grad(begins[:, row].sum(), weight, retain_graph=True)
        assert bool(grad.any()) == bool(first)
    assert "before" not in Windows(pairs(), 3, 1, False, 2).collater([data[0]])


def test_a_sentence_in_front_that_is_too_long_is_passed_over():
    """In training as in evaluation."""
    most = 5
    chosen = model(max_source_positions=most - 1)  # the end mark counts as one
    longest = chosen.encoder.max_positions()
    data = Windows(pairs(), 2, 1, hand_on=True, before=99, longest=longest)
    batch = data.collater([data[number] for number in range(len(data))])
    assert any(size > longest for size in SIDE) and batch["before"]
    assert max(tokens.size(1) for _, tokens in batch["before"]) <= longest
    begins = read_in_front(chosen.encoder, batch["net_input"]["steps"][0], batch["before"])
    starts = batch["id"][: begins.size(1)]
    expected = remember(chosen.encoder, SOURCE, np.array(SIDE), DOCUMENTS).before(starts)
    torch.testing.assert_close(begins, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("lacks", "windows"),
    [(0, [[0, 3], [3, 5]]), (1, [[0, 2], [2, 5]]), (2, [[0, 1], [1, 4], [4, 5]])],
)
def test_the_first_of_a_documents_windows_lacks_what_it_is_told(lacks, windows):
    assert Documents([5]).windows(3, np.array([lacks])).tolist() == windows
