#include "parallel/policy.h"
#include "parallel/system.h"
#include "probes/probes.h"

#include <atomic>
#include <chrono>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rnnfast {

// Two threads throw the line to each other for a millisecond.
double line_transfer() {
    double seconds = 0;
#ifdef _OPENMP
    if (threads_for(2, 1e300) < 2) return 0;
    using Clock = std::chrono::steady_clock;
    constexpr int over = -1;
    alignas(64) std::atomic<int> ball{0}; // how often it was thrown
#pragma omp parallel num_threads(2)
    if (omp_get_num_threads() == 2) {
        const int me = omp_get_thread_num();
        Clock::time_point begin{};
        for (int mine = me;; mine += 2) {
            int seen = ball.load(std::memory_order_acquire);
            for (int looks = 0; seen != mine && seen != over; ++looks) {
                if (looks > 1000) yield_core(); // both may be on one core
                seen = ball.load(std::memory_order_acquire);
            }
            if (seen == over) break;
            if (me == 0 && mine % 256 == 0) {
                const auto now = Clock::now();
                if (mine == 256) begin = now; // before, the other had to wake
                const double elapsed = std::chrono::duration<double>(now - begin).count();
                if (mine > 256 && elapsed > 1e-3) {
                    seconds = elapsed / (mine - 256);
                    ball.store(over, std::memory_order_release);
                    break;
                }
            }
            ball.store(mine + 1, std::memory_order_release);
        }
    }
#endif
    return seconds;
}

} // namespace rnnfast
