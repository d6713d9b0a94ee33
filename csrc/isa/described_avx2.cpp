// AVX2 + FMA. 16 vector registers: 12 sums and 4 operands.
#define RNNFAST_VECTOR_BYTES 32
#define RNNFAST_ACCUMULATORS 12
#include "program/described.inc"
