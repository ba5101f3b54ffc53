"""``fairseq-mem import-bert``: exactly the BERT that `transformers` computes, or one line."""

import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from helpers.commands import ROOT
from helpers.forked_commands import run
from safetensors.torch import load_file, save_file

from fairseq_mem import MemRobertaModel, UserError
from fairseq_mem.tools import cli

WORDS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh",
         *(f"##{one}" for one in "abcdefgh"), ",", ".", "!", "Ä"]  # fmt: skip
SIZES = dict(
    vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=24, max_position_embeddings=40, layer_norm_eps=1e-12,
)  # fmt: skip
FIRST = ["abc, de!", "a", "h g f e d c b a."]
SECOND = ["bad.", "cafe xyz ab", "gg"]


@pytest.fixture(scope="module")
def transformers():
    """It would import torchaudio, which may be of another torch."""
    before = sys.modules.get("torchaudio")
    stand_in = ModuleType("torchaudio")
    stand_in.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = stand_in
    import transformers

    _ = transformers.BertModel
    yield transformers
    del sys.modules["torchaudio"]
    if before is not None:
        sys.modules["torchaudio"] = before


def save(transformers, folder, kind="BertForMaskedLM", **changes):
    """A random BERT as `transformers` saves it."""
    torch.manual_seed(1)
    model = getattr(transformers, kind)(transformers.BertConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.2 * torch.randn_like(one))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    settings = {"do_lower_case": False, "strip_accents": None, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


@pytest.fixture(scope="module")
def bert(transformers, tmp_path_factory):
    """A folder with a random BERT, what it was imported to, and the model."""
    folder = tmp_path_factory.mktemp("bert")
    model = save(transformers, folder)
    assert cli.main(["import-bert", str(folder), "--out", str(folder / "out")]) == 0
    return folder, folder / "out", model


def batch(hub, pairs):
    """Texts as numbers, padded on the right: B x T."""
    rows = []
    for first, second in zip(FIRST, SECOND):
        line = f"<s> {hub.bpe.encode(first)} </s>"
        line += f" {hub.bpe.encode(second)} </s>" if pairs else ""
        words = hub.task.source_dictionary
        rows.append(words.encode_line(line, append_eos=False, add_if_not_exist=False).long())
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)


def assert_same_states(transformers, folder, out, tolerance):
    """The states in front of and behind every layer are those of `transformers`."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    hub = MemRobertaModel.from_pretrained(str(out)).eval()
    for pairs in (False, True):
        asked = tokenizer(FIRST, SECOND if pairs else None, padding=True, return_tensors="pt")
        tokens = batch(hub, pairs)
        assert tokens.shape == asked["input_ids"].shape
        with torch.no_grad():
            theirs = model(**asked, output_hidden_states=True).hidden_states
            ours = hub.extract_features(tokens, return_all_hiddens=True)
        real = asked["attention_mask"].bool()
        assert len(ours) == len(theirs) > 2
        for own, other in zip(ours, theirs):
            assert other[real].abs().max() > 0.1
            torch.testing.assert_close(own[real], other[real], rtol=0, atol=tolerance)


def test_the_same_bytes_again_and_no_folder_of_ours(bert, tmp_path):
    """Where it was made was once among the options of the checkpoint."""
    folder, out, _ = bert
    assert cli.main(["import-bert", str(folder), "--out", str(tmp_path / "again")]) == 0
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    assert vars(torch.load(out / "model.pt")["cfg"]["model"])["data"] == "."


def test_a_folder_whose_name_is_no_utf8(bert, tmp_path):
    """Which safetensors does not open, and which is told as it is."""
    folder, out, _ = bert
    odd = tmp_path / os.fsdecode(b"M\xfcller")
    shutil.copytree(folder, odd)
    ended = run(cli.main, ["fairseq-mem", "import-bert", odd, "--out", odd / "out"])
    assert ended.status == 0 and b"M\xfcller/out/model.pt: 2 layers" in ended.output, ended.errors
    assert (odd / "out/model.pt").read_bytes() == (out / "model.pt").read_bytes()


def test_an_import_that_is_killed_is_not_mixed_with_an_earlier_one(bert, tmp_path, monkeypatch):
    """Wherever it ends, there is no model, or one with what belongs to it."""
    from fairseq_mem.tools import import_bert

    made = {path.name: path.read_bytes() for path in bert[1].iterdir()}
    for moved in range(len(made)):
        out = tmp_path / str(moved)
        out.mkdir()
        for name in made:
            (out / name).write_text("of an earlier one")
        names = []

        def replace(path, goal, moved=moved, names=names):
            if goal.parent.name == str(moved):
                if len(names) == moved:
                    raise KeyboardInterrupt
                names.append(path.name)
            os.rename(path, goal)

        with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
            patch.setattr(import_bert.os, "replace", replace)
            cli.main(["import-bert", str(bert[0]), "--out", str(out)])
        assert len(names) == moved and not (out / "model.pt").exists()


def test_hidden_states_are_those_of_transformers(transformers, bert):
    assert_same_states(transformers, *bert[:2], 1e-5)


def test_predicted_words_are_those_of_transformers(transformers, bert):
    _, out, model = bert
    hub = MemRobertaModel.from_pretrained(str(out)).eval()
    tokens = batch(hub, pairs=False)
    words = hub.task.source_dictionary
    theirs = {"<s>": "[CLS]", "<pad>": "[PAD]", "</s>": "[SEP]", "<unk>": "[UNK]",
              "<mask>": "[MASK]"}  # fmt: skip
    order = torch.tensor([WORDS.index(theirs.get(word, word)) for word in words.symbols])
    with torch.no_grad():
        ours = hub.model(tokens)[0]
        scores = model(order[tokens], attention_mask=tokens.ne(1)).logits[..., order]
    real = tokens.ne(1)
    torch.testing.assert_close(ours[real], scores[real], rtol=0, atol=1e-4)
    filled = hub.fill_mask("abc  <mask> a", topk=len(words) - 5)  # all but the special ones
    pieces = f"<s> {hub.bpe.encode('abc')} <mask> {hub.bpe.encode('a')} </s>"
    tokens = words.encode_line(pieces, append_eos=False, add_if_not_exist=False).long()
    with torch.no_grad():
        at_mask = hub.model(tokens[None])[0][0, tokens.eq(words.index("<mask>"))].softmax(-1)[0]
    for text, probability, word in filled:
        joined = text == f"abc{word} a"
        assert joined or text == f"abc  {word} a"
        number = words.index(f"##{word}" if joined else word)
        assert probability == pytest.approx(at_mask[number].item(), abs=1e-6)
    assert {text for text, _, _ in filled} == {
        f"abc{word[2:]} a" if word.startswith("##") else f"abc  {word} a"
        for word in words.symbols[4:] if word != "<mask>"
    }  # fmt: skip
    for text in ("abc", "<mask> <mask>"):
        with pytest.raises(ValueError, match="has not one <mask>"):
            hub.fill_mask(text)


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining"])
def test_other_forms_of_the_folder(transformers, tmp_path, kind, capsys):
    save(transformers, tmp_path, kind)
    old = {  # as files of TensorFlow's time name a norm's parameters
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias",
                                                                    "LayerNorm.beta"): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }  # fmt: skip
    save_file({name: tensor.clone() for name, tensor in old.items()}, tmp_path / "old.safetensors")
    folder = tmp_path / "old"
    shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("old"))
    (folder / "old.safetensors").replace(folder / "model.safetensors")
    cli.main(["import-bert", str(folder), "--out", str(tmp_path / "out"), "--pooler"])
    assert ("no head for masked words" in capsys.readouterr().out) == (kind == "BertModel")
    assert_same_states(transformers, tmp_path, tmp_path / "out", 1e-5)
    hub = MemRobertaModel.from_pretrained(str(tmp_path / "out"))
    if kind == "BertModel":
        with pytest.raises(UserError, match="no head that predicts masked words"):
            hub.model(batch(hub, pairs=False))
    state = torch.load(tmp_path / "out/model.pt", weights_only=True)["model"]
    saved = load_file(tmp_path / "model.safetensors")
    (pooler,) = [tensor for name, tensor in saved.items() if name.endswith("pooler.dense.weight")]
    assert torch.equal(state["pooler.dense.weight"], pooler)


def edit(name, change):
    """Change an entry of a JSON file."""

    def edited(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return edited


def weights(change):
    """Change the tensors."""

    def changed(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return changed


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


FFN = "bert.encoder.layer.1.intermediate.dense.weight"
BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "no vocabulary": (lambda folder: (folder / "vocab.txt").unlink(), "vocab.txt is missing"),
    "a pickle": (only_a_pickle, "pytorch_model.bin is a pickle"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "is missing"),
    "a pickle by another name": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04." * 50),
        "is damaged, or no safetensors",
    ),
    "cut short": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-100]
        ),
        "is damaged, or no safetensors",
    ),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "another model": (edit("config.json", {"model_type": "llama"}), "only bert can be imported"),
    "relative positions": (
        edit("config.json", {"position_embedding_type": "relative_key"}), "relative_key",
    ),
    "a decoder": (edit("config.json", {"is_decoder": True}), "is_decoder"),
    "an unknown activation": (edit("config.json", {"hidden_act": "mish"}), "hidden_act"),
    "a size of text": (edit("config.json", {"hidden_size": "16"}), "whole number above 0"),
    "a huge size": (edit("config.json", {"num_hidden_layers": 10**12}), "whole number above 0"),
    "heads that do not fit": (edit("config.json", {"num_attention_heads": 3}), "do not divide"),
    "another width": (edit("config.json", {"hidden_size": 18}), "and config.json says any x 18"),
    "more layers than told": (edit("config.json", {"num_hidden_layers": 1}), "more layers"),
    "fewer layers": (edit("config.json", {"num_hidden_layers": 3}), "has no encoder.layer.2"),
    "a wrong shape": (
        weights(lambda tensors: tensors.update({FFN: tensors[FFN][:, :-1].clone()})), "24 x 16",
    ),
    "whole numbers": (weights(lambda tensors: tensors.update({FFN: tensors[FFN].int()})), "int32"),
    "not finite": (
        weights(lambda tensors: tensors.update({FFN: tensors[FFN] * float("nan")})), "not finite",
    ),
    "no special word": (
        lambda folder: (folder / "vocab.txt").write_text("a\nb\n"), "has no [CLS]",
    ),
    "a word twice": (
        lambda folder: (folder / "vocab.txt").write_text("\n".join([*WORDS, "a"])), "'a' twice",
    ),
    "a word of fairseq's": (
        lambda folder: (folder / "vocab.txt").write_text("\n".join([*WORDS, "<s>"])), "cannot hold",
    ),
    "a word with a space": (
        lambda folder: (folder / "vocab.txt").write_text("\n".join([*WORDS, "a b"])), "cannot hold",
    ),
    "more words than embeddings": (
        lambda folder: (folder / "vocab.txt").write_text("\n".join([*WORDS, "xx", "[MASK2]"])),
        "embeddings of",
    ),
    "a wrong setting": (
        edit("tokenizer_config.json", {"do_lower_case": "yes"}), "must be true or false",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_folder_gets_one_line(bert, tmp_path, spoil, message):
    folder = tmp_path / "bert"
    shutil.copytree(bert[0], folder, ignore=shutil.ignore_patterns("out"))
    spoil(folder)
    with pytest.raises(UserError) as told:
        cli.main(["import-bert", str(folder), "--out", str(tmp_path / "out")])
    assert message in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "out").exists() and sorted(tmp_path.iterdir()) == [folder]


def test_no_pooler_to_take_along(transformers, bert, tmp_path):
    with pytest.raises(UserError, match="has no pooler"):
        cli.main(["import-bert", str(bert[0]), "--out", str(tmp_path / "out"), "--pooler"])


def test_text_is_cut_as_transformers_does(transformers, bert):
    folder, out, _ = bert
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    hub = MemRobertaModel.from_pretrained(str(out))
    for text in ("abcd Ä, ä! 你 hh", "  a\tb  ", "", "abz"):
        expected = [piece.replace("[UNK]", "<unk>") for piece in tokenizer.tokenize(text)]
        assert hub.bpe.encode(text).split() == expected
    assert hub.bpe.encode("[SEP]").split().count("[SEP]") == 0  # text is text
    assert hub.bpe.decode("ab ##cd e") == "abcd e"
    begins = map(hub.bpe.is_beginning_of_word, ("ab", "##cd", "e"))
    assert list(begins) == [True, False, True]


@pytest.mark.slow
def test_real_weights(transformers, tmp_path):
    """MiniLM, as examples/glue fetches it."""
    script = ROOT / "examples/glue/minilm.py"
    subprocess.run([sys.executable, script, tmp_path / "cache", tmp_path / "minilm"], check=True)
    folder, out = tmp_path / "minilm", tmp_path / "out"
    cli.main(["import-bert", str(folder), "--out", str(out), "--pooler"])
    assert_same_states(transformers, folder, out, 1e-5)
