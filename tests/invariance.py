"""For tests that compare bits: the engine's own check, and a skip if it fails."""

from functools import cache

import pytest
import torch

from labkit.engine.local import INVARIANT_ROWS
from labkit.models import invariance
from labkit.models.packed import PackedModel
from labkit.models.ragged import Model
from labkit.models.text import TextModel


def skip_unless_kept(model: Model, rows: int) -> None:
    """Skip the test if a text's bits depend on its batch although `rows` rows are computed at a time."""
    if cause := invariance.depends_on_company(model, rows):
        pytest.skip(f"this machine's libraries do not keep bits: {cause} changes them")


@cache
def refusal() -> str | None:
    """Why an engine with `batch_invariant` does not start here; None if it does."""
    torch.set_num_threads(1)
    return invariance.depends_on_company(PackedModel(TextModel.load(), measured=False), INVARIANT_ROWS)
