// What every CPU of this architecture runs (x86-64: SSE2). 16 vector registers: 12 sums and 4 operands.
#define RNNFAST_VECTOR_BYTES 16
#define RNNFAST_ACCUMULATORS 12
#include "program/described.inc"
