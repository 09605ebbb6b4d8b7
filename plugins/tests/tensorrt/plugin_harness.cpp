// Random calls of the TensorRT plugins, driven as TensorRT drives them, without TensorRT. What
// `enqueue` leaves is compared with a float64 reference and with the kernels called directly.
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include "cuda_launch.h"
#include "driven_plugin.h"
#include "generate.h"
#include "guarded_call.h"
#include "properties.h"
#include "reference.h"
#include "refusals.h"

namespace mamba_export::testing {
namespace {

constexpr char kHelp[] =
    "usage: plugin_harness fuzz OP CASES SEED    run random cases of an op\n"
    "       plugin_harness concurrent OP CASES SEED\n"
    "                                            run clones of a plugin in several threads\n"
    "       plugin_harness workspace CASES SEED  compare promised with needed workspaces\n"
    "       plugin_harness refusals              print what is said of each mistake\n";

// Sizes that a profile may reach beyond those of a case. Far larger batches need less workspace.
Case larger(Case c, Random& random) {
  for (const char letter : {'B', 'T', 'R'}) {
    if (random.chance(0.3)) continue;
    c.size[letter] = c.size[letter] * random.integer(1, 64) + random.integer(0, 3);
  }
  return c;
}

class Harness {
 public:
  Harness() : workspace_(std::size_t{256} << 20) {
    share_memory(workspace_.memory(), workspace_.capacity());
  }

  void run_case(const Case& c, Random& random) {
    if (!c.supported()) return;
    const bool two_leading = c.has('R') && random.chance(0.5);
    const DrivenPlugin parsed(c.op->name, Fields(c), nvinfer1::TensorRTPhase::kBUILD);
    const std::size_t bytes = parsed.build(c, larger(c, random), two_leading);
    const DrivenPlugin engine = parsed.from_engine().from_engine();
    const DrivenPlugin contexts[] = {engine.in_context(), engine.in_context()};
    // Shapes change in one context, then in the other one, and back.
    check(contexts[0], c, two_leading, bytes, random);
    if (c.rows() > 0) {
      const Case row = c.part(random.integer(0, c.rows() - 1), 0, c.seqlen());
      check(contexts[1], row, two_leading, bytes, random);
      check(contexts[0], row, two_leading, bytes, random);
    }
    check(contexts[0], c, two_leading, bytes, random);
    ++counts_.cases;
  }

  const Counts& counts() const { return counts_; }

 private:
  void check(const DrivenPlugin& plugin, const Case& c, bool two_leading, std::size_t bytes,
             Random& random) {
    const Call call{draw_in_place(random, *c.op), random.chance(0.5), {}};
    void* const workspace = workspace_.place((bytes + 15) / 16 * 16, true);
    const Outputs ours = guarded_.run(
        c, call, [&](const std::vector<void*>& at) { plugin.run(c, two_leading, at, workspace); });
    ++counts_.runs;
    counts_.in_place += call.in_place != 0;
    if (!workspace_.margin_intact()) throw Failure("wrote beside the workspace");
    const auto precision =
        c.op->name == "SSDChunkScan" ? Precision::kMatrices : Precision::kFloat32;
    compare(c, ours, reference(c, precision), counts_);
    if (ours != guarded_.run(*kernel_sets().front(), c, call)) {
      throw Failure("the plugin and its kernel give different bits");
    }
  }

  GuardedCall guarded_;
  GuardedMemory workspace_;
  Counts counts_;
};

int fuzz(const std::string& op, std::int64_t cases, std::uint64_t seed) {
  Harness harness;
  for (std::int64_t i = 0; i < cases; ++i) {
    Random random(seed, static_cast<std::uint64_t>(i));
    const Case c = generate(random, &op_named(op), false);
    try {
      harness.run_case(c, random);
    } catch (const Failure& failure) {
      std::printf("FAILED: %s\n  case %lld: %s\n", failure.what(), static_cast<long long>(i),
                  c.describe().c_str());
      return 1;
    }
  }
  const Counts& counts = harness.counts();
  std::printf("plugin_harness: cases=%lld runs=%lld in_place=%lld compared=%lld\n",
              static_cast<long long>(counts.cases), static_cast<long long>(counts.runs),
              static_cast<long long>(counts.in_place), static_cast<long long>(counts.compared));
  return 0;
}

// ---- several contexts at once -------------------------------------------------------------------

constexpr int kThreads = 4;
constexpr int kTurns = 20;

// A thread of a program that serves several users of one engine: a context, a stream and operands
// of its own.
class User {
 public:
  User() : workspace_(std::size_t{64} << 20) {
    share_memory(workspace_.memory(), workspace_.capacity());
    if (cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) != cudaSuccess) {
      throw std::runtime_error("no stream");
    }
  }
  User(const User&) = delete;
  User& operator=(const User&) = delete;
  ~User() { cudaStreamDestroy(stream_); }

  // Runs a case again and again; keeps what is wrong.
  void run(const DrivenPlugin& engine, const Case& c, std::size_t bytes, const Outputs& expected) {
    try {
      // As the engine of another thread is deserialised meanwhile.
      const DrivenPlugin read = engine.from_engine();
      const DrivenPlugin context = read.in_context();
      for (int turn = 0; turn < kTurns; ++turn) {
        void* const workspace = workspace_.place((bytes + 15) / 16 * 16, true);
        const Outputs ours = guarded_.run(c, {}, [&](const std::vector<void*>& at) {
          context.run(c, false, at, workspace, stream_);
        });
        if (!workspace_.margin_intact()) throw Failure("wrote beside the workspace");
        if (ours != expected) throw Failure("other bits than alone");
      }
    } catch (const std::exception& error) {
      problem = error.what();
    }
  }

  GuardedCall& guarded() { return guarded_; }

  std::string problem;

 private:
  GuardedCall guarded_;
  GuardedMemory workspace_;
  cudaStream_t stream_ = nullptr;
};

int concurrent(const std::string& op, std::int64_t cases, std::uint64_t seed) {
  User users[kThreads];
  std::int64_t runs = 0;
  for (std::int64_t i = 0; i < cases; ++i) {
    Random random(seed, static_cast<std::uint64_t>(i));
    const Case c = generate(random, &op_named(op), false);
    if (!c.supported() || c.rows() == 0) continue;
    const DrivenPlugin parsed(c.op->name, Fields(c), nvinfer1::TensorRTPhase::kBUILD);
    const std::size_t bytes = parsed.build(c, c, false);
    // Every other context has other shapes.
    const Case row = c.part(random.integer(0, c.rows() - 1), 0, c.seqlen());
    const Case* const shapes[] = {&c, &row};
    Outputs alone[2];
    for (int k = 0; k < 2; ++k) {
      alone[k] = users[0].guarded().run(*kernel_sets().front(), *shapes[k], {});
    }
    std::vector<std::thread> threads;
    for (int user = 0; user < kThreads; ++user) {
      threads.emplace_back(
          [&, user] { users[user].run(parsed, *shapes[user % 2], bytes, alone[user % 2]); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const User& user : users) {
      if (user.problem.empty()) continue;
      std::printf("FAILED: %s\n  case %lld: %s\n", user.problem.c_str(), static_cast<long long>(i),
                  c.describe().c_str());
      return 1;
    }
    runs += kThreads * kTurns;
  }
  std::printf("plugin_harness: threads=%d runs=%lld\n", kThreads, static_cast<long long>(runs));
  return 0;
}

// ---- workspace ----------------------------------------------------------------------------------

// Whatever batch and sequence come, up to those of the build, the workspace of the build suffices.
// Returns how many calls needed any.
template <class Params>
std::int64_t check_workspace(const Case& largest, Random& random) {
  const DrivenPlugin plugin(largest.op->name, Fields(largest), nvinfer1::TensorRTPhase::kBUILD);
  const std::size_t promised = plugin.build(largest, largest, false);
  const std::vector<void*> nowhere(largest.op->inputs.size() + largest.op->outputs.size());
  Params p = std::get<Params>(largest.params(nowhere));
  std::int64_t needed = 0;
  for (int i = 0; i < 20; ++i) {
    p.batch = random.integer(0, largest.size['B']);
    p.seqlen = random.integer(0, largest.size['T']);
    const std::size_t bytes = workspace_bytes(p);
    if (bytes > promised) {
      throw Failure(largest.describe() + ": batch " + std::to_string(p.batch) + " and sequence " +
                    std::to_string(p.seqlen) + " need " + std::to_string(bytes) +
                    " bytes, promised are " + std::to_string(promised));
    }
    needed += bytes > 0;
  }
  return needed;
}

int workspace(std::int64_t cases, std::uint64_t seed) {
  std::int64_t needed = 0;
  for (std::int64_t i = 0; i < cases; ++i) {
    Random random(seed, static_cast<std::uint64_t>(i));
    Case c;
    for (const auto& [letter, most] : std::initializer_list<std::pair<char, int>>{
             {'B', 64}, {'T', 8192}, {'D', 300}, {'H', 8}, {'P', 128}, {'N', 128}, {'G', 1}}) {
      c.size[letter] = random.integer(1, most);
    }
    try {
      c.op = &op_named("SelectiveScan");
      needed += check_workspace<SelectiveScanParams>(c, random);
      c.op = &op_named("SSDChunkScan");
      needed += check_workspace<SSDChunkScanParams>(c, random);
    } catch (const Failure& failure) {
      std::printf("FAILED: %s\n", failure.what());
      return 1;
    }
  }
  std::printf("plugin_harness: cases=%lld needed=%lld\n", static_cast<long long>(cases),
              static_cast<long long>(needed));
  return 0;
}

int run_main(int count, char** words) {
  const std::string command = count > 1 ? words[1] : "";
  if (command == "fuzz" && count == 5) {
    return fuzz(words[2], std::atoll(words[3]), std::strtoull(words[4], nullptr, 10));
  }
  if (command == "concurrent" && count == 5) {
    return concurrent(words[2], std::atoll(words[3]), std::strtoull(words[4], nullptr, 10));
  }
  if (command == "workspace" && count == 4) {
    return workspace(std::atoll(words[2]), std::strtoull(words[3], nullptr, 10));
  }
  if (command == "refusals" && count == 2) {
    print_refusals();
    return 0;
  }
  std::fputs(kHelp, stdout);
  return 2;
}

}  // namespace
}  // namespace mamba_export::testing

int main(int count, char** words) {
  try {
    return mamba_export::testing::run_main(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plugin_harness: %s\n", error.what());
    return 3;
  }
}
