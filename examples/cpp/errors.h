#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

// Something that the caller did wrong: printed as one sentence, exit status 2.
class UserError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw UserError(message.str());
}
