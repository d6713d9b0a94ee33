// The tables that exist. One line per instruction set here, one file isa/<name>.h, one row in dispatch.cpp.
#pragma once

#include "kernels.h"

namespace rnnfast {

extern const Table<float> table_baseline_f32, table_avx2_f32, table_avx512_f32, table_neon_f32;
extern const Table<double> table_baseline_f64, table_avx2_f64, table_avx512_f64, table_neon_f64;

} // namespace rnnfast
