"""Networks compiled by ``torch.compile``: the same figures, and what cannot be compiled runs as it is.

Not among the figures that CI computes without AVX: the compiler takes the processor's instructions, whatever PyTorch's
own kernels are told.
"""

import warnings
from collections.abc import Callable

import pytest
import torch
from helpers import small_net

from mmard.training.update import compiled


def test_what_cannot_be_compiled_runs_as_it_is_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Callable[..., object]:
        def fail(_: object) -> object:
            raise RuntimeError("no compiler\nand a page of reasons")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    net, x = small_net().eval(), torch.rand(3, 1, 8, 8)
    fast = compiled(net, "student")
    with pytest.warns(UserWarning, match=r"torch.compile fails for the student, which runs as it is: no compiler$"):
        assert torch.equal(fast(x), net(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert torch.equal(fast(x), net(x))


def no_compiler() -> str:
    """What ``torch.compile`` says where it cannot compile even an addition: a missing or unfit C++ compiler."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.ones(64))
    except Exception as e:  # compilers fail in every way there is
        return str(e)[-600:]
    return ""


def test_a_compiled_network_says_the_same() -> None:
    if why := no_compiler():
        pytest.skip(f"torch.compile compiles nothing on this machine: {why}")
    net, x = small_net().eval(), torch.rand(3, 1, 8, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("error", message=".*torch.compile fails.*")
        torch.testing.assert_close(compiled(net, "student")(x), net(x), rtol=1e-4, atol=1e-5)
