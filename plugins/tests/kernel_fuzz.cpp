// Random calls of the kernels, on every instruction set that this machine has, compared with a
// float64 reference. No runtime is involved. `kernel_fuzz --help` says how to use it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "generate.h"
#include "guarded_memory.h"
#include "reference.h"
#include "thread_pool.h"

namespace mamba_export::testing {
namespace {

constexpr char kHelp[] =
    "usage: kernel_fuzz [--cases N] [--seed S] [--first CASE] [--op NAME] [--isa NAME]\n"
    "                   [--wide yes] [--failures N] [--overflow heap|guard|arithmetic]\n"
    "\n"
    "Runs N random cases (default 2000) of seed S (default 1) and prints what ran. A failure\n"
    "prints the line that repeats it; the run stops at the first (--failures: at that many) and\n"
    "ends with 1. --wide draws only cases that are long enough for threads. --overflow proves "
    "that\n"
    "the checks of this build are live: it makes a mistake on purpose, which must end the "
    "process.\n";

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

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Counts {
  std::int64_t cases = 0;
  std::int64_t rejected = 0;     // sizes that no kernel supports: refused
  std::int64_t empty = 0;        // no element of output
  std::int64_t outputs = 0;      // elements of output, padding not counted
  std::int64_t unspecified = 0;  // of them: float32 may overflow on the way there
  std::int64_t nonfinite = 0;    // of them: must be NaN or infinite
  std::int64_t invalid = 0;      // calls that were broken on purpose: refused
  std::int64_t runs = 0;         // calls of kernels
  std::int64_t in_place = 0;     // of them: the new state over the old one
  std::int64_t threaded = 0;     // of them: on several threads
  std::int64_t splits = 0;       // rows run in parts or steps
  std::int64_t rows = 0;         // rows run alone
  std::int64_t compared = 0;     // elements
  double worst = 0;              // largest error in units of its bound
};

struct Column {
  const char* name;
  std::int64_t Counts::* count;
};

constexpr Column kColumns[] = {
    {"cases", &Counts::cases},
    {"rejected", &Counts::rejected},
    {"empty", &Counts::empty},
    {"outputs", &Counts::outputs},
    {"unspecified", &Counts::unspecified},
    {"nonfinite", &Counts::nonfinite},
    {"invalid", &Counts::invalid},
    {"runs", &Counts::runs},
    {"in_place", &Counts::in_place},
    {"threaded", &Counts::threaded},
    {"splits", &Counts::splits},
    {"rows", &Counts::rows},
    {"compared", &Counts::compared},
};

struct Outputs {
  std::vector<char> y;
  std::vector<char> carried;  // empty if the op carries nothing on
};

// ---- one call -----------------------------------------------------------------------------------

struct Call {
  bool in_place = false;  // the new state over the old one
  bool at_end = true;     // operands end at a guard page, else they start at one
  ParallelFor parallel_for;
};

// Runs kernels on operands in guarded memory.
class Bench {
 public:
  Bench() {
    constexpr std::size_t kOperands = 12;
    for (std::size_t i = 0; i < kOperands; ++i) memory_.emplace_back(std::size_t{16} << 20);
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
      const bool over_input = i == 1 && call.in_place;
      GuardedMemory& memory = memory_[c.op->inputs.size() + i];
      const std::size_t size = c.bytes(c.op->outputs[i]);
      char* const bytes = memory.place(size, call.at_end);
      std::memset(bytes, 0xa5, size);
      at.push_back(over_input ? at[c.carried_input()] : bytes);
    }
    return at;
  }

  Outputs run(const CpuKernels& kernels, const Case& c, const Call& call) {
    const std::vector<void*> at = place(c, call);
    run_kernel(kernels, c.params(at), call.parallel_for);
    const std::size_t inputs = c.op->inputs.size();
    for (std::size_t i = 0; i < at.size(); ++i) {
      const std::string& name = (i < inputs ? c.op->inputs[i] : c.op->outputs[i - inputs]).name;
      if (!memory_[i].margin_intact()) throw Failure("wrote beside " + name);
      if (i >= inputs || (call.in_place && c.carries() && i == c.carried_input())) continue;
      if (c.unused(c.op->inputs[i])) continue;
      std::vector<char> before(c.bytes(c.op->inputs[i]));
      write(c, i, before.data());
      if (!std::equal(before.begin(), before.end(), static_cast<const char*>(at[i]))) {
        throw Failure("changed " + name);
      }
    }
    const auto copy = [&](std::size_t i) {
      const char* const bytes = static_cast<const char*>(at[inputs + i]);
      return std::vector<char>(bytes, bytes + c.bytes(c.op->outputs[i]));
    };
    return {copy(0), c.carries() ? copy(1) : std::vector<char>()};
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

// ---- comparing ----------------------------------------------------------------------------------

std::string text(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.9g", value);
  return buffer;
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
    const bool right = truth.is_nan() ? std::isnan(value) : low <= value && value <= high;
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

// ---- properties ---------------------------------------------------------------------------------

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

// A sequence in two parts, or token by token through the step op, leaves the same state, and a y
// within the bounds of the whole. Each row goes by itself: a step has no lengths.
void check_split(Bench& bench, const CpuKernels& kernels, const Case& c, const Expected& expected,
                 const Outputs& whole, Random& random, Counts& counts) {
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
    Outputs out = bench.run(kernels, piece, call);
    ++counts.runs;
    state = decoded(c.element(state_spec), out.carried);
    joined.y.insert(joined.y.end(), out.y.begin(), out.y.end());
    joined.carried = std::move(out.carried);
  }
  const RowOf row(c, whole, index);
  same_bits(steps ? "the state after steps" : "the state after a split", c.element(state_spec),
            joined.carried.data(), row.carried, joined.carried.size());
  compare("y in parts", c.type, joined.y, expected_y(c, expected, row, joined.y.size()), counts);
  ++counts.splits;
}

// A row gives the same bits alone and without its padding.
void check_row(Bench& bench, const CpuKernels& kernels, const Case& c, const Expected& expected,
               const Outputs& whole, Random& random, Counts& counts) {
  const std::int64_t index = random.integer(0, c.rows() - 1);
  const std::int64_t length = c.length(index);
  const Outputs alone = bench.run(kernels, c.part(index, 0, length), {});
  ++counts.runs;
  const RowOf row(c, whole, index);
  same_bits("the state of a row alone", c.element(c.op->outputs.back()), alone.carried.data(),
            row.carried, alone.carried.size());
  if (c.has('T') && length == 1) {  // that is a step, which may form y's sum in another order
    compare("y of a row alone", c.type, alone.y, expected_y(c, expected, row, alone.y.size()),
            counts);
  } else {
    same_bits("y of a row alone", c.type, alone.y.data(), row.y, alone.y.size());
  }
  ++counts.rows;
}

// Where a kernel works in place, with threads and in another order, it gives the same bits.
void check_again(Bench& bench, const CpuKernels& kernels, const Case& c, const Call& call,
                 const Outputs& whole, Random& random, Counts& counts) {
  ThreadPool pool(static_cast<int>(random.integer(1, 3)), random);
  const Call other{!call.in_place, !call.at_end, pool.parallel_for()};
  const Outputs again = bench.run(kernels, c, other);
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

// Every way to spoil sizes or lengths is refused with a message.
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

// ---- a case -------------------------------------------------------------------------------------

class Fuzzer {
 public:
  explicit Fuzzer(const Options& options) : options_(options) {
    for (const char* isa : {"avx512", "avx2", "portable"}) {
      const CpuKernels* const kernels = cpu_kernels(isa);
      if (kernels != nullptr && (options.isa.empty() || options.isa == isa)) {
        kernels_.push_back(kernels);
      }
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
      for (const CpuKernels* kernels : kernels_) {
        isa = kernels->isa;
        run_on(*kernels, c, expected, random, counts);
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
    for (const auto* values : {&expected.y, &expected.carried}) {
      for (const Bounded& value : *values) {
        ++outputs;
        unspecified += !value.specified();
        counts.nonfinite += value.specified() && !value.finite();
      }
    }
    const std::int64_t tokens = c.rows() * c.seqlen();
    std::int64_t padding = 0;
    for (std::int64_t r = 0; r < c.rows() && tokens > 0; ++r) {
      const auto width = static_cast<std::int64_t>(expected.y.size()) / tokens;
      padding += (c.seqlen() - c.length(r)) * width;
    }
    counts.outputs += outputs - padding;
    counts.unspecified += unspecified - padding;
    counts.empty += outputs == 0;
  }

  // Whether validate() takes the case, which it must do exactly if kernels support its sizes.
  bool accepted(const Case& c, Random& random, Counts& counts) {
    const std::vector<void*> at = bench_.place(c, {});
    const std::string problem = validate_params(c.params(at));
    if (random.chance(0.02)) check_refusals(c, at, random, counts);
    const bool supported = !c.is(Kind::kSelective) || c.size['N'] > 0;
    counts.rejected += !supported;
    if (problem.empty() == supported) return supported;
    throw Failure(supported ? "validate() refuses a valid case: " + problem
                            : "validate() accepts sizes that no kernel supports");
  }

  void run_on(const CpuKernels& kernels, const Case& c, const Expected& expected, Random& random,
              Counts& counts) {
    const Call call{random.chance(0.5), random.chance(0.5), {}};
    const Outputs whole = bench_.run(kernels, c, call);
    ++counts.runs;
    counts.in_place += call.in_place && c.carries();
    compare("y", c.type, whole.y, expected.y, counts);
    compare("state", c.element(c.op->outputs.back()), whole.carried, expected.carried, counts);

    if (random.chance(0.5)) check_again(bench_, kernels, c, call, whole, random, counts);
    if (c.rows() == 0) return;
    if (c.has('T') && !c.reverse && random.chance(0.15)) {
      check_split(bench_, kernels, c, expected, whole, random, counts);
    }
    if (random.chance(0.1)) check_row(bench_, kernels, c, expected, whole, random, counts);
  }

  void report(double seconds, std::int64_t failures) const {
    std::string isas;
    for (const CpuKernels* kernels : kernels_) isas += std::string(" ") + kernels->isa;
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
  std::vector<const CpuKernels*> kernels_;
  Bench bench_;
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
  Bench bench;
  std::vector<void*> at = bench.place(c, {});
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
