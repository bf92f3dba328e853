"""The networks as Flax NNX modules. Each file holds one family of networks."""
