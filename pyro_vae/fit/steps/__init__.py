"""How one step of training is taken: eagerly, as a graph, or compiled."""
