// The sums of the parameters' gradients: where they are cut, and their memory. sum_order.h has the order and why.
#pragma once

#include "linalg/panels.h"
#include "parallel/team.h"
#include "sum_order.h"

namespace rnnfast::RNNFAST_ISA {

// The parts in which backward walks over the steps: chunks that end where their quarter of a section does.
class Parts {
    const index steps_, quarter_, chunk_;
    const bool reverse_;

    static index whole_chains(index rows, index batch) {
        const index chain = chain_steps(batch), chains = rows / (chain * (batch < 1 ? 1 : batch));
        return chains > 1 ? chains * chain : chain;
    }

  public:
    struct Part {
        index begin, end; // steps
        bool closes;      // whether it is its quarter's last
        bool rounds;      // and its section's
        bool last;        // of the walk
    };

    // `rows` is what a part should have.
    Parts(index steps, index batch, bool reverse, index rows)
        : steps_(steps), quarter_(quarter_steps(batch)), chunk_(whole_chains(rows, batch)), reverse_(reverse) {}

    index most_steps() const { return chunk_ < steps_ ? chunk_ : steps_; } // of a part
    bool several() const { return quarter_ < steps_; }                     // quarters

    // The part that begins the rest of the walk, of which `done` steps are behind.
    Part after(index done) const {
        const index t = reverse_ ? done : steps_ - 1 - done, quarter = t / quarter_ * quarter_;
        const index begin = quarter + (t - quarter) / chunk_ * chunk_;
        const index close = quarter + quarter_ < steps_ ? quarter + quarter_ : steps_;
        const index end = begin + chunk_ < close ? begin + chunk_ : close;
        const index edge = reverse_ ? end : begin;
        return {begin, end, edge == (reverse_ ? close : quarter), edge % (quarters * quarter_) == 0,
                edge == (reverse_ ? steps_ : 0)};
    }
};

// Where the chains of a part's rows begin.
class Chains {
    index *const at_;
    index count_ = 0, step_ = -1;
    const index steps_;

  public:
    static index *carve(Carver &carver, index steps, index batch) {
        return carver.take<index>(steps * (1 + batch / chain_rows) + 1);
    }

    Chains(index *at, index batch) : at_(at), steps_(chain_steps(batch)) {}

    // The row after `rows` others is one of step t. Rows come step by step.
    void add(index rows, index t) {
        const index step = t / steps_;
        if (step == step_ && rows - at_[count_ - 1] < chain_rows) return;
        step_ = step;
        at_[count_++] = rows;
    }
    void end(index rows) { at_[count_] = rows; }

    index count() const { return count_; }
    Range operator[](index chain) const { return {at_[chain], at_[chain + 1]}; }

    // The first chain that some `rows` rows from chain `begin` on do not hold whole; there is at least one that they
    // do.
    index until(index begin, index rows) const {
        index chain = begin + 1;
        while (chain < count_ && at_[chain + 1] - at_[begin] <= rows) ++chain;
        return chain;
    }
};

// The sums of a call, laid out as the parameters' panels: matrices first, then what has one number per row of a matrix.
template <class T> class Sums {
    T *const panels_;
    const index matrices_, size_;
    double *const exact_; // the open quarter's, of all but the matrices
    T *const closed_;     // of the quarters that are closed and of what was there before; null where there is neither
    T *const rest_; // what rounding has left of the closed ones' vectors, from call to call; null: nowhere to keep
    const bool adds_;

  public:
    // `panels` is what the call writes, or adds to, and so is `rest`.
    Sums(T *panels, T *rest, bool adds, index matrices, index size, const Parts &parts, Carver &carver)
        : panels_(panels), matrices_(matrices), size_(size), exact_(carver.take<double>(size - matrices)),
          closed_(adds || parts.several() ? carver.take<T>(size) : nullptr), rest_(rest), adds_(adds) {}

    T *matrix(index place) const { return panels_ + place; }
    double *exact(index place) const { return exact_ + place - matrices_; }

    // Each thread does its share; a barrier must follow. A call without a step ends here.
    void begin(const Team &team, index steps) const {
        if (adds_ && steps == 0) return;
        const Range mine = team.share(size_);
        for (index i = mine.begin; i < mine.end; ++i) {
            if (closed_) closed_[i] = adds_ ? panels_[i] : 0;
            panels_[i] = 0;
            if (i >= matrices_) exact_[i - matrices_] = adds_ && rest_ ? rest_[i - matrices_] : 0;
        }
    }

    // Ends a part. After the last one all sums are in the panels. False: the call is to end early.
    bool end(Team &team, const Parts::Part &part) const {
        if (!part.closes) return true;
        if (!team.wait()) return false;
        const Range mine = team.share(size_);
        for (index i = mine.begin; i < mine.end; ++i) {
            const T closed = closed_ ? closed_[i] : 0;
            const T sum = i < matrices_ ? closed + panels_[i] : round(i - matrices_, closed, part);
            if (closed_) closed_[i] = sum;
            panels_[i] = part.last ? sum : 0;
        }
        return true; // the next part's products come after a barrier
    }

  private:
    // A vector's sum at the end of a quarter. What rounding leaves begins the next quarter's, within a section.
    T round(index i, T closed, const Parts::Part &part) const {
        const double sum = exact_[i] + static_cast<double>(closed);
        const T rounded = static_cast<T>(sum);
        const double left = sum - static_cast<double>(rounded), rest = left == left ? left : 0; // inf - inf
        exact_[i] = part.rounds ? 0 : rest;
        if (part.last && rest_) rest_[i] = static_cast<T>(rest);
        return rounded;
    }
};

} // namespace rnnfast::RNNFAST_ISA
