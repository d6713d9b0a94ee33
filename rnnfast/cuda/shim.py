"""The one module that imports Numba: what a kernel may say, how it is compiled, and how it is launched.

A kernel here is a Python function on scalars and *pointers*. Everything else it needs comes from this module as a
device function with two implementations: an intrinsic (LLVM or inline PTX) for the GPU, and a twin in Python for
Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``), where each thread is a thread of the host. So every kernel runs,
fragments and hand-over included, on a machine without a GPU, and a move to another compiler with Numba's programming
model changes this file alone.

A) A pointer is an int64 on the GPU: two dozen arrays as Numba arguments would cost as many microseconds of launch as a
   hundred steps take. In the simulator it is a `_View`, which checks every index.
B) The simulator runs the blocks of a grid one after the other, and a grid that waits for itself would never end. So
   all blocks of a launch become one block of the simulator's, told apart by `threadIdx.y` and `.z`, and run at the
   same time; a `sync` is of the threads of one of them.
C) What crosses blocks within a launch goes through `publish` and `look`: words that carry a tag of their own, written
   and read at the scope of the GPU (`persistent`). The inline PTX clobbers memory, so who spins on it reads anew.
   `release_add` and `acquire` are a counter's, which a barrier of a whole grid takes; `benchmarks.gpu` times one.
D) Shared memory is reached through functions, too: Numba's own arrays take a 64-bit index that may be below zero, and
   volatile accesses through their generic pointers become loads and stores of system scope.
E) Launches are cooperative, unless a kernel's blocks never wait for each other: the driver then refuses a grid that
   could not be resident at once, which would wait for itself forever.

Rejected: Numba's array arguments (A); `cuda.cg.this_grid().sync()` (measured 1.3-1.7 us for 132 blocks against
1.2-1.3 us for one counter); `fastmath=True`, which silently makes tanh an approximation with a relative error of
2^-11.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from . import cache as _cache
from . import launch as _launch

try:
    from numba import config as _config
    from numba import cuda as _numba_cuda
except ImportError as error:
    raise ImportError(
        f'rnnfast.cuda needs numba-cuda and CuPy: pip install "rnnfast[cuda]" (importing numba.cuda said: {error})'
    ) from error

SIMULATED = bool(_config.ENABLE_CUDASIM)
"""Whether Numba simulates the device."""

Kernel = Callable[..., Any]
UNASKED_SHARED = 48 * 1024
"""The bytes of shared memory that a block gets without asking for more."""


class Limits(NamedTuple):
    """What the planner must know of a device."""

    multiprocessors: int
    shared_bytes: int
    """The shared memory that a block can ask for."""
    capability: tuple[int, int]
    name: str = ""


def available() -> bool:
    """Whether there is a device that kernels can be launched on; the simulated one counts."""
    if SIMULATED:
        return True
    try:
        return bool(_numba_cuda.is_available())
    except Exception:  # whatever a driver that is half there may raise
        return False


@functools.cache
def limits(device: int = 0) -> Limits:
    """The limits of a device."""
    if SIMULATED:
        return Limits(4, 232448, (9, 0), "simulator")
    with _numba_cuda.gpus[device]:
        found = _numba_cuda.get_current_device()
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        multiprocessors, shared = int(found.MULTIPROCESSOR_COUNT), int(found.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        return Limits(multiprocessors, shared, tuple(found.compute_capability), name)


if SIMULATED:
    from numba.cuda.simulator import kernel as _numba_simulator

    from . import simulator as _simulator
    from . import twins as _twins
    from .twins import *  # noqa: F403 - all that a kernel may say

    def kernel(types: str, *, threads: int = 256) -> Callable[[Kernel], Any]:
        """Decorates a kernel; `types` are its arguments': p a pointer, i an int64."""

        def decorate(function: Kernel) -> Any:
            simulated = _numba_cuda.jit(_twins.quiet(function))

            def launch(
                grid: int | tuple[int, int],
                block: int,
                arguments: tuple[Any, ...],
                *,
                shared: int = 0,
                stream: int = 0,
                cooperative: bool = False,
            ) -> None:
                assert len(arguments) == len(types), (function.__name__, len(arguments), len(types))
                assert block <= threads
                numbers = [value for value, letter in zip(arguments, types, strict=True) if letter == "i"]
                assert all(isinstance(value, int) for value in numbers), (function.__name__, numbers)
                with (
                    mock.patch.object(_numba_simulator, "BlockManager", _simulator.Launch),
                    _simulator.long_turns(),
                    _twins.shared_memory(shared),
                ):
                    simulated[(1,), (block, *np.atleast_1d(grid).tolist())](*arguments)

            return SimpleNamespace(launch=launch, function=function, types=types, threads=threads)

        return decorate

else:
    from llvmlite import ir as _ir

    # NumPy 2.5 has no row_stack any more, and numba-cuda 0.30 asks for it once, here, to say what its vstack is.
    # Rejected: a NumPy below 2.5 for everybody.
    with mock.patch.object(np, "row_stack", np.vstack, create=True):
        from numba.cuda.np.arrayobj import make_array as _make_array

    from cuda import pathfinder as _pathfinder
    from numba.cuda import types as _types
    from numba.cuda.cudadrv.driver import ObjectCode as _ObjectCode
    from numba.cuda.dispatcher import _Kernel as _KernelOf
    from numba.cuda.extending import intrinsic as _intrinsic

    cuda = _numba_cuda
    float32, uint32, int64, uint64 = _types.float32, _types.uint32, _types.int64, _types.uint64
    _F, _I16, _I32, _I64 = _ir.FloatType(), _ir.IntType(16), _ir.IntType(32), _ir.IntType(64)

    def pointer(array: Any) -> int:
        """What a kernel takes for a flat device array (or None)."""
        return 0 if array is None else int(array.data.ptr)

    def device(function: Kernel) -> Kernel:
        """Marks a function that kernels call."""
        return _numba_cuda.jit(device=True, forceinline=True)(function)  # type: ignore[no-any-return]

    @device
    def thread() -> Any:
        """The number of the thread in its block."""
        return cuda.threadIdx.x

    @device
    def block() -> Any:
        """The number of the block in its grid."""
        return cuda.blockIdx.x

    @device
    def blocks() -> Any:
        """The blocks of the grid."""
        return cuda.gridDim.x

    @device
    def group() -> Any:
        """The number of the block along the grid's second axis."""
        return cuda.blockIdx.y

    @device
    def threads() -> Any:
        """The threads of a block."""
        return cuda.blockDim.x

    @device
    def sync() -> None:
        """All threads of the block wait for each other."""
        cuda.syncthreads()

    def _returned(types: Any) -> Any:
        """Numba's type of what an intrinsic returns."""
        if types is None:
            return _types.void
        return types if not isinstance(types, tuple) else _types.UniTuple(types[0], types[1])

    def _make(arity: int, returns: Any, emit: Callable[..., Any]) -> Any:
        """An intrinsic of so many arguments: pointers and indices are int64, the others as they come."""
        names = ", ".join(f"a{k}" for k in range(arity))
        scope: dict[str, Any] = {"emit": emit, "returns": _returned(returns)}
        source = f"""
def typing({", ".join(["context", *(f"a{k}" for k in range(arity))])}):
    signature = returns({names})
    def codegen(context, builder, signature, values):
        return emit(context, builder, signature, values)
    return signature, codegen
"""
        exec(source, scope)  # Numba counts the parameters of the function it is given
        return _intrinsic(scope["typing"])

    def _int64(builder: Any, value: Any) -> Any:
        return value if value.type.width == 64 else builder.sext(value, _I64)

    def _address(builder: Any, values: Any, shift: int) -> Any:
        """p + i * 2^shift."""
        index = builder.shl(_int64(builder, values[1]), _ir.Constant(_I64, shift))
        return builder.add(_int64(builder, values[0]), index)

    def _global(builder: Any, values: Any, element: Any, shift: int) -> Any:
        return builder.inttoptr(_address(builder, values, shift), _ir.PointerType(element, addrspace=1))

    def _loader(element: Any, shift: int, returns: Any, finish: Callable[..., Any]) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return finish(builder, builder.load(_global(builder, values, element, shift), align=1 << shift))

        return _make(2, returns, emit)

    def _assembler(text: str, constraints: str, result: Any, arguments: list[Any]) -> Any:
        return _ir.InlineAsm(_ir.FunctionType(result, arguments), text, constraints, side_effect=True)

    def _vector_loader(
        text: str, letter: str, count: int, llvm: Any, numba: Any, shift: int, clobbers: bool = False
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result = _ir.LiteralStructType([llvm] * count)
            outputs = ",".join([f"={letter}"] * count)
            call = _assembler(text, f"{outputs},l{',~{memory}' * clobbers}", result, [_I64])
            loaded = builder.call(call, [_address(builder, values, shift)])
            parts = [builder.extract_value(loaded, k) for k in range(count)]
            return context.make_tuple(builder, signature.return_type, parts)

        return _make(2, (numba, count), emit)

    load = _loader(_F, 2, _types.float32, lambda builder, value: value)
    load_bool = _loader(
        _ir.IntType(8), 0, _types.boolean, lambda b, value: b.icmp_unsigned("!=", value, _ir.Constant(value.type, 0))
    )
    load_int64 = _loader(_I64, 3, _types.int64, lambda builder, value: value)
    load4 = _vector_loader("ld.global.v4.f32 {$0,$1,$2,$3}, [$4];", "f", 4, _F, _types.float32, 2)
    load2_words = _vector_loader("ld.global.v2.b32 {$0,$1}, [$2];", "r", 2, _I32, _types.uint32, 1)
    load4_words = _vector_loader("ld.global.v4.b32 {$0,$1,$2,$3}, [$4];", "r", 4, _I32, _types.uint32, 2)
    look4 = _vector_loader("ld.relaxed.gpu.global.v4.b32 {$0,$1,$2,$3}, [$4];", "r", 4, _I32, _types.uint32, 2, True)
    # 64 bits in one access, which are all of one store.
    look_sum = _vector_loader(
        "{ .reg .b64 both; ld.relaxed.gpu.global.b64 both, [$2]; mov.b64 {$0,$1}, both; }",
        "r",
        2,
        _I32,
        _types.uint32,
        3,
        True,
    )

    @device
    def advance(p: Any, i: Any, size: Any) -> Any:
        """The pointer to element i, of so many bytes: what is read at constant distances from it needs one register."""
        return p + i * size

    def _quotient(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, b = (value if value.type.width == 32 else builder.trunc(value, _I32) for value in values)
        return builder.zext(builder.udiv(a, b), _I64)

    quotient = _make(2, _types.int64, _quotient)  # Numba's own division is of 64 bits, whatever its operands are

    @device
    def given(p: Any) -> Any:
        """Whether a pointer is to an array and not None."""
        return p != 0

    def _widen(builder: Any, value: Any) -> Any:
        word = builder.shl(builder.zext(value, _I32), _ir.Constant(_I32, 16))
        return builder.bitcast(word, _F)

    load_bf16 = _loader(_I16, 1, _types.float32, _widen)

    def _store(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = context.cast(builder, values[2], signature.args[2], _types.float32)
        builder.store(value, _global(builder, values, _F, 2), align=4)
        return context.get_dummy_value()

    store = _make(3, None, _store)

    def _convert_pair(builder: Any, high: Any, low: Any) -> Any:
        call = _ir.InlineAsm(_ir.FunctionType(_I32, [_F, _F]), "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f")
        return builder.call(call, [high, low])

    def _store_bf16(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = _convert_pair(builder, _ir.Constant(_F, 0.0), values[2])
        builder.store(builder.trunc(word, _I16), _global(builder, values, _I16, 1), align=2)
        return context.get_dummy_value()

    store_bf16 = _make(3, None, _store_bf16)
    pack_bf16 = _make(2, _types.uint32, lambda context, b, signature, values: _convert_pair(b, values[1], values[0]))

    def _round_tf32(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        # Rejected: adding 0x1000 to the bits. The device's NaN is 0x7FFFFFFF, which becomes -0.
        # The conversion alone cuts a NaN's bits off, and would make an infinity of 0x7F800001.
        return builder.bitcast(_tf32_word(builder, values[0]), _F)

    def _clean(builder: Any, value: Any) -> Any:
        """The value, or the device's NaN, 0x7FFFFFFF, for any NaN."""
        return builder.call(_ir.InlineAsm(_ir.FunctionType(_F, [_F]), "max.NaN.f32 $0, $1, $1;", "=f,f"), [value])

    def _tf32_word(builder: Any, value: Any) -> Any:
        call = _ir.InlineAsm(_ir.FunctionType(_I32, [_F]), "cvt.rna.tf32.f32 $0, $1;", "=r,f")
        return builder.call(call, [_clean(builder, value)])

    def _sealer(word: Callable[..., Any], data: int) -> Any:
        """``(value, tag) -> word``: a value's word, of which the bits `data` are kept, beside its tag."""

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            value = context.cast(builder, values[0], signature.args[0], _types.float32)
            kept = builder.and_(word(builder, value), _ir.Constant(_I32, data))
            return builder.or_(kept, values[1])

        return _make(2, _types.uint32, emit)

    seal_float32 = _sealer(lambda builder, value: builder.bitcast(_clean(builder, value), _I32), 0xFFFFFFFE)
    seal_tf32 = _sealer(_tf32_word, 0xFFFFF000)
    seal_bf16 = _sealer(lambda builder, value: _convert_pair(builder, value, _ir.Constant(_F, 0.0)), 0xFFFF0000)

    word_as_float = _make(1, _types.float32, lambda context, b, signature, values: b.bitcast(values[0], _F))

    def _unsealed(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.and_(values[0], _ir.Constant(_I32, 0xFFFFFFFE)), _F)

    unsealed = _make(1, _types.float32, _unsealed)

    def _upper_halves(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        call = _ir.InlineAsm(_ir.FunctionType(_I32, [_I32, _I32]), "prmt.b32 $0, $1, $2, 0x7632;", "=r,r,r")
        return builder.call(call, values)

    upper_halves = _make(2, _types.uint32, _upper_halves)

    def _tag_of(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.and_(*(builder.trunc(_int64(builder, value), _I32) for value in values))

    tag_of = _make(2, _types.uint32, _tag_of)

    def _differ(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.or_(values[0], builder.xor(values[1], values[2]))

    def _late(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = builder.and_(values[0], builder.trunc(_int64(builder, values[1]), _I32))
        return builder.icmp_unsigned("!=", bits, _ir.Constant(_I32, 0))

    differ, late = _make(3, _types.uint32, _differ), _make(2, _types.boolean, _late)

    def _any_lane(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        text = "{ .reg .pred p, q; setp.ne.u32 p, $1, 0; vote.sync.any.pred q, p, 0xFFFFFFFF; selp.u32 $0, 1, 0, q; }"
        call = builder.call(_assembler(text, "=r,r", _I32, [_I32]), [builder.zext(values[0], _I32)])
        return builder.icmp_unsigned("!=", call, _ir.Constant(_I32, 0))

    any_lane = _make(1, _types.boolean, _any_lane)

    def _publish(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        text = "st.relaxed.gpu.global.b32 [$0], $1;"
        places = [_address(builder, values, 2), values[2]]
        builder.call(_assembler(text, "l,r,~{memory}", _ir.VoidType(), [_I64, _I32]), places)
        return context.get_dummy_value()

    def _publish_sum(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        text = "{ .reg .b64 both; mov.b64 both, {$1,$2}; st.relaxed.gpu.global.b64 [$0], both; }"
        places = [_address(builder, values, 3), values[2], values[3]]
        builder.call(_assembler(text, "l,f,r,~{memory}", _ir.VoidType(), [_I64, _F, _I32]), places)
        return context.get_dummy_value()

    publish, publish_sum = _make(3, None, _publish), _make(4, None, _publish_sum)

    def _store_word(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = values[2] if values[2].type.width == 32 else builder.trunc(values[2], _I32)
        builder.store(value, _global(builder, values, _I32, 2), align=4)
        return context.get_dummy_value()

    store_word = _make(3, None, _store_word)
    load_word = _loader(_I32, 2, _types.int64, lambda builder, value: builder.zext(value, _I64))

    def _give_up(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.call(_assembler("trap;", "", _ir.VoidType(), []), [])
        return context.get_dummy_value()

    give_up = _make(0, None, _give_up)

    def _high_part(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        call = _assembler("and.b32 $0, $1, 0xFFFFE000;", "=f,f", _F, [_F])
        return builder.call(call, [values[0]])

    def _anew(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        call = _assembler("mov.b64 $0, $1;", "=l,l", _I64, [_I64])
        return builder.call(call, [_int64(builder, values[0])])

    def _shared_pointer(context: Any, builder: Any, signature: Any, values: Any, element: Any = _F) -> Any:
        """To a word of a shared array; the index is not below zero."""
        data = _make_array(signature.args[0])(context, builder, values[0]).data
        base = builder.addrspacecast(data, _ir.PointerType(_F, addrspace=3))
        place = builder.gep(base, [_int64(builder, values[1])], inbounds=True)
        return place if element is _F else builder.bitcast(place, _ir.PointerType(element, addrspace=3))

    def _shared_address(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        """The same as the 32-bit address that the instructions take."""
        return builder.ptrtoint(_shared_pointer(context, builder, signature, values), _I32)

    def _load_shared(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_shared_pointer(context, builder, signature, values), align=4)

    def _store_shared(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = context.cast(builder, values[2], signature.args[2], _types.float32)
        builder.store(value, _shared_pointer(context, builder, signature, values), align=4)
        return context.get_dummy_value()

    load_shared, store_shared = _make(2, _types.float32, _load_shared), _make(3, None, _store_shared)

    def _remember(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        call = _assembler("st.volatile.shared.u32 [$0], $1;", "r,r", _ir.VoidType(), [_I32, _I32])
        value = builder.trunc(_int64(builder, values[2]), _I32)
        builder.call(call, [_shared_address(context, builder, signature, values), value])
        return context.get_dummy_value()

    def _recall(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        call = _assembler("ld.volatile.shared.u32 $0, [$1];", "=r,r", _I32, [_I32])
        return builder.zext(builder.call(call, [_shared_address(context, builder, signature, values)]), _I64)

    remember, recall = _make(3, None, _remember), _make(2, _types.int64, _recall)
    anew = _make(1, _types.int64, _anew)

    def _shared_loader(element: Any, count: int, returns: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = _shared_pointer(context, builder, signature, values, _ir.VectorType(element, count))
            loaded = builder.load(place, align=4 * count)
            parts = [builder.extract_element(loaded, _ir.Constant(_I32, k)) for k in range(count)]
            return context.make_tuple(builder, signature.return_type, parts)

        return _make(2, (returns, count), emit)

    load4_shared = _shared_loader(_F, 4, _types.float32)
    load2_words_shared = _shared_loader(_I32, 2, _types.uint32)

    def _copy16(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        text = "cp.async.cg.shared.global [$0], [$1], 16;"
        places = [_shared_address(context, builder, signature, values), _address(builder, values[2:], 2)]
        builder.call(_assembler(text, "r,l,~{memory}", _ir.VoidType(), [_I32, _I64]), places)
        return context.get_dummy_value()

    def _copied(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.call(_assembler("cp.async.wait_all;", "~{memory}", _ir.VoidType(), []), [])
        return context.get_dummy_value()

    copy16, copied = _make(4, None, _copy16), _make(0, None, _copied)

    high_part, round_tf32 = _make(1, _types.float32, _high_part), _make(1, _types.float32, _round_tf32)

    def _release_add(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        text, address = "red.release.gpu.global.add.s32 [$0], 1;", _address(builder, values, 2)
        builder.call(_assembler(text, "l,~{memory}", _ir.VoidType(), [_I64]), [address])
        return context.get_dummy_value()

    release_add = _make(2, None, _release_add)

    def _acquire(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        text, address = "ld.acquire.gpu.global.s32 $0, [$1];", _address(builder, values, 2)
        return builder.call(_assembler(text, "=r,l,~{memory}", _I32, [_I64]), [address])

    acquire = _make(2, _types.int32, _acquire)

    def _unary(text: str) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.call(_ir.InlineAsm(_ir.FunctionType(_F, [_F]), text, "=f,f"), values)

        return _make(1, _types.float32, emit)

    _exp2_fast = _unary("ex2.approx.ftz.f32 $0, $1;")
    reciprocal_fast = _unary("rcp.approx.ftz.f32 $0, $1;")
    _LOG2_E = np.float32(1.4426950408889634)

    @device
    def exp_fast(x: Any) -> Any:
        """exp with a relative error of about 2^-21 for arguments around zero."""
        return _exp2_fast(x * _LOG2_E)

    def _float_of(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.trunc(_int64(builder, values[0]), _I32), _F)

    float_of = _make(1, _types.float32, _float_of)

    exp, sqrt, tanh = math.exp, math.sqrt, math.tanh
    expm1, log, log1p, sin, cos = math.expm1, math.log, math.log1p, math.sin, math.cos

    _WORD = np.uint64(0xFFFFFFFF)

    @device
    def scramble(x: Any) -> Any:
        """One step of splitmix64, of a uint64."""
        x = x + uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
        return x ^ (x >> uint64(31))

    @device
    def uniform(seed: Any, layer: Any, stream: Any, step: Any, row: Any, unit: Any) -> Any:
        """A number in [0, 1), as `reference.random` makes it. In uint64, because Numba's uint32 does not stay it."""
        key = scramble(scramble(uint64(seed)) ^ uint64(layer))
        key = scramble(scramble(key ^ uint64(stream)) ^ uint64(step))
        key = scramble(key ^ uint64(row))
        x = (uint64(unit) + key) & _WORD
        x = ((x ^ (x >> uint64(16))) * uint64(0x7FEB352D)) & _WORD
        x = ((x ^ (x >> uint64(15))) * uint64(0x846CA68B)) & _WORD
        x = x ^ (x >> uint64(16)) ^ (key >> uint64(32))
        x = ((x ^ (x >> uint64(16))) * uint64(0x85EBCA6B)) & _WORD
        x = ((x ^ (x >> uint64(13))) * uint64(0xC2B2AE35)) & _WORD
        x = (x ^ (x >> uint64(16))) >> uint64(8)
        return float32(int64(x)) * float32(2.0**-24)

    def _mma(text: str, words: bool) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            operands = list(values[:6]) if words else [builder.bitcast(value, _I32) for value in values[:6]]
            result = _ir.LiteralStructType([_F] * 4)
            form = f"mma.sync.aligned.{text} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
            kind = _ir.FunctionType(result, [_I32] * 6 + [_F] * 4)
            call = _ir.InlineAsm(kind, form, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f")
            tile = builder.call(call, operands + list(values[6:]))
            parts = [builder.extract_value(tile, k) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return _make(10, (_types.float32, 4), emit)

    mma_tf32 = _mma("m16n8k8.row.col.f32.tf32.tf32.f32", words=False)
    mma_bf16 = _mma("m16n8k16.row.col.f32.bf16.bf16.f32", words=True)

    class _Loaded:
        """A kernel on a device: its CUkernel, and what has been asked of it."""

        def __init__(self, handle: int, multiprocessors: int) -> None:
            self.handle, self.multiprocessors = handle, multiprocessors
            self.shared = UNASKED_SHARED
            self.resident: dict[tuple[int, int], int] = {}

    class _Compiled:
        """A kernel, compiled for the current device at its first launch there."""

        def __init__(self, function: Kernel, types: str, threads: int) -> None:
            self.function, self.types, self.threads = function, types, threads
            self._signature = _types.void(*[_types.int64] * len(types))
            # Without link-time optimisation, which Numba else takes where it finds nvJitLink: there is nothing to link,
            # kernels compile sooner, and what `compile_ptx` shows is what runs on every machine.
            self._dispatcher = _numba_cuda.jit(function, launch_bounds=(threads, 1), lto=False)
            self._loaded: dict[int, _Loaded] = {}

        def overload_for_device(self) -> Any:
            """Compiled anew for what Numba takes for the current device."""
            return _KernelOf(self.function, self._signature.args, **self._dispatcher.targetoptions)

        def launch(
            self,
            grid: int | tuple[int, int],
            block: int,
            arguments: tuple[int, ...],
            *,
            shared: int = 0,
            stream: int = 0,
            cooperative: bool = False,
        ) -> None:
            """Run it on a stream of the current device; `cooperative` where its blocks wait for each other."""
            if len(arguments) != len(self.types):
                raise TypeError(f"{self.function.__name__}: expected {len(self.types)} arguments, got {len(arguments)}")
            driver = _launch.driver()
            number = driver.device()
            if number < 0:  # a thread that has not called anything of CUDA yet
                _numba_cuda.current_context()
                number = driver.device()
            loaded = self._loaded.get(number)
            if loaded is None:
                loaded = self._loaded[number] = self._load(number)
            if shared > loaded.shared:
                driver.allow_shared(loaded.handle, number, shared)
                loaded.shared = shared
            if cooperative:
                self._must_be_resident(loaded, grid, block, shared)
            driver.launch(loaded.handle, grid, block, arguments, shared=shared, stream=stream, cooperative=cooperative)

        def code(self, target: tuple[int, int, str]) -> _cache.Code:
            """The machine code for a target (`target_of`): as another process has left it, or compiled now."""
            options = sorted(self._dispatcher.targetoptions.items())
            key = _cache.key_of(self.function, _own_names(), self.types, target, options, toolchain())
            return _cache.fetch(key, lambda: self._compile(target))

        def _compile(self, target: tuple[int, int, str]) -> _cache.Code:
            library = self.overload_for_device()._codelibrary
            return _cache.Code(library._entry_name, bytes(library.get_cubin(cc=target).code))

        def _load(self, number: int) -> _Loaded:
            """Compile it for the current device, the `number`th, and load it there."""
            found = limits(number)
            code = self.code(target_of(found.capability))
            module = _numba_cuda.current_context().create_module_image(_ObjectCode.from_cubin(code.cubin))
            return _Loaded(int(module.get_function(code.name).handle), found.multiprocessors)

        def _must_be_resident(self, loaded: _Loaded, grid: int | tuple[int, int], block: int, shared: int) -> None:
            """An error for blocks that would wait for one which can't begin; the driver is asked once."""
            most = loaded.resident.get((block, shared))
            if most is None:
                count = _launch.driver().resident_blocks(loaded.handle, block, shared)
                most = loaded.resident[block, shared] = count * loaded.multiprocessors
            asked = math.prod(grid) if isinstance(grid, tuple) else grid
            if asked > most:
                raise RuntimeError(
                    f"{self.function.__name__}: expected at most {most} blocks, which is what this GPU runs at once, "
                    f"got {asked}"
                )

    @functools.cache
    def _own_names() -> dict[int, str]:
        """What this module's text says all about, by `id`: the intrinsics, and Numba's types."""
        return {id(value): name for name, value in globals().items()}

    def kernel(types: str, *, threads: int = 256) -> Callable[[Kernel], Any]:
        """Decorates a kernel; `types` are its arguments': p a pointer, i an int64. `threads`: the most in a block."""
        return lambda function: _Compiled(function, types, threads)


def bits_of(value: float) -> int:
    """A number, rounded to float32, as an integer argument of a kernel, which has no others."""
    return int(np.float32(value).view(np.uint32))


def target_of(capability: tuple[int, int]) -> tuple[int, int, str]:
    """What Numba compiles for on a device of a compute capability: from 9.0 on, with that device's own instructions."""
    return (*capability, "a" if capability >= (9, 0) else "")


@functools.cache
def toolchain() -> tuple[str, ...]:
    """What compiles, each part with its version: of the libraries, which do not say all of theirs, size and date."""
    packages = ("numba", "numba-cuda", "llvmlite", "cuda-core", "cuda-bindings")
    versions = [f"{package} {metadata.version(package)}" for package in packages]
    return (
        sys.version,
        getattr(sys.modules[__package__.partition(".")[0]], "__version__", ""),
        *versions,
        *_libraries(),
    )


def _libraries() -> Iterator[str]:
    linker = False
    for name in ("nvvm", "nvJitLink"):
        try:
            path = os.path.realpath(str(_pathfinder.load_nvidia_dynamic_lib(name).abs_path))
            found = os.stat(path)
        except (RuntimeError, OSError):  # where nvJitLink is missing, the driver links
            continue
        linker = name == "nvJitLink"
        yield f"{os.path.basename(path)} {found.st_size} {found.st_mtime_ns}"
    if not linker:
        yield f"driver {_numba_cuda.cudadrv.driver.driver.get_version()}"


def compile_ptx(built: Any, *capabilities: tuple[int, int]) -> list[str]:
    """The PTX of a kernel, as a launch compiles it, for each of some compute capabilities; needs no GPU.

    Numba asks the current device what to compile for; here it is told what was asked for. Nothing but the last pass
    depends on it, so all the others run once.
    """
    with _as_if_on(capabilities[0]):
        library = built.overload_for_device()._codelibrary
        return [library.get_asm_str(cc=target_of(capability)) for capability in capabilities]


def compile_cubin(built: Any, capability: tuple[int, int]) -> bytes:
    """The machine code of a kernel as a launch gets it, by its compiler and linker or from the cache; needs no GPU."""
    with _as_if_on(capability):
        return bytes(built.code(target_of(capability)).cubin)


@contextmanager
def _as_if_on(capability: tuple[int, int]) -> Iterator[None]:
    """Numba takes the current device for one of this compute capability."""
    from numba.cuda import codegen, dispatcher

    asked = SimpleNamespace(compute_capability=capability)
    with (
        mock.patch.object(dispatcher, "get_current_device", lambda: asked),
        mock.patch.object(codegen.CUDACodeLibrary, "_ensure_cc", lambda _, target: target or target_of(capability)),
    ):
        yield
