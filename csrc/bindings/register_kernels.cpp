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

// Parameters by name, with their shapes; those that may be None are `optional`.
struct Parameter {
    const char *name;
    index rows, columns; // columns 0: a vector
    bool optional;
};

template <class T, std::size_t N> Weights<T> weights(py::handle params, const Parameter (&expected)[N]) {
    const Parts given = parts_of(params, "params", N);
    Weights<T> found;
    for (std::size_t i = 0; i < N; ++i) {
        const Parameter &p = expected[i];
        const py::handle array = given[static_cast<int>(i)];
        if (p.optional && array.is_none()) continue;
        found.data[i] =
            p.columns ? contiguous<T>(array, p.name, {p.rows, p.columns}) : contiguous<T>(array, p.name, {p.rows});
    }
    return found;
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
    FIELD(num_threads) FIELD(skip) FIELD(given) FIELD(dgiven) FIELD(seed) FIELD(first_step) FIELD(layer)
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

// The fields of a call.
template <class Fields> class Given {
    PyObject *const tuple_;

  public:
    explicit Given(py::handle call) : tuple_(call.ptr()) {
        if (PyTuple_Check(tuple_) && PyTuple_GET_SIZE(tuple_) == Fields::count) return;
        throw py::type_error("call: expected a " + std::string(Fields::tuple) + ", got " + describe(call));
    }
    py::handle operator[](typename Fields::Position field) const { return PyTuple_GET_ITEM(tuple_, field); }
};

template <class T> class CellBinding {
    const Kind kind_;
    const Sizes sizes_;
    const CellKernel<T> &kernel_;
    const KernelHandle handle_;

  public:
    CellBinding(Kind kind, Sizes sizes, const Table<T> *table)
        : kind_(kind), sizes_(sizes), kernel_(table->cells[kind]),
          handle_{std::is_same_v<T, double>, &kernel_, kind, sizes, threads_for_steps} {
        if (!kernel_.forward) fail("kind", "one of the fused kinds", "'" + std::string(kind_names[kind]) + "'");
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

    void pack(const py::object &params, const py::object &out) const {
        const auto w = matrices<const T>(params);
        T *const panels = contiguous<T>(out, "out", {panel_size()});
        const py::gil_scoped_release release;
        kernel_.pack(sizes_, w, panels);
    }

    void pack_backward(const py::object &params, const py::object &out) const {
        const auto w = matrices<const T>(params);
        T *const panels = contiguous<T>(out, "out", {panel_size_backward()});
        const py::gil_scoped_release release;
        kernel_.pack_backward(sizes_, w, panels);
    }

    void unpack(const py::object &panels, const py::object &params) const {
        const T *const from = contiguous<const T>(panels, "panels", {panel_size()});
        const auto w = matrices<T>(params);
        const py::gil_scoped_release release;
        kernel_.unpack(sizes_, from, w);
    }

    void forward(const py::object &given) const {
        using F = ForwardFields;
        const Given<F> fields(given);
        Forward<T> call{};
        sequence(call, fields, 1);
        sequences(fields[F::y], "y", call, call.y);
        states(fields[F::final_state], "final_state", call.batch, call.final_state, true);
        call.training = truth(fields[F::training], "training");
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            kernel_.forward(call);
        });
    }

    void backward(const py::object &given) const {
        using F = BackwardFields;
        const Given<F> fields(given);
        if (fields[F::tape].is_none()) throw py::type_error("tape: expected the tape of a forward call, got None");
        Backward<T> call{};
        sequence(call, fields, 2);
        const index B = call.batch;
        call.training = true;
        call.panels_backward =
            contiguous<const T>(fields[F::panels_backward], "panels_backward", {panel_size_backward()});
        sequences(fields[F::dy], "dy", call, call.dy);
        if (const py::handle dx = fields[F::dx]; !dx.is_none()) {
            if (!call.x.data) fail("dx", "None for ids", describe(dx));
            call.dx = strided<T>(dx, "dx", dtype_of<T>(), {call.steps, B, sizes_.input});
        }
        parts_of(fields[F::dgiven], "dgiven", 0);
        states(fields[F::dfinal], "dfinal", B, call.dfinal, false);
        states(fields[F::dstate], "dstate", B, call.dstate, false);
        states(fields[F::d_reset_state], "d_reset_state", B, call.d_reset_state, false);
        call.dpanels = contiguous<T>(fields[F::dpanels], "dpanels", {panel_size()});
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            kernel_.backward(call);
        });
    }

  private:
    template <class M> Weights<M> matrices(const py::object &params) const {
        const index rows = kernel_.gates * sizes_.hidden;
        return weights<M>(params, {{"weight_ih", rows, sizes_.input, false},
                                   {"weight_hh", rows, sizes_.hidden, false},
                                   {"bias_ih", rows, 0, true},
                                   {"bias_hh", rows, 0, true}});
    }

    // An array [B, H] for each state.
    template <class A>
    void states(py::handle value, const char *name, index batch, A *(&out)[most_states], bool required) const {
        const Parts parts = parts_of(value, name, kernel_.states);
        for (int s = 0; s < kernel_.states; ++s) {
            if (!required && parts[s].is_none()) continue;
            out[s] = contiguous<A>(parts[s], {name, s}, {batch, sizes_.hidden});
        }
    }

    // An array [T, B, H] for the first state; the others' sequences stay in the kernel.
    template <class A>
    void sequences(py::handle value, const char *name, const Sequence<T> &call, Strided<A> (&out)[most_states]) const {
        const Parts parts = parts_of(value, name, kernel_.states);
        for (int s = 1; s < kernel_.states; ++s) {
            if (!parts[s].is_none()) fail(Name(name, s).str(), "None (only h has a sequence)", describe(parts[s]));
        }
        if (parts[0].is_none()) return;
        out[0] = strided<A>(parts[0], {name, 0}, dtype_of<T>(), {call.steps, call.batch, sizes_.hidden});
    }

    template <class F> void sequence(Sequence<T> &call, const Given<F> &fields, int passes) const {
        const py::handle x = fields[F::x], resets = fields[F::resets], skip = fields[F::skip];
        if (!py::isinstance<py::array>(x)) throw py::type_error("x: expected an array, got " + describe(x));
        const auto a = py::reinterpret_borrow<py::array>(x);
        if (a.ndim() < 2) fail("x", "an array of shape [T, B, I], or [T, B] for ids", describe(x));
        const index steps = a.shape(0), batch = a.shape(1);
        const index needed = tape_size(steps, batch); // checks the product too
        require_product({steps, batch, sizes_.input + 64}, "T, B, input_size");
        call.kind = kind_;
        call.steps = steps;
        call.batch = batch;
        call.sizes = sizes_;
        call.reverse = truth(fields[F::reverse], "reverse");
        call.lengths = optional<const std::int64_t>(fields[F::lengths], "lengths", {batch});
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
        states(fields[F::state], "state", batch, call.state, false);
        states(fields[F::reset_state], "reset_state", batch, call.reset_state, false);
        call.panels = contiguous<const T>(fields[F::panels], "panels", {panel_size()});
        call.tape = optional<T>(fields[F::tape], "tape", {needed});
        if (!skip.is_none()) fail("skip", "None for a fused cell", describe(skip));
        parts_of(fields[F::given], "given", 0);
        call.seed = static_cast<std::uint64_t>(integer(fields[F::seed], "seed"));
        call.first_step = integer(fields[F::first_step], "first_step");
        call.layer = integer(fields[F::layer], "layer");
        const double G = static_cast<double>(kernel_.gates), H = static_cast<double>(sizes_.hidden);
        const double width = static_cast<double>(sizes_.input) + H;
        const double per_step = G * H * width * static_cast<double>(batch) * passes;
        const std::int64_t asked = integer(fields[F::num_threads], "num_threads");
        if (asked > 4096) fail("num_threads", "an integer of at most 4096", std::to_string(asked));
        call.threads = threads_for_steps(static_cast<int>(asked), per_step, steps, batch);
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

    template <class M> Weights<M> matrices(const py::object &params) const {
        return weights<M>(params, {{"weight", sizes_.hidden, sizes_.input, false}, {"bias", sizes_.hidden, 0, true}});
    }

    void pack(const py::object &params, const py::object &out) const {
        kernel_.pack(sizes_, matrices<const T>(params), contiguous<T>(out, "out", {panel_size()}));
    }
    void pack_backward(const py::object &params, const py::object &out) const {
        kernel_.pack_backward(sizes_, matrices<const T>(params), contiguous<T>(out, "out", {panel_size_backward()}));
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

template <class Fields> py::tuple names_of() {
    py::tuple names(static_cast<std::size_t>(Fields::count));
    for (int i = 0; i < Fields::count; ++i) names[static_cast<std::size_t>(i)] = Fields::names[i];
    return names;
}

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
            [](const Kernel &k, const Object &params, const Object &out) {
                k.visit([&](auto &b) { b.pack(params, out); });
            },
            py::arg("params"), py::arg("out"))
        .def(
            "pack_backward",
            [](const Kernel &k, const Object &params, const Object &out) {
                k.visit([&](auto &b) { b.pack_backward(params, out); });
            },
            py::arg("params"), py::arg("out"))
        .def(
            "unpack",
            [](const Kernel &k, const Object &panels, const Object &params) {
                k.visit([&](auto &b) { b.unpack(panels, params); });
            },
            py::arg("panels"), py::arg("params"))
        .def(
            "forward", [](const Kernel &k, const Object &call) { k.visit([&](auto &b) { b.forward(call); }); },
            py::arg("call"))
        .def(
            "backward", [](const Kernel &k, const Object &call) { k.visit([&](auto &b) { b.backward(call); }); },
            py::arg("call"));
    module.attr("FORWARD_FIELDS") = names_of<ForwardFields>();
    module.attr("BACKWARD_FIELDS") = names_of<BackwardFields>();

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
            [](const Head &k, const Object &params, const Object &out) {
                k.visit([&](auto &b) { b.pack(params, out); });
            },
            py::arg("params"), py::arg("out"))
        .def(
            "pack_backward",
            [](const Head &k, const Object &params, const Object &out) {
                k.visit([&](auto &b) { b.pack_backward(params, out); });
            },
            py::arg("params"), py::arg("out"))
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
               const Object &dpanels, int num_threads) {
                k.visit([&](auto &b) { b.backward(panels_backward, x, dy, dx, dpanels, num_threads); });
            },
            py::arg("panels_backward"), py::arg("x"), py::arg("dy"), py::arg("dx"), py::arg("dpanels"),
            py::arg("num_threads") = 0);

    py::dict cells;
    for (int k = 0; k < fused_kinds; ++k) {
        const CellKernel<float> &cell = table<float>(active_isa())->cells[k];
        cells[kind_names[k]] = py::make_tuple(cell.gates, cell.states);
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
