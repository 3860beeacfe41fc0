"""Trains the text model on stories from the grammar: ``python -m labkit.models.train``.

Everything is drawn from one seed and runs for a fixed number of steps on one thread, so the same command
gives the same weights on the same kind of machine.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.models import stories
from labkit.models.ragged import KVPool, Part, step
from labkit.models.text import DEFAULT_WEIGHTS, WEIGHTS_FILE, TextConfig, TextModel
from labkit.models.tokenizer import TOKENIZER_FILE, Tokenizer

VOCAB_SIZE = 1024
BATCH_TOKENS = 2048
SHORT_ROW = 128
SHORT_SHARE = 0.75
PEAK_RATE = 3e-3
WARM_UP = 50
HELD_OUT = 300
TEMPERATURE = 0.8
PROMPTS = ("Once upon a time", "One morning, Mia", "Tell me a story about a dragon.\n", "Leo was a")


@dataclass(frozen=True)
class Report:
    """What a training run measured; losses are nats per token, shares are between 0 and 1."""

    parameters: int
    minutes: float
    train_loss: float
    held_out_loss: float
    grammatical: float
    keeps_hero: float
    keeps_cast: float
    samples: tuple[str, ...]


def train(steps: int, story_count: int, seed: int, out: Path, samples: int = 200) -> Report:
    """Train on ``story_count`` stories and write weights, tokenizer and model card into ``out``.

    The files appear together at the end; an interrupted run leaves none.
    """
    torch.manual_seed(seed)
    began = time.monotonic()
    tokenizer = Tokenizer.train(stories.corpus(min(story_count, 10_000), seed), VOCAB_SIZE)
    model = TextModel(TextConfig(vocab_size=tokenizer.vocab_size))
    lengths = (SHORT_ROW, model.config.context)
    train_loss = fit(model, [rows(story_count, seed, tokenizer, length) for length in lengths], steps)
    minutes = (time.monotonic() - began) / 60
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        draft = Path(name)
        model.save(draft / WEIGHTS_FILE)
        tokenizer.save(draft / TOKENIZER_FILE)
        report = examine(TextModel.load(draft), tokenizer, seed, samples, minutes, train_loss)
        card = model_card(report, f"--steps {steps} --stories {story_count} --seed {seed}")
        (draft / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        for file in draft.iterdir():
            file.replace(out / file.name)
    return report


def rows(story_count: int, seed: int, tokenizer: Tokenizer, length: int) -> Tensor:
    """Return token ids [N, length + 1]; each row starts with a story and packs as many as it can."""

    def cut() -> Iterator[list[int]]:
        row: list[int] = []
        for text in stories.corpus(story_count, seed):
            row += [*tokenizer.encode(text), tokenizer.eos_id]
            if len(row) > length:
                yield row[: length + 1]
                row = []

    return torch.tensor(list(cut()))


def fit(model: TextModel, data: Sequence[Tensor], steps: int) -> float:
    """Train in place with AdamW, warm-up and cosine decay to zero; return the mean loss of the last tenth.

    The first of the two sets has short rows: related words are easier to find among fewer tokens.
    """
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.05, fused=True)
    short_steps = int(steps * SHORT_SHARE)
    schedule = chain(batches(data[0], short_steps), batches(data[1], steps - short_steps))
    losses: list[float] = []
    began = time.monotonic()
    for number, batch in enumerate(schedule):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate(number, steps)
        optimizer.step()
        losses.append(loss.item())
        if (number + 1) % 50 == 0 or number + 1 == steps:
            left = (time.monotonic() - began) / (number + 1) * (steps - number - 1)
            print(f"step {number + 1:5}/{steps}  loss {losses[-1]:.3f}  {left:4.0f} s left", flush=True)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def batches(data: Tensor, count: int) -> Iterator[Tensor]:
    """Yield ``count`` batches of rows in random order, each row once before any comes again."""
    size = BATCH_TOKENS // (data.shape[1] - 1)
    rounds = 1 + count * size // len(data)
    order = torch.cat([torch.randperm(len(data)) for _ in range(rounds)])
    return (data[order[n * size : (n + 1) * size]] for n in range(count))


def rate(step: int, steps: int) -> float:
    """The learning rate at a step."""
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def loss_of(model: TextModel, batch: Tensor) -> Tensor:
    """Cross-entropy of each next token of a batch [B, T + 1]."""
    return F.cross_entropy(model.all_logits(batch[:, :-1]), batch[:, 1:].flatten())


@torch.inference_mode()
def examine(
    model: TextModel, tokenizer: Tokenizer, seed: int, samples: int, minutes: float, train_loss: float
) -> Report:
    """Measure a model on stories that are new to it and on its own texts."""
    unseen = rows(HELD_OUT, seed + 1_000_003, tokenizer, model.config.context)
    held_out = sum(loss_of(model, row[None]).item() for row in unseen) / len(unseen)
    generator = torch.Generator().manual_seed(seed)
    texts = [write(model, tokenizer, PROMPTS[n % len(PROMPTS)], generator) for n in range(samples)]
    sentences = list(chain.from_iterable(map(stories.sentences, texts)))
    return Report(
        parameters=sum(p.numel() for p in model.parameters()),
        minutes=minutes,
        train_loss=train_loss,
        held_out_loss=held_out,
        grammatical=sum(map(stories.is_grammatical, sentences)) / len(sentences),
        keeps_hero=sum(stories.keeps_its_cast(text, ("NAME", "hero")) for text in texts) / len(texts),
        keeps_cast=sum(map(stories.keeps_its_cast, texts)) / len(texts),
        samples=tuple(texts[: len(PROMPTS)]),
    )


def write(model: TextModel, tokenizer: Tokenizer, prompt: str, generator: torch.Generator) -> str:
    """Continue a prompt up to the end of the story (at most 200 tokens), at a temperature of 0.8."""
    ids = tokenizer.encode(prompt)
    pool, fresh = KVPool(model.config, slots=1), ids
    while len(ids) < 200:
        logits = step(model, pool, [Part(0, len(ids) - len(fresh), fresh)])
        chances = (logits[0] / TEMPERATURE).softmax(dim=-1)
        fresh = [int(torch.multinomial(chances, 1, generator=generator))]
        if fresh == [tokenizer.eos_id]:
            break
        ids = ids + fresh
    return tokenizer.decode(ids)


def model_card(report: Report, options: str) -> str:
    """The card that is shipped beside the weights."""
    sample_texts = "\n\n".join("> " + text.replace("\n", "\n> \n> ") for text in report.samples)
    return f"""# A small model that writes little stories

- **Made by** `python -m labkit.models.train {options}`: {report.minutes:.1f} minutes on one CPU core.
- **Data**: stories which a grammar (`labkit/models/stories.txt`) wrote during training; no other text.
- **Model**: decoder-only, {report.parameters:,} parameters, context of {TextConfig.context:,}, bfloat16.
- **Loss** (nats a token): {report.train_loss:.3f} in training, {report.held_out_loss:.3f} on unseen stories.
- **Samples** at temperature {TEMPERATURE}: {report.grammatical:.1%} of the sentences are grammatical (the
  grammar can write them); {report.keeps_hero:.1%} of the stories keep the hero's name and pronoun to the end;
  {report.keeps_cast:.1%} keep every name, animal, thing and place.

## Samples

{sample_texts}

## Limits

It knows nothing but these stories: no facts, no language but English, and one instruction, "Tell me a story
about Mia." and a line break. It seldom follows a request for a kind of hero ("a robot"). On other prompts it
drifts into a story or into babble. It is a thing to stream and to measure, not an assistant.
"""


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m labkit.models.train", description=__doc__)
    parser.add_argument("--steps", type=int, default=1600, help="steps of 2,048 tokens (%(default)s)")
    parser.add_argument("--stories", type=int, default=40_000, help="how many to learn from (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DEFAULT_WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # vanishing gradients are denormal numbers, which are 10 times slower
    try:
        report = train(options.steps, options.stories, options.seed, options.out)
    except KeyboardInterrupt:
        raise SystemExit("interrupted: nothing was saved") from None
    print(f"held-out loss {report.held_out_loss:.3f}, {report.grammatical:.1%} of sentences grammatical")
    print(f"{report.keeps_hero:.1%} of stories keep their hero; saved in {options.out}")


if __name__ == "__main__":
    main()
