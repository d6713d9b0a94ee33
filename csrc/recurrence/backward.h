// The time loop, backward (Werbos 1990). Inside the loop stands only what depends on the step after: dh, dc and the
// gates' gradients, which replace the gates on the tape. The gradients of x and of the weights follow per chunk of
// steps as two large products.
//
// A *transition* out of step t multiplies the step's gate gradients with U: that is the gradient of the state before t.
// While it is still in registers it goes where that state came from: to the step before (whose gates it turns into
// gradients), to the initial state, or to the state that a reset put in. Every weight's sum runs over t falling, b
// rising, in the chains and sections of sum_order.h.
#pragma once

#include "cells/cell.h"
#include "linalg/outer.h"
#include "recurrence/layout.h"
#include "recurrence/masks.h"
#include "recurrence/passes.h"

namespace rnnfast::RNNFAST_ISA {

template <class Cell, class T> class BackwardPass {
    using L = Layout<Cell, T>;
    static constexpr int V = L::V, C = L::C, G = L::G, S = L::S;

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
        index *chains;
        OuterScratch<T> outer;
    };

    const Backward<T> &call;
    const L at;
    const Parts parts;
    const index most_rows; // of a part
    const Masks<T> masks;
    index *const order; // of the shares
    States<Cell, T> states;
    Records<Cell, T> records;
    T *dc = nullptr, *direct = nullptr; // [B][padded]
    BackRow *back_rows;                 // [threads][B]
    GradRow *grad_rows;                 // [threads][most_rows], as the two below
    const T **left_rows;
    std::int64_t *id_rows;
    index **chain_rows;     // [threads]
    OuterScratch<T> *outer; // [threads]
    const Sums<T> sums;

  public:
    Seam seam;

    BackwardPass(const Backward<T> &call_, Carver &carver)
        : call(call_), at(call_.sizes), parts(call_.steps, call_.batch, call_.reverse, outer_rows),
          most_rows(parts.most_steps() * call_.batch), masks(call_), order(Share<T>::carve(call_, carver)),
          states(call_, at, carver), records(Records<Cell, T>::on_tape(at, call_.steps, call_.batch, call_.tape)),
          sums(call_.dpanels, call_.dpanels + at.size, call_.adds, at.bias_ih, at.size, parts, carver) {
        const index B = call.batch, rows = call.threads * most_rows;
        if (Cell::states > 1) dc = carver.take<T>(B * at.padded);
        if (Cell::has_direct) direct = carver.take<T>(B * at.padded);
        back_rows = carver.take<BackRow>(call.threads * B);
        grad_rows = carver.take<GradRow>(rows);
        left_rows = carver.take<const T *>(rows);
        id_rows = carver.take<std::int64_t>(rows);
        chain_rows = carver.take<index *>(call.threads);
        outer = carver.take<OuterScratch<T>>(call.threads);
        for (int i = 0; i < call.threads; ++i) {
            index *const chains = Chains::carve(carver, parts.most_steps(), B);
            const auto scratch = OuterScratch<T>::carve(carver, at.I > at.H ? at.I : at.H);
            if (carver.real()) chain_rows[i] = chains, outer[i] = scratch;
        }
    }

    void prepare() {
        states.fill(call, at);
        for (T *const sum : call.d_reset_state) {
            for (index i = 0; sum && !call.adds && i < call.batch * at.H; ++i) sum[i] = 0;
        }
        for (index b = 0; b < call.batch; ++b) {
            if (masks.length(b) == 0) pass_through(b);
        }
    }

    void run(Team &team) {
        const Share<T> share(team, call, at.P, L::unit, order);
        const index own = team.rank * most_rows;
        const Scratch scratch{back_rows + team.rank * call.batch,
                              grad_rows + own,
                              left_rows + own,
                              id_rows + own,
                              chain_rows[team.rank],
                              outer[team.rank]};
        if (seam.begin() == 0) sums.begin(team, call.steps);
        for (index done = seam.begin(); done < call.steps;) {
            if (seam.leave(team, done)) return;
            const Parts::Part part = parts.after(done);
            const index end = done + part.end - part.begin;
            for (index s = done; s < end && step(team, share, scratch.back, time(s)); ++s) {}
            if (!team.wait()) return;
            Chains chains(scratch.chains, call.batch);
            const index rows = collect(scratch, chains, done, end);
            input_gradient(team, scratch, rows, done, end);
            weight_gradients<0>(team, scratch, chains, rows);
            if constexpr (Cell::phases == 2) weight_gradients<1>(team, scratch, chains, rows);
            if (!sums.end(team, part)) return;
            done = end;
        }
    }

  private:
    index time(index s) const { return call.reverse ? s : call.steps - 1 - s; } // in the order of the backward walk
    index after(index t) const { return call.reverse ? t - 1 : t + 1; }         // the step whose gradients reach t

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
        v.slots += slot_offset<T>(p, S);
        v.h += p * V;
        v.h_prev += p * V;
        if constexpr (Cell::states > 1) v.c_prev += p * V;
        if constexpr (Cell::keeps_aux) v.aux += p * V;
        if constexpr (Cell::has_direct) v.direct += p * V;
        return v;
    }

    // Prefetches what the walk's next step reads on the tape at the same place, as receive() does for dy. It comes from
    // L3 or memory, and the processor's own prefetcher expects rising addresses, where the walk's fall. Rejected: all
    // of a row before the product (gains half as much).
    RNNFAST_INLINE void prefetch_next(const Unit<T> &row, const Unit<T> &u, index p) const {
        const index rows = call.reverse ? call.batch : -call.batch;
        prefetch(row.slots + p * S * V, rows * at.slots, S); // each block its share of a canonical block's slots
        prefetch(u.h_prev, rows * at.padded, 1);             // where a cell reads h, it was prefetched a step earlier
        if constexpr (Cell::states > 1) prefetch(u.c_prev, rows * at.padded, 1);
    }

    // The gradient of h after the row's step has come together: turn the step's gates into their gradients.
    RNNFAST_INLINE void receive(const BackRow &row, index p, vec<T> dh, vec<T> dc_next) const {
        if (row.dy) {
            const T *const dy = row.dy + p * V;
            prefetch(dy, call.reverse ? call.dy[0].t : -call.dy[0].t, 1);
            dh = dh + load(dy, at.H - p * V);
        }
        const Unit<T> unit = block(row.step, p);
        prefetch_next(row.step, unit, p);
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
            slots_product<T>(
                team, {0, rows}, share.panels, at.H, SlotSpans<T>(at.H, S, back.count),
                [&](index i) RNNFAST_LAMBDA -> const T * { return row[i].step.slots + back.first * C; },
                call.panels_backward + at.back_u[1], [](index, index) RNNFAST_LAMBDA { return vec<T>{}; },
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
            row[i].gates = records.slots.row(t, b) + back.first * C;
            row[i].b = b;
            if (!row[i].ends) enter_step(row[i], before, b);
        }
        slots_product<T>(
            team, {0, rows}, share.panels, at.H, SlotSpans<T>(at.H, S, back.count),
            [&](index i) RNNFAST_LAMBDA { return row[i].gates; }, call.panels_backward + at.back_u[0],
            [&](index i, index p) RNNFAST_LAMBDA {
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

    // The part's active rows in the one order in which every sum runs.
    index collect(const Scratch &scratch, Chains &chains, index done, index end) const {
        index count = 0;
        for (index s = done; s < end; ++s) {
            const index t = time(s);
            for (index b = 0; b < call.batch; ++b) {
                if (t >= masks.length(b)) continue;
                chains.add(count, t);
                scratch.grad[count++] = {records.slots.row(t, b), t, b};
            }
        }
        chains.end(count);
        return count;
    }

    void input_gradient(Team &team, const Scratch &scratch, index count, index done, index end) const {
        if (!call.dx.data) return;
        const GradRow *const row = scratch.grad;
        slots_product<T>(
            team, team.share(count), {0, blocks<T>(at.I)}, at.I, SlotSpans<T>(at.H, S, G),
            [&](index i) RNNFAST_LAMBDA -> const T * { return row[i].slots + Cell::x_slot * C; },
            call.panels_backward + at.back_w, [](index, index) RNNFAST_LAMBDA { return vec<T>{}; },
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

    template <int phase>
    void weight_gradients(Team &team, const Scratch &scratch, const Chains &chains, index count) const {
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
            team, chains, call.x.data ? scratch.left : nullptr, scratch.ids, at.I, at.P,
            [&](index i, index p, int n)
                RNNFAST_LAMBDA { return load(row[i].slots + at.slot(p, Cell::x_slot + first + n)); },
            sums.matrix(at.w(phase)), sums.exact(at.bias_ih + first * V), G * V, scratch.outer);
        for (index i = 0; i < count; ++i) {
            const index t = row[i].t, b = row[i].b;
            scratch.left[i] =
                phase == 1 ? records.aux.row(t, b) : state_before<Cell, T>(masks, records, states, t, b).h;
        }
        outer_product<N>(
            team, chains, scratch.left, nullptr, at.H, at.P,
            [&](index i, index p, int n)
                RNNFAST_LAMBDA { return load(row[i].slots + at.slot(p, Cell::h_slot[first + n])); },
            sums.matrix(at.u(phase)), sums.exact(at.bias_hh + first * V), G * V, scratch.outer);
    }
};

template <class Cell, class T> void run_backward(const Backward<T> &call) {
    run_pass<BackwardPass<Cell, T>>(call, nullptr);
}

} // namespace rnnfast::RNNFAST_ISA
