"""Options in any combination: refused in one line, or all that the design promises holds."""

import copy
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from helpers import option_pools as pools
from helpers import promises
from helpers.explored import explore
from helpers.families import (
    Family,
    LanguageModel,
    SentenceEncoder,
    TransformerXL,
    Translation,
    is_stock,
)
from helpers.from_flags import Built, attempt, build, without_ours, write_dictionaries

from fairseq_mem import UserError

FAMILIES: dict[type[Family], list[pools.Flag]] = {
    Translation: pools.TRANSLATION,
    LanguageModel: pools.LANGUAGE_MODEL,
    TransformerXL: pools.TRANSFORMER_XL,
    SentenceEncoder: pools.SENTENCE_ENCODER,
}
EXAMPLES = 10  # combinations a seed
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Example(NamedTuple):
    """A model, and how it is looked at afterwards."""

    flags: list[pools.Flag]
    overrides: dict[str, object]
    dtype: torch.dtype
    seed: int


def examples(family: type[Family]) -> st.SearchStrategy[Example]:
    return st.builds(
        Example,
        pools.combinations(FAMILIES[family]),
        pools.overrides(),
        st.sampled_from(DTYPES),
        st.integers(0, 999),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("dictionaries")
    write_dictionaries(made)
    return made


@pytest.mark.tries(sample=1, soak=25)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.filterwarnings("ignore")
def test_options_are_refused_in_a_line_or_all_promises_hold(family, seed, folder):
    explore(seed, EXAMPLES, examples(family), lambda example: check(family, example, folder))


def check(family: type[Family], example: Example, folder: Any) -> None:
    words = [*family.usual, *(word for flag in example.flags for word in flag)]
    theirs = None
    if family.stock:
        theirs = [*without_ours_words(family.usual), *words_of(without_ours(example.flags))]
    try:
        built = attempt(folder, words, example.seed)
    except Exception:
        # not refused by us: then fairseq's own model cannot be built with these options either
        assert theirs is not None
        with pytest.raises(Exception):
            build(folder, theirs, example.seed)
        return
    if isinstance(built, str):
        return
    chosen = family(built, example.seed)
    stock = build(folder, theirs, example.seed).model if theirs is not None else None
    if hasattr(stock, "register_classification_head"):
        chosen.adapt(stock)
    try:
        found = promises.gradients(built.model, lambda: chosen.loss(built.model))
    except UserError as error:
        assert len(str(error)) < 300 and "\n" not in str(error)
        return
    except Exception as error:  # then fairseq's own model does not train with them either
        assert stock is not None
        with pytest.raises(type(error)):
            promises.gradients(stock, lambda: chosen.loss(stock))
        return
    bare = promises.gradients(stock, lambda: chosen.loss(stock)) if stock is not None else {}
    lacking = {name for name, grad in bare.items() if grad is None}
    drops = "layerdrop" in str(example.flags)
    unread = ("--no-cross-attention",) in example.flags  # then nobody reads the encoder

    def may_lack(name: str) -> bool:
        """Where a layer of the decoder is dropped, the encoder may go unread too."""
        return name in lacking or drops or (unread and name.startswith("encoder."))

    promises.gradients_reach(found, may_lack)
    if stock is not None and nothing_of_ours(built.args):
        assert is_stock(built.model)
        same_bits(chosen, built.model, stock, found, bare)
        return
    in_another_precision(chosen, built, example.dtype)
    looked_at(chosen, built, example.overrides)


def words_of(flags: list[pools.Flag]) -> list[str]:
    return [word for flag in flags for word in flag]


def without_ours_words(usual: list[str]) -> list[str]:
    """A family's usual flags for fairseq's own architecture."""
    place = usual.index("--memory-tokens")
    flags = [*usual[:place], *usual[place + 2 :]]
    arch = flags.index("--arch")
    flags[arch : arch + 2] = words_of(without_ours([("--arch", flags[arch + 1])]))
    return flags


def nothing_of_ours(args: Any) -> bool:
    """No memory, no controls, nothing of BERT's, and positions as fairseq gives them."""
    names = (
        "memory_tokens", "memory_decoder_tokens", "memory_static", "attention_sink",
        "memory_positions", "memory_segments", "memory_no_word_head",
    )  # fmt: skip
    plain = getattr(args, "memory_update", "shared") == "shared"
    return plain and not any(getattr(args, name, 0) for name in names)


def same_bits(chosen: Family, ours: Any, stock: Any, found: dict, bare: dict) -> None:
    """1: without memory it is fairseq's model."""
    assert list(ours.state_dict()) == list(stock.state_dict())
    for name, grad in found.items():
        same = grad is bare[name] if grad is None else torch.equal(grad, bare[name])
        assert same, name
    assert torch.equal(chosen.output(ours.eval()), chosen.output(stock.eval()))


def in_another_precision(chosen: Family, built: Built, dtype: torch.dtype) -> None:
    """6: half precision stays finite."""
    if dtype == torch.float16 and getattr(built.args, "memory_norm_epsilon", 1) < 1e-8:
        return  # on a CPU a norm's 1/sqrt(epsilon) is float16 too, and infinite where rows are 0
    model = copy.deepcopy(built.model).to(dtype)
    for grad in promises.gradients(model, lambda: chosen.loss(model)).values():
        assert grad is None or grad.isfinite().all()
    assert chosen.output(model.eval()).isfinite().all()


def looked_at(chosen: Family, built: Built, overrides: dict[str, object]) -> None:
    """2 to 4 and 7, of the model that a command builds from the checkpoint."""
    try:
        model = built.again(**overrides)
    except UserError as error:
        assert len(str(error)) < 300 and "\n" not in str(error)
        return
    chosen.adapt(model)
    trained = built.model.double().eval()
    model.double().eval()
    try:
        promises.saved_and_loaded(trained, model)
    except UserError as error:
        assert overrides and len(str(error)) < 300 and "\n" not in str(error)
        return
    with torch.no_grad():
        if not overrides:
            assert torch.equal(chosen.output(model), chosen.output(trained))
        chosen.holds(model)
