// The secret that the launchers of one job share, and what is proved with it.
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace frameshard {

/// 256 random bits. Never on a command line, where every user of the machine could read it.
using Token = std::array<unsigned char, 32>;

/// From FRAMESHARD_TOKEN (64 hexadecimal digits), else from a file of mode 0600: `file`, or
/// ~/.config/frameshard/token. Nothing where that file is missing; 77 where it is not a token or others can
/// read it.
std::optional<Token> find_token(const std::string& file);
/// Writes a new token to that file, or reads the one that another process has just written. 74 where it
/// cannot.
Token make_token(const std::string& file);
std::filesystem::path token_file(const std::string& file);

/// HMAC-SHA256 in hexadecimal digits (RFC 2104).
std::string sign(const Token& token, std::string_view text);
/// The key for a connection: what the token makes of both sides' random numbers.
Token derive_key(const Token& token, std::string_view text);
/// Compares in a time that does not depend on where the texts differ.
bool equal_signatures(std::string_view a, std::string_view b);
/// 64 hexadecimal digits from the system's random source.
std::string random_text();

}  // namespace frameshard
