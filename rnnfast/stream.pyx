# cython: language_level=3, freethreading_compatible=True, boundscheck=False
# distutils: language = c++
"""Streams: recurrent layers that keep their state and run step by step, at the lowest cost a Python call can have. And
the steps of cells, which are the same step with the caller's state.

A stream owns its state, all working memory and a frozen reference to the packed weights. One step is: look at the
array's fields, run the layers' kernels with T = 1, done; nothing is allocated if `out` is given. What is not the plain
case (lists, another dtype, ids, strided arrays) takes the slower way through `_checks`, with the same errors as
everywhere.

A) What runs is in a `StreamSpec`. The kernels are reached through `Kernel.handle`, a capsule; the layers' common life is `csrc/stack.h`.
B) The GIL is released from `WORTH_RELEASING` multiply-adds on (10 us): below, handing it over costs more than it saves.
C) Two threads in one stream at once get a RuntimeError, not a race.
D) The state changes when a call is complete: it is written beside the old one, and then takes its place. A call that
   Ctrl-C ends leaves the state from before it; so does one that a fork leaves behind in the parent.
E) Cells are called by the vectorcall protocol (`Stepper`); what is not plain goes to their own checks.

Rejected: typed memoryviews as arguments (100 ns each to acquire, and the buffer protocol parses the format each time);
pybind11 (300 ns a call); a stream written in Python over the sequence call (15 us a step); a module of their own for
the steps of cells (it would share nearly all of its declarations and `_Layers` with this one, through a .pxd and a
fourth extension).
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint32_t
from libcpp cimport bool as cpp_bool
from libcpp.memory cimport unique_ptr

cimport cython
cimport numpy as cnp
import numpy as np

from . import _checks
from ._memory import aligned_empty

__all__ = ["ModelStream", "Stream"]

cnp.import_array()

ctypedef Py_ssize_t index

cdef extern from "kernels.h" namespace "rnnfast" nogil:
    cdef cppclass Interrupt:
        cpp_bool (*poll)(void *) noexcept
        void *context
        int stop

cdef extern from "stack.h" namespace "rnnfast" nogil:
    cdef cppclass KernelHandle:
        pass
    cdef cppclass Run:
        index steps
        const void *x
        const int64_t *ids
        index x_t, x_b
        void *y
        index y_t, y_b
        const void *state[8]  # most_states
        void *final_state[8]
        const void *given[8]  # most_given
        index given_t[8]
        index given_b[8]
        int givens
        Interrupt *interrupt
    cdef cppclass Stack:
        void add(const KernelHandle &, const void *, const uint32_t *) except +
        void replace(size_t, const void *, const uint32_t *)
        void reserve() except +
        void run(const Run &) noexcept
        cpp_bool enter()
        void leave()
    unique_ptr[Stack] make_stack(cpp_bool, index, index, int) except +

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # Cython's own raises at once, which `poll` must not
    ctypedef struct PyObject:
        pass
    ctypedef PyObject *(*ternaryfunc)(PyObject *, PyObject *, PyObject *)
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, PyObject *const *, size_t, PyObject *)
    ctypedef struct PyTypeObject:
        ternaryfunc tp_call
        unsigned long tp_flags
        Py_ssize_t tp_vectorcall_offset
    unsigned long Py_TPFLAGS_HAVE_VECTORCALL
    Py_ssize_t PyVectorcall_NARGS(size_t) noexcept
    PyTypeObject *Py_TYPE(object) noexcept

cdef extern from "numpy/arrayobject.h" nogil:
    int PyArray_ISCARRAY(cnp.ndarray)
    int PyArray_ISCARRAY_RO(cnp.ndarray)

cdef enum:
    MOST_STEPS = 64  # of a block
    BLOCK_BYTES = 1 << 20  # of what one layer hands to the next in a block

cdef double WORTH_RELEASING = 2e5


cdef cpp_bool poll(void *context) noexcept with gil:
    return PyErr_CheckSignals() != 0


cdef int interrupted() except -1:
    """Hand on the exception that the poll has set."""
    return -1


cdef inline bint overlap(const char *a, index a_bytes, const char *b, index b_bytes) noexcept nogil:
    return a < b + b_bytes and b < a + a_bytes


# noexcept: it reads fields of what it has found to be an array, and calls nothing that could raise.
cdef int plain(x, index features, int type_num) noexcept:
    """How many axes x has, if it is an array that can be used as it is; else 0."""
    if not cnp.PyArray_CheckExact(x) or cnp.PyArray_TYPE(<cnp.ndarray>x) != type_num:
        return 0
    cdef int axes = cnp.PyArray_NDIM(<cnp.ndarray>x)
    if axes < 1 or not PyArray_ISCARRAY_RO(<cnp.ndarray>x):
        return 0
    return axes if cnp.PyArray_DIM(<cnp.ndarray>x, axes - 1) == features else 0


cdef class _Layers:
    """A stack of kernels with its memory, for a fixed batch. The base of streams; cells use it as it is."""

    cdef unique_ptr[Stack] stack
    cdef object spec  # a StreamSpec, with what the stack points into
    cdef index batch, I, W, L  # W: of the output, the first state's width
    cdef double work  # multiply-adds of a step
    cdef int type_num, item, count
    cdef bint extras  # whether the cell has extra inputs
    cdef index widths[8]  # of the `count` states
    cdef object real  # the dtype

    def __init__(self, spec):
        self.spec = spec
        self.batch, self.L, self.I = spec.batch_size, spec.num_layers, spec.input_size
        self.count = len(spec.states)
        self.extras = bool(spec.given)
        for state, (_, width, _) in enumerate(spec.states):
            self.widths[state] = width
        self.W = self.widths[0]
        self.real = spec.dtype
        self.type_num = spec.dtype.num
        self.item = spec.dtype.itemsize
        self.work = spec.work * <double>self.batch
        block = max(1, min(MOST_STEPS, BLOCK_BYTES // max(1, self.batch * self.W * self.item)))
        self.stack = make_stack(spec.dtype == np.float64, self.batch, block, spec.num_threads)
        cdef const KernelHandle *handle
        cdef const uint32_t *words
        for kernel, panel, pair in zip(spec.kernels, spec.panels, spec.pairs, strict=True):
            handle = <const KernelHandle *>PyCapsule_GetPointer(kernel.handle, "rnnfast.kernel")
            words = NULL
            if pair is not None:
                words = <const uint32_t *>cnp.PyArray_DATA(<cnp.ndarray>pair)
            self.stack.get().add(handle[0], cnp.PyArray_DATA(<cnp.ndarray>panel), words)
        self.stack.get().reserve()

    @property
    def batch_size(self):
        return self.batch

    # noexcept: as the function that it calls.
    cdef int plain(self, x, index features) noexcept:
        return plain(x, features, self.type_num)

    cdef int enter(self) except -1:
        if self.stack.get() == NULL:
            raise TypeError(f"{type(self).__name__}: made by layer.stream(), not directly")
        if not self.stack.get().enter():
            raise RuntimeError("another thread is inside this stream: a stream serves one at a time; give each its copy()")
        return 0

    # noexcept: it must return before `leave` is called; what the poll raised is still set and goes up by `interrupted`.
    cdef bint run(self, Run *run) noexcept:
        """Run; with much work without the GIL and open to Ctrl-C. True if that came: then an exception is set."""
        cdef Stack *stack = self.stack.get()
        cdef Interrupt interrupt
        run.interrupt = NULL
        if self.work * run.steps < WORTH_RELEASING:
            stack.run(run[0])
            return False
        interrupt.poll = poll
        interrupt.context = NULL
        interrupt.stop = 0
        run.interrupt = &interrupt
        with nogil:
            stack.run(run[0])
        return interrupt.stop != 0


cdef class Stream(_Layers):
    """A recurrent layer that keeps its state from call to call, for one step at a time and lowest cost.

    Made by `layer.stream()`. Its weights are those of that moment: later updates of the layer do not reach it until
    `refresh` is called; `stale` says whether there were any. Given
    C-contiguous arrays of its dtype, `out` among them, `step` and `process` allocate nothing and, with `num_threads=1`,
    take no lock but the GIL, so that they may run on a real-time thread. Results are bitwise those of one call of the
    layer over the whole sequence (with weights in bfloat16: those of the layer whose weights were rounded).

    A stream serves one thread at a time, may be copied, and cannot be pickled (pickle the layer and `state`).

    Attributes
    ----------
    batch_size, input_size, hidden_size, num_layers : int
        B, I, H and L.
    dtype : numpy.dtype
        Of inputs, outputs and state.
    weights : {"float32", "float64", "bfloat16"}
        How the weights are stored.
    version : int
        The `version` of the layer's `params` that the weights were taken from.
    stale : bool
        Whether the layer's parameters have changed since.
    state : ndarray or tuple of ndarray
        The state, shape [L, B, H], or the tuple of several, as (h, c) of an LSTM; reading gives a copy, setting is
        checked as a layer's `state` is ([L, H] will do if B = 1).
    """

    cdef readonly str weights
    cdef tuple states  # two tuples of [L, B, width]: the state, and where a call leaves the next until it is complete
    cdef void *places[2][8]  # of states
    cdef bint now  # which of them is the state
    cdef bint batch_first
    cdef object source  # a function of `arguments` that returns the StreamSpec of the present weights
    cdef dict arguments

    def __init__(self, *arguments):
        raise TypeError("Stream: made by layer.stream(), not directly")

    @staticmethod
    def _make(source, arguments):
        return Stream._of(source(**arguments), source, arguments)

    @staticmethod
    cdef Stream _of(spec, source, arguments):
        """A stream of what `source(**arguments)` has returned."""
        cdef Stream self = Stream.__new__(Stream)
        _Layers.__init__(self, spec)
        self.source, self.arguments = source, arguments
        self.weights, self.batch_first = spec.weights, spec.batch_first
        shapes = [(self.L, self.batch, width) for _, width, _ in spec.states]
        self.states = tuple([tuple([aligned_empty(shape, self.real) for shape in shapes]) for _ in range(2)])
        for place in range(2):
            for state in range(self.count):
                self.places[place][state] = cnp.PyArray_DATA(<cnp.ndarray>self.states[place][state])
        self.reset()
        return self

    @property
    def input_size(self):
        return self.I

    @property
    def hidden_size(self):
        return self.spec.hidden_size

    @property
    def num_layers(self):
        return self.L

    @property
    def dtype(self):
        return self.real

    def __repr__(self):
        return (
            f"Stream(batch_size={self.batch}, input_size={self.I}, hidden_size={self.hidden_size}, "
            f"num_layers={self.L}, "
            f"weights={self.weights!r})"
        )

    def __reduce__(self):
        raise TypeError("Stream: cannot be pickled; pickle the layer and the stream's state")

    def step(self, x, out=None, given=None, *, ids=None):
        """One step.

        Parameters
        ----------
        x : array_like, shape [B, I], or [I] if B = 1
            The input; or integer ids in 0..I-1, [B] or a number, that stand for one-hot vectors.
        out : ndarray, shape [B, H], or [H] where `x` is [I] or a number, optional
            Where to write the result: of the stream's dtype, C-contiguous, sharing no memory with `x`.
        given : mapping from str to array_like, or array_like, optional
            The cell's extra inputs, [B] or [B, width] each; an array alone if the cell has one.
        ids : bool, optional
            Whether `x` is ids, as for a layer. By default a number is, and int32 or int64 [B], unless I = 1; integers
            that could be features as well, as [B] of B = 1 and I = 1, must be told.

        Returns
        -------
        ndarray
            The last layer's hidden state; `out`, if given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written and the state is as it was.
        RuntimeError
            Another thread is inside this stream.
        """
        cdef cnp.ndarray array
        cdef int axes = self.plain(x, self.I)
        if ids is None and (
            axes == 2 and cnp.PyArray_DIM(<cnp.ndarray>x, 0) == self.batch or axes == 1 and self.batch == 1
        ):
            return self.walk(<cnp.ndarray>x, False, axes == 2, False, out, given)
        batched, array, found = self.checked("x", x, 0, "[B, I]", ids)
        return self.walk(array, found, batched, False, out, given)

    def process(self, block, out=None, given=None, *, ids=None):
        """Many steps.

        Parameters
        ----------
        block : array_like, shape [T, B, I] ([B, T, I] if the layer is batch_first), or [T, I] if B = 1
            The inputs; or integer ids without the last axis.
        out : ndarray, shape of the result, optional
            Where to write it: of the stream's dtype, C-contiguous, sharing no memory with `block`.
        given : mapping from str to array_like, or array_like, optional
            The cell's extra inputs, with the axes of `block`: a number for each step and row, or [width].
        ids : bool, optional
            Whether `block` is ids, as for a layer.

        Returns
        -------
        ndarray, shape [T, B, H] ([B, T, H] if batch_first), or [T, H]
            The last layer's hidden states; `out`, if given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written and the state is as it was.
        RuntimeError
            Another thread is inside this stream.
        """
        cdef cnp.ndarray array
        cdef int axes = self.plain(block, self.I)
        if ids is None and (
            axes == 2 and self.batch == 1
            or axes == 3 and cnp.PyArray_DIM(<cnp.ndarray>block, not self.batch_first) == self.batch
        ):
            return self.walk(<cnp.ndarray>block, False, axes == 3, True, out, given)
        letters = "[B, T, I]" if self.batch_first else "[T, B, I]"
        batched, array, found = self.checked("block", block, 1, letters, ids)
        return self.walk(array, found, batched, True, out, given)

    cdef walk(self, cnp.ndarray x, bint ids, bint batched, bint time, out, given):
        """Run C-contiguous x, which has an axis for the batch or not, and one for time or not; so has the result."""
        cdef Run run
        cdef cnp.ndarray y
        cdef cnp.npy_intp shape[3]
        cdef int axes = time + batched + 1, axis
        cdef bint by_rows = time and batched and self.batch_first, fits
        cdef index width
        cdef list kept  # the extra inputs, until the run is over
        cdef index steps = cnp.PyArray_DIM(x, by_rows) if time else 1, rows = steps * self.batch
        shape[0] = steps  # its first axis, if there is one for time
        shape[time] = self.batch
        if by_rows:
            shape[0], shape[1] = self.batch, steps
        shape[axes - 1] = self.W
        if out is None:
            y = <cnp.ndarray>cnp.PyArray_EMPTY(axes, shape, self.type_num, 0)
        else:
            fits = self.plain(out, self.W) == axes and PyArray_ISCARRAY(<cnp.ndarray>out)
            if fits:
                y = <cnp.ndarray>out
                for axis in range(axes):
                    fits = fits and cnp.PyArray_DIM(y, axis) == shape[axis]
                fits = fits and not overlap(
                    <char *>cnp.PyArray_DATA(y), rows * self.W * self.item,
                    <char *>cnp.PyArray_DATA(x), rows * (sizeof(int64_t) if ids else self.I * self.item),
                )
            if not fits:
                wanted = tuple([shape[axis] for axis in range(axes)])
                _checks.output("out", out, wanted, self.real, [("block" if time else "x", x)])
            y = <cnp.ndarray>out
        run.steps = steps
        run.x = NULL
        run.ids = NULL
        if ids:
            run.ids = <const int64_t *>cnp.PyArray_DATA(x)
        else:
            run.x = cnp.PyArray_DATA(x)
        run.x_b = 1 if ids else self.I
        run.x_t = self.batch * run.x_b
        run.y = cnp.PyArray_DATA(y)
        run.y_t, run.y_b = self.batch * self.W, self.W
        if by_rows:
            run.x_t, run.x_b = run.x_b, steps * run.x_b
            run.y_t, run.y_b = self.W, steps * self.W
        run.givens = 0
        if given is None and not self.extras:
            self.advance(&run)
            return y
        kept = self.extra(given, [shape[axis] for axis in range(axes - 1)])
        run.givens = <int>len(kept)
        for axis in range(run.givens):
            run.given[axis] = cnp.PyArray_DATA(<cnp.ndarray>kept[axis])
            width = self.spec.given[axis][1] or 1
            run.given_t[axis], run.given_b[axis] = self.batch * width, width
            if by_rows:
                run.given_t[axis], run.given_b[axis] = width, steps * width
        self.advance(&run)
        return y

    cdef list extra(self, given, leading):
        """The extra inputs as C-contiguous arrays of the dtype, in the cell's order."""
        known = [name for name, _ in self.spec.given]
        arrays = _checks.by_name("given", given, known, self.spec.cell)
        return [
            _checks.real_of_shape(
                f"given[{name!r}]", array, self.real, (*leading, width) if width else tuple(leading), contiguous=True
            )
            for (name, width), array in zip(self.spec.given, arrays, strict=True)
        ]

    cdef checked(self, name, x, has_time, axes, ids):
        """Whether there is a batch axis; x as a C-contiguous array of the dtype or of int64 ids; which of the two."""
        array = _checks.numbers(name, x)
        rank = 2 + has_time
        ids = _checks.means_ids(name, array, rank, self.I, ids, single=self.batch == 1)
        batched = array.ndim + ids == rank
        if self.batch == 1:
            axes = f"{axes} or {axes.replace('B, ', '')}"
        if not batched and not (array.ndim + ids == rank - 1 and self.batch == 1):
            expected = f"{axes}, or integer ids without the I axis"
            raise ValueError(f"{name}: expected {expected}; got {_checks.describe(array)}")
        if not ids and array.shape[-1] != self.I:
            raise ValueError(f"{name}: expected {axes} with I={self.I}, got {_checks.describe(array)}")
        if batched and array.shape[1 if has_time and not self.batch_first else 0] != self.batch:
            raise ValueError(f"{name}: expected {axes} with B={self.batch}, got {_checks.describe(array)}")
        if not ids:
            return batched, _checks.real(name, array, self.real, contiguous=True), False
        own = np.array(array, dtype=np.int64, order="C")  # private, as in `_checks.ids`
        wrong = (own < 0) | (own >= self.I)
        if wrong.any():
            raise ValueError(f"{name}: expected ids in 0..{self.I - 1}, got {array[wrong].flat[0]}")
        return batched, own, True

    cdef int advance(self, Run *run) except -1:
        """Run from the state that is into the other buffer, which is the state when all is done."""
        cdef bint stopped
        cdef int state
        self.enter()
        for state in range(self.count):
            run.state[state] = self.places[self.now][state]
            run.final_state[state] = self.places[not self.now][state]
        stopped = run.steps != 0 and self.run(run)
        if run.steps and not stopped:
            self.now = not self.now
        self.stack.get().leave()
        return interrupted() if stopped else 0

    def reset(self, rows=None):
        """Put the state back to what it starts from: zeros, for most cells.

        Parameters
        ----------
        rows : array_like, optional
            The rows that begin anew: their numbers or a boolean mask [B]. By default all.

        Raises
        ------
        TypeError, ValueError
            There are no such rows.
        """
        chosen = slice(None) if rows is None else _checks.rows("rows", rows, self.batch)
        self.enter()
        try:
            for present, array, (_, _, initial) in zip(
                self.states[self.now], self.states[not self.now], self.spec.states, strict=True
            ):
                if rows is not None:
                    array[...] = present
                array[:, chosen] = initial
            self.now = not self.now
        finally:
            self.stack.get().leave()

    @property
    def state(self):
        self.enter()
        try:
            copies = tuple([array.copy() for array in self.states[self.now]])
        finally:
            self.stack.get().leave()
        return copies if self.count > 1 else copies[0]

    @state.setter
    def state(self, value):
        if self.count == 1:
            value = (value,)
        elif not isinstance(value, (tuple, list)) or len(value) != self.count:
            names = ", ".join([name for name, _, _ in self.spec.states])
            raise TypeError(f"state: expected a tuple ({names}), got {_checks.describe(value)}")
        checked = []
        for number, part in enumerate(value):
            name = f"state[{number}]" if self.count > 1 else "state"
            array = _checks.numbers(name, part)
            if self.batch == 1 and array.ndim == 2:
                array = array[:, None]
            shape = (self.L, self.batch, self.spec.states[number][1])
            checked.append(_checks.real_of_shape(name, array, self.real, shape, "[L, B, H]"))
        self.enter()
        try:
            for own, given in zip(self.states[not self.now], checked, strict=True):
                own[...] = given
            self.now = not self.now
        finally:
            self.stack.get().leave()

    @state.deleter
    def state(self):
        raise AttributeError("state: cannot be deleted; reset() zeroes it")

    @property
    def version(self):
        return self.spec.version

    @property
    def stale(self):
        return self.spec.params.version != self.spec.version

    def refresh(self):
        """Take the layer's present weights; the state is kept.

        The weights are packed once, here; another stream of the layer, or a call, that has packed them shares them.

        Raises
        ------
        RuntimeError
            Another thread is inside this stream.

        Examples
        --------
        >>> layer = rnnfast.GRU(3, 4, rng=0)
        >>> stream = layer.stream()
        >>> layer.update({"bias_ih_l0": [1] * 12})
        >>> stream.stale
        True
        >>> stream.refresh()
        >>> stream.stale
        False
        """
        cdef const uint32_t *words
        spec = self.source(**self.arguments)
        self.enter()
        try:
            for layer, (panel, pair) in enumerate(zip(spec.panels, spec.pairs, strict=True)):
                words = NULL
                if pair is not None:
                    words = <const uint32_t *>cnp.PyArray_DATA(<cnp.ndarray>pair)
                self.stack.get().replace(layer, cnp.PyArray_DATA(<cnp.ndarray>panel), words)
            self.spec = spec
        finally:
            self.stack.get().leave()

    def copy(self):
        """A stream with the same weights and a copy of the state.

        Returns
        -------
        Stream
        """
        cdef Stream other = Stream._of(self.spec, self.source, self.arguments)
        other.state = self.state
        return other

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()


include "model_stream.pxi"


cdef class Steps(_Layers):
    """The steps of a cell: the stream's machinery with the state handed in and out, for one batch and one version.

    A cell asks here first; what is not the plain case (ids, lists, other dtypes, mistakes) gets None and takes the way
    through the cell's own checks.
    """

    cdef object store  # where the weights came from
    cdef object version  # the number that it had, the very object: a store that has not changed holds it still

    def __init__(self, spec, store, version):
        _Layers.__init__(self, spec)
        self.store, self.version = store, version

    def serves(self, batch):
        """Whether the weights are still the current ones, and the batch is this one."""
        return self.store.version is self.version and self.batch == batch

    # noexcept: it reads fields after their types were looked at. What is not plain is an answer (False), no error: the
    # caller hands it to the cell's own checks, which say what is wrong.
    cdef bint parts(self, value, int axes, bint writeable, char **data) noexcept:
        """Find the memory of a plain state, which is an array or a tuple of several."""
        cdef int state
        if self.count > 1 and (type(value) is not tuple or len(<tuple>value) != self.count):
            return False
        for state in range(self.count):
            part = (<tuple>value)[state] if self.count > 1 else value
            if self.plain(part, self.widths[state]) != axes:
                return False
            if axes == 2 and cnp.PyArray_DIM(<cnp.ndarray>part, 0) != self.batch:
                return False
            if writeable and not PyArray_ISCARRAY(<cnp.ndarray>part):
                return False
            data[state] = cnp.PyArray_BYTES(<cnp.ndarray>part)
        return True

    cdef new(self, int axes, int state):
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = self.batch, self.widths[state]
        return cnp.PyArray_EMPTY(axes, &shape[2 - axes], self.type_num, 0)

    # noexcept: it compares addresses, and calls nothing that could raise.
    cdef bint apart(self, Run *run, char **before, char **after) noexcept:
        """Whether the memory of the new state is its own."""
        cdef int state, other
        cdef index rows = self.batch * self.item
        for state in range(self.count):
            if overlap(after[state], rows * self.widths[state], <const char *>run.x, rows * self.I):
                return False
            for other in range(self.count):
                if before[other] != NULL and overlap(
                    after[state], rows * self.widths[state], before[other], rows * self.widths[other]
                ):
                    return False
                if other < state and overlap(
                    after[state], rows * self.widths[state], after[other], rows * self.widths[other]
                ):
                    return False
        return True

    cdef step(self, x, state, out):
        """The new state; None if this is not the plain case, or another version or batch."""
        cdef Run run
        cdef char *before[8]
        cdef char *after[8]
        cdef int axes = self.plain(x, self.I), part
        cdef bint stopped
        if axes < 1 or axes > 2 or self.store.version is not self.version:
            return None
        if (cnp.PyArray_DIM(<cnp.ndarray>x, 0) if axes == 2 else 1) != self.batch:
            return None
        for part in range(self.count):
            before[part] = NULL
        if state is not None and not self.parts(state, axes, False, before):
            return None
        if out is not None:
            result = out
        elif self.count == 1:
            result = self.new(axes, 0)
        elif self.count == 2:
            result = (self.new(axes, 0), self.new(axes, 1))
        else:
            result = tuple([self.new(axes, part) for part in range(self.count)])
        if not self.parts(result, axes, True, after):
            return None
        run.x = cnp.PyArray_BYTES(<cnp.ndarray>x)
        if out is not None and not self.apart(&run, before, after):
            return None
        if not self.stack.get().enter():
            return None
        run.steps = 1
        run.givens = 0
        run.ids = NULL
        run.x_t, run.x_b = 0, self.I
        run.y, run.y_t, run.y_b = after[0], 0, self.W
        for part in range(self.count):
            run.state[part], run.final_state[part] = before[part], after[part]
        stopped = self.run(&run)
        self.stack.get().leave()
        if stopped:
            interrupted()
        return result


cdef object called(object self, PyObject *const *arguments, size_t counted, PyObject *names):
    """A cell's call by the vectorcall protocol: a plain step at once, anything else by `__call__`.

    A class may have been given another `__call__` since the protocol was switched on for it; then that is asked.
    """
    cdef Py_ssize_t count = PyVectorcall_NARGS(counted), i, named = 0 if names == NULL else len(<tuple>names)
    cdef PyObject *given[3]  # x, state, out
    cdef Steps steps = (<Stepper>self)._steps  # which another thread may replace while this one runs
    cdef bint plain = steps is not None and 1 <= count <= 3 and Py_TYPE(self).tp_call == call
    given[0] = arguments[0] if count else NULL
    given[1] = arguments[1] if count > 1 else <PyObject *>None
    given[2] = arguments[2] if count > 2 else <PyObject *>None
    for i in range(named):
        name = (<tuple>names)[i]
        if name == "out" and count < 3:
            given[2] = arguments[count + i]
        elif name == "state" and count == 1:
            given[1] = arguments[count + i]
        else:
            plain = False
    result = steps.step(<object>given[0], <object>given[1], <object>given[2]) if plain else None
    if result is not None:
        return result
    options = {(<tuple>names)[i]: <object>arguments[count + i] for i in range(named)}
    return type(self).__call__(self, *[<object>arguments[i] for i in range(count)], **options)


@cython.auto_pickle(False)
cdef class Stepper:
    """What makes a cell callable at the cost of a stream's step, through the vectorcall protocol.

    Until 3.12, Python does not hand the protocol down to classes that are written in Python, so each of them must be
    given to `offer_vectorcall`. Without it a call takes 60 to 80 ns more, for a tuple and a dictionary of the arguments;
    a `__call__` in Python takes 190 ns more.
    """

    cdef public Steps _steps  # makes plain steps; None before the first
    cdef vectorcallfunc vectorcall

    def __cinit__(self):
        self.vectorcall = <vectorcallfunc>called

    def __call__(self, x, state=None, out=None, *, given=None, ids=None):
        """One step; keep nothing.

        Parameters
        ----------
        x : array_like, shape [B, I] or [I]
            The input; or integer ids in 0..I-1, [B] or a number, that stand for one-hot vectors.
        state : array_like, shape [B, H] or [H], or the tuple of several, as (h, c) of an LSTM, optional
            The state before the step; zeros by default.
        out : as the state, optional
            Where to write the new state: of the cell's dtype, C-contiguous, sharing no memory with an input.
        given : mapping from str to array_like, or array_like, optional
            The extra inputs of this step, [B] or [B, width]; an array alone if the cell has one.
        ids : bool, optional
            Whether `x` is ids. By default a number is, and int32 or int64 [B], unless I = 1. Integers that could be
            features as well must be told: with I in their last axis, of 8 or 16 bits, or if I = 1.

        Returns
        -------
        ndarray or tuple of ndarray
            The state after the step.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written.
        """
        return self._step(x, state, out, given, ids)


cdef Stepper stepper = Stepper.__new__(Stepper)
cdef Py_ssize_t offset = <char *>&stepper.vectorcall - <char *><PyObject *>stepper
cdef ternaryfunc call = Py_TYPE(stepper).tp_call


def offer_vectorcall(kind):
    """Let the instances of a class be called by the vectorcall protocol, unless it has a `__call__` of its own.

    Parameters
    ----------
    kind : type
        A class derived from `Stepper`.
    """
    cdef PyTypeObject *told = <PyTypeObject *>kind
    if told.tp_call == call:
        told.tp_vectorcall_offset = offset
        told.tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL


offer_vectorcall(Stepper)
