// A described cell's step as data: what rnnfast/description/program.py says in Python, in plain arrays. The bindings
// build and check one (bindings/program.cpp); the interpreters of all instruction sets read it. No type of the standard
// library is in here, because a copy of its code that is compiled for AVX-512 must never be the one that the linker
// keeps.
#pragma once

#include <cstdint>

namespace rnnfast {

constexpr int most_registers = 64; // of a stage

enum class Space : std::uint8_t { slot, before, after, vector, given, scalar, gradient, scratch, none };

struct RowPlace {
    Space space = Space::none;
    std::int16_t index = 0, slot = 0;

    explicit operator bool() const { return space != Space::none; }
};

// In the order of OPERATIONS in rnnfast/description/program.py.
enum class Op : std::uint8_t {
    load,
    store,
    constant,
    add,
    sub,
    mul,
    div,
    fma,
    fnma,
    neg,
    min,
    max,
    abs,
    sign,
    sqrt,
    exp,
    expm1,
    log,
    log1p,
    sin,
    cos,
    sigmoid,
    tanh,
    relu,
    softplus,
    d_sigmoid,
    d_tanh,
    lerp,
    where,
    random_step,
    random_sequence,
    operations
};

struct Instruction {
    Op op;
    std::int16_t to, a, b, c; // registers
    RowPlace place;
    double value;
};

template <class U> struct List {
    const U *data = nullptr;
    int count = 0;

    const U *begin() const { return data; }
    const U *end() const { return data + count; }
    const U &operator[](int i) const { return data[i]; }
};

struct StateSpec {
    int domain;
    double initial;
};

enum class ParameterKind : std::uint8_t { weight, bias, vector };
constexpr int input_columns = -1;

struct ParameterSpec {
    ParameterKind kind;
    int domain, blocks;
    int columns; // of a weight: input_columns, or a domain
    int heads;
};

struct RegionSpec {
    int domain, slots;
};

struct MatrixRef { // neighbouring blocks of rows of a parameter; parameter -1: none
    int parameter = -1, block = 0;

    explicit operator bool() const { return parameter >= 0; }
};

struct ProductSpec {
    int region, first, count;
    MatrixRef x, x_bias, u, u_bias;
    RowPlace left;
};

struct MeanSpec {
    List<RowPlace> rows;
    int domain, scalar;
    bool total;
};

struct TermSpec {
    int region, first, parameter;
    List<int> blocks; // one per slot
};

struct BackProductSpec {
    RowPlace target, start;
    List<TermSpec> terms;
    int number; // among all back products: where its panels lie
};

struct StageSpec {
    int domain;
    List<int> products;
    List<BackProductSpec> back_products;
    List<MeanSpec> means;
    List<Instruction> code;
};

struct PlacedGradient { // of a vector (a parameter) or of a given input
    int index;
    RowPlace place;
};

struct Program {
    int domains;
    List<StateSpec> states;
    List<ParameterSpec> parameters;
    List<int> given; // a domain, or -1: a number per row
    List<RegionSpec> regions;
    int scalars;
    List<ProductSpec> products;
    List<StageSpec> inference, forward, backward;
    List<BackProductSpec> state_products;
    BackProductSpec input; // dLoss/dx: its terms alone
    int back_products;     // how many there are, `input` included
    List<int> scratch;    // domains
    List<PlacedGradient> vector_gradients, given_gradients;
};

} // namespace rnnfast
