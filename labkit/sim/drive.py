"""Runs a workload on a real engine in real time and returns what its scheduler did.

Requests come at their times whatever the engine does (open loop), their answers are as long as their jobs
say, and their readers take every token at once.
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
    """Run jobs to their end on an engine that does nothing else; times count from the beginning.

    Prompts are words of one token each, after the token that the engine puts first: as many tokens as the job
    has, and alike where jobs begin alike. A request has arrived when its job says, also if this process was
    too busy to submit it at once.

    Raises:
        ValueError: a job does not fit into the engine's context.
        EngineFailed: the engine broke off.
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
        loop.run(_settled(records, len(jobs)))
    finally:
        unwatch()
        loop.close()
    return [_from_beginning(record, began_s, jobs) for record in records]


def _words(vocabulary: Vocabulary) -> list[str]:
    """Texts of one token each, whatever stands before them."""
    found: list[str] = []
    for token in TOKEN_IDS:
        word = vocabulary.token_bytes(token)
        if word[:1] == b" " and word[1:].isalpha():
            found.append(word.decode("ascii"))
    return found


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
    began_s = time.monotonic() + HEAD_START_S

    async def one(request: GenerateRequest, job: Job) -> None:
        await asyncio.sleep(began_s + job.arrival_s - time.monotonic())
        async with aclosing(engine.submit(request)) as stream:
            async for event in stream:
                if isinstance(event, Failed):
                    raise EngineFailed(event.message)

    await asyncio.gather(*map(one, requests, jobs))
    return began_s


async def _settled(records: list[Record], jobs: int) -> None:
    """A stream ends a moment before the records of its last iteration are told."""
    while sum(isinstance(record, Moved) and record.state == "finished" for record in records) < jobs:
        await asyncio.sleep(0.005)


def _from_beginning(record: Record, began_s: float, jobs: Sequence[Job]) -> Record:
    if isinstance(record, Iteration):
        return msgspec.structs.replace(record, start_s=record.start_s - began_s, end_s=record.end_s - began_s)
    if isinstance(record, Arrived):
        return msgspec.structs.replace(record, at_s=jobs[int(record.name)].arrival_s)
    return msgspec.structs.replace(record, at_s=record.at_s - began_s)
