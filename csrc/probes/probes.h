// Measurements of the machine, and the checksum of an array: what the benchmark and the tape's checks ask for. Nothing
// here depends on an instruction set; what does is in ceilings.h.
#pragma once

#include "kernels.h"

namespace rnnfast {

// Seconds that a cache line takes from one core to another; 0 where there is one thread.
double line_transfer();

// A view of an array as NumPy describes it: strides are in bytes.
struct View {
    const char *data;
    const index *shape, *strides;
    index rank, item; // the bytes of an element
    bool contiguous;
};

// 64 bits of an array's contents in logical order. Any single change shows, and any exchange of two words.
std::uint64_t checksum(const View &array);

} // namespace rnnfast
