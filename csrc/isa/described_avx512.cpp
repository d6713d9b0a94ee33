// AVX-512 (F, DQ, VL, BW). 32 vector registers: 24 sums and 8 operands. With RNNFAST_EMULATED_AVX512 the same lanes and
// tiles run on AVX2's instructions (slowly), so that machines without AVX-512 can test them.
#define RNNFAST_VECTOR_BYTES 64
#define RNNFAST_ACCUMULATORS 24
#include "program/described.inc"
