"""How positions attend to one another: fused kernels, the beam cache, relative positions."""
