// What dispatch.cpp knows, for the bindings.
#pragma once

namespace rnnfast {

constexpr int max_isas = 8;
int available(const char **names); // slowest first, the fastest last; returns how many

} // namespace rnnfast
