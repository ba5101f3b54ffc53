"""fairseq's half precision on a CPU: its trainer, FP16 optimizer and loss scaler, half parameters.

``fairseq-train --cpu --fp16`` dies in one line: to make the float32 copy of the parameters,
fairseq asks CUDA for the number of its current device. A CPU's device has the number None.
"""

import math

import pytest
import torch
from fairseq.logging import metrics
from fairseq.models import ARCH_MODEL_NAME_REGISTRY as MODELS
from fairseq.optim.adam import FairseqAdam as FairseqOwnAdam
from helpers.commands import ROOT

from fairseq_mem.training import optimizer
from fairseq_mem.training.optimizer import FusedAdam

FLAGS = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32 --dropout 0 --clip-norm 1 "
    "--lr 2e-3 --lr-scheduler fixed --warmup-updates 0"
)
SAMPLE = ("mem_transformer", "mem_ctrl_shared_transformer", "mem_transformer_lm",
          "mem_transformer_xl", "mem_roberta_small")  # fmt: skip


@pytest.fixture
def benchmarks(monkeypatch):
    """How the benchmarks build every architecture, with a device of the name None."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import architectures

    monkeypatch.setattr(architectures, "TOKENS", 60)
    monkeypatch.setattr(architectures, "ROWS", 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    return architectures


def build(benchmarks, arch, more=""):
    flags = FLAGS
    builder = benchmarks.BUILDERS[MODELS[arch]]
    if builder is not benchmarks._translation:
        words = flags.split()
        pairs = zip(words[::2], words[1::2], strict=True)
        sides = "--decoder" if builder is benchmarks._sentences else "--encoder"
        flags = " ".join(f"{a} {b}" for a, b in pairs if not a.startswith(sides))
        if builder is benchmarks._language:
            flags += " --decoder-input-dim 16 --decoder-output-dim 16"
    torch.manual_seed(1)
    return benchmarks.build(arch, "--cpu", f"{flags} {more}")


def losses(made, updates):
    """Of every update; None where the gradient overflowed."""
    found = []
    with metrics.aggregate(new_root=True):
        for _ in range(updates):
            log = made.trainer.train_step([next(made.samples)])
            found.append(None if log is None else float(log["loss"]))
    return found


def architectures():
    known = ("mem_transformer", "mem_transformer_lm", "mem_transformer_xl", "mem_roberta")
    return [name for name, model in MODELS.items() if model in known]


USUAL = "--memory-init-std 1.0"
CASES = [pytest.param(arch, USUAL, 40, "--fp16", id=arch) for arch in SAMPLE]
CASES += [pytest.param("mem_transformer", USUAL, 20, "--fp16 --memory-efficient-fp16", id="saving")]
# At 2e-3 a model of masked words has all but learned its two batches by heart after 200 updates;
# with memory at 10 times the default the last steps there are steep, and float32 itself, with
# weights that differ in the sixth digit, is 2 % away from itself in between.
CASES += [
    pytest.param(
        arch, f"--memory-init-std {std} --lr 5e-4", 200, "--fp16", id=f"{arch}-{std}",
        marks=pytest.mark.slow,
    )
    for arch in architectures()
    for std in (0.1, 1.0, 10.0)  # times the default
]  # fmt: skip


@pytest.mark.parametrize(("arch", "options", "updates", "half"), CASES)
def test_training_in_half_precision_is_that_in_float32(benchmarks, arch, options, updates, half):
    exact = losses(build(benchmarks, arch, options), updates)
    made = build(benchmarks, arch, f"{options} {half}")
    assert next(made.trainer.model.parameters()).dtype == torch.half
    found = losses(made, updates)
    overflows = found.count(None)
    assert overflows <= 3  # fairseq begins with a scale of 128
    ends = [loss for loss in found if loss is not None]
    assert all(map(math.isfinite, ends)) and ends[-1] < ends[0]
    assert ends[-1] == pytest.approx(exact[updates - 1 - overflows], rel=0.02)


def test_the_optimizer_says_where_it_is_not_used(benchmarks, monkeypatch):
    """With ``--fp16`` the kernel steps fairseq's float32 copy; else fairseq's own loop does."""
    steps, said = [], []
    monkeypatch.setattr(FusedAdam, "_step_group", lambda *_: steps.append(1))
    monkeypatch.setattr(optimizer.logger, "info", said.append)
    losses(build(benchmarks, "mem_transformer", "--fp16"), 2)
    assert len(steps) == 2 and said == []
    losses(build(benchmarks, "mem_transformer", "--fp16 --memory-efficient-fp16"), 2)
    assert len(steps) == 2
    assert len(said) == 1 and "steps of fairseq's adam" in said[0]


def test_states_are_exchanged_with_fairseqs_optimizer(benchmarks):
    """Training goes on from the one's state with the other, in half precision too."""
    after = []
    for first, second in (("adam", "adam_fused"), ("adam_fused", "adam"), ("adam", "adam")):
        made = build(benchmarks, "mem_transformer", f"--fp16 --optimizer {first}")
        losses(made, 3)
        more = build(benchmarks, "mem_transformer", f"--fp16 --optimizer {second}")
        more.trainer.model.load_state_dict(made.trainer.model.state_dict())
        more.trainer._build_optimizer()
        more.trainer.optimizer.load_state_dict(made.trainer.optimizer.state_dict())
        assert isinstance(more.trainer.optimizer.fp32_optimizer, FairseqOwnAdam)
        after.append(losses(more, 3)[-1])
    assert after[0] == pytest.approx(after[2], rel=1e-3)
    assert after[1] == pytest.approx(after[2], rel=1e-3)


def test_bfloat16_by_autocast_for_every_architecture(benchmarks, subtests):
    """Forward and backward are finite, and evaluation is close to float32."""
    for arch in architectures():
        with subtests.test(arch=arch):
            trainer, samples, _ = build(benchmarks, arch)
            sample = next(samples)
            if "position" in sample["net_input"]:
                sample["net_input"]["position"] = 0
            found = []
            for on in (False, True):
                with torch.autocast("cpu", torch.bfloat16, enabled=on):
                    trainer.model.train()
                    loss = trainer.criterion(trainer.model, sample)[0]
                    trainer.model.eval()
                    with torch.no_grad():
                        tested = trainer.criterion(trainer.model, sample)[0]
                loss.backward()
                gradients = [p.grad for p in trainer.model.parameters()]
                assert all(g is not None and g.isfinite().all() for g in gradients)
                found.append(tested.item())
                assert loss.isfinite()
            assert found[1] == pytest.approx(found[0], rel=0.02)
