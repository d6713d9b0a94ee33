// Checks of what Python hands over. The binding trusts nothing: a wrong call raises, it never reads past an array.
#include "bindings/bindings.h"

namespace rnnfast::bindings {

namespace {

std::string shape_text(const index *shape, std::size_t n) {
    std::string text = "(";
    for (std::size_t i = 0; i < n; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (n == 1 ? ",)" : ")");
}

bool strides_fit(const py::array &a, bool strided) {
    if (a.size() == 0) return true;
    const auto rank = a.ndim();
    const index item = a.itemsize();
    if (!strided) return (a.flags() & py::array::c_style) != 0;
    for (index axis = 0; axis < rank; ++axis) {
        if (a.strides(axis) % item != 0) return false;
    }
    return rank < 3 || a.shape(rank - 1) == 1 || a.strides(rank - 1) == item;
}

} // namespace

void fail(const std::string &argument, const std::string &expected, const std::string &got) {
    throw py::value_error(argument + ": expected " + expected + ", got " + got);
}

std::string describe(py::handle value) {
    if (!py::isinstance<py::array>(value)) return py::str(py::type::of(value).attr("__name__"));
    const auto a = py::reinterpret_borrow<py::array>(value);
    return py::str(a.dtype()).cast<std::string>() + " array of shape " +
           shape_text(a.shape(), static_cast<std::size_t>(a.ndim()));
}

py::array checked(py::handle value, const char *name, const py::dtype &dtype, Shape shape, bool writeable,
                  bool strided) {
    const auto expected = [&] { // not before it is needed: NumPy takes microseconds to name a dtype
        return py::str(dtype).cast<std::string>() + " array of shape " + shape_text(shape.begin(), shape.size());
    };
    if (!py::isinstance<py::array>(value))
        throw py::type_error(std::string(name) + ": expected " + expected() + ", got " + describe(value));
    auto a = py::reinterpret_borrow<py::array>(value);
    if (!a.dtype().is(dtype) && !a.dtype().equal(dtype)) {
        throw py::type_error(std::string(name) + ": expected " + expected() + ", got " + describe(value));
    }
    bool same = a.ndim() == static_cast<index>(shape.size());
    for (std::size_t i = 0; same && i < shape.size(); ++i) same = a.shape(static_cast<index>(i)) == shape.begin()[i];
    if (!same) fail(name, expected(), describe(value));
    if (writeable && !a.writeable()) fail(name, "a writeable array", "a read-only one");
    if ((a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) fail(name, "an aligned array", "an unaligned one");
    if (!strides_fit(a, strided)) {
        fail(name, strided ? "unit stride in the last axis" : "a C-contiguous array", "another layout");
    }
    return a;
}

bool Signals::poll(void *self) {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() == 0) return false;
    static_cast<Signals *>(self)->error_.emplace();
    return true;
}

} // namespace rnnfast::bindings
