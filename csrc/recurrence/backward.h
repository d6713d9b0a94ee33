// The time loop, backward (Werbos 1990). Inside the loop stands only what depends on the step after: dh, dc and the
// gates' gradients, which replace the gates on the tape. The gradients of x and of the weights follow per chunk of
// steps as two large products.
//
// A *transition* out of step t multiplies the step's gate gradients with U: that is the gradient of the state before t.
// While it is still in registers it goes where that state came from: to the step before (whose gates it turns into
// gradients), to the initial state, or to the state that a reset put in. Every weight's sum runs over t falling, b
// rising, as one chain.
#pragma once

#include "linalg/outer.h"
#include "recurrence/layout.h"
#include "recurrence/masks.h"

namespace rnnfast::RNNFAST_ISA {

template <class Cell, class T> class BackwardPass {
    using L = Layout<Cell, T>;
    static constexpr int V = L::V, G = L::G, S = L::S;

    struct BackRow {    // a row on its way from the step after to step t
        const T *gates; // of the step after
        index b;
        From from;    // where the state before the step after came from
        bool ends;    // no step before that
        Unit<T> step; // at step t, block 0
        const T *dy;
    };
    struct GradRow { // one row of the chunk's weight gradients
        T *slots;
        index t, b;
    };
    struct Scratch {
        BackRow *back;
        GradRow *grad;
        const T **left;
        std::int64_t *ids;
        OuterScratch<T> outer;
    };

    const Backward<T> &call;
    const L at;
    const index chunk;
    const Masks<T> masks;
    index *const order; // of the shares
    States<Cell, T> states;
    Records<Cell, T> records;
    T *dc = nullptr, *direct = nullptr; // [B][padded]
    BackRow *back_rows;                 // [threads][B]
    GradRow *grad_rows;                 // [threads][chunk * B], as the two below
    const T **left_rows;
    std::int64_t *id_rows;
    OuterScratch<T> *outer; // [threads]

  public:
    BackwardPass(const Backward<T> &call_, Carver &carver)
        : call(call_), at(call_.sizes), chunk(chunk_steps()), masks(call_), order(Share<T>::carve(call_, carver)),
          states(call_, at, carver), records(Records<Cell, T>::on_tape(at, call_.steps, call_.batch, call_.tape)) {
        const index B = call.batch, rows = call.threads * chunk * B;
        if (Cell::states > 1) dc = carver.take<T>(B * at.padded);
        if (Cell::has_direct) direct = carver.take<T>(B * at.padded);
        back_rows = carver.take<BackRow>(call.threads * B);
        grad_rows = carver.take<GradRow>(rows);
        left_rows = carver.take<const T *>(rows);
        id_rows = carver.take<std::int64_t>(rows);
        outer = carver.take<OuterScratch<T>>(call.threads);
        for (int i = 0; i < call.threads; ++i) {
            const auto scratch = OuterScratch<T>::carve(carver, at.I > at.H ? at.I : at.H);
            if (carver.real()) outer[i] = scratch;
        }
    }

    void prepare() {
        states.fill(call, at);
        for (T *const sum : call.d_reset_state) {
            for (index i = 0; sum && i < call.batch * at.H; ++i) sum[i] = 0;
        }
        for (index b = 0; b < call.batch; ++b) {
            if (masks.length(b) == 0) pass_through(b);
        }
    }

    void run(Team &team) {
        const Share<T> share(team, call, at.P, L::unit, order);
        const index part = team.rank * chunk * call.batch;
        const Scratch scratch{back_rows + team.rank * call.batch, grad_rows + part, left_rows + part, id_rows + part,
                              outer[team.rank]};
        for (index done = 0; done < call.steps; done += chunk) {
            const index end = done + chunk < call.steps ? done + chunk : call.steps;
            for (index s = done; s < end && step(team, share, scratch.back, time(s)); ++s) {}
            if (!team.wait()) return;
            const index rows = collect(scratch, done, end);
            input_gradient(team, scratch, rows, done, end);
            weight_gradients<0>(team, scratch, rows);
            if constexpr (Cell::phases == 2) weight_gradients<1>(team, scratch, rows);
        }
    }

  private:
    index time(index s) const { return call.reverse ? s : call.steps - 1 - s; } // in the order of the backward walk
    index after(index t) const { return call.reverse ? t - 1 : t + 1; }         // the step whose gradients reach t

    index chunk_steps() const {
        const index steps = outer_rows / (call.batch ? call.batch : 1);
        if (steps >= call.steps) return call.steps ? call.steps : 1;
        return steps > 1 ? steps : 1;
    }

    // A row without steps: its final state is its initial one.
    void pass_through(index b) const {
        for (int s = 0; s < Cell::states; ++s) {
            T *const to = call.dstate[s];
            const T *const from = call.dfinal[s];
            for (index j = b * at.H; to && j < (b + 1) * at.H; ++j) to[j] = from ? from[j] : 0;
        }
    }

    bool step(Team &team, const Share<T> &share, BackRow *row, index t) const {
        start(team, share, row, t);
        if constexpr (Cell::phases == 2) {
            if (!share.wait(team)) return false;
            const index rows = share.active(t);
            for (index i = 0; i < rows; ++i) enter_step(row[i], t, share.row(i));
            second_phase(team, share, row, rows);
        }
        if (!share.wait(team)) return false;
        transition(team, share, row, t);
        return true;
    }

    // Points the row at step t of batch row b.
    void enter_step(BackRow &row, index t, index b) const {
        const StateRows<T> before = state_before<Cell, T>(masks, records, states, t, b);
        Unit<T> &u = row.step;
        u = {};
        u.kind = call.kind;
        u.slots = records.slots.row(t, b);
        u.h = records.h.row(t, b);
        u.h_prev = before.h;
        u.c_prev = before.c;
        if constexpr (Cell::keeps_aux) u.aux = records.aux.row(t, b);
        if constexpr (Cell::has_direct) u.direct = direct + b * at.padded;
        row.b = b;
        row.dy = call.dy[0].data ? call.dy[0].at(t, b) : nullptr;
    }

    RNNFAST_INLINE Unit<T> block(const Unit<T> &u, index p) const {
        Unit<T> v = u;
        v.slots += p * S * V;
        v.h += p * V;
        v.h_prev += p * V;
        if constexpr (Cell::states > 1) v.c_prev += p * V;
        if constexpr (Cell::keeps_aux) v.aux += p * V;
        if constexpr (Cell::has_direct) v.direct += p * V;
        return v;
    }

    // Asks L2 for what the walk's next step reads on the tape at the same place, as receive() does for dy. They come
    // from L3 or memory, and the processor's own prefetcher takes each step's rows for a stream that rises, where the
    // walk falls: a training call 1 to 6 % faster (AVX2 4 to 15). Rejected: all of a row before the product (half as
    // much).
    RNNFAST_INLINE void ask_for_next(const Unit<T> &u) const {
        const index rows = call.reverse ? call.batch : -call.batch;
        ask_for(u.slots, rows * at.slots, S);
        ask_for(u.h_prev, rows * at.padded, 1); // where a cell wants h, it has been asked for a step earlier
        if constexpr (Cell::states > 1) ask_for(u.c_prev, rows * at.padded, 1);
    }

    // The gradient of h after the row's step has come together: turn the step's gates into their gradients.
    RNNFAST_INLINE void receive(const BackRow &row, index p, vec<T> dh, vec<T> dc_next) const {
        if (row.dy) {
            const T *const dy = row.dy + p * V;
            ask_for(dy, call.reverse ? call.dy[0].t : -call.dy[0].t, 1);
            dh = dh + load(dy, at.H - p * V);
        }
        const Unit<T> unit = block(row.step, p);
        ask_for_next(unit);
        Cell::template backward<T>(dh, dc_next, unit);
        if constexpr (Cell::states > 1) store(dc + row.b * at.padded + p * V, dc_next);
    }

    // Rows whose last step is t begin with the gradient of their final state.
    void start(Team &team, const Share<T> &share, BackRow *row, index t) const {
        const index rows = share.active(t);
        const bool first = t == time(0);
        const index running = first ? 0 : call.reverse ? rows : share.active(t + 1);
        for (index i = running; i < rows && !team.stopped(1); ++i) {
            const index b = share.row(i);
            enter_step(row[i], t, b);
            for (index p = share.panels.begin; p < share.panels.end; ++p) {
                const index j = b * at.H + p * V, n = at.H - p * V;
                const auto final = [&](const T *d) RNNFAST_LAMBDA { return d ? load(d + j, n) : vec<T>{}; };
                receive(row[i], p, final(call.dfinal[0]), final(call.dfinal[1]));
            }
        }
    }

    void second_phase(Team &team, const Share<T> &share, const BackRow *row, index rows) const {
        if constexpr (Cell::phases == 2) {
            constexpr BackSlots<Cell, 1> back;
            product<1, T>(
                team, {0, rows}, share.panels,
                term<1, T>([&](index i) RNNFAST_LAMBDA -> const T * { return row[i].step.slots + back.first * V; },
                           Span{at.P, back.count * V, S * V}, call.panels_backward + at.back_u[1]),
                [](index, index, int) RNNFAST_LAMBDA { return vec<T>{}; },
                [&](index i, index p, const vec<T> *d)
                    RNNFAST_LAMBDA { Cell::template backward_second<T>(d[0], block(row[i].step, p)); });
        }
    }

    void transition(Team &team, const Share<T> &share, BackRow *row, index t) const {
        constexpr BackSlots<Cell, 0> back;
        const index rows = share.active(t), before = masks.previous(t);
        for (index i = 0; i < rows; ++i) {
            const index b = share.row(i);
            row[i].from = masks.origin(t, b);
            row[i].ends = row[i].from == From::initial || before < 0;
            row[i].gates = records.slots.row(t, b) + back.first * V;
            row[i].b = b;
            if (!row[i].ends) enter_step(row[i], before, b);
        }
        constexpr bool flat = back.count == S;
        const Span k = flat ? contiguous(at.slots) : Span{at.P, back.count * V, S * V};
        product<1, T>(
            team, {0, rows}, share.panels,
            term<1, T>([&](index i) RNNFAST_LAMBDA { return row[i].gates; }, k, call.panels_backward + at.back_u[0]),
            [&](index i, index p, int) RNNFAST_LAMBDA {
                if constexpr (Cell::has_direct) return load(direct + row[i].b * at.padded + p * V);
                return vec<T>{};
            },
            [&](index i, index p, const vec<T> *d) RNNFAST_LAMBDA { route(row[i], p, d[0]); });
    }

    // Sends the gradient of the state before a step where that state came from.
    RNNFAST_INLINE void route(const BackRow &row, index p, vec<T> dh) const {
        const index j = row.b * at.H + p * V, n = at.H - p * V;
        vec<T> dc_prev = {};
        if constexpr (Cell::states > 1) dc_prev = load(dc + row.b * at.padded + p * V);
        if (row.from == From::reset) {
            add_to(call.d_reset_state[0], j, n, dh);
            add_to(call.d_reset_state[1], j, n, dc_prev);
            dh = dc_prev = vec<T>{};
        }
        if (!row.ends) return receive(row, p, dh, dc_prev);
        if (call.dstate[0]) store(call.dstate[0] + j, dh, n);
        if (call.dstate[1]) store(call.dstate[1] + j, dc_prev, n);
    }
    RNNFAST_INLINE static void add_to(T *sum, index j, index n, vec<T> term) {
        if (sum) store(sum + j, load(sum + j, n) + term, n);
    }

    // The chunk's active rows in the one order in which every sum runs.
    index collect(const Scratch &scratch, index done, index end) const {
        index count = 0;
        for (index s = done; s < end; ++s) {
            const index t = time(s);
            for (index b = 0; b < call.batch; ++b) {
                if (t < masks.length(b)) scratch.grad[count++] = {records.slots.row(t, b), t, b};
            }
        }
        return count;
    }

    void input_gradient(Team &team, const Scratch &scratch, index count, index done, index end) const {
        if (!call.dx.data) return;
        const GradRow *const row = scratch.grad;
        product<1, T>(
            team, team.share(count), {0, blocks<T>(at.I)},
            term<1, T>([&](index i) RNNFAST_LAMBDA -> const T * { return row[i].slots + Cell::x_slot * V; },
                       S == G ? contiguous(at.slots) : Span{at.P, G * V, S * V}, call.panels_backward + at.back_w),
            [](index, index, int) RNNFAST_LAMBDA { return vec<T>{}; },
            [&](index i, index p, const vec<T> *d)
                RNNFAST_LAMBDA { store(call.dx.at(row[i].t, row[i].b) + p * V, d[0], at.I - p * V); });
        if (!call.lengths || team.rank != 0) return;
        for (index s = done; s < end; ++s) {
            for (index b = 0; b < call.batch; ++b) {
                if (time(s) < masks.length(b)) continue;
                T *const dx = call.dx.at(time(s), b);
                for (index j = 0; j < at.I; ++j) dx[j] = 0;
            }
        }
    }

    template <int phase> void weight_gradients(Team &team, const Scratch &scratch, index count) const {
        constexpr int N = phase_gates<Cell>(phase), first = Cell::phase_gate[phase];
        const GradRow *const row = scratch.grad;
        for (index i = 0; i < count; ++i) {
            if (call.x.data) {
                scratch.left[i] = call.x.at(row[i].t, row[i].b);
            } else {
                scratch.ids[i] = *call.ids.at(row[i].t, row[i].b);
            }
        }
        outer_product<N>(
            team, count, call.x.data ? scratch.left : nullptr, scratch.ids, at.I, at.P,
            [&](index i, index p, int n)
                RNNFAST_LAMBDA { return load(row[i].slots + (p * S + Cell::x_slot + first + n) * V); },
            call.dpanels + at.w(phase), call.dpanels + at.bias_ih + first * V, G * V, scratch.outer);
        for (index i = 0; i < count; ++i) {
            const index t = row[i].t, b = row[i].b;
            scratch.left[i] =
                phase == 1 ? records.aux.row(t, b) : state_before<Cell, T>(masks, records, states, t, b).h;
        }
        outer_product<N>(
            team, count, scratch.left, nullptr, at.H, at.P,
            [&](index i, index p, int n)
                RNNFAST_LAMBDA { return load(row[i].slots + (p * S + Cell::h_slot[first + n]) * V); },
            call.dpanels + at.u(phase), call.dpanels + at.bias_hh + first * V, G * V, scratch.outer);
    }
};

} // namespace rnnfast::RNNFAST_ISA
