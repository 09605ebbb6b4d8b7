// Operands of more than 2^31 elements: each op computes its last row, or its last tokens, from
// offsets that 32 bits do not hold. Only that part is compared.
//
// usage: index_width_test [--isa NAME] [--op NAME]     every set of kernels unless one is named
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernel_sets.h"
#include "op_case.h"
#include "random.h"
#include "reference.h"
#include "sparse_memory.h"

namespace mamba_export::testing {
namespace {

// A row: a call whose batch or sequence is so long that operands pass 2^31 elements.
struct Row {
  const char* op;
  Sizes sizes;
  std::int64_t tokens;  // valid ones of the last row; the other rows are padding
  bool at_end;          // compare the last of those tokens, else all of them
  const char* why;
};

Sizes sizes(const std::vector<std::pair<char, std::int64_t>>& letters) {
  Sizes result;
  for (const auto& [letter, size] : letters) result[letter] = size;
  return result;
}

constexpr std::int64_t kHalf = std::int64_t{1} << 15;
constexpr std::int64_t kLong = (std::int64_t{1} << 19) + 1;

const Row kRows[] = {
    {"CausalConv1d", sizes({{'B', 1}, {'T', kHalf + 1}, {'C', 2 * kHalf}, {'K', 2}}), kHalf + 1,
     true, "x and y by token"},
    {"CausalConv1dUpdate", sizes({{'B', kHalf + 1}, {'C', 2 * kHalf}, {'K', 2}}), 1, false,
     "x, y and conv_state by row"},
    {"SelectiveScan", sizes({{'B', 2}, {'T', kLong}, {'D', 4096}, {'N', 256}, {'G', 16}}), 3, false,
     "x, dt, z, y, B and C by row"},
    {"SelectiveStateUpdate", sizes({{'B', 4 * kHalf / 16 + 1}, {'D', 1024}, {'N', 256}, {'G', 4}}),
     1, false, "ssm_state by row"},
    {"SSDChunkScan", sizes({{'B', 2}, {'T', kLong}, {'H', 64}, {'P', 64}, {'N', 256}, {'G', 16}}),
     3, false, "x, y, B and C by row"},
    {"SSDStateUpdate", sizes({{'B', kHalf + 1}, {'H', 4}, {'P', 128}, {'N', 128}, {'G', 2}}), 1,
     false, "ssm_state by row"},
    {"ConvSSDStateUpdate",
     sizes({{'B', kHalf + 1}, {'K', 4}, {'H', 2}, {'P', 10928}, {'N', 4}, {'G', 1}}), 1, false,
     "conv_state, ssm_state by row"},
    {"AddRMSNorm", sizes({{'R', kHalf + 1}, {'D', 2 * kHalf}}), 1, false,
     "hidden, delta and y by row"},
    {"GatedRMSNorm", sizes({{'R', kHalf + 1}, {'D', 2 * kHalf}, {'G', 8}}), 1, false,
     "x, z and y by row"},
};

// The part that is compared, as a case of its own.
Case compared_part(const Row& row, const OpSpec& op) {
  Case part;
  part.op = &op;
  part.size = row.sizes;
  part.fit_channels();
  part.size[part.has('R') ? 'R' : 'B'] = 1;
  const std::int64_t width = row.sizes['K'];
  if (part.has('T')) part.size['T'] = row.at_end ? width : row.tokens;
  part.type = part.residual = ElementType::kBFloat16;  // half the pages to touch
  part.dt_softplus = true;
  part.gated = true;
  part.dt_max = std::numeric_limits<float>::infinity();
  part.profile = "normal";
  if (part.has('T')) part.seqlens.push_back(static_cast<std::int32_t>(part.size['T']));
  Random random(20, 0);
  for (const OperandSpec& spec : op.inputs) {
    if (spec.name == "seqlens") continue;
    std::vector<float> values(static_cast<std::size_t>(part.count(spec)));
    for (float& value : values) {
      const double drawn = spec.name == "A" ? random.uniform(-8, 0) : random.normal();
      value = static_cast<float>(round_to(part.element(spec), drawn));
    }
    part.values.push_back(std::move(values));
  }
  return part;
}

bool by_row(const OperandSpec& spec) {
  return spec.axes.compare(0, 2, "B,") == 0 || spec.axes.compare(0, 2, "R,") == 0;
}

// Returns where the compared part of an operand starts, in bytes.
std::size_t start_of(const Row& row, const Case& whole, const Case& part, const OperandSpec& spec) {
  const std::size_t a_row = whole.bytes(spec) / static_cast<std::size_t>(whole.rows());
  return row.at_end ? whole.bytes(spec) - part.bytes(spec) : whole.bytes(spec) - a_row;
}

bool run_row(const Row& row, const Kernels& kernels) {
  const auto start = std::chrono::steady_clock::now();
  const OpSpec& op = op_named(row.op);
  const Case part = compared_part(row, op);
  Case whole = part;
  whole.size = row.sizes;
  whole.fit_channels();
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(whole.rows()), 0);
  lengths.back() = static_cast<std::int32_t>(row.tokens);

  std::vector<std::unique_ptr<SparseMemory>> memory;
  std::vector<void*> at;
  std::vector<char*> parts;
  std::int64_t largest = 0;
  const auto place = [&](const OperandSpec& spec) {
    const std::size_t first = by_row(spec) ? start_of(row, whole, part, spec) : 0;
    memory.push_back(
        std::make_unique<SparseMemory>(whole.bytes(spec), first, first + part.bytes(spec)));
    at.push_back(memory.back()->data());
    parts.push_back(memory.back()->data() + first);
    largest = std::max(largest, whole.count(spec));
  };
  for (std::size_t i = 0; i < op.inputs.size(); ++i) {
    if (op.inputs[i].name == "seqlens") {
      at.push_back(lengths.data());
      parts.push_back(nullptr);
    } else {
      place(op.inputs[i]);
      const ElementType type = part.element(op.inputs[i]);
      for (std::size_t k = 0; k < part.values[i].size(); ++k) {
        encode(type, part.values[i][k], parts.back() + k * size_of(type));
      }
    }
  }
  place(op.outputs[0]);
  for (std::size_t i = 1; i < op.outputs.size(); ++i) {  // in place
    at.push_back(at[op.carried_input(i)]);
    parts.push_back(parts[op.carried_input(i)]);
  }

  const Params params = whole.params(at);
  std::string problem = validate_params(params);
  if (problem.empty()) {
    run_kernel(kernels, params, {});
    const bool matrices = kernels.matrices && op.name == "SSDChunkScan";
    const Expected expected = matrices ? reference(part, Precision::kMatrices) : reference(part);
    const auto compare = [&](std::size_t output, const std::vector<Bounded>& truth,
                             std::size_t from) {
      const char* const bytes = parts[op.inputs.size() + output];
      const ElementType type = part.element(op.outputs[output]);
      for (std::size_t i = from; i < truth.size() && problem.empty(); ++i) {
        const double value = static_cast<double>(decode(type, bytes + i * size_of(type)));
        const double low = round_to(type, truth[i].value - truth[i].error);
        const double high = round_to(type, truth[i].value + truth[i].error);
        if (low <= value && value <= high) continue;
        problem = op.outputs[output].name + " of the part, [" + std::to_string(i) + "], is " +
                  std::to_string(value) + ", expected " + std::to_string(truth[i].value);
      }
    };
    const auto tokens = static_cast<std::size_t>(part.seqlen());
    compare(0, expected[0], row.at_end ? expected[0].size() / tokens * (tokens - 1) : 0);
    for (std::size_t i = 1; i < op.outputs.size(); ++i) compare(i, expected[i], 0);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%-9s %-21s %-28s %11lld elements %6.1f s %s\n", kernels.isa, row.op, row.why,
              static_cast<long long>(largest), seconds.count(),
              problem.empty() ? "passed" : ("FAILED: " + problem).c_str());
  std::fflush(stdout);
  return problem.empty() && largest > (std::int64_t{1} << 31);
}

int run_main(const std::string& isa, const std::string& op) {
  bool passed = true;
  int ran = 0;
  for (const Kernels* const kernels : kernel_sets()) {
    if (!isa.empty() && isa != kernels->isa) continue;
    for (const Row& row : kRows) {
      if (!op.empty() && op != row.op) continue;
      passed &= run_row(row, *kernels);
      ++ran;
    }
  }
  std::printf("index_width_test: rows=%d %s\n", ran, passed && ran > 0 ? "passed" : "FAILED");
  return passed && ran > 0 ? 0 : 1;
}

}  // namespace
}  // namespace mamba_export::testing

// Where an offset went wrong, its address is mostly nobody's.
extern "C" void report_outside(int) {
  constexpr char kText[] = "FAILED: touched memory outside the operands\n";
  [[maybe_unused]] const auto written = write(STDOUT_FILENO, kText, sizeof kText - 1);
  _exit(1);
}

int main(int count, char** words) {
  std::signal(SIGSEGV, report_outside);
  std::string isa, op;
  for (int i = 1; i + 1 < count; i += 2) {
    (std::string(words[i]) == "--isa" ? isa : op) = words[i + 1];
  }
  return mamba_export::testing::run_main(isa, op);
}
