// What a kernel takes at given sizes: the shapes of its parameters, states and further inputs.
#pragma once

#include <memory>
#include <vector>

#include "bindings/calls.h"
#include "bindings/program.h"

namespace rnnfast::bindings {

// A cell at given sizes: what its kernel takes. Of a fused kind, or of a program, which it keeps alive.
struct CellShape {
    Kind kind;
    Sizes sizes;
    std::shared_ptr<const ProgramData> data; // null: a fused kind
    std::vector<Parameter> parameters;
    std::vector<index> states, given; // widths; of a given input 0: a number per row
    double work = 0;                  // multiply-adds of a row's step

    CellShape(Kind kind_, index gates, index states_, Sizes s)
        : kind(kind_), sizes(s), states(static_cast<std::size_t>(states_), s.hidden) {
        const index rows = gates * s.hidden;
        parameters = {{"weight_ih", rows, s.input, false},
                      {"weight_hh", rows, s.hidden, false},
                      {"bias_ih", rows, 0, true},
                      {"bias_hh", rows, 0, true}};
        work = static_cast<double>(rows) * static_cast<double>(s.input + s.hidden);
        require_product({gates, s.hidden + 64, s.hidden + s.input + 2, 2}, "input_size, hidden_size");
    }

    CellShape(std::shared_ptr<const ProgramData> given_data, Sizes s)
        : kind(described), sizes(s), data(std::move(given_data)) {
        const Program &program = data->program();
        sizes.program = &program;
        for (const StateSpec &state : program.states) states.push_back(s.widths[state.domain]);
        for (const int domain : program.given) given.push_back(domain < 0 ? 0 : s.widths[domain]);
        for (int i = 0; i < program.parameters.count; ++i) {
            const ParameterSpec &spec = program.parameters[i];
            const index rows = s.widths[spec.domain];
            const index columns = spec.kind != ParameterKind::weight ? 0
                                  : spec.columns == input_columns    ? s.input
                                                                     : s.widths[spec.columns];
            if (rows % spec.heads || columns % spec.heads) {
                fail("widths", "sizes that " + std::to_string(spec.heads) + " heads divide",
                     std::to_string(rows) + ", " + std::to_string(columns));
            }
            parameters.push_back(
                {data->parameter(i), spec.blocks * rows, columns / spec.heads, spec.kind == ParameterKind::bias});
            require_product({spec.blocks, rows + 64, columns + 64, 4}, "input_size, widths");
        }
        work = data->work(sizes);
    }
};

} // namespace rnnfast::bindings
