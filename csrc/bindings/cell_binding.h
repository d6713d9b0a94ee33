// A kernel of the table at given sizes, behind checks of all that it is handed.
#pragma once

#include "bindings/cell_shape.h"
#include "parallel/policy.h"
#include "stack.h"

namespace rnnfast::bindings {

inline void check_lengths(const std::int64_t *lengths, index steps, index batch) {
    for (index b = 0; lengths && b < batch; ++b) {
        if (lengths[b] < 0 || lengths[b] > steps) {
            fail("lengths", "integers in 0 .. " + std::to_string(steps),
                 std::to_string(lengths[b]) + " at position " + std::to_string(b));
        }
    }
}

template <class T> class CellBinding {
    const CellShape shape_;
    const Sizes &sizes_;
    const CellKernel<T> &kernel_;
    const KernelHandle handle_;

    KernelHandle make_handle() const {
        KernelHandle h{std::is_same_v<T, double>,
                       &kernel_,
                       shape_.kind,
                       sizes_,
                       static_cast<int>(shape_.states.size()),
                       {},
                       shape_.work,
                       kernel_.unit_parts(sizes_),
                       threads_for_steps};
        for (std::size_t s = 0; s < shape_.states.size(); ++s) h.widths[s] = shape_.states[s];
        return h;
    }

  public:
    CellBinding(const CellShape &shape, const Table<T> *table)
        : shape_(shape), sizes_(shape_.sizes), kernel_(shape.data ? *table->described : table->cells[shape.kind]),
          handle_(make_handle()) {}
    CellBinding(const CellBinding &other)
        : shape_(other.shape_), sizes_(shape_.sizes), kernel_(other.kernel_), handle_(make_handle()) {}

    const KernelHandle *handle() const { return &handle_; }
    index panel_size() const { return kernel_.panel_size(sizes_); }
    index panel_size_backward() const { return kernel_.panel_size_backward(sizes_); }
    index gradient_size() const { return kernel_.gradient_size(sizes_); }
    index pairs_size() const { return kernel_.pairs_size(sizes_); }

    void to_pairs(const py::object &panels, const py::object &out) const {
        const T *const from = contiguous<const T>(panels, "panels", {panel_size()});
        std::uint32_t *const to = contiguous<std::uint32_t>(out, "out", {pairs_size()});
        const Released released;
        kernel_.to_pairs(sizes_, from, to);
    }

    index tape_size(index steps, index batch) const {
        if (steps < 0 || batch < 0) fail("T, B", "sizes >= 0", std::to_string(steps) + ", " + std::to_string(batch));
        require_product({steps, batch, kernel_.tape_size(sizes_, 1, 1)}, "T, B, hidden_size");
        return kernel_.tape_size(sizes_, steps, batch);
    }

    void pack(const py::object &params, const py::object &out) const {
        const auto w = matrices<const T>(params);
        T *const panels = contiguous<T>(out, "out", {panel_size()});
        const Released released;
        kernel_.pack(sizes_, w, panels);
    }

    void pack_backward(const py::object &params, const py::object &out, bool dx) const {
        const auto w = matrices<const T>(params);
        T *const panels = contiguous<T>(out, "out", {panel_size_backward()});
        const Released released;
        kernel_.pack_backward(sizes_, w, panels, dx);
    }

    void unpack(const py::object &panels, const py::object &params) const {
        const T *const from = contiguous<const T>(panels, "panels", {panel_size()});
        const auto w = matrices<T>(params);
        const Released released;
        kernel_.unpack(sizes_, from, w);
    }

    void forward(const py::object &given) const {
        using F = ForwardFields;
        const Call<F> fields(given);
        Forward<T> call{};
        sequence(call, fields, 1);
        sequences(fields[F::y], "y", call, call.y);
        states(fields[F::final_state], "final_state", call.batch, call.final_state, true);
        call.training = truth(fields[F::training], "training");
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            if (call.batch == 0) call.steps = 0; // however many there are
            kernel_.forward(call);
        });
    }

    void backward(const py::object &given) const {
        using F = BackwardFields;
        const Call<F> fields(given);
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
        given_inputs(fields[F::dgiven], "dgiven", call, call.dgiven);
        states(fields[F::dfinal], "dfinal", B, call.dfinal, false);
        states(fields[F::dstate], "dstate", B, call.dstate, false);
        states(fields[F::d_reset_state], "d_reset_state", B, call.d_reset_state, false);
        call.dpanels = contiguous<T>(fields[F::dpanels], "dpanels", {gradient_size()});
        call.adds = truth(fields[F::adds], "adds");
        without_gil([&](Interrupt *interrupt) {
            call.interrupt = interrupt;
            if (call.batch == 0) call.steps = 0; // however many there are
            kernel_.backward(call);
        });
    }

  private:
    template <class M> Weights<M> matrices(const py::object &params) const {
        return weights<M>(params, shape_.parameters);
    }
    int count() const { return static_cast<int>(shape_.states.size()); }
    index width(int state) const { return shape_.states[static_cast<std::size_t>(state)]; }

    // An array [B, width] for each state.
    template <class A>
    void states(py::handle value, const char *name, index batch, A *(&out)[most_states], bool required) const {
        const Parts parts = parts_of(value, name, count());
        for (int s = 0; s < count(); ++s) {
            if (!required && parts[s].is_none()) continue;
            out[s] = contiguous<A>(parts[s], {name, s}, {batch, width(s)});
        }
    }

    // An array [T, B, width] for each state; of a fused kind for the first alone, the others' sequences stay in the
    // kernel.
    template <class A>
    void sequences(py::handle value, const char *name, const Sequence<T> &call, Strided<A> (&out)[most_states]) const {
        const Parts parts = parts_of(value, name, count());
        for (int s = 0; s < count(); ++s) {
            if (parts[s].is_none()) continue;
            if (s && !shape_.data) fail(Name(name, s).str(), "None (only h has a sequence)", describe(parts[s]));
            out[s] = strided<A>(parts[s], {name, s}, dtype_of<T>(), {call.steps, call.batch, width(s)});
        }
    }

    // The further inputs, [T, B, width] or [T, B].
    template <class A>
    void given_inputs(py::handle value, const char *name, const Sequence<T> &call,
                      Strided<A> (&out)[most_given]) const {
        constexpr bool required = std::is_const_v<A>;
        const Parts parts = parts_of(value, name, static_cast<index>(shape_.given.size()));
        for (int g = 0; g < static_cast<int>(shape_.given.size()); ++g) {
            if (!required && parts[g].is_none()) continue;
            const index width = shape_.given[static_cast<std::size_t>(g)];
            out[g] = width ? strided<A>(parts[g], {name, g}, dtype_of<T>(), {call.steps, call.batch, width})
                           : strided<A>(parts[g], {name, g}, dtype_of<T>(), {call.steps, call.batch});
        }
    }

    template <class F> void sequence(Sequence<T> &call, const Call<F> &fields, int passes) const {
        const py::handle x = fields[F::x], resets = fields[F::resets], skip = fields[F::skip];
        if (!py::isinstance<py::array>(x)) throw py::type_error("x: expected an array, got " + describe(x));
        const auto a = py::reinterpret_borrow<py::array>(x);
        if (a.ndim() < 2) fail("x", "an array of shape [T, B, I], or [T, B] for ids", describe(x));
        const index steps = a.shape(0), batch = a.shape(1);
        const index needed = tape_size(steps, batch); // checks the product too
        require_product({steps, batch, sizes_.input + 64}, "T, B, input_size");
        call.kind = shape_.kind;
        call.steps = steps;
        call.batch = batch;
        call.sizes = sizes_;
        call.reverse = truth(fields[F::reverse], "reverse");
        call.lengths = optional<const std::int64_t>(fields[F::lengths], "lengths", {batch});
        check_lengths(call.lengths, steps, batch);
        if (a.ndim() == 2) {
            call.ids = strided<const std::int64_t>(x, "x", dtype_of<std::int64_t>(), {steps, batch});
        } else {
            call.x = strided<const T>(x, "x", dtype_of<T>(), {steps, batch, sizes_.input});
            // An empty sequence has no data, and null would say "ids".
            static const T nothing{};
            if (!call.x.data) call.x.data = &nothing;
        }
        if (!resets.is_none()) {
            call.resets = strided<const std::uint8_t>(resets, "resets", py::dtype("bool"), {steps, batch});
        }
        if (!skip.is_none()) {
            if (!shape_.data) fail("skip", "None for a fused cell", describe(skip));
            call.skip = strided<const std::uint8_t>(skip, "skip", py::dtype("bool"), {steps, batch});
        }
        if (a.ndim() == 2) check_ids(call);
        states(fields[F::state], "state", batch, call.state, false);
        states(fields[F::reset_state], "reset_state", batch, call.reset_state, false);
        call.panels = contiguous<const T>(fields[F::panels], "panels", {panel_size()});
        call.tape = optional<T>(fields[F::tape], "tape", {needed});
        given_inputs(fields[F::given], "given", call, call.given);
        call.seed = static_cast<std::uint64_t>(integer(fields[F::seed], "seed"));
        call.first_step = integer(fields[F::first_step], "first_step");
        call.layer = integer(fields[F::layer], "layer");
        const double per_step = shape_.work * static_cast<double>(batch) * passes;
        const std::int64_t asked = integer(fields[F::num_threads], "num_threads");
        if (asked > 4096) fail("num_threads", "an integer of at most 4096", std::to_string(asked));
        call.threads = threads_for_steps(static_cast<int>(asked), per_step, steps, batch, handle_.parts);
    }

    void check_ids(const Sequence<T> &call) const {
        for (index t = 0; call.batch > 0 && t < call.steps; ++t) {
            for (index b = 0; b < call.batch; ++b) {
                if ((call.lengths && t >= call.lengths[b]) || (call.skip.data && *call.skip.at(t, b))) continue;
                const std::int64_t id = *call.ids.at(t, b);
                if (id >= 0 && id < sizes_.input) continue;
                fail("x", "ids in 0 .. " + std::to_string(sizes_.input - 1),
                     std::to_string(id) + " at step " + std::to_string(t) + " of row " + std::to_string(b));
            }
        }
    }
};

} // namespace rnnfast::bindings
