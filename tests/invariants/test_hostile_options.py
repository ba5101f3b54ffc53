"""No string of a checkpoint is ever run: all places that evaluate, all options of all models."""

import argparse
import ast
import contextlib
import functools
import importlib
import os
from pathlib import Path
from unittest.mock import MagicMock

import fairseq
import pytest
import torch
from fairseq import criterions, models, tasks, utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
from helpers import random_models
from helpers.commands import ROOT
from helpers.trained_models import write_dictionaries

import fairseq_mem
from fairseq_mem import UserError, checkpoints, literals
from fairseq_mem.models import mem_transformer_xl

FAIRSEQ = Path(fairseq.__file__).parent
MODELS = list(dict.fromkeys([*ARCH_MODEL_REGISTRY.values(), *MODEL_REGISTRY.values()]))


def payload(tmp_path: Path) -> str:
    """An option that makes a folder when it is evaluated."""
    return f"__import__('os').mkdir({str(tmp_path / 'opened')!r})"


# ---------------------------------------------------------------- literals


@pytest.mark.parametrize(
    "text",
    [
        "[(512, 3)] * 20", "3 * [1]", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2",
        "(0.9, 0.98)", "(1e-30, 1e-3)", "1e-3", "10000,50000,200000", "[1,2]", "True", "None",
        " 5", "'a'", "{'name': 'linformer'}", "-2*3", "1/4", "(1-0.1, 1 - 2e-2)", "()", "{1, 2}",
        "('x', 'y', 2, -1.0)",
    ],
)  # fmt: skip
def test_a_literal_is_what_python_takes_it_for(text):
    assert literals.evaluate(text) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "open('x', 'w')", "(lambda: 1)()", "[x for x in ()]", "a.b", "name",
        "f'{1}'", "1 if True else 2", "().__class__", "x := 1", "*()", "dict(a=1)", "[1][0]",
        "9**9**9", "[0] * 10**9", "[0] * 9999 * 9999", "'a' * 99999", "1/0", "[1] + 1",
        "(" * 9999, "-" * 99999 + "1", "[" * 3000 + "]" * 3000, "9" * 9999, "", "1 +", "1\x00",
    ],
)  # fmt: skip
def test_whatever_else_is_refused_in_one_short_line(text):
    with pytest.raises(UserError, match="is no literal") as refused:
        literals.evaluate(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_what_is_no_string_is_no_business_of_evaluate():
    """`fairseq.utils.eval_bool` gives a boolean to eval and catches the TypeError."""
    for value in (True, 1, None, [1], b"1"):
        with pytest.raises(TypeError):
            literals.evaluate(value)
    assert utils.eval_bool("True") is True and utils.eval_bool(None, default=True) is True
    assert utils.eval_str_list("1,2", type=int) == [1, 2]
    assert utils.eval_str_list("3", type=int) == [3]


def test_a_strangers_string_is_shown_without_harm_to_a_terminal():
    assert literals.shown("\x1b]0;title\a\n" + "x" * 999).isprintable()
    assert len(literals.shown("\U0001f600" * 999)) < 700


# ---------------------------------------------------------------- every place that evaluates


@functools.cache
def source_files(folder: Path) -> list[tuple[Path, ast.AST]]:
    return [
        (path, ast.parse(path.read_text(encoding="utf-8")))
        for path in folder.rglob("*.py")
        if "examples" not in path.relative_to(folder).parts  # user-dirs of their own
    ]


def names_called(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_each_module_of_fairseq_that_evaluates_gets_our_evaluation():
    found = set()
    for path, tree in source_files(FAIRSEQ):
        names = names_called(tree)
        assert not names & {"exec", "compile", "execfile"}, path
        if "eval" in names:
            found.add(".".join(path.relative_to(FAIRSEQ).with_suffix("").parts))
    assert found == set(literals.MODULES)
    for name in literals.MODULES:
        assert importlib.import_module(f"fairseq.{name}").eval is literals.evaluate


def test_we_evaluate_nothing_ourselves():
    for folder in (Path(fairseq_mem.__file__).parent, ROOT / "serve"):
        for path, tree in source_files(folder):
            if "tests" not in path.parts:
                assert not names_called(tree) & {"eval", "exec", "compile"}, path


def test_each_option_that_fairseq_evaluates_is_checked_before_building():
    found = set()
    for _, tree in source_files(FAIRSEQ):
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = getattr(call.func, "attr", getattr(call.func, "id", ""))
            is_ours = isinstance(call.func, ast.Name) or function != "eval"
            if function in ("eval", "eval_str_list", "eval_str_dict", "eval_bool") and is_ours:
                value = call.args[0]
                found.add(value.attr if isinstance(value, ast.Attribute) else ast.unparse(value))
    # the arguments of functions, and a line of a data file
    assert found - literals.OPTIONS == {"x", "uf", "line.strip()"}
    sides = {f"{side}_xformers_att_config" for side in ("encoder", "decoder")}
    assert literals.OPTIONS - found == sides


def test_what_fairseq_itself_chooses_is_let_through():
    """The presets of each architecture, and the defaults of each model, task and criterion."""
    for arch, model in ARCH_MODEL_REGISTRY.items():
        given = {name: value for name, value in options(model).items() if value is not None}
        args = argparse.Namespace(**given)
        with contextlib.suppress(AttributeError):  # what the command line alone has
            models.ARCH_CONFIG_REGISTRY.get(arch, lambda _: None)(args)
        checkpoints.check_options(Path("x.pt"), {"args": args})
    for thing in [*TASK_REGISTRY.values(), *CRITERION_REGISTRY.values()]:
        checkpoints.check_options(Path("x.pt"), {"cfg": {"task": options(thing)}})


# ---------------------------------------------------------------- every option of every model


def options(thing) -> dict:
    """What the command line offers for a model, a task or a criterion, with the defaults."""
    parser = argparse.ArgumentParser(allow_abbrev=False, conflict_handler="resolve", add_help=False)
    thing.add_args(parser)
    return {action.dest: action.default for action in parser._actions}


def strings(thing) -> list[str]:
    """Those that hold strings."""
    parser = argparse.ArgumentParser(allow_abbrev=False, conflict_handler="resolve", add_help=False)
    thing.add_args(parser)
    return [a.dest for a in parser._actions if a.type in (None, str) and a.nargs != 0]


@pytest.fixture
def evaluated(monkeypatch):
    """What fairseq gives to eval, with our evaluation behind it."""
    seen = []

    def noting(text):
        seen.append(text)
        return literals.evaluate(text)

    for name in literals.MODULES:
        monkeypatch.setattr(importlib.import_module(f"fairseq.{name}"), "eval", noting)
    return seen


@pytest.mark.parametrize("arch", ARCH_MODEL_REGISTRY)
def test_an_option_that_would_be_evaluated_is_refused_before_building(arch, tmp_path):
    text = payload(tmp_path)
    model = ARCH_MODEL_REGISTRY[arch]
    for name in literals.OPTIONS & {*options(model), *options(TASK_REGISTRY["translation"])}:
        named = {"_name": arch, "arch": arch, name: text}
        for state in (
            {"args": argparse.Namespace(**named)},
            {"args": None, "cfg": {"model": named}},
            {"args": None, "cfg": {"model": argparse.Namespace(**named)}},
            {"args": None, "cfg": {"model": {"w2v_args": {"model": named}}}},
        ):
            with pytest.raises(UserError, match=f"has {name} .* no literal") as refused:
                checkpoints.check_options(tmp_path / "x.pt", state)
            assert "\n" not in str(refused.value)
    assert not (tmp_path / "opened").exists()


# what must stand in a model's options for it to be built at all, or to look at the one tried
USUAL = dict(
    tokens_per_sample=16, max_source_positions=16, max_target_positions=16, max_positions=16,
    criterion="cross_entropy", input_feat_per_channel=8, input_channels=1, n_frames_per_step=1,
    speaker_embed_dim=8, speaker_to_id=None, fp16=False, w2v_path=None,
)  # fmt: skip
GATES = {
    "character_filters": {"character_embeddings": True},
    "adaptive_input_cutoff": {"adaptive_input": True},
    "adaptive_softmax_cutoff": {"criterion": "adaptive_loss"},
    "conv_feature_layers": {"use_raw_audio": True},
}
LAYERS = {"encoder_layers": "[(16, 3)]", "decoder_layers": "[(16, 3)]"}  # fconv's are big
REACHED = {
    "FConvLanguageModel": {"decoder_layers", "decoder_attention"},
    "FConvModel": {"encoder_layers", "decoder_layers", "decoder_attention"},
    "FConvModelSelfAtt": {
        "encoder_layers", "decoder_layers", "encoder_attention", "decoder_attention",
        "self_attention", "project_input", "gated_attention", "downsample", "pretrained",
    },
    "HubertModel": {"conv_feature_layers"},
    "LSTMModel": {"decoder_attention", "adaptive_softmax_cutoff"},
    "LSTMLanguageModel": {"adaptive_softmax_cutoff"},
    "LightConvModel": {"adaptive_softmax_cutoff"},
    "LightConvLanguageModel": {"character_filters", "adaptive_input_cutoff"},
    "MemTransformerLanguageModel": {
        "character_filters", "adaptive_input_cutoff", "adaptive_softmax_cutoff",
    },
    "TransformerLanguageModel": {
        "character_filters", "adaptive_input_cutoff", "adaptive_softmax_cutoff",
        "decoder_xformers_att_config",
    },
    "TransformerModel": {"encoder_xformers_att_config", "decoder_xformers_att_config"},
    "Wav2Vec2Model": {"conv_feature_layers"},
    "Wav2VecModel": {"conv_feature_layers", "conv_aggregator_layers"},
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@pytest.mark.filterwarnings("ignore")
def test_no_option_of_a_model_is_run_when_it_is_built(model, tmp_path, evaluated):
    """As if nothing had been refused before: a model's options go to its own constructor."""
    arch = next((name for name, kind in ARCH_MODEL_REGISTRY.items() if kind is model), None)
    text = payload(tmp_path)
    words = random_models.dictionary()
    reached = set()
    for name in strings(model):
        task = MagicMock(
            source_dictionary=words, target_dictionary=words, dictionary=words, gives_streams=True,
            targets=["future"], model_lang_pairs=["a-b"], dicts={"a": words, "b": words},
        )  # fmt: skip
        default = {key: value for key, value in options(model).items() if value is not None}
        layers = LAYERS if "FConv" in model.__name__ else {}
        args = argparse.Namespace(
            **{**default, **USUAL, **layers, **GATES.get(name, {}), name: text}, arch=arch
        )
        task.args = task.cfg = args
        evaluated.clear()
        with (
            contextlib.suppress(Exception, SystemExit),
            torch.device("meta"),
        ):  # without the numbers
            if arch:
                models.build_model(args, task)
            else:
                model.build_model(args, task)
        assert not (tmp_path / "opened").exists()
        if text in evaluated:
            reached.add(name)
    assert reached >= REACHED.get(model.__name__, set())


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with all the dictionaries that a task may ask for."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_dictionaries(folder, joined=True)
    (folder / "dict.txt").write_bytes((folder / "dict.de.txt").read_bytes())
    return folder


@pytest.mark.parametrize("task", TASK_REGISTRY)
@pytest.mark.filterwarnings("ignore")
def test_no_option_of_a_task_is_run_when_it_is_set_up(task, data, tmp_path, evaluated):
    text = payload(tmp_path)
    reached = set()
    for name in strings(TASK_REGISTRY[task]):
        given = dict(options(TASK_REGISTRY[task]), data=str(data), source_lang="de")
        given |= dict(target_lang="en", langs="de,en", lang_pairs="de-en", mono_langs="de,en")
        args = argparse.Namespace(**{**given, name: text}, task=task, seed=1)
        evaluated.clear()
        with contextlib.suppress(Exception, SystemExit):
            tasks.setup_task(args)
        assert not (tmp_path / "opened").exists()
        if text in evaluated:
            reached.add(name)
    if task in ("multilingual_translation", "online_backtranslation"):
        assert reached >= {"left_pad_source", "left_pad_target"}


@pytest.mark.parametrize("criterion", CRITERION_REGISTRY)
@pytest.mark.filterwarnings("ignore")
def test_no_option_of_a_criterion_is_run_when_it_is_built(
    criterion, tmp_path, evaluated, monkeypatch
):
    """`fairseq-validate` builds the one that the checkpoint names."""
    monkeypatch.chdir(tmp_path)
    text = payload(tmp_path)
    reached = set()
    for name in strings(CRITERION_REGISTRY[criterion]):
        given = dict(options(CRITERION_REGISTRY[criterion]), **{name: text})
        evaluated.clear()
        with contextlib.suppress(Exception, SystemExit):
            criterions.build_criterion(
                argparse.Namespace(**given, criterion=criterion), MagicMock()
            )
        assert not (tmp_path / "opened").exists()
        if text in evaluated:
            reached.add(name)
    if criterion == "ctc":
        assert "wer_args" in reached


def test_without_the_guard_the_payload_runs(tmp_path, monkeypatch):
    """It is a real one."""
    monkeypatch.setattr(utils, "eval", eval)
    with contextlib.suppress(TypeError):
        utils.eval_str_list(payload(tmp_path))
    assert (tmp_path / "opened").exists()
    os.rmdir(tmp_path / "opened")
    with pytest.raises(UserError, match="give rising numbers"):
        mem_transformer_xl._cutoff(payload(tmp_path), 10)
    assert not (tmp_path / "opened").exists()
