// How the gradients of parameters are cut into sums, which is a part of the result.
//
// One chain over all T x B rows would lose accuracy with the square root of its length. So there are four levels:
//   chain    up to 128 rows, a chain of fma that begins at zero;
//   quarter  some 16384 rows: the sums of its chains are added one after the other (biases and vectors in double);
//   section  four quarters, whose sums are added one after the other. What rounding leaves of a bias or vector goes on
//            into the next quarter of the section, so that its sum is rounded once per section;
//   call     the sums of its sections are added one after the other, and last what the caller's gradient held.
// All are whole steps, counted from the call's first step. So no number of threads, no instruction set and no size of a
// chunk shows, and a sequence that is cut between two sections has the bits of the whole. Cut between two quarters it
// has them too, if the second call is handed what the first one's rounding left.
#pragma once

#include "index.h"

namespace rnnfast {

constexpr index chain_rows = 128, quarter_rows = 16384, quarters = 4;

__attribute__((always_inline)) constexpr index chain_steps(index batch) {
    return batch < 1 ? chain_rows : batch < chain_rows ? chain_rows / batch : 1;
}

__attribute__((always_inline)) constexpr index quarter_steps(index batch) {
    const index chain = chain_steps(batch), chains = quarter_rows / (chain * (batch < 1 ? 1 : batch));
    return chains > 1 ? chains * chain : chain;
}

__attribute__((always_inline)) constexpr index section_steps(index batch) { return quarters * quarter_steps(batch); }

} // namespace rnnfast
