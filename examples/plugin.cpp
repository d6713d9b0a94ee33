// A plug-in without Python: reads a model, and runs it over the float32 samples of its input, block by block.
//
//     include=$(python -c 'import rnnfast; print(rnnfast.get_include())')
//     c++ -std=c++17 -O3 -march=native -ffp-contract=off -I$include examples/plugin.cpp -o plugin
//     ./plugin amp.rnnfast 64 < in.f32 > out.f32
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>
#include <vector>

#include <rnnfast/stream.h>

static_assert(noexcept(std::declval<rnnfast::Stream &>().process(nullptr, nullptr, 0)), "for a real-time thread");

int main(int count, char **arguments) try {
    if (count != 3) throw std::invalid_argument("usage: plugin MODEL FRAMES_OF_A_BLOCK < IN > OUT");
    std::ifstream file(arguments[1], std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    rnnfast::Stream stream(bytes.data(), bytes.size());
    const std::size_t frames = std::strtoul(arguments[2], nullptr, 10);
    std::vector<float> in(frames * stream.inputs()), out(frames * stream.outputs());
    while (const std::size_t got = std::fread(in.data(), sizeof(float) * stream.inputs(), frames, stdin)) {
        stream.process(in.data(), out.data(), got); // what a plug-in's audio callback does
        std::fwrite(out.data(), sizeof(float) * stream.outputs(), got, stdout);
    }
    return 0;
} catch (const std::exception &error) {
    std::cerr << "plugin: " << error.what() << '\n';
    return 1;
}
