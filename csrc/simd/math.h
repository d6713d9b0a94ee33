// exp, sigmoid and tanh on vectors, from one polynomial: expm1(r) = r + r^2 Q(r) on |r| <= ln(2)/2.
//
// The coefficients come from tools/minimax.py (Remez). Largest errors, measured by tests/test_activations.py against
// float64/longdouble: see docs/dev/cpu-kernels.md. Results below the smallest normal number are flushed to zero; NaN
// in, NaN out. tanh goes through expm1(2x) / (expm1(2x) + 2), accurate near zero with no second branch. Rejected: a
// rational minimax of tanh (one for each dtype and range, and a select between them), 1 - 2/(exp(2x)+1) (cancels near
// zero), expm1(2|x|) and the sign put back (exactly odd, and 15 % slower), a term less in float32 (steps 1 % faster,
// expm1 wrong by 1.2e-7).
#pragma once

#include "simd/vec.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> struct constants;

template <> struct constants<float> {
    static constexpr float q[] = {0.5000000053f,   0.166666669f,    0.04166632573f,
                                  0.008333219582f, 0.001394330923f, 0.0001996239518f}; // relative error 2.7e-10
    static constexpr float ln2 = 0x1.62e43p-1f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static constexpr float round = 0x1.8p23f;
    static constexpr float exp_low = -87.33f, exp_high = 88.37f, tanh_high = 10.0f;
    static constexpr unsigned mantissa = 23, bias = 127;
};

template <> struct constants<double> {
    static constexpr double q[] = {0.50000000000000008697,     0.16666666666666671013,   0.041666666666652185601,
                                   0.0083333333333261017838,   0.0013888888895633480703, 0.00019841269874946423445,
                                   0.000024801574491991838871, 2.7557255231903010789e-6, 2.7567946340659044202e-7,
                                   2.5105289863980521727e-8,   1.7687747885258438743e-9}; // relative error 2.7e-18
    static constexpr double ln2 = 0x1.62e42fefa39efp-1, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b39p-40;
    static constexpr double round = 0x1.8p52;
    static constexpr double exp_low = -708.3, exp_high = 709.4, tanh_high = 20.0;
    static constexpr unsigned mantissa = 52, bias = 1023;
};

template <class To, class From> RNNFAST_INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

// c x = k ln 2 + r, for c = -1 or 2, whose powers cost no rounding: they go into the constants. Gives 2^k and expm1(r);
// c x must lie in exp_low .. exp_high (or be NaN). The polynomial runs over pairs: its chain is what an activation
// waits for.
template <class T> struct Reduced {
    vec<T> scale, expm1;
};

template <int c, class T> RNNFAST_INLINE Reduced<T> reduce(vec<T> x) {
    using C = constants<T>;
    constexpr T log2e = T(1.44269504088896340736);
    constexpr int terms = int(sizeof(C::q) / sizeof(T)), pairs = (terms + 1) / 2;
    constexpr auto q = [](int i) {
        T power = c * c;
        for (int n = 0; n < i; ++n) power *= c;
        return i < terms ? power * C::q[i] : 0;
    };
    const vec<T> shifted = fma(x, broadcast(c * log2e), broadcast(C::round));
    const vec<T> k = shifted - broadcast(C::round);
    // r = c s. tanh's few k take ln 2 in one piece: where k is large, exp(2x) no longer matters.
    const vec<T> s = c == 2 ? fma(k, broadcast(-C::ln2 / c), x)
                            : fma(k, broadcast(-C::ln2_low / c), fma(k, broadcast(-C::ln2_high / c), x));
    const vec<T> square = s * s;
    vec<T> sum;
    unroll<pairs>([&](auto n) RNNFAST_LAMBDA {
        constexpr int i = 2 * (pairs - 1 - n);
        const vec<T> pair = i + 1 < terms ? fma(s, broadcast(q(i + 1)), broadcast(q(i))) : broadcast(q(i));
        sum = n ? fma(square, sum, pair) : pair;
    });
    const bits<T> exponent = (bit_cast<bits<T>>(shifted) + C::bias) << C::mantissa;
    return {bit_cast<vec<T>>(exponent), fma(square, sum, s * broadcast(T(c)))};
}

template <class T> RNNFAST_INLINE vec<T> clamp(vec<T> x, T low, T high) {
    return at_least(broadcast(low), at_most(broadcast(high), x));
}

template <class T> RNNFAST_INLINE vec<T> sigmoid(vec<T> x) {
    using C = constants<T>;
    const auto e = reduce<-1, T>(clamp<T>(x, -C::exp_high, -C::exp_low));
    return broadcast(T(1)) / fma(e.scale, e.expm1, e.scale + broadcast(T(1)));
}

template <class T> RNNFAST_INLINE vec<T> tanh(vec<T> x) {
    using C = constants<T>;
    const auto e = reduce<2, T>(clamp<T>(x, -C::tanh_high, C::tanh_high));
    const vec<T> expm1 = fma(e.scale, e.expm1, e.scale - broadcast(T(1)));
    const bits<T> sign = bit_cast<bits<T>>(x) & bit_cast<bits<T>>(broadcast(T(-0.0))); // which -0 would lose
    return bit_cast<vec<T>>(bit_cast<bits<T>>(expm1 / (expm1 + broadcast(T(2)))) | sign);
}

template <class T> RNNFAST_INLINE vec<T> relu(vec<T> x) { return x < vec<T>{} ? vec<T>{} : x; }

} // namespace rnnfast::RNNFAST_ISA
