#include "launcher/launch/link.h"

#include <cerrno>
#include <cstring>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace frameshard {
namespace {

constexpr size_t most_before_proof = 256, most_bytes = 1 << 20, signature_size = 64;
constexpr std::string_view greeting = "frameshard-launch/1 challenge ";

std::string_view after(std::string_view text, std::string_view prefix) {
  return text.starts_with(prefix) ? text.substr(prefix.size()) : std::string_view{};
}

}  // namespace

Link::Link(Socket socket, Side side, const Token& token, std::string peer)
    : socket_(std::move(socket)),
      side_(side),
      token_(token),
      peer_(std::move(peer)),
      state_(side == Side::master ? State::awaiting_proof : State::awaiting_challenge) {
  if (side != Side::master) return;
  nonces_ = random_text();
  send_frame(std::string(greeting) + nonces_);
}

double Link::silent_seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - heard_).count();
}

double Link::age_seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - made_).count();
}

void Link::write_all(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(socket_.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count > 0) {
      bytes.remove_prefix(size_t(count));
      continue;
    }
    if (errno == EINTR) continue;
    // A peer that does not read its few small messages for seconds is as good as gone.
    pollfd waiting{.fd = socket_.descriptor(), .events = POLLOUT, .revents = 0};
    if (errno != EAGAIN || poll(&waiting, 1, 5000) <= 0)
      throw LinkLost(fmt::format("{} cannot be reached: {}", peer_, std::strerror(errno)));
  }
}

void Link::send_frame(std::string_view text) {
  const auto size = uint32_t(text.size());
  std::string frame{char(size >> 24), char(size >> 16), char(size >> 8), char(size)};
  write_all(frame.append(text));
}

void Link::send(const Json& message) {
  require(proved(), "a message to {} before the token was proved", peer_);
  const std::string text = message.dump(-1, ' ', false, Json::error_handler_t::replace);
  require(text.size() + signature_size <= most_bytes, "a message of {} bytes to {}", text.size(), peer_);
  send_frame(frame_signature(side_, sent_++, text) + text);
}

void Link::close_gently() {
  shutdown(socket_.descriptor(), SHUT_WR);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (!ended_ && std::chrono::steady_clock::now() < limit) {
    pollfd waiting{.fd = socket_.descriptor(), .events = POLLIN, .revents = 0};
    poll(&waiting, 1, 100);
    inbox_.clear();
    read_available();
  }
}

std::string Link::frame_signature(Side from, uint64_t number, std::string_view text) const {
  return sign(key_, fmt::format("{} {} {}", from == Side::master ? "master" : "node", number, text));
}

// All that is there is kept even when the other side closes right after: its last word may be the reason.
void Link::read_available() {
  char bytes[4096];
  while (inbox_.size() <= most_bytes) {
    const ssize_t count = ::recv(socket_.descriptor(), bytes, sizeof bytes, 0);
    if (count > 0) {
      inbox_.append(bytes, size_t(count));
      heard_ = std::chrono::steady_clock::now();
      continue;
    }
    if (count < 0 && errno == EINTR) continue;
    ended_ = count == 0 || errno != EAGAIN;
    return;
  }
}

std::optional<std::string> Link::next_frame() {
  if (inbox_.size() < 4) return std::nullopt;
  uint32_t size = 0;
  for (int i = 0; i < 4; ++i) size = size << 8 | static_cast<unsigned char>(inbox_[size_t(i)]);
  if (size > (proved() ? most_bytes : most_before_proof)) {
    throw LinkLost(fmt::format("{} does not speak the launcher's protocol", peer_));
  }
  if (inbox_.size() < 4 + size) return std::nullopt;
  std::string frame = inbox_.substr(4, size);
  inbox_.erase(0, 4 + size);
  return frame;
}

std::vector<Json> Link::receive() {
  read_available();
  std::vector<Json> messages;
  while (auto frame = next_frame()) {
    if (!proved()) {
      handshake(*frame);
      continue;
    }
    const std::string_view text = std::string_view(*frame).substr(std::min(frame->size(), signature_size));
    if (!equal_signatures(
            frame->substr(0, signature_size),
            frame_signature(side_ == Side::master ? Side::node : Side::master, received_++, text))) {
      throw LinkLost(fmt::format("a message from {} is not signed with the token of this job", peer_));
    }
    messages.push_back(Json::parse(text, nullptr, /*allow_exceptions=*/false));
    if (!messages.back().is_object())
      throw LinkLost(fmt::format("{} sent a message that is no object", peer_));
  }
  if (ended_ && messages.empty()) throw LinkLost(fmt::format("{} has closed the connection", peer_));
  return messages;
}

void Link::handshake(const std::string& frame) {
  if (state_ == State::awaiting_challenge) return answer_challenge(frame);
  if (state_ == State::awaiting_proof) return check_proof(frame);
  check_welcome(frame);
}

void Link::answer_challenge(const std::string& frame) {
  const std::string_view nonce = after(frame, greeting);
  if (nonce.size() != signature_size) {
    throw LinkLost(fmt::format("{} is no frameshard launcher of this version", peer_));
  }
  const std::string mine = random_text();
  nonces_ = fmt::format("{} {}", nonce, mine);
  send_frame(fmt::format("proof {} {}", mine, sign(token_, "node " + nonces_)));
  state_ = State::awaiting_welcome;
}

void Link::check_proof(const std::string& frame) {
  const std::string_view rest = after(frame, "proof ");
  const size_t space = rest.find(' ');
  const bool formed = space == signature_size && rest.size() == 2 * signature_size + 1;
  if (!formed) throw LinkLost(fmt::format("{} does not speak the launcher's protocol", peer_));
  nonces_ += fmt::format(" {}", rest.substr(0, space));
  if (!equal_signatures(rest.substr(space + 1), sign(token_, "node " + nonces_))) {
    send_frame("refused");
    throw TokenRefused(fmt::format("{} has another token", peer_));
  }
  send_frame("welcome " + sign(token_, "master " + nonces_));
  become_proved();
}

void Link::check_welcome(const std::string& frame) {
  if (frame == "refused") {
    throw TokenRefused(fmt::format(
        "{} refused this node's token; give all nodes the same token (FRAMESHARD_TOKEN, or the file "
        "of node 0)",
        peer_));
  }
  if (!equal_signatures(after(frame, "welcome "), sign(token_, "master " + nonces_))) {
    throw TokenRefused(fmt::format("{} does not know this job's token", peer_));
  }
  become_proved();
}

void Link::become_proved() {
  key_ = derive_key(token_, "key " + nonces_);
  state_ = State::proved;
}

}  // namespace frameshard
