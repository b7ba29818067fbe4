// Sockets of the rendezvous and of the start agent, with errors in words.
#pragma once

#include <optional>
#include <string>

namespace frameshard {

/// A file descriptor that is closed when this goes.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : descriptor_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept;

  int descriptor() const { return descriptor_; }
  bool open() const { return descriptor_ >= 0; }
  void close();
  int release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_ = -1;
};

/// Listens on one IPv4 address of this machine (a name or a number); port 0: any that is free. 69 where the
/// port is in use or the address is not of this machine, 64 for addresses that no other machine reaches.
Socket listen_on(const std::string& address, int port);
int port_of(const Socket& listener);

/// A Unix socket at `path`, for this user alone (its directory must be).
Socket listen_on_path(const std::string& path);
Socket connect_to_path(const std::string& path);

/// The next connection without blocking, or a closed socket; `peer` is its address.
Socket accept_from(const Socket& listener, std::string* peer = nullptr);

/// A connection, or what stood in the way: also a name that has no address yet.
struct Dialled {
  Socket socket;
  std::string error;
};
Dialled dial(const std::string& address, int port, double timeout_seconds);

/// This side's address of a connection.
std::string own_address(const Socket& connection);
/// Where "10.0.0.5" belongs to an interface of this machine: its network, "10.0.0.0/24".
std::optional<std::string> network_of(const std::string& address);
/// Whether an IPv4 address lies in "10.0.0.0/24".
bool in_network(const std::string& address, const std::string& network);
/// The IPv4 address of a name; 69 where it has none.
std::string resolve(const std::string& name);

}  // namespace frameshard
