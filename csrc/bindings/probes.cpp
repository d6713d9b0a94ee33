// Measurements of the machine, the checksum of an array, and the pointwise functions for their tests.
#include <pybind11/stl.h>

#include "bindings/program.h"
#include "parallel/policy.h"
#include "probes/probes.h"

namespace rnnfast::bindings {

namespace {

using Object = py::object;

std::uint64_t checksum_of(const py::array &a) {
    if (a.dtype().has_fields() || a.dtype().kind() == 'O') fail("array", "a numeric array", describe(a));
    const View view{static_cast<const char *>(a.data()),  a.shape(), a.strides(), a.ndim(), a.itemsize(),
                    (a.flags() & py::array::c_style) != 0};
    const Released released;
    return checksum(view);
}

} // namespace

void register_probes(py::module_ &module) {
    const auto none = py::none();
    module.def("line_transfer", line_transfer, py::call_guard<Released>(),
               "Seconds that a cache line takes from one core to another; 0 where there is one thread.");
    module.def("checksum", checksum_of, py::arg("array"), "A 64-bit checksum of an array's content in logical order.");
    module.def(
        "read_bandwidth",
        [](index bytes, int threads, const std::optional<std::string> &isa) {
            if (bytes < 1 || bytes > largest) fail("nbytes", "a size in 1 .. 2**47", std::to_string(bytes));
            if (threads < 1 || threads > most_threads)
                fail("threads", "an integer in 1 .. 4096", std::to_string(threads));
            const std::string name = require_isa(isa);
            const Released released;
            return table<float>(name.c_str())->read_bandwidth(bytes, threads);
        },
        py::arg("nbytes"), py::arg("threads") = 1, py::arg("isa") = none,
        "GB/s at which threads read a buffer of so many bytes over and over, each its share.");
    module.def(
        "fma_peak",
        [](const std::string &dtype, const std::optional<std::string> &isa) {
            const std::string name = require_isa(isa);
            const auto f =
                is_double(dtype) ? table<double>(name.c_str())->fma_peak : table<float>(name.c_str())->fma_peak;
            const Released released;
            return f();
        },
        py::arg("dtype") = "float32", py::arg("isa") = none,
        "GFLOP/s of one thread that only multiplies and adds, in registers.");
    const auto pointwise = [](const std::string &function, const Object &x, const Object &y,
                              const std::optional<std::string> &isa) {
        const std::string name = require_isa(isa);
        const bool wide = describe(x).rfind("float64", 0) == 0;
        const std::optional<Op> op = unary_operation(function);
        if (!op) fail("function", "an operation on one row", "'" + function + "'");
        const auto run = [&]<class T>(const Table<T> *t) {
            if (!py::isinstance<py::array>(x)) throw py::type_error("x: expected an array, got " + describe(x));
            const index n = py::reinterpret_borrow<py::array>(x).size();
            const T *const from = contiguous<const T>(x, "x", {n});
            t->pointwise(*op, from, contiguous<T>(y, "y", {n}), n);
        };
        wide ? run(table<double>(name.c_str())) : run(table<float>(name.c_str()));
    };
    module.def("pointwise", pointwise, py::arg("function"), py::arg("x"), py::arg("y"), py::arg("isa") = none,
               "y[i] = function(x[i]) with the kernels' own arithmetic, for tests.");
}

} // namespace rnnfast::bindings
