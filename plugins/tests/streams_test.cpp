// Streams that share the kernels and nothing else: 64 of them, interleaved token by token over
// several threads, must each end as if it had run alone. Under ThreadSanitizer this also shows that
// the kernels share no memory.
//
// usage: streams_test [tokens]     of each stream (default 200)
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "op_case.h"
#include "random.h"

namespace mamba_export::testing {
namespace {

constexpr int kStreams = 64;
constexpr int kThreads = 3;

// A stream of one step op: weights are those of all streams, tokens and state its own.
class Stream {
 public:
  Stream(const Case& weights, int index)
      : call_(weights), random_(7, static_cast<std::uint64_t>(index)) {
    for (const OperandSpec& spec : call_.op->inputs) operands_.push_back(bytes_of(spec));
    for (const OperandSpec& spec : call_.op->outputs) operands_.push_back(bytes_of(spec));
    for (std::size_t i = 0; i < call_.op->inputs.size(); ++i) write(i, call_.values[i]);
  }

  void step(const Kernels& kernels) {
    std::vector<void*> at;
    for (std::size_t i = 0; i < operands_.size(); ++i) {
      const bool token = i < call_.op->inputs.size() && call_.op->inputs[i].axes[0] == 'B' &&
                         !call_.op->carries(i);
      if (token) draw(i);
      at.push_back(operands_[i].data());
    }
    const std::size_t y_at = call_.op->inputs.size();
    for (std::size_t output = 1; output < call_.op->outputs.size(); ++output) {
      at[y_at + output] = at[call_.op->carried_input(output)];  // in place
    }
    run_kernel(kernels, call_.params(at), {});
    for (const char byte : operands_[y_at])
      digest_ = (digest_ ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
  }

  bool operator==(const Stream& other) const {
    bool same = digest_ == other.digest_;
    for (std::size_t i = 0; i < call_.op->inputs.size(); ++i) {
      same = same && (!call_.op->carries(i) || operands_[i] == other.operands_[i]);
    }
    return same;
  }

 private:
  std::vector<char> bytes_of(const OperandSpec& spec) const {
    return std::vector<char>(call_.bytes(spec));
  }

  void write(std::size_t input, const std::vector<float>& values) {
    const ElementType type = call_.element(call_.op->inputs[input]);
    for (std::size_t k = 0; k < values.size(); ++k) {
      encode(type, values[k], operands_[input].data() + k * size_of(type));
    }
  }

  void draw(std::size_t input) {
    const OperandSpec& spec = call_.op->inputs[input];
    std::vector<float> values(static_cast<std::size_t>(call_.count(spec)));
    for (float& value : values) {
      value = static_cast<float>(round_to(call_.element(spec), random_.normal()));
    }
    write(input, values);
  }

  Case call_;
  Random random_;
  std::vector<std::vector<char>> operands_;
  std::uint64_t digest_ = 0xcbf29ce484222325u;  // FNV-1a of every y
};

Case weights_of(const std::string& op, ElementType type) {
  Case c;
  c.op = &op_named(op);
  c.type = type;
  c.silu = c.gated = c.dt_softplus = true;
  c.dt_max = std::numeric_limits<float>::infinity();
  c.size['B'] = 1;
  c.size['C'] = c.size['D'] = 42;
  c.size['H'] = 6;
  c.size['G'] = 3;
  c.size['P'] = 19;
  c.size['N'] = 17;
  c.size['K'] = 4;
  c.fit_channels();
  Random random(3, 0);
  for (const OperandSpec& spec : c.op->inputs) {
    std::vector<float> values(static_cast<std::size_t>(c.count(spec)));
    for (float& value : values) {
      const double drawn = spec.name == "A" ? random.uniform(-8, -1) : random.normal();
      value = static_cast<float>(round_to(c.element(spec), drawn));
    }
    c.values.push_back(std::move(values));
  }
  return c;
}

bool check(const Kernels& kernels, const std::string& op, ElementType type, int tokens) {
  const Case weights = weights_of(op, type);
  std::vector<Stream> alone, together;
  for (int i = 0; i < kStreams; ++i) {
    alone.emplace_back(weights, i);
    together.emplace_back(weights, i);
    for (int t = 0; t < tokens; ++t) alone.back().step(kernels);
  }
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int t = 0; t < tokens; ++t) {
        for (int i = thread; i < kStreams; i += kThreads) {
          together[static_cast<std::size_t>(i)].step(kernels);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int different = 0;
  for (std::size_t i = 0; i < kStreams; ++i) different += alone[i] == together[i] ? 0 : 1;
  if (different > 0) {
    std::printf("%s %s: %d of %d streams ended otherwise than alone  FAILED\n", kernels.isa,
                op.c_str(), different, kStreams);
  }
  return different == 0;
}

int run_main(int tokens) {
  const auto start = std::chrono::steady_clock::now();
  bool passed = true;
  int combinations = 0;
  for (const char* isa : {"avx512", "avx2", "portable"}) {
    const Kernels* const kernels = cpu_kernels(isa);
    if (kernels == nullptr) continue;
    for (const char* op :
         {"CausalConv1dUpdate", "SelectiveStateUpdate", "SSDStateUpdate", "ConvSSDStateUpdate"}) {
      for (const auto type : {ElementType::kFloat32, ElementType::kFloat16}) {
        passed &= check(*kernels, op, type, tokens);
        ++combinations;
      }
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("streams_test: combinations=%d streams=%d threads=%d tokens=%d seconds=%.1f %s\n",
              combinations, kStreams, kThreads, tokens, seconds.count(),
              passed ? "passed" : "FAILED");
  return passed ? 0 : 1;
}

}  // namespace
}  // namespace mamba_export::testing

int main(int count, char** words) {
  return mamba_export::testing::run_main(count > 1 ? std::atoi(words[1]) : 200);
}
