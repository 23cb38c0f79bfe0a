"""The loss of the output layer: values and gradients of plain cross entropy, however many rows there are."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from core.models import compute, token_loss

VOCABULARY = 2000
Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(num_rows: int, vocabulary_size: int = VOCABULARY) -> Problem:
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(num_rows, 16, generator=chance, requires_grad=True)
    weight = torch.randn(vocabulary_size, 16, generator=chance).mul(0.3).requires_grad_()
    bias = torch.randn(vocabulary_size, generator=chance).mul(0.1).requires_grad_()
    return features, weight, bias, torch.randint(vocabulary_size, (num_rows,), generator=chance)


def reference(of: Problem, smoothing: float) -> Tensor:
    features, weight, bias, targets = (part.double() if part.is_floating_point() else part for part in of)
    return F.cross_entropy(F.linear(features, weight, bias), targets, reduction="sum", label_smoothing=smoothing)


def assert_equals_reference(of: Problem, smoothing: float, tolerance: float) -> None:
    loss, nll = token_loss.summed(*of, smoothing)
    expected = reference(of, smoothing)
    assert loss.dtype == nll.dtype == torch.float32
    assert not nll.requires_grad
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    assert nll.item() == pytest.approx(reference(of, 0.0).item(), rel=tolerance)
    for gradient, wanted in zip(
        torch.autograd.grad(3 * loss, of[:3]), torch.autograd.grad(3 * expected, of[:3]), strict=True
    ):
        assert gradient.dtype == torch.float32
        assert (gradient - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_rows", [9, 525, 1024, 1025, 1031])
def test_loss_and_gradients_equal_plain_cross_entropy(num_rows: int, smoothing: float) -> None:
    # Few logits; then slices of 512 rows and a rest of 13, none, 1 and 7 rows.
    assert (num_rows * VOCABULARY > token_loss.FEW_LOGITS) == (num_rows > 9)
    assert_equals_reference(problem(num_rows), smoothing, 1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_rows", [9, 1031])
def test_products_in_bf16_change_loss_and_gradients_by_rounding_alone(num_rows: int, smoothing: float) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert_equals_reference(problem(num_rows), smoothing, 0.02)


def test_a_block_of_rows_in_bf16_may_end_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    of = problem(600)
    with torch.autocast("cpu", torch.bfloat16):
        whole = token_loss.summed(*of).loss
        monkeypatch.setattr(compute, "_OUTPUTS_IN_CACHE", 7 * VOCABULARY)
        monkeypatch.setitem(token_loss.BF16_SLICE_ROWS, "cpu", 320)
        parts = token_loss.summed(*of).loss
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    for gradient, wanted in zip(torch.autograd.grad(parts, of[:3]), torch.autograd.grad(whole, of[:3]), strict=True):
        assert (gradient - wanted).norm() <= 0.01 * wanted.norm()


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the sizes of matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.sizes.add(tuple(size for part in args if isinstance(part, Tensor) for size in part.shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("vocabulary_size", [VOCABULARY, 100])
def test_products_in_bf16_have_few_shapes_however_many_rows_there_are(vocabulary_size: int) -> None:
    """A kernel is compiled for each shape, which takes longer than the product."""
    products = Products()
    for num_rows in range(577, 641, 9):
        with torch.autocast("cpu", torch.bfloat16), products:
            of = problem(num_rows, vocabulary_size)
            torch.autograd.grad(token_loss.summed(*of).loss, of[:3])
    assert len(products.sizes) == 3  # logits, and the gradients of features and weights


def test_entries_that_fill_up_a_kernel_have_no_probability() -> None:
    """65 entries of equal logits: 128 would give ln 128."""
    zeros = torch.zeros(65, 3), torch.zeros(65)
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr(token_loss, "FEW_LOGITS", 0)
        loss, _ = token_loss.summed(torch.randn(5, 3), *zeros, torch.arange(5))
    assert loss.item() == pytest.approx(5 * math.log(65))


def test_gradients_are_scaled_once() -> None:
    """They are scaled in place: a second pass over the same graph is an error, and never a wrong number."""
    of = problem(1025)
    loss = token_loss.summed(*of).loss
    torch.autograd.grad(loss, of[:3], retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, of[:3])


@pytest.mark.parametrize("few_logits", [0, 1 << 20])
def test_the_loss_of_a_target_without_probability_is_its_distance_to_the_largest_logit(
    few_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With logits 0 and 200 the smaller probability, exp(-200), is 0 in fp32."""
    monkeypatch.setattr(token_loss, "FEW_LOGITS", few_logits)
    weight, features = torch.tensor([[0.0], [200.0]]), torch.ones(1, 1, requires_grad=True)
    loss, nll = token_loss.summed(features, weight, torch.zeros(2), torch.tensor([0]))
    assert nll.item() == pytest.approx(200.0)
    assert torch.autograd.grad(loss, features)[0].item() == pytest.approx(200.0)


@pytest.mark.parametrize("few_logits", [0, 1 << 20])
def test_label_smoothing_worked_by_hand(few_logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entries with logits 0 and ln 3: probabilities 1/4 and 3/4; 0.2 of the target's is spread evenly."""
    monkeypatch.setattr(token_loss, "FEW_LOGITS", few_logits)
    weight = torch.tensor([[0.0], [math.log(3)]])
    loss, nll = token_loss.summed(torch.ones(1, 1), weight, torch.zeros(2), torch.tensor([1]), 0.2)
    assert nll.item() == pytest.approx(-math.log(0.75))
    assert loss.item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_the_loss_of_a_uniform_model_is_the_log_of_the_vocabulary_size() -> None:
    loss, _ = token_loss.summed(torch.randn(5, 3), torch.zeros(7, 3), torch.zeros(7), torch.arange(5))
    assert loss.item() == pytest.approx(5 * math.log(7))


def test_without_gradients_the_loss_is_the_same() -> None:
    of = problem(600)
    with torch.no_grad():
        loss, _ = token_loss.summed(*of, 0.1)
    assert torch.equal(loss, token_loss.summed(*of, 0.1).loss)
