// AArch64. 32 vector registers: 24 sums and 8 operands.
#define RNNFAST_VECTOR_BYTES 16
#define RNNFAST_ACCUMULATORS 24
#include "program/described.inc"
