// The launchers' connection: only who knows the token is heard, and nothing that was changed on the way.
#include <filesystem>

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/launch/link.h"
#include "launcher/launch/rendezvous.h"
#include "launcher/launch/token.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::contents;
using frameshard::test::Scratch;

namespace {

constexpr Token token{1, 2, 3}, another{1, 2, 4};

std::pair<Socket, Socket> connection() {
  int ends[2];
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0, "socketpair");
  return {Socket(ends[0]), Socket(ends[1])};
}

struct Pair {
  explicit Pair(const Token& of_node = token) : Pair(connection(), of_node) {}
  Pair(std::pair<Socket, Socket> ends, const Token& of_node)
      : master(std::move(ends.first), Link::Side::master, token, "a node"),
        node(std::move(ends.second), Link::Side::node, of_node, "the master") {}

  void shake_hands() {
    node.receive();
    master.receive();
    node.receive();
  }
  Link master, node;
};

// A master and a raw socket that is no launcher.
struct Stranger {
  Stranger() : Stranger(connection()) {}
  explicit Stranger(std::pair<Socket, Socket> ends)
      : master(std::move(ends.first), Link::Side::master, token, "a stranger"),
        socket(std::move(ends.second)) {}
  void say(const std::string& bytes) {
    require(write(socket.descriptor(), bytes.data(), bytes.size()) == ssize_t(bytes.size()), "write");
  }
  std::string hear() {
    char bytes[4096];
    const ssize_t count = read(socket.descriptor(), bytes, sizeof bytes);
    return count > 0 ? std::string(bytes, size_t(count)) : "";
  }
  Link master;
  Socket socket;
};

std::string frame(const std::string& text) {
  const auto size = uint32_t(text.size());
  return std::string{char(size >> 24), char(size >> 16), char(size >> 8), char(size)} + text;
}

NodeFacts node(int rank, const std::string& host) {
  return {.rank = rank,
          .nodes = 2,
          .ranks = 1,
          .host = host,
          .address = "10.0.0." + std::to_string(host[0] - 'a' + 1),
          .engine = "1",
          .mpi = "Open MPI 4.1.4",
          .executable = "/f",
          .program = {"run", "a.yaml"}};
}

}  // namespace

TEST_CASE("two launchers with one token hear each other, in order") {
  Pair pair;
  pair.shake_hands();
  REQUIRE(pair.master.proved());
  REQUIRE(pair.node.proved());
  pair.node.send({{"a", 1}});
  pair.node.send({{"b", "x"}});
  pair.master.send({{"c", nullptr}});
  const auto messages = pair.master.receive();
  REQUIRE(messages.size() == 2);
  CHECK(messages[0]["a"] == 1);
  CHECK(messages[1]["b"] == "x");
  CHECK(pair.node.receive().size() == 1);
  CHECK(pair.node.receive().empty());
}

TEST_CASE("another token is refused, and both sides say so") {
  Pair pair(another);
  pair.node.receive();
  const auto at_master = caught([&] { pair.master.receive(); });
  CHECK(at_master.code == ExitCode::refused);
  const auto at_node = caught([&] { pair.node.receive(); });
  CHECK(at_node.code == ExitCode::refused);
  CHECK(at_node.has("give all nodes the same token"));
  CHECK_FALSE(pair.master.proved());
}

TEST_CASE("nothing is heard from strangers") {
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(4096, '\0'), frame("proof x"),
        frame("{\"join\": 1}"), frame("proof " + random_text() + " " + random_text()),
        frame(std::string(300, 'a')), std::string("\xff\xff\xff\xff")}) {
    Stranger stranger;
    stranger.say(bytes);
    const auto error = caught([&] { stranger.master.receive(); });
    CHECK((error.code == ExitCode::unavailable || error.code == ExitCode::refused));
    CHECK_FALSE(stranger.master.proved());
  }
  Stranger gone;
  gone.socket.close();
  CHECK(caught([&] { gone.master.receive(); }).has("closed the connection"));
  Stranger slow;
  slow.say(frame("proof").substr(0, 6));
  CHECK(slow.master.receive().empty());
}

TEST_CASE("a recorded proof does not help the next time") {
  Stranger first;
  const std::string challenge = first.hear().substr(4 + 30);
  const std::string mine = random_text();
  const std::string proof = "proof " + mine + " " + sign(token, "node " + challenge + " " + mine);
  first.say(frame(proof));
  first.master.receive();
  CHECK(first.master.proved());
  Stranger second;
  second.say(frame(proof));
  CHECK(caught([&] { second.master.receive(); }).code == ExitCode::refused);
}

TEST_CASE("a message that is not signed with the connection's key ends it") {
  Stranger stranger;
  const std::string challenge = stranger.hear().substr(4 + 30), mine = random_text();
  stranger.say(frame("proof " + mine + " " + sign(token, "node " + challenge + " " + mine)));
  stranger.master.receive();
  REQUIRE(stranger.master.proved());
  const Token key = derive_key(token, "key " + challenge + " " + mine);
  const std::string text = R"({"x":1})", good = sign(key, "node 0 " + text);
  SECTION("as it should be") {
    stranger.say(frame(good + text));
    CHECK(stranger.master.receive().size() == 1);
    stranger.say(frame(good + text));  // again: its number is past
    CHECK(caught([&] { stranger.master.receive(); }).has("not signed"));
  }
  SECTION("changed") {
    stranger.say(frame(good + R"({"x":2})"));
    CHECK(caught([&] { stranger.master.receive(); }).has("not signed"));
  }
  SECTION("the master's own words sent back") {
    stranger.say(frame(sign(key, "master 0 " + text) + text));
    CHECK(caught([&] { stranger.master.receive(); }).has("not signed"));
  }
  SECTION("signed, but no object") {
    stranger.say(frame(sign(key, "node 0 [1]") + "[1]"));
    CHECK(caught([&] { stranger.master.receive(); }).has("no object"));
  }
}

TEST_CASE("a token lies in a private file") {
  Scratch scratch;
  const std::string file = scratch / "sub/token";
  CHECK_FALSE(find_token(file));
  const Token made = make_token(file);
  CHECK(find_token(file) == made);
  struct stat info {};
  REQUIRE(stat(file.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  CHECK(contents(file).size() == 65);
  CHECK(std::distance(std::filesystem::directory_iterator(scratch / "sub"), {}) == 1);
  CHECK(make_token(file) == made);  // two first jobs
  chmod(file.c_str(), 0644);
  const auto open = caught([&] { find_token(file); });
  CHECK(open.code == ExitCode::refused);
  CHECK(open.has("chmod 600"));
  chmod(file.c_str(), 0600);
  std::ofstream(file) << "secret";
  CHECK(caught([&] { find_token(file); }).has("64 hexadecimal digits"));
}

TEST_CASE("HMAC-SHA256 as Python computes it") {
  // hmac.new(bytes(range(32)), b"frameshard", "sha256").hexdigest()
  Token key;
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<unsigned char>(i);
  CHECK(sign(key, "frameshard") == "b3c8254cd26d0428963ecc0ee109fd3b9d31966c60fef63d270b2ba8f5c59335");
}

TEST_CASE("nodes that cannot be one job") {
  auto refused = [](const NodeFacts& other, ExitCode code, const std::string& part) {
    const auto error = caught([&] { check_nodes_fit(node(0, "a"), other); });
    INFO(error.message);
    CHECK(error.code == code);
    CHECK(error.has(part));
  };
  CHECK(caught([&] { check_nodes_fit(node(0, "a"), node(1, "b")); }).code == ExitCode::ok);
  refused(node(1, "a"), ExitCode::config, "same host name");
  refused(node(0, "b"), ExitCode::config, "outside 1 to 1");
  refused(node(2, "b"), ExitCode::config, "outside 1 to 1");
  NodeFacts other = node(1, "b");
  other.nodes = 3;
  refused(other, ExitCode::config, "--nnodes 2, node 1 (host b, 10.0.0.2) with 3");
  other = node(1, "b");
  other.mpi = "Open MPI 5.0.11";
  refused(other, ExitCode::disagree, "install the same on all nodes");
  other = node(1, "b");
  other.program.push_back("request.seed=1");
  refused(other, ExitCode::disagree, "nothing where node 1 (host b, 10.0.0.2) has \"request.seed=1\"");
  other = node(1, "b");
  other.address = "10.0.0.1";
  refused(other, ExitCode::config, "the same address for MPI");
  const auto same = caught([&] { check_nodes_fit(node(1, "c"), node(1, "b")); });
  CHECK(same.has("the same --node-rank"));
}
