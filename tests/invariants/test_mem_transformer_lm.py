"""``mem_transformer_lm``: the invariants in float64, and fairseq's commands as users run them."""

import copy
import math
import random
import re
from argparse import Namespace

import pytest
import torch
from fairseq import options as fairseq_options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerDecoder
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq_cli import eval_lm
from helpers.commands import EVERY_SENTENCE, TRAIN, fairseq, hypotheses, last_line, run
from helpers.random_models import EXACT, build, dictionary, sentences, shifted
from helpers.references.language_model import log_probabilities

from fairseq_mem import UserError
from fairseq_mem.command_line import check_arguments

TEXT = sentences([6, 3, 8], seed=3)  # padded on the right, as fairseq pads blocks
INPUT = shifted(TEXT)
SIZE = dict(
    memory_tokens=3, decoder_input_dim=16, decoder_output_dim=16, tokens_per_sample=20,
    max_target_positions=None,
)  # fmt: skip
ADAPTIVE = dict(
    adaptive_input=True, adaptive_input_cutoff="8,16", adaptive_softmax_cutoff="8,16",
    tie_adaptive_weights=True, tie_adaptive_proj=True, decoder_normalize_before=True,
    no_decoder_final_norm=True, adaptive_input_factor=2, adaptive_softmax_factor=2,
)  # fmt: skip
VARIANTS = {
    "post-norm": {},
    "pre-norm": dict(decoder_normalize_before=True),
    "positions": dict(memory_positions=True),
    "learned positions": dict(
        memory_positions=True, decoder_learned_pos=True, max_target_positions=23
    ),
    "no positions": dict(no_token_positional_embeddings=True),
    "adaptive": ADAPTIVE,
    "shared embedding": dict(share_decoder_input_output_embed=True, no_scale_embedding=True),
    "other widths": dict(decoder_input_dim=12, decoder_output_dim=8),
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


def build_lm(**options):
    return build("mem_transformer_lm", **{**SIZE, **options})


def normalized(model, out):
    """In the precision of the model: fairseq's own softmax is in float32."""
    if model.decoder.adaptive_softmax is None:
        return out.log_softmax(dim=-1)
    with torch.no_grad():  # it writes into its own results
        return model.decoder.adaptive_softmax.get_log_prob(out, None)


def scores(model, tokens, **kwargs):
    """Log-probabilities of the next word, B x T x V."""
    return normalized(model, model(tokens, **kwargs)[0])


# 1. Without memory this is fairseq's model


def from_command_line(arch, *flags):
    """Task, model and criterion as fairseq-train builds them."""
    parser = fairseq_options.get_training_parser()
    words = ["nowhere", "--task", "language_modeling", "--arch", arch, *flags]
    cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, words))
    task = LanguageModelingTask(cfg.task, dictionary())
    torch.manual_seed(3)
    model = task.build_model(cfg.model)
    return model, task.build_criterion(cfg.criterion)


TINY_LM = (
    "--decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 24 "
    "--decoder-attention-heads 2"
).split()
WIDTHS = "--decoder-input-dim 16 --decoder-output-dim 16".split()
CUTOFFS = "--adaptive-input-cutoff 8,16 --adaptive-softmax-cutoff 8,16".split()
SIZES = [
    ("", []),
    ("", WIDTHS),
    ("_wiki103", [*CUTOFFS, "--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"]),
    ("_gpt2_small", ["--share-decoder-input-output-embed"]),
]


@pytest.mark.parametrize(("size", "flags"), SIZES)
def test_zero_tokens_is_fairseqs_model_bit_for_bit(size, flags):
    """Same keys, same losses and the same weights after two updates with dropout."""
    sample = {
        "net_input": {"src_tokens": INPUT, "src_lengths": INPUT.ne(1).sum(1)},
        "target": TEXT, "ntokens": int(TEXT.ne(1).sum()), "nsentences": 3,
    }  # fmt: skip
    results = []
    for arch, memory in (("mem_transformer_lm", ["--memory-tokens", "0"]), ("transformer_lm", [])):
        model, criterion = from_command_line(arch + size, *TINY_LM, *flags, *memory)
        assert type(model.decoder) is TransformerDecoder
        optimizer = torch.optim.Adam(model.train().parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = criterion(model, sample)[0]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        results.append((losses, model.state_dict()))
    (ours, our_state), (theirs, their_state) = results
    assert ours == theirs and math.isfinite(sum(ours)) and len(set(ours)) == 3
    assert list(our_state) == list(their_state)
    for name, value in our_state.items():
        # fairseq's adaptive modules have a buffer of whatever was in the machine's memory
        assert name.endswith("_float_tensor") or torch.equal(value, their_state[name]), name


@pytest.mark.parametrize(("size", "flags"), SIZES)
def test_new_keys_and_parameter_count(size, flags):
    ours = from_command_line(f"mem_transformer_lm{size}", *TINY_LM, *flags, "--memory-tokens", "5")
    stock = from_command_line(f"transformer_lm{size}", *TINY_LM, *flags)
    ours, stock = ours[0], stock[0]
    assert set(ours.state_dict()) - set(stock.state_dict()) == {"decoder.memory.weight"}
    assert set(stock.state_dict()) <= set(ours.state_dict())
    extra = sum(p.numel() for p in ours.parameters()) - sum(p.numel() for p in stock.parameters())
    assert extra == 5 * 16


@pytest.mark.parametrize(
    ("size", "layers", "width", "hidden", "heads", "cutoff"),
    [
        ("", 6, 512, 2048, 8, None),
        ("_wiki103", 16, 1024, 4096, 8, "20000,60000"),
        ("_gpt2_small", 24, 1024, 4096, 16, None),
    ],
)
def test_presets(size, layers, width, hidden, heads, cutoff):
    args = Namespace()
    ARCH_CONFIG_REGISTRY[f"mem_transformer_lm{size}"](args)
    sizes = [args.decoder_layers, args.decoder_embed_dim, args.decoder_ffn_embed_dim]
    assert [*sizes, args.decoder_attention_heads] == [layers, width, hidden, heads]
    assert args.adaptive_softmax_cutoff == args.adaptive_input_cutoff == cutoff
    assert args.memory_tokens == 20


def test_memory_starts_at_the_scale_of_the_embedded_text():
    wide = dict(decoder_embed_dim=256, decoder_input_dim=256, memory_tokens=50)
    for options, expected in (
        ({}, 1), (dict(no_scale_embedding=True), 256**-0.5), (dict(memory_init_std=0.3), 0.3),
    ):  # fmt: skip
        found = build_lm(**wide, **options).decoder.memory.weight.std().item()
        assert found == pytest.approx(expected, rel=0.05)


# 2. Padding changes nothing


@every_variant
def test_a_padded_batch_equals_each_text_alone(options):
    model = build_lm(**options)
    batch = scores(model, INPUT)
    assert batch.shape == (3, 8, len(dictionary()))
    for row, length in enumerate([6, 3, 8]):
        alone = scores(model, INPUT[row : row + 1, :length])
        torch.testing.assert_close(batch[row : row + 1, :length], alone, **EXACT)


@every_variant
def test_padding_on_the_left_changes_nothing_either(options):
    model = build_lm(**options)
    moved = torch.full_like(INPUT, dictionary().pad())
    for row, length in enumerate([6, 3, 8]):
        moved[row, 8 - length :] = INPUT[row, :length]
    batch = scores(model, moved)
    for row, length in enumerate([6, 3, 8]):
        alone = scores(model, INPUT[row : row + 1, :length])
        torch.testing.assert_close(batch[row : row + 1, 8 - length :], alone, **EXACT)


def test_a_row_of_nothing_but_padding_gives_no_nan():
    model = build_lm().train()
    tokens = INPUT.clone()
    tokens[1] = dictionary().pad()
    out = model(tokens)[0]
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# 3. Step by step equals all at once


@every_variant
def test_incremental_decoding_equals_the_whole_also_after_reordering(options):
    """Rows are swapped, doubled and dropped on the way."""
    model = build_lm(**options)
    tokens = torch.full((4, 1), dictionary().eos())
    generator = torch.Generator().manual_seed(5)
    state = {}
    for step in range(7):
        if step >= 2:
            order = torch.tensor([[0, 0, 3, 2], [1, 3, 2, 0], [2, 1, 1]][min(step - 2, 2)])
            order = order if step < 5 else torch.arange(3).flip(0)
            tokens = tokens[order]
            model.decoder.reorder_incremental_state_scripting(state, order)
        out = model.decoder(tokens, incremental_state=state)
        found = normalized(model, out[0])
        torch.testing.assert_close(found, scores(model, tokens)[:, -1:], **EXACT)
        assert out[1]["attn"] == [None]
        new = torch.randint(4, len(dictionary()), (len(tokens), 1), generator=generator)
        tokens = torch.cat([tokens, new], dim=1)
    assert not torch.allclose(found[0], found[1])


# 4. Causality


@every_variant
def test_a_later_word_changes_no_earlier_prediction(options):
    model = build_lm(**options)
    words = torch.tensor([[2, 5, 6, 7, 8]])
    before = scores(model, words)
    for t in range(1, 5):
        changed = words.clone()
        changed[0, t] = 15
        after = scores(model, changed)
        torch.testing.assert_close(before[:, :t], after[:, :t], **EXACT)
        assert not torch.allclose(before[:, t:], after[:, t:])


# 6. The reference, gradients


@pytest.mark.parametrize("lesion", ["none", "no-read", "zero-read"])
@pytest.mark.parametrize(
    "options", [{}, dict(decoder_normalize_before=True, memory_positions=True)]
)
def test_equals_the_reference_position_by_position(options, lesion):
    model = build_lm(memory_lesion=lesion, **options)
    expected = log_probabilities(
        model.decoder, INPUT[2].tolist(), options.get("memory_positions", False), lesion
    )
    torch.testing.assert_close(scores(model, INPUT)[2], expected, **EXACT)


@pytest.mark.parametrize("lesion", ["no-read", "zero-read"])
def test_a_lesion_is_the_same_step_by_step(lesion):
    model, state = build_lm(memory_lesion=lesion), {}
    expected = scores(model, INPUT[2:])
    for length in range(1, 9):
        found = model.decoder(INPUT[2:, :length], incremental_state=state)[0].log_softmax(-1)
        torch.testing.assert_close(found[:, 0], expected[:, length - 1], **EXACT)


@every_variant
def test_every_parameter_gets_a_gradient(options):
    model = build_lm(**options).train()
    out = model(INPUT)[0]
    softmax = model.decoder.adaptive_softmax
    outs = [out] if softmax is None else softmax(out, TEXT)[0]  # the text has words of every band
    sum(out.pow(2).sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_proj.bias"):  # a softmax does not see a constant added to it
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    model = build_lm().to(dtype).train()
    out = model(INPUT)[0]
    out.float().log_softmax(-1).sum().backward()
    assert out.dtype == dtype and out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_memory_only_trains_nothing_else():
    model = build_lm(memory_only=True)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["decoder.memory.weight"]


# 7 and 8. Checkpoints


def test_a_stock_checkpoint_loads_with_one_warning(caplog):
    stock, ours = build_lm(memory_tokens=0, seed=4), build_lm()
    fresh = ours.decoder.memory.weight.detach().clone()
    ours.load_state_dict(copy.deepcopy(stock.state_dict()), strict=True)
    assert len(caplog.records) == 1
    assert "3 memory tokens are freshly initialised" in caplog.text
    assert torch.equal(ours.decoder.memory.weight, fresh)
    without = build_lm(memory_tokens=0)
    without.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert torch.equal(scores(without, INPUT), scores(stock, INPUT))


def test_fewer_slots_than_asked_for_need_memory_grow():
    small = build_lm(memory_tokens=2, seed=7)
    with pytest.raises(UserError, match=r"has 2 memory tokens in its decoder, 3 were asked for"):
        build_lm().load_state_dict(copy.deepcopy(small.state_dict()))
    grown = build_lm(memory_grow=True)
    grown.load_state_dict(copy.deepcopy(small.state_dict()))
    assert torch.equal(grown.decoder.memory.weight[:2], small.decoder.memory.weight)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_evaluating_with_the_first_slots(kept, positions):
    """As if the other slots were hidden from everybody, and text numbered as trained."""
    whole = build_lm(memory_positions=positions)
    part = build_lm(memory_positions=positions, memory_tokens=kept, seed=9)
    part.load_state_dict(copy.deepcopy(whole.state_dict()))
    decoder, tokens = whole.decoder, INPUT[2:]
    text, codes = decoder._embed(tokens, None)
    x = decoder.memory.prepend(text.transpose(0, 1), codes)
    mask = torch.ones(11, 11, dtype=torch.bool).triu(1)
    mask[:, kept:3] = True
    for layer in decoder.layers:
        x = layer(x, self_attn_mask=mask)[0]
    expected = decoder.output_layer(x[3:]).transpose(0, 1).log_softmax(-1)
    torch.testing.assert_close(scores(part, tokens), expected, **EXACT)


# What makes no sense


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(memory_tokens=-1), "memory_tokens is -1"),
        (dict(memory_decoder_tokens=2), "memory_decoder_tokens is 2, .* a language model has not"),
        (dict(memory_update="ctrl"), "memory_update is 'ctrl', .* a language model has not"),
        (dict(memory_lesion_scope="cross"), "memory_lesion_scope is 'cross', .* has not"),
        (dict(memory_tokens=0, memory_only=True), "there is none; give --memory-tokens"),
        (dict(decoder_xformers_att_config="{}"), "--decoder-xformers-att-config"),
        (
            dict(memory_positions=True, decoder_learned_pos=True),
            "leaves 17 of the 20 learned positions .* is 20; give --max-target-positions 23",
        ),
        (
            {**ADAPTIVE, "adaptive_input_factor": 5},
            r"adaptive_input_factor 5 leaves the last of 3 bands no width \(16 / 5\^2 is below 1\)",
        ),
        (
            dict(adaptive_softmax_cutoff="8,16", adaptive_softmax_factor=20),
            "adaptive_softmax_factor 20 leaves the last of 3 bands no width",
        ),
        ({**ADAPTIVE, "adaptive_input_factor": 0}, "adaptive_input_factor 0 leaves .* above 0"),
        (
            {**ADAPTIVE, "adaptive_input_cutoff": "8,23"},
            r"makes a band of 1 words \(23 to 24\), and fairseq needs 2",
        ),
        (
            {**ADAPTIVE, "adaptive_input_cutoff": "8,99"},
            "adaptive_input_cutoff has 99, and the dictionary has 24 words",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_lm(**options)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--self-target"], "asks for the targets self"),
        (["--past-target", "--future-target"], "asks for the targets future, past"),
        (["--tokens-per-sample", "-4"], "leaves -4 of the tokens per sample"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(flags, message):
    parser = fairseq_options.get_training_parser()
    words = ["nowhere", "--task", "language_modeling", "--arch", "mem_transformer_lm", *flags]
    cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, words))
    targets = [name for name in ("self", "future", "past") if cfg.task[f"{name}_target"]]
    task = LanguageModelingTask(cfg.task, dictionary(), targets=targets or None)
    with pytest.raises(UserError, match=message):
        task.build_model(cfg.model)


# fairseq's commands

cli = pytest.mark.cli
BLOCK = 16
LM = [
    *TINY_LM, *WIDTHS, "--task", "language_modeling", "--tokens-per-sample", BLOCK,
    "--sample-break-mode", "none", *EVERY_SENTENCE,
]  # fmt: skip


@pytest.fixture(scope="session")
def lm_data(tmp_path_factory):
    """Binarised text: counting up from a random number, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("lm")
    numbers = random.Random(0)
    for split, lines in (("train", 150), ("valid", 20), ("test", 9)):
        text = []
        for _ in range(lines):
            first = numbers.randrange(10)
            text.append(" ".join(str((first + n) % 10) for n in range(numbers.randrange(3, 9))))
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    run(
        "fairseq-preprocess", "--only-source", "--trainpref", folder / "train.txt",
        "--validpref", folder / "valid.txt", "--testpref", folder / "test.txt",
        "--destdir", folder / "bin",
    )  # fmt: skip
    return folder / "bin"


def train_lm(data, folder, *arguments, arch="mem_transformer_lm", **kwargs):
    return fairseq(
        "train", data, "--arch", arch, *LM, *TRAIN, "--save-dir", folder, *arguments, **kwargs
    )


def perplexity(data, checkpoint, *arguments):
    """The loss (base 2) that fairseq-eval-lm computes, and the perplexity; in this process."""
    words = [*evaluation(data, checkpoint), *map(str, arguments)]
    args = fairseq_options.parse_args_and_arch(fairseq_options.get_eval_lm_parser(), words)
    found = eval_lm.main(convert_namespace_to_omegaconf(args))
    return float(found["loss"]), float(found["perplexity"])


def evaluation(data, checkpoint):
    """The command line."""
    return [
        str(data), "--path", str(checkpoint), "--cpu", "--task", "language_modeling",
        "--tokens-per-sample", str(BLOCK), "--sample-break-mode", "none", "--num-workers", "0",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def lm(lm_data, tmp_path_factory):
    """A trained checkpoint with 4 slots, and the training's log beside it."""
    folder = tmp_path_factory.mktemp("lm-model")
    done = train_lm(
        lm_data, folder, "--memory-tokens", "4", "--max-tokens", "128", "--max-epoch", "4"
    )
    (folder / "log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder / "checkpoint_last.pt"


def load_lm(checkpoint, data):
    from fairseq.checkpoint_utils import load_model_ensemble

    (model,), _ = load_model_ensemble([str(checkpoint)], {"data": str(data)})
    return model.eval()


def test_set(data):
    """The words of the test set as one list of numbers, and its dictionary."""
    words = Dictionary.load(str(data / "dict.txt"))
    lines = (data.parent / "test.txt").read_text(encoding="utf-8").splitlines()
    return [n for line in lines for n in words.encode_line(line, add_if_not_exist=False).tolist()]


test_set.__test__ = False


@cli
def test_a_fresh_process_gets_the_loss_that_training_reported(lm_data, lm):
    log = (lm.parent / "log").read_text(encoding="utf-8")
    assert "MemoryTokens(4" in log
    trained = float(re.findall(r"valid \| epoch 004 .*?\| loss ([\d.]+)", log)[-1])
    done = fairseq("eval-lm", *evaluation(lm_data, lm), "--gen-subset", "valid")
    validated = float(re.findall(r"Loss \(base 2\): ([\d.]+), Perplexity: ", done.stderr)[-1])
    assert validated == pytest.approx(trained, abs=2e-3)
    assert trained < 3  # something was learned: 11 words, 3.3 bits for a guess


@cli
@pytest.mark.parametrize("window", [0, 5])
def test_eval_lm_scores_every_word_once_with_the_context_it_was_promised(lm_data, lm, window):
    """Window by window, by hand: ``window`` words that are not scored, then those that are."""
    model, stream, eos = load_lm(lm, lm_data), test_set(lm_data), 2
    read = [eos, *stream[:-1]]  # what stands before each word
    step, total = BLOCK - window, 0.0
    with torch.no_grad():
        for start in range(0, len(stream), step):
            first = max(0, start - window)
            log_probs = scores(model, torch.tensor([read[first : start + step]]))[
                0, start - first :
            ]
            for row, word in zip(log_probs, stream[start : start + step], strict=True):
                total -= row[word].item()
    expected = total / len(stream) / math.log(2)
    flags = ["--context-window", window] if window else []
    found, ppl = perplexity(lm_data, lm, "--batch-size", "3", *flags)
    assert found == pytest.approx(expected, abs=1e-5)
    assert ppl == pytest.approx(2**expected, rel=1e-5)


@cli
def test_fewer_slots_and_lesions_through_model_overrides(lm_data, lm):
    found = [
        perplexity(lm_data, lm, "--model-overrides", str(overrides))[0]
        for overrides in (
            {},
            {"memory_tokens": 4},
            {"memory_tokens": 0},
            {"memory_lesion": "no-read"},
            {"memory_lesion": "zero-read"},
        )
    ]
    assert found[0] == found[1]
    # memory that nobody may read is no memory: it learns nothing of the text, so hides nothing
    assert found[2] == pytest.approx(found[3], abs=1e-5)
    assert len({round(loss, 4) for loss in found}) == 3


@cli
def test_generation_continues_a_prefix_and_its_scores_are_teacher_forced(lm_data, lm):
    common = ["--path", lm, "--cpu", "--task", "language_modeling", "--beam", "3"]
    done = fairseq(
        "generate", lm_data, *common, "--prefix-size", "2", "--max-len-b", "12", *EVERY_SENTENCE,
        "--batch-size", "4", "--sample-break-mode", "eos", "--tokens-per-sample", BLOCK,
    )  # fmt: skip
    found = hypotheses(done.stdout)
    sources = dict(re.findall(r"^T-(\d+)\t(.*)$", done.stdout, re.M))
    assert len(found) == 9
    model, words = load_lm(lm, lm_data), Dictionary.load(str(lm_data / "dict.txt"))
    for line in found:
        name, score, text = line.split("\t")
        assert text.split()[:2] == sources[name[2:]].split()[:2]
        numbers = words.encode_line(text, add_if_not_exist=False).long()
        read = torch.cat([torch.tensor([words.eos()]), numbers[:-1]])[None]
        with torch.no_grad():
            each = scores(model, read)[0].gather(1, numbers[:, None])
        assert float(score) == pytest.approx(each.mean().item() / math.log(2), abs=2e-3)


@cli
def test_interactive_continues_what_is_typed(lm_data, lm):
    done = fairseq(
        "interactive", lm_data, "--path", lm, "--cpu", "--task", "language_modeling",
        "--beam", "2", "--max-len-b", "10", "--buffer-size", "2", stdin="1 2 3\n7\n5 6\n",
    )  # fmt: skip
    found = [line.split("\t")[2] for line in hypotheses(done.stdout)]
    assert [text.startswith(start) for text, start in zip(found, ("1 2 3", "7", "5 6"))] == [
        True
    ] * 3


@cli
@pytest.mark.slow
def test_a_stock_checkpoint_gets_memory_and_trains_on(lm_data, tmp_path):
    train_lm(lm_data, tmp_path / "stock", "--max-epoch", "1", arch="transformer_lm")
    stock = tmp_path / "stock" / "checkpoint_last.pt"
    done = train_lm(
        lm_data, tmp_path / "more", "--memory-tokens", "4", "--memory-only", "--max-epoch", "1",
        "--finetune-from-model", stock,
    )  # fmt: skip
    assert (done.stdout + done.stderr).count("4 memory tokens are freshly initialised") == 1
    before, after = (
        torch.load(path)["model"] for path in (stock, tmp_path / "more/checkpoint_last.pt")
    )
    assert set(after) - set(before) == {"decoder.memory.weight"}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@cli
@pytest.mark.slow
def test_adaptive_input_and_softmax_train_evaluate_and_generate(lm_data, tmp_path):
    cutoffs = ["--adaptive-input-cutoff", "4,8", "--adaptive-softmax-cutoff", "4,8"]
    train_lm(
        lm_data, tmp_path, "--memory-tokens", "4", *cutoffs, "--criterion", "adaptive_loss",
        "--max-epoch", "4", "--max-tokens", "128", "--ddp-backend", "legacy_ddp",
        arch="mem_transformer_lm_wiki103",
    )  # fmt: skip
    checkpoint = tmp_path / "checkpoint_last.pt"
    assert perplexity(lm_data, checkpoint, "--context-window", "6")[1] < 12
    done = fairseq(
        "generate", lm_data, "--path", checkpoint, "--cpu", "--task", "language_modeling",
        "--beam", "2", "--prefix-size", "1", "--sample-break-mode", "eos", "--max-len-b", "9",
        *EVERY_SENTENCE,
    )  # fmt: skip
    assert len(hypotheses(done.stdout)) == 9


@cli
def test_bad_options_end_in_one_clear_line(lm_data, tmp_path):
    done = train_lm(lm_data, tmp_path / "run", "--self-target", check=False)
    assert done.returncode != 0
    assert "leave out --self-target" in last_line(done)
    assert not list(tmp_path.glob("run/*.pt"))


def test_context_windows_want_one_process_that_loads_them():
    """fairseq's data set hands the context from one window to the next, in each process."""
    window = ["--context-window", "5", "--num-workers"]
    for words in ([*window, "1"], [*window, "0"], window[:2], [*window[2:], "2"], [*window, "all"]):
        check_arguments(words)
    with pytest.raises(UserError, match=r"--num-workers 2: .* give --num-workers 1"):
        check_arguments([*window, "2"])
    for option in ("--num-shards", "--distributed-world-size"):
        check_arguments([*window[:2], option, "1"])
        with pytest.raises(UserError, match=f"{option} 8: .* give {option} 1"):
            check_arguments([*window[:2], option, "8"])
    with pytest.raises(UserError, match="--num-workers 3"):
        check_arguments(["--context-window=5", "--num-workers=3"])


@cli
def test_averaging_over_training_with_numbered_memory(lm_data, tmp_path):
    """fairseq averages whatever a checkpoint holds, and stumbled over the number of positions."""
    train_lm(
        lm_data, tmp_path, "--memory-tokens", "3", "--memory-positions", "--store-ema",
        "--ema-decay", "0.9", "--max-update", "4", "--decoder-normalize-before",
    )  # fmt: skip
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    average = state["extra_state"]["ema"]
    assert set(average) == set(state["model"])
    assert average["decoder.memory.position_offset"].item() == 3
    own = state["model"]["decoder.memory.weight"]
    assert not torch.equal(average["decoder.memory.weight"], own)
    # the average as a model: how its users evaluate it
    averaged = tmp_path / "averaged.pt"
    torch.save({**state, "model": average}, averaged)
    losses = [perplexity(lm_data, path)[0] for path in (tmp_path / "checkpoint_last.pt", averaged)]
    assert losses[0] != losses[1] and all(math.isfinite(loss) for loss in losses)


@cli
def test_a_context_window_as_long_as_the_block_is_refused(lm_data, lm):
    with pytest.raises(UserError, match=r"leaves 0 of the tokens .* above --context-window"):
        perplexity(lm_data, lm, "--context-window", BLOCK)
