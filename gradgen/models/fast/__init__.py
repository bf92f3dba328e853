"""Layers as programs that XLA runs fast on CPUs, with other arithmetic but the same results."""
