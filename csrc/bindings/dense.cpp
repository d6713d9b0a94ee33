// rnnfast._core.Dense: y = W x + b over rows, and activations of such rows.
#include <pybind11/stl.h>

#include "bindings/calls.h"
#include "bindings/either.h"
#include "heads/activations.h"
#include "parallel/policy.h"

namespace rnnfast::bindings {

template <class T> class DenseBinding {
    const Sizes sizes_;
    const DenseKernel<T> kernel_;
    const Pointwise<T> pointwise_;
    const Activation activation_;
    mutable HeadHandle handle_{std::is_same_v<T, double>, sizes_.input, sizes_.hidden, nullptr, step};

    static void step(const void *head, const void *panels, const void *x, index rows, void *y) noexcept {
        const auto &self = *static_cast<const DenseBinding *>(head);
        DenseCall<T> call{};
        call.rows = rows;
        call.sizes = self.sizes_;
        call.threads = 1;
        call.x = static_cast<const T *>(x);
        call.x_stride = self.sizes_.input;
        call.panels = static_cast<const T *>(panels);
        call.y = static_cast<T *>(y);
        self.kernel_.forward(call);
        activate(self.activation_, self.pointwise_, call.y, rows, self.sizes_.hidden);
    }

  public:
    DenseBinding(Sizes sizes, Activation activation, const Table<T> *table)
        : sizes_(sizes), kernel_(table->dense), pointwise_(table->pointwise), activation_(activation) {
        require_product({sizes.hidden + 64, sizes.input + 2}, "input_size, output_size");
    }

    const HeadHandle *handle() const {
        handle_.head = this; // where it lies now: bindings are moved when they are made
        return &handle_;
    }

    index panel_size() const { return kernel_.panel_size(sizes_); }
    index panel_size_backward() const { return kernel_.panel_size_backward(sizes_); }

    template <class M> Weights<M> matrices(const py::object &params) const {
        return weights<M>(params, {{"weight", sizes_.hidden, sizes_.input, false}, {"bias", sizes_.hidden, 0, true}});
    }

    void pack(const py::object &params, const py::object &out) const {
        kernel_.pack(sizes_, matrices<const T>(params), contiguous<T>(out, "out", {panel_size()}));
    }
    void pack_backward(const py::object &params, const py::object &out, bool dx) const {
        const auto w = matrices<const T>(params);
        T *const panels = contiguous<T>(out, "out", {panel_size_backward()});
        if (dx) kernel_.pack_backward(sizes_, w, panels); // nothing else reads them
    }
    void unpack(const py::object &panels, const py::object &params) const {
        kernel_.unpack(sizes_, contiguous<const T>(panels, "panels", {panel_size()}), matrices<T>(params));
    }

    void forward(const py::object &panels, const py::object &x, const py::object &y, int num_threads) const {
        DenseCall<T> call = rows(x, num_threads, 1);
        call.panels = contiguous<const T>(panels, "panels", {panel_size()});
        call.y = contiguous<T>(y, "y", {call.rows, sizes_.hidden});
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            kernel_.forward(call);
        });
    }

    void backward(const py::object &panels_backward, const py::object &x, const py::object &dy, const py::object &dx,
                  const py::object &dpanels, bool adds, int num_threads) const {
        DenseCall<T> call = rows(x, num_threads, 2);
        call.panels = contiguous<const T>(panels_backward, "panels_backward", {panel_size_backward()});
        call.dy = contiguous<const T>(dy, "dy", {call.rows, sizes_.hidden});
        call.dx = optional<T>(dx, "dx", {call.rows, sizes_.input});
        call.dpanels = contiguous<T>(dpanels, "dpanels", {panel_size()});
        call.adds = adds;
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            kernel_.backward(call);
        });
    }

    void activate_rows(const py::object &z) const {
        const index n = rows_of(z, "z");
        T *const data = contiguous<T>(z, "z", {n, sizes_.hidden});
        const Released released;
        activate(activation_, pointwise_, data, n, sizes_.hidden);
    }

    void differentiate_rows(const py::object &kept, const py::object &dy) const {
        const index n = rows_of(dy, "dy");
        const T *const from = contiguous<const T>(kept, "kept", {n, sizes_.hidden});
        T *const data = contiguous<T>(dy, "dy", {n, sizes_.hidden});
        const Released released;
        differentiate(activation_, pointwise_, from, data, n, sizes_.hidden);
    }

  private:
    static index rows_of(const py::object &array, const char *name) {
        if (!py::isinstance<py::array>(array)) {
            throw py::type_error(std::string(name) + ": expected an array, got " + describe(array));
        }
        const auto a = py::reinterpret_borrow<py::array>(array);
        if (a.ndim() != 2) fail(name, "an array of shape [N, O]", describe(array));
        return a.shape(0);
    }

    DenseCall<T> rows(const py::object &x, int num_threads, int passes) const {
        if (!py::isinstance<py::array>(x)) throw py::type_error("x: expected an array, got " + describe(x));
        const auto a = py::reinterpret_borrow<py::array>(x);
        if (a.ndim() != 2) fail("x", "an array of shape [N, I]", describe(x));
        DenseCall<T> call{};
        call.rows = a.shape(0);
        call.sizes = sizes_;
        require_product({call.rows, sizes_.input + sizes_.hidden + 64}, "N, input_size, output_size");
        call.x = contiguous<const T>(x, "x", {call.rows, sizes_.input});
        call.x_stride = sizes_.input;
        const double work =
            static_cast<double>(call.rows) * static_cast<double>(sizes_.input) * static_cast<double>(sizes_.hidden);
        call.threads = threads_for(num_threads, work * passes);
        return call;
    }
};

namespace {

using Head = Either<DenseBinding>;
using Object = py::object;

Activation activation_of(const std::string &name) {
    for (int a = 0; a < static_cast<int>(Activation::activations); ++a) {
        if (name == activation_names[a]) return static_cast<Activation>(a);
    }
    fail("activation", "the name of one", "'" + name + "'");
}

} // namespace

void register_dense(py::module_ &module) {
    const auto none = py::none();
    py::class_<Head>(module, "Dense", "y = W x + b over rows..")
        .def(py::init([](const std::string &dtype, index input, index output, const std::optional<std::string> &isa,
                         const std::string &activation) {
                 return Head(is_double(dtype), require_isa(isa),
                             Sizes{size_argument(input, "input_size"), size_argument(output, "output_size")},
                             activation_of(activation));
             }),
             py::arg("dtype"), py::arg("input_size"), py::arg("output_size"), py::arg("isa") = none,
             py::arg("activation") = "identity")
        .def_property_readonly("handle",
                               [](const Head &k) {
                                   const HeadHandle *const h = k.visit([](auto &b) { return b.handle(); });
                                   return py::capsule(const_cast<HeadHandle *>(h), "rnnfast.head");
                               })
        .def(
            "activate", [](const Head &k, const Object &z) { k.visit([&](auto &b) { b.activate_rows(z); }); },
            py::arg("z"))
        .def(
            "differentiate",
            [](const Head &k, const Object &kept, const Object &dy) {
                k.visit([&](auto &b) { b.differentiate_rows(kept, dy); });
            },
            py::arg("kept"), py::arg("dy"))
        .def_property_readonly("panel_size",
                               [](const Head &k) { return k.visit([](auto &b) { return b.panel_size(); }); })
        .def_property_readonly("panel_size_backward",
                               [](const Head &k) { return k.visit([](auto &b) { return b.panel_size_backward(); }); })
        .def(
            "pack",
            [](const Head &k, const Object &params, const Object &out) {
                k.visit([&](auto &b) { b.pack(params, out); });
            },
            py::arg("params"), py::arg("out"))
        .def(
            "pack_backward",
            [](const Head &k, const Object &params, const Object &out, bool dx) {
                k.visit([&](auto &b) { b.pack_backward(params, out, dx); });
            },
            py::arg("params"), py::arg("out"), py::arg("dx") = true)
        .def(
            "unpack",
            [](const Head &k, const Object &panels, const Object &params) {
                k.visit([&](auto &b) { b.unpack(panels, params); });
            },
            py::arg("panels"), py::arg("params"))
        .def(
            "forward",
            [](const Head &k, const Object &panels, const Object &x, const Object &y, int num_threads) {
                k.visit([&](auto &b) { b.forward(panels, x, y, num_threads); });
            },
            py::arg("panels"), py::arg("x"), py::arg("y"), py::arg("num_threads") = 0)
        .def(
            "backward",
            [](const Head &k, const Object &panels_backward, const Object &x, const Object &dy, const Object &dx,
               const Object &dpanels, bool adds, int num_threads) {
                k.visit([&](auto &b) { b.backward(panels_backward, x, dy, dx, dpanels, adds, num_threads); });
            },
            py::arg("panels_backward"), py::arg("x"), py::arg("dy"), py::arg("dx"), py::arg("dpanels"), py::arg("adds"),
            py::arg("num_threads") = 0);
}

} // namespace rnnfast::bindings
