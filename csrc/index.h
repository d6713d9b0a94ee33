// How sizes, positions and strides are counted.
#pragma once

#include <cstddef>

namespace rnnfast {

using index = std::ptrdiff_t;

} // namespace rnnfast
