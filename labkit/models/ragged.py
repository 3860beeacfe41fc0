"""One forward pass over many sequences of different lengths: prompts, pieces of prompts, single tokens.

The linear layers see all tokens as one matrix; attention is each sequence's own ("selective batching", Orca,
OSDI 2022). Keys and values lie in slots that are reserved in the address space and take memory only where
something was written, page by page (as in vAttention, arXiv 2405.04437): attention reads them where they are.

Letters for shapes: those of `labkit.models.text`, and N sequences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.models.packed import PackedModel
from labkit.models.text import Attend, TextConfig, TextModel

Model = TextModel | PackedModel
STRIDE, INVARIANT_STRIDE = 16, 512
"""Attention reads whole strides of positions; 512 is the block in which PyTorch's kernel takes them."""


@dataclass(frozen=True)
class Part:
    """The next tokens of one sequence; `slot` holds the keys and values of the first `start` tokens."""

    slot: int
    start: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class KVPool:
    """Keys and values, ``kv[layer][slot, k|v, head, position, dim]``, of up to `slots` sequences."""

    def __init__(self, config: TextConfig, slots: int, like: Tensor | None = None) -> None:
        shape = (config.layers, slots, 2, config.heads, config.context, config.head_dim)
        self.slots = slots
        # The operating system gives zeroed pages when they are touched; torch.zeros would touch them all.
        self.kv = torch.from_numpy(numpy.zeros(shape, numpy.float32))
        if like is not None and (like.device.type, like.dtype) != ("cpu", torch.float32):
            self.kv = torch.zeros(shape, device=like.device, dtype=like.dtype)

    def read(self, slot: int, start: int, end: int) -> Tensor:
        """A copy of some positions, [L, 2, H, positions, D]."""
        return self.kv[:, slot, :, :, start:end].clone()

    def write(self, slot: int, start: int, values: Tensor) -> None:
        """Put back what `read` gave."""
        self.kv[:, slot, :, :, start : start + values.shape[3]] = values

    def clear(self, slot: int, end: int) -> None:
        """Make the first `end` positions of a slot what they were before anything was written."""
        self.kv[:, slot, :, :, :end] = 0


@torch.inference_mode()
def step(model: Model, pool: KVPool, parts: Sequence[Part], rows: int = 0) -> Tensor:
    """Compute all parts and return the logits [N, V] of what follows each.

    With `rows=0` everything goes in one pass. Libraries choose the order of a sum by the shapes of tensors,
    so a sequence's logits then depend on the rest of the batch, by less than 1e-4 of the greatest logit.

    With `rows` each pass has exactly that many tokens; the last is padded. Then a sequence's bits do not
    depend on the rest of the batch, its slot, or how its tokens are cut into parts (the idea: Horace He and
    Thinking Machines Lab, "Defeating Nondeterminism in LLM Inference", 2025):

    - Every operation but attention has the same shape, strides and alignment in every pass, so a library
      makes the same choice each time.
    - Attention takes every query by itself, over whole strides of `INVARIANT_STRIDE` keys. PyTorch's kernel
      for the CPU (FlashAttentionKernel.cpp) goes over pairs of a query and a head, which share nothing, and
      over their keys in blocks of that size. A block that a query does not see adds exact zeros.

    One assumption remains: an operation of a fixed shape treats its rows alike, wherever they stand and
    whatever the others hold. `labkit.models.invariance` checks this for the library at hand.

    Args:
        parts: each of another slot; single tokens are fastest side by side in the order of their slots.
        rows: tokens in a pass; 0 for all in one.

    Raises:
        ValueError: no parts, a part without tokens, or one that does not fit into the context.
    """
    context = model.config.context
    if not parts or any(not part.start < part.end <= context for part in parts):
        raise ValueError(f"there must be parts, each of at least one token within a context of {context}")
    tiles = _tiles(parts, rows) if rows else [parts]
    x = torch.cat([_hidden(model, pool, tile, rows) for tile in tiles])
    last = torch.tensor([end - 1 for end in accumulate(len(part.tokens) for part in parts)], device=x.device)
    if not rows:
        return model.logits(x[last])
    padded = F.pad(x[last], (0, 0, 0, -len(parts) % rows))
    return torch.cat([model.logits(tile) for tile in torch.split(padded, rows)])[: len(parts)]


def _tiles(parts: Sequence[Part], rows: int) -> Iterator[list[Part]]:
    """Cut parts into groups of `rows` tokens in total; only the last group may have fewer."""
    tile, room = list[Part](), rows
    for part in parts:
        start = part.start
        while start < part.end:
            tokens = part.tokens[start - part.start : start - part.start + room]
            tile.append(Part(part.slot, start, tokens))
            start, room = start + len(tokens), room - len(tokens)
            if not room:
                yield tile
                tile, room = [], rows
    if tile:
        yield tile


def _hidden(model: Model, pool: KVPool, parts: Sequence[Part], rows: int) -> Tensor:
    """Run one pass, padded to `rows` rows; return the last layer's output for each token, [T, W]."""
    batch = _Ragged(parts, pool, rows)
    return model(batch.tokens, batch.positions, batch.attends(pool.kv))[: batch.count]


class _Ragged:
    """The index tensors of one pass, made once and used in every layer."""

    def __init__(self, parts: Sequence[Part], pool: KVPool, rows: int) -> None:
        device = pool.kv.device
        self.count = sum(len(part.tokens) for part in parts)
        self._padding = max(0, rows - self.count)
        tokens = [token for part in parts for token in part.tokens]
        places = [place for part in parts for place in range(part.start, part.end)]
        slots = [part.slot for part in parts for _ in part.tokens]
        self.tokens = torch.tensor(tokens + [0] * self._padding, device=device)
        self.positions = torch.tensor(places + [0] * self._padding, device=device)
        self._slots = torch.tensor(slots, device=device)
        self._alone = parts[0] if len(parts) == 1 else None
        self._pieces = list(_pieces(parts, self.positions, pool, invariant=rows > 0))

    def attends(self, kv: Tensor) -> Iterator[Attend]:
        """Each layer's attention over the pool's kv: it writes new keys and values, then reads."""
        caches = zip(*(piece.read(kv) for piece in self._pieces), strict=True)
        return (self._attend(*layer) for layer in zip(kv, caches, strict=True))

    def _attend(self, kv: Tensor, caches: Sequence[tuple[Tensor, Tensor]]) -> Attend:
        pieces = list(zip(self._pieces, caches, strict=True))

        def attend(qkv: Tensor) -> Tensor:
            self._write(kv, qkv[: self.count, 1:])
            outputs = [piece.attend(qkv[piece.rows, 0], *cache) for piece, cache in pieces]
            if self._padding:
                outputs.append(qkv.new_zeros(self._padding, *qkv.shape[2:]))
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

        return attend

    def _write(self, kv: Tensor, new: Tensor) -> None:
        """Put keys and values [T, 2, H, D] into one layer's kv; for one slot a slice is faster."""
        if (part := self._alone) is not None:
            kv[part.slot, :, :, part.start : part.end] = new.permute(1, 2, 0, 3)
        else:
            kv[self._slots, :, :, self.positions[: self.count]] = new


@dataclass(frozen=True)
class _Piece:
    """Some rows of the batch that attend together: `calls` groups of `queries` rows, each over one slot."""

    rows: slice
    slots: slice  # as many as calls, or one for all of them
    calls: int
    queries: int
    keys: int
    mask: Tensor | None  # [calls, 1, queries, keys]; None where each sees them all

    def read(self, kv: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Where each layer's keys and values [calls, H, keys, D] are in the pool's kv."""
        cache = kv[:, self.slots, :, :, : self.keys].expand(-1, self.calls, -1, -1, -1, -1)
        keys, values = cache.unbind(2)
        return zip(keys.unbind(), values.unbind(), strict=True)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return attention's output [rows, H, D] for query [rows, H, D]."""
        if self.queries == 1:
            return F.scaled_dot_product_attention(query.unsqueeze(2), keys, values, self.mask).squeeze(2)
        queries = query.view(self.calls, self.queries, *query.shape[1:]).transpose(1, 2)
        output = F.scaled_dot_product_attention(queries, keys, values, self.mask)
        return output.transpose(1, 2).flatten(0, 1)


def _pieces(parts: Sequence[Part], positions: Tensor, pool: KVPool, invariant: bool) -> Iterator[_Piece]:
    """Single tokens of neighbouring slots together, every longer part alone."""
    first, row = 0, 0
    while first < len(parts):
        after = first + 1
        while (
            len(parts[first].tokens) == 1 and after < len(parts) and _follows(parts[after - 1], parts[after])
        ):
            after += 1
        group = parts[first:after]
        yield _piece(group, row, positions, pool, invariant)
        row += len(group[0].tokens) * len(group)
        first = after


def _piece(group: Sequence[Part], row: int, positions: Tensor, pool: KVPool, invariant: bool) -> _Piece:
    queries, end = len(group[0].tokens), max(part.end for part in group)
    span, slots = slice(row, row + queries * len(group)), slice(group[0].slot, group[-1].slot + 1)
    calls = len(group)
    if not invariant and queries == calls == 1:
        return _Piece(span, slots, calls, queries, end, None)
    if invariant:
        calls, queries = calls * queries, 1
    stride = INVARIANT_STRIDE if invariant else STRIDE
    keys = min(-(-end // stride) * stride, pool.kv.shape[4])
    mask = _mask(positions[span].view(calls, queries), keys, pool.kv)
    return _Piece(span, slots, calls, queries, keys, mask)


def _follows(part: Part, other: Part) -> bool:
    return len(other.tokens) == 1 and other.slot == part.slot + 1


def _mask(positions: Tensor, keys: int, like: Tensor) -> Tensor:
    """A term for the scores [N, 1, Q, keys]: each query at positions [N, Q] sees the keys up to itself."""
    later = torch.arange(keys, device=like.device) > positions[..., None]
    return torch.zeros_like(later, dtype=like.dtype).masked_fill_(later, -torch.inf)[:, None]
