"""The models for comparing peers: a folder each, with files for labkit and files for the peers."""

from pathlib import Path

from labkit.errors import StartError

SEED = 0
PROMPT_TOKENS = 16
SHORTEST = 32  # every story has more tokens
NAMES = ("tiny", "random")
"""The shipped model, and one six times its size with random weights, for which there are targets."""


def write(name: str, folder: Path) -> int:
    """Write one of the models into a folder; returns how many parameters it has.

    Raises:
        StartError: the shipped weights are missing.
    """
    # not at the top, so that showing results does not import torch
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
    """Return `count` beginnings of stories, each of `tokens` tokens that every model has.

    A story that is too short goes on with the next.
    """
    from labkit.models import stories
    from labkit.models.tokenizer import Tokenizer

    tokenizer = Tokenizer.load()
    more = tokens // SHORTEST
    texts = list(stories.corpus(count + more, SEED))
    return [tokenizer.encode(" ".join(texts[n : n + more + 1]))[:tokens] for n in range(count)]
