// A described cell's program, read from Python and checked, with the memory that csrc/program/program.h points into.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "program/program.h"

namespace rnnfast::bindings {

// Reads a `rnnfast.description.program.Program`. Nothing of it is trusted: what it points to lies where it says, and
// rows that meet have one width.
class ProgramData {
    template <class U> using Stored = std::deque<std::vector<U>>; // vectors that stay where they are

    Stored<StateSpec> states_;
    Stored<ParameterSpec> parameters_;
    Stored<int> numbers_;
    Stored<RegionSpec> regions_;
    Stored<ProductSpec> products_;
    Stored<StageSpec> stages_;
    Stored<BackProductSpec> back_products_;
    Stored<TermSpec> terms_;
    Stored<MeanSpec> means_;
    Stored<RowPlace> places_;
    Stored<Instruction> code_;
    Stored<PlacedGradient> gradients_;
    std::vector<std::string> names_; // of the parameters
    Program program_{};

  public:
    explicit ProgramData(const py::object &program);
    ProgramData(const ProgramData &) = delete;
    ProgramData &operator=(const ProgramData &) = delete;

    const Program &program() const { return program_; }
    const std::string &parameter(int i) const { return names_[static_cast<std::size_t>(i)]; }
    // The shape of a parameter at some sizes.
    std::vector<index> shape(int parameter, const Sizes &sizes) const;
    // Multiply-adds of a row's step.
    double work(const Sizes &sizes) const;

  private:
    template <class U> List<U> keep(Stored<U> &store, std::vector<U> values) {
        store.push_back(std::move(values));
        return {store.back().data(), static_cast<int>(store.back().size())};
    }
    [[noreturn]] void refuse(const std::string &what) const;
    int within(py::handle value, int end, const char *what, int begin = 0) const;
    RowPlace place(py::handle value, bool backward) const;
    int domain_of(const RowPlace &place) const; // -1: a number
    MatrixRef matrix(py::handle value, const ProductSpec &product, ParameterKind kind, int columns) const;
    ProductSpec product(py::handle value) const;
    TermSpec term(py::handle value);
    BackProductSpec back_product(py::handle value);
    List<TermSpec> terms(py::handle value, int columns);
    Instruction instruction(py::handle value, int domain, bool backward) const;
    StageSpec stage(py::handle value, bool backward);
    List<StageSpec> stages(py::handle value, bool backward);
    List<PlacedGradient> gradients(py::handle value, bool vectors);
};

std::optional<Op> unary_operation(const std::string &name); // of one register, such as "tanh"
py::dict operations();                                      // names to numbers of operands, in the order of `Op`

} // namespace rnnfast::bindings
