"""Our attention against a loop over heads and positions, and against fairseq's."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from helpers.references.attention import attend

from fairseq_mem.attention.fused import FusedAttention

C, HEADS = 12, 3


def make(cls=FusedAttention, **kind):
    torch.manual_seed(3)
    made = cls(C, HEADS, **(kind or {"self_attention": True})).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def padding_of(lengths, size):
    return torch.arange(size)[None, :] >= torch.tensor(lengths)[:, None]  # B x S, True at padding


@pytest.mark.parametrize("need_weights", [False, True])
def test_equals_the_loops(need_weights):
    attention = make()
    x = torch.randn(5, 3, C, dtype=torch.double)
    padding = padding_of([5, 2, 4], 5)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    out, weights = attention(
        x,
        x,
        x,
        padding,
        attn_mask=causal,
        need_weights=need_weights,
        need_head_weights=need_weights,
    )
    expected, expected_weights = attend(
        attention, x, x, lambda b, t, s: s <= t and not bool(padding[b, s])
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    if need_weights:
        torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-10)
        mean = attention(x, x, x, padding, attn_mask=causal, need_weights=True)[1]
        torch.testing.assert_close(mean, expected_weights.mean(0), rtol=0, atol=1e-10)
    else:
        assert weights is None


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("lesion", ["no-read", "zero-read"])
def test_a_lesion_equals_the_loops(lesion, need_weights):
    """Two memory positions in front: memory's own rows are left alone."""
    attention = make()
    attention.lesion, attention.lesioned_keys, attention.memory_queries = lesion, 2, 2
    x = torch.randn(5, 2, C, dtype=torch.double)
    padding = padding_of([5, 4], 5)
    out, weights = attention(
        x, x, x, padding, need_weights=need_weights, need_head_weights=need_weights
    )

    def visible(b, t, s):
        return not bool(padding[b, s])

    def meets(b, t, s):
        return t >= 2 and s < 2

    if lesion == "no-read":
        rule = (lambda b, t, s: visible(b, t, s) and not meets(b, t, s), None)
    else:
        rule = (visible, meets)
    expected, expected_weights = attend(attention, x, x, *rule)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    if need_weights:
        torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-10)


def test_equals_fairseqs():
    ours, theirs = make(), make(MultiheadAttention)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(6, 2, C, dtype=torch.double)
    padding = padding_of([6, 3], 6)
    for keep in (None, padding):
        expected = theirs(x, x, x, keep, need_weights=False)[0]
        torch.testing.assert_close(
            ours(x, x, x, keep, need_weights=False)[0], expected, rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_query_without_keys_gets_zero(need_weights):
    attention = make()
    x = torch.randn(4, 2, C, dtype=torch.double, requires_grad=True)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    nothing[1] = True
    out, _ = attention(x, x, x, attn_mask=nothing, need_weights=need_weights)
    for b in range(2):
        torch.testing.assert_close(out[1, b], attention.out_proj.bias, rtol=0, atol=0)
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_steps_equal_the_whole_also_after_reordering():
    attention = make()
    x = torch.randn(5, 4, C, dtype=torch.double)
    x[:3, 1] = x[:3, 0]  # hypotheses 0 and 1 share a past, so that one may be replaced by the other
    x[:3, 3] = x[:3, 2]
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    whole = attention(x, x, x, attn_mask=causal, need_weights=False)[0]
    state = {}
    for t in range(5):
        if t == 3:
            attention.reorder_incremental_state(state, torch.tensor([1, 0, 2, 2]))
        step = x[t : t + 1]
        out = attention(step, step, step, incremental_state=state, need_weights=False)[0]
        torch.testing.assert_close(out, whole[t : t + 1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [3, 3, 0, 1], [0, 1, 2, 3], [3, 1]], ids=str)
def test_without_a_beam_rows_take_their_past_along(order):
    """Also where as many are left as there were."""
    attention = make()
    x = torch.randn(5, 4, C, dtype=torch.double)
    state = {}
    for t in range(3):
        attention(x[t : t + 1], *[x[t : t + 1]] * 2, incremental_state=state)
    attention.reorder_incremental_state(state, torch.tensor(order))
    x = torch.cat([x[:3, order], torch.randn(2, len(order), C, dtype=torch.double)])
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    whole = attention(x, x, x, attn_mask=causal, need_weights=False)[0]
    for t in (3, 4):
        step = x[t : t + 1]
        out = attention(step, step, step, incremental_state=state, need_weights=False)[0]
        torch.testing.assert_close(out, whole[t : t + 1], rtol=0, atol=1e-10)


def test_padding_enters_and_leaves_the_cache():
    attention = make()
    x = torch.randn(4, 2, C, dtype=torch.double)
    padding = torch.zeros(2, 4, dtype=torch.bool)
    padding[1, 1:3] = True
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
    whole = attention(x, x, x, padding, attn_mask=causal, need_weights=False)[0]
    state = {}
    for t in range(4):
        now = padding[:, t : t + 1] if padding[:, t].any() else None
        step = x[t : t + 1]
        out = attention(step, step, step, now, incremental_state=state, need_weights=False)[0]
        torch.testing.assert_close(out, whole[t : t + 1], rtol=0, atol=1e-10)


def test_static_keys_are_projected_once():
    attention = make(encoder_decoder_attention=True, kdim=C, vdim=C)
    x, source = torch.randn(3, 2, C).double(), torch.randn(5, 2, C).double()
    padding = padding_of([5, 3], 5)
    whole = attention(x, source, source, padding, static_kv=True)[0]
    state, calls = {}, []
    attention.k_proj.register_forward_hook(lambda *_: calls.append(1))
    for t in range(3):
        out = attention(
            x[t : t + 1], source, source, padding, incremental_state=state, static_kv=True
        )[0]
        torch.testing.assert_close(out, whole[t : t + 1], rtol=0, atol=1e-10)
    assert len(calls) == 1


def test_gradcheck():
    attention = make()
    padding = padding_of([4, 2], 4)
    x = torch.randn(4, 2, C, dtype=torch.double, requires_grad=True)
    for need_weights in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, w=need_weights: attention(x, x, x, padding, need_weights=w)[0], x
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("need_weights", [False, True])
def test_half_precision_stays_finite(dtype, need_weights):
    attention = make().to(dtype)
    x = (50 * torch.randn(6, 2, C)).to(dtype).requires_grad_()
    padding = padding_of([6, 0], 6)
    out, _ = attention(x, x, x, padding, need_weights=need_weights)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
