"""How the encoder's memory is updated: one small file per way.

A way of updating is an encoder layer. It is called as ``layer(x, encoder_padding_mask=mask)`` with
``x`` ((m+T) x B x C, memory first) and ``mask`` (B x (m+T), True at padding, or None), and returns
the same shape. Only the layer decides who attends to whom; the encoder does not know which it runs.
"""

from .shared import SharedUpdateLayer

UPDATES = {
    "shared": SharedUpdateLayer,
}
