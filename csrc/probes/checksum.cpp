#include "probes/probes.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace rnnfast {

namespace {

// Numbers without a pattern (splitmix64).
struct Keys {
    static constexpr int stripes = 16, words = stripes + 7;
    std::uint64_t of[words]{};
    constexpr Keys() {
        std::uint64_t state = 0;
        for (std::uint64_t &key : of) {
            state += 0x9e3779b97f4a7c15u;
            key = (state ^ state >> 30) * 0xbf58476d1ce4e5b9u;
            key = (key ^ key >> 27) * 0x94d049bb133111ebu;
            key ^= key >> 31;
        }
    }
};
constexpr Keys keys;

// The sums of XXH3 (Collet, 2019): of each word, with a key of its place mixed in, the product of its two halves, and
// the word itself in its neighbour's sum; every 16 cache lines the sums are scrambled, so that their order counts. A
// change of one word within 16 lines always shows; any other goes unseen with a chance of about 2^-60, unless somebody
// contrives it. Rejected: sums of words and sums of these (Fletcher, 1982), in which words that are alike in their low
// bits, as floats are, may be exchanged unseen at distances of a power of two; keys that a counter makes, in which two
// exchanges may cancel; multiply-xor chains (docs/lab/cpu-tuning.md).
struct Hash {
    typedef std::uint64_t Words __attribute__((vector_size(16)));
    static constexpr int vectors = 4;
    static constexpr index ahead = 2048; // bytes
    Words sum[vectors] = {};
    int stripe = 0;

    void add(const char *p, index bytes) {
        constexpr auto block = index(sizeof sum);
        Hash hash = *this; // in registers, which no byte of the array can be
        for (; bytes >= block; p += block, bytes -= block) {
            __builtin_prefetch(p + ahead); // it has too much to do for each line to see far enough ahead itself
            hash.mix(p);
        }
        if (bytes != 0) {
            char rest[block] = {};
            std::memcpy(rest, p, static_cast<std::size_t>(bytes));
            hash.mix(rest);
        }
        *this = hash;
    }
    __attribute__((always_inline)) void mix(const char *p) {
#pragma GCC unroll 4
        for (int i = 0; i < vectors; ++i) {
            const Words word = load(p + i * index(sizeof word)), key = load(&keys.of[stripe + 2 * i]);
            sum[i] += product(word ^ key) + Words{word[1], word[0]};
        }
        if (++stripe == Keys::stripes) scramble();
    }
    void scramble() {
        stripe = 0;
        for (int i = 0; i < vectors; ++i) sum[i] = (sum[i] ^ sum[i] >> 47 ^ load(&keys.of[7 + 2 * i])) * 0x9e3779b1u;
    }
    __attribute__((always_inline)) static Words load(const void *p) {
        Words words;
        std::memcpy(&words, p, sizeof words);
        return words;
    }
    // The lower half of each word times its upper half.
    __attribute__((always_inline)) static Words product(Words word) {
#if defined(__SSE2__)
        const auto halves = (__m128i)word;
        return (Words)_mm_mul_epu32(halves, _mm_srli_epi64(halves, 32));
#elif defined(__aarch64__)
        const auto halves = (uint64x2_t)word;
        return (Words)vmull_u32(vmovn_u64(halves), vshrn_n_u64(halves, 32));
#else
        return (word & 0xffffffffu) * (word >> 32);
#endif
    }
    std::uint64_t value() const {
        std::uint64_t v = std::uint64_t(stripe);
        for (const Words &both : sum) {
            for (int lane = 0; lane < 2; ++lane) v = (v ^ both[lane] ^ both[lane] >> 29) * 0x9e3779b97f4a7c15u + 1;
        }
        return v ^ v >> 32;
    }
};

void walk(const View &array, index axis, const char *data, Hash &hash) {
    const index size = array.shape[axis], stride = array.strides[axis];
    if (axis == array.rank - 1 && stride == array.item) return hash.add(data, size * array.item);
    for (index i = 0; i < size; ++i, data += stride) {
        if (axis == array.rank - 1) {
            hash.add(data, array.item);
        } else {
            walk(array, axis + 1, data, hash);
        }
    }
}

} // namespace

std::uint64_t checksum(const View &array) {
    Hash hash;
    index bytes = array.item;
    for (index axis = 0; axis < array.rank; ++axis) bytes *= array.shape[axis];
    if (bytes == 0) return hash.value();
    if (array.contiguous || array.rank == 0) {
        hash.add(array.data, bytes);
    } else {
        walk(array, 0, array.data, hash);
    }
    return hash.value();
}

} // namespace rnnfast
