"""Choice of precision and matrix library, and its effect on results."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from core import errors
from core.models import compute

AMD_BF16 = compute.Cpu("AuthenticAMD", frozenset({"avx2", "avx512_bf16"}))
AMD_OLD = compute.Cpu("AuthenticAMD", frozenset({"avx2"}))
INTEL_AMX = compute.Cpu("GenuineIntel", frozenset({"avx512_bf16", "amx_bf16"}))
INTEL_OLD = compute.Cpu("GenuineIntel", frozenset({"avx512f"}))


# Prints how many of 2^20 denormal products of two threads are not zero, forward and backward.
DENORMALS = """
import torch
from core.models import compute
compute.set_threads(2)
small = torch.full((1 << 20,), 1e-20, requires_grad=True)
product = small * 1e-20
product.backward(torch.full((1 << 20,), 1e-20))
print(int((product != 0).sum()), int((small.grad != 0).sum()))
"""


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with compute.restored_settings():
        yield


def test_all_threads_take_denormals_as_zero() -> None:
    done = subprocess.run([sys.executable, "-c", DENORMALS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


def test_a_caller_gets_its_denormals_back() -> None:
    for flushes in (False, True):
        torch.set_flush_denormal(flushes)
        with compute.restored_settings():
            compute.set_threads(1)
            assert compute.flushes_denormals()
        assert compute.flushes_denormals() == flushes


@pytest.mark.parametrize(
    ("cpu", "expected"), [(AMD_BF16, "bf16"), (AMD_OLD, "fp32"), (INTEL_AMX, "bf16"), (INTEL_OLD, "fp32")]
)
def test_auto_precision_follows_the_cpu(cpu: compute.Cpu, expected: str) -> None:
    assert compute.resolve_precision("auto", "cpu", cpu) == expected
    assert compute.resolve_precision("fp32", "cpu", cpu) == "fp32"
    assert compute.resolve_precision("bf16", "cpu", cpu) == "bf16"


@pytest.mark.parametrize(
    ("cpu", "precision", "expected"),
    [
        (AMD_BF16, "fp32", "onednn"),
        (AMD_BF16, "bf16", "default"),
        (AMD_OLD, "fp32", "onednn"),
        (INTEL_AMX, "fp32", "default"),
        (INTEL_OLD, "fp32", "default"),
    ],
)
def test_auto_matmul_is_onednn_on_amd_in_fp32(cpu: compute.Cpu, precision: compute.Precision, expected: str) -> None:
    assert compute.use_matmul("auto", precision, cpu) == expected


def test_onednn_is_refused_with_amx() -> None:
    with pytest.raises(errors.UsageError, match="use default"):
        compute.use_matmul("onednn", "fp32", INTEL_AMX)


@pytest.mark.skipif(compute.this_cpu().has_amx, reason="this CPU has AMX, where onednn is refused")
def test_onednn_multiplies_in_fp32_and_default_restores() -> None:
    torch.manual_seed(1)
    first, second = torch.randn(64, 512), torch.randn(512, 512)
    exact = first.double() @ second.double()
    plain = first @ second
    compute.use_matmul("onednn", "fp32")
    # Rounded to bf16 the largest error would be near 4e-3.
    assert ((first @ second).double() - exact).abs().max() < 1e-5 * exact.abs().max()
    compute.use_matmul("default", "fp32")
    assert torch.equal(first @ second, plain)


def test_autocast_multiplies_in_the_precision() -> None:
    linear = torch.nn.Linear(4, 4)
    expected: dict[compute.Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
    for precision, dtype in expected.items():
        with compute.autocast("cpu", precision):
            assert linear(torch.ones(1, 4)).dtype == dtype


def test_cpuinfo_is_read_from_its_first_processor() -> None:
    text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert compute.parse_cpu(text) == compute.Cpu("AuthenticAMD", frozenset({"fpu", "avx512_bf16"}))
    assert compute.parse_cpu("") == compute.Cpu("", frozenset())


@pytest.fixture
def _unproved() -> Iterator[None]:
    compute.check_bf16.cache_clear()
    compute.onednn_has_bf16_lstm.cache_clear()
    yield
    compute.check_bf16.cache_clear()
    compute.onednn_has_bf16_lstm.cache_clear()


@pytest.mark.usefixtures("_unproved")
@pytest.mark.parametrize("in_inference", [False, True])
def test_bf16_is_proved_without_a_random_number_of_the_run(in_inference: bool) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with torch.inference_mode(in_inference):
        compute.check_bf16("cpu")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.usefixtures("_unproved")
def test_an_lstm_that_onednn_cannot_compute_in_bf16_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = torch.nn.LSTM.forward

    def without_a_kernel(self: torch.nn.LSTM, *args: torch.Tensor) -> object:
        if torch._C._get_mkldnn_enabled():
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")
        return forward(self, args[0])

    # As with ONEDNN_MAX_CPU_ISA=AVX2 on a CPU whose flags promise more.
    monkeypatch.setattr(torch.nn.LSTM, "forward", without_a_kernel)
    compute.check_bf16("cpu")
    lstm, x = torch.nn.LSTM(4, 4), torch.ones(2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16), compute.native_lstm_if_needed(x):
        assert bool(lstm(x)[0].isfinite().all())
    assert torch._C._get_mkldnn_enabled()


@pytest.mark.usefixtures("_unproved")
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_bf16_that_the_cpu_does_not_compute_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_kernel(*_: object) -> None:
        raise RuntimeError("could not create a primitive\nand more")

    monkeypatch.setattr(getattr(torch.nn, kind), "forward", without_a_kernel)
    with pytest.raises(errors.UsageError, match=rf"bf16: torch does not compute a {kind} .*primitive\); use fp32"):
        compute.resolve_precision("bf16", "cpu")
    assert compute.resolve_precision("fp32", "cpu") == "fp32"
