// One call of an op: sizes, attributes and the values of its operands, read from the contract table
// that Python generates.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cpu_isa.h"
#include "elements.h"

namespace mamba_export::testing {

struct OperandSpec {
  std::string name;
  std::string element;  // io, residual, f32, state or i32
  std::string axes;     // such as B,C,K-1; R stands for any leading axes
};

enum class Kind { kConv, kSelective, kSSD, kConvSSD, kAddNorm, kGatedNorm };

struct OpSpec {
  std::string name;  // such as SelectiveScan
  Kind kind;
  std::vector<OperandSpec> inputs;
  std::vector<OperandSpec> outputs;  // y, then what is carried on: states or the residual stream
  std::vector<std::string> attributes;

  bool takes(const std::string& attribute) const;
  // Returns the index of an input; there must be one of that name.
  std::size_t input(const std::string& name) const;
  // Returns the index of the input that an output other than y carries on.
  std::size_t carried_input(std::size_t output) const;
  bool carries(std::size_t input) const;  // whether there is such an output
};

// All ops, in the contract's order.
const std::vector<OpSpec>& contract();

// Returns an op of the contract; its absence is an error.
const OpSpec& op_named(const std::string& name);

// Sizes by their letter.
class Sizes {
 public:
  std::int64_t& operator[](char letter) { return values_[static_cast<std::size_t>(letter - 'A')]; }
  std::int64_t operator[](char letter) const {
    return values_[static_cast<std::size_t>(letter - 'A')];
  }

 private:
  std::array<std::int64_t, 26> values_{};
};

using Params = std::variant<CausalConv1dParams, CausalConv1dUpdateParams, SelectiveScanParams,
                            SelectiveStateUpdateParams, SSDChunkScanParams, SSDStateUpdateParams,
                            ConvSSDStateUpdateParams, AddRMSNormParams, GatedRMSNormParams>;

struct Case {
  const OpSpec* op = nullptr;
  Sizes size;
  ElementType type = ElementType::kFloat32;
  ElementType residual = ElementType::kFloat32;
  bool silu = false;
  bool dt_softplus = false;
  bool gated = false;
  bool reverse = false;
  float dt_min = 0;
  float dt_max = 0;
  float eps = 0;
  bool norm_before_gate = false;
  std::string profile;  // how the values were drawn
  // Of each input but seqlens; exact in its element type.
  std::vector<std::vector<float>> values;
  std::vector<std::int32_t> seqlens;  // [B], if the op has them

  bool has(char axis) const;  // whether an operand has this axis
  bool is(Kind kind) const { return op->kind == kind; }
  // Sets C to what the other sizes leave of it, if the op splits C into other operands.
  void fit_channels();
  std::vector<std::int64_t> shape(const OperandSpec& spec) const;
  std::int64_t count(const OperandSpec& spec) const;
  ElementType element(const OperandSpec& spec) const;
  std::size_t bytes(const OperandSpec& spec) const;
  const std::vector<float>& operator[](const std::string& name) const {
    return values[op->input(name)];
  }
  std::int64_t rows() const { return size[has('R') ? 'R' : 'B']; }
  std::int64_t seqlen() const { return has('T') ? size['T'] : 1; }
  std::int64_t length(std::int64_t row) const {  // valid tokens
    return has('T') ? seqlens[static_cast<std::size_t>(row)] : 1;
  }
  bool supported() const;                      // whether there are kernels for these sizes
  bool unused(const OperandSpec& spec) const;  // the dummy of a switched-off input
  std::string describe() const;

  // Returns what the kernel takes, for pointers to inputs and outputs in the contract's order.
  Params params(const std::vector<void*>& operands) const;

  // Returns one row, and of a sequence the tokens `first` to `end`.
  Case part(std::int64_t row, std::int64_t first, std::int64_t end) const;
  // Returns a case of another op: operands that are not given are this case's of the same name.
  Case as(const std::string& other,
          const std::map<std::string, std::vector<float>>& given = {}) const;
  // Returns the step op's case for this case of one token.
  Case as_step() const;
};

// Returns what ConvSSDStateUpdate's recurrence takes of its convolution's y [B,C]: x, B and C.
template <class T>
std::map<std::string, std::vector<T>> split_channels(const Case& c, const std::vector<T>& y) {
  const std::pair<const char*, std::int64_t> parts[] = {{"x", c.size['H'] * c.size['P']},
                                                        {"B", c.size['G'] * c.size['N']},
                                                        {"C", c.size['G'] * c.size['N']}};
  std::map<std::string, std::vector<T>> split;
  auto from = y.begin();
  for (std::int64_t row = 0; row < c.size['B']; ++row) {
    for (const auto& [name, count] : parts) {
      split[name].insert(split[name].end(), from, from + count);
      from += count;
    }
  }
  return split;
}

std::string validate_params(const Params& params);
void run_kernel(const Kernels& kernels, const Params& params, const ParallelFor& parallel_for);

}  // namespace mamba_export::testing
