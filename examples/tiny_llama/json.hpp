// A JSON document as a tree of values: enough to read configurations and tensor headers.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tiny_llama::json {

class Value;
struct Member;
using Array = std::vector<Value>;
using Object = std::vector<Member>; // sorted by key, keys are unique

/// One value. Accessors of the wrong kind throw std::runtime_error saying what was found.
class Value {
  public:
    using Storage = std::variant<std::nullptr_t, bool, double, std::string, Array, Object>;

    Value() = default;
    explicit Value(Storage storage) : storage_(std::move(storage)) {}

    bool is_null() const { return std::holds_alternative<std::nullptr_t>(storage_); }
    bool boolean() const;
    double number() const;
    const std::string &string() const;
    const Array &array() const;
    const Object &object() const;

    /// A number that counts something: an integer from 0 to 2^53.
    std::size_t count() const;
    /// The member of an object; nullptr when it has none of that name.
    const Value *find(std::string_view key) const;
    /// The member of an object; throws when it has none of that name.
    const Value &at(std::string_view key) const;

  private:
    template <typename T> const T &get(const char *expected) const;

    Storage storage_ = nullptr;
};

struct Member {
    std::string key;
    Value value;
};

/// Parses one document (RFC 8259). Throws std::runtime_error with the byte position.
Value parse(std::string_view text);

} // namespace tiny_llama::json
