// Random calls of the kernels, of every set that this program is linked with, compared with a
// float64 reference. No runtime is involved. `kernel_fuzz --help` says how to use it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "generate.h"
#include "guarded_call.h"
#include "kernel_sets.h"
#include "properties.h"
#include "reference.h"

namespace mamba_export::testing {
namespace {

constexpr char kHelp[] =
    "usage: kernel_fuzz [--cases N] [--seed S] [--first CASE] [--op NAME] [--isa NAME]\n"
    "                   [--wide yes] [--failures N] [--overflow heap|guard|arithmetic]\n"
    "\n"
    "Runs N random cases (default 2000) of seed S (default 1) and prints what ran. A failure\n"
    "prints the line that repeats it; the run stops at the first (--failures: at that many) and\n"
    "ends with 1. --wide draws only cases that are long enough for threads. --overflow makes a\n"
    "mistake on purpose, which must end the process: it proves that this build notices.\n";

struct Options {
  std::int64_t cases = 2000;
  std::int64_t first = 0;
  std::int64_t failures = 1;
  std::uint64_t seed = 1;
  const OpSpec* op = nullptr;
  bool wide = false;
  std::string isa;
  std::string overflow;
};

class Fuzzer {
 public:
  explicit Fuzzer(const Options& options) : options_(options) {
    for (const Kernels* kernels : kernel_sets()) {
      if (options.isa.empty() || options.isa == kernels->isa) kernels_.push_back(kernels);
    }
    if (kernels_.empty()) throw std::runtime_error("this machine has no kernels " + options.isa);
  }

  // Returns whether all cases passed.
  bool run() {
    const auto start = std::chrono::steady_clock::now();
    std::int64_t failures = 0;
    const std::int64_t end = options_.first + options_.cases;
    for (std::int64_t i = options_.first; failures < options_.failures && i < end; ++i) {
      failures += run_case(i) ? 0 : 1;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    report(seconds.count(), failures);
    return failures == 0;
  }

 private:
  bool run_case(std::int64_t index) {
    Random random(options_.seed, static_cast<std::uint64_t>(index));
    const Case c = generate(random, options_.op, options_.wide);
    Counts& counts = by_op_[c.op->name];
    ++counts.cases;
    const char* isa = "any";
    try {
      if (!accepted(c, random, counts)) return true;
      const Expected expected = reference(c);
      survey(c, expected, counts);
      Expected coarse;
      for (const Kernels* kernels : kernels_) {
        isa = kernels->isa;
        const bool matrices = kernels->matrices && c.op->name == "SSDChunkScan";
        if (matrices && coarse.empty()) coarse = reference(c, Precision::kMatrices);
        run_on(*kernels, c, matrices ? coarse : expected, random, counts);
      }
      return true;
    } catch (const Failure& failure) {
      std::string repeat = "--seed " + std::to_string(options_.seed) + " --first " +
                           std::to_string(index) + " --cases 1";
      if (options_.op != nullptr) repeat += " --op " + options_.op->name;
      if (options_.wide) repeat += " --wide yes";
      std::printf("FAILED: %s\n  %s\n  kernels: %s\n  repeat: kernel_fuzz %s\n", failure.what(),
                  c.describe().c_str(), isa, repeat.c_str());
      return false;
    }
  }

  static void survey(const Case& c, const Expected& expected, Counts& counts) {
    std::int64_t outputs = 0, unspecified = 0;
    for (const std::vector<Bounded>& values : expected) {
      for (const Bounded& value : values) {
        ++outputs;
        unspecified += !value.specified();
        counts.nonfinite += value.specified() && !value.finite();
      }
    }
    const std::int64_t tokens = c.rows() * c.seqlen();
    std::int64_t padding = 0;
    for (std::int64_t r = 0; r < c.rows() && tokens > 0; ++r) {
      const auto width = static_cast<std::int64_t>(expected[0].size()) / tokens;
      padding += (c.seqlen() - c.length(r)) * width;
    }
    counts.outputs += outputs - padding;
    counts.unspecified += unspecified - padding;
    counts.empty += outputs == 0;
  }

  // Whether validate() takes the case, which it must do exactly if kernels support its sizes.
  bool accepted(const Case& c, Random& random, Counts& counts) {
    const std::vector<void*> at = call_.place(c, {});
    const std::string problem = validate_params(c.params(at));
    if (random.chance(0.02)) check_refusals(c, at, random, counts);
    const bool supported = c.supported();
    counts.rejected += !supported;
    if (problem.empty() == supported) return supported;
    throw Failure(supported ? "validate() refuses a valid case: " + problem
                            : "validate() accepts sizes that no kernel supports");
  }

  void run_on(const Kernels& kernels, const Case& c, const Expected& expected, Random& random,
              Counts& counts) {
    const Call call{draw_in_place(random, *c.op), random.chance(0.5), {}};
    const Outputs whole = call_.run(kernels, c, call);
    ++counts.runs;
    counts.in_place += call.in_place != 0;
    compare(c, whole, expected, counts);

    if (random.chance(0.5)) check_again(call_, kernels, c, call, whole, random, counts);
    if (c.rows() == 0) return;
    if (c.has('T') && !c.reverse && random.chance(0.15)) {
      check_split(call_, kernels, c, expected, whole, random, counts);
    }
    if (c.is(Kind::kConvSSD)) check_chain(call_, kernels, c, whole, counts);
    if (random.chance(0.1)) check_row(call_, kernels, c, expected, whole, random, counts);
  }

  void report(double seconds, std::int64_t failures) const {
    std::string isas;
    for (const Kernels* kernels : kernels_) isas += std::string(" ") + kernels->isa;
    std::printf("%-20s", "op");
    for (const Column& column : kColumns) std::printf(" %11s", column.name);
    std::printf(" %6s\n", "worst");
    Counts all;
    for (const auto& [op, counts] : by_op_) {
      print(op, counts);
      for (const Column& column : kColumns) all.*column.count += counts.*column.count;
      all.worst = std::max(all.worst, counts.worst);
    }
    print("all", all);
    std::printf("kernel_fuzz: seed=%llu isa=%s cases=%lld runs=%lld failures=%lld seconds=%.1f\n",
                static_cast<unsigned long long>(options_.seed), isas.c_str() + 1,
                static_cast<long long>(all.cases), static_cast<long long>(all.runs),
                static_cast<long long>(failures), seconds);
  }

  static void print(const std::string& op, const Counts& counts) {
    std::printf("%-20s", op.c_str());
    for (const Column& column : kColumns) {
      std::printf(" %11lld", static_cast<long long>(counts.*column.count));
    }
    std::printf(" %6.3f\n", counts.worst);
  }

  Options options_;
  std::vector<const Kernels*> kernels_;
  GuardedCall call_;
  std::map<std::string, Counts> by_op_;
};

// ---- deliberate mistakes ------------------------------------------------------------------------

// Lets a kernel write one element past its output, or overflows; returns if nothing noticed.
void make_a_mistake(const std::string& kind) {
  if (kind == "arithmetic") {
    volatile std::int32_t largest = std::numeric_limits<std::int32_t>::max();
    largest = largest + 1;
    return;
  }
  Random random(1, 1);
  const OpSpec& op = op_named("SSDStateUpdate");
  Case c = generate(random, &op, false);
  while (c.count(c.op->outputs[0]) < 2) c = generate(random, &op, false);
  GuardedCall call;
  std::vector<void*> at = call.place(c, {});
  const std::size_t y = c.op->inputs.size();
  const std::size_t short_by_one = c.bytes(c.op->outputs[0]) - size_of(c.type);
  const std::unique_ptr<char[]> heap(new char[short_by_one]);
  GuardedMemory guarded(short_by_one);
  at[y] = kind == "heap" ? heap.get() : guarded.place(short_by_one, true);
  run_kernel(*cpu_kernels("portable"), c.params(at), {});
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string option = words[i];
    if (option == "--help" || i + 1 == count) {
      std::fputs(kHelp, stdout);
      std::exit(option == "--help" ? 0 : 2);
    }
    const char* const value = words[++i];
    if (option == "--cases") {
      options.cases = std::atoll(value);
    } else if (option == "--seed") {
      options.seed = std::strtoull(value, nullptr, 10);
    } else if (option == "--first") {
      options.first = std::atoll(value);
    } else if (option == "--failures") {
      options.failures = std::atoll(value);
    } else if (option == "--op") {
      options.op = &op_named(value);
    } else if (option == "--wide") {
      options.wide = std::string(value) == "yes";
    } else if (option == "--isa") {
      options.isa = value;
    } else if (option == "--overflow") {
      options.overflow = value;
    } else {
      throw std::runtime_error("unknown option " + option);
    }
  }
  return options;
}

int run_main(int count, char** words) {
  const Options options = parse(count, words);
  if (!options.overflow.empty()) {
    make_a_mistake(options.overflow);
    std::printf("the mistake was not noticed\n");
    return 0;
  }
  return Fuzzer(options).run() ? 0 : 1;
}

}  // namespace
}  // namespace mamba_export::testing

int main(int count, char** words) {
  try {
    return mamba_export::testing::run_main(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernel_fuzz: %s\n", error.what());
    return 2;
  }
}
