"""Two workers take the steps of one that accumulates their batches (``--update-freq 2``)."""

import pytest
import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODELS
from helpers.commands import ROOT
from helpers.two_ranks import trained, two_ranks

KNOWN = ("mem_transformer", "mem_transformer_lm", "mem_transformer_xl", "mem_roberta")
ALL = [name for name, model in MODELS.items() if model in KNOWN]
SAMPLE = [
    "mem_ctrl_shared_transformer", "mem_transformer_lm", "mem_transformer_xl", "mem_roberta_small",
]  # fmt: skip


@pytest.mark.cli
@pytest.mark.parametrize(
    ("archs", "backend"),
    [
        pytest.param(SAMPLE, "legacy_ddp", id="sample"),
        pytest.param(ALL, "legacy_ddp", id="all", marks=pytest.mark.slow),
        pytest.param(ALL, "no_c10d", id="all, old name", marks=pytest.mark.slow),
    ],
)
def test_two_workers_are_one_that_accumulates(archs, backend, tmp_path, monkeypatch, subtests):
    monkeypatch.syspath_prepend(ROOT)  # and so in the two processes
    first, second = two_ranks(archs, backend, tmp_path)
    for arch in archs:
        with subtests.test(arch=arch):
            alone = trained(arch, None, 0, "")
            assert set(alone) == set(first[arch])
            for name, parameter in alone.items():
                assert torch.equal(first[arch][name], second[arch][name])
                torch.testing.assert_close(first[arch][name], parameter, rtol=0, atol=1e-6)
