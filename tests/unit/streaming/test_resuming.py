"""Which workers' rows a checkpoint holds, and which of them a worker takes up."""

import torch

from fairseq_mem.streaming import resuming
from fairseq_mem.streaming.resuming import StreamPlace
from fairseq_mem.streaming.state import StreamState


def test_a_checkpoint_has_all_workers_rows_where_they_were_gathered(monkeypatch):
    """The second of two workers; where nobody has gathered since, a checkpoint has ours alone."""

    def all_gather(of_all, mine, group):
        for number, tensor in enumerate(of_all):
            tensor.copy_(mine - 1 + number)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    for name, value in (("world_size", 2), ("rank", 1), ("group", None)):
        monkeypatch.setattr(
            resuming.distributed, f"get_data_parallel_{name}", lambda value=value: value
        )
    place = StreamPlace()
    place.streams[True] = StreamState(8, [torch.full((2, 3, 4), 5.0)], torch.full((2, 1, 4), 7.0))
    place.gather()
    saved = place.to_save()
    assert [state["position"] for state in saved] == [8, 8]
    assert [state["cache"][0].unique().item() for state in saved] == [4, 5]
    assert [state["memory"].unique().item() for state in saved] == [6, 7]

    place.restore(saved)
    assert place.streams[True].position == 8 and place.streams[True].memory.unique().item() == 7
    place.streams[True] = StreamState(16, [torch.full((2, 3, 4), 9.0)])
    (late,) = place.to_save()
    assert late["position"] == 16 and late["cache"][0].unique().item() == 9
    place.restore([late])  # of a worker whose state is not there
    assert not place.streams
