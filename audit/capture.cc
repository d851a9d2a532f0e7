#include "audit/capture.h"

#include <filesystem>
#include <pcap/pcap.h>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>

namespace nova::audit {
namespace {

// No packet is longer than what libpcap takes.
constexpr int kPacketBytesMax = 262'144;

struct CloseHandle {
  void operator()(pcap_t* handle) const { pcap_close(handle); }
};
using Handle = std::unique_ptr<pcap_t, CloseHandle>;

Result<std::string> Loopback() {
  char problem[PCAP_ERRBUF_SIZE] = "";
  pcap_if_t* devices = nullptr;
  if (pcap_findalldevs(&devices, problem) != 0) return FailedPrecondition(std::string("libpcap: ") + problem);
  std::string name;
  for (const pcap_if_t* device = devices; device != nullptr && name.empty(); device = device->next) {
    if ((device->flags & PCAP_IF_LOOPBACK) != 0) name = device->name;
  }
  pcap_freealldevs(devices);
  if (name.empty()) return NotFound("there is no loopback to capture on");
  return name;
}

Error NotPermitted() {
  std::error_code ignored;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return PermissionDenied(
      "this user may not capture packets: run it with `sudo`, or allow it once with `sudo setcap "
      "cap_net_raw+ep " +
      program.string() + "`");
}

std::string FilterOf(const std::vector<int>& ports) {
  std::string filter;
  for (const int port : ports) filter += (filter.empty() ? "tcp and (port " : " or port ") + std::to_string(port);
  return filter + ")";
}

Result<Handle> Open(const std::vector<int>& ports) {
  // Some systems list no device to whom they do not let capture.
  const auto device = Loopback();
  if (!device) return ::geteuid() == 0 ? device.error() : NotPermitted();
  char problem[PCAP_ERRBUF_SIZE] = "";
  Handle handle(pcap_create(device->c_str(), problem));
  if (handle == nullptr) return FailedPrecondition(std::string("libpcap: ") + problem);
  // Each packet at once: with none waiting for company, the end of the capture is the end of what was on the wire.
  if (pcap_set_snaplen(handle.get(), kPacketBytesMax) != 0 || pcap_set_immediate_mode(handle.get(), 1) != 0 ||
      pcap_set_buffer_size(handle.get(), Capture::kBufferBytes) != 0)
    return FailedPrecondition(std::string("libpcap: ") + pcap_geterr(handle.get()));
  const int activated = pcap_activate(handle.get());
  if (activated == PCAP_ERROR_PERM_DENIED) return NotPermitted();
  if (activated < 0)
    return FailedPrecondition("libpcap: " + std::string(pcap_statustostr(activated)) + ": " +
                              pcap_geterr(handle.get()));
  if (pcap_datalink(handle.get()) != DLT_EN10MB)
    return FailedPrecondition("the capture on " + *device + " has no Ethernet headers");
  bpf_program program{};
  if (pcap_compile(handle.get(), &program, FilterOf(ports).c_str(), 1, PCAP_NETMASK_UNKNOWN) != 0)
    return FailedPrecondition(std::string("libpcap: ") + pcap_geterr(handle.get()));
  const int filtered = pcap_setfilter(handle.get(), &program);
  pcap_freecode(&program);
  if (filtered != 0 || pcap_setnonblock(handle.get(), 1, problem) != 0)
    return FailedPrecondition("libpcap: " + std::string(filtered != 0 ? pcap_geterr(handle.get()) : problem));
  return handle;
}

}  // namespace

struct Capture::State {
  State(Handle opened, int event, Sink to) : handle(std::move(opened)), stop_event(event), sink(std::move(to)) {
    reader = std::thread([this] { Read(); });
  }
  ~State() {
    Join();
    (void)::close(stop_event);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void Join() {
    if (!reader.joinable()) return;
    (void)::eventfd_write(stop_event, 1);
    reader.join();
  }

  void Read() {
    pollfd waits[] = {{.fd = pcap_get_selectable_fd(handle.get()), .events = POLLIN, .revents = 0},
                      {.fd = stop_event, .events = POLLIN, .revents = 0}};
    bool stop = false;
    while (!stop && !failed) {
      (void)::poll(waits, std::size(waits), -1);
      stop = waits[1].revents != 0;
      // All there is: also what came before somebody said stop.
      for (int read = 1; read > 0;) {
        read = pcap_dispatch(handle.get(), -1, &State::OnPacket, reinterpret_cast<u_char*>(this));
        failed = read < 0;
      }
    }
  }

  static void OnPacket(u_char* user, const pcap_pkthdr* header, const u_char* bytes) {
    auto& state = *reinterpret_cast<State*>(user);
    ++state.packets;
    const auto segment = header->caplen < header->len
                             ? Result<TcpSegment>(InvalidArgument("a packet that was cut"))
                             : ReadFrame({reinterpret_cast<const char*>(bytes), header->caplen});
    if (segment)
      state.sink(*segment);
    else if (state.unread++ == 0)
      state.problem = segment.error().message();
  }

  const Handle handle;
  const int stop_event;
  const Sink sink;
  // The reader's until it is joined.
  std::uint64_t packets = 0;
  std::uint64_t unread = 0;
  std::string problem;
  bool failed = false;
  std::thread reader;
};

Capture::Capture(std::unique_ptr<State> state) : state_(std::move(state)) {}
Capture::~Capture() = default;

Result<std::unique_ptr<Capture>> Capture::Start(const std::vector<int>& ports, Sink sink) {
  if (ports.empty()) return InvalidArgument("no port to capture");
  NOVA_TRY(Handle handle, Open(ports));
  const int event = ::eventfd(0, EFD_CLOEXEC);
  if (event < 0) return FailedPrecondition("no descriptor is left for the capture");
  return std::unique_ptr<Capture>(new Capture(std::make_unique<State>(std::move(handle), event, std::move(sink))));
}

Result<std::uint64_t> Capture::Stop() {
  state_->Join();
  if (state_->failed) return Internal(std::string("libpcap: ") + pcap_geterr(state_->handle.get()));
  pcap_stat seen{};
  if (pcap_stats(state_->handle.get(), &seen) != 0)
    return Internal(std::string("libpcap: ") + pcap_geterr(state_->handle.get()));
  if (const auto lost = seen.ps_drop + seen.ps_ifdrop; lost > 0)
    return Error(Code::kDataLoss, "the capture lost " + std::to_string(lost) + " packets");
  if (state_->unread > 0)
    return Error(Code::kDataLoss, std::to_string(state_->unread) + " packets could not be read: " + state_->problem);
  return state_->packets;
}

}  // namespace nova::audit
