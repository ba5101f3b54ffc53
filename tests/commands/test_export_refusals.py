"""`fairseq-mem export`: what cannot be expressed, or does not fit, is refused in one line."""

import pytest
import torch
from helpers.exports import edit, refusal

from fairseq_mem import UserError
from fairseq_mem.tools import cli
from fairseq_mem.tools import export as exporter

ctranslate2 = pytest.importorskip("ctranslate2")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("memory_update", "ctrl", "--memory-update ctrl"),
        ("memory_update", "bottleneck", "--memory-update bottleneck"),
        ("memory_lesion", "no-read", "--memory-lesion no-read"),
        ("layernorm_embedding", True, "--layernorm-embedding would normalise memory too"),
        ("adaptive_softmax_cutoff", "10,20", "adaptive softmax"),
        ("cross_self_attention", True, "--cross-self-attention"),
        ("no_cross_attention", True, "--no-cross-attention"),
        ("no_token_positional_embeddings", True, "--no-token-positional-embeddings"),
        ("activation_fn", "relu_squared", "--activation-fn relu_squared"),
        ("quant_noise_pq", 0.1, "--quant-noise-pq"),
        ("quant_noise_scalar", 0.1, "--quant-noise-scalar"),
        ("base_layers", 1, "--base-layers"),
        ("encoder_xformers_att_config", "{'name': 'x'}", "xformers"),
        ("decoder_output_dim", 32, "--decoder-output-dim"),
        ("_name", "transformer_lm", "its architecture is transformer_lm"),
        ("_name", "somebody_elses", "its architecture is somebody_elses"),
    ],
)
def test_what_ctranslate2_cannot_express_is_refused(
    copy_of_small_model, tmp_path, name, value, reason
):
    edit(copy_of_small_model / "model.pt", name, value)
    message = refusal(copy_of_small_model, tmp_path)
    assert reason in message
    assert "transformer and mem_transformer models (--memory-update shared)" in message


def test_a_parameter_that_nobody_would_look_at_is_refused(copy_of_small_model, tmp_path):
    """Options that are none of `transformer`'s, but are obeyed."""
    checkpoint = copy_of_small_model / "model.pt"
    edit(checkpoint, "scale_fc", True)
    state = torch.load(checkpoint)
    for layer in range(2):
        for name, value in (("weight", torch.ones(32)), ("bias", torch.zeros(32))):
            state["model"][f"decoder.layers.{layer}.ffn_layernorm.{name}"] = value
    torch.save(state, checkpoint)
    assert "has no decoder.layers.0.ffn_layernorm.weight" in refusal(copy_of_small_model, tmp_path)


def test_another_task_is_refused(copy_of_small_model, tmp_path):
    state = torch.load(copy_of_small_model / "model.pt")
    state["cfg"]["task"]["_name"] = "translation_lev"
    torch.save(state, copy_of_small_model / "model.pt")
    assert "its task is translation_lev" in refusal(copy_of_small_model, tmp_path)


def test_files_that_do_not_fit(copy_of_small_model, tmp_path):
    data = copy_of_small_model
    with pytest.raises(UserError, match=r"there is no checkpoint .*nowhere\.pt"):
        exporter.export(tmp_path / "nowhere.pt", data, tmp_path / "out")
    with pytest.raises(UserError, match="nowhere is no folder"):
        exporter.export(data / "model.pt", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"--bpe-codes .*nowhere: there is no such file"):
        exporter.export(data / "model.pt", data, tmp_path / "out", codes=tmp_path / "nowhere")
    dictionary = data / "dict.en.txt"
    dictionary.write_text(dictionary.read_text() + "more 1\n", encoding="utf-8")
    assert "dict.en.txt has 29 words, the model 28" in refusal(data, tmp_path)
    dictionary.unlink()
    assert "dict.en.txt is missing" in refusal(data, tmp_path)
    (data / "model.pt").write_bytes(b"PK no checkpoint")
    assert "model.pt is damaged" in refusal(data, tmp_path)
    torch.save({"model": {}}, data / "model.pt")
    assert "is no checkpoint that fairseq can read" in refusal(data, tmp_path)


@pytest.mark.parametrize("spoil", ["numbers", "bytes", "width", "settings"])
def test_data_and_checkpoints_that_fairseq_stumbles_over(copy_of_small_model, tmp_path, spoil):
    data, words = copy_of_small_model, copy_of_small_model / "dict.en.txt"
    if spoil == "numbers":
        words.write_text(words.read_text().replace(" 1\n", " one\n"), encoding="utf-8")
    elif spoil == "bytes":
        words.write_bytes(words.read_bytes().replace(b"s3 ", b"\xff "))
    elif spoil == "width":
        edit(data / "model.pt", "decoder_ffn_embed_dim", 48)
    else:
        (data / "settings.txt").write_bytes(b"source \xff\n")
    message = refusal(data, tmp_path)
    if spoil == "settings":
        assert f"{data / 'settings.txt'} is damaged" in message
    else:
        assert f"cannot load {data / 'model.pt'} with the dictionaries of {data}: " in message


@pytest.mark.parametrize(
    "text",
    [b"no merges\n of three words\n", b"\xff", b"#version: 9.9\na b\n", b"#version: x\na b\n"],
)
def test_files_that_hold_no_merges(copy_of_small_model, tmp_path, text, capsys):
    (tmp_path / "merges").write_bytes(text)
    message = refusal(copy_of_small_model, tmp_path, "--bpe-codes", tmp_path / "merges")
    assert f"{tmp_path / 'merges'} holds no BPE merges" in message
    assert capsys.readouterr().err == ""


def test_the_quantization_is_checked(small_model, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        arguments = [
            small_model / "model.pt",
            small_model,
            "--out",
            tmp_path / "out",
            "--quantization",
            "int4",
        ]
        cli.main(list(map(str, ["export", *arguments])))
    assert stop.value.code == 2
    assert "int4" in capsys.readouterr().err


def test_without_ctranslate2_it_says_what_to_install(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ctranslate2>="):
        exporter.export(small_model / "model.pt", small_model, tmp_path / "out")
