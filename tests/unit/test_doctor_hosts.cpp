// Hosts and how they reach each other, the PCI bus, and other programs: the doctor's ways to look around.
#include <fstream>

#include "core/net.h"
#include "core/pci.h"
#include "core/process.h"
#include "launcher/doctor/network_check.h"
#include "tests/support/catch.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch.h"

using namespace frameshard;
using frameshard::test::caught;
using frameshard::test::Scratch;

namespace {

NetInterface interface(const std::string& name, const std::string& address, int prefix, int64_t mtu = 1500) {
  return {.name = name,
          .up = true,
          .loopback = name == "lo",
          .speed_mbit = 10000,
          .mtu = mtu,
          .addresses = {{address, prefix}}};
}

HostFacts host(const std::string& name, std::vector<NetInterface> interfaces) {
  interfaces.push_back(interface("lo", "127.0.0.1", 8));
  return {.name = name, .interfaces = std::move(interfaces)};
}

std::string lines(const Findings& findings) {
  std::string text;
  for (const Finding& finding : findings) text += line_of(finding) + "\n";
  return text;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void write(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text << "\n";
}

}  // namespace

TEST_CASE("subnets") {
  CHECK(subnet_of({"10.1.2.3", 24}) == "10.1.2.0/24");
  CHECK(subnet_of({"10.1.2.255", 25}) == "10.1.2.128/25");
  CHECK(subnet_of({"10.1.2.3", 32}) == "10.1.2.3/32");
  CHECK(subnet_of({"10.1.2.3", 0}) == "0.0.0.0/0");
  CHECK(subnet_of({"fd00::1:2:3", 64}) == "fd00::/64");
  for (const NetAddress& bad : std::vector<NetAddress>{
           {"", 8}, {"10.1.2", 8}, {"10.1.2.3", 33}, {"::1", 129}, {"10.1.2.3", -1}, {"host", 24}}) {
    CHECK(subnet_of(bad) == "");
  }
}

TEST_CASE("one host has nothing to reach") {
  CHECK(check_hosts({}).empty());
  CHECK(check_hosts({host("a", {interface("eth0", "10.0.0.1", 24)})}).empty());
}

TEST_CASE("hosts in one subnet") {
  const std::string text = lines(check_hosts(
      {host("a", {interface("eth0", "10.0.0.1", 24)}), host("b", {interface("ens3", "10.0.0.2", 24)})}));
  CHECK(has(text, "ok     host names: 2 hosts, all different"));
  CHECK(has(text, "ok     network: 10.0.0.0/24 is common to 2 hosts"));
  CHECK(has(text, "--mca btl_tcp_if_include 10.0.0.0/24, NCCL_SOCKET_IFNAME=eth0"));
}

TEST_CASE("hosts of equal name") {
  CHECK(has(lines(check_hosts({host("a", {interface("eth0", "10.0.0.1", 24)}),
                               host("a", {interface("eth0", "10.0.0.2", 24)})})),
            "CHANGE host names: 2 hosts or containers are all called a"));
}

TEST_CASE("no common subnet") {
  const std::string text = lines(check_hosts(
      {host("a", {interface("eth0", "10.0.0.1", 24)}), host("b", {interface("eth0", "10.0.1.1", 24)})}));
  CHECK(has(
      text,
      "CHANGE network: no subnet is common to all hosts: a has eth0 10.0.0.1/24; b has eth0 10.0.1.1/24"));
  CHECK(has(text, "--mca btl_tcp_if_include"));
  CHECK(has(text, "NCCL_SOCKET_IFNAME"));
}

TEST_CASE("a bridge of each host's own joins nothing") {
  const NetInterface docker = interface("docker0", "172.17.0.1", 16);
  CHECK(has(lines(check_hosts({host("a", {docker}), host("b", {docker})})), "no subnet is common"));
  const auto common = common_subnets({host("a", {docker, interface("eth0", "10.0.0.1", 24)}),
                                      host("b", {docker, interface("eth0", "10.0.0.2", 24)})});
  REQUIRE(common.size() == 1);
  CHECK(common[0].subnet == "10.0.0.0/24");
}

TEST_CASE("what is down does not count") {
  NetInterface down = interface("eth0", "10.0.0.2", 24);
  down.up = false;
  CHECK(has(lines(check_hosts({host("a", {interface("eth0", "10.0.0.1", 24)}), host("b", {down})})),
            "b has none"));
}

TEST_CASE("addresses without a subnet cannot be judged") {
  const std::string text = lines(check_hosts(
      {host("a", {interface("eth0", "10.0.0.1", 32)}), host("b", {interface("eth0", "10.0.0.2", 32)})}));
  CHECK(has(text, "note   network: addresses without a subnet"));
}

TEST_CASE("MTUs must agree") {
  const std::string text = lines(check_hosts({host("a", {interface("eth0", "10.0.0.1", 24, 9000)}),
                                              host("b", {interface("eth0", "10.0.0.2", 24, 1500)})}));
  CHECK(has(text, "CHANGE network: in 10.0.0.0/24 the hosts' MTUs are 9000, 1500"));
}

TEST_CASE("interfaces in words") {
  NetInterface slow = interface("eth0", "10.0.0.1", 24);
  CHECK(lines(check_interfaces({slow})) == "ok     interface: eth0 10.0.0.1/24, up, 10 Gbit/s, MTU 1500\n");
  slow.up = false, slow.speed_mbit = -1;
  const std::string text = lines(check_interfaces({interface("lo", "127.0.0.1", 8), slow}));
  CHECK(has(text, "note   interface: eth0 10.0.0.1/24, down, speed unknown"));
  CHECK(has(text, "none but loopback is up"));
  const NetInterface again = interface_from_json(Json::parse(to_json(slow).dump()));
  CHECK(lines(check_interfaces({again})) == lines(check_interfaces({slow})));
}

TEST_CASE("link speeds") {
  CHECK(parse_link_speed("16.0 GT/s PCIe") == 16);
  CHECK(parse_link_speed("2.5 GT/s") == 2.5);
  for (const char* bad :
       {"", "Unknown", "Unknown speed", "GT/s", "16", "-8 GT/s", "1e9 GT/s", "nan GT/s", "8 MB/s"}) {
    CHECK(parse_link_speed(bad) == 0);
  }
  CHECK(pcie_generation(2.5) == 1);
  CHECK(pcie_generation(32) == 5);
  CHECK(pcie_generation(7) == 0);
  CHECK(pcie_generation(0) == 0);
}

TEST_CASE("devices on the PCI bus") {
  const Scratch root;
  const auto card = root / "0000:0f:00.0";
  write(card / "vendor", "0x10de");
  write(card / "class", "0x030200");
  write(card / "current_link_speed", "2.5 GT/s PCIe");
  write(card / "current_link_width", "8");
  write(card / "max_link_speed", "32.0 GT/s PCIe");
  write(card / "max_link_width", "16");
  write(card / "numa_node", "1");
  write(root / "0000:01:00.0" / "vendor", "0x8086");
  write(root / "0000:02:00.0" / "vendor", "0x10de");
  write(root / "0000:02:00.0" / "class", "0x040300");  // its sound
  CHECK(nvidia_cards(root.path()) == std::vector<std::string>{"0000:0f:00.0"});
  const PciDevice device = read_pci_device("0000:0F:00.0", root.path());
  CHECK(device.address == "0000:0f:00.0");
  CHECK(device.now.gigatransfers == 2.5);
  CHECK(device.now.width == 8);
  CHECK(device.most.gigatransfers == 32);
  CHECK(device.most.width == 16);
  CHECK(device.numa_node == 1);
  write(card / "current_link_width", "255");
  CHECK(read_pci_device("0000:0F:00.0", root.path()).now.width == 0);
  const PciDevice none = read_pci_device("0000:ff:00.0", root.path());
  CHECK(none.most.width == 0);
  CHECK(none.numa_node == -1);
  CHECK(nvidia_cards(root / "nothing").empty());
}

TEST_CASE("what a program prints") {
  const ProgramOutput output = output_of({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, 20);
  CHECK(output.ended);
  CHECK(output.code == 3);
  CHECK(output.text == "out\nerr\n");
  const ProgramOutput much = output_of({"/bin/sh", "-c", "head -c 200000 /dev/zero"}, 20);
  CHECK(much.ended);
  CHECK(much.text.size() == 65536);
  CHECK(output_of({"/bin/sh", "-c", "kill -9 $$"}, 20).code == 137);
}

TEST_CASE("a program that does not end is killed") {
  const ProgramOutput output = output_of({"/bin/sh", "-c", "echo begun; sleep 600"}, 0.2);
  CHECK_FALSE(output.ended);
  CHECK(output.code == 137);
}

TEST_CASE("a program that cannot be started") {
  const auto error = caught([] { output_of({"/nowhere/mpirun", "--version"}, 20); });
  CHECK(error.code == ExitCode::unavailable);
  CHECK(error.has("/nowhere/mpirun could not be started"));
  CHECK_FALSE(find_on_path("no-such-program-at-all"));
  CHECK(find_on_path("sh"));
}
