"""The networks, as Flax NNX modules; one file a family."""
