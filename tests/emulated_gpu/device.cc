// Emulated GPU, part 1: the device. A first-party "GPU" device written against the
// TensorFlow C++ API. Unlike a PluggableDevice it honours
// LogicalDeviceConfiguration(memory_limit=...), several logical devices on one
// physical one, allow_growth and per_process_gpu_memory_fraction, and its
// allocator is called GPU_<n>_bfc, as on CUDA.
//
// Device memory is reserved host address space behind TensorFlow's own
// BFCAllocator; everything runs synchronously, so there are no streams.
//
//   EMULATED_GPU_COUNT               number of physical devices    (default 1)
//   EMULATED_GPU_MEMORY_MB           memory of each, MiB           (default 1024);
//                                    a list such as 512,768 for unequal ones
//   EMULATED_GPU_NAME                device_name in get_device_details
//   EMULATED_GPU_COMPUTE_CAPABILITY  e.g. 8.0
//   EMULATED_GPU_UUIDS               list of UUIDs (default GPU-emulated-<n>)
//   EMULATED_GPU_FASTEST_FIRST       order of the devices, such as 1,0, unless
//                                    CUDA_DEVICE_ORDER is PCI_BUS_ID
//   EMULATED_GPU_SYSTEM_MB           memory that TensorFlow leaves alone (default 0)
//   EMULATED_GPU_OOM_RETRY           0: report OOM at once; 1 (default): wait
//                                    up to 10 s for memory first, as on CUDA
//   EMULATED_GPU_SPILL_MB            what is in use beyond this lies in the host's
//                                    memory, as under WSL: allocations there take
//                                    a second for each SPILL_BYTES_A_SECOND
//   EMULATED_ACCELERATOR             a type, such as TPU, of which TensorFlow
//                                    then lists a device, too
//   CUDA_VISIBLE_DEVICES             hides and orders devices, as on CUDA
//   TF_FORCE_GPU_ALLOW_GROWTH        as on CUDA
//   TF_GPU_ALLOCATOR                 cuda_malloc (no limit, no statistics) and
//                                    cuda_malloc_async (no limit, a pool that
//                                    keeps what it took), as on CUDA
//   NVML_STAND_IN_STATE              a folder shared with the stand-in for NVML
//                                    (tests/nvml_stand_in): neighbours' memory
//                                    is read from it, ours is told there; with
//                                    error= or ecc= for the board its processes die
//                                    at their next allocation, with mode=2 or
//                                    mode=3 it lets none, or no second one, in
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <dirent.h>
#include <signal.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "tensorflow/core/common_runtime/copy_tensor.h"
#include "tensorflow/core/common_runtime/local_device.h"
#include "tensorflow/core/framework/device_factory.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/public/session_options.h"
#include "xla/stream_executor/platform_manager.h"
#include "xla/stream_executor/stream_executor.h"
#include "xla/tsl/framework/bfc_allocator.h"
#include "xla/tsl/framework/device_id_manager.h"

namespace {

using namespace tensorflow;  // NOLINT

// --- what there is ---------------------------------------------------------
int64_t EnvInt(const char* name, int64_t fallback) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoll(text, nullptr, 10) : fallback;
}
std::string EnvText(const char* name, const char* fallback) {
  const char* text = std::getenv(name);
  return text && *text ? text : fallback;
}
// The n-th entry of a list in the environment; the last one stands for more.
std::string EnvEntry(const char* name, int n, const std::string& fallback) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return fallback;
  std::vector<std::string> all = absl::StrSplit(text, ',');
  return all[std::min<size_t>(n, all.size() - 1)];
}
int64_t BoardBytes(int board) {
  return std::strtoll(EnvEntry("EMULATED_GPU_MEMORY_MB", board, "1024").c_str(),
                      nullptr, 10) << 20;
}
std::string BoardUuid(int board) {
  const char* text = std::getenv("EMULATED_GPU_UUIDS");
  if (text == nullptr || *text == '\0') return absl::StrCat("GPU-emulated-", board);
  return EnvEntry("EMULATED_GPU_UUIDS", board, "");
}
std::string BusId(int board) { return absl::StrCat("0000:0", board + 1, ":00.0"); }
std::string DeviceName() { return EnvText("EMULATED_GPU_NAME", "Emulated GPU"); }
std::string Capability() {
  return EnvText("EMULATED_GPU_COMPUTE_CAPABILITY", "8.0");
}

// Boards in the order in which CUDA would number them, before anything is hidden.
std::vector<int> OrderedBoards() {
  int count = EnvInt("EMULATED_GPU_COUNT", 1);
  std::vector<int> boards;
  std::string order = EnvText("EMULATED_GPU_FASTEST_FIRST", "");
  if (!order.empty() && EnvText("CUDA_DEVICE_ORDER", "") != "PCI_BUS_ID") {
    for (absl::string_view s : absl::StrSplit(order, ',')) {
      int n;
      if (absl::SimpleAtoi(s, &n) && n >= 0 && n < count) boards.push_back(n);
    }
    return boards;
  }
  for (int i = 0; i < count; ++i) boards.push_back(i);
  return boards;
}

// As CUDA reads the variable: entries up to the first that names no device, by
// number or by the beginning of a UUID.
std::vector<int> VisibleBoards() {
  static const std::vector<int>* boards = [] {
    const std::vector<int> ordered = OrderedBoards();
    auto* found = new std::vector<int>;
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    if (visible == nullptr) {
      *found = ordered;
      return found;
    }
    for (absl::string_view s : absl::StrSplit(visible, ',')) {
      s = absl::StripAsciiWhitespace(s);
      int n, board = -1;
      if (absl::SimpleAtoi(s, &n)) {
        if (n >= 0 && n < static_cast<int>(ordered.size())) board = ordered[n];
      } else if (!s.empty()) {
        for (int each : ordered)
          if (absl::StartsWith(BoardUuid(each), s)) board = each;
      }
      if (board < 0 || std::count(found->begin(), found->end(), board)) break;
      found->push_back(board);
    }
    return found;
  }();
  return *boards;
}
int DeviceCount() { return VisibleBoards().size(); }

// --- what others hold ------------------------------------------------------
// `devices` in the state's folder is written by the test (its format: see the
// stand-in for NVML); `used-<pid>-<board>` by each process with emulated GPUs.
std::string StateFolder() { return EnvText("NVML_STAND_IN_STATE", ""); }

std::atomic<int64_t>& OwnBytes(int board) {
  static std::atomic<int64_t> bytes[64];
  return bytes[board];
}

void TellOwnBytes(int board) {
  static std::atomic<int64_t> told[64];
  const int64_t bytes = OwnBytes(board).load();
  if (StateFolder().empty() || std::abs(bytes - told[board]) < (1 << 20)) return;
  told[board] = bytes;
  std::string path =
      absl::StrCat(StateFolder(), "/used-", getpid(), "-", board);
  std::ofstream(path + ".new") << bytes << "\n";
  std::rename((path + ".new").c_str(), path.c_str());
}

int64_t OthersBytes(int board) {
  if (StateFolder().empty()) return 0;
  int64_t total = 0;
  std::ifstream file(StateFolder() + "/devices");
  int current = -1;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind, word;
    words >> kind;
    if (kind == "gpu") ++current;
    if (kind != "process" || current != board) continue;
    while (words >> word)
      if (absl::StartsWith(word, "bytes="))
        total += std::strtoll(word.c_str() + 6, nullptr, 10);
  }
  DIR* folder = opendir(StateFolder().c_str());
  if (folder == nullptr) return total;
  while (dirent* entry = readdir(folder)) {
    int pid, of, end = 0;
    if (std::sscanf(entry->d_name, "used-%d-%d%n", &pid, &of, &end) != 2) continue;
    if (entry->d_name[end] != '\0' || of != board || pid == getpid()) continue;
    if (kill(pid, 0) != 0) continue;  // it went without a word
    int64_t bytes = 0;
    std::ifstream(StateFolder() + "/" + entry->d_name) >> bytes;
    total += bytes;
  }
  closedir(folder);
  return total;
}

// A number that the state's file gives for the board, such as its `mode=`.
int64_t BoardWord(int board, const char* key) {
  if (StateFolder().empty()) return 0;
  std::ifstream file(StateFolder() + "/devices");
  int current = -1;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind, word;
    words >> kind;
    if (kind != "gpu" || ++current != board) continue;
    while (words >> word)
      if (absl::StartsWith(word, key))
        return std::strtoll(word.c_str() + std::strlen(key), nullptr, 10);
  }
  return 0;
}

// As TensorFlow ends when the card does.
void DieIfBroken(int board) {
  static std::atomic<int64_t> next_look{0};
  if (StateFolder().empty()) return;
  const int64_t now = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now().time_since_epoch()).count();
  if (now < next_look) return;
  next_look = now + 20;
  if (BoardWord(board, "ecc="))
    LOG(FATAL) << "could not synchronize on CUDA context: "
                  "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered";
  if (BoardWord(board, "error="))
    LOG(FATAL) << "could not synchronize on CUDA context: "
                  "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure";
}

constexpr double SPILL_BYTES_A_SECOND = 25 << 20;
void SlowIfSpilled(int64_t in_use, size_t bytes) {
  static const int64_t fast = EnvInt("EMULATED_GPU_SPILL_MB", 0) << 20;
  if (fast == 0 || in_use <= fast) return;
  std::this_thread::sleep_for(
      std::chrono::duration<double>(bytes / SPILL_BYTES_A_SECOND));
}

// --- memory ----------------------------------------------------------------
// MAP_NORESERVE: without growth BFC takes the whole device at once, but only
// touched pages become real, so an 80 GB device can live on a small machine.
class DeviceMemory : public tsl::SubAllocator {
 public:
  explicit DeviceMemory(int board) : SubAllocator({}, {}), board_(board) {}
  void* Alloc(size_t, size_t bytes, size_t* received) override {
    *received = bytes;
    int64_t there = BoardBytes(board_) - OthersBytes(board_) - OwnBytes(board_);
    if (static_cast<int64_t>(bytes) > there) return nullptr;
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    OwnBytes(board_) += bytes;
    TellOwnBytes(board_);
    return p;
  }
  void Free(void* p, size_t bytes) override {
    munmap(p, bytes);
    OwnBytes(board_) -= bytes;
    TellOwnBytes(board_);
  }
  bool SupportsCoalescing() const override { return false; }
  tsl::AllocatorMemoryType GetMemoryType() const override {
    return tsl::AllocatorMemoryType::kDevice;
  }

 private:
  const int board_;
};

class GpuBfc : public tsl::BFCAllocator {
 public:
  GpuBfc(int board, int64_t limit, const std::string& name, const Options& options)
      : BFCAllocator(std::make_unique<DeviceMemory>(board), limit, name, options),
        board_(board) {}
  void* AllocateRaw(size_t alignment, size_t bytes) override {
    return AllocateRaw(alignment, bytes, tsl::AllocationAttributes());
  }
  void* AllocateRaw(size_t alignment, size_t bytes,
                    const tsl::AllocationAttributes& attributes) override {
    DieIfBroken(board_);
    void* p = BFCAllocator::AllocateRaw(alignment, bytes, attributes);
    SlowIfSpilled(GetStats()->bytes_in_use, bytes);
    return p;
  }

 private:
  const int board_;
};

// TF_GPU_ALLOCATOR=cuda_malloc and cuda_malloc_async: the driver's own. Neither
// keeps a limit of TensorFlow's; the second keeps statistics and a pool.
class DriverAllocator : public tsl::Allocator {
 public:
  DriverAllocator(int board, std::string name, bool pools)
      : board_(board), name_(std::move(name)), pools_(pools) {}
  std::string Name() override { return name_; }
  void* AllocateRaw(size_t, size_t bytes) override {
    DieIfBroken(board_);
    const int64_t size = (std::max<size_t>(bytes, 1) + 4095) / 4096 * 4096;
    absl::MutexLock lock(mu_);
    const int64_t more = std::max<int64_t>(0, stats_.bytes_in_use + size - pool_);
    const int64_t there = BoardBytes(board_) - OwnBytes(board_);
    if (more > there || (more > 0 && more > there - OthersBytes(board_))) return nullptr;
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    sizes_[p] = size;
    stats_.bytes_in_use += size;
    stats_.peak_bytes_in_use = std::max(stats_.peak_bytes_in_use, stats_.bytes_in_use);
    Pool(more);
    return p;
  }
  void DeallocateRaw(void* p) override {
    absl::MutexLock lock(mu_);
    auto found = sizes_.find(p);
    munmap(p, found->second);
    stats_.bytes_in_use -= found->second;
    if (!pools_) Pool(-found->second);
    sizes_.erase(found);
  }
  std::optional<tsl::AllocatorStats> GetStats() override {
    absl::MutexLock lock(mu_);
    if (!pools_) return std::nullopt;
    return stats_;
  }
  bool ClearStats() override {
    absl::MutexLock lock(mu_);
    stats_.peak_bytes_in_use = stats_.bytes_in_use;
    return pools_;
  }
  tsl::AllocatorMemoryType GetMemoryType() const override {
    return tsl::AllocatorMemoryType::kDevice;
  }

 private:
  void Pool(int64_t more) {
    pool_ += more;
    OwnBytes(board_) += more;
    TellOwnBytes(board_);
  }
  const int board_;
  const std::string name_;
  const bool pools_;
  absl::Mutex mu_;
  int64_t pool_ = 0;
  tsl::AllocatorStats stats_;
  std::map<void*, int64_t> sizes_;
};

bool Grows(bool asked) {  // GPUBFCAllocator's rule
  std::string forced = EnvText("TF_FORCE_GPU_ALLOW_GROWTH", "");
  if (forced == "true") return true;
  if (forced == "false") return false;
  return asked;
}

// One allocator per logical GPU for the whole process, as CUDA TensorFlow has:
// creating the devices again (device_lib, sessions) shares the memory.
Allocator* LogicalAllocator(int id, int board, int64_t limit, bool growth,
                            bool retry) {
  static auto* mu = new absl::Mutex;
  static auto* all = new std::map<int, std::unique_ptr<tsl::Allocator>>;
  absl::MutexLock lock(mu);
  std::unique_ptr<tsl::Allocator>& slot = (*all)[id];
  const std::string kind = EnvText("TF_GPU_ALLOCATOR", "");
  if (!slot && absl::StartsWith(kind, "cuda_malloc")) {
    slot = std::make_unique<DriverAllocator>(
        board, absl::StrCat("gpu_", kind, "_", id), kind == "cuda_malloc_async");
  } else if (!slot) {
    tsl::BFCAllocator::Options options;
    options.allow_growth = Grows(growth);
    options.allow_retry_on_failure = retry && EnvInt("EMULATED_GPU_OOM_RETRY", 1) != 0;
    slot = std::make_unique<GpuBfc>(board, limit, absl::StrCat("GPU_", id, "_bfc"), options);
  }
  return slot.get();
}

// --- device ----------------------------------------------------------------
absl::Status CopyBytes(const Tensor* from, Tensor* to) {
  if (!DataTypeCanUseMemcpy(from->dtype()))
    return absl::UnimplementedError(absl::StrCat(
        "cannot copy ", DataTypeString(from->dtype()),
        " tensors to or from an emulated GPU"));
  if (from->TotalBytes() > 0)
    std::memcpy(const_cast<char*>(to->tensor_data().data()),
                from->tensor_data().data(), from->TotalBytes());
  return absl::OkStatus();
}

// XLA asks a GPU for its stream and compiles for the stream's platform. A
// stream of XLA's host platform makes it use its CPU compiler.
stream_executor::Stream* HostStream() {
  static stream_executor::Stream* stream = []() -> stream_executor::Stream* {
    auto platform = stream_executor::PlatformManager::PlatformWithName("Host");
    if (!platform.ok()) return nullptr;
    auto executor = (*platform)->ExecutorForDevice(0);
    if (!executor.ok()) return nullptr;
    auto made = (*executor)->CreateStream(std::nullopt);
    return made.ok() ? made->release() : nullptr;
  }();
  return stream;
}

class CopyContext : public DeviceContext {
 public:
  stream_executor::Stream* stream() const override { return HostStream(); }
  absl::Status ThenExecute(Device*, stream_executor::Stream*,
                           std::function<void()> work) override {
    work();  // everything before it has already run
    return absl::OkStatus();
  }
  void CopyCPUTensorToDevice(const Tensor* from, Device*, Tensor* to,
                             StatusCallback done, bool) const override {
    done(CopyBytes(from, to));
  }
  void CopyDeviceTensorToCPU(const Tensor* from, absl::string_view, Device*,
                             Tensor* to, StatusCallback done) override {
    done(CopyBytes(from, to));
  }
  void CopyTensorInSameDevice(const Tensor* from, Device*, Tensor* to,
                              StatusCallback done) const override {
    done(CopyBytes(from, to));
  }
};

class EmulatedGpu : public LocalDevice {
 public:
  EmulatedGpu(const SessionOptions& options, const std::string& name, int id,
              int physical, int board, int64_t limit, Allocator* memory)
      : LocalDevice(options,
                    BuildDeviceAttributes(
                        name, DeviceType("GPU"), Bytes(limit), Locality(physical),
                        absl::StrCat("device: ", physical, ", name: ",
                                     DeviceName(), ", pci bus id: ", BusId(board),
                                     ", compute capability: ", Capability()))),
        memory_(memory),
        context_(new CopyContext) {
    info_.default_context = context_;
    info_.gpu_id = id;
    info_.stream = HostStream();
    set_tensorflow_accelerator_device_info(&info_);
  }
  ~EmulatedGpu() override { context_->Unref(); }

  Allocator* GetAllocator(AllocatorAttributes attr) override {
    return attr.on_host() ? cpu_allocator() : memory_;
  }
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status TryGetDeviceContext(DeviceContext** out) override {
    context_->Ref();
    *out = context_;
    return absl::OkStatus();
  }
  absl::Status MakeTensorFromProto(const TensorProto& proto,
                                   const AllocatorAttributes attr,
                                   Tensor* out) override {
    Tensor host(proto.dtype());
    if (!host.FromProto(cpu_allocator(), proto))
      return absl::InvalidArgumentError("Cannot parse tensor from proto");
    if (attr.on_host() || !DataTypeCanUseMemcpy(host.dtype())) {
      *out = host;
      return absl::OkStatus();
    }
    Tensor copy(memory_, host.dtype(), host.shape());
    if (!copy.IsInitialized() && host.NumElements() > 0)
      return absl::ResourceExhaustedError(absl::StrCat(
          "OOM when allocating tensor of shape ", host.shape().DebugString(),
          " and type ", DataTypeString(host.dtype()), " on ", name()));
    *out = copy;
    return CopyBytes(&host, out);
  }
  void CopyTensorInSameDevice(const Tensor* from, Tensor* to,
                              const DeviceContext*,
                              StatusCallback done) override {
    done(CopyBytes(from, to));
  }

 private:
  static DeviceLocality Locality(int physical) {
    DeviceLocality locality;
    locality.set_bus_id(physical + 1);
    return locality;
  }
  Allocator* memory_;  // owned by LogicalAllocator
  CopyContext* context_;
  AcceleratorDeviceInfo info_;
};

// --- factory ---------------------------------------------------------------
class EmulatedGpuFactory : public DeviceFactory {
 public:
  absl::Status ListPhysicalDevices(std::vector<std::string>* out) override {
    for (int i = 0; i < DeviceCount(); ++i)
      out->push_back(absl::StrCat("/physical_device:GPU:", i));
    return absl::OkStatus();
  }
  absl::Status GetDeviceDetails(
      int, std::unordered_map<std::string, std::string>* out) override {
    (*out)["device_name"] = DeviceName();
    (*out)["compute_capability"] = Capability();
    return absl::OkStatus();
  }
  absl::Status CreateDevices(
      const SessionOptions& options, const std::string& prefix,
      std::vector<std::unique_ptr<Device>>* out) override {
    const GPUOptions& gpu = options.config.gpu_options();
    int wanted = DeviceCount();
    auto count = options.config.device_count().find("GPU");
    if (count != options.config.device_count().end())
      wanted = std::min<int>(wanted, count->second);
    std::vector<int> visible;
    if (gpu.visible_device_list().empty()) {
      for (int i = 0; i < DeviceCount(); ++i) visible.push_back(i);
    } else {
      for (absl::string_view s : absl::StrSplit(gpu.visible_device_list(), ',')) {
        int n = std::atoi(std::string(s).c_str());
        if (n < 0 || n >= DeviceCount())
          return absl::InvalidArgumentError(
              absl::StrCat("invalid visible_device_list entry ", n));
        visible.push_back(n);
      }
    }
    if (static_cast<int>(visible.size()) > wanted) visible.resize(wanted);

    const auto& virtual_devices = gpu.experimental().virtual_devices();
    int id = 0;
    for (size_t v = 0; v < visible.size(); ++v) {
      const int board = VisibleBoards()[visible[v]];
      const int64_t mode = BoardWord(board, "mode=");
      if (mode == 2 || (mode == 3 && OthersBytes(board) > 0))
        return absl::InternalError(absl::StrCat(
            "cudaSetDevice() on GPU:", visible[v],
            " failed. Status: CUDA-capable device(s) is/are busy or unavailable"));
      std::vector<int64_t> limits;
      if (v < static_cast<size_t>(virtual_devices.size()))
        for (float mb : virtual_devices[v].memory_limit_mb())
          limits.push_back(static_cast<int64_t>(mb * (1 << 20)));
      if (limits.empty()) {
        // As on CUDA: a share of the whole, or what is free now, less what the
        // system needs.
        double fraction = gpu.per_process_gpu_memory_fraction();
        int64_t free = BoardBytes(board) - OthersBytes(board) - OwnBytes(board);
        int64_t system = EnvInt("EMULATED_GPU_SYSTEM_MB", 0) << 20;
        limits.push_back(fraction > 0 ? BoardBytes(board) * fraction
                                      : std::max<int64_t>(0, free - system));
      }
      for (int64_t limit : limits) {
        Allocator* memory = LogicalAllocator(
            id, board, limit, gpu.allow_growth(),
            !gpu.experimental().disallow_retry_on_allocation_failure());
        TF_RETURN_IF_ERROR(tsl::DeviceIdManager::InsertTfPlatformDeviceIdPair(
            DeviceType("GPU"), tsl::TfDeviceId(id),
            tsl::PlatformDeviceId(visible[v])));
        out->push_back(std::make_unique<EmulatedGpu>(
            options, absl::StrCat(prefix, "/device:GPU:", id), id, visible[v],
            board, limit, memory));
        ++id;
      }
    }
    return absl::OkStatus();
  }
};

// Lists a device of another type, and brings up none.
class OtherFactory : public DeviceFactory {
 public:
  absl::Status ListPhysicalDevices(std::vector<std::string>* out) override {
    out->push_back(absl::StrCat("/physical_device:", EnvText("EMULATED_ACCELERATOR", ""), ":0"));
    return absl::OkStatus();
  }
  absl::Status CreateDevices(const SessionOptions&, const std::string&,
                             std::vector<std::unique_ptr<Device>>*) override {
    return absl::OkStatus();
  }
};

void CopyDeviceToDevice(DeviceContext*, DeviceContext*, Device*, Device*,
                        const AllocatorAttributes, const AllocatorAttributes,
                        const Tensor* from, Tensor* to, int,
                        StatusCallback done) {
  done(CopyBytes(from, to));
}

}  // namespace

// Runs when the library is loaded (before TensorFlow makes its devices).
__attribute__((constructor)) void RegisterEmulatedGpuDevice() {
  // "Pluggable" so that copies between GPUs use CopyDeviceToDevice: the CPU
  // build also holds CUDA's copy function, which casts to CUDA's own classes.
  DeviceFactory::Register("GPU", std::make_unique<EmulatedGpuFactory>(), 210,
                          /*is_pluggable_device=*/true);
  const std::string other = EnvText("EMULATED_ACCELERATOR", "");
  if (!other.empty())
    DeviceFactory::Register(other, std::make_unique<OtherFactory>(), 205,
                            /*is_pluggable_device=*/false);
  TF_CHECK_OK(CopyTensor::Register(DeviceType("GPU"), DeviceType("GPU"),
                                   CopyDeviceToDevice,
                                   /*is_pluggable_device=*/true));
}
