# The stream of a whole model; part of stream.pyx.
#
# A step goes through the model's works (rnnfast/_model_stream.py), each of which writes into memory of its own, or into
# the caller's `out`; a block of steps does so as a whole. Inside, sequences are time-major.

from libc.string cimport memcpy
from libcpp.vector cimport vector

cdef extern from "heads/activations.h" namespace "rnnfast" nogil:
    cdef cppclass HeadHandle:
        index input, output
        const void *head
        void (*forward)(const void *, const void *, const void *, index, void *) noexcept

cdef enum Kind:
    LAYER
    HEAD
    LOOKUP
    SUM
    JOIN

cdef struct Work:
    Kind kind
    index width
    int layer  # which of the streams
    int first, count  # of the sources
    int result  # which of the outputs; -1 is none
    char *memory  # [block][batch][width]
    const HeadHandle *head
    const char *weights
    double cost  # multiply-adds of a step


cdef void add_rows(char *to, const char *other, index count, bint wide) noexcept nogil:
    cdef index i
    if wide:
        for i in range(count):
            (<double *>to)[i] += (<const double *>other)[i]
    else:
        for i in range(count):
            (<float *>to)[i] += (<const float *>other)[i]


cdef class ModelStream:
    """A model that keeps its layers' states from call to call, for one step at a time and lowest cost.

    Made by `model.stream()`. It is to a model what a `Stream` is to a layer, and keeps the same promises: its weights
    are those of one moment until `refresh` is called; given C-contiguous arrays of its dtype (or int64 ids, where an
    Embedding reads them), `out` among them, `step` and `process` allocate nothing; results are bitwise those of one
    call of the model over the whole sequence. Heads run on the caller's thread.

    Attributes
    ----------
    batch_size, input_size : int
        B and I.
    output_size : int or dict
        The features of the output; of several by their names.
    dtype : numpy.dtype
    weights : {"float32", "float64", "bfloat16"}
        How the layers' weights are stored.
    version : int
        The `version` of the model's `params` that the weights were taken from.
    stale : bool
        Whether the parameters have changed since.
    state : dict
        The layers' states by their names; reading gives copies. Setting takes some or all of them.
    """

    cdef unique_ptr[Stack] lock  # without layers: for who is inside
    cdef object spec, source
    cdef dict arguments
    cdef tuple layers, names, kept  # the streams; of the layers; what the works point into
    cdef vector[Work] works
    cdef vector[int] sources
    cdef vector[int] results  # the work of each output
    cdef vector[char *] places  # of the values, during a block
    cdef vector[char *] targets  # of the outputs, during a call
    cdef char *entry  # x [block][batch][I], or ids
    cdef index batch, block, I
    cdef int type_num, item
    cdef bint batch_first, only_ids, single
    cdef object real

    def __init__(self, *arguments):
        raise TypeError("ModelStream: made by model.stream(), not directly")

    @staticmethod
    def _make(source, arguments):
        return ModelStream._of(source(**arguments), source, arguments)

    @staticmethod
    cdef ModelStream _of(spec, source, arguments):
        cdef ModelStream self = ModelStream.__new__(ModelStream)
        cdef Work work
        self.lock = make_stack(False, 1, 1, 1)
        self.spec, self.source, self.arguments = spec, source, arguments
        self.batch, self.I, self.real = spec.batch_size, spec.input_size, spec.dtype
        self.type_num, self.item = spec.dtype.num, spec.dtype.itemsize
        self.batch_first, self.single, self.only_ids = spec.batch_first, spec.single, spec.reads == "ids"
        widest = max(8, self.I * self.item, *[one.width * self.item for one in spec.works])
        self.block = max(1, min(MOST_STEPS, BLOCK_BYTES // max(1, self.batch * widest)))
        rows = self.block * self.batch
        entry = aligned_empty((rows * max(8, self.I * self.item if spec.reads != "ids" else 0),), np.uint8)
        self.entry = <char *>cnp.PyArray_DATA(<cnp.ndarray>entry)
        kept, layers, names = [entry], [], []
        kinds = {"layer": LAYER, "head": HEAD, "lookup": LOOKUP, "sum": SUM, "join": JOIN}
        outputs = list(spec.outputs.values())
        for number, one in enumerate(spec.works):
            memory = aligned_empty((rows * one.width,), self.real)
            work.kind, work.width, work.result = kinds[one.kind], one.width, -1
            work.first, work.count = <int>self.sources.size(), len(one.sources)
            for value in one.sources:
                self.sources.push_back(value)
            work.memory = <char *>cnp.PyArray_DATA(<cnp.ndarray>memory)
            work.head = NULL
            work.weights = NULL
            work.layer, work.cost = -1, 0
            kept.append(memory)
            if one.stream is not None:
                work.layer = <int>len(layers)
                layers.append(one.stream)
                names.append(one.name)
            if one.kernel is not None:
                kept.append(one.kernel)
                work.head = <const HeadHandle *>PyCapsule_GetPointer(one.kernel.handle, "rnnfast.head")
                work.cost = <double>self.batch * work.head.input * work.head.output
            if one.weights is not None:
                work.weights = <const char *>cnp.PyArray_DATA(<cnp.ndarray>one.weights)
            if number + 1 in outputs:
                work.result = outputs.index(number + 1)
            self.works.push_back(work)
        for value in outputs:
            self.results.push_back(value - 1)
        self.places.resize(self.works.size() + 1)
        self.targets.resize(len(outputs))
        self.kept, self.layers, self.names = tuple(kept), tuple(layers), tuple(names)
        return self

    @property
    def batch_size(self):
        return self.batch

    @property
    def input_size(self):
        return self.I

    @property
    def output_size(self):
        sizes = {name: self.spec.works[value - 1].width for name, value in self.spec.outputs.items()}
        return next(iter(sizes.values())) if self.single else sizes

    @property
    def dtype(self):
        return self.real

    @property
    def weights(self):
        return self.spec.weights

    @property
    def version(self):
        return self.spec.version

    @property
    def stale(self):
        return self.spec.params.version != self.spec.version

    def __repr__(self):
        return (
            f"ModelStream(batch_size={self.batch}, input_size={self.I}, output_size={self.output_size}, "
            f"layers={list(self.names)}, weights={self.weights!r})"
        )

    def __reduce__(self):
        raise TypeError("ModelStream: cannot be pickled; pickle the model and the stream's state")

    def step(self, x, out=None, *, ids=None):
        """One step.

        Parameters
        ----------
        x : array_like, shape [B, I], or [I] if B = 1
            The input; or integer ids in 0..I-1, [B] or a number, where a layer or an Embedding reads them.
        out : ndarray, shape [B, O], or [O] where `x` is [I] or a number, optional
            Where to write the result: of the stream's dtype, C-contiguous, sharing no memory with `x`. Of several
            outputs a mapping from some of their names.
        ids : bool, optional
            Whether `x` is ids, as for a stream of a layer.

        Returns
        -------
        ndarray or dict
            The model's output; `out`, if given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written and the state is as it was.
        RuntimeError
            Another thread is inside this stream.

        Examples
        --------
        >>> import numpy as np
        >>> from rnnfast import LSTM, Dense, Model
        >>> stream = Model(rnn=LSTM(3, 8), head=Dense(8, 2)).stream()
        >>> stream.step(np.zeros(3, np.float32)).shape
        (2,)
        """
        cdef int axes
        if self.only_ids:
            if ids is None and (type(x) is int or type(x) is np.int64) and 0 <= x < self.I:
                x = self.number(x)
            axes = self.plain_ids(x, 0, ids)
            if axes >= 0:
                return self.walk(x, True, axes == 1, False, out)
        elif ids is None:
            axes = plain(x, self.I, self.type_num)
            if axes == 2 and cnp.PyArray_DIM(<cnp.ndarray>x, 0) == self.batch or axes == 1 and self.batch == 1:
                return self.walk(x, False, axes == 2, False, out)
        batched, array, found = self.checked("x", x, 0, "[B, I]", ids)
        return self.walk(array, found, batched, False, out)

    def process(self, block, out=None, *, ids=None):
        """Many steps.

        Parameters
        ----------
        block : array_like, shape [T, B, I] ([B, T, I] if the model is batch_first), or [T, I] if B = 1
            The inputs; or integer ids without the last axis.
        out : ndarray, shape of the result, optional
            Where to write it: of the stream's dtype, C-contiguous, sharing no memory with `block`. Of several outputs a
            mapping from some of their names.
        ids : bool, optional
            Whether `block` is ids, as for a stream of a layer.

        Returns
        -------
        ndarray or dict, shape [T, B, O] ([B, T, O] if batch_first), or [T, O]
            The model's output; `out`, if given.

        Raises
        ------
        TypeError, ValueError
            An argument is of a wrong kind, shape or range; nothing is written and the state is as it was.
        RuntimeError
            Another thread is inside this stream.
        """
        cdef int axes
        if self.only_ids:
            axes = self.plain_ids(block, 1, ids)
            if axes > 0:
                return self.walk(block, True, axes == 2, True, out)
        elif ids is None:
            axes = plain(block, self.I, self.type_num)
            if axes == 2 and self.batch == 1 or (
                axes == 3 and cnp.PyArray_DIM(<cnp.ndarray>block, not self.batch_first) == self.batch
            ):
                return self.walk(block, False, axes == 3, True, out)
        batched, array, found = self.checked("block", block, 1, "[B, T, I]" if self.batch_first else "[T, B, I]", ids)
        return self.walk(array, found, batched, True, out)

    # noexcept: it reads fields after their types were looked at.
    cdef int plain_ids(self, x, int time, ids) noexcept:
        """How many axes the ids have, if they are an int64 array that can be used as it is; else -1."""
        if ids is not None or not cnp.PyArray_CheckExact(x) or cnp.PyArray_TYPE(<cnp.ndarray>x) != cnp.NPY_INT64:
            return -1
        cdef int axes = cnp.PyArray_NDIM(<cnp.ndarray>x)
        if not PyArray_ISCARRAY_RO(<cnp.ndarray>x) or axes > 1 + time:
            return -1
        if axes == 1 + time:
            return axes if cnp.PyArray_DIM(<cnp.ndarray>x, time and not self.batch_first) == self.batch else -1
        return axes if axes == time and self.batch == 1 else -1

    cdef cnp.ndarray number(self, int64_t id):
        """An id as an array without axes."""
        cdef cnp.ndarray array = <cnp.ndarray>cnp.PyArray_EMPTY(0, NULL, cnp.NPY_INT64, 0)
        (<int64_t *>cnp.PyArray_DATA(array))[0] = id
        return array

    cdef checked(self, name, x, has_time, axes, ids):
        """Whether there is a batch axis; x as a C-contiguous array of the dtype or of int64 ids; which of the two."""
        array = _checks.numbers(name, x)
        rank = 2 + has_time
        if self.spec.reads == "either":
            found = _checks.means_ids(name, array, rank, self.I, ids, single=self.batch == 1)
        else:
            found = self.only_ids
            if ids is not None and _checks.truth("ids", ids) != found:
                raise ValueError(f"ids: expected {found}, which is what reads {name} here takes, got {ids}")
        letters = axes.replace(", I", "") if self.only_ids else axes
        if self.batch == 1:
            letters = f"{letters} or {letters.replace('B, ', '').replace('[B]', 'a number').replace(', B', '')}"
        batched = array.ndim + found == rank
        if not batched and not (array.ndim + found == rank - 1 and self.batch == 1):
            raise ValueError(f"{name}: expected {letters}, got {_checks.describe(array)}")
        if batched and array.shape[1 if has_time and not self.batch_first else 0] != self.batch:
            raise ValueError(f"{name}: expected {letters} with B={self.batch}, got {_checks.describe(array)}")
        if not found:
            if array.shape[-1] != self.I:
                raise ValueError(f"{name}: expected {letters} with I={self.I}, got {_checks.describe(array)}")
            return batched, _checks.real(name, array, self.real, contiguous=True), False
        own = np.array(_checks.integers(name, array), dtype=np.int64, order="C")
        return batched, own, True

    cdef walk(self, cnp.ndarray x, bint ids, bint batched, bint time, out):
        """Run C-contiguous x, which has an axis for the batch or not, and one for time or not; so have the results."""
        cdef bint by_rows = time and batched and self.batch_first
        cdef index steps = cnp.PyArray_DIM(x, by_rows) if time else 1
        cdef cnp.npy_intp shape[3]
        cdef int axes = time + batched + 1, number
        cdef cnp.ndarray y
        cdef bint stopped
        shape[0] = steps
        shape[time] = self.batch
        if by_rows:
            shape[0], shape[1] = self.batch, steps
        if self.single:
            result = y = self.target(out, x, shape, axes, 0, "out")
        else:
            result = self.several(out, x, shape, axes)
        self.enter()
        try:
            if ids:
                self.check_ids(<const int64_t *>cnp.PyArray_DATA(x), cnp.PyArray_SIZE(x))
            if self.single:
                self.targets[0] = <char *>cnp.PyArray_DATA(y)
            else:
                for number, y in enumerate(result.values()):  # which `result` keeps alive
                    self.targets[number] = <char *>cnp.PyArray_DATA(y)
            stopped = self.run(<const char *>cnp.PyArray_DATA(x), ids, steps, by_rows)
        finally:
            self.lock.get().leave()
        if stopped:
            interrupted()
        return result

    cdef cnp.ndarray target(self, out, cnp.ndarray x, cnp.npy_intp *shape, int axes, int number, name):
        """The caller's array for an output, checked, or a new one."""
        cdef index width = self.works[self.results[number]].width
        cdef cnp.ndarray y
        cdef bint fits
        cdef int axis
        shape[axes - 1] = width
        if out is None:
            return <cnp.ndarray>cnp.PyArray_EMPTY(axes, shape, self.type_num, 0)
        fits = plain(out, width, self.type_num) == axes and PyArray_ISCARRAY(<cnp.ndarray>out)
        if fits:
            y = <cnp.ndarray>out
            for axis in range(axes):
                fits = fits and cnp.PyArray_DIM(y, axis) == shape[axis]
            fits = fits and not overlap(
                <char *>cnp.PyArray_DATA(y), cnp.PyArray_NBYTES(y), <char *>cnp.PyArray_DATA(x), cnp.PyArray_NBYTES(x)
            )
        if not fits:
            _checks.output(name, out, tuple([shape[axis] for axis in range(axes)]), self.real, [("x", x)])
        return <cnp.ndarray>out

    cdef dict several(self, out, cnp.ndarray x, cnp.npy_intp *shape, int axes):
        """The arrays of all outputs, by their names."""
        given = {} if out is None else _checks.mapping("out", out)
        if wrong := [name for name in given if name not in self.spec.outputs]:
            raise ValueError(f"out: expected names among {list(self.spec.outputs)}, got {wrong}")
        found = {}
        for number, name in enumerate(self.spec.outputs):
            found[name] = self.target(given.get(name), x, shape, axes, number, f"out[{name!r}]")
            others = [(f"out[{one!r}]", array) for one, array in found.items() if one != name]
            if others:
                _checks.output(f"out[{name!r}]", found[name], found[name].shape, self.real, others)
        return found

    cdef int check_ids(self, const int64_t *ids, index count) except -1:
        cdef index i
        for i in range(count):
            if not 0 <= ids[i] < self.I:
                raise ValueError(f"x: expected ids in 0..{self.I - 1}, got {ids[i]}")
        return 0

    cdef int enter(self) except -1:
        if self.lock.get() == NULL:
            raise TypeError("ModelStream: made by model.stream(), not directly")
        if not self.lock.get().enter():
            raise RuntimeError("another thread is inside this stream: a stream serves one at a time; give each its copy()")
        return 0

    cdef bint run(self, const char *x, bint ids, index steps, bint by_rows) except -1:
        """All steps, block by block. True if Ctrl-C came, with an exception set and the states as they were."""
        cdef index begin = 0, some, row, t
        cdef index bytes_in = <index>sizeof(int64_t) if ids else self.I * self.item
        cdef index width
        cdef int number
        cdef char *block
        cdef Stream stream
        while begin < steps:
            some = min(self.block, steps - begin)
            if by_rows:
                for row in range(self.batch):
                    for t in range(some):
                        memcpy(
                            self.entry + (t * self.batch + row) * bytes_in,
                            x + (row * steps + begin + t) * bytes_in,
                            bytes_in,
                        )
                self.places[0] = self.entry
            else:
                self.places[0] = <char *>x + begin * self.batch * bytes_in
            if ids and not by_rows:
                memcpy(self.entry, self.places[0], some * self.batch * bytes_in)
                self.places[0] = self.entry
            if ids:  # once more, of a copy that no other thread writes to
                self.check_ids(<const int64_t *>self.places[0], some * self.batch)
            if self.advance(ids, begin, some, by_rows):
                return True
            if by_rows:
                for number in range(<int>self.results.size()):
                    width = self.works[self.results[number]].width * self.item
                    block = self.places[self.results[number] + 1]
                    for row in range(self.batch):
                        for t in range(some):
                            memcpy(
                                self.targets[number] + (row * steps + begin + t) * width,
                                block + (t * self.batch + row) * width,
                                width,
                            )
            begin += some
            if steps > self.block and PyErr_CheckSignals() != 0:
                return True
        if steps:
            for number in range(<int>len(self.layers)):
                stream = <Stream>self.layers[number]
                stream.now = not stream.now
        return False

    # noexcept: it must return before the lock is left; what the poll raised is still set and goes up by `interrupted`.
    cdef bint advance(self, bint ids, index begin, index some, bint by_rows) noexcept:
        """One block through all works. True if Ctrl-C came."""
        cdef index rows = some * self.batch, row, at
        cdef size_t number
        cdef int one
        cdef Work *work
        cdef char *to
        cdef const char *source
        cdef const int64_t *chosen = <const int64_t *>self.places[0]
        for number in range(self.works.size()):
            work = &self.works[number]
            to = work.memory
            if work.result >= 0 and not by_rows:
                to = self.targets[work.result] + begin * self.batch * work.width * self.item
            self.places[number + 1] = to
            source = self.places[self.sources[work.first]]
            if work.kind == LAYER:
                if self.layer(work, source, ids and self.sources[work.first] == 0, begin, some, to):
                    return True
            elif work.kind == HEAD:
                if work.cost * some < WORTH_RELEASING:
                    work.head.forward(work.head.head, work.weights, source, rows, to)
                else:
                    with nogil:
                        work.head.forward(work.head.head, work.weights, source, rows, to)
            elif work.kind == LOOKUP:
                for row in range(rows):
                    memcpy(
                        to + row * work.width * self.item,
                        work.weights + chosen[row] * work.width * self.item,
                        work.width * self.item,
                    )
            elif work.kind == SUM:
                memcpy(to, source, rows * work.width * self.item)
                for one in range(1, work.count):
                    source = self.places[self.sources[work.first + one]]
                    add_rows(to, source, rows * work.width, self.item == 8)
            else:
                at = 0
                for one in range(work.count):
                    at = self.join(work, one, rows, at, to)
        return False

    # noexcept: it copies memory whose sizes were checked when the stream was made, and calls nothing that could raise.
    cdef index join(self, Work *work, int one, index rows, index at, char *to) noexcept:
        """Copy one source's features beside the others'; where the next ones begin."""
        cdef int value = self.sources[work.first + one]
        cdef index width = (self.works[value - 1].width if value else self.I) * self.item, row
        for row in range(rows):
            memcpy(to + row * work.width * self.item + at, self.places[value] + row * width, width)
        return at + width

    # noexcept: as `advance`, of which it is a part; what the poll raised is still set.
    cdef bint layer(self, Work *work, const char *source, bint ids, index begin, index some, char *to) noexcept:
        cdef Run run
        cdef Stream stream = <Stream>self.layers[work.layer]
        cdef int state
        run.steps = some
        run.x = source
        run.ids = NULL
        if ids:
            run.x = NULL
            run.ids = <const int64_t *>source
        run.x_b = 1 if ids else stream.I
        run.x_t = self.batch * run.x_b
        run.y, run.y_t, run.y_b = to, self.batch * work.width, work.width
        run.givens = 0
        for state in range(stream.count):
            run.state[state] = stream.places[stream.now if begin == 0 else not stream.now][state]
            run.final_state[state] = stream.places[not stream.now][state]
        return stream.run(&run)

    def reset(self, rows=None):
        """Put the states back to what they start from.

        Parameters
        ----------
        rows : array_like, optional
            The rows that begin anew: their numbers or a boolean mask [B]. By default all.

        Raises
        ------
        TypeError, ValueError
            There are no such rows.
        """
        if rows is not None:
            rows = _checks.rows("rows", rows, self.batch)
        self.enter()
        try:
            for stream in self.layers:
                stream.reset(rows)
        finally:
            self.lock.get().leave()

    @property
    def state(self):
        self.enter()
        try:
            return {name: stream.state for name, stream in zip(self.names, self.layers, strict=True)}
        finally:
            self.lock.get().leave()

    @state.setter
    def state(self, value):
        given = _checks.mapping("state", value)
        if wrong := [name for name in given if name not in self.names]:
            raise ValueError(f"state: expected names among {list(self.names)}, got {wrong}")
        self.enter()
        try:
            chosen = {name: stream for name, stream in zip(self.names, self.layers, strict=True) if name in given}
            before = {name: stream.state for name, stream in chosen.items()}
            try:
                for name, stream in chosen.items():
                    stream.state = given[name]
            except (TypeError, ValueError) as error:
                for name, stream in chosen.items():
                    stream.state = before[name]
                raise type(error)(str(error).replace("state", f"state[{name!r}]", 1)) from error
        finally:
            self.lock.get().leave()

    @state.deleter
    def state(self):
        raise AttributeError("state: cannot be deleted; reset() zeroes it")

    def refresh(self):
        """Take the model's present weights; the states are kept.

        Raises
        ------
        RuntimeError
            Another thread is inside this stream.
        """
        cdef size_t number
        self.enter()
        try:
            with self.spec.params.reading():  # so that all are of one version
                spec = self.source(**self.arguments, streams=dict(zip(self.names, self.layers, strict=True)))
                for stream in self.layers:
                    stream.refresh()
            for number in range(self.works.size()):
                weights = spec.works[number].weights
                if weights is not None:
                    self.works[number].weights = <const char *>cnp.PyArray_DATA(<cnp.ndarray>weights)
            self.spec = spec
        finally:
            self.lock.get().leave()

    def copy(self):
        """A stream with the same weights and a copy of the states.

        Returns
        -------
        ModelStream
        """
        self.enter()
        try:
            works = [one if one.stream is None else one._replace(stream=one.stream.copy()) for one in self.spec.works]
        finally:
            self.lock.get().leave()
        return ModelStream._of(self.spec._replace(works=works), self.source, self.arguments)

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()
