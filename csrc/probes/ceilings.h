// The ceilings beside which speeds are printed: of arithmetic in registers, and of reading memory.
#pragma once

#include "parallel/team.h"

namespace rnnfast::RNNFAST_ISA {

inline double seconds() { return 1e-9 * double(nanoseconds()); }

// GFLOP/s of one thread: as many independent chains as the tiles have, nothing loaded.
template <class real> double fma_peak() {
    constexpr int chains = RNNFAST_ACCUMULATORS;
    constexpr index rounds = 200000;
    vec<real> acc[chains], a = broadcast(real(0.999)), b = broadcast(real(0.001));
    RNNFAST_UNROLL for (int i = 0; i < chains; ++i) acc[i] = broadcast(real(i));
    asm volatile("" : "+m"(a), "+m"(b));
    const double begin = seconds();
    for (index r = 0; r < rounds; ++r) {
        RNNFAST_UNROLL for (int i = 0; i < chains; ++i) acc[i] = fma(acc[i], a, b);
    }
    const double time = seconds() - begin;
    RNNFAST_UNROLL for (int i = 0; i < chains; ++i) asm volatile("" ::"m"(acc[i]));
    return 2e-9 * double(rounds) * chains * lanes<real> / time;
}

// GB/s of work that reads weights once: eight independent chains, nothing but loads and an addition for each.
template <class real> double read_bandwidth(index bytes, int threads) {
    constexpr int chains = 8, V = lanes<real>;
    const index unit = chains * V * index(sizeof(real));
    const index share = (bytes / threads + unit - 1) / unit * chains * V; // elements of each thread
    const Memory memory(std::size_t(share * threads) * sizeof(real));
    real *const data = static_cast<real *>(memory.data());
    const index rounds = 1 + (index(1) << 25) / (share * index(sizeof(real)));
    double slowest = 0;
    run_team(threads, nullptr, [&](Team &team) {
        real *const mine = data + team.rank * share;
        for (index i = 0; i < share; ++i) mine[i] = 0;
        double begin = 0;
        for (index r = -1; r < rounds; ++r) { // the first warms the caches
            if (r == 0) begin = team.wait() ? seconds() : 0;
            vec<real> sum[chains] = {};
            for (index i = 0; i < share; i += chains * V) {
                RNNFAST_UNROLL for (int c = 0; c < chains; ++c) sum[c] = sum[c] + load(mine + i + c * V);
            }
            RNNFAST_UNROLL for (int c = 0; c < chains; ++c) asm volatile("" ::"m"(sum[c]) : "memory");
        }
        if (team.wait() && team.rank == 0) slowest = seconds() - begin;
    });
    return 1e-9 * double(share) * sizeof(real) * threads * double(rounds) / slowest;
}

} // namespace rnnfast::RNNFAST_ISA
