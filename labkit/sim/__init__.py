"""The simulator: the engine's own scheduler on a virtual clock, its workloads, its costs and its results."""
