"""The simulator: the engine's own scheduler on a virtual clock, what is asked of it, and what came of it."""
