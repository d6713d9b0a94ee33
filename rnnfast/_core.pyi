"""The compiled kernels. Private: the Python around it checks and allocates. It trusts nothing, and checks every array.

A call of `Kernel.forward` or `Kernel.backward` is one tuple of `rnnfast._call`, which says each field and its shape.
Arrays have the kernel's dtype. Panels are packed weights in the kernel's own layout, 1-D.
"""

from typing import Any

from numpy.typing import NDArray

from ._call import BackwardCall, ForwardCall

_Array = NDArray[Any]
_Params = tuple[_Array | None, ...]

CELLS: dict[str, tuple[int, int]]
"""The fused kinds of cells: how many gates and how many states."""
FORWARD_FIELDS: tuple[str, ...]
"""The fields of `rnnfast._call.ForwardCall`, as `Kernel.forward` reads them by position."""
BACKWARD_FIELDS: tuple[str, ...]
"""Those of `BackwardCall`, for `Kernel.backward`."""

OPERATIONS: dict[str, int]
"""The operations of the interpreter: how many operands each has."""

def isa_available() -> list[str]:
    """The instruction sets that this build has and this CPU runs, the slowest first."""

def isa() -> str:
    """The instruction set that new kernels use."""

def set_isa(name: str) -> None:
    """Choose the instruction set that kernels made from now on use."""

def build_info() -> dict[str, Any]:
    """Version, compiler and OpenMP runtime."""

def get_num_threads() -> int:
    """See `rnnfast.get_num_threads`."""

def set_num_threads(n: int) -> None:
    """See `rnnfast.set_num_threads`."""

def threads_for(asked: int, work: float) -> int:
    """How many threads a call of so many multiply-adds would use; `asked` 0 is the default."""

def threads_for_steps(asked: int, work_per_step: float, steps: int, batch: int, parts: int) -> int:
    """The same for a recurrent call, whose units can be partitioned into so many parts."""

def section_steps(batch: int) -> int:
    """See `rnnfast.section_steps`."""

def set_cpus(cpus: int) -> None:
    """The CPUs that calls may use, however many threads they ask for; the default may be higher."""

def set_patience(lost: int) -> None:
    """The nanoseconds that a call's threads may lose with waiting before the rest is left to one.

    0, for tests: they always leave it, at the first seam.
    """

def set_small_work(work: float) -> None:
    """Calls of fewer multiply-adds run on one thread; 0 makes small tests run on several."""

def line_transfer() -> float:
    """The seconds that a cache line takes from one core to another; 0 where there is one thread."""

def checksum(array: _Array) -> int:
    """A number that moves if the contents do, of an array with any strides."""

def read_bandwidth(nbytes: int, threads: int = 1, isa: str | None = None) -> float:
    """GB/s at which threads read a buffer over and over, each its share."""

def fma_peak(dtype: str = "float32", isa: str | None = None) -> float:
    """GFLOP/s of one thread that does nothing but multiply-adds in registers."""

def pointwise(function: str, x: _Array, y: _Array, isa: str | None = None) -> None:
    """Write an operation of the interpreter, of one operand, to `y`. For tests."""

class Program:
    """A described cell's `rnnfast.description.program.Program`, read and checked once for many kernels."""

    def __init__(self, program: Any) -> None: ...

class Kernel:
    """One cell in one direction at given sizes, with one instruction set (None: the active one).

    `kind` is a fused kind, or a `Program`; `hidden_size` is then the widths of all its domains. Parameters go in and
    come out as a tuple in the kernel's order: weight_ih, weight_hh, bias_ih and bias_hh of a fused kind, those of the
    program otherwise. A missing one is None.
    """

    def __init__(
        self,
        kind: str | Program,
        dtype: str,
        input_size: int,
        hidden_size: int | tuple[int, ...],
        isa: str | None = None,
    ) -> None: ...
    @property
    def panel_size(self) -> int:
        """Elements of the panels that forward reads."""

    @property
    def panel_size_backward(self) -> int:
        """Elements of the panels that backward reads besides."""

    @property
    def gradient_size(self) -> int:
        """Elements of `dpanels`: `panel_size` gradients, and what rounding has left of the vectors' sums."""

    def pack(self, params: _Params, out: _Array) -> None:
        """Pack for forward; `out` has `panel_size` elements."""

    def pack_backward(self, params: _Params, out: _Array, dx: bool = True) -> None:
        """Pack for backward; without `dx`, not what dx alone is computed from."""

    def unpack(self, panels: _Array, params: _Params) -> None:
        """The inverse of `pack`: gradients out of their panels."""

    @property
    def pairs_size(self) -> int:
        """Words of 32 bits that the weights take in bfloat16; 0 for float64."""

    def to_pairs(self, panels: _Array, out: _Array) -> None:
        """The panels' weights rounded to bfloat16, ties to even; `out` is uint32."""

    @property
    def handle(self) -> Any:
        """A capsule "rnnfast.kernel", the `KernelHandle` of csrc/stack.h; valid while the kernel lives."""

    def tape_size(self, T: int, B: int) -> int:
        """Elements of the memory that a training call keeps."""

    def forward(self, call: ForwardCall) -> None:
        """Run all steps; see `rnnfast._call.ForwardCall`."""

    def backward(self, call: BackwardCall) -> None:
        """Run them backward: write `dpanels`, `dx`, `dstate` and `d_reset_state`, and use up the tape."""

class Dense:
    """``y = W x + b`` over rows, with one instruction set (None: the active one); the parameters are (weight, bias)."""

    def __init__(
        self, dtype: str, input_size: int, output_size: int, isa: str | None = None, activation: str = "identity"
    ) -> None: ...
    @property
    def handle(self) -> Any:
        """A capsule "rnnfast.head", the `HeadHandle` of csrc/heads/activations.h; valid while the kernel lives."""

    def activate(self, z: _Array) -> None:
        """Apply the activation to rows [N, O], in place."""

    def differentiate(self, kept: _Array, dy: _Array) -> None:
        """Turn dLoss/dy into dLoss/dz, in place, given y; of gelu and silu given z."""

    @property
    def panel_size(self) -> int:
        """As of `Kernel`; so are the next four."""

    @property
    def panel_size_backward(self) -> int: ...
    def pack(self, params: _Params, out: _Array) -> None: ...
    def pack_backward(self, params: _Params, out: _Array, dx: bool = True) -> None: ...
    def unpack(self, panels: _Array, params: _Params) -> None: ...
    def forward(self, panels: _Array, x: _Array, y: _Array, num_threads: int) -> None:
        """Write y [N, O] of x [N, I]."""

    def backward(
        self,
        panels_backward: _Array,
        x: _Array,
        dy: _Array,
        dx: _Array | None,
        dpanels: _Array,
        adds: bool,
        num_threads: int,
    ) -> None:
        """Write `dpanels`, or add to them, and write dx [N, I] unless it is None."""
