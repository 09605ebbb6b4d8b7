#include "attributes.h"

#include <cstring>
#include <stdexcept>

#include "node_error.h"

namespace mamba_export {

bool Attributes::boolean(const char* name) {
  const std::int64_t value = integer(name);
  if (value != 0 && value != 1) reject(name, "0 or 1", std::to_string(value));
  return value == 1;
}

std::int64_t Attributes::integer(const char* name) {
  declare_read(name);
  const auto value = find_int(name);
  if (!value) reject(name, "an int", "no int of this name");
  return *value;
}

float Attributes::real(const char* name) {
  declare_read(name);
  const auto value = find_float(name);
  if (!value) reject(name, "a float", "no float of this name");
  return *value;
}

std::string Attributes::one_of(const char* name, std::initializer_list<const char*> choices) {
  declare_read(name);
  const auto value = find_string(name);
  std::string expected;
  for (const char* choice : choices) {
    if (value == choice) return choice;
    expected += (expected.empty() ? "'" : " or '") + std::string(choice) + "'";
  }
  reject(name, expected, value ? "'" + *value + "'" : "no string of this name");
}

void Attributes::require_version() const {
  const auto version = find_string("plugin_version");
  if (version && *version != contract_.version) {
    reject("plugin_version", contract_.version, *version);
  }
}

void Attributes::reject(const char* name, const std::string& expected,
                        const std::string& found) const {
  throw NodeError(std::string(contract_.op) + " node '" + node_name() + "': attribute '" + name +
                  "' must be " + expected + ", found " + found);
}

void Attributes::declare_read(const char* name) {
  for (std::size_t i = 0; i < contract_.attributes.size; ++i) {
    if (std::strcmp(contract_.attributes[i].name, name) == 0) {
      read_.at(i) = true;
      return;
    }
  }
  throw std::logic_error(std::string(contract_.op) + " has no attribute '" + name + "'");
}

void Attributes::require_all_read() const {
  for (std::size_t i = 0; i < contract_.attributes.size; ++i) {
    if (!read_.at(i)) {
      throw std::logic_error(std::string(contract_.op) + ": attribute '" +
                             contract_.attributes[i].name + "' is not read");
    }
  }
}

}  // namespace mamba_export
