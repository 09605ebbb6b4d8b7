// A call of a kernel whose operands lie in guarded memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "guarded_memory.h"
#include "kernel_sets.h"
#include "op_case.h"
#include "random.h"

namespace mamba_export::testing {

// What a kernel did wrong.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Outputs = std::vector<std::vector<char>>;  // their bytes, in the contract's order

struct Call {
  unsigned in_place = 0;  // bit i: output i lies over the input that it carries on
  bool at_end = true;     // operands end at a guard page, else they start at one
  ParallelFor parallel_for;

  bool over_input(std::size_t output) const { return (in_place >> output & 1) != 0; }
};

// All that an op carries on, in place.
inline unsigned all_in_place(const OpSpec& op) { return (1u << op.outputs.size()) - 2; }

// Any of it.
inline unsigned draw_in_place(Random& random, const OpSpec& op) {
  return static_cast<unsigned>(random.bits()) & all_in_place(op);
}

// Runs kernels on operands in guarded memory.
class GuardedCall {
 public:
  GuardedCall() {
    constexpr std::size_t kOperands = 12;
    for (std::size_t i = 0; i < kOperands; ++i) memory_.emplace_back(std::size_t{16} << 20);
    for (const GuardedMemory& each : memory_) share_memory(each.memory(), each.capacity());
  }

  // Places the operands of a case and returns pointers to them in the contract's order.
  std::vector<void*> place(const Case& c, const Call& call) {
    std::vector<void*> at;
    for (std::size_t i = 0; i < c.op->inputs.size(); ++i) {
      const OperandSpec& spec = c.op->inputs[i];
      char* const bytes = memory_[i].place(c.bytes(spec), call.at_end);
      write(c, i, bytes);
      at.push_back(c.unused(spec) ? memory_[i].forbidden() : bytes);
    }
    for (std::size_t i = 0; i < c.op->outputs.size(); ++i) {
      GuardedMemory& memory = memory_[c.op->inputs.size() + i];
      const std::size_t size = c.bytes(c.op->outputs[i]);
      char* const bytes = memory.place(size, call.at_end);
      std::memset(bytes, 0xa5, size);
      at.push_back(call.over_input(i) ? at[c.op->carried_input(i)] : bytes);
    }
    return at;
  }

  Outputs run(const Kernels& kernels, const Case& c, const Call& call) {
    return run(c, call, [&](const std::vector<void*>& at) {
      with_operands(kernels, c, at, [&](const Pointers& there) {
        run_kernel(kernels, c.params(there), call.parallel_for);
      });
    });
  }

  // Runs `kernel(pointers to the operands)`.
  template <class F>
  Outputs run(const Case& c, const Call& call, const F& kernel) {
    const std::vector<void*> at = place(c, call);
    kernel(at);
    const std::size_t inputs = c.op->inputs.size();
    Outputs outputs;
    std::vector<bool> overwritten(inputs);
    for (std::size_t i = 0; i < c.op->outputs.size(); ++i) {
      const char* const bytes = static_cast<const char*>(at[inputs + i]);
      outputs.emplace_back(bytes, bytes + c.bytes(c.op->outputs[i]));
      if (call.over_input(i)) overwritten[c.op->carried_input(i)] = true;
    }
    for (std::size_t i = 0; i < at.size(); ++i) {
      const std::string& name = (i < inputs ? c.op->inputs[i] : c.op->outputs[i - inputs]).name;
      if (!memory_[i].margin_intact()) throw Failure("wrote beside " + name);
      if (i >= inputs || overwritten[i] || c.unused(c.op->inputs[i])) continue;
      std::vector<char> before(c.bytes(c.op->inputs[i]));
      write(c, i, before.data());
      if (!std::equal(before.begin(), before.end(), static_cast<const char*>(at[i]))) {
        throw Failure("changed " + name);
      }
    }
    return outputs;
  }

 private:
  static void write(const Case& c, std::size_t input, char* to) {
    const OperandSpec& spec = c.op->inputs[input];
    if (spec.name == "seqlens") {
      for (const std::int32_t& length : c.seqlens) {
        std::memcpy(to, &length, sizeof length);
        to += sizeof length;
      }
      return;
    }
    const ElementType type = c.element(spec);
    for (const float value : c.values[input]) {
      encode(type, value, to);
      to += size_of(type);
    }
  }

  std::vector<GuardedMemory> memory_;
};

}  // namespace mamba_export::testing
