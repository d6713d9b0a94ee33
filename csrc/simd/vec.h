// A vector of T as wide as the instruction set that this file is compiled for.
//
// GCC/Clang vector extensions: they read like arithmetic and recompile per instruction set. The one thing they lack is
// a fused multiply-add that is fused *everywhere*; -ffp-contract=fast fuses as the optimiser likes, so two copies of
// one formula could round differently. Hence contraction is off and fma() below names the instruction, as do at_least()
// and at_most(), for which the compiler makes a comparison and a blend, and root(), the correctly rounded square root,
// which it would take lane by lane. Nothing else does. Rejected: Highway (no package index carries it, so an sdist
// cannot depend on it), std::experimental::simd (no NEON maturity, slow compiles), intrinsics throughout (one source
// per instruction set).
//
// Everything here lives in a namespace of its own per instruction set: a function compiled with -mavx512f must never be
// the copy that the linker keeps for an older machine. For the same reason no file that is compiled per instruction set
// calls a function template of the standard library.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "index.h"

#if defined(__FMA__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#if !defined(RNNFAST_ISA) || !defined(RNNFAST_VECTOR_BYTES) || !defined(RNNFAST_ACCUMULATORS)
#error "the build includes csrc/isa/<instruction set>.h before all else and says RNNFAST_ISA; see csrc/units"
#endif

// Builds for tests alone (instrumented, or 64-byte vectors on AVX2) are slow anyway; inlined as below they would also
// take minutes to compile.
#if defined(RNNFAST_SANITIZED) || (defined(RNNFAST_EMULATED_AVX512) && RNNFAST_VECTOR_BYTES == 64)
#define RNNFAST_INLINE inline
#define RNNFAST_LAMBDA
#define RNNFAST_UNROLL
#else
#define RNNFAST_INLINE inline __attribute__((always_inline))
#define RNNFAST_LAMBDA __attribute__((always_inline))
#define RNNFAST_UNROLL _Pragma("GCC unroll 24") // each loop under it has a constant count: its arrays become registers
#endif
#if defined(__clang__)
#define RNNFAST_SHARED __attribute__((noinline))
#else
#define RNNFAST_SHARED __attribute__((noinline, noclone))
#endif

namespace rnnfast::RNNFAST_ISA {

template <class T> struct vector_of {
    typedef T type __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
    using bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    typedef bits bits_type __attribute__((vector_size(RNNFAST_VECTOR_BYTES)));
};
template <class T> using vec = typename vector_of<T>::type;
template <class T> using bits = typename vector_of<T>::bits_type;
template <class T> constexpr int lanes = RNNFAST_VECTOR_BYTES / int(sizeof(T));

template <int N, class F> RNNFAST_INLINE void unroll(F &&f) {
    [&]<int... i>(std::integer_sequence<int, i...>)
        RNNFAST_LAMBDA { (f(std::integral_constant<int, i>{}), ...); }(std::make_integer_sequence<int, N>{});
}

template <class T> RNNFAST_INLINE vec<T> load(const T *p) {
    vec<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <class T> RNNFAST_INLINE void store(T *p, vec<T> v) { __builtin_memcpy(p, &v, sizeof v); }

// The first n lanes; the others are zero on load, untouched on store. Rejected: AVX's masked load, here and for the
// states that a step copies in (fewer instructions, the same times).
template <class T> RNNFAST_INLINE vec<T> load(const T *p, index n) {
    if (n >= lanes<T>) return load(p);
    vec<T> v = {};
    for (index i = 0; i < n; ++i) v[i] = p[i];
    return v;
}

template <class T> RNNFAST_INLINE void store(T *p, vec<T> v, index n) {
    if (n >= lanes<T>) return store(p, v);
    const vec<T> some = v; // a copy, or v lies in memory in any case
    for (index i = 0; i < n; ++i) p[i] = some[i];
}

// to[i] += v[i], in double.
RNNFAST_INLINE void add_wide(double *to, vec<double> v) { store(to, load(to) + v); }
RNNFAST_INLINE void add_wide(double *to, vec<float> v) {
    typedef float half_type __attribute__((vector_size(RNNFAST_VECTOR_BYTES / 2)));
    half_type halves[2];
    __builtin_memcpy(halves, &v, sizeof v);
    for (int i = 0; i < 2; ++i) add_wide(to + i * lanes<double>, __builtin_convertvector(halves[i], vec<double>));
}

template <class T> RNNFAST_INLINE vec<T> broadcast(T s) { return s - vec<T>{}; } // x - 0 is x for every x

// Whether any lane of a comparison holds.
template <class M> RNNFAST_INLINE bool any(M mask) {
    std::uint64_t words[sizeof mask / 8], found = 0;
    __builtin_memcpy(words, &mask, sizeof mask);
    for (const std::uint64_t word : words) found |= word;
    return found != 0;
}

// max(low, x) and min(high, x); a NaN in x stays one. The general form, for where no instruction is named below.
template <class V> RNNFAST_INLINE V at_least(V low, V x) { return x < low ? low : x; }
template <class V> RNNFAST_INLINE V at_most(V high, V x) { return x > high ? high : x; }

#if defined(__AVX512F__) && RNNFAST_VECTOR_BYTES == 64
RNNFAST_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) { return (vec<float>)_mm512_fmadd_ps(a, b, c); }
RNNFAST_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return (vec<double>)_mm512_fmadd_pd(a, b, c);
}
RNNFAST_INLINE vec<float> at_least(vec<float> low, vec<float> x) { return (vec<float>)_mm512_max_ps(low, x); }
RNNFAST_INLINE vec<double> at_least(vec<double> low, vec<double> x) { return (vec<double>)_mm512_max_pd(low, x); }
RNNFAST_INLINE vec<float> at_most(vec<float> high, vec<float> x) { return (vec<float>)_mm512_min_ps(high, x); }
RNNFAST_INLINE vec<double> at_most(vec<double> high, vec<double> x) { return (vec<double>)_mm512_min_pd(high, x); }
RNNFAST_INLINE vec<float> root(vec<float> x) { return (vec<float>)_mm512_sqrt_ps(x); }
RNNFAST_INLINE vec<double> root(vec<double> x) { return (vec<double>)_mm512_sqrt_pd(x); }
#elif defined(__FMA__) && RNNFAST_VECTOR_BYTES == 32
RNNFAST_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) { return (vec<float>)_mm256_fmadd_ps(a, b, c); }
RNNFAST_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return (vec<double>)_mm256_fmadd_pd(a, b, c);
}
RNNFAST_INLINE vec<float> at_least(vec<float> low, vec<float> x) { return (vec<float>)_mm256_max_ps(low, x); }
RNNFAST_INLINE vec<double> at_least(vec<double> low, vec<double> x) { return (vec<double>)_mm256_max_pd(low, x); }
RNNFAST_INLINE vec<float> at_most(vec<float> high, vec<float> x) { return (vec<float>)_mm256_min_ps(high, x); }
RNNFAST_INLINE vec<double> at_most(vec<double> high, vec<double> x) { return (vec<double>)_mm256_min_pd(high, x); }
RNNFAST_INLINE vec<float> root(vec<float> x) { return (vec<float>)_mm256_sqrt_ps(x); }
RNNFAST_INLINE vec<double> root(vec<double> x) { return (vec<double>)_mm256_sqrt_pd(x); }
#elif defined(__FMA__) && RNNFAST_VECTOR_BYTES == 64 // AVX-512's width and tiles on AVX2's instructions, for its tests
template <class V, class Half, class F> RNNFAST_INLINE V by_halves(V a, V b, V c, F f) {
    Half x[2], y[2], z[2];
    __builtin_memcpy(x, &a, sizeof a);
    __builtin_memcpy(y, &b, sizeof b);
    __builtin_memcpy(z, &c, sizeof c);
    z[0] = f(x[0], y[0], z[0]);
    z[1] = f(x[1], y[1], z[1]);
    __builtin_memcpy(&c, z, sizeof c);
    return c;
}
RNNFAST_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
    return by_halves<vec<float>, __m256>(
        a, b, c, [](__m256 x, __m256 y, __m256 z) RNNFAST_LAMBDA { return _mm256_fmadd_ps(x, y, z); });
}
RNNFAST_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return by_halves<vec<double>, __m256d>(
        a, b, c, [](__m256d x, __m256d y, __m256d z) RNNFAST_LAMBDA { return _mm256_fmadd_pd(x, y, z); });
}
RNNFAST_INLINE vec<float> root(vec<float> a) {
    return by_halves<vec<float>, __m256>(a, a, a,
                                         [](__m256 x, __m256, __m256) RNNFAST_LAMBDA { return _mm256_sqrt_ps(x); });
}
RNNFAST_INLINE vec<double> root(vec<double> a) {
    return by_halves<vec<double>, __m256d>(
        a, a, a, [](__m256d x, __m256d, __m256d) RNNFAST_LAMBDA { return _mm256_sqrt_pd(x); });
}
#elif defined(__aarch64__)
RNNFAST_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) { return (vec<float>)vfmaq_f32(c, a, b); }
RNNFAST_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) { return (vec<double>)vfmaq_f64(c, a, b); }
RNNFAST_INLINE vec<float> root(vec<float> x) { return (vec<float>)vsqrtq_f32(x); }
RNNFAST_INLINE vec<double> root(vec<double> x) { return (vec<double>)vsqrtq_f64(x); }
#else
template <class V> RNNFAST_INLINE V fma(V a, V b, V c) { return a * b + c; } // two roundings, the same two everywhere
#if defined(__SSE2__) && RNNFAST_VECTOR_BYTES == 16
RNNFAST_INLINE vec<float> root(vec<float> x) { return (vec<float>)_mm_sqrt_ps(x); }
RNNFAST_INLINE vec<double> root(vec<double> x) { return (vec<double>)_mm_sqrt_pd(x); }
#else
RNNFAST_INLINE vec<float> root(vec<float> x) {
    for (int i = 0; i < lanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
}
RNNFAST_INLINE vec<double> root(vec<double> x) {
    for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
    return x;
}
#endif
#endif

// sum += a * b, in the register where the sum is. Said in assembly: in an unrolled loop GCC lets sums wander from
// register to register, and some through memory, which can take half as long again.
template <class V> RNNFAST_INLINE void add_product(V &sum, V a, V b) {
#if defined(__FMA__) && (RNNFAST_VECTOR_BYTES == 32 || defined(__AVX512F__))
    if constexpr (sizeof(sum[0]) == sizeof(float)) {
        asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    } else {
        asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
#else
    sum = fma(a, b, sum);
#endif
}

} // namespace rnnfast::RNNFAST_ISA
