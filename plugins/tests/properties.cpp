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

// One row's share of both outputs.
struct RowOf {
  RowOf(const Case& c, const Outputs& all, std::int64_t index)
      : row(static_cast<std::size_t>(index)),
        rows(static_cast<std::size_t>(c.rows())),
        y(all.y.data() + row * (all.y.size() / rows)),
        carried(all.carried.data() + row * (all.carried.size() / rows)) {}

  std::size_t row;
  std::size_t rows;
  const char* y;
  const char* carried;
};

// The expected y of the first tokens of a row, as many as `bytes` hold.
std::vector<Bounded> expected_y(const Case& c, const Expected& expected, const RowOf& row,
                                std::size_t bytes) {
  const auto first =
      expected.y.begin() + static_cast<std::ptrdiff_t>(row.row * (expected.y.size() / row.rows));
  return {first, first + static_cast<std::ptrdiff_t>(bytes / size_of(c.type))};
}

// The expected state of a row.
std::vector<Bounded> expected_state(const Case& c, const Expected& expected, const RowOf& row,
                                    std::size_t bytes) {
  const auto count = static_cast<std::ptrdiff_t>(bytes / size_of(c.element(c.op->outputs[1])));
  const auto first = expected.carried.begin() + static_cast<std::ptrdiff_t>(row.row) * count;
  return {first, first + count};
}

}  // namespace

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

void check_split(GuardedCall& guarded, const Kernels& kernels, const Case& c,
                 const Expected& expected, const Outputs& whole, Random& random, Counts& counts) {
  const std::int64_t seqlen = c.size['T'];
  const std::int64_t index = random.integer(0, c.size['B'] - 1);
  const std::int64_t length = c.length(index);
  const bool steps = length <= 40 && random.chance(0.5);
  std::vector<std::int64_t> cuts = {0, random.integer(0, seqlen), seqlen};
  if (steps) {
    cuts.resize(static_cast<std::size_t>(length) + 1);
    std::iota(cuts.begin(), cuts.end(), 0);
  }
  const OperandSpec& state_spec = c.op->outputs[1];
  Outputs joined;
  std::vector<float> state;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    Case piece = c.part(index, cuts[i], cuts[i + 1]);
    if (i > 0) piece.values[piece.carried_input()] = state;
    if (steps) piece = piece.as_step();
    const Call call{random.chance(0.5), random.chance(0.5), {}};
    Outputs out = guarded.run(kernels, piece, call);
    ++counts.runs;
    state = decoded(c.element(state_spec), out.carried);
    joined.y.insert(joined.y.end(), out.y.begin(), out.y.end());
    joined.carried = std::move(out.carried);
  }
  const RowOf row(c, whole, index);
  if (kernels.exact) {
    same_bits(steps ? "the state after steps" : "the state after a split", c.element(state_spec),
              joined.carried.data(), row.carried, joined.carried.size());
  } else {
    compare("the state in parts", c.element(state_spec), joined.carried,
            expected_state(c, expected, row, joined.carried.size()), counts);
  }
  compare("y in parts", c.type, joined.y, expected_y(c, expected, row, joined.y.size()), counts);
  ++counts.splits;
}

void check_row(GuardedCall& guarded, const Kernels& kernels, const Case& c,
               const Expected& expected, const Outputs& whole, Random& random, Counts& counts) {
  const std::int64_t index = random.integer(0, c.rows() - 1);
  const std::int64_t length = c.length(index);
  const Outputs alone = guarded.run(kernels, c.part(index, 0, length), {});
  ++counts.runs;
  const RowOf row(c, whole, index);
  const bool in_parts = c.has('T') && !kernels.exact;  // without its padding it is another sequence
  if (in_parts) {
    compare("the state of a row alone", c.element(c.op->outputs.back()), alone.carried,
            expected_state(c, expected, row, alone.carried.size()), counts);
  } else {
    same_bits("the state of a row alone", c.element(c.op->outputs.back()), alone.carried.data(),
              row.carried, alone.carried.size());
  }
  // One token is a step, which may form y's sum in another order.
  if (in_parts || (c.has('T') && length == 1)) {
    compare("y of a row alone", c.type, alone.y, expected_y(c, expected, row, alone.y.size()),
            counts);
  } else {
    same_bits("y of a row alone", c.type, alone.y.data(), row.y, alone.y.size());
  }
  ++counts.rows;
}

void check_again(GuardedCall& guarded, const Kernels& kernels, const Case& c, const Call& layout,
                 const Outputs& whole, Random& random, Counts& counts) {
  ThreadPool pool(static_cast<int>(random.integer(1, 3)), random);
  const Call other{!layout.in_place, !layout.at_end, pool.parallel_for()};
  const Outputs again = guarded.run(kernels, c, other);
  ++counts.runs;
  counts.in_place += other.in_place && c.carries();
  counts.threaded += pool.loops() > 0;
  same_bits("the state of another run", c.element(c.op->outputs.back()), again.carried.data(),
            whole.carried.data(), whole.carried.size());
  for (std::int64_t r = 0; r < c.rows() && c.seqlen() > 0; ++r) {  // up to each row's length
    const RowOf one(c, whole, r), two(c, again, r);
    const std::size_t token = whole.y.size() / one.rows / static_cast<std::size_t>(c.seqlen());
    same_bits("y of another run", c.type, two.y, one.y,
              token * static_cast<std::size_t>(c.length(r)));
  }
}

void check_refusals(const Case& c, const std::vector<void*>& at, Random& random, Counts& counts) {
  const auto refused = [&](const Case& broken, const std::string& what) {
    std::vector<void*> pointers = at;
    std::vector<std::int32_t> lengths = broken.seqlens;
    if (c.has('T')) pointers[c.input("seqlens")] = lengths.data();
    if (validate_params(broken.params(pointers)).empty()) {
      throw Failure("validate() accepts " + what + ": " + broken.describe());
    }
    ++counts.invalid;
  };
  const auto with_size = [&](char letter, std::int64_t size) {
    Case broken = c;
    broken.size[letter] = size;
    refused(broken, std::string("a size ") + letter);
  };
  if (c.is(Kind::kConv)) {
    for (const std::int64_t width : {-4, 0, 1, 5}) with_size('K', width);
  } else if (!c.is(Kind::kAddNorm)) {
    const std::int64_t channels = c.size[c.has('H') ? 'H' : 'D'];
    for (const std::int64_t groups : {-1, 0}) with_size('G', groups);
    if (channels > 0) with_size('G', channels + 1);
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
