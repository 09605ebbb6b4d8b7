// How accurate the kernels' exponentials, softplus and SiLU are, against double: the largest error
// in units of the last place, and the mean signed relative error. The mean is what counts over a
// long sequence: a decay that is biased by b is biased by b / (1 - decay) after many tokens.
//
// usage: math_test [--every N]     every N-th float of each range (default 499; 1 is all of them)
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "math_probe.h"

namespace mamba_export::testing {
namespace {

struct Range {
  const char* name;
  MathFunction MathProbe::* function;
  double (*truth)(double);
  float low;
  float high;
  double max_ulp;
  double max_bias;  // mean relative error
};

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();

double exp2_truth(double x) { return std::exp2(x); }
double exp_truth(double x) { return std::exp(x); }
double softplus_truth(double x) { return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
double silu_truth(double x) { return x / (1 + std::exp(-x)); }

// Arguments nearer to zero give 1 (or x): see kSpecials. Below -126 results are subnormal or zero,
// whose relative error says nothing. 1e-8 of bias is 1/50 of what spoils a state in 1e5 tokens.
constexpr float kSmall = 0x1p-20f;
const Range kRanges[] = {
    {"exp2 [-126,-2^-20]", &MathProbe::exp2_of_negative, exp2_truth, -126.0f, -kSmall, 1.5, 1e-8},
    {"exp2 [-1/2,-2^-20]", &MathProbe::exp2_of_negative, exp2_truth, -0.5f, -kSmall, 1.5, 1e-8},
    {"exp [-87,-2^-20]", &MathProbe::exp, exp_truth, -87.0f, -kSmall, 1.6, 1e-8},
    {"exp [-1,-2^-20]", &MathProbe::exp, exp_truth, -1.0f, -kSmall, 1.6, 1e-8},
    {"exp [2^-20,88]", &MathProbe::exp, exp_truth, kSmall, 88.0f, 1.6, 1e-8},
    {"softplus [-87,-2^-20]", &MathProbe::softplus, softplus_truth, -87.0f, -kSmall, 3.0, 1e-8},
    {"softplus [2^-20,88]", &MathProbe::softplus, softplus_truth, kSmall, 88.0f, 3.0, 1e-8},
    {"SiLU [-87,-2^-20]", &MathProbe::silu, silu_truth, -87.0f, -kSmall, 3.0, 1e-8},
    {"SiLU [2^-20,128]", &MathProbe::silu, silu_truth, kSmall, 128.0f, 3.0, 1e-8},
};

// The floats of a range in their order: those of one sign have consecutive bits.
std::int64_t index_of(float x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >= 0 ? bits
                   : static_cast<std::int64_t>(std::numeric_limits<std::int32_t>::min()) - bits;
}

float float_at(std::int64_t index) {
  const auto bits = static_cast<std::int32_t>(
      index >= 0 ? index
                 : static_cast<std::int64_t>(std::numeric_limits<std::int32_t>::min()) - index);
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

double ulp(double value) {
  const int exponent = value == 0 ? -126 : std::max(std::ilogb(value), -126);
  return std::ldexp(1.0, exponent - 23);
}

struct Measured {
  double ulp = 0;
  float worst = 0;
  double sum = 0;
  std::int64_t count = 0;
};

// Over floats of a range. Most floats lie near zero, where these functions are flat: `uniform`
// takes points of equal distance instead, which is what the mean must be over.
Measured measure(const MathProbe& probe, const Range& range, std::int64_t every, bool uniform) {
  constexpr std::size_t kBatch = 4096;
  Measured result;
  std::vector<float> x(kBatch), y(kBatch);
  const std::int64_t first = index_of(range.low), last = index_of(range.high);
  const std::int64_t points = (last - first) / every + 1;
  std::size_t filled = 0;
  for (std::int64_t i = 0; i < points; ++i) {
    x[filled++] =
        uniform ? static_cast<float>(range.low + (static_cast<double>(range.high) - range.low) *
                                                     (static_cast<double>(i) + 0.5) /
                                                     static_cast<double>(points))
                : float_at(first + i * every);
    if (filled < kBatch && i + 1 < points) continue;
    (probe.*range.function)(x.data(), y.data(), filled);
    for (std::size_t k = 0; k < filled; ++k) {
      const double truth = range.truth(static_cast<double>(x[k]));
      const double error = static_cast<double>(y[k]) - truth;
      const double units = std::fabs(error) / ulp(truth);
      if (!(units <= result.ulp)) {  // NaN is the worst of all
        result.ulp = units;
        result.worst = x[k];
      }
      result.sum += error / truth;
    }
    result.count += static_cast<std::int64_t>(filled);
    filled = 0;
  }
  return result;
}

bool check_range(const MathProbe& probe, const Range& range, std::int64_t every) {
  const Measured floats = measure(probe, range, every, false);
  const Measured points = measure(probe, range, every, true);
  const Measured& worst = points.ulp <= floats.ulp ? floats : points;
  const double bias = points.sum / static_cast<double>(points.count);
  const bool passed = worst.ulp <= range.max_ulp && std::fabs(bias) <= range.max_bias;
  std::printf("%-9s %-22s %11lld %8.3f %6.1f  at %-14.8g %+10.2e %8.0e%s\n", probe.isa, range.name,
              static_cast<long long>(floats.count + points.count), worst.ulp, range.max_ulp,
              static_cast<double>(worst.worst), bias, range.max_bias, passed ? "" : "  FAILED");
  return passed;
}

struct Special {
  const char* name;
  MathFunction MathProbe::* function;
  float x;
  float y;
};

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A decay of exactly 1 must not wear, and what is not finite must stay visible.
const Special kSpecials[] = {
    {"exp2", &MathProbe::exp2_of_negative, 0.0f, 1.0f},
    {"exp2", &MathProbe::exp2_of_negative, -0.0f, 1.0f},
    {"exp2", &MathProbe::exp2_of_negative, -0x1p-26f, 1.0f},
    {"exp2", &MathProbe::exp2_of_negative, -0x1p-149f, 1.0f},
    {"exp2", &MathProbe::exp2_of_negative, -126.0f, 0x1p-126f},
    {"exp2", &MathProbe::exp2_of_negative, -151.0f, 0.0f},
    {"exp2", &MathProbe::exp2_of_negative, -kMax, 0.0f},
    {"exp2", &MathProbe::exp2_of_negative, -kInfinity, 0.0f},
    {"exp2", &MathProbe::exp2_of_negative, kNaN, kNaN},
    {"exp", &MathProbe::exp, 0.0f, 1.0f},
    {"exp", &MathProbe::exp, -0x1p-26f, 1.0f},
    {"exp", &MathProbe::exp, -0x1p-149f, 1.0f},
    {"exp", &MathProbe::exp, -kMax, 0.0f},
    {"exp", &MathProbe::exp, -kInfinity, 0.0f},
    {"exp", &MathProbe::exp, 89.0f, kInfinity},
    {"exp", &MathProbe::exp, kInfinity, kInfinity},
    {"exp", &MathProbe::exp, kNaN, kNaN},
    {"softplus", &MathProbe::softplus, -kInfinity, 0.0f},
    {"softplus", &MathProbe::softplus, -200.0f, 0.0f},
    {"softplus", &MathProbe::softplus, kMax, kMax},
    {"softplus", &MathProbe::softplus, kInfinity, kInfinity},
    {"softplus", &MathProbe::softplus, kNaN, kNaN},
    {"SiLU", &MathProbe::silu, 0.0f, 0.0f},
    {"SiLU", &MathProbe::silu, kMax, kMax},
    {"SiLU", &MathProbe::silu, -kMax, 0.0f},
    {"SiLU", &MathProbe::silu, kInfinity, kInfinity},
    {"SiLU", &MathProbe::silu, -kInfinity, kNaN},  // -inf / inf
    {"SiLU", &MathProbe::silu, kNaN, kNaN},
};

bool check_special(const MathProbe& probe, const Special& special) {
  float y;
  (probe.*special.function)(&special.x, &y, 1);
  if (std::isnan(special.y) ? std::isnan(y) : y == special.y) return true;
  std::printf("%-9s %s(%g) is %g, expected %g  FAILED\n", probe.isa, special.name,
              static_cast<double>(special.x), static_cast<double>(y),
              static_cast<double>(special.y));
  return false;
}

int run_main(std::int64_t every) {
  const auto start = std::chrono::steady_clock::now();
  std::printf("%-9s %-22s %11s %8s %6s  %-17s %10s %8s\n", "ISA", "function", "arguments",
              "max ulp", "limit", "", "bias", "limit");
  bool passed = true;
  for (const char* isa : {"avx512", "avx2", "portable"}) {
    const MathProbe* const probe = math_probe(isa);
    if (probe == nullptr) continue;
    for (const Range& range : kRanges) passed &= check_range(*probe, range, every);
    for (const Special& special : kSpecials) passed &= check_special(*probe, special);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("math_test: every=%lld seconds=%.1f %s\n", static_cast<long long>(every),
              seconds.count(), passed ? "passed" : "FAILED");
  return passed ? 0 : 1;
}

}  // namespace
}  // namespace mamba_export::testing

int main(int count, char** words) {
  std::int64_t every = 499;
  if (count == 3 && std::string(words[1]) == "--every") every = std::atoll(words[2]);
  if ((count != 1 && count != 3) || every < 1) {
    std::fputs("usage: math_test [--every N]\n", stderr);
    return 2;
  }
  return mamba_export::testing::run_main(every);
}
