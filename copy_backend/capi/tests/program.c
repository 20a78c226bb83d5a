/* Uses the library as a program in C would, on two files in the current directory. */

#include <ferrycopy.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                        \
    do {                                                                                                        \
        if (!(condition)) {                                                                                     \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, ferrycopy_last_error());                 \
            exit(1);                                                                                            \
        }                                                                                                       \
    } while (0)

enum { MIB = 1 << 20, SIZE = 8 * MIB };

static unsigned char *make(const char *path, unsigned seed) {
    unsigned char *bytes = malloc(SIZE);
    FILE *file = fopen(path, "wb");
    for (size_t at = 0; at < SIZE; at++) {
        bytes[at] = (unsigned char)((at >> 9) * 31 + at * 7 + seed);
    }
    CHECK(file && fwrite(bytes, 1, SIZE, file) == SIZE && fclose(file) == 0);
    return bytes;
}

static void compare(const char *path, const unsigned char *expected) {
    unsigned char *bytes = malloc(SIZE);
    FILE *file = fopen(path, "rb");
    CHECK(file && fread(bytes, 1, SIZE, file) == SIZE && fclose(file) == 0);
    CHECK(memcmp(bytes, expected, SIZE) == 0);
    free(bytes);
}

int main(void) {
    unsigned char *from = make("from", 1), *to = make("to", 2);
    ferrycopy_device devices[2] = {{.path = "from", .flags = FERRYCOPY_READ_ONLY}, {.path = "to"}};
    ferrycopy_options options = {.route = FERRYCOPY_ROUTE_HOST, .verify = FERRYCOPY_VERIFY_FULL};
    ferrycopy *copier = NULL;
    CHECK(ferrycopy_abi() == FERRYCOPY_ABI);

    /* What is wrong is said. */
    ferrycopy_device missing = {.path = "missing"};
    CHECK(ferrycopy_open(&missing, 1, NULL, &copier) == FERRYCOPY_DEVICE && copier == NULL);
    CHECK(strstr(ferrycopy_last_error(), "missing: No such file"));
    CHECK(ferrycopy_open(NULL, 2, NULL, &copier) == FERRYCOPY_INVALID && ferrycopy_open(devices, 0, NULL, &copier) == FERRYCOPY_INVALID);
    ferrycopy_options wrong = {.route = 9};
    CHECK(ferrycopy_open(devices, 2, &wrong, &copier) == FERRYCOPY_INVALID);
    CHECK(ferrycopy_open(devices, 2, &options, NULL) == FERRYCOPY_INVALID);
    CHECK(ferrycopy_poll(NULL, NULL) == FERRYCOPY_INVALID);
    CHECK(ferrycopy_open(devices, 2, &options, &copier) == FERRYCOPY_OK && copier);

    uint64_t bytes = 0, id = 0;
    uint32_t block = 0;
    CHECK(ferrycopy_device_size(copier, 0, &bytes, &block) == FERRYCOPY_OK && bytes == SIZE && block >= 512);
    CHECK(ferrycopy_device_size(copier, 2, NULL, NULL) == FERRYCOPY_INVALID);
    ferrycopy_road road;
    CHECK(ferrycopy_road_between(copier, 0, 1, &road) == FERRYCOPY_OK && strcmp(road.name, "host") == 0 && !road.offload);
    CHECK(ferrycopy_road_between(copier, 0, 7, &road) == FERRYCOPY_INVALID);

    /* The blocking call, with results per range. */
    ferrycopy_range sources[2] = {{.device = 0, .offset = MIB, .length = 65536}, {.device = 0, .offset = 4 * MIB, .length = MIB}};
    ferrycopy_result result;
    ferrycopy_range_result ranges[2];
    CHECK(ferrycopy_copy(copier, sources, 2, 1, 3 * MIB, 0, &result, ranges, 2) == FERRYCOPY_OK);
    CHECK(result.ending == FERRYCOPY_DONE && result.bytes == MIB + 65536 && result.bytes_in_order == result.bytes);
    CHECK(result.host_written == result.bytes && result.offloaded == 0 && result.commands > 0 && result.nanoseconds > 0);
    CHECK(ranges[0].bytes == 65536 && ranges[1].bytes == MIB && ranges[1].bytes_in_order == MIB);
    memcpy(to + 3 * MIB, from + MIB, 65536);
    memcpy(to + 3 * MIB + 65536, from + 4 * MIB, MIB);

    /* Submit and poll. */
    ferrycopy_range source = {.device = 0, .offset = 0, .length = 4096};
    CHECK(ferrycopy_poll(copier, &id) == FERRYCOPY_NOTHING);
    uint64_t submitted = 0;
    CHECK(ferrycopy_submit(copier, &source, 1, 1, 0, 0, &submitted) == FERRYCOPY_OK);
    struct pollfd waiting = {.fd = ferrycopy_event_fd(copier), .events = POLLIN};
    CHECK(waiting.fd >= 0 && poll(&waiting, 1, -1) == 1);
    CHECK(ferrycopy_poll(copier, &id) == FERRYCOPY_OK && id == submitted);
    CHECK(ferrycopy_take(copier, id, &result, NULL, 0) == FERRYCOPY_OK && result.bytes == 4096);
    CHECK(ferrycopy_take(copier, id, &result, NULL, 0) == FERRYCOPY_UNKNOWN);
    memcpy(to, from, 4096);

    /* Cancelled between two commands. */
    ferrycopy_range slow = {.device = 0, .offset = 2 * MIB, .length = MIB};
    CHECK(ferrycopy_submit(copier, &slow, 1, 1, 6 * MIB, 4096, &id) == FERRYCOPY_OK);
    while (ferrycopy_progress(copier, id, &bytes) == FERRYCOPY_OK && bytes == 0) {
    }
    CHECK(ferrycopy_cancel(copier, id) == FERRYCOPY_OK && ferrycopy_wait(copier, id) == FERRYCOPY_OK);
    CHECK(ferrycopy_take(copier, id, &result, ranges, 1) == FERRYCOPY_OK);
    CHECK(result.ending == FERRYCOPY_STOPPED && result.bytes == 65536 && ranges[0].bytes_in_order == 65536);
    CHECK(ferrycopy_cancel(copier, id) == FERRYCOPY_UNKNOWN && ferrycopy_wait(copier, id) == FERRYCOPY_UNKNOWN);
    memcpy(to + 6 * MIB, from + 2 * MIB, 65536);

    /* Refused before anything is touched. */
    source.offset = 100;
    CHECK(ferrycopy_submit(copier, &source, 1, 1, 0, 0, &id) == FERRYCOPY_INVALID && strstr(ferrycopy_last_error(), "not a multiple"));
    source.offset = SIZE;
    CHECK(ferrycopy_copy(copier, &source, 1, 1, 0, 0, &result, NULL, 0) == FERRYCOPY_INVALID);
    CHECK(strstr(ferrycopy_last_error(), "past the end"));
    source.device = 999;
    CHECK(ferrycopy_submit(copier, &source, 1, 1, 0, 0, &id) == FERRYCOPY_INVALID);
    CHECK(ferrycopy_submit(copier, NULL, 1, 1, 0, 0, &id) == FERRYCOPY_INVALID);

    /* No profile was given to this one. */
    CHECK(ferrycopy_profile_used(copier, 0, 1) == FERRYCOPY_NOTHING && strstr(ferrycopy_last_error(), "no profile was given"));
    CHECK(ferrycopy_profile_used(copier, 0, 9) == FERRYCOPY_INVALID && ferrycopy_profile_used(NULL, 0, 0) == FERRYCOPY_INVALID);

    /* Closing ends what is under way. */
    CHECK(ferrycopy_submit(copier, &slow, 1, 1, 7 * MIB, 1, &id) == FERRYCOPY_OK);
    while (ferrycopy_progress(copier, id, &bytes) == FERRYCOPY_OK && bytes == 0) {
    }
    ferrycopy_close(copier);
    ferrycopy_close(NULL);
    memcpy(to + 7 * MIB, from + 2 * MIB, 65536);

    /* With a profile commands are as long as was measured to be enough on these devices; one that cannot be used stops nothing. */
    struct { const char *file; int32_t used; uint64_t commands; const char *why; } profiles[] = {
        {"profile", FERRYCOPY_OK, 16, ""},
        {"other", FERRYCOPY_NOTHING, 1, "of other devices"},
        {"to", FERRYCOPY_NOTHING, 1, "no profile, or a damaged one"},
        {"missing", FERRYCOPY_NOTHING, 1, "cannot be read"},
    };
    options.verify = FERRYCOPY_VERIFY_OFF;
    for (size_t n = 0; n < sizeof profiles / sizeof *profiles; n++) {
        options.profile = profiles[n].file;
        CHECK(ferrycopy_open(devices, 2, &options, &copier) == FERRYCOPY_OK);
        CHECK(ferrycopy_profile_used(copier, 0, 1) == profiles[n].used);
        CHECK(profiles[n].used == FERRYCOPY_OK || strstr(ferrycopy_last_error(), profiles[n].why));
        source = (ferrycopy_range){.device = 0, .offset = 3 * MIB, .length = MIB};
        CHECK(ferrycopy_copy(copier, &source, 1, 1, n * MIB, 0, &result, NULL, 0) == FERRYCOPY_OK);
        fprintf(stderr, "with \"%s\": %llu commands\n", profiles[n].file, (unsigned long long)result.commands);
        CHECK(result.bytes == MIB && result.commands == profiles[n].commands);
        memcpy(to + n * MIB, from + 3 * MIB, MIB);
        ferrycopy_close(copier);
    }
    compare("from", from);
    compare("to", to);
    puts("all is well");
    return 0;
}
