// The threads of one call: who am I, how do we wait for each other, and has somebody pressed Ctrl-C.
//
// One parallel region per call. Rejected: a region per time step (a fork and a join cost as much as a small step) and
// libgomp's barrier (it enters the kernel when a core is shared; a spin that yields after a while costs 0.1 us).
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "parallel/denormals.h"
#include "parallel/interrupt.h"
#include "parallel/memory.h"
#include "parallel/policy.h"
#include "parallel/system.h"
#include "simd/vec.h"

namespace rnnfast::RNNFAST_ISA {

// The last to arrive looks at the stop flag for all: after a barrier everybody has the same answer, so nobody leaves
// alone and lets the others wait for ever. (Walking on to the end with nothing to do is no way out either: on a busy
// machine every barrier on the way can cost milliseconds.)
struct Barrier {
    // How often a waiting thread looks before it yields the core, about 3 us. More would be worse: threads that were
    // just woken often share one core for some milliseconds.
    static constexpr int patience = 128;
    int waiting = 0, generation = 0;
    bool halted = false;
    bool crowded = false;     // others have the cores: threads that wait for each other take turns with them
    std::int64_t lost = 0;    // nanoseconds that threads have waited and yielded
    const std::int64_t start; // of the call

    explicit Barrier(int threads) : start(threads > 1 ? nanoseconds() : 0) {} // a lone thread needs no clock

    void wait(int threads, const Interrupt *interrupt) {
        if (threads == 1) {
            halted = interrupt && is_stopped(*interrupt);
            return;
        }
        const int now = __atomic_load_n(&generation, __ATOMIC_RELAXED);
        if (__atomic_add_fetch(&waiting, 1, __ATOMIC_ACQ_REL) == threads) {
            halted = interrupt && is_stopped(*interrupt);
            crowded = is_crowd(__atomic_load_n(&lost, __ATOMIC_RELAXED), start, threads);
            __atomic_store_n(&waiting, 0, __ATOMIC_RELAXED);
            __atomic_store_n(&generation, now + 1, __ATOMIC_RELEASE);
            return;
        }
        std::int64_t since = 0;
        for (int spins = 0; __atomic_load_n(&generation, __ATOMIC_ACQUIRE) == now; ++spins) {
#if defined(__SSE2__)
            _mm_pause();
#endif
            if (spins <= patience) continue;
            if (since == 0) since = nanoseconds();
            yield_core();
        }
        if (since != 0) __atomic_add_fetch(&lost, nanoseconds() - since, __ATOMIC_RELAXED);
    }
};

// Denormals are flushed to zero inside a kernel; the caller's mode is put back.
class FlushDenormals {
    const std::uint64_t saved_ = arithmetic_mode();

  public:
    FlushDenormals() { set_arithmetic_mode(saved_ | flushing); }
    ~FlushDenormals() { set_arithmetic_mode(saved_); }
    FlushDenormals(const FlushDenormals &) = delete;
    FlushDenormals &operator=(const FlushDenormals &) = delete;
};

struct Range {
    index begin, end;
};

class Team {
    Barrier &barrier_;
    Interrupt *interrupt_;
    index budget_ = polling_interval;
    Poll poll_;
    static constexpr index polling_interval = 2000; // tiles between two looks at the clock, well under 10 ms

  public:
    const int rank, size;

    Team(Barrier &barrier, Interrupt *interrupt, int rank_, int size_)
        : barrier_(barrier), interrupt_(interrupt), rank(rank_), size(size_) {}

    // False for everybody once the call is to end early.
    [[nodiscard]] bool wait() {
        barrier_.wait(size, interrupt_);
        return !barrier_.halted;
    }

    // After a barrier, the same for all: whether the threads should leave the rest of the call to one.
    bool crowded() const { return barrier_.crowded; }

    // True once the call is to end early. Whoever sees it skips work up to the next barrier, which ends it for all.
    bool stopped(index cost) {
        if (!interrupt_) return false;
        budget_ -= cost;
        if (budget_ < 0) {
            budget_ = polling_interval;
            if (rank == 0) poll_.look(*interrupt_);
        }
        return is_stopped(*interrupt_);
    }
    bool stopped() const { return interrupt_ && is_stopped(*interrupt_); }

    // This thread's share of 0 .. count, and where any thread's begins.
    Range share(index count) const { return {share(count, rank), share(count, rank + 1)}; }
    index share(index count, int of) const { return count * of / size; }
};

// Runs work(team) on each thread of one parallel region. The team may be smaller than asked for.
template <class Work> void run_team(int threads, Interrupt *interrupt, Work work) {
    Barrier barrier(threads);
#ifdef _OPENMP
    if (threads > 1) { // OpenMP would take memory and a lock for a team of one as well
#pragma omp parallel num_threads(threads)
        {
            const FlushDenormals flush;
            Team team(barrier, interrupt, omp_get_thread_num(), omp_get_num_threads());
            work(team);
            barrier.wait(team.size,
                         nullptr); // OpenMP's own at the region's end looks for milliseconds before it yields
        }
        if (is_crowd(barrier.lost, barrier.start, threads)) note_crowd();
        return;
    }
#endif
    (void)threads;
    const FlushDenormals flush;
    Team team(barrier, interrupt, 0, 1);
    work(team);
}

// Hands out 64-byte aligned pieces of one block. With no block it only counts, so a layout is written once and run
// twice.
class Carver {
    char *base_;

  public:
    std::size_t used = 0;

    explicit Carver(void *base) : base_(static_cast<char *>(base)) {}
    bool real() const { return base_ != nullptr; }

    template <class U> U *take(index count) {
        U *const piece = base_ ? reinterpret_cast<U *>(base_ + used) : nullptr;
        used += (std::size_t(count) * sizeof(U) + 63) / 64 * 64;
        return piece;
    }
};

} // namespace rnnfast::RNNFAST_ISA
