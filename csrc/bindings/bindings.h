// What the binding files share: the registration functions, checked views of arrays, threads, and Ctrl-C.
#pragma once

#include <optional>
#include <string>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "kernels.h"
#include "parallel/interrupt.h"

namespace rnnfast::bindings {

namespace py = pybind11;

void register_config(py::module_ &module);  // instruction sets, threads, build facts
void register_kernels(py::module_ &module); // Kernel
void register_dense(py::module_ &module);   // Dense
void register_probes(py::module_ &module);  // what the machine can do, checksums, pointwise functions

const char *active_isa();
std::string require_isa(const std::optional<std::string> &name); // a usable name, or ValueError
[[noreturn]] void fail(const std::string &argument, const std::string &expected, const std::string &got);
std::string describe(py::handle value); // "float64 array of shape (3, 4)", "None", "str"

constexpr index largest = index(1) << 47; // elements; beyond, byte counts could overflow and no machine has the memory

void require_product(std::initializer_list<index> factors, const char *what); // at most `largest`
index size_argument(index value, const char *name);                           // 1 .. 2**24
bool is_double(const std::string &dtype);                                     // "float32" or "float64"

template <class T> py::dtype dtype_of() { return py::dtype::of<T>(); }

using Shape = std::initializer_list<index>;

// An argument as messages call it: "x", or "state[1]" for a part of a tuple.
struct Name {
    const char *text;
    int part = -1;

    Name(const char *text_) : text(text_) {}
    Name(const char *text_, int part_) : text(text_), part(part_) {}
    std::string str() const { return part < 0 ? text : std::string(text) + "[" + std::to_string(part) + "]"; }
};

// An array of exactly this dtype and shape, aligned, native; C-contiguous unless `strided`, then with unit stride in
// the last axis.
py::array checked(py::handle value, const Name &name, const py::dtype &dtype, Shape shape, bool writeable,
                  bool strided);

// A tuple with an entry for each state, parameter or further input; None stands for a tuple of Nones.
struct Parts {
    PyObject *tuple = nullptr;
    py::handle operator[](int i) const { return tuple ? PyTuple_GET_ITEM(tuple, i) : Py_None; }
};
Parts parts_of(py::handle value, const char *name, index count);

bool truth(py::handle value, const char *name);
std::int64_t integer(py::handle value, const char *name);

template <class T> T *contiguous(py::handle value, const Name &name, Shape shape) {
    const py::array a =
        checked(value, name, py::dtype::of<std::remove_const_t<T>>(), shape, !std::is_const_v<T>, false);
    return static_cast<T *>(const_cast<void *>(a.data()));
}

template <class T> T *optional(py::handle value, const Name &name, Shape shape) {
    return value.is_none() ? nullptr : contiguous<T>(value, name, shape);
}

// [T, B, features], or [T, B] for ids and resets.
template <class T> Strided<T> strided(py::handle value, const Name &name, const py::dtype &dtype, Shape shape) {
    const py::array a = checked(value, name, dtype, shape, !std::is_const_v<T>, true);
    const auto item = static_cast<index>(sizeof(T));
    return {static_cast<T *>(const_cast<void *>(a.data())), a.strides(0) / item, a.strides(1) / item};
}

// Lets Ctrl-C end a call that runs without the GIL: the kernel polls, and raise() hands the exception on.
class Signals {
    Interrupt interrupt_;
    std::optional<py::error_already_set> error_;

    static bool poll(void *self);

  public:
    Signals() {
        interrupt_.poll = poll;
        interrupt_.context = this;
    }
    Interrupt *interrupt() { return &interrupt_; }
    void raise() {
        if (error_) throw std::move(*error_);
    }
};

// Without the GIL while it lives. When the interpreter ends meanwhile, Python ends the thread that asks for the GIL
// again (a daemon's) by an exception, which must not leave a destructor: the thread then waits for the process's end.
class Released {
    PyThreadState *const state_ = PyEval_SaveThread();

  public:
    Released() = default;
    Released(const Released &) = delete;
    Released &operator=(const Released &) = delete;
    ~Released() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            wait_for_the_end();
        }
    }
};

void warn_of_refused_threads(); // once, where the system has refused some

// Runs work(interrupt) without the GIL; a Python exception raised by a signal handler meanwhile comes out.
template <class Work> void without_gil(Work work) {
    warn_of_refused_threads();
    Signals signals;
    {
        const Released released;
        work(signals.interrupt());
    }
    signals.raise();
}

} // namespace rnnfast::bindings
