"""The simulator: the engine's scheduler on a virtual clock, with its workloads, costs and results."""
