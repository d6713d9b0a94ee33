// How a pass is run: an object that carves its memory, prepares on the calling thread, and runs on a team.
#pragma once

#include "parallel/team.h"

namespace rnnfast::RNNFAST_ISA {

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
