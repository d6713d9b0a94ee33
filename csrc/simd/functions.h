// The functions that described cells may use besides math.h's: exp, expm1, log, log1p, softplus, sqrt, abs, sign, sin,
// cos on vectors, and random numbers.
//
// The polynomials' coefficients come from tools/minimax.py (Remez). Largest errors found, in ULP, with a fused
// multiply-add and without, over all float32 and over 10^6 float64 for each:
//
//                exp    expm1   log    log1p   softplus   sin    cos
//     float      1.01   1.59    0.84   1.40    1.69       2.48   2.39
//     double     1.01   2.07    0.81   1.32    1.66       2.34   2.41
//
// sqrt is correctly rounded. sin and cos keep this accuracy for angles of any size, near multiples of pi/2 too; beyond
// angle_high an angle takes about 30 ns, and before it 1 (float, AVX2) or 2 (double).
//
// NaN in, NaN out. Numbers below the smallest normal one count as zeros, as arguments and as results: kernels run with
// such numbers flushed. With a fused multiply-add the bits are the same on every instruction set.
#pragma once

#include "simd/math.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> struct function_constants;

template <> struct function_constants<float> {
    // exp is finite and normal between the first two; at the third, expm1 is infinite.
    static constexpr float exp_low = -0x1.5d589ep6f, exp_high = 0x1.62e42ep6f, expm1_high = 88.9f;
    static constexpr float smallest = 0x1p-126f, root_half = 0x1.6a09e6p-1f;
    static constexpr float log[] = {0.6666677799f, 0.3997731353f, 0.2987854664f};        // relative error 8.2e-10
    static constexpr float sin[] = {-0.1666665454f, 0.008332156054f, -0.0001951463191f}; // relative error 3.8e-9
    static constexpr float cos[] = {0.04166664555f, -0.001388730987f, 2.443241301e-5f};  // relative error 1.2e-10
    // The products of the first three with up to 13 bits are exact, so they need no fused multiply-add.
    static constexpr float half_pi[] = {0x1.92p0f, 0x1.fb4p-12f, 0x1.444p-24f, 0x1.68c234p-39f};
    static constexpr float angle_high = 12800;
};

template <> struct function_constants<double> {
    static constexpr double exp_low = -0x1.6232bdd7abcd2p9, exp_high = 0x1.62e42fefa39efp9, expm1_high = 709.9;
    static constexpr double smallest = 0x1p-1022, root_half = 0x1.6a09e667f3bcdp-1;
    static constexpr double log[] = {0.66666666666666748143, 0.39999999999851335562, 0.28571428640828078097,
                                     0.22222209087195281763, 0.18183025800656465961, 0.15327422399345909518,
                                     0.14667421540006183049}; // relative error 4.8e-18
    static constexpr double sin[] = {-0.16666666666666630294,    0.0083333333333220054914,
                                     -0.00019841269829495487598, 2.7557313587618076633e-6,
                                     -2.5050742307819182319e-8,  1.5895904739964196968e-10}; // relative error 3.7e-18
    static constexpr double cos[] = {0.041666666666666658635,    -0.001388888888888517672,
                                     0.000024801587296636394934, -2.7557316436680265595e-7,
                                     2.087600386239339205e-9,    -1.137386359865226014e-11}; // relative error 3.6e-19
    // As above, with up to 20 bits.
    static constexpr double half_pi[] = {0x1.921fb544p0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69, 0x1.b839a252049c1p-104};
    static constexpr double angle_high = 1e6;
};

template <class T> using word = typename vector_of<T>::bits; // an unsigned integer as wide as T

template <class T> constexpr word<T> one_bits = word<T>(constants<T>::bias) << constants<T>::mantissa; // of T(1)

template <class T> RNNFAST_INLINE bits<T> sign_bit(vec<T> x) {
    return bit_cast<bits<T>>(x) & bit_cast<bits<T>>(broadcast(T(-0.0)));
}

// x with more sign bits set, or with some of them turned.
template <class T> RNNFAST_INLINE vec<T> set_sign(vec<T> x, bits<T> sign) {
    return bit_cast<vec<T>>(bit_cast<bits<T>>(x) | sign);
}
template <class T> RNNFAST_INLINE vec<T> turn_sign(vec<T> x, bits<T> sign) {
    return bit_cast<vec<T>>(bit_cast<bits<T>>(x) ^ sign);
}

template <class T, int n> RNNFAST_INLINE vec<T> polynomial(const T (&coefficients)[n], vec<T> x) {
    vec<T> sum = broadcast(coefficients[n - 1]);
    unroll<n - 1>([&](auto i) RNNFAST_LAMBDA { sum = fma(x, sum, broadcast(coefficients[n - 2 - i])); });
    return sum;
}

// Simple ones ---------------------------------------------------------------------------------------------------------

template <class T> RNNFAST_INLINE vec<T> sqrt(vec<T> x) { return root(x); }

template <class T> RNNFAST_INLINE vec<T> abs(vec<T> x) {
    return bit_cast<vec<T>>(bit_cast<bits<T>>(x) & ~bit_cast<bits<T>>(broadcast(T(-0.0))));
}

// 1, 0 or -1.
template <class T> RNNFAST_INLINE vec<T> sign(vec<T> x) {
    const vec<T> rest = x - x; // 0, or NaN
    return x > vec<T>{} ? broadcast(T(1)) : x < vec<T>{} ? broadcast(T(-1)) : rest;
}

// Exponentials --------------------------------------------------------------------------------------------------------

// (1 + expm1(r)) 2^k: 2^k goes in by its bits, because as a number it would be infinite for the largest results.
template <class T> RNNFAST_INLINE vec<T> exp(vec<T> x) {
    using F = function_constants<T>;
    const auto e = reduce<1, T>(x);
    const bits<T> power = bit_cast<bits<T>>(e.scale) - one_bits<T>;
    const vec<T> y = bit_cast<vec<T>>(bit_cast<bits<T>>(e.expm1 + broadcast(T(1))) + power);
    const vec<T> or_zero = x < broadcast(F::exp_low) ? vec<T>{} : y;
    return x <= broadcast(F::exp_high) ? or_zero : x + broadcast(T(__builtin_inf())); // infinite, or NaN
}

// Half of it first, which is finite, but for small x, whose half may be less than the smallest number.
template <class T> RNNFAST_INLINE vec<T> expm1(vec<T> x) {
    using C = constants<T>;
    const auto e = reduce<1, T>(clamp<T>(x, C::exp_low, function_constants<T>::expm1_high));
    const vec<T> scale = bit_cast<vec<T>>(bit_cast<bits<T>>(e.scale) - (word<T>(1) << C::mantissa));
    const vec<T> half = fma(scale, e.expm1, scale - broadcast(T(0.5)));
    const vec<T> y = abs<T>(x) < broadcast(T(0.25)) ? e.expm1 : half + half;
    return set_sign<T>(y, sign_bit<T>(x)); // which -0 would lose
}

// Logarithms ----------------------------------------------------------------------------------------------------------

// x = 2^k m, with m from sqrt(1/2) to sqrt(2), for normal x > 0. `biased` is k + bias.
template <class T> struct Split {
    vec<T> k, m;
    bits<T> biased;
};

template <class T> RNNFAST_INLINE Split<T> split(vec<T> x) {
    using C = constants<T>;
    constexpr T integers = T(word<T>(1) << C::mantissa); // whose last mantissa bit counts ones
    const bits<T> root = bit_cast<bits<T>>(broadcast(function_constants<T>::root_half));
    const bits<T> shifted = bit_cast<bits<T>>(x) - root + one_bits<T>;
    const bits<T> biased = shifted >> C::mantissa;
    const bits<T> m = (shifted & ((word<T>(1) << C::mantissa) - 1)) + root;
    const bits<T> k = biased | bit_cast<bits<T>>(broadcast(integers));
    return {bit_cast<vec<T>>(k) - broadcast(integers + T(C::bias)), bit_cast<vec<T>>(m), biased};
}

// k ln 2 + log(1 + f): with s = f / (2 + f), log(1 + f) = f - f^2/2 + s (f^2/2 + s^2 L(s^2)), whose first term is exact
// and whose others are small. Rejected: a polynomial in f, without the division (twice as many terms in float64).
template <class T> RNNFAST_INLINE vec<T> log_of(vec<T> k, vec<T> f) {
    using C = constants<T>;
    const vec<T> s = f / (f + broadcast(T(2))), square = s * s, half_square = f * (f * broadcast(T(0.5)));
    const vec<T> rest = half_square + square * polynomial(function_constants<T>::log, square);
    return fma(k, broadcast(C::ln2_high), f - (half_square - fma(s, rest, k * broadcast(C::ln2_low))));
}

// A logarithm's value at x, put right where x is not a positive finite number.
template <class T> RNNFAST_INLINE vec<T> in_domain(vec<T> x, vec<T> value) {
    const vec<T> or_large = x < broadcast(T(__builtin_inf())) ? value : x;
    const vec<T> outside = x < vec<T>{} ? broadcast(T(__builtin_nan(""))) : broadcast(-T(__builtin_inf()));
    return x < broadcast(function_constants<T>::smallest) ? outside : or_large;
}

template <class T> RNNFAST_INLINE vec<T> log(vec<T> x) {
    const auto [k, m, biased] = split<T>(x);
    return in_domain<T>(x, log_of<T>(k, m - broadcast(T(1))));
}

// log(sum) of the rounded sum 1 + x and of what its rounding lost: log(2^k (m + lost / 2^k)).
template <class T> RNNFAST_INLINE vec<T> log1p_of(vec<T> x, vec<T> sum) {
    using C = constants<T>;
    const vec<T> added = sum - broadcast(T(1));
    const vec<T> lost = (x - added) + (broadcast(T(1)) - (sum - added));
    const auto [k, m, biased] = split<T>(sum);
    const vec<T> power = bit_cast<vec<T>>((word<T>(2 * C::bias) - biased) << C::mantissa); // 2^-k
    const vec<T> f = m - broadcast(T(1)), exact = fma(lost, power, f);
    // A large x loses nothing that counts, and 2^-k may be no number there.
    return log_of<T>(k, x < broadcast(T(word<T>(4) << C::mantissa)) ? exact : f);
}

template <class T> RNNFAST_INLINE vec<T> log1p(vec<T> x) {
    const vec<T> sum = x + broadcast(T(1));
    return set_sign<T>(in_domain<T>(sum, log1p_of<T>(x, sum)), sign_bit<T>(x)); // which -0 would lose
}

// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)).
template <class T> RNNFAST_INLINE vec<T> softplus(vec<T> x) {
    const vec<T> e = exp<T>(-abs<T>(x));
    return at_least(vec<T>{}, x) + log1p_of<T>(e, e + broadcast(T(1)));
}

// Angles --------------------------------------------------------------------------------------------------------------

// x = quarter pi/2 + r, for some integer of which only the last two bits count.
template <class T> struct Angle {
    vec<T> r;
    bits<T> quarter;
};

// The binary digits of 2/pi behind the point, after 64 zeros.
constexpr std::uint32_t two_over_pi[] = {
    0x00000000, 0x00000000, 0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041,
    0xfe5163ab, 0xdebbc561, 0xb7246e3a, 0x424dd2e0, 0x06492eea, 0x09d1921c, 0xfe1deb1c, 0xb129a73e,
    0xe88235f5, 0x2ebb4484, 0xe99c7026, 0xb45f7e41, 0x3991d639, 0x835339f4, 0x9c845f8b, 0xbdf9283b,
    0x1ff897ff, 0xde05980f, 0xef2f118b, 0x5a0a6d1f, 0x6d367ecf, 0x27cb09b7, 0x4f463f66, 0x9e5fea2d,
    0x7527bac7, 0xebe5f17b, 0x3d0739f7, 0x8a5292ea, 0x6bfb5fb1, 0x1f8d5d08, 0x56033046, 0xfc7b6bab};

// One angle from 2^10 to any finite number: x 2/pi in integers, of which multiples of 4 are left out (Payne, Hanek).
// Gives r; adds to the quarters.
inline double reduce_large(double x, std::uint64_t &quarter) {
    const std::uint64_t whole = bit_cast<std::uint64_t>(x);
    const std::uint64_t m = (whole & ((std::uint64_t(1) << 52) - 1)) | std::uint64_t(1) << 52;
    const unsigned first = unsigned(whole >> 52) - (1023 + 52) + 62; // the digit that m multiplies to 2s: x = m 2^e
    std::uint32_t product[6];                                        // m times the digits from there on, modulo 2^192
    std::uint64_t low = 0, high = 0;
    for (int i = 5; i >= 0; --i) {
        const std::uint32_t *const at = two_over_pi + first / 32 + i;
        const auto digits = [&](int word) {
            return std::uint32_t(((std::uint64_t(at[word]) << 32 | at[word + 1]) << first % 32) >> 32);
        };
        low = (low >> 32) + (m & 0xffffffff) * digits(0);
        high = (high >> 32) + std::uint32_t(low) + (i < 5 ? (m >> 32) * digits(1) : 0);
        product[i] = std::uint32_t(high);
    }
    const std::uint64_t top = std::uint64_t(product[0]) << 32 | product[1];
    const std::uint64_t next = std::uint64_t(product[2]) << 32 | product[3];
    const std::int64_t fraction = std::int64_t(top << 2 | next >> 62); // of a quarter, signed: the nearest one is meant
    quarter = (top >> 62) + (fraction < 0);
    const double turns = double(fraction) * 0x1p-64 + double(next << 2) * 0x1p-128;
    return turns * 1.57079632679489661923;
}

template <class T> RNNFAST_SHARED void reduce_large(const vec<T> &x, Angle<T> &angle) {
    for (int i = 0; i < lanes<T>; ++i) {
        if (!(x[i] > function_constants<T>::angle_high && x[i] < T(__builtin_inf()))) continue;
        std::uint64_t quarter;
        angle.r[i] = T(reduce_large(double(x[i]), quarter));
        angle.quarter[i] = word<T>(quarter);
    }
}

// For x >= 0. While the quarters are few, the first two differences are exact (nearly, in float64).
template <class T> RNNFAST_INLINE Angle<T> reduce_angle(vec<T> x) {
    using F = function_constants<T>;
    const vec<T> shifted = fma(x, broadcast(T(0.63661977236758134308)), broadcast(constants<T>::round));
    const vec<T> k = shifted - broadcast(constants<T>::round);
    vec<T> r = x;
    unroll<4>([&](auto i) RNNFAST_LAMBDA { r = fma(k, broadcast(-F::half_pi[i]), r); });
    Angle<T> angle{r, bit_cast<bits<T>>(shifted)};
    if (any(x > broadcast(F::angle_high))) {
        Angle<T> copy = angle; // whose address others may know
        reduce_large<T>(x, copy);
        angle = copy;
    }
    return angle;
}

// sin(x + quarters pi/2) for x >= 0, with its sign turned.
template <class T> RNNFAST_INLINE vec<T> sine(vec<T> x, word<T> quarters, bits<T> sign) {
    using F = function_constants<T>;
    const Angle<T> angle = reduce_angle<T>(x);
    const bits<T> quarter = angle.quarter + quarters;
    const vec<T> r = angle.r, square = r * r;
    const vec<T> sin = fma(square * r, polynomial(F::sin, square), r);
    const vec<T> cos =
        fma(square * square, polynomial(F::cos, square), fma(square, broadcast(T(-0.5)), broadcast(T(1))));
    const vec<T> y = (quarter & 1) == bits<T>{} ? sin : cos;
    return turn_sign<T>(y, sign ^ (quarter & 2) << (8 * sizeof(T) - 2));
}

template <class T> RNNFAST_INLINE vec<T> sin(vec<T> x) { return sine<T>(abs<T>(x), 0, sign_bit<T>(x)); }
template <class T> RNNFAST_INLINE vec<T> cos(vec<T> x) { return sine<T>(abs<T>(x), 1, bits<T>{}); }

// Random numbers ------------------------------------------------------------------------------------------------------

// A function of what a number is for, not a state that is drawn from: so masks depend neither on the number of threads
// nor on the order of the work, and backward can draw them again. rnnfast/reference/random.py has the same numbers.

// One number of 64 bits from a seed and some more numbers, whose order counts: a step of splitmix64 for each.
RNNFAST_INLINE std::uint64_t scramble(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}
template <class... Words> RNNFAST_INLINE std::uint64_t mix(std::uint64_t seed, Words... words) {
    std::uint64_t key = scramble(seed);
    ((key = scramble(key ^ std::uint64_t(words))), ...);
    return key;
}

// Integers of 32 bits, one for each lane of T.
template <class T> struct integers_of {
    typedef std::uint32_t type __attribute__((vector_size(4 * lanes<T>)));
    typedef std::int32_t signed_type __attribute__((vector_size(4 * lanes<T>)));
};

// In lane l a multiple of 2^-24 in [0, 1), which depends on `key` and unit0 + l (modulo 2^32) alone: equally spread,
// and the same for float and double. The unit goes through a bijection after each half of the key. Rejected: 64-bit
// arithmetic (SSE2 and AVX2 have no such product), the key in one half (rows would share sequences of numbers).
template <class T> RNNFAST_INLINE vec<T> uniform(std::uint64_t key, index unit0) {
    typename integers_of<T>::type x;
    unroll<lanes<T>>([&](auto l) RNNFAST_LAMBDA { x[int(l)] = std::uint32_t(l); });
    x += std::uint32_t(unit0) + std::uint32_t(key);
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    x = (x ^ x >> 16) ^ std::uint32_t(key >> 32);
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    x = (x ^ x >> 16) >> 8;
    // Through signed integers, which every instruction set converts.
    const auto numbers = bit_cast<typename integers_of<T>::signed_type>(x);
    return __builtin_convertvector(numbers, vec<T>) * broadcast(T(0x1p-24));
}

} // namespace rnnfast::RNNFAST_ISA
