"""A small decoder-only language model (Llama's layers); the caller decides how it attends.

Rotary positions (Su et al., 2021), RMS norm (Zhang and Sennrich, 2019; without gains, since the matrix that
follows can learn them), SwiGLU (Shazeer, 2020), tied embeddings (Press and Wolf, 2017).

`labkit.models.ragged` runs it over many sequences at once with a key/value cache.

Letters for shapes: T tokens, C context, H heads, D numbers a head, V vocabulary, W width = H * D.
"""

import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

DEFAULT_WEIGHTS = Path(__file__).with_name("weights")
WEIGHTS_FILE = "text.safetensors"


@dataclass(frozen=True)
class TextConfig:
    """The sizes of a model; ``context`` is the most tokens it can read and write together."""

    vocab_size: int = 1024
    context: int = 1024
    layers: int = 4
    heads: int = 4
    head_dim: int = 32
    hidden: int = 352
    rotary_base: float = 10_000.0

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


Attend = Callable[[Tensor], Tensor]

LAST_GAIN = 0.25
"""The embedding starts large, to keep similar names apart. The logits scale the same matrix down."""


class Block(nn.Module):
    """One layer: attention, then a gated feed-forward, each added to its input."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)
        self._begin_as_copying()

    @torch.no_grad()
    def _begin_as_copying(self) -> None:
        # `out` starts as the inverse of the values, so attention starts by copying the tokens it attends to.
        # Otherwise a model this small takes many times longer to learn to repeat the names of a story.
        values = nn.init.orthogonal_(torch.empty_like(self.out.weight), gain=0.6)
        self.qkv.weight[-len(values) :] = values
        self.out.weight.copy_(values.T)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, rotation: Tensor, attend: Attend) -> Tensor:
        """Map x [T, W] to [T, W]; ``attend`` maps rotated queries, keys, values [T, 3, H, D] to [T, H, D]."""
        qkv = self.qkv(norm(x)).view(-1, 3, self.heads, self.head_dim)
        x = x + self.out(attend(rotate(qkv, rotation)).reshape(x.shape))
        gate, up = self.gate_up(norm(x)).chunk(2, dim=-1)
        down: Tensor = self.down(F.silu(gate) * up)
        return x + down


class TextModel(nn.Module):
    """The language model; ``all_logits`` reads whole sequences, for training."""

    rotation: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.register_buffer("rotation", rotation_table(config), persistent=False)

    @classmethod
    def load(cls, folder: Path = DEFAULT_WEIGHTS) -> "TextModel":
        """Read ``text.safetensors`` as float32; raises FileNotFoundError if there is none."""
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            command = f"python -m labkit.models.train --out {folder}"
            raise FileNotFoundError(f"{path} is missing; make it with: {command}")
        with safe_open(str(path), framework="pt") as file:
            model = cls(TextConfig(**json.loads(file.metadata()["config"])))
            model.load_state_dict({name: file.get_tensor(name) for name in model.state_dict()})
        return model.eval().requires_grad_(False)

    def converted(self, device: str, dtype: torch.dtype, int8: bool = False) -> "TextModel":
        """Move the model to a device and a dtype; ``int8`` quantizes the layers' weights, on the CPU."""
        model = self
        for weights in self.parameters():
            weights.data = weights.data.to(dtype)
        if int8:
            with warnings.catch_warnings():  # torch will move this to another package
                warnings.simplefilter("ignore")
                model = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
        return model.to(device)

    def save(self, path: Path) -> None:
        """Write the weights as bfloat16, with the configuration in the file's metadata."""
        weights = {name: tensor.bfloat16() for name, tensor in self.state_dict().items()}
        path.write_bytes(save(weights, metadata={"config": json.dumps(asdict(self.config))}))

    def forward(self, tokens: Tensor, positions: Tensor, attends: Iterable[Attend]) -> Tensor:
        """Map token ids [T] at these positions to [T, W]; each layer has an ``attend`` of its own."""
        x: Tensor = self.embed(tokens)
        rotation = self.rotation[positions]
        for block, attend in zip(self.blocks, attends, strict=True):
            x = block(x, rotation, attend)
        return x

    def all_logits(self, tokens: Tensor) -> Tensor:
        """Return the logits of every position, [B * T, V] for tokens [B, T], without a cache."""
        rows, length = tokens.shape
        positions = torch.arange(length).repeat(rows)
        x: Tensor = self(tokens.flatten(), positions, [causal_attention(rows)] * len(self.blocks))
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Map x [T, W] to the logits [T, V] of what follows each."""
        return F.linear(norm(x) * LAST_GAIN, self.embed.weight)


def norm(x: Tensor) -> Tensor:
    """Scale the last dimension to a root mean square of 1."""
    return F.rms_norm(x, x.shape[-1:])


def rotation_table(config: TextConfig) -> Tensor:
    """Return unit complex numbers [C, 3, 1, D/2]: one turn for queries, one for keys, none for values."""
    speeds = config.rotary_base ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    angles = torch.outer(torch.arange(config.context), speeds)[:, None, None]
    turns = torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turns, turns, torch.ones_like(turns)], dim=1)


def rotate(qkv: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair of neighbouring numbers of [T, 3, H, D] by its position's angle, in one step."""
    pairs = torch.view_as_complex(qkv.float().view(*qkv.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(qkv.dtype)


def causal_attention(rows: int) -> Attend:
    """Return attention within each of several sequences of one length, laid end to end."""

    def attend(qkv: Tensor) -> Tensor:
        query, keys, values = qkv.view(rows, -1, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, keys, values, is_causal=True)
        return mixed.transpose(1, 2).flatten(0, 1)

    return attend
