"""How the encoder's memory is updated: one small file per way.

A way of updating is a class of encoder layers, built from fairseq's options. Its layers are called
as ``layer(x, encoder_padding_mask=mask)`` with ``x`` ((m+T) x B x C, memory first) and ``mask``
(B x (m+T), True at padding, or None), and return the same shape. Only the layer decides who attends
to whom; the encoder does not know which it runs. Its class methods are:

- ``shared_controller(cfg)``: one module for all layers, handed to each of them as
  ``controller=...``, or None;
- ``warm_start(state, name, unread)``: complete, in place, a checkpoint of a model without this
  update's parameters, and return whether there was something to complete; ``unread`` is the name of
  a layer without them.

Where nobody reads memory behind the last layer (in a sentence encoder), that layer of a class with
``needs_reader`` is built with ``has_reader=False``, and has no update of memory.
"""

from .bottleneck import BottleneckUpdateLayer
from .ctrl import CtrlUpdateLayer, SharedCtrlUpdateLayer
from .shared import SharedUpdateLayer

UPDATES = {
    "shared": SharedUpdateLayer,
    "ctrl": CtrlUpdateLayer,
    "ctrl-shared": SharedCtrlUpdateLayer,
    "bottleneck": BottleneckUpdateLayer,
}
