"""Runs a workload on a real engine in real time, and returns the records of its scheduler.

Each request arrives at its time whatever the engine does (open loop), each answer is as long as its job says,
and each reader takes every token at once.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from labkit.background import LoopThread
from labkit.engine.batched import BatchedEngine, Vocabulary
from labkit.engine.trace import Arrived, Iteration, Moved, Record
from labkit.errors import EngineFailed
from labkit.events import Failed, GenerateRequest
from labkit.sim.workload import TOKEN_IDS, Job

HEAD_START_S = 0.05


def drive(jobs: Sequence[Job], engine: BatchedEngine) -> list[Record]:
    """Run jobs to their end on an engine that does nothing else. Times count from the beginning of the run.

    A prompt has as many tokens as its job: words of one token each, after the one token that the engine adds.
    Prompts begin alike where their jobs do. The arrival of a request is the time of its job, even if this
    process was too busy to submit it then.

    Raises:
        ValueError: a job does not fit into the engine's context.
        EngineFailed: an answer failed.
    """
    for index, job in enumerate(jobs):
        if len(job.prompt) + job.output_tokens - 1 > engine.context:
            raise ValueError(
                f"job {index}: {len(job.prompt)} + {job.output_tokens} tokens; context is {engine.context}"
            )
    words = _words(engine.vocabulary)
    records: list[Record] = []
    loop = LoopThread("labkit-drive")
    unwatch = engine.watch(records.append)
    try:
        began_s = loop.run(_play([_request(i, job, words) for i, job in enumerate(jobs)], jobs, engine))
        loop.run(_all_finished(records, len(jobs)))
    finally:
        unwatch()
        loop.close()
    return [_from_beginning(record, began_s, jobs) for record in records]


def _words(vocabulary: Vocabulary) -> list[str]:
    """Texts that are one token each, after any other text."""
    words: list[str] = []
    for token in TOKEN_IDS:
        word = vocabulary.token_bytes(token, token)
        if word[:1] == b" " and word[1:].isalpha():
            words.append(word.decode("ascii"))
    return words


def _request(index: int, job: Job, words: list[str]) -> GenerateRequest:
    prompt = "".join(words[token % len(words)] for token in job.prompt[1:]) or words[0]
    return GenerateRequest(
        prompt=prompt,
        max_tokens=job.output_tokens,
        ignore_eos=True,
        seed=index,
        reader_tps=job.reader_tps,
        request_id=str(index),
    )


async def _play(requests: list[GenerateRequest], jobs: Sequence[Job], engine: BatchedEngine) -> float:
    """Submit each request at its time and read its answer; return when the run began."""
    began_s = time.monotonic() + HEAD_START_S

    async def one(request: GenerateRequest, job: Job) -> None:
        await asyncio.sleep(began_s + job.arrival_s - time.monotonic())
        async with aclosing(engine.submit(request)) as stream:
            async for event in stream:
                if isinstance(event, Failed):
                    raise EngineFailed(event.message)

    await asyncio.gather(*map(one, requests, jobs))
    return began_s


async def _all_finished(records: list[Record], jobs: int) -> None:
    """Wait for the records of the last iteration, which come a moment after the ends of its streams."""
    while sum(isinstance(record, Moved) and record.state == "finished" for record in records) < jobs:
        await asyncio.sleep(0.005)


def _from_beginning(record: Record, began_s: float, jobs: Sequence[Job]) -> Record:
    if isinstance(record, Iteration):
        return msgspec.structs.replace(record, start_s=record.start_s - began_s, end_s=record.end_s - began_s)
    if isinstance(record, Arrived):
        return msgspec.structs.replace(record, at_s=jobs[int(record.name)].arrival_s)
    return msgspec.structs.replace(record, at_s=record.at_s - began_s)
