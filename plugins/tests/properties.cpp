#include "properties.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "thread_pool.h"

namespace mamba_export::testing {
namespace {

std::string text(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.9g", value);
  return buffer;
}

// Elements of equal bits, or NaNs, whose sign and payload nobody promises.
void same_bits(const std::string& what, ElementType type, const char* one, const char* other,
               std::size_t bytes) {
  const std::size_t size = size_of(type);
  for (std::size_t at = 0; at < bytes; at += size) {
    if (std::memcmp(one + at, other + at, size) == 0) continue;
    const double left = decode(type, one + at), right = decode(type, other + at);
    if (std::isnan(left) && std::isnan(right)) continue;
    throw Failure(what + " has other bits: [" + std::to_string(at / size) + "] is " + text(left) +
                  ", was " + text(right));
  }
}

std::vector<float> decoded(ElementType type, const std::vector<char>& bytes) {
  std::vector<float> values;
  for (std::size_t i = 0; i < bytes.size(); i += size_of(type)) {
    values.push_back(decode(type, bytes.data() + i));
  }
  return values;
}

// Of each output the share of one row, and of y only its first tokens.
template <class T>
std::vector<std::vector<T>> row_of(const Case& c, const std::vector<std::vector<T>>& all,
                                   std::int64_t row, std::int64_t tokens) {
  std::vector<std::vector<T>> shares;
  for (const std::vector<T>& output : all) {
    const auto share = static_cast<std::ptrdiff_t>(output.size()) / c.rows();
    const auto first = output.begin() + row * share;
    const bool whole = !shares.empty() || c.seqlen() == 0;
    shares.emplace_back(first, first + (whole ? share : share / c.seqlen() * tokens));
  }
  return shares;
}

void compare(const std::string& name, ElementType type, const std::vector<char>& ours,
             const std::vector<Bounded>& expected, Counts& counts) {
  if (ours.size() != expected.size() * size_of(type)) {
    throw Failure("the reference of " + name + " has another size");
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Bounded truth = expected[i];
    const double value = static_cast<double>(decode(type, ours.data() + i * size_of(type)));
    if (!truth.specified()) continue;
    ++counts.compared;
    const double low = round_to(type, truth.value - truth.error);
    const double high = round_to(type, truth.value + truth.error);
    // A NaN with an error stands for an infinity, too.
    const bool right = truth.is_nan() ? std::isnan(value) || (truth.error > 0 && std::isinf(value))
                                      : low <= value && value <= high;
    if (!right) {
      throw Failure(name + "[" + std::to_string(i) + "] is " + text(value) + ", expected " +
                    text(truth.value) + " within " + text(truth.error));
    }
    // Where a bound is as large as its value, as below the smallest normal number, 0 is right too.
    if (type == ElementType::kFloat32 && truth.error < std::fabs(truth.value)) {
      counts.worst = std::max(counts.worst, std::fabs(value - truth.value) / (truth.error + kTiny));
    }
  }
}

// Compares one output.
void compare_output(const std::string& which, const Case& c, std::size_t output,
                    const Outputs& ours, const Expected& expected, Counts& counts) {
  const OperandSpec& spec = c.op->outputs[output];
  compare(spec.name + which, c.element(spec), ours[output], expected[output], counts);
}

void same_output(const std::string& which, const Case& c, std::size_t output, const Outputs& one,
                 const Outputs& other) {
  const OperandSpec& spec = c.op->outputs[output];
  same_bits(spec.name + which, c.element(spec), one[output].data(), other[output].data(),
            one[output].size());
}

}  // namespace

void compare(const Case& c, const Outputs& ours, const Expected& expected, Counts& counts) {
  if (ours.size() != expected.size()) throw Failure("the reference has other outputs");
  for (std::size_t i = 0; i < ours.size(); ++i) compare_output("", c, i, ours, expected, counts);
}

void check_split(GuardedCall& guarded, const Kernels& kernels, const Case& c,
                 const Expected& expected, const Outputs& whole, Random& random, Counts& counts) {
  const std::int64_t seqlen = c.size['T'];
  const std::int64_t index = random.integer(0, c.size['B'] - 1);
  const std::int64_t length = c.length(index);
  const bool steps = length > 0 && length <= 40 && random.chance(0.5);
  std::vector<std::int64_t> cuts = {0, random.integer(0, seqlen), seqlen};
  if (steps) {
    cuts.resize(static_cast<std::size_t>(length) + 1);
    std::iota(cuts.begin(), cuts.end(), 0);
  }
  const std::size_t outputs = c.op->outputs.size();
  Outputs joined(outputs);
  std::vector<std::vector<float>> states(outputs);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    Case piece = c.part(index, cuts[i], cuts[i + 1]);
    for (std::size_t k = 1; i > 0 && k < outputs; ++k) {
      piece.values[c.op->carried_input(k)] = states[k];
    }
    if (steps) piece = piece.as_step();
    const Call call{draw_in_place(random, *c.op), random.chance(0.5), {}};
    Outputs out = guarded.run(kernels, piece, call);
    ++counts.runs;
    joined[0].insert(joined[0].end(), out[0].begin(), out[0].end());
    for (std::size_t k = 1; k < outputs; ++k) {
      states[k] = decoded(c.element(c.op->outputs[k]), out[k]);
      joined[k] = std::move(out[k]);
    }
  }
  const std::int64_t tokens = cuts.back();
  const Expected truth = row_of(c, expected, index, tokens);
  const Outputs row = row_of(c, whole, index, tokens);
  for (std::size_t k = 1; k < outputs; ++k) {
    if (kernels.exact) {
      same_output(steps ? " after steps" : " after a split", c, k, joined, row);
    } else {
      compare_output(" in parts", c, k, joined, truth, counts);
    }
  }
  compare_output(" in parts", c, 0, joined, truth, counts);
  ++counts.splits;
}

void check_row(GuardedCall& guarded, const Kernels& kernels, const Case& c,
               const Expected& expected, const Outputs& whole, Random& random, Counts& counts) {
  const std::int64_t index = random.integer(0, c.rows() - 1);
  const std::int64_t length = c.length(index);
  const Outputs alone = guarded.run(kernels, c.part(index, 0, length), {});
  ++counts.runs;
  const Expected truth = row_of(c, expected, index, length);
  const Outputs row = row_of(c, whole, index, length);
  const bool in_parts = c.has('T') && !kernels.exact;  // without its padding it is another sequence
  for (std::size_t i = 0; i < alone.size(); ++i) {
    // One token is a step, which may form y's sum in another order.
    if (in_parts || (i == 0 && c.has('T') && length == 1)) {
      compare_output(" of a row alone", c, i, alone, truth, counts);
    } else {
      same_output(" of a row alone", c, i, alone, row);
    }
  }
  ++counts.rows;
}

void check_chain(GuardedCall& guarded, const Kernels& kernels, const Case& c, const Outputs& whole,
                 Counts& counts) {
  const Outputs convolved = guarded.run(kernels, c.as("CausalConv1dUpdate"), {});
  const auto parts = split_channels(c, decoded(c.type, convolved[0]));
  const Outputs advanced = guarded.run(kernels, c.as("SSDStateUpdate", parts), {});
  counts.runs += 2;
  const Outputs chained = {advanced[0], convolved[1], advanced[1]};
  for (std::size_t i = 0; i < whole.size(); ++i) {
    same_output(" of two ops in one", c, i, whole, chained);
  }
  ++counts.chains;
}

void check_again(GuardedCall& guarded, const Kernels& kernels, const Case& c, const Call& layout,
                 const Outputs& whole, Random& random, Counts& counts) {
  ThreadPool pool(static_cast<int>(random.integer(1, 3)), random);
  const Call other{~layout.in_place & all_in_place(*c.op), !layout.at_end, pool.parallel_for()};
  const Outputs again = guarded.run(kernels, c, other);
  ++counts.runs;
  counts.in_place += other.in_place != 0;
  counts.threaded += pool.loops() > 0;
  for (std::int64_t r = 0; r < c.rows(); ++r) {  // y up to each row's length
    const Outputs one = row_of(c, whole, r, c.length(r)), two = row_of(c, again, r, c.length(r));
    for (std::size_t i = 0; i < one.size(); ++i) same_output(" of another run", c, i, two, one);
  }
}

void check_refusals(const Case& c, const std::vector<void*>& at, Random& random, Counts& counts) {
  const auto refused = [&](const Case& broken, const std::string& what) {
    std::vector<void*> pointers = at;
    std::vector<std::int32_t> lengths = broken.seqlens;
    if (c.has('T')) pointers[c.op->input("seqlens")] = lengths.data();
    if (validate_params(broken.params(pointers)).empty()) {
      throw Failure("validate() accepts " + what + ": " + broken.describe());
    }
    ++counts.invalid;
  };
  const auto with_size = [&](char letter, std::int64_t size) {
    Case broken = c;
    broken.size[letter] = size;
    if (letter != 'C') broken.fit_channels();
    refused(broken, std::string("a size ") + letter);
  };
  if (c.has('K')) {
    for (const std::int64_t width : {-4, 0, 1, 5}) with_size('K', width);
  }
  if (c.has('G') || c.op->takes("ngroups")) {
    const std::int64_t channels = c.size[c.has('H') ? 'H' : 'D'];
    for (const std::int64_t groups : {-1, 0}) with_size('G', groups);
    if (channels > 0) with_size('G', channels + 1);
  }
  if (c.is(Kind::kConvSSD)) {
    for (const int more : {-1, 1}) with_size('C', c.size['C'] + more);
  }
  if (c.is(Kind::kSelective)) {
    for (const std::int64_t dstate : {-1, 0, 257}) with_size('N', dstate);
  }
  if (c.has('R')) {
    for (const float eps : {-1e-6f, std::numeric_limits<float>::quiet_NaN()}) {
      Case broken = c;
      broken.eps = eps;
      refused(broken, "an eps");
    }
  }
  if (!c.has('T') || c.size['B'] == 0) return;
  for (const std::int64_t length : {std::int64_t{-1}, c.size['T'] + 1}) {
    Case broken = c;
    broken.seqlens[static_cast<std::size_t>(random.integer(0, c.size['B'] - 1))] =
        static_cast<std::int32_t>(length);
    refused(broken, "a length outside the sequence");
  }
}

}  // namespace mamba_export::testing
