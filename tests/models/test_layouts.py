"""How weights lie: every layout multiplies alike, and the choice is measured and thrifty."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.models import layouts
from labkit.models.layouts import LAYOUTS, Blocks, Layout, Plain, WholeColumns
from labkit.models.packed import PackedModel
from labkit.models.ragged import KVPool, Part, step
from labkit.models.text import TextModel

torch.set_num_threads(1)


def pack(layout: type[Layout], weight: Tensor) -> Layout:
    try:
        return layout(weight)
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"this PyTorch has no {layout.__name__}: {error}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("outputs", [96, 50])
def test_every_layout_multiplies_alike(layout: type[Layout], rows: int, outputs: int) -> None:
    weight, x, into = torch.randn(outputs, 24), torch.randn(rows, 24), torch.randn(rows, outputs)
    with torch.inference_mode():
        product, expected = pack(layout, weight), F.linear(x, weight)
        torch.testing.assert_close(product(x), expected)
        expected += into
        product.add(x, into)
    torch.testing.assert_close(into, expected)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ([(1.0, 0.9, 2.0)] * 3, (WholeColumns, WholeColumns, WholeColumns)),
        ([(1.0, 0.5, 2.0)] * 3, (Plain, Plain, Plain)),
        ([(1.0, 2.0, 2.0), (2.0, 1.9, 1.0), (4.0, 2.0, 2.1)], (WholeColumns, Blocks, Blocks)),
    ],
    ids=["as good as the simplest", "much faster", "no third copy for a little"],
)
def test_a_layout_has_to_earn_its_memory(
    seconds: list[tuple[float, ...]], chosen: tuple[type[Layout], ...]
) -> None:
    times = [dict(zip((WholeColumns, Plain, Blocks), each, strict=True)) for each in seconds]
    assert layouts._choose(times) == chosen


def test_a_layout_that_is_not_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(Layout):
        def __init__(self, weight: Tensor) -> None:
            raise NotImplementedError

    monkeypatch.setattr(layouts, "LAYOUTS", (Missing, Plain))
    monkeypatch.setattr(layouts, "_choose", lambda times: tuple(next(iter(each)) for each in times))
    assert layouts.fastest.__wrapped__(((8, 4),), 1) == {(8, 4): (Plain,) * 3}


def test_a_large_model_is_measured_in_part() -> None:
    shapes = [(1024, 1024)] * 100 + [(5000, 1024)]
    measured = layouts._enough(shapes)
    assert measured[-1] == (5000, 1024)
    assert sum(4 * n * k for n, k in measured[:-1]) == layouts.MEASURED_BYTES


def test_layouts_are_measured_once_and_not_where_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model, measured = TextModel.load(), list[int]()

    def sweeps(_: object, __: object, rows: int) -> layouts.Times:
        measured.append(rows)
        return {
            shape: {WholeColumns: 1.0}
            for shape in ((384, 128), (128, 128), (704, 128), (128, 352), (1024, 128))
        }

    monkeypatch.setattr(layouts, "_sweeps", sweeps)
    layouts.fastest.cache_clear()
    PackedModel(model, measured=False)
    assert not measured
    for _ in range(2):
        PackedModel(model)
    assert tuple(measured) == layouts.MEASURED_ROWS
    layouts.fastest.cache_clear()


def test_processes_that_choose_otherwise_write_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chance that another layout draws another token is below one in 10,000 for each token."""
    model, text = TextModel.load(), torch.randint(1024, (300,), generator=torch.Generator().manual_seed(0))
    chances = []
    for layout in LAYOUTS:
        pack(layout, torch.ones(8, 8))
        monkeypatch.setattr(
            "labkit.models.packed.fastest",
            lambda shapes, threads, layout=layout: dict.fromkeys(shapes, (layout,) * 3),
        )
        packed, pool = PackedModel(model), KVPool(model.config, 1)
        rows = [step(packed, pool, [Part(0, 0, text[:200].tolist())])]
        rows += [step(packed, pool, [Part(0, n, [int(text[n])])]) for n in range(200, 300)]
        chances.append(torch.cat(rows).double().softmax(-1))
    apart = [float((chance - chances[0]).abs().sum(-1).max() / 2) for chance in chances]
    assert max(apart) < 1e-4
