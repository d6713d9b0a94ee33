// Kernel and Dense: one row of the kernel table at given sizes, with checked arrays.
#include <limits>
#include <variant>

#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "stack.h"

namespace rnnfast::bindings {

namespace {

constexpr index largest = index(1) << 47; // elements; beyond, byte counts could overflow and no machine has the memory

index size_argument(index value, const char *name) {
    if (value < 1 || value > (index(1) << 24)) fail(name, "an integer in 1 .. 2**24", std::to_string(value));
    return value;
}

void require_product(std::initializer_list<index> factors, const char *what) {
    index product = 1;
    for (const index f : factors) {
        if (f && product > largest / f) fail(what, "a product of sizes below 2**47 elements", "more");
        product *= f;
    }
}

template <class T> py::dtype dtype_of() { return py::dtype::of<T>(); }

template <class T>
Weights<T> weights(const py::object &ih, const py::object &hh, const py::object &b_ih, const py::object &b_hh,
                   index gates, Sizes s) {
    const index rows = gates * s.hidden;
    return {contiguous<T>(ih, "weight_ih", {rows, s.input}), contiguous<T>(hh, "weight_hh", {rows, s.hidden}),
            optional<T>(b_ih, "bias_ih", {rows}), optional<T>(b_hh, "bias_hh", {rows})};
}

void check_lengths(const std::int64_t *lengths, index steps, index batch) {
    for (index b = 0; lengths && b < batch; ++b) {
        if (lengths[b] < 0 || lengths[b] > steps) {
            fail("lengths", "integers in 0 .. " + std::to_string(steps),
                 std::to_string(lengths[b]) + " at position " + std::to_string(b));
        }
    }
}

// How many threads a recurrent call uses. Few rows are shared out by units: each thread reads a part of the weights,
// for which a row's work is twice as long as in a batch, and all wait for each other after each step, so that must be
// worth it. One row, two threads in place of one (Zen 5, both awake): a call of one step of 1.3e5 multiply-adds 0.93
// to 1.06 times as fast, 2e5 1.33 to 1.53, 3e5 2.2; of 64 steps of 2.5e4 0.90, 3.3e4 1.2, 5.5e4 1.47, 1e5 1.6.
int threads_for_steps(int asked, double work_per_step, index steps, index batch) {
    const double work = work_per_step * static_cast<double>(steps);
    const int threads = threads_for(asked, 2 * work);
    if (batch >= 2 * threads) return threads_for(asked, work);
    return step_is_small(work_per_step) ? 1 : threads;
}

template <class T> class CellBinding {
    const Kind kind_;
    const Sizes sizes_;
    const CellKernel<T> &kernel_;
    const KernelHandle handle_;

  public:
    CellBinding(Kind kind, Sizes sizes, const Table<T> *table)
        : kind_(kind), sizes_(sizes), kernel_(table->cells[kind]),
          handle_{std::is_same_v<T, double>, &kernel_, kind, sizes, threads_for_steps} {
        require_product({kernel_.gates, sizes.hidden + 64, sizes.hidden + sizes.input + 2, 2},
                        "input_size, hidden_size");
    }

    const KernelHandle *handle() const { return &handle_; }
    index panel_size() const { return kernel_.panel_size(sizes_); }
    index panel_size_backward() const { return kernel_.panel_size_backward(sizes_); }
    index pairs_size() const { return kernel_.pairs_size(sizes_); }

    void to_pairs(const py::object &panels, const py::object &out) const {
        const T *const from = contiguous<const T>(panels, "panels", {panel_size()});
        std::uint32_t *const to = contiguous<std::uint32_t>(out, "out", {pairs_size()});
        const py::gil_scoped_release release;
        kernel_.to_pairs(sizes_, from, to);
    }

    index tape_size(index steps, index batch) const {
        if (steps < 0 || batch < 0) fail("T, B", "sizes >= 0", std::to_string(steps) + ", " + std::to_string(batch));
        require_product({steps, batch, (kernel_.gates + 3) * (sizes_.hidden + 64)}, "T, B, hidden_size");
        return kernel_.tape_size(sizes_, steps, batch);
    }

    void pack(const py::object &ih, const py::object &hh, const py::object &b_ih, const py::object &b_hh,
              const py::object &out) const {
        const auto w = weights<const T>(ih, hh, b_ih, b_hh, kernel_.gates, sizes_);
        T *const panels = contiguous<T>(out, "out", {panel_size()});
        const py::gil_scoped_release release;
        kernel_.pack(sizes_, w, panels);
    }

    void pack_backward(const py::object &ih, const py::object &hh, const py::object &out) const {
        const auto w = weights<const T>(ih, hh, py::none(), py::none(), kernel_.gates, sizes_);
        T *const panels = contiguous<T>(out, "out", {panel_size_backward()});
        const py::gil_scoped_release release;
        kernel_.pack_backward(sizes_, w, panels);
    }

    void unpack(const py::object &panels, const py::object &ih, const py::object &hh, const py::object &b_ih,
                const py::object &b_hh) const {
        const T *const from = contiguous<const T>(panels, "panels", {panel_size()});
        const auto w = weights<T>(ih, hh, b_ih, b_hh, kernel_.gates, sizes_);
        const py::gil_scoped_release release;
        kernel_.unpack(sizes_, from, w);
    }

    void forward(const py::object &panels, const py::object &x, const py::object &y, const py::object &h0,
                 const py::object &c0, const py::object &hT, const py::object &cT, const py::object &reset_h,
                 const py::object &reset_c, const py::object &lengths, const py::object &resets, bool reverse,
                 const py::object &tape, int num_threads) const {
        Forward<T> call{};
        sequence(call, panels, x, h0, c0, reset_h, reset_c, lengths, resets, reverse, tape, num_threads, 1);
        const index B = call.batch, H = sizes_.hidden;
        call.y = strided<T>(y, "y", dtype_of<T>(), {call.steps, B, H});
        call.hT = contiguous<T>(hT, "hT", {B, H});
        if (kernel_.has_c) call.cT = contiguous<T>(cT, "cT", {B, H});
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            kernel_.forward(call);
        });
    }

    void backward(const py::object &panels, const py::object &panels_backward, const py::object &x,
                  const py::object &tape, const py::object &dy, const py::object &dhT, const py::object &dcT,
                  const py::object &dx, const py::object &dh0, const py::object &dc0, const py::object &dpanels,
                  const py::object &h0, const py::object &c0, const py::object &reset_h, const py::object &reset_c,
                  const py::object &lengths, const py::object &resets, bool reverse, const py::object &d_reset_h,
                  const py::object &d_reset_c, int num_threads) const {
        if (tape.is_none()) throw py::type_error("tape: expected the tape of a forward call, got None");
        Backward<T> call{};
        sequence(call, panels, x, h0, c0, reset_h, reset_c, lengths, resets, reverse, tape, num_threads, 2);
        const index B = call.batch, H = sizes_.hidden;
        call.panels_backward = contiguous<const T>(panels_backward, "panels_backward", {panel_size_backward()});
        if (!dy.is_none()) call.dy = strided<const T>(dy, "dy", dtype_of<T>(), {call.steps, B, H});
        if (!dx.is_none()) {
            if (!call.x.data) fail("dx", "None for ids", describe(dx));
            call.dx = strided<T>(dx, "dx", dtype_of<T>(), {call.steps, B, sizes_.input});
        }
        call.dhT = optional<const T>(dhT, "dhT", {B, H});
        call.dcT = optional<const T>(dcT, "dcT", {B, H});
        call.dh0 = optional<T>(dh0, "dh0", {B, H});
        call.dc0 = optional<T>(dc0, "dc0", {B, H});
        call.d_reset_h = optional<T>(d_reset_h, "d_reset_h", {B, H});
        call.d_reset_c = optional<T>(d_reset_c, "d_reset_c", {B, H});
        call.dpanels = contiguous<T>(dpanels, "dpanels", {panel_size()});
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            kernel_.backward(call);
        });
    }

  private:
    void sequence(Sequence<T> &call, const py::object &panels, const py::object &x, const py::object &h0,
                  const py::object &c0, const py::object &reset_h, const py::object &reset_c, const py::object &lengths,
                  const py::object &resets, bool reverse, const py::object &tape, int num_threads, int passes) const {
        if (!py::isinstance<py::array>(x)) throw py::type_error("x: expected an array, got " + describe(x));
        const auto a = py::reinterpret_borrow<py::array>(x);
        if (a.ndim() < 2) fail("x", "an array of shape [T, B, I], or [T, B] for ids", describe(x));
        const index steps = a.shape(0), batch = a.shape(1), H = sizes_.hidden;
        const index needed = tape_size(steps, batch); // checks the product too
        require_product({steps, batch, sizes_.input + 64}, "T, B, input_size");
        call.kind = kind_;
        call.steps = steps;
        call.batch = batch;
        call.sizes = sizes_;
        call.reverse = reverse;
        call.lengths = optional<const std::int64_t>(lengths, "lengths", {batch});
        check_lengths(call.lengths, steps, batch);
        if (a.ndim() == 2) {
            call.ids = strided<const std::int64_t>(x, "x", dtype_of<std::int64_t>(), {steps, batch});
            check_ids(call);
        } else {
            call.x = strided<const T>(x, "x", dtype_of<T>(), {steps, batch, sizes_.input});
            // An empty sequence has no data, and null would say "ids".
            static const T nothing{};
            if (!call.x.data) call.x.data = &nothing;
        }
        if (!resets.is_none()) {
            call.resets = strided<const std::uint8_t>(resets, "resets", py::dtype("bool"), {steps, batch});
        }
        call.h0 = optional<const T>(h0, "h0", {batch, H});
        call.reset_h = optional<const T>(reset_h, "reset_h", {batch, H});
        if (kernel_.has_c) {
            call.c0 = optional<const T>(c0, "c0", {batch, H});
            call.reset_c = optional<const T>(reset_c, "reset_c", {batch, H});
        }
        call.panels = contiguous<const T>(panels, "panels", {panel_size()});
        call.tape = optional<T>(tape, "tape", {needed});
        const double G = static_cast<double>(kernel_.gates), width = static_cast<double>(sizes_.input + H);
        const double per_step = G * static_cast<double>(H) * width * static_cast<double>(batch) * passes;
        call.threads = threads_for_steps(num_threads, per_step, steps, batch);
    }

    void check_ids(const Sequence<T> &call) const {
        for (index t = 0; t < call.steps; ++t) {
            for (index b = 0; b < call.batch; ++b) {
                if (call.lengths && t >= call.lengths[b]) continue;
                const std::int64_t id = *call.ids.at(t, b);
                if (id >= 0 && id < sizes_.input) continue;
                fail("x", "ids in 0 .. " + std::to_string(sizes_.input - 1),
                     std::to_string(id) + " at step " + std::to_string(t) + " of row " + std::to_string(b));
            }
        }
    }
};

template <class T> class DenseBinding {
    const Sizes sizes_;
    const DenseKernel<T> kernel_;

  public:
    DenseBinding(Sizes sizes, const Table<T> *table) : sizes_(sizes), kernel_(table->dense) {
        require_product({sizes.hidden + 64, sizes.input + 2}, "input_size, output_size");
    }

    index panel_size() const { return kernel_.panel_size(sizes_); }
    index panel_size_backward() const { return kernel_.panel_size_backward(sizes_); }

    template <class M> Weights<M> matrices(const py::object &weight, const py::object &bias) const {
        return {contiguous<M>(weight, "weight", {sizes_.hidden, sizes_.input}), nullptr,
                optional<M>(bias, "bias", {sizes_.hidden}), nullptr};
    }

    void pack(const py::object &weight, const py::object &bias, const py::object &out) const {
        kernel_.pack(sizes_, matrices<const T>(weight, bias), contiguous<T>(out, "out", {panel_size()}));
    }
    void pack_backward(const py::object &weight, const py::object &out) const {
        kernel_.pack_backward(sizes_, matrices<const T>(weight, py::none()),
                              contiguous<T>(out, "out", {panel_size_backward()}));
    }
    void unpack(const py::object &panels, const py::object &weight, const py::object &bias) const {
        kernel_.unpack(sizes_, contiguous<const T>(panels, "panels", {panel_size()}), matrices<T>(weight, bias));
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
                  const py::object &dpanels, int num_threads) const {
        DenseCall<T> call = rows(x, num_threads, 2);
        call.panels = contiguous<const T>(panels_backward, "panels_backward", {panel_size_backward()});
        call.dy = contiguous<const T>(dy, "dy", {call.rows, sizes_.hidden});
        call.dx = optional<T>(dx, "dx", {call.rows, sizes_.input});
        call.dpanels = contiguous<T>(dpanels, "dpanels", {panel_size()});
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            kernel_.backward(call);
        });
    }

  private:
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

Kind kind_of(const std::string &name) {
    for (int k = 0; k < kinds; ++k) {
        if (name == kind_names[k]) return static_cast<Kind>(k);
    }
    std::string known;
    for (const char *kind : kind_names) known += (known.empty() ? "" : ", ") + std::string(kind);
    fail("kind", "one of " + known, "'" + name + "'");
}

bool is_double(const std::string &dtype) {
    if (dtype != "float32" && dtype != "float64") fail("dtype", "'float32' or 'float64'", "'" + dtype + "'");
    return dtype == "float64";
}

// The two dtypes of a binding behind one Python class.
template <template <class> class Binding> class Either {
    std::variant<Binding<float>, Binding<double>> binding_;

  public:
    template <class... Args>
    Either(bool wide, const std::string &isa, const Args &...args)
        : binding_(wide ? std::variant<Binding<float>, Binding<double>>(std::in_place_index<1>, args...,
                                                                        table<double>(isa.c_str()))
                        : std::variant<Binding<float>, Binding<double>>(std::in_place_index<0>, args...,
                                                                        table<float>(isa.c_str()))) {}

    template <class F> decltype(auto) visit(F &&f) const { return std::visit(f, binding_); }
};

using Kernel = Either<CellBinding>;
using Head = Either<DenseBinding>;
using Object = py::object;

} // namespace

void register_kernels(py::module_ &module) {
    const auto none = py::none();
    py::class_<Kernel>(module, "Kernel", "One cell in one direction at given sizes. See docs/design.md.")
        .def(py::init([](const std::string &kind, const std::string &dtype, index input, index hidden,
                         const std::optional<std::string> &isa) {
                 return Kernel(is_double(dtype), require_isa(isa), kind_of(kind),
                               Sizes{size_argument(input, "input_size"), size_argument(hidden, "hidden_size")});
             }),
             py::arg("kind"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("isa") = none)
        .def_property_readonly("panel_size",
                               [](const Kernel &k) { return k.visit([](auto &b) { return b.panel_size(); }); })
        .def_property_readonly("panel_size_backward",
                               [](const Kernel &k) { return k.visit([](auto &b) { return b.panel_size_backward(); }); })
        .def_property_readonly("pairs_size",
                               [](const Kernel &k) { return k.visit([](auto &b) { return b.pairs_size(); }); })
        .def(
            "to_pairs",
            [](const Kernel &k, const Object &panels, const Object &out) {
                k.visit([&](auto &b) { b.to_pairs(panels, out); });
            },
            py::arg("panels"), py::arg("out"))
        .def_property_readonly("handle",
                               [](const Kernel &k) {
                                   const KernelHandle *const h = k.visit([](auto &b) { return b.handle(); });
                                   return py::capsule(const_cast<KernelHandle *>(h), "rnnfast.kernel");
                               })
        .def(
            "tape_size",
            [](const Kernel &k, index T, index B) { return k.visit([&](auto &b) { return b.tape_size(T, B); }); },
            py::arg("T"), py::arg("B"))
        .def(
            "pack",
            [](const Kernel &k, const Object &ih, const Object &hh, const Object &b_ih, const Object &b_hh,
               const Object &out) { k.visit([&](auto &b) { b.pack(ih, hh, b_ih, b_hh, out); }); },
            py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"), py::arg("out"))
        .def(
            "pack_backward",
            [](const Kernel &k, const Object &ih, const Object &hh, const Object &out) {
                k.visit([&](auto &b) { b.pack_backward(ih, hh, out); });
            },
            py::arg("weight_ih"), py::arg("weight_hh"), py::arg("out"))
        .def(
            "unpack",
            [](const Kernel &k, const Object &panels, const Object &ih, const Object &hh, const Object &b_ih,
               const Object &b_hh) { k.visit([&](auto &b) { b.unpack(panels, ih, hh, b_ih, b_hh); }); },
            py::arg("panels"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"))
        .def(
            "forward",
            [](const Kernel &k, const Object &panels, const Object &x, const Object &y, const Object &h0,
               const Object &c0, const Object &hT, const Object &cT, const Object &reset_h, const Object &reset_c,
               const Object &lengths, const Object &resets, bool reverse, const Object &tape, int num_threads) {
                k.visit([&](auto &b) {
                    b.forward(panels, x, y, h0, c0, hT, cT, reset_h, reset_c, lengths, resets, reverse, tape,
                              num_threads);
                });
            },
            py::arg("panels"), py::arg("x"), py::arg("y"), py::arg("h0"), py::arg("c0"), py::arg("hT"), py::arg("cT"),
            py::arg("reset_h") = none, py::arg("reset_c") = none, py::arg("lengths") = none, py::arg("resets") = none,
            py::arg("reverse") = false, py::arg("tape") = none, py::arg("num_threads") = 0)
        .def(
            "backward",
            [](const Kernel &k, const Object &panels, const Object &panels_backward, const Object &x,
               const Object &tape, const Object &dy, const Object &dhT, const Object &dcT, const Object &dx,
               const Object &dh0, const Object &dc0, const Object &dpanels, const Object &h0, const Object &c0,
               const Object &reset_h, const Object &reset_c, const Object &lengths, const Object &resets, bool reverse,
               const Object &d_reset_h, const Object &d_reset_c, int num_threads) {
                k.visit([&](auto &b) {
                    b.backward(panels, panels_backward, x, tape, dy, dhT, dcT, dx, dh0, dc0, dpanels, h0, c0, reset_h,
                               reset_c, lengths, resets, reverse, d_reset_h, d_reset_c, num_threads);
                });
            },
            py::arg("panels"), py::arg("panels_backward"), py::arg("x"), py::arg("tape"), py::arg("dy"), py::arg("dhT"),
            py::arg("dcT"), py::arg("dx"), py::arg("dh0"), py::arg("dc0"), py::arg("dpanels"), py::arg("h0") = none,
            py::arg("c0") = none, py::arg("reset_h") = none, py::arg("reset_c") = none, py::arg("lengths") = none,
            py::arg("resets") = none, py::arg("reverse") = false, py::arg("d_reset_h") = none,
            py::arg("d_reset_c") = none, py::arg("num_threads") = 0);

    py::class_<Head>(module, "Dense", "y = W x + b over rows. See docs/design.md.")
        .def(py::init([](const std::string &dtype, index input, index output, const std::optional<std::string> &isa) {
                 return Head(is_double(dtype), require_isa(isa),
                             Sizes{size_argument(input, "input_size"), size_argument(output, "output_size")});
             }),
             py::arg("dtype"), py::arg("input_size"), py::arg("output_size"), py::arg("isa") = none)
        .def_property_readonly("panel_size",
                               [](const Head &k) { return k.visit([](auto &b) { return b.panel_size(); }); })
        .def_property_readonly("panel_size_backward",
                               [](const Head &k) { return k.visit([](auto &b) { return b.panel_size_backward(); }); })
        .def(
            "pack",
            [](const Head &k, const Object &w, const Object &b_, const Object &out) {
                k.visit([&](auto &b) { b.pack(w, b_, out); });
            },
            py::arg("weight"), py::arg("bias"), py::arg("out"))
        .def(
            "pack_backward",
            [](const Head &k, const Object &w, const Object &out) {
                k.visit([&](auto &b) { b.pack_backward(w, out); });
            },
            py::arg("weight"), py::arg("out"))
        .def(
            "unpack",
            [](const Head &k, const Object &p, const Object &w, const Object &b_) {
                k.visit([&](auto &b) { b.unpack(p, w, b_); });
            },
            py::arg("panels"), py::arg("weight"), py::arg("bias"))
        .def(
            "forward",
            [](const Head &k, const Object &panels, const Object &x, const Object &y, int num_threads) {
                k.visit([&](auto &b) { b.forward(panels, x, y, num_threads); });
            },
            py::arg("panels"), py::arg("x"), py::arg("y"), py::arg("num_threads") = 0)
        .def(
            "backward",
            [](const Head &k, const Object &panels_backward, const Object &x, const Object &dy, const Object &dx,
               const Object &dpanels, int num_threads) {
                k.visit([&](auto &b) { b.backward(panels_backward, x, dy, dx, dpanels, num_threads); });
            },
            py::arg("panels_backward"), py::arg("x"), py::arg("dy"), py::arg("dx"), py::arg("dpanels"),
            py::arg("num_threads") = 0);

    py::dict cells;
    for (int k = 0; k < kinds; ++k) {
        const CellKernel<float> &cell = table<float>(active_isa())->cells[k];
        cells[kind_names[k]] = py::make_tuple(cell.gates, cell.has_c);
    }
    module.attr("CELLS") = cells;
    module.def(
        "read_bandwidth",
        [](index bytes, int threads, const std::optional<std::string> &isa) {
            if (bytes < 1 || bytes > largest) fail("nbytes", "a size in 1 .. 2**47", std::to_string(bytes));
            if (threads < 1 || threads > 4096) fail("threads", "an integer in 1 .. 4096", std::to_string(threads));
            const std::string name = require_isa(isa);
            const py::gil_scoped_release release;
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
            const py::gil_scoped_release release;
            return f();
        },
        py::arg("dtype") = "float32", py::arg("isa") = none,
        "GFLOP/s of one thread that only multiplies and adds, in registers.");
    const auto pointwise = [](const std::string &function, const Object &x, const Object &y,
                              const std::optional<std::string> &isa) {
        const std::string name = require_isa(isa);
        const bool wide = describe(x).rfind("float64", 0) == 0;
        const bool tanh = function == "tanh";
        if (!tanh && function != "sigmoid") fail("function", "'sigmoid' or 'tanh'", "'" + function + "'");
        const auto run = [&]<class T>(const Table<T> *t) {
            if (!py::isinstance<py::array>(x)) throw py::type_error("x: expected an array, got " + describe(x));
            const index n = py::reinterpret_borrow<py::array>(x).size();
            const T *const from = contiguous<const T>(x, "x", {n});
            (tanh ? t->pointwise.tanh : t->pointwise.sigmoid)(from, contiguous<T>(y, "y", {n}), n);
        };
        wide ? run(table<double>(name.c_str())) : run(table<float>(name.c_str()));
    };
    module.def("pointwise", pointwise, py::arg("function"), py::arg("x"), py::arg("y"), py::arg("isa") = none,
               "y[i] = sigmoid(x[i]) or tanh(x[i]) with the kernels' own arithmetic, for tests.");
}

} // namespace rnnfast::bindings
