#include "launcher/launch/token.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef FRAMESHARD_HAVE_OPENSSL
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#endif

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/file_kind.h"

namespace frameshard {
namespace {

std::string hex(const Token& bytes) {
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

std::optional<Token> from_hex(std::string_view text) {
  Token token{};
  if (text.size() != 2 * token.size()) return std::nullopt;
  for (size_t i = 0; i < token.size(); ++i) {
    unsigned value = 0;
    for (const char digit : text.substr(2 * i, 2)) {
      if (!std::isxdigit(static_cast<unsigned char>(digit))) return std::nullopt;
      value = value * 16 + unsigned(digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10);
    }
    token[i] = static_cast<unsigned char>(value);
  }
  return token;
}

Token random_token() {
  Token token;
  if (getentropy(token.data(), token.size()) != 0) fail(ExitCode::io, "the system gives no random numbers");
  return token;
}

Token hmac(const Token& key, std::string_view text) {
  Token result{};
#ifdef FRAMESHARD_HAVE_OPENSSL
  unsigned size = unsigned(result.size());
  HMAC(EVP_sha256(), key.data(), int(key.size()), reinterpret_cast<const unsigned char*>(text.data()),
       text.size(), result.data(), &size);
#else
  (void)key, (void)text;
  fail(ExitCode::unavailable,
       "this program was built without OpenSSL, which proves who joins a job of several nodes; install its "
       "headers (Debian: libssl-dev) and build again, or start the nodes with mpirun or srun");
#endif
  return result;
}

void check_private(const std::filesystem::path& file) {
  std::error_code ignored;
  const auto status = std::filesystem::status(file, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    fail(ExitCode::refused, "{}: is {}; the token is a file of 64 hexadecimal digits (openssl rand -hex 32)",
         file.string(), kind_of_file(status));
  }
  struct stat info {};
  if (stat(file.c_str(), &info) == 0 && (info.st_mode & 077) == 0 && info.st_uid == geteuid()) return;
  fail(ExitCode::refused, "{}: others than you can read or change this token; chmod 600 {}", file.string(),
       file.string());
}

}  // namespace

std::filesystem::path token_file(const std::string& file) {
  if (!file.empty()) return file;
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config && *config) {
    return std::filesystem::path(config) / "frameshard" / "token";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home ? home : ".") / ".config" / "frameshard" / "token";
}

std::optional<Token> find_token(const std::string& file) {
  const char* given = std::getenv("FRAMESHARD_TOKEN");
  if (given && file.empty()) {
    if (const auto token = from_hex(given)) return token;
    fail(ExitCode::refused,
         "FRAMESHARD_TOKEN must be 64 hexadecimal digits (openssl rand -hex 32), got {} characters",
         std::string_view(given).size());
  }
  const auto path = token_file(file);
  if (access(path.c_str(), F_OK) != 0) return std::nullopt;
  check_private(path);
  std::ifstream in(path);
  std::string text;
  in >> text;
  if (const auto token = from_hex(text)) return token;
  fail(ExitCode::refused,
       "{}: a token is 64 hexadecimal digits (openssl rand -hex 32), this file holds {} characters",
       path.string(), text.size());
}

Token make_token(const std::string& file) {
  const auto path = token_file(file);
  std::error_code ignored;
  std::filesystem::create_directories(path.parent_path(), ignored);
  const Token token = random_token();
  // Two first jobs may come here at once, and must end up with one token; and other nodes look for it, so
  // that it has its name only when it is whole.
  AtomicFile made(path);
  if (fchmod(made.fd(), 0600) != 0) {
    fail(ExitCode::io, "{} cannot be made private: {}; use --token-file elsewhere, or set FRAMESHARD_TOKEN",
         path.string(), std::strerror(errno));
  }
  made.write(hex(token) + "\n");
  if (made.commit_new()) return token;
  if (const auto others = find_token(file)) return *others;
  fail(ExitCode::io, "{}: was made and removed by another program; start again", path.string());
}

std::string sign(const Token& token, std::string_view text) {
  return hex(hmac(token, text));
}

Token derive_key(const Token& token, std::string_view text) {
  return hmac(token, text);
}

bool equal_signatures(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
#ifdef FRAMESHARD_HAVE_OPENSSL
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
#else
  return false;
#endif
}

std::string random_text() {
  return hex(random_token());
}

}  // namespace frameshard
