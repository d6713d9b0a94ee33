"""The compiled kernels. Private: the Python around it checks and allocates; what it expects is in docs/design.md."""

from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]

CELLS: dict[str, tuple[int, bool]]
"""The kinds of cells: how many gates, and whether there is a state c."""

def isa_available() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def build_info() -> dict[str, Any]: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def threads_for(asked: int, work: float) -> int: ...
def set_small_work(work: float) -> None: ...
def checksum(array: _Array) -> int: ...
def fma_peak(dtype: str = "float32", isa: str | None = None) -> float: ...
def pointwise(function: str, x: _Array, y: _Array, isa: str | None = None) -> None: ...

class Kernel:
    def __init__(self, kind: str, dtype: str, input_size: int, hidden_size: int, isa: str | None = None) -> None: ...
    @property
    def panel_size(self) -> int: ...
    @property
    def panel_size_backward(self) -> int: ...
    def pack(
        self, weight_ih: _Array, weight_hh: _Array, bias_ih: _Array | None, bias_hh: _Array | None, out: _Array
    ) -> None: ...
    def pack_backward(self, weight_ih: _Array, weight_hh: _Array, out: _Array) -> None: ...
    def unpack(
        self, panels: _Array, weight_ih: _Array, weight_hh: _Array, bias_ih: _Array | None, bias_hh: _Array | None
    ) -> None: ...
    def tape_size(self, T: int, B: int) -> int: ...
    def forward(
        self,
        panels: _Array,
        x: _Array,
        y: _Array,
        h0: _Array | None,
        c0: _Array | None,
        hT: _Array,
        cT: _Array | None,
        *,
        reset_h: _Array | None,
        reset_c: _Array | None,
        lengths: _Array | None,
        resets: _Array | None,
        reverse: bool,
        tape: _Array | None,
        num_threads: int,
    ) -> None: ...
    def backward(
        self,
        panels: _Array,
        panels_backward: _Array,
        x: _Array,
        tape: _Array,
        dy: _Array | None,
        dhT: _Array | None,
        dcT: _Array | None,
        dx: _Array | None,
        dh0: _Array | None,
        dc0: _Array | None,
        dpanels: _Array,
        *,
        h0: _Array | None,
        c0: _Array | None,
        reset_h: _Array | None,
        reset_c: _Array | None,
        d_reset_h: _Array | None,
        d_reset_c: _Array | None,
        lengths: _Array | None,
        resets: _Array | None,
        reverse: bool,
        num_threads: int,
    ) -> None: ...

class Dense:
    def __init__(self, dtype: str, input_size: int, output_size: int, isa: str | None = None) -> None: ...
    @property
    def panel_size(self) -> int: ...
    @property
    def panel_size_backward(self) -> int: ...
    def pack(self, weight: _Array, bias: _Array | None, out: _Array) -> None: ...
    def pack_backward(self, weight: _Array, out: _Array) -> None: ...
    def unpack(self, panels: _Array, weight: _Array, bias: _Array | None) -> None: ...
    def forward(self, panels: _Array, x: _Array, y: _Array, num_threads: int) -> None: ...
    def backward(
        self,
        panels_backward: _Array,
        x: _Array,
        dy: _Array,
        dx: _Array | None,
        dpanels: _Array,
        num_threads: int,
    ) -> None: ...
