#include "generate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "bounded.h"

namespace mamba_export::testing {
namespace {

// One more and one less than each size at which a kernel changes its way, and primes.
const std::vector<std::int64_t> kSizes = {
    1,  1,  2,  3,  4,  5,   6,   7,   8,   9,   11,  12,  13,  15,  16,   17,
    19, 20, 23, 24, 27, 31,  32,  33,  37,  40,  47,  48,  49,  56,  63,   64,
    65, 79, 80, 96, 97, 127, 128, 129, 160, 255, 256, 257, 320, 512, 1023, 2049,
};
const std::vector<std::int64_t> kBatches = {1, 1, 2, 3, 5};
const std::vector<std::int64_t> kLargeBatches = {3, 17, 40};
const std::vector<std::int64_t> kGroups = {1, 1, 2, 3, 4, 5, 7};

// The nearest number of a type; what would be infinite is the type's largest.
float as_element(ElementType type, double value) {
  const double max = format(type).max;
  if (std::isfinite(value)) value = std::min(std::max(value, -max), max);
  return static_cast<float>(round_to(type, value));
}

// A size of at most `most` that the others do not have, if there is one; of several draws the
// largest.
std::int64_t draw_size(Random& random, double most, int draws, std::vector<std::int64_t>& taken) {
  std::int64_t size = 1;
  for (int attempt = 0; attempt < 40 && draws > 0; ++attempt) {
    const std::int64_t drawn = random.pick(kSizes);
    const bool repeated = std::find(taken.begin(), taken.end(), drawn) != taken.end();
    if (static_cast<double>(drawn) > most || (repeated && !random.chance(0.02))) continue;
    size = std::max(size, drawn);
    --draws;
  }
  taken.push_back(size);
  return size;
}

// Sizes that suit the matrices of a GPU: several chunks of 64 tokens, or several tiles of a state.
void draw_matrix_sizes(Random& random, Case& c, bool wide) {
  double left = wide ? 1e6 : std::exp(random.uniform(std::log(2e3), std::log(60e3)));
  const auto take = [&](char letter, const std::vector<std::int64_t>& sizes) {
    std::int64_t size = random.pick(sizes);
    while (size > sizes.front() && static_cast<double>(size) > left) size = random.pick(sizes);
    c.size[letter] = size;
    left = std::max(left / static_cast<double>(size), 1.0);
  };
  const bool long_row = random.chance(0.5);
  take('G', {1, 1, 1, 2});
  if (long_row && c.has('T')) take('T', {2, 17, 63, 64, 65, 127, 129, 192, 300, 450, 1100, 2049});
  take('N', {16, 16, 32, 48, 64, 80, 128, 144, 192, 256});
  take('P', {8, 8, 16, 24, 40, 64, 72, 128, 136});
  if (!long_row && c.has('T')) take('T', {1, 2, 3, 16, 31, 64, 65, 100, 130});
  take('B', {1, 1, 2, 3});
  take('H', {1, 1, 2, 3, 5});
  c.size['H'] *= c.size['G'];
}

void draw_any_sizes(Random& random, Case& c, bool wide) {
  // How many elements of state are advanced, in all.
  double left = wide ? 300e3 : std::exp(random.uniform(std::log(20.0), std::log(3000.0)));
  std::vector<std::int64_t> taken;
  const auto take = [&](char letter, std::int64_t size) {
    c.size[letter] = size;
    left = std::max(left / static_cast<double>(size), 1.0);
  };
  if (c.has('B')) take('B', random.pick(wide && !c.has('T') ? kLargeBatches : kBatches));
  const bool grouped = c.has('G') || c.op->takes("ngroups");
  if (grouped) take('G', random.pick(kGroups));
  std::vector<char> letters;
  for (const char letter : {'T', 'C', 'D', 'H', 'P', 'N', 'R'}) {
    if (c.has(letter) && !(letter == 'C' && c.is(Kind::kConvSSD))) letters.push_back(letter);
  }
  for (std::size_t i = letters.size(); i > 1; --i) {  // who gets the large share
    const auto other = random.integer(0, static_cast<std::int64_t>(i) - 1);
    std::swap(letters[i - 1], letters[static_cast<std::size_t>(other)]);
  }
  // Long and narrow: the shape of segments.
  const auto time = std::find(letters.begin(), letters.end(), 'T');
  const bool lengthy = time != letters.end() && random.chance(0.015);
  if (lengthy) {
    std::iter_swap(letters.begin(), time);
    left = std::max(left, 4000.0);
  }
  for (const char letter : letters) {
    const double most = std::min(left, letter == 'N' ? 256.0 : 4096.0);
    take(letter, draw_size(random, most, lengthy && letter == 'T' ? 12 : wide ? 3 : 1, taken));
  }
  if (grouped) c.size[c.has('H') ? 'H' : 'D'] *= c.size['G'];
  if (random.chance(0.02)) c.size[random.pick(letters)] = 0;
  if (c.has('B') && random.chance(0.01)) c.size['B'] = 0;
}

void draw_sizes(Random& random, Case& c, bool wide) {
  wide = wide || random.chance(0.002);
  if (c.has('K')) c.size['K'] = random.integer(2, 4);
  if ((c.is(Kind::kSSD) || c.is(Kind::kConvSSD)) && random.chance(0.3)) {
    draw_matrix_sizes(random, c, wide);
  } else {
    draw_any_sizes(random, c, wide);
  }
  c.fit_channels();
}

void draw_attributes(Random& random, Case& c) {
  c.type = static_cast<ElementType>(random.integer(0, 2));
  c.residual = random.chance(0.5) ? ElementType::kFloat32 : c.type;
  c.silu = random.chance(0.7);
  c.dt_softplus = random.chance(0.8);
  c.gated = random.chance(0.6);
  c.reverse = c.op->name == "SelectiveScan" && random.chance(0.2);
  const bool limited = random.chance(0.3);
  c.dt_min = limited ? 0.01f : 0.0f;
  c.dt_max = limited ? 0.05f : std::numeric_limits<float>::infinity();
  c.eps = random.pick<float>({1e-5f, 1e-6f, 1e-2f, 0.0f});
  c.norm_before_gate = random.chance(0.4);
  if (!c.has('T')) return;
  const bool whole = random.chance(0.4);
  for (std::int64_t row = 0; row < c.size['B']; ++row) {
    const std::int64_t length = whole ? c.size['T'] : random.integer(0, c.size['T']);
    c.seqlens.push_back(static_cast<std::int32_t>(length));
  }
}

// The values of one operand, before they are rounded to its type.
class Values {
 public:
  Values(Random& random, Case& c) : random_(random), c_(c) {
    static const std::vector<std::string> kProfiles = {
        "normal", "normal", "normal", "normal",  "wild",
        "large",  "tiny",   "burst",  "special", "special",
    };
    c.profile = random.pick(kProfiles);
    zero_state_ = random.chance(0.15);
  }

  double draw(const OperandSpec& spec) {
    const std::string& name = spec.name;
    if (name == "A") {
      if (c_.profile == "wild" && random_.chance(0.05)) return random_.pick<double>({0.0, 0.5});
      return -std::exp(random_.uniform(c_.profile == "wild" ? -5.0 : 0.0, std::log(16.0)));
    }
    if (name == "dt_bias") {
      const double step = std::exp(random_.uniform(std::log(1e-3), std::log(1e-1)));
      return c_.dt_softplus ? std::log(std::expm1(step)) : step;
    }
    if (name == "dt") {
      if (c_.profile == "wild") return 8 * random_.normal();
      return c_.dt_softplus ? random_.normal() : 1e-2 * std::fabs(random_.normal());
    }
    if (zero_state_ && c_.op->carries(c_.op->input(name))) return 0;
    if (c_.profile == "large") return random_.normal() * std::pow(10, random_.uniform(0, 6));
    if (c_.profile == "tiny") return random_.normal() * std::pow(10, random_.uniform(-42, 0));
    return random_.normal();
  }

 private:
  Random& random_;
  Case& c_;
  bool zero_state_ = false;
};

// Replaces a few elements of any operand by numbers that no model should hold.
void poison(Random& random, Case& c) {
  // The largest payload of a NaN runs over where it is rounded like a number.
  constexpr std::uint64_t kLargestNan = 0x7fffffffffffffffu;
  double nan;
  std::memcpy(&nan, &kLargestNan, sizeof nan);
  const std::vector<double> kPoisons = {
      kInfinity, -kInfinity, nan,   std::numeric_limits<double>::quiet_NaN(),
      0.0,       -0.0,       1e300, -1e300,
      0x1p-24,   -0x1p-149,  88.0,  -100.0,
  };
  for (std::int64_t left = random.integer(1, 3); left > 0; --left) {
    const auto which = random.integer(0, static_cast<std::int64_t>(c.values.size()) - 1);
    auto& values = c.values[static_cast<std::size_t>(which)];
    if (values.empty()) continue;
    const auto at = random.integer(0, static_cast<std::int64_t>(values.size()) - 1);
    const ElementType type = c.element(c.op->inputs[static_cast<std::size_t>(which)]);
    values[static_cast<std::size_t>(at)] = as_element(type, random.pick(kPoisons));
  }
}

// Calls `change(first, end)` with the range of elements of each token of an operand [B,T,...].
template <class F>
void for_each_token(const Case& c, const OperandSpec& spec, const F& change) {
  const std::int64_t tokens = c.size['B'] * c.size['T'];
  const std::int64_t width = tokens > 0 ? c.count(spec) / tokens : 0;
  for (std::int64_t token = 0; token < tokens; ++token) {
    change(token / c.size['T'], token % c.size['T'], token * width, (token + 1) * width);
  }
}

// What stands past a row's length must be finite and must not matter.
void fill_padding(Random& random, Case& c) {
  static const std::vector<float> kGarbage = {0.0f, 1.0f, -6e4f, 6e4f};
  const float garbage = as_element(c.type, random.pick(kGarbage));
  for (std::size_t i = 0; i < c.values.size(); ++i) {
    if (c.op->inputs[i].axes.compare(0, 4, "B,T,") != 0) continue;
    for_each_token(c, c.op->inputs[i],
                   [&](std::int64_t row, std::int64_t t, std::int64_t first, std::int64_t end) {
                     if (t < c.seqlens[static_cast<std::size_t>(row)]) return;
                     std::fill(c.values[i].begin() + first, c.values[i].begin() + end, garbage);
                   });
  }
}

// Decays so strong that differences of prefix sums would cancel.
void burst(Case& c) {
  if (!c.has('T') || c.is(Kind::kConv)) return;
  const std::size_t dt = c.op->input("dt");
  for_each_token(c, c.op->inputs[dt],
                 [&](std::int64_t, std::int64_t t, std::int64_t first, std::int64_t end) {
                   if (t < 8 || t >= 72) return;
                   std::fill(c.values[dt].begin() + first, c.values[dt].begin() + end, 20.0f);
                 });
}

}  // namespace

Case generate(Random& random, const OpSpec* op, bool wide) {
  Case c;
  c.op = op != nullptr ? op : &random.pick(contract());
  draw_sizes(random, c, wide);
  draw_attributes(random, c);
  Values values(random, c);
  for (const OperandSpec& spec : c.op->inputs) {
    if (spec.name == "seqlens") continue;
    std::vector<float> drawn(static_cast<std::size_t>(c.count(spec)));
    for (float& value : drawn) value = as_element(c.element(spec), values.draw(spec));
    c.values.push_back(std::move(drawn));
  }
  if (c.profile == "burst") burst(c);
  if (c.profile == "special") poison(random, c);
  if (c.has('T')) fill_padding(random, c);
  return c;
}

}  // namespace mamba_export::testing
