/* A stand-in for NVIDIA's libnvidia-ml.so.1: the C interface of nvml.h, answering from a scenario file.
 *
 * The path of the scenario is in HOTSPLIT_NVML_SCENARIO; it is read anew at every nvmlInit. Each line is a word and
 * fields `key=value`, separated by tabs:
 *
 *   driver  version=580.65.06  init=0  count=0        init, count: return codes
 *   gpu     uuid= name= domain= bus= device= total= reserved= free= used= handle=0 memory=0 cores= clock= mig=0 cc=89
 *   mig     uuid= name= total= reserved= free= used= handle=0 memory=0 gi= ci=          a slice of the last gpu
 *
 * handle, memory: return codes of asking for the device's handle and memory; a key that is not there makes its
 * question answer NOT_SUPPORTED. Starts and shutdowns are appended to HOTSPLIT_NVML_LOG.
 *
 * -DWITHOUT_MEMORY_V2 leaves nvmlDeviceGetMemoryInfo_v2 out, as libraries before R470 do; -DWITHOUT_INIT leaves
 * nvmlInitWithFlags out, as libraries before R396 do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999
};

enum { MAX_DEVICES = 64 };

typedef struct {
    char line[1024];
    int is_mig;
    int parent; /* of a MIG device: its GPU's place in `devices` */
} device_t;

typedef struct { unsigned long long total, free, used; } memory_v1_t;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_v2_t;

typedef struct {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info_t;

static device_t devices[MAX_DEVICES];
static int n_devices;
static char driver[1024];
static int started;

/* Copies the value of `key` from a scenario line; returns 0 when the line has no such key. */
static int field(const char *line, const char *key, char *value, size_t size) {
    size_t length = strlen(key);
    for (const char *at = strchr(line, '\t'); at != NULL; at = strchr(at, '\t')) {
        at++;
        if (strncmp(at, key, length) == 0 && at[length] == '=') {
            snprintf(value, size, "%.*s", (int) strcspn(at + length + 1, "\t\r\n"), at + length + 1);
            return 1;
        }
    }
    return 0;
}

static int number(const char *line, const char *key, unsigned long long *value) {
    char text[64];
    if (!field(line, key, text, sizeof text)) return 0;
    *value = strtoull(text, NULL, 10);
    return 1;
}

static int code(const char *line, const char *key) {
    unsigned long long value = SUCCESS;
    number(line, key, &value);
    return (int) value;
}

static void note(const char *event) {
    const char *path = getenv("HOTSPLIT_NVML_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log == NULL) return;
    fprintf(log, "%s\n", event);
    fclose(log);
}

static int read_scenario(void) {
    const char *path = getenv("HOTSPLIT_NVML_SCENARIO");
    FILE *scenario = path ? fopen(path, "r") : NULL;
    char line[1024];
    int gpu = -1;
    if (scenario == NULL) return UNKNOWN;
    n_devices = 0;
    snprintf(driver, sizeof driver, "driver");
    while (fgets(line, sizeof line, scenario) != NULL) {
        int is_gpu = strncmp(line, "gpu\t", 4) == 0, is_mig = strncmp(line, "mig\t", 4) == 0;
        if (strncmp(line, "driver\t", 7) == 0) {
            snprintf(driver, sizeof driver, "%s", line);
        } else if ((is_gpu || is_mig) && n_devices < MAX_DEVICES) {
            if (is_gpu) gpu = n_devices;
            snprintf(devices[n_devices].line, sizeof devices[n_devices].line, "%s", line);
            devices[n_devices].is_mig = is_mig;
            devices[n_devices].parent = is_mig ? gpu : -1;
            n_devices++;
        } else {
            fclose(scenario);
            return UNKNOWN;
        }
    }
    fclose(scenario);
    return SUCCESS;
}

static int copy_text(const char *line, const char *key, char *buffer, unsigned int size) {
    char text[256];
    if (!started) return UNINITIALIZED;
    if (!field(line, key, text, sizeof text)) return NOT_SUPPORTED;
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    memcpy(buffer, text, strlen(text) + 1);
    return SUCCESS;
}

static int copy_number(const device_t *device, const char *key, unsigned int *value) {
    unsigned long long found;
    if (!started) return UNINITIALIZED;
    if (!number(device->line, key, &found)) return NOT_SUPPORTED;
    *value = (unsigned int) found;
    return SUCCESS;
}

#ifdef WITHOUT_INIT
#define nvmlInitWithFlags nvmlInit_then
#endif

int nvmlInitWithFlags(unsigned int flags) {
    (void) flags;
    int result = read_scenario();
    if (result == SUCCESS) result = code(driver, "init");
    if (result == SUCCESS) {
        started++;
        note("init");
    }
    return result;
}

int nvmlShutdown(void) {
    if (!started) return UNINITIALIZED;
    started--;
    note("shutdown");
    return SUCCESS;
}

const char *nvmlErrorString(int result) {
    return result == UNKNOWN ? "Unknown Error" : "Stand-in Error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    return copy_text(driver, "version", version, length);
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    if (!started) return UNINITIALIZED;
    *count = 0;
    for (int i = 0; i < n_devices; i++) *count += !devices[i].is_mig;
    return code(driver, "count");
}

/* Finds the `index`-th GPU, or the `index`-th slice of the GPU `parent`. */
static int find(int parent, unsigned int index, device_t **found) {
    unsigned int seen = 0;
    if (!started) return UNINITIALIZED;
    for (int i = 0; i < n_devices; i++) {
        if (devices[i].parent != parent || seen++ != index) continue;
        *found = &devices[i];
        return code(devices[i].line, "handle");
    }
    return parent < 0 ? INVALID_ARGUMENT : NOT_FOUND;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t **device) {
    return find(-1, index, device);
}

int nvmlDeviceGetMigDeviceHandleByIndex(const device_t *device, unsigned int index, device_t **mig_device) {
    return find((int) (device - devices), index, mig_device);
}

int nvmlDeviceGetMaxMigDeviceCount(const device_t *device, unsigned int *count) {
    (void) device;
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(const device_t *device, unsigned int *current, unsigned int *pending) {
    int result = copy_number(device, "mig", current);
    *pending = *current;
    return result;
}

int nvmlDeviceGetGpuInstanceId(const device_t *device, unsigned int *id) { return copy_number(device, "gi", id); }

int nvmlDeviceGetComputeInstanceId(const device_t *device, unsigned int *id) { return copy_number(device, "ci", id); }

int nvmlDeviceGetUUID(const device_t *device, char *uuid, unsigned int length) {
    return copy_text(device->line, "uuid", uuid, length);
}

int nvmlDeviceGetName(const device_t *device, char *name, unsigned int length) {
    return copy_text(device->line, "name", name, length);
}

int nvmlDeviceGetNumGpuCores(const device_t *device, unsigned int *cores) {
    return copy_number(device, "cores", cores);
}

int nvmlDeviceGetMaxClockInfo(const device_t *device, int clock_type, unsigned int *clock_mhz) {
    return clock_type == 1 ? copy_number(device, "clock", clock_mhz) : NOT_SUPPORTED;
}

int nvmlDeviceGetCudaComputeCapability(const device_t *device, int *major, int *minor) {
    unsigned int both;
    int result = copy_number(device, "cc", &both);
    if (result != SUCCESS) return result;
    *major = (int) both / 10;
    *minor = (int) both % 10;
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(const device_t *device, pci_info_t *pci) {
    int result = copy_number(device, "bus", &pci->bus);
    if (result == SUCCESS) result = copy_number(device, "domain", &pci->domain);
    if (result == SUCCESS) result = copy_number(device, "device", &pci->device);
    if (result == SUCCESS) {
        snprintf(pci->bus_id, sizeof pci->bus_id, "%08X:%02X:%02X.0", pci->domain, pci->bus, pci->device);
    }
    return result;
}

static int read_memory(const device_t *device, memory_v2_t *memory) {
    if (!started) return UNINITIALIZED;
    if (code(device->line, "memory") != SUCCESS) return code(device->line, "memory");
    if (!number(device->line, "total", &memory->total)) return NOT_SUPPORTED;
    number(device->line, "reserved", &memory->reserved);
    number(device->line, "free", &memory->free);
    number(device->line, "used", &memory->used);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(const device_t *device, memory_v1_t *memory) {
    memory_v2_t full = {0};
    int result = read_memory(device, &full);
    memory->total = full.total;
    memory->free = full.free;
    memory->used = full.used + full.reserved;
    return result;
}

#ifndef WITHOUT_MEMORY_V2
int nvmlDeviceGetMemoryInfo_v2(const device_t *device, memory_v2_t *memory) {
    if (memory->version != (sizeof *memory | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
    return read_memory(device, memory);
}
#endif
