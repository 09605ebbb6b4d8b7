// The attributes of a node. A runtime's adapter says how it finds one.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "contract.h"

namespace mamba_export {

// An op must read each attribute of its contract, and no other. What does not fit the contract is
// thrown as NodeError.
class Attributes {
 public:
  bool boolean(const char* name);
  std::int64_t integer(const char* name);
  float real(const char* name);
  std::string one_of(const char* name, std::initializer_list<const char*> choices);

  // Throws if the contract has an attribute that was not read.
  void require_all_read() const;

 protected:
  explicit Attributes(const Contract& contract) : contract_(contract) {}
  ~Attributes() = default;

  // Each finds an attribute of this name and type.
  virtual std::optional<std::int64_t> find_int(const char* name) const = 0;
  virtual std::optional<float> find_float(const char* name) const = 0;
  virtual std::optional<std::string> find_string(const char* name) const = 0;
  virtual std::string node_name() const = 0;

  // Throws if the node is of another version of the op.
  void require_version() const;

 private:
  [[noreturn]] void reject(const char* name, const std::string& expected,
                           const std::string& found) const;
  void declare_read(const char* name);

  const Contract& contract_;
  std::array<bool, 16> read_ = {};
};

}  // namespace mamba_export
