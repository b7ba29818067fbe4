// The connection between the launchers of two nodes: both prove that they know the token, and every message
// after that is signed. Never blocks; a poll loop calls receive() when there is something to read.
//
//   master -> node   "frameshard-launch/1 challenge A"            A, B: 256 random bits
//   node -> master   "proof B HMAC(token, node A B)"
//   master -> node   "welcome HMAC(token, master A B)", or "refused"
//   both             HMAC(key, direction, number, text) text      key = HMAC(token, key A B)
//
// Each of these is a frame: 4 bytes of length (big endian, at most 1 MiB; 256 bytes before the proof), then
// the bytes.
#pragma once

#include <chrono>
#include <vector>

#include "core/error.h"
#include "core/io/json_file.h"
#include "launcher/launch/socket.h"
#include "launcher/launch/token.h"

namespace frameshard {

/// The other side is gone, silent, or does not speak this protocol.
struct LinkLost : Error {
  explicit LinkLost(const std::string& why) : Error(ExitCode::unavailable, why) {}
};
/// The token was not accepted.
struct TokenRefused : Error {
  explicit TokenRefused(const std::string& why) : Error(ExitCode::refused, why) {}
};

class Link {
 public:
  enum class Side { master, node };

  /// The master's side starts by sending the challenge. `peer`: the other side in words, for messages.
  Link(Socket socket, Side side, const Token& token, std::string peer);

  /// The messages that have come since the last call. Throws LinkLost or TokenRefused.
  std::vector<Json> receive();
  /// Only when proved(). Throws LinkLost.
  void send(const Json& message);

  /// Sends nothing more, and reads until the other side has closed, at most 2 s: closing with unread messages
  /// would take back what was sent last.
  void close_gently();

  bool proved() const { return state_ == State::proved; }
  const Socket& socket() const { return socket_; }
  const std::string& peer() const { return peer_; }
  void rename(std::string peer) { peer_ = std::move(peer); }
  /// Seconds since anything came, and since the connection was made.
  double silent_seconds() const;
  double age_seconds() const;

 private:
  enum class State { awaiting_challenge, awaiting_proof, awaiting_welcome, proved };

  void send_frame(std::string_view text);
  void write_all(std::string_view bytes);
  void read_available();
  std::optional<std::string> next_frame();
  void handshake(const std::string& frame);
  void answer_challenge(const std::string& frame);
  void check_proof(const std::string& frame);
  void check_welcome(const std::string& frame);
  void become_proved();
  std::string frame_signature(Side from, uint64_t number, std::string_view text) const;

  Socket socket_;
  Side side_;
  Token token_, key_{};
  std::string peer_, nonces_, inbox_;
  State state_;
  bool ended_ = false;
  uint64_t sent_ = 0, received_ = 0;
  std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now(), heard_ = made_;
};

}  // namespace frameshard
