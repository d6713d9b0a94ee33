// The passes over a sequence as the table knows them, and how one is run. Each pass is compiled for all cells in a unit
// of its own (csrc/units), so that an edit of one compiles one file per instruction set and dtype.
#pragma once

#include "parallel/team.h"

namespace rnnfast::RNNFAST_ISA {

// W is what the panels hold: T, or Pair (bfloat16).
template <class Cell, class T, class W> std::size_t forward_bytes(const Forward<T> &); // that run_forward takes
template <class Cell, class T, class W> void run_forward(const Forward<T> &);
template <class Cell, class T> void run_backward(const Backward<T> &);

// The memory of a pass: its constructor carves it from nothing.
template <class Pass, class Call> std::size_t bytes_of(const Call &call) {
    Carver count(nullptr);
    const Pass counting(call, count);
    return count.used;
}

// Prepares a pass on this thread, then runs it in one parallel region. Null: it takes its own memory.
template <class Pass, class Call> void run_pass(const Call &call, void *memory) {
    if (!memory) {
        const Memory own(bytes_of<Pass>(call));
        return run_pass<Pass>(call, own.data());
    }
    Carver carver(memory);
    Pass pass(call, carver);
    pass.prepare();
    run_team(call.threads, call.interrupt, [&](Team &team) { pass.run(team); });
}

} // namespace rnnfast::RNNFAST_ISA
