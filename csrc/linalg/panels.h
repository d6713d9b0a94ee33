// Packed weights: [panel][k][vector][lane], so that a tile reads its right operand as one stream. The vectors are a
// unit block's gates, and a panel's are at most three: four rows of three are a tile of 12 sums. Up to three gates are
// a panel each block; of an LSTM's four, three blocks (a bundle) share four panels, and the one or two blocks left over
// have panels of two. Missing units of the last block are zero. Gradients of weights have the same layout, so one
// transfer serves both ways. Rejected: plain row-major weights (a broadcast per weight instead of per input), panels of
// four vectors and tiles of three rows (slower).
//
// In bfloat16 (a float's upper half) two neighbours in k share a word, [panel][k / 2][vector][lane], the even one
// below: one load, a shift and a mask make two vectors. Rejected: one bfloat16 after the other (a widening shuffle for
// each vector).
#pragma once

#include "kernels.h"
#include "simd/vec.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> constexpr index blocks(index units) { return (units + lanes<T> - 1) / lanes<T>; }

// What a step leaves for backward lies in *canonical blocks* of 64 bytes of units, whatever the vectors are: a row of
// several slots is [canonical block][slot][unit]. Backward's products run over their slots' units in this order, so it
// is a part of the result: with a vector's units in the place of a canonical block's, each instruction set had its own
// bits.
template <class T> constexpr int canonical = 64 / int(sizeof(T));
template <class T> constexpr int vectors_of_block = canonical<T> / lanes<T>;
template <class T> constexpr index canonical_blocks(index units) { return (units + canonical<T> - 1) / canonical<T>; }

// Where a unit block's first slot begins in such a row; its other slots follow `canonical` elements apart.
template <class T> constexpr index slot_offset(index block, index slots) {
    constexpr std::size_t R = vectors_of_block<T>;
    const auto b = std::size_t(block);
    return index(b / R * R * std::size_t(slots) + b % R) * lanes<T>;
}

constexpr int widest = 3; // vectors of a panel
// So many unit blocks of N vectors fill whole panels.
template <int N> constexpr int bundle = N > widest ? widest : 1;
// The vectors of a panel, and how many panels there are, where so many blocks (of a bundle) lie together.
template <int N> constexpr int panel_width(index blocks) {
    static_assert(N <= widest || N % 2 == 0);
    return N <= widest ? N : blocks == bundle<N> ? widest : 2;
}
template <int N> constexpr int panels_of(index blocks) { return int(blocks) * N / panel_width<N>(blocks); }

struct Pair { // two weights in bfloat16
    std::uint32_t word;
};

// What W's panels hold for k weights of a unit: so many numbers T, or pairs.
template <class W> constexpr index depth(index k) { return std::is_same_v<W, Pair> ? (k + 1) / 2 : k; }

RNNFAST_INLINE bits<float> load_words(const Pair *p) {
    bits<float> words;
    __builtin_memcpy(&words, p, sizeof words);
    return words;
}
template <bool upper> RNNFAST_INLINE vec<float> half(bits<float> words) {
    words = upper ? words & 0xffff0000u : words << 16;
    vec<float> v;
    __builtin_memcpy(&v, &words, sizeof v);
    return v;
}

// Vector n of N at place k of a panel.
template <class T> RNNFAST_INLINE vec<T> weight(const T *panel, index k, int N, int n) {
    return load(panel + (k * N + n) * lanes<T>);
}
template <class T> RNNFAST_INLINE vec<T> weight(const Pair *panel, index k, int N, int n) {
    const bits<float> words = load_words(panel + (k / 2 * N + n) * lanes<T>);
    return k % 2 ? half<true>(words) : half<false>(words);
}

// Round to nearest, ties to even; a NaN stays one.
inline std::uint32_t to_bfloat16(float x) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// `count` panels, each k deep, of `width` elements: [count][k][width] -> [count][k / 2][width].
inline void narrow(const float *from, Pair *to, index count, index k, index width) {
    for (index c = 0; c < count; ++c, from += k * width) {
        for (index i = 0; i < k; i += 2) {
            for (index j = 0; j < width; ++j, ++to) {
                const std::uint32_t odd = i + 1 < k ? to_bfloat16(from[(i + 1) * width + j]) : 0;
                to->word = odd << 16 | to_bfloat16(from[i * width + j]);
            }
        }
    }
}

// Where weights of one vector lie in panels k deep: `begin`, and `step` from neighbour to neighbour.
struct Place {
    index begin, step;
};
template <int N, class T> Place place(index block, int n, index of, index k) {
    const index first = block / bundle<N> * bundle<N>, left = of - first;
    const int width = panel_width<N>(left < bundle<N> ? left : bundle<N>);
    const index vector = (block - first) * N + n;
    return {(first * N * k + vector / width * width * k + vector % width) * lanes<T>, width * lanes<T>};
}

// Panels <- matrix [gates * units, k] (rows of `gate_begin` .. `gate_begin + N - 1`), or the other way.
// A null matrix packs as zero and unpacks to nowhere. Rejected: a square of vectors at a time, transposed in registers
// (faster alone, no difference in a training step, where both wait for memory).
template <int N, bool unpack, class Panel, class M>
void transfer(Panel *panels, M *matrix, index units, index k, int gate_begin) {
    using T = std::remove_const_t<M>;
    constexpr int V = lanes<T>;
    for (index p = 0; p < blocks<T>(units); ++p) {
        for (int g = 0; g < N; ++g) {
            const Place at = place<N, T>(p, g, blocks<T>(units), k);
            for (int v = 0; v < V; ++v) {
                const index unit = p * V + v;
                Panel *const lane = panels + at.begin + v;
                M *const row = matrix && unit < units ? matrix + ((gate_begin + g) * units + unit) * k : nullptr;
                if constexpr (unpack) {
                    for (index i = 0; row && i < k; ++i) row[i] = lane[i * at.step];
                } else {
                    for (index i = 0; i < k; ++i) lane[i * at.step] = row ? row[i] : 0;
                }
            }
        }
    }
}

// k runs over `outer` stretches of `inner` neighbours, `step` elements apart (gates of one unit lie together in a tape
// row, beside slots that this product leaves out). It may be cut between stretches, or, where there is but one, inside.
struct Span {
    index outer, inner, step;

    index units() const { return outer > 1 ? outer : inner; }
    index depth(index unit) const { return outer > 1 ? unit * inner : unit; } // the weights before it
    index offset(index unit) const { return outer > 1 ? unit * step : unit; } // and the left operand's elements
    Span part(index begin, index length) const {
        const index left = units() - begin, count = length < left ? length : left;
        return outer > 1 ? Span{count, inner, step} : Span{1, count, 0};
    }
    index depth() const { return depth(units()); }
    // The units of a piece of about `most` weights: even, so that no pair is cut.
    index piece(index most) const {
        const index pieces = (depth() + most - 1) / most;
        return pieces > 1 ? ((units() + pieces - 1) / pieces + 1) / 2 * 2 : units();
    }
};
RNNFAST_INLINE Span contiguous(index k) { return {1, k, 0}; }

// How the product dG * weight runs over its k, the units of `n` neighbouring slots of a row of `slots`: over all whole
// canonical blocks (`main`), then over each slot's units of the last one (`rest`, which begins `behind` elements after
// the row's first). Units that are not there have no place in k: nothing is multiplied, so nothing has to be zero.
// Rejected: whole blocks to the end and zeros there (a lane of zeros turns a chain's -0 into +0, and how many such
// lanes an instruction set writes is its own affair).
template <class T> struct SlotSpans {
    Span main, rest;
    index behind;

    SlotSpans(index units, int slots, int n) {
        constexpr int C = canonical<T>;
        const index whole = slots == 1 ? units : units / C * C; // the units of a single slot are neighbours to the end
        main = n == slots || whole <= C ? contiguous(whole * n) : Span{whole / C, n * C, slots * C};
        rest = units - whole == 0 ? contiguous(0) : Span{n, units - whole, C};
        behind = whole * slots;
    }
};

// [output block][k of main][lane], then [output block][k of rest][lane] <- matrix [gates * units, outputs]: the weights
// as the product dG * weight reads them. gate[i] is the gate of the i-th of n neighbouring slots.
template <class T>
void pack_transposed(T *panels, const T *matrix, index units, index outputs, const int *gate, int slots, int n) {
    constexpr int V = lanes<T>, C = canonical<T>;
    const SlotSpans<T> spans(units, slots, n);
    const index whole = spans.main.depth() / n;
    for (index first = 0; first < units; first += C) { // outside, so that each row is read from memory once
        const bool in_main = first < whole;
        const index deep = (in_main ? spans.main : spans.rest).depth(), left = units - first;
        const index count = left < C ? left : C;
        T *const begin = panels + (in_main ? first * n * V : blocks<T>(outputs) * whole * n * V);
        for (index o = 0; o < outputs; o += V) {
            const index width = outputs - o < V ? outputs - o : V;
            T *to = begin + o * deep;
            for (int g = 0; g < n; ++g) {
                for (index unit = first; unit < first + count; ++unit, to += V) {
                    store(to, load(matrix + (gate[g] * units + unit) * outputs + o, width));
                }
            }
        }
    }
}

} // namespace rnnfast::RNNFAST_ISA
