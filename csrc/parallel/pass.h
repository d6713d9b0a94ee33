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

// The step at which the time loop of a pass begins: its first, or that at which the threads have left it to one of
// them, because others have the cores.
class Seam {
    index at_ = 0;
    bool open_ = false;

  public:
    index begin() const { return at_; }

    // Whether all threads are to leave before step `at`. Not before the first barrier.
    bool leave(const Team &team, index at) {
        if (team.size == 1 || !team.crowded()) return false;
        if (team.rank == 0) at_ = at, open_ = true;
        return true;
    }

    // Whether there is a rest to run.
    bool reopen() {
        const bool open = open_;
        open_ = false;
        return open;
    }
};

// Prepares a pass on this thread, then runs it in one parallel region. Null: it takes its own memory.
template <class Pass, class Call> void run_pass(const Call &call, void *memory) {
    if (!memory) {
        const Memory own(bytes_of<Pass>(call));
        return run_pass<Pass>(call, own.data());
    }
    Carver carver(memory);
    Pass pass(call, carver);
    pass.prepare();
    const auto run = [&](Team &team) { pass.run(team); };
    run_team(call.threads, call.interrupt, run);
    if (pass.seam.reopen()) run_team(1, call.interrupt, run);
}

} // namespace rnnfast::RNNFAST_ISA
