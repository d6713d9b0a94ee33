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

py::array checked(py::handle value, const Name &name, const py::dtype &dtype, Shape shape, bool writeable,
                  bool strided) {
    const auto expected = [&] { // not before it is needed: NumPy takes microseconds to name a dtype
        return py::str(dtype).cast<std::string>() + " array of shape " + shape_text(shape.begin(), shape.size());
    };
    if (!py::isinstance<py::array>(value))
        throw py::type_error(name.str() + ": expected " + expected() + ", got " + describe(value));
    auto a = py::reinterpret_borrow<py::array>(value);
    if (!a.dtype().is(dtype) && !a.dtype().equal(dtype)) {
        throw py::type_error(name.str() + ": expected " + expected() + ", got " + describe(value));
    }
    bool same = a.ndim() == static_cast<index>(shape.size());
    for (std::size_t i = 0; same && i < shape.size(); ++i) same = a.shape(static_cast<index>(i)) == shape.begin()[i];
    if (!same) fail(name.str(), expected(), describe(value));
    if (writeable && !a.writeable()) fail(name.str(), "a writeable array", "a read-only one");
    if ((a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0)
        fail(name.str(), "an aligned array", "an unaligned one");
    if (!strides_fit(a, strided)) {
        fail(name.str(), strided ? "unit stride in the last axis" : "a C-contiguous array", "another layout");
    }
    return a;
}

namespace {

[[noreturn]] void wrong_type(const char *name, const std::string &expected, py::handle value) {
    throw py::type_error(std::string(name) + ": expected " + expected + ", got " + describe(value));
}

} // namespace

Parts parts_of(py::handle value, const char *name, index count) {
    if (value.is_none()) return {};
    if (!PyTuple_Check(value.ptr())) wrong_type(name, "a tuple or None", value);
    if (PyTuple_GET_SIZE(value.ptr()) != count) {
        fail(name, "a tuple of " + std::to_string(count), "one of " + std::to_string(PyTuple_GET_SIZE(value.ptr())));
    }
    return {value.ptr()};
}

bool truth(py::handle value, const char *name) {
    if (!PyBool_Check(value.ptr())) wrong_type(name, "a bool", value);
    return value.ptr() == Py_True;
}

std::int64_t integer(py::handle value, const char *name) {
    if (!PyLong_Check(value.ptr())) wrong_type(name, "an integer", value);
    const long long n = PyLong_AsLongLong(value.ptr());
    if (n == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        fail(name, "an integer of 64 bits", "a larger one");
    }
    return n;
}

bool Signals::poll(void *self) {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() == 0) return false;
    static_cast<Signals *>(self)->error_.emplace();
    return true;
}

} // namespace rnnfast::bindings
