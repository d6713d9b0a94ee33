// Sums over a row are in double and in an order that depends on its length alone: eight sums side by side, then a tree.
// exp and its like are the kernels' own; they take a few numbers at a time, so that what lies between stays in L1.
//
// Rejected: erf of the C library for float32 (20 ns each): erfc by a Chebyshev fit, of which 1.2e-7 is the relative
// error (Press et al., "Numerical Recipes", 6.2), times the kernels' exp.
#include "heads/activations.h"

#include <cmath>

#include "parallel/denormals.h"
#include "program/program.h"

namespace rnnfast {

namespace {

constexpr index piece = 256; // numbers at a time

class Flush { // denormals are zeros; the caller's mode is put back
    const std::uint64_t saved_ = arithmetic_mode();

  public:
    Flush() { set_arithmetic_mode(saved_ | flushing); }
    ~Flush() { set_arithmetic_mode(saved_); }
    Flush(const Flush &) = delete;
    Flush &operator=(const Flush &) = delete;
};

constexpr int lanes = 8;

// Of numbers; a NaN is passed over, and comes out of the sum instead.
template <class T> T largest(const T *z, index n) {
    T lane[lanes];
    for (int k = 0; k < lanes; ++k) lane[k] = z[0];
    index i = 0;
    for (; i + lanes <= n; i += lanes) {
        for (int k = 0; k < lanes; ++k) lane[k] = z[i + k] > lane[k] ? z[i + k] : lane[k];
    }
    for (; i < n; ++i) lane[0] = z[i] > lane[0] ? z[i] : lane[0];
    for (int k = 1; k < lanes; ++k) lane[0] = lane[k] > lane[0] ? lane[k] : lane[0];
    return lane[0];
}

template <class Term> double sum(index n, Term term) {
    double lane[lanes] = {};
    index i = 0;
    for (; i + lanes <= n; i += lanes) {
        for (int k = 0; k < lanes; ++k) lane[k] += term(i + k);
    }
    for (int k = 0; i < n; ++i, ++k) lane[k] += term(i);
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

// Calls work(begin, n) for pieces of n numbers.
template <class Work> void by_pieces(index count, Work work) {
    for (index i = 0; i < count; i += piece) work(i, count - i < piece ? count - i : piece);
}

// The cumulative normal distribution: 0.5 erfc(-z / sqrt(2)).
void normal_cdf(Pointwise<double>, const double *z, double *out, index n) {
    for (index i = 0; i < n; ++i) out[i] = 0.5 * std::erfc(-z[i] * 0.70710678118654752440);
}
void normal_cdf(Pointwise<float> pointwise, const float *z, float *out, index n) {
    float t[piece];
    for (index i = 0; i < n; ++i) {
        const float a = std::fabs(z[i]) * 0.70710678f;
        t[i] = 1.0f / (1.0f + 0.5f * a);
        const float p =
            -1.26551223f +
            t[i] * (1.00002368f +
                    t[i] * (0.37409196f +
                            t[i] * (0.09678418f +
                                    t[i] * (-0.18628806f +
                                            t[i] * (0.27886807f +
                                                    t[i] * (-1.13520398f +
                                                            t[i] * (1.48851587f +
                                                                    t[i] * (-0.82215223f + t[i] * 0.17087277f))))))));
        out[i] = p - a * a;
    }
    pointwise(Op::exp, out, out, n);
    for (index i = 0; i < n; ++i) {
        const float half = 0.5f * t[i] * out[i];
        out[i] = z[i] >= 0 ? 1.0f - half : half; // NaN stays
    }
}

template <class T> void softmax(Pointwise<T> pointwise, T *z, index rows, index columns) {
    for (index r = 0; r < rows; ++r, z += columns) {
        const T most = largest(z, columns);
        for (index i = 0; i < columns; ++i) z[i] -= most;
        pointwise(Op::exp, z, z, columns);
        const T share = static_cast<T>(1 / sum(columns, [z](index i) { return static_cast<double>(z[i]); }));
        for (index i = 0; i < columns; ++i) z[i] *= share;
    }
}

template <class T> void softmax_backward(const T *y, T *dy, index rows, index columns) {
    for (index r = 0; r < rows; ++r, y += columns, dy += columns) {
        const auto term = [y, dy](index i) { return static_cast<double>(y[i]) * static_cast<double>(dy[i]); };
        const T mean = static_cast<T>(sum(columns, term));
        for (index i = 0; i < columns; ++i) dy[i] = y[i] * (dy[i] - mean);
    }
}

} // namespace

template <class T> void activate(Activation a, Pointwise<T> pointwise, T *z, index rows, index columns) {
    const Flush flush;
    const index count = rows * columns;
    T part[piece];
    switch (a) {
    case Activation::sigmoid: return pointwise(Op::sigmoid, z, z, count);
    case Activation::tanh: return pointwise(Op::tanh, z, z, count);
    case Activation::relu: return pointwise(Op::relu, z, z, count);
    case Activation::softplus: return pointwise(Op::softplus, z, z, count);
    case Activation::softmax: return softmax(pointwise, z, rows, columns);
    case Activation::gelu:
        return by_pieces(count, [&](index begin, index n) {
            normal_cdf(pointwise, z + begin, part, n);
            for (index i = 0; i < n; ++i) z[begin + i] *= part[i];
        });
    case Activation::silu:
        return by_pieces(count, [&](index begin, index n) {
            pointwise(Op::sigmoid, z + begin, part, n);
            for (index i = 0; i < n; ++i) z[begin + i] *= part[i];
        });
    case Activation::elu:
        return by_pieces(count, [&](index begin, index n) {
            for (index i = 0; i < n; ++i) part[i] = z[begin + i] < 0 ? z[begin + i] : T(0);
            pointwise(Op::expm1, part, part, n);
            for (index i = 0; i < n; ++i) z[begin + i] = z[begin + i] < 0 ? part[i] : z[begin + i];
        });
    case Activation::identity:
    case Activation::activations: return;
    }
}

template <class T>
void differentiate(Activation a, Pointwise<T> pointwise, const T *kept, T *dy, index rows, index columns) {
    const Flush flush;
    const index count = rows * columns;
    T part[piece];
    const auto each = [&](auto factor) {
        for (index i = 0; i < count; ++i) dy[i] *= factor(kept[i]);
    };
    switch (a) {
    case Activation::sigmoid: return each([](T y) { return y * (1 - y); });
    case Activation::tanh: return each([](T y) { return 1 - y * y; });
    case Activation::elu: return each([](T y) { return y < 0 ? y + 1 : T(1); });
    case Activation::relu:
        for (index i = 0; i < count; ++i) dy[i] = kept[i] > 0 ? dy[i] : T(0);
        return;
    case Activation::softmax: return softmax_backward(kept, dy, rows, columns);
    case Activation::softplus: // y = log(1 + e^z), so sigmoid(z) = 1 - e^-y
        return by_pieces(count, [&](index begin, index n) {
            for (index i = 0; i < n; ++i) part[i] = -kept[begin + i];
            pointwise(Op::expm1, part, part, n);
            for (index i = 0; i < n; ++i) dy[begin + i] *= -part[i];
        });
    case Activation::silu:
        return by_pieces(count, [&](index begin, index n) {
            pointwise(Op::sigmoid, kept + begin, part, n);
            for (index i = 0; i < n; ++i) dy[begin + i] *= part[i] * (1 + kept[begin + i] * (1 - part[i]));
        });
    case Activation::gelu:
        return by_pieces(count, [&](index begin, index n) {
            T density[piece];
            const T *const z = kept + begin;
            for (index i = 0; i < n; ++i) density[i] = T(-0.5) * z[i] * z[i];
            pointwise(Op::exp, density, density, n);
            normal_cdf(pointwise, z, part, n);
            for (index i = 0; i < n; ++i) dy[begin + i] *= part[i] + z[i] * density[i] * T(0.39894228040143267794);
        });
    case Activation::identity:
    case Activation::activations: return;
    }
}

template void activate<float>(Activation, Pointwise<float>, float *, index, index);
template void activate<double>(Activation, Pointwise<double>, double *, index, index);
template void differentiate<float>(Activation, Pointwise<float>, const float *, float *, index, index);
template void differentiate<double>(Activation, Pointwise<double>, const double *, double *, index, index);

} // namespace rnnfast
