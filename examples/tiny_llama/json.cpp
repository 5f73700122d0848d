// A recursive-descent JSON parser that trusts nothing: bounded depth, strict grammar.
#include "json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <stdexcept>

namespace tiny_llama::json {
namespace {

// Deep enough for every file read here; low enough that nesting cannot exhaust the stack.
constexpr int kMaxDepth = 64;

class Parser {
  public:
    explicit Parser(std::string_view text) : text_(text) {}

    Value document() {
        Value value = this->value(0);
        skip_space();
        if (at_ != text_.size()) {
            fail("expected the end of the document");
        }
        return value;
    }

  private:
    [[noreturn]] void fail(const std::string &message) const {
        throw std::runtime_error("JSON, byte " + std::to_string(at_) + ": " + message);
    }

    // The next byte, or NUL at the end: NUL is legal nowhere in JSON.
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    bool take(char c) {
        if (at_ == text_.size() || text_[at_] != c) {
            return false;
        }
        ++at_;
        return true;
    }

    void expect(char c) {
        if (!take(c)) {
            fail(std::string("expected '") + c + "'");
        }
    }

    void skip_space() {
        while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') {
            ++at_;
        }
    }

    Value value(int depth) {
        if (depth > kMaxDepth) {
            fail("nested too deeply");
        }
        skip_space();
        switch (peek()) {
        case '{':
            return object(depth);
        case '[':
            return array(depth);
        case '"':
            return Value(string());
        case 't':
            return word("true", true);
        case 'f':
            return word("false", false);
        case 'n':
            return word("null", nullptr);
        default:
            return Value(number());
        }
    }

    Value word(std::string_view spelling, Value::Storage meaning) {
        if (text_.substr(at_, spelling.size()) != spelling) {
            fail("expected " + std::string(spelling));
        }
        at_ += spelling.size();
        return Value(std::move(meaning));
    }

    Value array(int depth) {
        Array items;
        expect('[');
        skip_space();
        if (!take(']')) {
            do {
                items.push_back(value(depth + 1));
                skip_space();
            } while (take(','));
            expect(']');
        }
        return Value(std::move(items));
    }

    Value object(int depth) {
        Object members;
        expect('{');
        skip_space();
        if (!take('}')) {
            do {
                skip_space();
                std::string key = string();
                skip_space();
                expect(':');
                members.push_back({std::move(key), value(depth + 1)});
                skip_space();
            } while (take(','));
            expect('}');
        }
        std::sort(members.begin(), members.end(),
                  [](const Member &a, const Member &b) { return a.key < b.key; });
        const auto twin =
            std::adjacent_find(members.begin(), members.end(),
                               [](const Member &a, const Member &b) { return a.key == b.key; });
        if (twin != members.end()) {
            fail("key \"" + twin->key + "\" occurs twice");
        }
        return Value(std::move(members));
    }

    void digits() {
        if (peek() < '0' || peek() > '9') {
            fail("expected a value");
        }
        while (peek() >= '0' && peek() <= '9') {
            ++at_;
        }
    }

    // Walks the grammar first, because from_chars also takes "inf", "nan" and "01".
    double number() {
        const std::size_t begin = at_;
        take('-');
        if (!take('0')) {
            digits();
        }
        if (take('.')) {
            digits();
        }
        if (take('e') || take('E')) {
            if (!take('+')) {
                take('-');
            }
            digits();
        }
        double result = 0;
        const auto [end, error] = std::from_chars(text_.data() + begin, text_.data() + at_, result);
        if (error != std::errc() || end != text_.data() + at_) {
            fail("number is out of range");
        }
        return result;
    }

    std::string string() {
        std::string result;
        expect('"');
        while (!take('"')) {
            const auto c = static_cast<unsigned char>(peek());
            if (c < 0x20) {
                fail("unterminated string or control character in it");
            }
            ++at_;
            if (c == '\\') {
                escape(result);
            } else {
                result.push_back(static_cast<char>(c));
            }
        }
        return result;
    }

    void escape(std::string &result) {
        static constexpr std::string_view kLetters = "\"\\/bfnrt";
        static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
        if (take('u')) {
            append_utf8(result, code_point());
            return;
        }
        const std::size_t index = kLetters.find(peek());
        if (index == std::string_view::npos) {
            fail("unknown escape in a string");
        }
        result.push_back(kMeanings[index]);
        ++at_;
    }

    std::uint32_t code_point() {
        const std::uint32_t first = four_hex_digits();
        if (first < 0xd800 || first > 0xdfff) {
            return first;
        }
        if (first > 0xdbff || !take('\\') || !take('u')) {
            fail("half a surrogate pair");
        }
        const std::uint32_t second = four_hex_digits();
        if (second < 0xdc00 || second > 0xdfff) {
            fail("half a surrogate pair");
        }
        return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    }

    std::uint32_t four_hex_digits() {
        const std::string_view digits = text_.substr(at_, 4);
        std::uint32_t result = 0;
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), result, 16);
        if (error != std::errc() || end != digits.data() + 4) {
            fail("expected four hexadecimal digits");
        }
        at_ += 4;
        return result;
    }

    static void append_utf8(std::string &result, std::uint32_t code) {
        const auto tail = [&](int shift) {
            result.push_back(static_cast<char>(0x80 | ((code >> shift) & 0x3f)));
        };
        if (code < 0x80) {
            result.push_back(static_cast<char>(code));
        } else if (code < 0x800) {
            result.push_back(static_cast<char>(0xc0 | (code >> 6)));
            tail(0);
        } else if (code < 0x10000) {
            result.push_back(static_cast<char>(0xe0 | (code >> 12)));
            tail(6), tail(0);
        } else {
            result.push_back(static_cast<char>(0xf0 | (code >> 18)));
            tail(12), tail(6), tail(0);
        }
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

} // namespace

template <typename T> const T &Value::get(const char *expected) const {
    static constexpr const char *kKinds[] = {"null",     "a boolean", "a number",
                                             "a string", "an array",  "an object"};
    if (const T *value = std::get_if<T>(&storage_)) {
        return *value;
    }
    throw std::runtime_error(std::string("expected ") + expected + ", found " +
                             kKinds[storage_.index()]);
}

bool Value::boolean() const { return get<bool>("a boolean"); }
double Value::number() const { return get<double>("a number"); }
const std::string &Value::string() const { return get<std::string>("a string"); }
const Array &Value::array() const { return get<Array>("an array"); }
const Object &Value::object() const { return get<Object>("an object"); }

std::size_t Value::count() const {
    const double value = number();
    if (!(value >= 0 && value <= 9007199254740992.0) || value != std::floor(value)) {
        throw std::runtime_error("expected a count, found " + std::to_string(value));
    }
    return static_cast<std::size_t>(value);
}

const Value *Value::find(std::string_view key) const {
    const Object &members = object();
    const auto member =
        std::lower_bound(members.begin(), members.end(), key,
                         [](const Member &m, std::string_view wanted) { return m.key < wanted; });
    return member != members.end() && member->key == key ? &member->value : nullptr;
}

const Value &Value::at(std::string_view key) const {
    if (const Value *value = find(key)) {
        return *value;
    }
    throw std::runtime_error("key \"" + std::string(key) + "\" is missing");
}

Value parse(std::string_view text) { return Parser(text).document(); }

} // namespace tiny_llama::json
