#include "launcher/launch/socket.h"

#include <cerrno>
#include <cstring>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/error.h"
#include "core/net.h"

namespace frameshard {
namespace {

sockaddr_in ipv4(const std::string& address, int port) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_family = AF_INET;
  wanted.ai_socktype = SOCK_STREAM;
  if (const int error = getaddrinfo(address.c_str(), nullptr, &wanted, &found)) {
    fail(ExitCode::unavailable,
         "the address \"{}\" cannot be resolved: {}; give an IPv4 address or a name that has one", address,
         gai_strerror(error));
  }
  sockaddr_in result{};
  std::memcpy(&result, found->ai_addr, sizeof result);
  freeaddrinfo(found);
  result.sin_port = htons(uint16_t(port));
  return result;
}

std::string text_of(const in_addr& address) {
  char text[INET_ADDRSTRLEN] = "";
  inet_ntop(AF_INET, &address, text, sizeof text);
  return text;
}

Socket new_socket(int family) {
  Socket made(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made.open()) fail(ExitCode::unavailable, "no socket could be made: {}", std::strerror(errno));
  return made;
}

template <class Address>
const sockaddr* generic(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  require(path.size() < sizeof address.sun_path, "the socket path {} is too long", path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    close();
    descriptor_ = other.release();
  }
  return *this;
}

void Socket::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

Socket listen_on(const std::string& address, int port) {
  const sockaddr_in wanted = ipv4(address, port);
  const uint32_t number = ntohl(wanted.sin_addr.s_addr);
  if (number == INADDR_ANY || number >> 24 == IN_LOOPBACKNET) {
    fail(ExitCode::usage,
         "--master-addr {} is {}, which other nodes cannot reach; give the address that they dial", address,
         text_of(wanted.sin_addr));
  }
  Socket listener = new_socket(AF_INET);
  const int on = 1;
  setsockopt(listener.descriptor(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener.descriptor(), generic(wanted), sizeof wanted) == 0 &&
      listen(listener.descriptor(), 64) == 0) {
    return listener;
  }
  if (errno == EADDRINUSE) {
    fail(ExitCode::unavailable,
         "port {} of {} is in use; choose another --master-port (0 takes any that is free and prints it)",
         port, address);
  }
  if (errno == EADDRNOTAVAIL) {
    fail(ExitCode::unavailable,
         "{} is no address of this machine, and node 0 must be the one that --master-addr names; start this "
         "node with its own --node-rank",
         address);
  }
  fail(ExitCode::unavailable, "cannot listen on {}:{}: {}", address, port, std::strerror(errno));
}

int port_of(const Socket& listener) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  getsockname(listener.descriptor(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

Socket listen_on_path(const std::string& path) {
  const sockaddr_un address = unix_address(path);
  Socket listener = new_socket(AF_UNIX);
  if (bind(listener.descriptor(), generic(address), sizeof address) != 0 ||
      listen(listener.descriptor(), 64) != 0) {
    fail(ExitCode::io, "cannot listen on {}: {}", path, std::strerror(errno));
  }
  return listener;
}

Socket connect_to_path(const std::string& path) {
  const sockaddr_un address = unix_address(path);
  Socket made(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(made.descriptor(), generic(address), sizeof address) != 0) {
    fail(ExitCode::unavailable, "cannot reach the launcher at {}: {}", path, std::strerror(errno));
  }
  return made;
}

Socket accept_from(const Socket& listener, std::string* peer) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  Socket made(accept4(listener.descriptor(), reinterpret_cast<sockaddr*>(&address), &size,
                      SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (peer && made.open()) *peer = text_of(address.sin_addr);
  return made;
}

Dialled dial(const std::string& address, int port, double timeout_seconds) {
  sockaddr_in wanted{};
  try {
    wanted = ipv4(address, port);
  } catch (const Error& error) {
    return {.socket = {}, .error = error.what()};
  }
  Socket made = new_socket(AF_INET);
  if (connect(made.descriptor(), generic(wanted), sizeof wanted) != 0 && errno != EINPROGRESS) {
    return {.socket = {}, .error = std::strerror(errno)};
  }
  pollfd waiting{.fd = made.descriptor(), .events = POLLOUT, .revents = 0};
  if (poll(&waiting, 1, int(timeout_seconds * 1000)) <= 0) return {.socket = {}, .error = "no answer"};
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(made.descriptor(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) return {.socket = {}, .error = std::strerror(error)};
  const int on = 1;
  setsockopt(made.descriptor(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return {.socket = std::move(made), .error = ""};
}

std::string own_address(const Socket& connection) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  getsockname(connection.descriptor(), reinterpret_cast<sockaddr*>(&address), &size);
  return text_of(address.sin_addr);
}

std::optional<std::string> network_of(const std::string& address) {
  for (const NetInterface& interface : network_interfaces()) {
    for (const NetAddress& own : interface.addresses) {
      if (own.text == address) return subnet_of(own);
    }
  }
  return std::nullopt;
}

bool in_network(const std::string& address, const std::string& network) {
  const size_t slash = network.find('/');
  in_addr own{}, base{};
  if (slash == std::string::npos || inet_pton(AF_INET, address.c_str(), &own) != 1 ||
      inet_pton(AF_INET, network.substr(0, slash).c_str(), &base) != 1) {
    return false;
  }
  const int bits = std::atoi(network.c_str() + slash + 1);
  const uint32_t mask = bits == 0 ? 0 : ~uint32_t{0} << (32 - bits);
  return (ntohl(own.s_addr) & mask) == (ntohl(base.s_addr) & mask);
}

std::string resolve(const std::string& name) {
  return text_of(ipv4(name, 0).sin_addr);
}

}  // namespace frameshard
