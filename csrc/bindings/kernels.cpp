// rnnfast._core.Kernel: one cell in one direction at given sizes.
#include <pybind11/stl.h>

#include "bindings/cell_binding.h"
#include "bindings/either.h"

namespace rnnfast::bindings {

namespace {

// What a kernel runs: a fused kind by name, or a program.
CellShape shape_of(const py::object &cell, index input, const py::object &hidden, const char *isa) {
    Sizes sizes{};
    sizes.input = size_argument(input, "input_size");
    if (py::isinstance<ProgramData>(cell)) {
        const auto data = cell.cast<std::shared_ptr<ProgramData>>();
        const auto widths = hidden.cast<std::vector<index>>();
        if (static_cast<int>(widths.size()) != data->program().domains) {
            fail("widths", std::to_string(data->program().domains) + " sizes", std::to_string(widths.size()));
        }
        for (std::size_t i = 0; i < widths.size(); ++i) sizes.widths[i] = size_argument(widths[i], "widths");
        sizes.hidden = sizes.widths[0];
        return CellShape(data, sizes);
    }
    const auto name = cell.cast<std::string>();
    sizes.hidden = sizes.widths[0] = size_argument(hidden.cast<index>(), "hidden_size");
    std::string known;
    for (int k = 0; k < fused_kinds; ++k) {
        const CellKernel<float> &kernel = table<float>(isa)->cells[k];
        if (name == kind_names[k]) return CellShape(static_cast<Kind>(k), kernel.gates, kernel.states, sizes);
        known += (k ? ", " : "") + std::string(kind_names[k]);
    }
    fail("kind", "one of " + known + ", or a Program", "'" + name + "'");
}

using Kernel = Either<CellBinding>;
using Object = py::object;

} // namespace

void register_kernels(py::module_ &module) {
    const auto none = py::none();
    py::class_<ProgramData, std::shared_ptr<ProgramData>>(module, "Program",
                                                          "A described cell's step, read and checked.")
        .def(py::init<const Object &>(), py::arg("program"));
    module.attr("OPERATIONS") = operations();
    py::class_<Kernel>(module, "Kernel", "One cell in one direction at given sizes..")
        .def(py::init([](const Object &cell, const std::string &dtype, index input, const Object &hidden,
                         const std::optional<std::string> &isa) {
                 const std::string name = require_isa(isa);
                 return Kernel(is_double(dtype), name, shape_of(cell, input, hidden, name.c_str()));
             }),
             py::arg("kind"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("isa") = none)
        .def_property_readonly("panel_size",
                               [](const Kernel &k) { return k.visit([](auto &b) { return b.panel_size(); }); })
        .def_property_readonly("panel_size_backward",
                               [](const Kernel &k) { return k.visit([](auto &b) { return b.panel_size_backward(); }); })
        .def_property_readonly("gradient_size",
                               [](const Kernel &k) { return k.visit([](auto &b) { return b.gradient_size(); }); })
        .def_property_readonly("pairs_size",
                               [](const Kernel &k) { return k.visit([](auto &b) { return b.pairs_size(); }); })
        .def(
            "to_pairs",
            [](const Kernel &k, const Object &panels, const Object &out) {
                k.visit([&](auto &b) { b.to_pairs(panels, out); });
            },
            py::arg("panels"), py::arg("out"))
        .def_property_readonly("handle",
                               [](const Kernel &k) {
                                   const KernelHandle *const h = k.visit([](auto &b) { return b.handle(); });
                                   return py::capsule(const_cast<KernelHandle *>(h), "rnnfast.kernel");
                               })
        .def(
            "tape_size",
            [](const Kernel &k, index T, index B) { return k.visit([&](auto &b) { return b.tape_size(T, B); }); },
            py::arg("T"), py::arg("B"))
        .def(
            "pack",
            [](const Kernel &k, const Object &params, const Object &out) {
                k.visit([&](auto &b) { b.pack(params, out); });
            },
            py::arg("params"), py::arg("out"))
        .def(
            "pack_backward",
            [](const Kernel &k, const Object &params, const Object &out, bool dx) {
                k.visit([&](auto &b) { b.pack_backward(params, out, dx); });
            },
            py::arg("params"), py::arg("out"), py::arg("dx") = true)
        .def(
            "unpack",
            [](const Kernel &k, const Object &panels, const Object &params) {
                k.visit([&](auto &b) { b.unpack(panels, params); });
            },
            py::arg("panels"), py::arg("params"))
        .def(
            "forward", [](const Kernel &k, const Object &call) { k.visit([&](auto &b) { b.forward(call); }); },
            py::arg("call"))
        .def(
            "backward", [](const Kernel &k, const Object &call) { k.visit([&](auto &b) { b.backward(call); }); },
            py::arg("call"));
    module.attr("FORWARD_FIELDS") = names_of<ForwardFields>();
    module.attr("BACKWARD_FIELDS") = names_of<BackwardFields>();

    py::dict cells;
    for (int k = 0; k < fused_kinds; ++k) {
        const CellKernel<float> &cell = table<float>(active_isa())->cells[k];
        cells[kind_names[k]] = py::make_tuple(cell.gates, cell.states);
    }
    module.attr("CELLS") = cells;
}

} // namespace rnnfast::bindings
