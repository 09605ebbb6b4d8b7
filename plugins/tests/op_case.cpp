#include "op_case.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <stdexcept>

namespace mamba_export::testing {
namespace {

Kind kind_of(const std::string& op) {
  static const std::map<std::string, Kind> kKinds = {
      {"CausalConv1d", Kind::kConv},          {"CausalConv1dUpdate", Kind::kConv},
      {"SelectiveScan", Kind::kSelective},    {"SelectiveStateUpdate", Kind::kSelective},
      {"SSDChunkScan", Kind::kSSD},           {"SSDStateUpdate", Kind::kSSD},
      {"ConvSSDStateUpdate", Kind::kConvSSD}, {"AddRMSNorm", Kind::kAddNorm},
      {"GatedRMSNorm", Kind::kGatedNorm},
  };
  const auto found = kKinds.find(op);
  if (found == kKinds.end()) throw std::runtime_error("these tests do not know the op " + op);
  return found->second;
}

// Any leading axes are rows here.
std::string lettered(const std::string& axes) {
  return axes.compare(0, 3, "...") == 0 ? "R" + axes.substr(3) : axes;
}

std::vector<OpSpec> read_contract() {
  std::vector<OpSpec> ops;
#define MAMBA_EXPORT_OP(op, function, version) ops.push_back({#op, kind_of(#op), {}, {}, {}});
#define MAMBA_EXPORT_INPUT(op, name, element, axes) \
  ops.back().inputs.push_back({#name, #element, lettered(axes)});
#define MAMBA_EXPORT_OUTPUT(op, name, element, axes) \
  ops.back().outputs.push_back({#name, #element, lettered(axes)});
#define MAMBA_EXPORT_ATTRIBUTE(op, name, kind) ops.back().attributes.push_back(#name);
#include "op_contract.inc"
#undef MAMBA_EXPORT_OP
#undef MAMBA_EXPORT_INPUT
#undef MAMBA_EXPORT_OUTPUT
#undef MAMBA_EXPORT_ATTRIBUTE
  return ops;
}

bool starts_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

// Operands by name, for the functions below.
class Operands {
 public:
  Operands(const OpSpec& op, const std::vector<void*>& pointers) {
    std::size_t next = 0;
    for (const auto* specs : {&op.inputs, &op.outputs}) {
      for (const OperandSpec& spec : *specs) by_name_[spec.name] = pointers[next++];
    }
  }
  void* operator()(const char* name) const { return by_name_.at(name); }
  float* f32(const char* name) const { return static_cast<float*>(by_name_.at(name)); }
  const std::int32_t* seqlens() const {
    return static_cast<const std::int32_t*>(by_name_.at("seqlens"));
  }

 private:
  std::map<std::string, void*> by_name_;
};

template <class P>
P conv_params(const Case& c, const Operands& at) {
  P p;
  p.batch = c.size['B'];
  p.channels = c.size['C'];
  p.width = c.size['K'];
  p.silu = c.silu;
  p.type = c.type;
  p.x = at("x");
  p.weight = at("weight");
  p.bias = at("bias");
  p.conv_state = at("conv_state");
  p.y = at("y");
  p.conv_state_out = at("conv_state_out");
  return p;
}

// What all recurrences share.
template <class P>
void set_recurrence(P& p, const Case& c, const Operands& at) {
  p.batch = c.size['B'];
  p.dstate = c.size['N'];
  p.ngroups = c.size['G'];
  p.dt_softplus = c.dt_softplus;
  p.type = c.type;
  p.x = at("x");
  p.dt = at("dt");
  p.A = at.f32("A");
  p.D = at.f32("D");
  p.dt_bias = at.f32("dt_bias");
  p.ssm_state = at.f32("ssm_state");
  p.y = at("y");
  p.ssm_state_out = at.f32("ssm_state_out");
}

template <class P>
P selective_params(const Case& c, const Operands& at) {
  P p;
  set_recurrence(p, c, at);
  p.dim = c.size['D'];
  p.gated = c.gated;
  p.B = at("B");
  p.C = at("C");
  p.z = at("z");
  return p;
}

// What Mamba-2's recurrences share.
template <class P>
void set_heads(P& p, const Case& c, const Operands& at) {
  set_recurrence(p, c, at);
  p.nheads = c.size['H'];
  p.headdim = c.size['P'];
  p.dt_min = c.dt_min;
  p.dt_max = c.dt_max;
}

template <class P>
P ssd_params(const Case& c, const Operands& at) {
  P p;
  set_heads(p, c, at);
  p.B = at("B");
  p.C = at("C");
  return p;
}

ConvSSDStateUpdateParams conv_ssd_params(const Case& c, const Operands& at) {
  auto p = conv_params<ConvSSDStateUpdateParams>(c, at);
  set_heads(p, c, at);
  return p;
}

AddRMSNormParams add_norm_params(const Case& c, const Operands& at) {
  AddRMSNormParams p;
  p.rows = c.size['R'];
  p.dim = c.size['D'];
  p.eps = c.eps;
  p.type = c.type;
  p.residual = c.residual;
  p.hidden = at("hidden");
  p.delta = at("delta");
  p.weight = at.f32("weight");
  p.y = at("y");
  p.hidden_out = at("hidden_out");
  return p;
}

GatedRMSNormParams gated_norm_params(const Case& c, const Operands& at) {
  GatedRMSNormParams p;
  p.rows = c.size['R'];
  p.dim = c.size['D'];
  p.ngroups = c.size['G'];
  p.eps = c.eps;
  p.norm_before_gate = c.norm_before_gate;
  p.type = c.type;
  p.x = at("x");
  p.z = at("z");
  p.weight = at.f32("weight");
  p.y = at("y");
  return p;
}

template <class P>
P over_time(P p, const Case& c, const Operands& at) {
  p.seqlen = c.size['T'];
  p.seqlens = at.seqlens();
  return p;
}

struct Runner {
  const Kernels& kernels;
  const ParallelFor& parallel_for;

#define MAMBA_EXPORT_RUN(Op, kernel) \
  void operator()(const Op##Params& p) const { kernels.kernel(p, parallel_for); }
  MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_RUN)
#undef MAMBA_EXPORT_RUN
};

}  // namespace

const std::vector<OpSpec>& contract() {
  static const std::vector<OpSpec> ops = read_contract();
  return ops;
}

const OpSpec& op_named(const std::string& name) {
  for (const OpSpec& op : contract()) {
    if (op.name == name) return op;
  }
  throw std::runtime_error("the contract has no op " + name);
}

bool OpSpec::takes(const std::string& attribute) const {
  return std::find(attributes.begin(), attributes.end(), attribute) != attributes.end();
}

std::size_t OpSpec::input(const std::string& operand) const {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].name == operand) return i;
  }
  throw std::runtime_error(name + " has no input " + operand);
}

std::size_t OpSpec::carried_input(std::size_t output) const {
  const std::string& carried = outputs.at(output).name;
  return input(carried.substr(0, carried.size() - std::string("_out").size()));
}

bool OpSpec::carries(std::size_t input) const {
  for (std::size_t output = 1; output < outputs.size(); ++output) {
    if (carried_input(output) == input) return true;
  }
  return false;
}

bool Case::has(char axis) const {
  return std::any_of(op->inputs.begin(), op->inputs.end(), [=](const OperandSpec& spec) {
    return spec.axes.find(axis) != std::string::npos;
  });
}

void Case::fit_channels() {
  if (is(Kind::kConvSSD)) size['C'] = size['H'] * size['P'] + 2 * size['G'] * size['N'];
}

std::vector<std::int64_t> Case::shape(const OperandSpec& spec) const {
  std::vector<std::int64_t> sizes;
  std::istringstream axes(spec.axes);
  for (std::string axis; std::getline(axes, axis, ',');) {
    const std::int64_t less = axis.size() > 1 ? std::stoi(axis.substr(2)) : 0;  // K-1
    sizes.push_back(size[axis[0]] - less);
  }
  return sizes;
}

std::int64_t Case::count(const OperandSpec& spec) const {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape(spec)) product *= extent;
  return product;
}

ElementType Case::element(const OperandSpec& spec) const {
  if (spec.element == "residual") return residual;
  return spec.element == "io" ? type : ElementType::kFloat32;
}

std::size_t Case::bytes(const OperandSpec& spec) const {
  return static_cast<std::size_t>(count(spec)) * size_of(element(spec));  // int32 is as wide
}

bool Case::supported() const {
  if (is(Kind::kSelective)) return size['N'] > 0;
  return !is(Kind::kConvSSD) || size['H'] * size['P'] > 0;
}

bool Case::unused(const OperandSpec& spec) const {
  return is(Kind::kSelective) && spec.name == "z" && !gated;
}

std::string Case::describe() const {
  std::ostringstream text;
  text << op->name;
  for (char letter = 'A'; letter <= 'Z'; ++letter) {
    if (has(letter)) text << ' ' << letter << '=' << size[letter];
  }
  const char* const types[] = {"float32", "float16", "bfloat16"};
  text << ' ' << types[static_cast<int>(type)] << " values=" << profile;
  if (is(Kind::kAddNorm)) text << " residual=" << types[static_cast<int>(residual)];
  const auto attribute = [&](const char* name, auto value) {
    if (op->takes(name)) text << ' ' << name << '=' << value;
  };
  attribute("activation", silu ? "silu" : "none");
  attribute("ngroups", size['G']);
  attribute("dt_softplus", dt_softplus);
  attribute("gated", gated);
  attribute("reverse", reverse);
  attribute("dt_min", dt_min);
  attribute("dt_max", dt_max);
  attribute("norm_before_gate", norm_before_gate);
  attribute("eps", eps);
  if (!seqlens.empty()) text << " seqlens=";
  for (std::size_t row = 0; row < seqlens.size(); ++row) text << (row ? "," : "") << seqlens[row];
  return text.str();
}

Params Case::params(const std::vector<void*>& operands) const {
  const Operands at(*op, operands);
  if (op->name == "CausalConv1d") {
    return over_time(conv_params<CausalConv1dParams>(*this, at), *this, at);
  }
  if (op->name == "CausalConv1dUpdate") return conv_params<CausalConv1dUpdateParams>(*this, at);
  if (op->name == "SelectiveScan") {
    auto p = over_time(selective_params<SelectiveScanParams>(*this, at), *this, at);
    p.reverse = reverse;
    return p;
  }
  if (op->name == "SelectiveStateUpdate") {
    return selective_params<SelectiveStateUpdateParams>(*this, at);
  }
  if (op->name == "SSDChunkScan") {
    return over_time(ssd_params<SSDChunkScanParams>(*this, at), *this, at);
  }
  if (op->name == "SSDStateUpdate") return ssd_params<SSDStateUpdateParams>(*this, at);
  if (op->name == "ConvSSDStateUpdate") return conv_ssd_params(*this, at);
  if (op->name == "AddRMSNorm") return add_norm_params(*this, at);
  if (op->name == "GatedRMSNorm") return gated_norm_params(*this, at);
  throw std::runtime_error("no kernel is called for " + op->name);
}

Case Case::part(std::int64_t row, std::int64_t first, std::int64_t end) const {
  Case result = *this;
  result.size[has('R') ? 'R' : 'B'] = 1;
  result.size['T'] = end - first;
  for (std::size_t i = 0; i < op->inputs.size(); ++i) {
    const OperandSpec& spec = op->inputs[i];
    const bool by_row = starts_with(spec.axes, "B,") || starts_with(spec.axes, "R,");
    if (spec.name == "seqlens" || !by_row) continue;
    const std::int64_t width = count(spec) / rows();
    auto from = values[i].begin() + row * width;
    auto to = from + width;
    if (starts_with(spec.axes, "B,T,")) {
      const std::int64_t token = size['T'] > 0 ? width / size['T'] : 0;
      to = from + end * token;
      from += first * token;
    }
    result.values[i].assign(from, to);
  }
  if (has('T')) {
    const std::int64_t valid = std::clamp<std::int64_t>(length(row) - first, 0, end - first);
    result.seqlens = {static_cast<std::int32_t>(valid)};
  }
  return result;
}

Case Case::as(const std::string& other,
              const std::map<std::string, std::vector<float>>& given) const {
  Case result = *this;
  result.op = &op_named(other);
  result.values.clear();
  for (const OperandSpec& spec : result.op->inputs) {
    const auto found = given.find(spec.name);
    result.values.push_back(found != given.end() ? found->second : (*this)[spec.name]);
  }
  return result;
}

Case Case::as_step() const {
  static const std::map<std::string, std::string> kSteps = {
      {"CausalConv1d", "CausalConv1dUpdate"},
      {"SelectiveScan", "SelectiveStateUpdate"},
      {"SSDChunkScan", "SSDStateUpdate"},
  };
  Case step = as(kSteps.at(op->name));
  step.seqlens.clear();
  return step;
}

std::string validate_params(const Params& params) {
  return std::visit([](const auto& p) { return validate(p); }, params);
}

void run_kernel(const Kernels& kernels, const Params& params, const ParallelFor& parallel_for) {
  std::visit(Runner{kernels, parallel_for}, params);
}

}  // namespace mamba_export::testing
