// How a long call is stopped. Inlined everywhere, for the reason that memory.h gives.
#pragma once

#include <ctime>

#include "kernels.h"

namespace rnnfast {

__attribute__((always_inline)) inline bool is_stopped(const Interrupt &interrupt) {
    return __atomic_load_n(&interrupt.stop, __ATOMIC_RELAXED);
}

// The calling thread's clock: asks for signals every 50 ms, the first time 50 ms after the first look.
class Poll {
    timespec last_{};

  public:
    __attribute__((always_inline)) void look(Interrupt &interrupt) {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (last_.tv_sec == 0) last_ = now;
        const double elapsed = double(now.tv_sec - last_.tv_sec) + 1e-9 * double(now.tv_nsec - last_.tv_nsec);
        if (elapsed < 0.05) return;
        last_ = now;
        const std::uint64_t inside = arithmetic_mode();
        set_arithmetic_mode(interrupt.mode);
        const bool stop = interrupt.poll(interrupt.context);
        set_arithmetic_mode(inside);
        if (stop) __atomic_store_n(&interrupt.stop, 1, __ATOMIC_RELAXED);
    }
};

} // namespace rnnfast
