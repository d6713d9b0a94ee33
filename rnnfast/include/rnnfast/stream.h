/* Models of rnnfast in a program without Python: LSTM, GRU and Elman layers and Dense, sample by sample, in float32.
 *
 * `rnnfast.interop.plugin.save(path, model)` writes a file; its bytes, wherever the program has them from, are what
 * `rnnfast_model_read` takes. This header is all there is: C99 or C++11, the standard library's math, no allocation, no
 * locks, no input or output. A program compiles with -I and what `rnnfast.get_include()` says.
 *
 *     struct rnnfast_model model;
 *     if (rnnfast_model_read(&model, bytes, size) != RNNFAST_OK) ...
 *     float *memory = malloc(rnnfast_stream_size(&model) * sizeof(float));
 *     rnnfast_stream_reset(&model, memory);                             // any thread may have a stream of its own
 *     rnnfast_stream_process(&model, memory, in, out, frames);          // on the audio thread: in and out interleaved
 *
 * In C++ there is also `rnnfast::Stream`, at the end, which holds both, and allocates when it is made.
 *
 * Numbers. Sums run in the order of the kernels, one fused multiply-add after the other, and sigmoid and tanh are the
 * same polynomials. So the bits are those of the layers in Python on AVX2, AVX-512 and NEON, as long as no number is
 * denormal, which the kernels take for zero. It is fast with a compiler that is told of fused multiply-adds, such as
 * -O3 -march=native or -O3 -mavx2 -mfma. Without, fmaf is a call of the library: the same bits, 20 times slower. If the
 * model has gains or a skip, the same bits need -ffp-contract=off too. -ffast-math is refused.
 */
#ifndef RNNFAST_STREAM_H
#define RNNFAST_STREAM_H

#ifdef __FAST_MATH__
#error "rnnfast/stream.h: -ffast-math takes its functions apart; compile what includes it without"
#endif

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Vectors for the sums, where the compiler is told that it may use them; fmaf, one by one, where it is not. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define RNNFAST_LANES 16
typedef __m512 rnnfast_vector;
#define rnnfast_load _mm512_loadu_ps
#define rnnfast_store _mm512_storeu_ps
#define rnnfast_broadcast _mm512_set1_ps
#define rnnfast_fma _mm512_fmadd_ps
#elif defined(__FMA__) || (defined(_MSC_VER) && defined(__AVX2__))
#include <immintrin.h>
#define RNNFAST_LANES 8
typedef __m256 rnnfast_vector;
#define rnnfast_load _mm256_loadu_ps
#define rnnfast_store _mm256_storeu_ps
#define rnnfast_broadcast _mm256_set1_ps
#define rnnfast_fma _mm256_fmadd_ps
#elif defined(__aarch64__)
#include <arm_neon.h>
#define RNNFAST_LANES 4
typedef float32x4_t rnnfast_vector;
#define rnnfast_load vld1q_f32
#define rnnfast_store vst1q_f32
#define rnnfast_broadcast vdupq_n_f32
#define rnnfast_fma(a, b, c) vfmaq_f32(c, a, b)
#endif

#if defined(__GNUC__) || defined(_MSC_VER)
#define RNNFAST_RESTRICT __restrict
#else
#define RNNFAST_RESTRICT
#endif

#ifdef __cplusplus
#define RNNFAST_NOEXCEPT noexcept
extern "C" {
#else
#define RNNFAST_NOEXCEPT
#endif

#define RNNFAST_MOST_PARTS 64 /* that a model may have: layers and heads */

enum rnnfast_status {
    RNNFAST_OK,
    RNNFAST_TRUNCATED, /* or longer than it says */
    RNNFAST_NO_MODEL,  /* another kind of file, or of another version of this format */
    RNNFAST_DAMAGED,   /* sizes that do not fit each other, or weights that are not finite */
    RNNFAST_UNALIGNED  /* the bytes do not begin at a multiple of 4, or this machine is big-endian */
};

enum rnnfast_kind {
    RNNFAST_DENSE,
    RNNFAST_ELMAN,
    RNNFAST_LSTM,
    RNNFAST_GRU_AFTER, /* the reset gate after the product, as in PyTorch */
    RNNFAST_GRU_BEFORE
};

enum rnnfast_activation { RNNFAST_IDENTITY, RNNFAST_TANH, RNNFAST_RELU, RNNFAST_SIGMOID };

struct rnnfast_part {
    uint32_t kind, inputs, units, activation;
    const float *weights; /* by kind: biases [sums], W [inputs][sums], U [units][sums of the state], first states */
};

struct rnnfast_model {
    uint32_t inputs, outputs, skip, parts;
    float input_gain, output_gain, sample_rate; /* the latter 0 if it is not known */
    uint32_t widest;                            /* row that goes from part to part */
    uint32_t sums;                              /* most sums of a part */
    uint32_t states;                            /* numbers that a stream carries */
    struct rnnfast_part part[RNNFAST_MOST_PARTS];
};

/* Functions: see csrc/simd/math.h and docs/dev/cpu-kernels.md. ------------------------------------------------------
 */

static inline float rnnfast_from_bits(uint32_t bits) RNNFAST_NOEXCEPT {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t rnnfast_to_bits(float x) RNNFAST_NOEXCEPT {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float rnnfast_sigmoid(float x) RNNFAST_NOEXCEPT {
    const float limited = x > 87.33f ? 87.33f : x;
    const float y = limited < -88.37f ? -88.37f : limited;
    const float shifted = fmaf(y, -1.44269504088896340736f, 12582912.0f), k = shifted - 12582912.0f; /* 1.5 * 2^23 */
    const float s = fmaf(k, 1.42860677e-6f, fmaf(k, 0.693145752f, y)), square = s * s;
    float sum = fmaf(s, -0.0001996239518f, 0.001394330923f);
    sum = fmaf(square, sum, fmaf(s, -0.008333219582f, 0.04166632573f));
    sum = fmaf(square, sum, fmaf(s, -0.166666669f, 0.5000000053f));
    const float scale = rnnfast_from_bits((rnnfast_to_bits(shifted) + 127u) << 23);
    return 1.0f / fmaf(scale, fmaf(square, sum, s * -1.0f), scale + 1.0f);
}

static inline float rnnfast_tanh(float x) RNNFAST_NOEXCEPT {
    const float limited = x > 10.0f ? 10.0f : x;
    const float y = limited < -10.0f ? -10.0f : limited;
    const float shifted = fmaf(y, 2.0f * 1.44269504088896340736f, 12582912.0f), k = shifted - 12582912.0f;
    const float s = fmaf(k, -0.693147182f / 2.0f, y), square = s * s;
    float sum = fmaf(s, 128.0f * 0.0001996239518f, 64.0f * 0.001394330923f);
    sum = fmaf(square, sum, fmaf(s, 32.0f * 0.008333219582f, 16.0f * 0.04166632573f));
    sum = fmaf(square, sum, fmaf(s, 8.0f * 0.166666669f, 4.0f * 0.5000000053f));
    const float scale = rnnfast_from_bits((rnnfast_to_bits(shifted) + 127u) << 23);
    const float expm1 = fmaf(scale, fmaf(square, sum, s * 2.0f), scale - 1.0f);
    return rnnfast_from_bits(rnnfast_to_bits(expm1 / (expm1 + 2.0f)) | (rnnfast_to_bits(x) & 0x80000000u));
}

static inline int rnnfast_finite(float x) RNNFAST_NOEXCEPT { return (rnnfast_to_bits(x) & 0x7f800000u) != 0x7f800000u; }

static inline void rnnfast_activate(uint32_t activation, float *x, uint32_t count) RNNFAST_NOEXCEPT {
    uint32_t n;
    if (activation == RNNFAST_TANH)
        for (n = 0; n < count; ++n) x[n] = rnnfast_tanh(x[n]);
    if (activation == RNNFAST_SIGMOID)
        for (n = 0; n < count; ++n) x[n] = rnnfast_sigmoid(x[n]);
    if (activation == RNNFAST_RELU)
        for (n = 0; n < count; ++n) x[n] = x[n] < 0.0f ? 0.0f : x[n];
}

/* sums[n] += rows[k][n] * x[k], for one k after the other. Four vectors of sums stay in registers meanwhile. */
static inline void rnnfast_add_product(float *RNNFAST_RESTRICT sums, uint32_t count, const float *RNNFAST_RESTRICT rows,
                                       uint32_t stride, const float *x, uint32_t length) RNNFAST_NOEXCEPT {
    uint32_t n, k, first = 0;
#ifdef RNNFAST_LANES
    for (; first + 4 * RNNFAST_LANES <= count; first += 4 * RNNFAST_LANES) {
        const float *row = rows + first;
        float *to = sums + first;
        rnnfast_vector s0 = rnnfast_load(to), s1 = rnnfast_load(to + RNNFAST_LANES);
        rnnfast_vector s2 = rnnfast_load(to + 2 * RNNFAST_LANES), s3 = rnnfast_load(to + 3 * RNNFAST_LANES);
        for (k = 0; k < length; ++k, row += stride) {
            const rnnfast_vector factor = rnnfast_broadcast(x[k]);
            s0 = rnnfast_fma(rnnfast_load(row), factor, s0);
            s1 = rnnfast_fma(rnnfast_load(row + RNNFAST_LANES), factor, s1);
            s2 = rnnfast_fma(rnnfast_load(row + 2 * RNNFAST_LANES), factor, s2);
            s3 = rnnfast_fma(rnnfast_load(row + 3 * RNNFAST_LANES), factor, s3);
        }
        rnnfast_store(to, s0);
        rnnfast_store(to + RNNFAST_LANES, s1);
        rnnfast_store(to + 2 * RNNFAST_LANES, s2);
        rnnfast_store(to + 3 * RNNFAST_LANES, s3);
    }
    for (; first + RNNFAST_LANES <= count; first += RNNFAST_LANES) {
        const float *row = rows + first;
        rnnfast_vector sum = rnnfast_load(sums + first);
        for (k = 0; k < length; ++k, row += stride) sum = rnnfast_fma(rnnfast_load(row), rnnfast_broadcast(x[k]), sum);
        rnnfast_store(sums + first, sum);
    }
#endif
    for (n = first; n < count; ++n) {
        float sum = sums[n];
        for (k = 0; k < length; ++k) sum = fmaf(rows[(size_t)k * stride + n], x[k], sum);
        sums[n] = sum;
    }
}

/* Sizes --------------------------------------------------------------------------------------------------------------
 */

/* Sums over the input, of a step of a part: its gates, or its outputs. */
static inline uint32_t rnnfast_input_sums(const struct rnnfast_part *part) RNNFAST_NOEXCEPT {
    const uint32_t gates = part->kind == RNNFAST_LSTM ? 4 : part->kind >= RNNFAST_GRU_AFTER ? 3 : 1;
    return gates * part->units;
}

/* How many arrays of `units` numbers a part carries from step to step. */
static inline uint32_t rnnfast_states(const struct rnnfast_part *part) RNNFAST_NOEXCEPT {
    return part->kind == RNNFAST_DENSE ? 0 : part->kind == RNNFAST_LSTM ? 2 : 1;
}

/* Biases: one for each sum; of GRU_AFTER also those of n's sum over the state, which is kept apart. */
static inline uint32_t rnnfast_biases(const struct rnnfast_part *part) RNNFAST_NOEXCEPT {
    return rnnfast_input_sums(part) + (part->kind == RNNFAST_GRU_AFTER ? part->units : 0);
}

static inline uint64_t rnnfast_weights(const struct rnnfast_part *part) RNNFAST_NOEXCEPT {
    const uint64_t sums = rnnfast_input_sums(part), recurrent = part->kind == RNNFAST_DENSE ? 0 : part->units;
    return rnnfast_biases(part) + (part->inputs + recurrent) * sums + (uint64_t)rnnfast_states(part) * part->units;
}

/* Steps: x [inputs] to y [units]; `state` has the part's states, `sums` room for its biases' count. ------------------
 */

static inline void rnnfast_step(const struct rnnfast_part *part, const float *x, float *y, float *state,
                                float *sums) RNNFAST_NOEXCEPT {
    const uint32_t units = part->units, count = rnnfast_input_sums(part), biases = rnnfast_biases(part);
    const float *W = part->weights + biases, *U = W + (size_t)part->inputs * count;
    float *h = state, *c = state + units;
    float *second = sums + units, *third = second + units, *fourth = third + units;
    uint32_t n;
    memcpy(sums, part->weights, biases * sizeof(float));
    rnnfast_add_product(sums, count, W, count, x, part->inputs);
    switch (part->kind) {
    case RNNFAST_ELMAN:
        rnnfast_add_product(sums, count, U, count, h, units);
        rnnfast_activate(part->activation, sums, units);
        memcpy(h, sums, units * sizeof(float));
        break;
    case RNNFAST_LSTM: /* i, f, g, o */
        rnnfast_add_product(sums, count, U, count, h, units);
        rnnfast_activate(RNNFAST_SIGMOID, sums, 2 * units);
        rnnfast_activate(RNNFAST_TANH, third, units);
        rnnfast_activate(RNNFAST_SIGMOID, fourth, units);
        for (n = 0; n < units; ++n) c[n] = fmaf(second[n], c[n], sums[n] * third[n]);
        for (n = 0; n < units; ++n) h[n] = fourth[n] * rnnfast_tanh(c[n]);
        break;
    case RNNFAST_GRU_AFTER: /* r, z, n over the input, n over the state */
        rnnfast_add_product(sums, 2 * units, U, count, h, units);
        rnnfast_add_product(fourth, units, U + 2 * (size_t)units, count, h, units);
        rnnfast_activate(RNNFAST_SIGMOID, sums, 2 * units);
        for (n = 0; n < units; ++n) third[n] = rnnfast_tanh(fmaf(sums[n], fourth[n], third[n]));
        for (n = 0; n < units; ++n) h[n] = fmaf(second[n], h[n] - third[n], third[n]);
        break;
    case RNNFAST_GRU_BEFORE: /* r, z, n */
        rnnfast_add_product(sums, 2 * units, U, count, h, units);
        rnnfast_activate(RNNFAST_SIGMOID, sums, 2 * units);
        for (n = 0; n < units; ++n) sums[n] *= h[n];
        rnnfast_add_product(third, units, U + 2 * (size_t)units, count, sums, units);
        for (n = 0; n < units; ++n) third[n] = rnnfast_tanh(third[n]);
        for (n = 0; n < units; ++n) h[n] = fmaf(second[n], h[n] - third[n], third[n]);
        break;
    default: /* RNNFAST_DENSE */
        rnnfast_activate(part->activation, sums, units);
        memcpy(y, sums, units * sizeof(float));
        return;
    }
    memcpy(y, h, units * sizeof(float));
}

/* Models --------------------------------------------------------------------------------------------------------------
 */

/* Read a model. It refers to the bytes, which must stay where they are as long as it is used. All is checked, and
 * nothing is allocated; unless the result is RNNFAST_OK, `model` is not to be used. */
static inline enum rnnfast_status rnnfast_model_read(struct rnnfast_model *model, const void *bytes,
                                                     size_t size) RNNFAST_NOEXCEPT {
    static const char magic[8] = {'R', 'N', 'N', 'F', 'A', 'S', 'T', '1'};
    const uint32_t one = 1;
    const unsigned char *at = (const unsigned char *)bytes;
    uint32_t n, width;
    uint64_t total = 0, floats;
    if ((uintptr_t)bytes % 4 || *(const unsigned char *)&one != 1) return RNNFAST_UNALIGNED;
    if (size < 36) return RNNFAST_TRUNCATED;
    if (memcmp(at, magic, 8)) return RNNFAST_NO_MODEL;
    memcpy(&model->inputs, at + 8, 16); /* inputs, outputs, skip, parts */
    memcpy(&model->input_gain, at + 24, 12);
    model->widest = width = model->inputs;
    model->sums = model->states = 0;
    if (!model->parts || model->parts > RNNFAST_MOST_PARTS || !width || width > 1u << 24) return RNNFAST_DAMAGED;
    if (!rnnfast_finite(model->input_gain) || !rnnfast_finite(model->output_gain)) return RNNFAST_DAMAGED;
    if ((size - 36) / 16 < model->parts) return RNNFAST_TRUNCATED;
    floats = (size - 36 - 16 * (size_t)model->parts) / 4;
    for (n = 0; n < model->parts; ++n) {
        struct rnnfast_part *part = &model->part[n];
        memcpy(part, at + 36 + 16 * (size_t)n, 16);
        if (part->kind > RNNFAST_GRU_BEFORE || part->activation > RNNFAST_SIGMOID) return RNNFAST_DAMAGED;
        if (part->inputs != width || !part->units || part->units > 1u << 24) return RNNFAST_DAMAGED;
        if (rnnfast_weights(part) > floats - total) return RNNFAST_TRUNCATED;
        part->weights = (const float *)(at + 36 + 16 * (size_t)model->parts) + total;
        total += rnnfast_weights(part);
        width = part->units;
        if (width > model->widest) model->widest = width;
        if (rnnfast_biases(part) > model->sums) model->sums = rnnfast_biases(part);
        model->states += rnnfast_states(part) * width;
    }
    if (width != model->outputs) return RNNFAST_DAMAGED;
    if (model->skip && (model->skip != model->outputs || model->skip > model->inputs)) return RNNFAST_DAMAGED;
    if (36 + 16 * (uint64_t)model->parts + 4 * total != size) return RNNFAST_TRUNCATED;
    for (floats = 0; floats < total; ++floats)
        if (!rnnfast_finite(model->part[0].weights[floats])) return RNNFAST_DAMAGED;
    return RNNFAST_OK;
}

/* How many floats of memory a stream needs. */
static inline size_t rnnfast_stream_size(const struct rnnfast_model *model) RNNFAST_NOEXCEPT {
    return (size_t)model->states + model->sums + 3 * (size_t)model->widest;
}

/* Put the first state into a stream's memory; also what makes a new stream of it. */
static inline void rnnfast_stream_reset(const struct rnnfast_model *model, float *memory) RNNFAST_NOEXCEPT {
    for (uint32_t n = 0; n < model->parts; ++n) {
        const struct rnnfast_part *part = &model->part[n];
        const size_t states = (size_t)rnnfast_states(part) * part->units;
        memcpy(memory, part->weights + rnnfast_weights(part) - states, states * sizeof(float));
        memory += states;
    }
}

/* Run a stream for some frames: `in` has model->inputs numbers for each, `out` gets model->outputs. They may be the
 * same memory if these are equal. Never allocates, waits or fails. */
static inline void rnnfast_stream_process(const struct rnnfast_model *model, float *memory, const float *in, float *out,
                                          size_t frames) RNNFAST_NOEXCEPT {
    float *sums = memory + model->states, *u = sums + model->sums;
    float *rows[2];
    rows[0] = u + model->widest;
    rows[1] = rows[0] + model->widest;
    for (; frames; --frames, in += model->inputs, out += model->outputs) {
        const float *x = u;
        float *state = memory;
        uint32_t n;
        for (n = 0; n < model->inputs; ++n) u[n] = model->input_gain == 1.0f ? in[n] : in[n] * model->input_gain;
        for (n = 0; n < model->parts; ++n) {
            const struct rnnfast_part *part = &model->part[n];
            rnnfast_step(part, x, rows[n % 2], state, sums);
            state += rnnfast_states(part) * part->units;
            x = rows[n % 2];
        }
        for (n = 0; n < model->outputs; ++n) {
            const float y = model->skip ? x[n] + u[n] : x[n];
            out[n] = model->output_gain == 1.0f ? y : y * model->output_gain;
        }
    }
}

#ifdef __cplusplus
} /* extern "C" */

#include <stdexcept>
#include <vector>

namespace rnnfast {

/* A model with a stream of it. What it is made of is copied; only the constructor and copies allocate. */
class Stream {
  public:
    /* std::invalid_argument if the bytes are no model. */
    Stream(const void *bytes, std::size_t size) : data_(size / 4 + 1) {
        if (size) memcpy(data_.data(), bytes, size);
        size_ = size;
        const rnnfast_status status = rnnfast_model_read(&model_, data_.data(), size);
        if (status != RNNFAST_OK) {
            static const char *const words[] = {"", "truncated", "no model of rnnfast", "damaged",
                                                "big-endian machine"};
            throw std::invalid_argument(words[status]);
        }
        memory_.resize(rnnfast_stream_size(&model_));
        reset();
    }
    Stream(const Stream &other) : Stream(other.data_.data(), other.size_) { memory_ = other.memory_; }
    Stream &operator=(const Stream &) = delete;

    void reset() noexcept { rnnfast_stream_reset(&model_, memory_.data()); }
    void process(const float *in, float *out, std::size_t frames) noexcept {
        rnnfast_stream_process(&model_, memory_.data(), in, out, frames);
    }
    unsigned inputs() const noexcept { return model_.inputs; }
    unsigned outputs() const noexcept { return model_.outputs; }
    float sample_rate() const noexcept { return model_.sample_rate; }

  private:
    std::vector<std::uint32_t> data_;
    std::size_t size_ = 0;
    std::vector<float> memory_;
    rnnfast_model model_;
};

} // namespace rnnfast
#endif

#endif
