"""The mark of tests that compare bits: they run where this processor's library keeps its sums' order."""

import pytest
import torch

has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
bit_for_bit = pytest.mark.skipif(
    not has_mkl or torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="sums are in another order with another matrix library or on another processor",
)
