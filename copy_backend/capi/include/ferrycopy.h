/* ferrycopy.h: copies byte ranges between block devices, zoned devices, drive images and files, by the device itself where it can.
 *
 * Link with -lferrycopy. Every call may come from any thread. No call ends the process: a failure inside the library comes back as
 * FERRYCOPY_PANIC. Pointers that are said to be optional may be NULL; others must be valid for the call and are not kept.
 */
#ifndef FERRYCOPY_H
#define FERRYCOPY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface: what ferrycopy_abi() says of the library that was loaded. */
#define FERRYCOPY_ABI 2

/* What calls return. Where it is negative, ferrycopy_last_error() says more. */
#define FERRYCOPY_OK 0
#define FERRYCOPY_NOTHING 1   /* nothing has ended yet */
#define FERRYCOPY_INVALID -1  /* a request that makes no sense: nothing was touched */
#define FERRYCOPY_DEVICE -2   /* a device that cannot be used: nothing was touched */
#define FERRYCOPY_UNKNOWN -3  /* no such copy, or its result was taken before */
#define FERRYCOPY_PANIC -4    /* a failure inside the library */

/* ferrycopy_options.route */
#define FERRYCOPY_ROUTE_AUTO 0     /* by the device where it can, else through the host */
#define FERRYCOPY_ROUTE_OFFLOAD 1  /* by the device, or fail */
#define FERRYCOPY_ROUTE_HOST 2     /* through the host */

/* ferrycopy_options.verify */
#define FERRYCOPY_VERIFY_OFF 0
#define FERRYCOPY_VERIFY_SAMPLED 1 /* read back and compare one range in sixteen */
#define FERRYCOPY_VERIFY_FULL 2

/* ferrycopy_options.flags */
#define FERRYCOPY_OFFLOAD_BELOW_DM 1u /* send copies below device-mapper, whose tables must not change meanwhile */
#define FERRYCOPY_OFFLOAD_BELOW_MD 2u

/* ferrycopy_device.flags */
#define FERRYCOPY_READ_ONLY 1u
#define FERRYCOPY_SHARED 2u /* also if others use it */

/* ferrycopy_result.ending */
#define FERRYCOPY_DONE 0    /* everything is copied, and durable */
#define FERRYCOPY_STOPPED 1 /* cancelled between two commands */
#define FERRYCOPY_FAILED 2  /* ferrycopy_last_error() says why, after the call that gave the result */

typedef struct ferrycopy ferrycopy;

typedef struct ferrycopy_device {
    const char *path;
    uint32_t flags;
    uint32_t reserved; /* 0 */
} ferrycopy_device;

typedef struct ferrycopy_options {
    uint32_t route;
    uint32_t verify;
    uint32_t flags;
    uint32_t reserved; /* 0 */
    /* Optional: the file that "ferrycopy caps --calibrate --profile FILE" wrote. Commands are then as long, as wide and as many at once as was
     * best on these devices, and copies too small for the device to be faster go through the host. A profile that cannot be used stops
     * nothing: see ferrycopy_profile_used. */
    const char *profile;
} ferrycopy_options;

/* Bytes of a device; devices count from 0 in the order in which they were opened. */
typedef struct ferrycopy_range {
    uint32_t device;
    uint32_t reserved; /* 0 */
    uint64_t offset;
    uint64_t length;
} ferrycopy_range;

typedef struct ferrycopy_result {
    uint64_t bytes;          /* known to be copied */
    uint64_t bytes_in_order; /* of these, from the first byte on without a gap */
    uint64_t offloaded;      /* of these, by a device */
    uint64_t host_read;
    uint64_t host_written;
    uint64_t commands;
    uint64_t nanoseconds;
    uint32_t ending;
    uint32_t simulated; /* 1: our own process played the device (a drive image) */
} ferrycopy_result;

typedef struct ferrycopy_range_result {
    uint64_t bytes;          /* of the range, known to be copied */
    uint64_t bytes_in_order; /* of these, from its first byte on without a gap */
} ferrycopy_range_result;

/* The road between two devices as it is now. */
typedef struct ferrycopy_road {
    uint64_t max_range_bytes;
    uint64_t max_command_bytes;
    uint32_t max_ranges;
    uint32_t simulated;
    uint32_t offload; /* 0: through the host */
    char name[20];    /* nvme, scsi-xcopy, scsi-token, reflink, image, host */
} ferrycopy_road;

uint32_t ferrycopy_abi(void);

/* Opens devices and starts a copier over them. options: optional. */
int32_t ferrycopy_open(const ferrycopy_device *devices, size_t count, const ferrycopy_options *options, ferrycopy **copier);

/* Cancels what is under way, waits for the commands in flight, and closes the devices. NULL: nothing. */
void ferrycopy_close(ferrycopy *copier);

/* Bytes of a device and of its block. Both results are optional. */
int32_t ferrycopy_device_size(const ferrycopy *copier, uint32_t device, uint64_t *bytes, uint32_t *block);

int32_t ferrycopy_road_between(const ferrycopy *copier, uint32_t from, uint32_t to, ferrycopy_road *road);

/* Are copies from one device to the other cut and paced by the profile of the options? FERRYCOPY_OK: yes. FERRYCOPY_NOTHING: no, and
 * ferrycopy_last_error() says why: none was given, it cannot be read, is damaged, or is of other devices or other firmware. */
int32_t ferrycopy_profile_used(const ferrycopy *copier, uint32_t from, uint32_t to);

/* Starts a copy of the sources to the target, one behind the other. rate: bytes per second at most, 0 for no limit. */
int32_t ferrycopy_submit(const ferrycopy *copier, const ferrycopy_range *sources, size_t count, uint32_t target_device,
                         uint64_t target_offset, uint64_t rate, uint64_t *id);

/* Becomes readable when ferrycopy_poll has something to tell. It belongs to the copier. */
int32_t ferrycopy_event_fd(const ferrycopy *copier);

/* A copy that has ended and was not told of before; FERRYCOPY_NOTHING if there is none. */
int32_t ferrycopy_poll(const ferrycopy *copier, uint64_t *id);

/* Waits until a copy has ended; ferrycopy_poll then does not tell of it. */
int32_t ferrycopy_wait(const ferrycopy *copier, uint64_t id);

/* Takes the result of a copy that has ended, once. ranges: optional, room for capacity results, one per source in order. */
int32_t ferrycopy_take(const ferrycopy *copier, uint64_t id, ferrycopy_result *result, ferrycopy_range_result *ranges, size_t capacity);

/* Bytes that a copy under way has copied. FERRYCOPY_UNKNOWN: it has ended. */
int32_t ferrycopy_progress(const ferrycopy *copier, uint64_t id, uint64_t *bytes);

/* Asks a copy to end between two commands. It has a result as any other. FERRYCOPY_UNKNOWN: it has ended. */
int32_t ferrycopy_cancel(const ferrycopy *copier, uint64_t id);

/* Submits, waits and takes. */
int32_t ferrycopy_copy(const ferrycopy *copier, const ferrycopy_range *sources, size_t count, uint32_t target_device,
                       uint64_t target_offset, uint64_t rate, ferrycopy_result *result, ferrycopy_range_result *ranges,
                       size_t capacity);

/* Why the last call of this thread failed, or its copy did; valid until the next call of this thread. Never NULL. */
const char *ferrycopy_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
