"""Benchmarks: what a token costs, what a stream weighs, how true the ruler is. Ratios within one run."""
