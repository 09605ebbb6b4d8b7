// Text from an engine directory of `mamba-export trt` without Python: token ids in, the most
// probable ones out. The state goes back and forth between two sets of buffers, a context and its
// CUDA graph for each way. The hashes of engine.json are not compared: trust where it came from.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr char kHelp[] =
    "give ENGINE_DIRECTORY PLUGIN_LIBRARY|- MAX_NEW_TOKENS ID...\n"
    "  PLUGIN_LIBRARY: libmamba_tensorrt.so, - if the engine has no plugins; ID: of the prompt\n";
constexpr int kPrefill = 0, kDecode = 1;  // the engine's optimization profiles
constexpr std::int64_t kEnd = -1;         // instead of a token that ends a text

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::runtime_error(problem);
}

void check(cudaError_t error, const std::string& what) {
  require(error == cudaSuccess, what + ": CUDA: " + cudaGetErrorString(error));
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path + " cannot be read: give the directory that `mamba-export trt` wrote");
  return {std::istreambuf_iterator<char>(file), {}};
}

// The whole numbers of a top-level entry of artifact.json, whose line begins with one space.
std::vector<std::int64_t> numbers(const std::string& json, const std::string& key) {
  const std::size_t at = json.find("\n \"" + key + "\": ");
  require(at != std::string::npos, "artifact.json has no " + key);
  const std::string text = json.substr(at, json.find("\n \"", at + 1) - at);
  const std::regex number("[0-9]+");
  std::vector<std::int64_t> found;
  std::sregex_iterator each(text.begin(), text.end(), number), end;
  for (; each != end; ++each) found.push_back(std::stoll(each->str()));
  return found;
}

class Logger final : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) std::fprintf(stderr, "TensorRT: %s\n", message);
  }
};

class Model {
 public:
  Model(const std::string& directory, const std::string& plugins, std::int64_t prompt_tokens) {
    const std::string manifest = read(directory + "/artifact.json");
    ends_ = numbers(manifest, "eos_token_ids");
    row_.resize(static_cast<std::size_t>(numbers(manifest, "vocab_size").at(0)));
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "no stream");
    stream_.reset(stream, cudaStreamDestroy);
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    require(runtime_ != nullptr, "TensorRT does not start");
    require(plugins == "-" || runtime_->getPluginRegistry().loadLibrary(plugins.c_str()) != nullptr,
            "TensorRT does not take the plugin library " + plugins);
    const std::string plan = read(directory + "/model.engine");
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    require(engine_ != nullptr,
            "the engine cannot be loaded: compare version, GPU and plugins with its engine.json");
    const auto longest = nvinfer1::OptProfileSelector::kMAX;
    part_ = std::min(prompt_tokens, engine_->getProfileShape("input_ids", kPrefill, longest).d[1]);
    require(part_ > 0, "the engine has no input_ids: `mamba-export trt` did not build it");
    find_inputs();
    columns_ = static_cast<std::size_t>(engine_->getTensorShape("logits").d[2]);
    require(columns_ >= row_.size(), "the engine has fewer logits than artifact.json has tokens");
    logits_ = allocate(static_cast<std::size_t>(part_) * columns_ * sizeof(float));
    prefill_ = make_context(kPrefill);
    for (const int from : {0, 1}) {
      steps_[from] = make_context(kDecode);
      bind(steps_[from], 1, from);
    }
  }

  // Returns the token after a prompt, or kEnd; what the profile is too short for goes in parts.
  std::int64_t prefill(const std::vector<std::int64_t>& prompt) {
    const auto most = static_cast<std::size_t>(*std::max_element(prompt.begin(), prompt.end()));
    require(most < row_.size(),
            "no token " + std::to_string(most) + ", only 0 to " + std::to_string(row_.size() - 1));
    for (auto at = prompt.begin(); at != prompt.end(); now_ = 1 - now_) {
      const auto count = std::min(part_, static_cast<std::int64_t>(prompt.end() - at));
      copy(ids_, &*at, static_cast<std::size_t>(count) * sizeof *at);
      bind(prefill_, count, now_);
      require(prefill_->enqueueV3(stream_.get()), "the engine does not run a prompt");
      at += count;
    }
    const std::int64_t rows = prefill_->getTensorShape("logits").d[1];  // 1 with --logits last
    return most_probable(static_cast<std::size_t>(rows - 1));
  }

  // Returns the token after one more, or kEnd.
  std::int64_t step(std::int64_t token) {
    copy(ids_, &token, sizeof token);
    if (graphs_[now_] != nullptr) {
      check(cudaGraphLaunch(graphs_[now_].get(), stream_.get()), "a captured step");
    } else {
      require(steps_[now_]->enqueueV3(stream_.get()), "the engine does not run a step");
      if (captures_) capture();  // after a run of the same, as TensorRT wants it
    }
    now_ = 1 - now_;
    return most_probable(0);
  }

 private:
  using Context = std::unique_ptr<nvinfer1::IExecutionContext>;
  struct Input {
    std::string name, next;  // the output with a state's next value, else the name again
    nvinfer1::Dims shape;    // -1: varies
    void* at[2];             // a state's: where it is, and where its next value goes
  };

  Context make_context(int profile) {
    Context context(engine_->createExecutionContext());
    require(context != nullptr && context->setOptimizationProfileAsync(profile, stream_.get()),
            "the engine has no execution context for profile " + std::to_string(profile));
    return context;
  }

  // All inputs but two are states: `past...`, whose next value is the output `present...`.
  void find_inputs() {
    const std::vector<std::int64_t> ones(static_cast<std::size_t>(part_), 1);
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const std::string name = engine_->getIOTensorName(i);
      if (engine_->getTensorIOMode(name.c_str()) != nvinfer1::TensorIOMode::kINPUT) continue;
      const nvinfer1::Dims shape = engine_->getTensorShape(name.c_str());
      Input input{name, name, shape, {}};
      if (name == "input_ids" || name == "attention_mask") {
        input.at[0] = input.at[1] = allocate(ones.size() * sizeof ones[0]);
        copy(input.at[0], ones.data(), ones.size() * sizeof ones[0]);
        if (name == "input_ids") ids_ = input.at[0];
      } else {
        input.next = std::regex_replace(name, std::regex("past(_key_values)?"), "present");
        require(engine_->getTensorIOMode(input.next.c_str()) == nvinfer1::TensorIOMode::kOUTPUT,
                "the engine has no output " + input.next + " for its input " + name);
        std::size_t bytes = sizeof(float);  // an element at most
        for (int k = 1; k < shape.nbDims; ++k) bytes *= static_cast<std::size_t>(shape.d[k]);
        for (void*& at : input.at) at = allocate(bytes);
      }
      inputs_.push_back(input);
    }
  }

  // Tells a context what to read and write: states from one set of buffers to the other.
  void bind(const Context& context, std::int64_t tokens, int from) {
    bool taken = context->setTensorAddress("logits", logits_);
    for (Input input : inputs_) {
      input.shape.d[0] = 1;
      if (input.shape.d[1] < 0) input.shape.d[1] = tokens;
      taken = taken && context->setInputShape(input.name.c_str(), input.shape);
      taken = taken && context->setTensorAddress(input.name.c_str(), input.at[from]);
      taken = taken && context->setTensorAddress(input.next.c_str(), input.at[1 - from]);
    }
    require(taken, "the engine does not take " + std::to_string(tokens) + " tokens");
  }

  // Leaves a step without a graph where it cannot be captured, such as for a loop in it.
  void capture() {
    check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "a capture");
    captures_ = steps_[now_]->enqueueV3(stream_.get());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    captures_ = cudaStreamEndCapture(stream_.get(), &graph) == cudaSuccess && captures_ &&
                cudaGraphInstantiate(&replay, graph, 0) == cudaSuccess;
    if (graph != nullptr) check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    if (captures_) return graphs_[now_].reset(replay, cudaGraphExecDestroy);
    cudaGetLastError();  // it would be taken for that of the next call
    std::fprintf(stderr, "generate: steps cannot be captured, and run without a CUDA graph\n");
  }

  // Returns zeros on the device: the state before the first token.
  void* allocate(std::size_t bytes) {
    void* data = nullptr;
    check(cudaMalloc(&data, bytes), "no device memory for " + std::to_string(bytes) + " bytes");
    memory_.emplace_back(data, cudaFree);
    check(cudaMemsetAsync(data, 0, bytes, stream_.get()), "cudaMemsetAsync");
    return data;
  }

  void copy(void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_.get()), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_.get()), "the engine's kernels");
  }

  std::int64_t most_probable(std::size_t row) {
    copy(row_.data(), static_cast<const float*>(logits_) + row * columns_,
         row_.size() * sizeof(float));
    require(std::all_of(row_.begin(), row_.end(), [](float x) { return std::isfinite(x); }),
            "a logit is no number: check the checkpoint for NaN, or export with --dtype float32");
    const std::int64_t token = std::max_element(row_.begin(), row_.end()) - row_.begin();
    return std::find(ends_.begin(), ends_.end(), token) == ends_.end() ? token : kEnd;
  }

  Logger logger_;
  std::vector<std::int64_t> ends_;
  std::vector<float> row_;   // the logits of one token
  std::size_t columns_ = 0;  // of the engine's: the vocabulary, and what fills it up
  std::int64_t part_ = 0;    // tokens of a prefill at most
  std::shared_ptr<CUstream_st> stream_;
  std::vector<std::shared_ptr<void>> memory_;
  // Destroyed from the last to the first: contexts before their engine, that before its runtime.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  Context prefill_;
  Context steps_[2];  // by the buffers that they read; with a graph, one must not be changed
  std::shared_ptr<CUgraphExec_st> graphs_[2];
  std::vector<Input> inputs_;
  void *ids_ = nullptr, *logits_ = nullptr;
  int now_ = 0;  // which of two buffers a state is in
  bool captures_ = true;
};

std::int64_t whole(const std::string& word) {
  const bool digits = word.find_first_not_of("0123456789") == std::string::npos;
  require(digits && !word.empty() && word.size() < 10, "'" + word + "' is no whole number");
  return std::stoll(word);
}

}  // namespace

int main(int count, char** words) {
  try {
    require(count >= 5, kHelp);
    std::int64_t left = whole(words[3]);
    std::vector<std::int64_t> prompt;
    for (int i = 4; i < count; ++i) prompt.push_back(whole(words[i]));
    Model model(words[1], words[2], count - 4);
    for (std::int64_t token = model.prefill(prompt); left > 0 && token != kEnd;) {
      std::printf("%lld\n", static_cast<long long>(token));
      if (--left > 0) token = model.step(token);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "generate: %s\n", error.what());
    return 1;
  }
}
