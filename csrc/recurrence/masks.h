// Lengths, resets and direction: one mechanism for all cells, forward and backward.
//
// Rows are looked at longest first, so the rows active at step t are the first active(t) of them and a ragged batch
// shrinks. A row's previous state is a pointer: to the step before, to the initial state, or to what a reset puts in.
// Nothing in the arithmetic knows of masks. Rejected: multiplying by 0/1 masks (work for dead rows; 0 * NaN), sorting
// the batch in memory (a copy of x and y).
#pragma once

#include "kernels.h"
#include "parallel/team.h"

namespace rnnfast::RNNFAST_ISA {

enum class From { initial, reset, previous };

template <class T> class Masks {
    const Sequence<T> &call_;
    index *order_ = nullptr;  // [B] rows, longest first; null: all have length T
    index *active_ = nullptr; // [T + 1] how many rows have a length > t

  public:
    Masks(const Sequence<T> &call, Carver &carver) : call_(call) {
        if (!call.lengths) return;
        order_ = carver.take<index>(call.batch);
        active_ = carver.take<index>(call.steps + 1);
    }

    // A counting sort by length; called once, when the memory is there.
    void sort() {
        if (!call_.lengths) return;
        for (index t = 0; t <= call_.steps; ++t) active_[t] = 0;
        for (index b = 0; b < call_.batch; ++b) ++active_[call_.lengths[b]];
        index longer = 0; // active_[t]: first how many have length t, then where the next row of length t goes
        for (index t = call_.steps; t >= 0; --t) {
            const index here = active_[t];
            active_[t] = longer;
            longer += here;
        }
        for (index b = 0; b < call_.batch; ++b) order_[active_[call_.lengths[b]]++] = b;
        for (index t = 0; t <= call_.steps; ++t) active_[t] = t < call_.steps ? active_[t + 1] : 0;
    }

    index length(index b) const { return call_.lengths ? call_.lengths[b] : call_.steps; }
    index row(index place) const { return order_ ? order_[place] : place; }
    index active(index t) const {
        if (t >= call_.steps) return 0;
        return active_ ? active_[t] : call_.batch;
    }

    index previous(index t) const { return call_.reverse ? t + 1 : t - 1; }

    // Where row b's state before step t comes from.
    From origin(index t, index b) const {
        if (call_.reverse) {
            if (t + 1 == length(b)) return From::initial;
            return call_.resets.data && *call_.resets.at(t + 1, b) ? From::reset : From::previous;
        }
        if (call_.resets.data && *call_.resets.at(t, b)) return From::reset;
        return t == 0 ? From::initial : From::previous;
    }
};

// Which rows and unit blocks are this thread's in the time loop. Rows need no waiting; units wait once a step, and
// serve batches too small to be shared out by rows.
class Share {
    index rank_ = 0, size_ = 1;

  public:
    const bool by_units;
    const Range panels;

    Share(const Team &team, index batch, index blocks)
        : by_units(split_units(team.size, batch)), panels(by_units ? team.share(blocks) : Range{0, blocks}) {
        if (by_units) return;
        rank_ = team.rank;
        size_ = team.size;
    }

    static bool split_units(int threads, index batch) { return threads > 1 && batch < 2 * threads; }

    // How many of the first n rows are mine, and which place my i-th has. Dealt like cards, so that ragged batches stay
    // balanced.
    index mine(index n) const {
        if (size_ == 1) return n; // spares a single step the division
        return n > rank_ ? (n - rank_ + size_ - 1) / size_ : 0;
    }
    index place(index i) const { return rank_ + i * size_; }

    // Where units are dealt out: until all have finished theirs. False: the call is to end early.
    [[nodiscard]] bool wait(Team &team) const { return by_units ? team.wait() : !team.stopped(); }
};

} // namespace rnnfast::RNNFAST_ISA
