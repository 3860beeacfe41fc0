"""Benchmarks. `BENCHMARKS` is their registry: a name, one line, and the module of that name here.

A module offers what `labkit.bench.suite.Benchmark` lists: `run` measures, and `tables` draws the result. To
add a benchmark, write the module and add its line.
"""

BENCHMARKS = {
    "transport": "the server's CPU time per token, for each interface",
    "memory": "the server's memory per open stream, for each interface",
    "ruler": "the error of the lab's own figures",
    "engine": "the engine's speed beside Hugging Face, llama.cpp and no KV cache",
    "simulator": "the simulator's error against the engine",
}
