// Reads and checks a described cell's program.
#include "bindings/program.h"

#include <cstring>

namespace rnnfast::bindings {

namespace {

constexpr const char *operation_names[] = {"load",
                                           "store",
                                           "const",
                                           "add",
                                           "sub",
                                           "mul",
                                           "div",
                                           "fma",
                                           "fnma",
                                           "neg",
                                           "min",
                                           "max",
                                           "abs",
                                           "sign",
                                           "sqrt",
                                           "exp",
                                           "expm1",
                                           "log",
                                           "log1p",
                                           "sin",
                                           "cos",
                                           "sigmoid",
                                           "tanh",
                                           "relu",
                                           "softplus",
                                           "d_sigmoid",
                                           "d_tanh",
                                           "lerp",
                                           "where",
                                           "random_step",
                                           "random_sequence"};
static_assert(sizeof operation_names / sizeof *operation_names == std::size_t(Op::operations));
constexpr const char *space_names[] = {"slot", "before", "after", "vector", "given", "scalar", "gradient", "scratch"};
static_assert(sizeof space_names / sizeof *space_names == std::size_t(Space::none));

constexpr int operands[] = {0, 1, 0, 2, 2, 2, 2, 3, 3, 1, 2, 2, 1, 1, 1, 1,
                            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 0, 0};
static_assert(sizeof operands / sizeof *operands == std::size_t(Op::operations));

template <std::size_t n> int number_of(const char *const (&names)[n], const std::string &name) {
    for (std::size_t i = 0; i < n; ++i) {
        if (name == names[i]) return static_cast<int>(i);
    }
    return -1;
}

std::string text(py::handle object, const char *name) { return object.attr(name).cast<std::string>(); }

template <class U, class F> std::vector<U> map(py::handle sequence, F f) {
    std::vector<U> values;
    for (const py::handle item : sequence) values.push_back(f(item));
    return values;
}

} // namespace

std::optional<Op> unary_operation(const std::string &name) {
    const int op = number_of(operation_names, name);
    return op >= 0 && operands[op] == 1 && op != static_cast<int>(Op::store) ? std::optional(static_cast<Op>(op))
                                                                             : std::nullopt;
}

py::dict operations() {
    py::dict all;
    for (std::size_t i = 0; i < std::size(operation_names); ++i) all[operation_names[i]] = operands[i];
    return all;
}

void ProgramData::refuse(const std::string &what) const { fail("program", "a program of rnnfast.description", what); }

int ProgramData::within(py::handle value, int end, const char *what, int begin) const {
    const auto number = value.cast<long>();
    if (number < begin || number >= end) refuse(std::string(what) + " " + std::to_string(number));
    return static_cast<int>(number);
}

RowPlace ProgramData::place(py::handle value, bool backward) const {
    if (value.is_none()) return {};
    const int space = number_of(space_names, text(value, "space"));
    if (space < 0) refuse("space '" + text(value, "space") + "'");
    RowPlace place{static_cast<Space>(space), 0, 0};
    const int ends[] = {program_.regions.count, program_.states.count, program_.states.count, program_.parameters.count,
                        program_.given.count,   program_.scalars,      program_.states.count, program_.scratch.count};
    place.index = static_cast<std::int16_t>(within(value.attr("index"), ends[space], "place"));
    if (place.space == Space::slot) {
        place.slot = static_cast<std::int16_t>(within(value.attr("slot"), program_.regions[place.index].slots, "slot"));
    }
    if (place.space == Space::vector && program_.parameters[place.index].kind != ParameterKind::vector)
        refuse("a vector that is none");
    if (!backward && (place.space == Space::gradient || place.space == Space::scratch)) refuse("a gradient in forward");
    return place;
}

int ProgramData::domain_of(const RowPlace &place) const {
    switch (place.space) {
    case Space::slot: return program_.regions[place.index].domain;
    case Space::before:
    case Space::after:
    case Space::gradient: return program_.states[place.index].domain;
    case Space::vector: return program_.parameters[place.index].domain;
    case Space::given: return program_.given[place.index];
    case Space::scratch: return program_.scratch[place.index];
    default: return -1;
    }
}

MatrixRef ProgramData::matrix(py::handle value, const ProductSpec &product, ParameterKind kind, int columns) const {
    if (value.is_none()) return {};
    MatrixRef ref{within(value.attr("parameter"), program_.parameters.count, "parameter"), 0};
    const ParameterSpec &spec = program_.parameters[ref.parameter];
    ref.block = within(value.attr("block"), spec.blocks - product.count + 1, "block");
    const bool fits = spec.kind == kind && spec.domain == program_.regions[product.region].domain &&
                      (kind == ParameterKind::bias || spec.columns == columns);
    if (!fits) refuse("a product of '" + parameter(ref.parameter) + "' with rows of another width");
    return ref;
}

ProductSpec ProgramData::product(py::handle value) const {
    ProductSpec p{};
    p.region = within(value.attr("region"), program_.regions.count, "region");
    p.count = within(value.attr("count"), 5, "count", 1);
    p.first = within(value.attr("first"), program_.regions[p.region].slots - p.count + 1, "slot");
    p.left = place(value.attr("left"), false);
    const bool slot = p.left.space == Space::slot && program_.regions[p.left.index].slots == 1;
    if (p.left && !slot && p.left.space != Space::before)
        refuse("a product of a row that is no state and has no region of its own");
    p.x = matrix(value.attr("x"), p, ParameterKind::weight, input_columns);
    p.u = matrix(value.attr("u"), p, ParameterKind::weight, p.left ? domain_of(p.left) : input_columns - 1);
    p.x_bias = matrix(value.attr("x_bias"), p, ParameterKind::bias, 0);
    p.u_bias = matrix(value.attr("u_bias"), p, ParameterKind::bias, 0);
    const bool sides = bool(p.u) == bool(p.left) && (p.x || p.u) && (p.x || !p.x_bias) && (p.u || !p.u_bias);
    if (!sides) refuse("a product with half a side");
    return p;
}

TermSpec ProgramData::term(py::handle value) {
    TermSpec t{};
    t.region = within(value.attr("region"), program_.regions.count, "region");
    t.parameter = within(value.attr("parameter"), program_.parameters.count, "parameter");
    const ParameterSpec &spec = program_.parameters[t.parameter];
    t.blocks =
        keep(numbers_, map<int>(value.attr("blocks"), [&](py::handle b) { return within(b, spec.blocks, "block"); }));
    const int count = within(value.attr("count"), program_.regions[t.region].slots + 1, "count", 1);
    t.first = within(value.attr("first"), program_.regions[t.region].slots - count + 1, "slot");
    if (count != t.blocks.count || spec.kind != ParameterKind::weight ||
        spec.domain != program_.regions[t.region].domain) {
        refuse("a term that does not fit '" + parameter(t.parameter) + "'");
    }
    return t;
}

List<TermSpec> ProgramData::terms(py::handle value, int columns) {
    const List<TermSpec> all = keep(terms_, map<TermSpec>(value, [&](py::handle t) { return term(t); }));
    for (const TermSpec &t : all) {
        if (program_.parameters[t.parameter].columns != columns) refuse("terms of different widths");
    }
    return all;
}

BackProductSpec ProgramData::back_product(py::handle value) {
    BackProductSpec b{};
    b.target = place(value.attr("target"), true);
    b.start = place(value.attr("start"), true);
    if (b.target.space != Space::gradient && b.target.space != Space::scratch)
        refuse("a back product into a place for other things");
    const int domain = domain_of(b.target);
    if (b.start && domain_of(b.start) != domain) refuse("a back product of another width than its start");
    b.terms = terms(value.attr("terms"), domain);
    b.number = program_.back_products++;
    return b;
}

Instruction ProgramData::instruction(py::handle value, int domain, bool backward) const {
    const int op = number_of(operation_names, text(value, "op"));
    if (op < 0) refuse("operation '" + text(value, "op") + "'");
    Instruction code{
        static_cast<Op>(op), 0, 0, 0, 0, place(value.attr("place"), backward), value.attr("value").cast<double>()};
    const auto registers =
        map<int>(value.attr("operands"), [&](py::handle r) { return within(r, most_registers, "register"); });
    if (static_cast<int>(registers.size()) != operands[op]) refuse("operands of '" + text(value, "op") + "'");
    std::int16_t *const to[] = {&code.a, &code.b, &code.c};
    for (std::size_t i = 0; i < registers.size(); ++i) *to[i] = static_cast<std::int16_t>(registers[i]);
    if (code.op != Op::store) code.to = static_cast<std::int16_t>(within(value.attr("to"), most_registers, "register"));
    if (bool(code.place) != (code.op == Op::load || code.op == Op::store))
        refuse("a place where none belongs, or none");
    if (!code.place) return code;
    const int of = domain_of(code.place);
    const Space space = code.place.space;
    const bool written =
        space == Space::slot || space == Space::after || space == Space::gradient || space == Space::scratch;
    if (code.op == Op::store ? !written || of != domain : of >= 0 && of != domain)
        refuse("a row of another width than its stage");
    if (code.op == Op::store && backward && space == Space::after) refuse("a state that backward writes");
    return code;
}

StageSpec ProgramData::stage(py::handle value, bool backward) {
    StageSpec s{};
    s.domain = within(value.attr("domain"), program_.domains, "domain");
    s.products = keep(numbers_, map<int>(value.attr("products"),
                                         [&](py::handle p) { return within(p, program_.products.count, "product"); }));
    s.back_products = keep(back_products_, map<BackProductSpec>(value.attr("back_products"),
                                                                [&](py::handle b) { return back_product(b); }));
    if (backward ? s.products.count : s.back_products.count) refuse("a product of the other direction");
    s.means = keep(means_, map<MeanSpec>(value.attr("means"), [&](py::handle m) {
                       MeanSpec mean{};
                       mean.domain = within(m.attr("domain"), program_.domains, "domain");
                       mean.scalar = within(m.attr("scalar"), program_.scalars, "scalar");
                       mean.total = m.attr("total").cast<bool>();
                       mean.rows = keep(
                           places_, map<RowPlace>(m.attr("rows"), [&](py::handle r) { return place(r, backward); }));
                       for (const RowPlace &row : mean.rows) {
                           if (domain_of(row) != mean.domain || row.space == Space::given)
                               refuse("a mean of rows of another width");
                       }
                       if (mean.rows.count == 0) refuse("a mean of nothing");
                       return mean;
                   }));
    s.code = keep(
        code_, map<Instruction>(value.attr("code"), [&](py::handle c) { return instruction(c, s.domain, backward); }));
    return s;
}

List<StageSpec> ProgramData::stages(py::handle value, bool backward) {
    return keep(stages_, map<StageSpec>(value, [&](py::handle s) { return stage(s, backward); }));
}

List<PlacedGradient> ProgramData::gradients(py::handle value, bool vectors) {
    return keep(gradients_, map<PlacedGradient>(value, [&](py::handle pair) {
                    const auto items = pair.cast<py::tuple>();
                    const int end = vectors ? program_.parameters.count : program_.given.count;
                    const PlacedGradient g{within(items[0], end, "gradient"), place(items[1], true)};
                    const int domain = vectors ? program_.parameters[g.index].domain : program_.given[g.index];
                    const Space space = vectors ? Space::slot : domain < 0 ? Space::scalar : Space::scratch;
                    if (g.place.space != space || domain_of(g.place) != domain)
                        refuse("a gradient in a place for other things");
                    return g;
                }));
}

ProgramData::ProgramData(const py::object &value) {
    if (!py::hasattr(value, "state_products"))
        throw py::type_error("program: expected a Program, got " + describe(value));
    const auto domain = [&](py::handle item) { return within(item, program_.domains, "domain"); };
    const auto few = [&](auto table, int most, const char *what) {
        if (table.count > most)
            refuse(std::to_string(table.count) + " " + what + ", more than " + std::to_string(most));
        return table;
    };
    program_.domains = static_cast<int>(py::len(value.attr("domains")));
    if (program_.domains < 1 || program_.domains > most_domains) refuse(std::to_string(program_.domains) + " widths");
    program_.states = few(keep(states_, map<StateSpec>(value.attr("states"),
                                                       [&](py::handle s) {
                                                           return StateSpec{domain(s.attr("domain")),
                                                                            s.attr("initial").cast<double>()};
                                                       })),
                          most_states, "states");
    if (program_.states.count == 0) refuse("no state");
    program_.parameters =
        few(keep(parameters_, map<ParameterSpec>(value.attr("parameters"),
                                                 [&](py::handle p) {
                                                     names_.push_back(text(p, "name"));
                                                     const std::string kind = text(p, "kind");
                                                     ParameterSpec spec{kind == "weight" ? ParameterKind::weight
                                                                        : kind == "bias" ? ParameterKind::bias
                                                                                         : ParameterKind::vector,
                                                                        domain(p.attr("domain")),
                                                                        within(p.attr("blocks"), 1 << 10, "blocks", 1),
                                                                        0, 1};
                                                     if (spec.kind == ParameterKind::weight) {
                                                         spec.columns = within(p.attr("columns"), program_.domains,
                                                                               "columns", input_columns);
                                                         spec.heads = within(p.attr("heads"), 1 << 20, "heads", 1);
                                                     }
                                                     if (spec.kind == ParameterKind::vector && spec.blocks != 1)
                                                         refuse("a vector of several blocks");
                                                     return spec;
                                                 })),
            most_parameters, "parameters");
    program_.given =
        few(keep(numbers_,
                 map<int>(value.attr("given"),
                          [&](py::handle g) { return g.attr("domain").is_none() ? -1 : domain(g.attr("domain")); })),
            most_given, "given inputs");
    program_.regions =
        few(keep(regions_, map<RegionSpec>(value.attr("regions"),
                                           [&](py::handle r) {
                                               return RegionSpec{domain(r.attr("domain")),
                                                                 within(r.attr("slots"), 1 << 10, "slots", 1)};
                                           })),
            64, "regions");
    program_.scalars = within(value.attr("scalars"), 1 << 10, "scalars");
    program_.scratch = few(keep(numbers_, map<int>(value.attr("scratch"), domain)), 32, "scratch rows");
    program_.products =
        few(keep(products_, map<ProductSpec>(value.attr("products"), [&](py::handle p) { return product(p); })), 32,
            "products");
    program_.inference = stages(value.attr("inference"), false);
    program_.forward = stages(value.attr("forward"), false);
    program_.backward = stages(value.attr("backward"), true);
    program_.state_products = keep(back_products_, map<BackProductSpec>(value.attr("state_products"),
                                                                        [&](py::handle b) { return back_product(b); }));
    program_.input.terms = terms(value.attr("input_terms"), input_columns);
    program_.input.number = program_.back_products++;
    program_.vector_gradients = gradients(value.attr("vector_gradients"), true);
    program_.given_gradients = gradients(value.attr("given_gradients"), false);
    int all = program_.input.terms.count;
    for (const auto &some : back_products_) {
        for (const BackProductSpec &b : some) all += b.terms.count;
    }
    if (program_.back_products > 64 || all > 128) refuse("more back products than there is room for");
}

std::vector<index> ProgramData::shape(int parameter, const Sizes &sizes) const {
    const ParameterSpec &spec = program_.parameters[parameter];
    const index rows = spec.blocks * sizes.widths[spec.domain];
    if (spec.kind != ParameterKind::weight) return {rows};
    return {rows, (spec.columns == input_columns ? sizes.input : sizes.widths[spec.columns]) / spec.heads};
}

double ProgramData::work(const Sizes &sizes) const {
    double work = 0;
    for (int i = 0; i < program_.parameters.count; ++i) {
        const auto shape = this->shape(i, sizes);
        if (shape.size() == 2) work += static_cast<double>(shape[0]) * static_cast<double>(shape[1]);
    }
    return work;
}

} // namespace rnnfast::bindings
