"""The models that peers are compared on: a folder each, with what labkit reads and what the peers read."""

from pathlib import Path

from labkit.errors import StartError

SEED = 0
PROMPT_TOKENS = 16
SHORTEST = 32  # every story has more tokens
NAMES = ("tiny", "random")
"""The shipped model; and one six times its size with random weights, on which targets are judged."""


def write(name: str, folder: Path) -> int:
    """Write one of the models into a folder; returns how many parameters it has.

    Raises:
        StartError: the shipped weights are missing.
    """
    # here, and not above, so that what only shows results need not wait for torch
    from labkit.models import export, seeded, text

    try:
        large = text.TextConfig(vocab_size=2048, context=1024, layers=6, heads=8, head_dim=32, hidden=704)
        model = text.TextModel.load() if name == "tiny" else seeded.seeded(large, SEED)
    except FileNotFoundError as error:
        raise StartError(str(error)) from None
    export.to_huggingface(model, folder)
    model.save(folder / text.WEIGHTS_FILE)
    return sum(weight.numel() for weight in model.parameters())


def prompts(count: int, tokens: int) -> list[list[int]]:
    """The beginnings of so many stories, so many tokens of each, in tokens that every model has.

    One that is too short goes on with the next.
    """
    from labkit.models import stories
    from labkit.models.tokenizer import Tokenizer

    tokenizer = Tokenizer.load()
    more = tokens // SHORTEST
    texts = list(stories.corpus(count + more, SEED))
    return [tokenizer.encode(" ".join(texts[n : n + more + 1]))[:tokens] for n in range(count)]
