// The two dtypes of a binding behind one Python class.
#pragma once

#include <variant>

#include "bindings/bindings.h"

namespace rnnfast::bindings {

template <template <class> class Binding> class Either {
    std::variant<Binding<float>, Binding<double>> binding_;

  public:
    template <class... Args>
    Either(bool wide, const std::string &isa, const Args &...args)
        : binding_(wide ? std::variant<Binding<float>, Binding<double>>(std::in_place_index<1>, args...,
                                                                        table<double>(isa.c_str()))
                        : std::variant<Binding<float>, Binding<double>>(std::in_place_index<0>, args...,
                                                                        table<float>(isa.c_str()))) {}

    template <class F> decltype(auto) visit(F &&f) const { return std::visit(f, binding_); }
};

} // namespace rnnfast::bindings
