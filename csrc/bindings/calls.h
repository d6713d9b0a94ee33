// The fields of a call, and the parameters of a kernel, as they come from Python.
#pragma once

#include <vector>

#include "bindings/bindings.h"

namespace rnnfast::bindings {

// A call is one tuple, whose fields are read by position: rnnfast/_call.py has the tuples, and a test holds them equal.
// (clang-format breaks these lines in another way each time.)
// clang-format off
#define RNNFAST_FORWARD_FIELDS(FIELD) \
    FIELD(panels) FIELD(x) FIELD(y) FIELD(state) FIELD(final_state) FIELD(reset_state) FIELD(lengths) FIELD(resets) \
    FIELD(reverse) FIELD(tape) FIELD(num_threads) FIELD(skip) FIELD(given) FIELD(seed) FIELD(first_step) FIELD(layer) \
    FIELD(training)
#define RNNFAST_BACKWARD_FIELDS(FIELD) \
    FIELD(panels) FIELD(panels_backward) FIELD(x) FIELD(tape) FIELD(dy) FIELD(dfinal) FIELD(dx) FIELD(dstate) \
    FIELD(dpanels) FIELD(state) FIELD(reset_state) FIELD(lengths) FIELD(resets) FIELD(reverse) FIELD(d_reset_state) \
    FIELD(num_threads) FIELD(skip) FIELD(given) FIELD(dgiven) FIELD(seed) FIELD(first_step) FIELD(layer) \
    FIELD(adds)
// clang-format on
#define RNNFAST_POSITION(name) name,
#define RNNFAST_NAME(name) #name,

struct ForwardFields {
    static constexpr const char *tuple = "ForwardCall", *names[] = {RNNFAST_FORWARD_FIELDS(RNNFAST_NAME)};
    enum Position { RNNFAST_FORWARD_FIELDS(RNNFAST_POSITION) count };
};
struct BackwardFields {
    static constexpr const char *tuple = "BackwardCall", *names[] = {RNNFAST_BACKWARD_FIELDS(RNNFAST_NAME)};
    enum Position { RNNFAST_BACKWARD_FIELDS(RNNFAST_POSITION) count };
};

template <class Fields> py::tuple names_of() {
    py::tuple names(static_cast<std::size_t>(Fields::count));
    for (int i = 0; i < Fields::count; ++i) names[static_cast<std::size_t>(i)] = Fields::names[i];
    return names;
}

// The fields of a call.
template <class Fields> class Call {
    PyObject *const tuple_;

  public:
    explicit Call(py::handle call) : tuple_(call.ptr()) {
        if (PyTuple_Check(tuple_) && PyTuple_GET_SIZE(tuple_) == Fields::count) return;
        throw py::type_error("call: expected a " + std::string(Fields::tuple) + ", got " + describe(call));
    }
    py::handle operator[](typename Fields::Position field) const { return PyTuple_GET_ITEM(tuple_, field); }
};

// A parameter's name and shape.
struct Parameter {
    std::string name;
    index rows, columns; // columns 0: a vector
    bool optional;       // may be None
};

template <class T> Weights<T> weights(py::handle params, const std::vector<Parameter> &expected) {
    const Parts given = parts_of(params, "params", static_cast<index>(expected.size()));
    Weights<T> found;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const Parameter &p = expected[i];
        const py::handle array = given[static_cast<int>(i)];
        if (p.optional && array.is_none()) continue;
        found.data[i] = p.columns ? contiguous<T>(array, p.name.c_str(), {p.rows, p.columns})
                                  : contiguous<T>(array, p.name.c_str(), {p.rows});
    }
    return found;
}

} // namespace rnnfast::bindings
