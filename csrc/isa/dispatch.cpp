// Which instruction sets this CPU runs, and their tables. Compiled for the baseline.
#include <cstring>

#include "isa/dispatch.h"
#include "isa/table.h"

namespace rnnfast {
namespace {

struct Row {
    const char *name;
    const Table<float> *f32;
    const Table<double> *f64;
    bool (*runs)();
};

[[maybe_unused]] bool always() { return true; }
#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool has_avx512() {
#if defined(RNNFAST_EMULATED_AVX512)
    return has_avx2();
#else
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
}
#endif

// Slowest first; the last that runs is the default.
const Row rows[] = {
#if defined(RNNFAST_HAVE_NEON)
    {"neon", &table_neon_f32, &table_neon_f64, always},
#endif
#if defined(RNNFAST_HAVE_BASELINE)
    {"baseline", &table_baseline_f32, &table_baseline_f64, always},
#endif
#if defined(RNNFAST_HAVE_AVX512) && defined(RNNFAST_EMULATED_AVX512)
    {"avx512", &table_avx512_f32, &table_avx512_f64, has_avx512},
#endif
#if defined(RNNFAST_HAVE_AVX2)
    {"avx2", &table_avx2_f32, &table_avx2_f64, has_avx2},
#endif
#if defined(RNNFAST_HAVE_AVX512) && !defined(RNNFAST_EMULATED_AVX512)
    {"avx512", &table_avx512_f32, &table_avx512_f64, has_avx512},
#endif
};

const Row *find(const char *isa) {
    for (const Row &row : rows) {
        if (std::strcmp(row.name, isa) == 0 && row.runs()) return &row;
    }
    return nullptr;
}

} // namespace

template <> const Table<float> *table<float>(const char *isa) {
    const Row *const row = find(isa);
    return row ? row->f32 : nullptr;
}
template <> const Table<double> *table<double>(const char *isa) {
    const Row *const row = find(isa);
    return row ? row->f64 : nullptr;
}

int available(const char **names) {
    int count = 0;
    for (const Row &row : rows) {
        if (row.runs()) names[count++] = row.name;
    }
    return count;
}

} // namespace rnnfast
