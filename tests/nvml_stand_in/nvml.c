/* A stand-in for libnvidia-ml.so.1: NVML's calls, answered out of a text file.
 *
 * The file is `devices` in the folder $NVML_STAND_IN_STATE; it is read anew at every call, so
 * that a test may change it (by renaming another one over it) while a probe runs. A line is a
 * word and `key=value` pairs without spaces; a process or an instance belongs to the GPU above:
 *
 *   driver version=550.54.14 cuda=12040
 *   fail call=nvmlDeviceGetMemoryInfo_v2 code=15          every such call returns this error
 *   gpu name=NVIDIA_A100 uuid=GPU-1 bus=0000:01:00.0 total=1073741824 reserved=0 cc=8.0 mode=0
 *   gpu ... error=15                                      calls about it return this error
 *   gpu ... ecc=2                                         uncorrected errors of its memory
 *   process pid=4242 bytes=134217728 name=/usr/bin/other  bytes=- where the driver cannot say
 *   instance uuid=MIG-1 total=268435456 used=0            the GPU is then in MIG mode
 *
 * Files `used-<pid>-<n>` beside it, which processes with emulated GPUs write, mirror their memory
 * on the n-th GPU for as long as they live; `hide_processes` as a line hides all processes, as
 * the driver does from a container or under WSL. Every call that is not here is answered by
 * NVML_ERROR_NOT_SUPPORTED (see build.py). The layouts of structures are NVML's public ones.
 */
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, VERSION_MISMATCH = 25 };
enum { GPUS = 16, PROCESSES = 64, INSTANCES = 8 };

typedef unsigned long long bytes_t;
typedef struct { unsigned pid; bytes_t bytes; int hidden; char name[256]; } Process;
typedef struct { char uuid[96]; bytes_t total, used; } Instance;
typedef struct {
  char name[96], uuid[96], bus[32];
  bytes_t total, reserved;
  int major, minor, mode, error, processes, instances;
  bytes_t ecc;
  Process process[PROCESSES];
  Instance instance[INSTANCES];
} Gpu;
typedef struct {
  char driver[80], failing[16][80];
  int cuda, codes[16], failures, gpus, hide_processes;
  Gpu gpu[GPUS];
} State;

typedef struct { bytes_t total, free, used; } Memory;
typedef struct { unsigned version; bytes_t total, reserved, free, used; } Memory_v2;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char busId[32]; } Pci;
typedef struct { unsigned pid; bytes_t bytes; unsigned gpu, compute; } ProcessInfo;
_Static_assert(sizeof(ProcessInfo) == 24 && sizeof(Memory_v2) == 40 && sizeof(Pci) == 68, "NVML's");

static int initialized;

static void copy(char *to, const char *from, size_t size) { snprintf(to, size, "%s", from); }

static void add_process(Gpu *gpu, unsigned pid, bytes_t bytes, int hidden, const char *name) {
  if (gpu->processes == PROCESSES) return;
  Process *process = &gpu->process[gpu->processes++];
  process->pid = pid, process->bytes = bytes, process->hidden = hidden;
  copy(process->name, name, sizeof process->name);
}

static void read_line(State *state, char *line) {
  char *rest = NULL, *kind = strtok_r(line, " \t\r\n", &rest), *word;
  char name[256] = "", uuid[96] = "", bus[32] = "", call[80] = "", version[80] = "";
  bytes_t total = 0, reserved = 0, bytes = 0, used = 0, ecc = 0;
  int code = 999, cuda = 12040, major = 8, minor = 0, mode = 0, error = 0, hidden = 0;
  unsigned pid = 0;
  if (kind == NULL || *kind == '#') return;
  while ((word = strtok_r(NULL, " \t\r\n", &rest))) {
    char *value = strchr(word, '=');
    if (value == NULL) continue;
    *value++ = 0;
    if (!strcmp(word, "name")) copy(name, value, sizeof name);
    if (!strcmp(word, "uuid")) copy(uuid, value, sizeof uuid);
    if (!strcmp(word, "bus")) copy(bus, value, sizeof bus);
    if (!strcmp(word, "call")) copy(call, value, sizeof call);
    if (!strcmp(word, "version")) copy(version, value, sizeof version);
    if (!strcmp(word, "total")) total = strtoull(value, NULL, 10);
    if (!strcmp(word, "reserved")) reserved = strtoull(value, NULL, 10);
    if (!strcmp(word, "used")) used = strtoull(value, NULL, 10);
    if (!strcmp(word, "bytes")) bytes = strtoull(value, NULL, 10), hidden = *value == '-';
    if (!strcmp(word, "code")) code = atoi(value);
    if (!strcmp(word, "cuda")) cuda = atoi(value);
    if (!strcmp(word, "mode")) mode = atoi(value);
    if (!strcmp(word, "error")) error = atoi(value);
    if (!strcmp(word, "pid")) pid = (unsigned)atoi(value);
    if (!strcmp(word, "ecc")) ecc = strtoull(value, NULL, 10);
    if (!strcmp(word, "cc")) sscanf(value, "%d.%d", &major, &minor);
  }
  Gpu *last = state->gpus ? &state->gpu[state->gpus - 1] : NULL;
  if (!strcmp(kind, "driver")) copy(state->driver, version, sizeof state->driver), state->cuda = cuda;
  if (!strcmp(kind, "hide_processes")) state->hide_processes = 1;
  if (!strcmp(kind, "fail") && state->failures < 16) {
    copy(state->failing[state->failures], call, sizeof state->failing[0]);
    state->codes[state->failures++] = code;
  }
  if (!strcmp(kind, "gpu") && state->gpus < GPUS) {
    Gpu *gpu = &state->gpu[state->gpus++];
    for (char *c = name; *c; ++c)
      if (*c == '_') *c = ' ';
    copy(gpu->name, name, sizeof gpu->name), copy(gpu->uuid, uuid, sizeof gpu->uuid);
    copy(gpu->bus, bus, sizeof gpu->bus);
    gpu->total = total, gpu->reserved = reserved, gpu->mode = mode, gpu->error = error;
    gpu->major = major, gpu->minor = minor, gpu->ecc = ecc;
  }
  if (!strcmp(kind, "process") && last) add_process(last, pid, bytes, hidden, name);
  if (!strcmp(kind, "instance") && last && last->instances < INSTANCES) {
    Instance *instance = &last->instance[last->instances++];
    copy(instance->uuid, uuid, sizeof instance->uuid);
    instance->total = total, instance->used = used;
  }
}

/* What there is now; the failure that the file asks of this call, if any. */
static int look(State *state, const char *call) {
  const char *folder = getenv("NVML_STAND_IN_STATE");
  char path[4096], line[1024];
  memset(state, 0, sizeof *state);
  copy(state->driver, "550.54.14", sizeof state->driver);
  state->cuda = 12040;
  if (folder == NULL) return DRIVER_NOT_LOADED;
  snprintf(path, sizeof path, "%s/devices", folder);
  FILE *file = fopen(path, "r");
  if (file == NULL) return DRIVER_NOT_LOADED;
  while (fgets(line, sizeof line, file)) read_line(state, line);
  fclose(file);
  DIR *entries = opendir(folder);
  for (struct dirent *entry; entries && (entry = readdir(entries));) {
    int pid, gpu, end = 0;
    bytes_t bytes = 0;
    if (sscanf(entry->d_name, "used-%d-%d%n", &pid, &gpu, &end) != 2) continue;
    if (entry->d_name[end] || gpu < 0 || gpu >= state->gpus || kill(pid, 0)) continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    if ((file = fopen(path, "r"))) {
      if (fscanf(file, "%llu", &bytes) != 1) bytes = 0;
      fclose(file);
    }
    if (bytes) add_process(&state->gpu[gpu], (unsigned)pid, bytes, 0, "");
  }
  if (entries) closedir(entries);
  for (int i = 0; i < state->failures; ++i)
    if (!strcmp(state->failing[i], call)) return state->codes[i];
  if (!initialized && strncmp(call, "nvmlInit", 8)) return UNINITIALIZED;
  return SUCCESS;
}

#define LOOK()                          \
  static __thread State state;          \
  int status = look(&state, __func__);  \
  if (status != SUCCESS) return status

/* A handle is the GPU's number from 1 on, or an instance's of it times 256 beside. */
#define GPU()                                                              \
  LOOK();                                                                  \
  int number = (int)((intptr_t)device & 255) - 1;                          \
  int part = (int)((intptr_t)device >> 8) - 1;                             \
  if (number < 0 || number >= state.gpus) return INVALID_ARGUMENT;         \
  Gpu *gpu = &state.gpu[number];                                           \
  if (part >= gpu->instances) return INVALID_ARGUMENT;                     \
  Instance *instance = part >= 0 ? &gpu->instance[part] : NULL;            \
  (void)instance;                                                          \
  if (gpu->error && !strstr(__func__, "PciInfo")) return gpu->error

static int text(char *to, unsigned size, const char *from) {
  if (strlen(from) >= size) return INSUFFICIENT_SIZE;
  strcpy(to, from);
  return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  LOOK();
  initialized = 1;
  return SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlSystemGetDriverVersion(char *to, unsigned size) { LOOK(); return text(to, size, state.driver); }
int nvmlSystemGetCudaDriverVersion_v2(int *to) { LOOK(); *to = state.cuda; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *to) { LOOK(); *to = (unsigned)state.gpus; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **to) {
  LOOK();
  if (index >= (unsigned)state.gpus) return INVALID_ARGUMENT;
  *to = (void *)(intptr_t)(index + 1);
  return SUCCESS;
}
int nvmlDeviceGetName(void *device, char *to, unsigned size) { GPU(); return text(to, size, gpu->name); }
int nvmlDeviceGetUUID(void *device, char *to, unsigned size) {
  GPU();
  return text(to, size, instance ? instance->uuid : gpu->uuid);
}
int nvmlDeviceGetPciInfo_v3(void *device, Pci *to) {
  GPU();
  memset(to, 0, sizeof *to);
  /* NVML writes eight digits of the domain here, CUDA and TensorFlow four. */
  snprintf(to->busId, sizeof to->busId, "0000%.27s", gpu->bus);
  snprintf(to->legacy, sizeof to->legacy, "%.15s", gpu->bus);
  return sscanf(gpu->bus, "%x:%x:%x", &to->domain, &to->bus, &to->device) == 3 ? SUCCESS : 999;
}
static void usage(const State *state, const Gpu *gpu, const Instance *instance, Memory_v2 *to) {
  (void)state;
  to->total = instance ? instance->total : gpu->total;
  to->reserved = instance ? 0 : gpu->reserved;
  to->used = instance ? instance->used : 0;
  for (int i = 0; !instance && i < gpu->processes; ++i) to->used += gpu->process[i].bytes;
  to->free = to->total > to->used + to->reserved ? to->total - to->used - to->reserved : 0;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, Memory_v2 *to) {
  GPU();
  if (to->version != (sizeof *to | 2 << 24)) return VERSION_MISMATCH;
  usage(&state, gpu, instance, to);
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *to) {
  GPU();
  Memory_v2 all;
  usage(&state, gpu, instance, &all);
  *to = (Memory){all.total, all.free, all.used + all.reserved}; /* the first version's */
  return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, ProcessInfo *to) {
  GPU();
  unsigned there = state.hide_processes ? 0 : (unsigned)gpu->processes, room = *count;
  *count = there;
  if (there == 0) return SUCCESS;
  if (room < there || to == NULL) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < there; ++i) {
    Process *process = &gpu->process[i];
    to[i] = (ProcessInfo){process->pid, process->hidden ? ~0ULL : process->bytes, ~0u, ~0u};
  }
  return SUCCESS;
}
int nvmlSystemGetProcessName(unsigned pid, char *to, unsigned size) {
  LOOK();
  for (int i = 0; i < state.gpus; ++i)
    for (int j = 0; j < state.gpu[i].processes; ++j)
      if (state.gpu[i].process[j].pid == pid) return text(to, size, state.gpu[i].process[j].name);
  return NOT_FOUND;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
  GPU();
  *major = gpu->major, *minor = gpu->minor;
  return SUCCESS;
}
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, bytes_t *to) {
  GPU();
  *to = kind == 1 && counter == 0 ? gpu->ecc : 0; /* uncorrected, since the driver was loaded */
  return SUCCESS;
}
int nvmlDeviceGetComputeMode(void *device, int *to) { GPU(); *to = gpu->mode; return SUCCESS; }
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
  GPU();
  *current = *pending = gpu->instances > 0;
  return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *to) { GPU(); *to = INSTANCES; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **to) {
  GPU();
  if (index >= (unsigned)gpu->instances) return NOT_FOUND;
  *to = (void *)(((intptr_t)(index + 1) << 8) | (intptr_t)(number + 1));
  return SUCCESS;
}
