// Packed weights: [unit block][k][gate][lane], so that a tile reads its right operand as one stream and all gates of a
// block's units end in registers together. Missing units of the last block are zero. Gradients of weights have the same
// layout, so one transfer serves both ways. Rejected: plain row-major weights (a broadcast per weight instead of per
// input).
#pragma once

#include "kernels.h"
#include "simd/vec.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> constexpr index blocks(index units) { return (units + lanes<T> - 1) / lanes<T>; }

// Panels <- matrix [gates * units, k] (rows of `gate_begin` .. `gate_begin + n - 1`), or the other way.
// A null matrix packs as zero and unpacks to nowhere.
template <bool unpack, class T, class Panel>
void transfer(Panel *panels, T *matrix, index units, index k, int gate_begin, int n) {
    constexpr int V = lanes<std::remove_const_t<T>>;
    for (index p = 0; p < blocks<std::remove_const_t<T>>(units); ++p) {
        for (int g = 0; g < n; ++g) {
            for (int v = 0; v < V; ++v) {
                const index unit = p * V + v;
                Panel *const lane = panels + (p * k * n + g) * V + v;
                T *const row = matrix && unit < units ? matrix + ((gate_begin + g) * units + unit) * k : nullptr;
                if constexpr (unpack) {
                    for (index i = 0; row && i < k; ++i) row[i] = lane[i * n * V];
                } else {
                    for (index i = 0; i < k; ++i) lane[i * n * V] = row ? row[i] : 0;
                }
            }
        }
    }
}

// [output block][unit block][n][lane of the unit][lane of the output] <- matrix [gates * units, outputs]: the weights
// as the product dG * weight reads them. gate[i] is the i-th gate in the order in which dG lies in memory.
template <class T>
void pack_transposed(T *panels, const T *matrix, index units, index outputs, const int *gate, int n) {
    constexpr int V = lanes<T>;
    for (index o = 0; o < outputs; o += V) {
        const index width = outputs - o < V ? outputs - o : V;
        for (index p = 0; p < blocks<T>(units); ++p) {
            for (int g = 0; g < n; ++g) {
                for (index unit = p * V; unit < (p + 1) * V; ++unit, panels += V) {
                    const T *const row = matrix + (gate[g] * units + unit) * outputs + o;
                    for (index i = 0; i < V; ++i) panels[i] = unit < units && i < width ? row[i] : 0;
                }
            }
        }
    }
}

} // namespace rnnfast::RNNFAST_ISA
