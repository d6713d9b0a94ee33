// How a long call is stopped. Inlined everywhere, for the reason that memory.h gives.
#pragma once

#include "kernels.h"
#include "parallel/system.h"

namespace rnnfast {

__attribute__((always_inline)) inline bool is_stopped(const Interrupt &interrupt) {
    return __atomic_load_n(&interrupt.stop, __ATOMIC_RELAXED);
}

// The calling thread's clock: asks for signals every 50 ms, the first time 50 ms after the first look.
class Poll {
    std::int64_t last_ = 0;

  public:
    __attribute__((always_inline)) void look(Interrupt &interrupt) {
        const std::int64_t now = nanoseconds();
        if (last_ == 0) last_ = now;
        if (now - last_ < 50'000'000) return;
        last_ = now;
        const std::uint64_t inside = arithmetic_mode();
        set_arithmetic_mode(interrupt.mode);
        bool stop = true;
        try {
            stop = interrupt.poll(interrupt.context);
        } catch (...) { // Python ends this thread, because the interpreter has ended: no kernel can be left that way
            wait_for_the_end();
        }
        set_arithmetic_mode(inside);
        if (stop) __atomic_store_n(&interrupt.stop, 1, __ATOMIC_RELAXED);
    }
};

} // namespace rnnfast
