// SPDX-License-Identifier: GPL-2.0-or-later
//
// Preloaded into whatever uses a file as its card (User-Mode Linux, or a program of ours): keeps a log of all that
// happens to the card, in order, by which tests/power/cut.py makes what a power cut leaves of it; and has the card fail.
//
//   CARD         the file
//   CARD_LOG     where the log goes (added to), if there is to be one
//   CARD_MARKS   a descriptor: what is written to it stands in the log as well, among the writes to the card
//   CARD_FAULTS  a file with a struct faults, looked at at each access, if the card is to fail
//
// A record: struct record; of a write then the bytes that were there before, and those that are there now; of zeroed
// ranges the bytes before; of marks the bytes. Ranges that were holes and are zeroed are not recorded: nothing changes.
// Until the log says that a flush was asked for and is done, nothing before it has to be on the medium.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAGIC = 0x44524143, PIECE = 1 << 20, FAIL_WRITES = 1, FAIL_READS = 2 };

struct record {
    uint32_t magic, op;
    uint64_t offset, length, time_ns;
};

// Bytes from start to end fail as what says; every access to them, failing or not, takes delay_us longer.
struct faults {
    uint32_t what, delay_us;
    uint64_t start, end;
};

static int log_fd = -1, marks_fd = -1;
static dev_t device;
static ino_t inode;
static const volatile struct faults *faults;
// Used by one thread: that which does a guest's I/O, or the only one.
static char before[PIECE];

__attribute__((constructor)) static void begin(void)
{
    const char *card = getenv("CARD"), *log = getenv("CARD_LOG"), *marks = getenv("CARD_MARKS");
    const char *failing = getenv("CARD_FAULTS");
    struct stat found;

    if (!card || stat(card, &found))
        return;
    device = found.st_dev;
    inode = found.st_ino;
    if (marks)
        marks_fd = atoi(marks);
    if (log) {
        int fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
        // Out of the way of who counts descriptors.
        log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 200);
        close(fd);
    }
    if (failing) {
        int fd = open(failing, O_RDONLY | O_CLOEXEC);
        void *mapped = mmap(NULL, sizeof *faults, PROT_READ, MAP_SHARED, fd, 0);
        if (mapped != MAP_FAILED)
            faults = mapped;
        close(fd);
    }
}

static int is_card(int fd)
{
    struct stat found;

    return inode && !fstat(fd, &found) && found.st_ino == inode && found.st_dev == device;
}

static int fails(int fd, uint32_t what, uint64_t offset, uint64_t length)
{
    if (!faults || !is_card(fd) || offset >= faults->end || offset + length <= faults->start)
        return 0;
    if (faults->delay_us) {
        struct timespec wait = {faults->delay_us / 1000000, faults->delay_us % 1000000 * 1000};
        syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &wait, NULL);
    }
    if (!(faults->what & what))
        return 0;
    errno = EIO;
    return 1;
}

static void record(char op, uint64_t offset, uint64_t length, const void *old, const void *new)
{
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    struct record head = {MAGIC, op, offset, length, now.tv_sec * 1000000000ULL + now.tv_nsec};
    struct iovec pieces[] = {
        {&head, sizeof head}, {(void *)old, old ? length : 0}, {(void *)new, new ? length : 0}};
    int saved = errno;

    // All or nothing of it, unless the process is killed in it: then it is the last one.
    syscall(SYS_writev, log_fd, pieces, 3);
    errno = saved;
}

static const char *read_before(int fd, uint64_t offset, size_t length)
{
    ssize_t got = syscall(SYS_pread64, fd, before, length, offset);

    for (size_t at = got < 0 ? 0 : got; at < length; at++)
        before[at] = 0;
    return before;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    if (fails(fd, FAIL_WRITES, offset, length))
        return -1;
    if (log_fd >= 0 && is_card(fd))
        for (size_t at = 0; at < length; at += PIECE) {
            size_t piece = length - at < PIECE ? length - at : PIECE;
            record('W', offset + at, piece, read_before(fd, offset + at, piece), (const char *)data + at);
        }
    return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite64(fd, data, length, offset);
}

ssize_t pread64(int fd, void *data, size_t length, off_t offset)
{
    if (fails(fd, FAIL_READS, offset, length))
        return -1;
    return syscall(SYS_pread64, fd, data, length, offset);
}

ssize_t pread(int fd, void *data, size_t length, off_t offset)
{
    return pread64(fd, data, length, offset);
}

int fdatasync(int fd)
{
    if (fails(fd, FAIL_WRITES, 0, UINT64_MAX))
        return -1;
    if (log_fd < 0 || !is_card(fd))
        return syscall(SYS_fdatasync, fd);
    // The log stands for the medium: nobody waits for this machine's own.
    record('F', 0, 0, NULL, NULL);
    return 0;
}

int fsync(int fd)
{
    return is_card(fd) ? fdatasync(fd) : syscall(SYS_fsync, fd);
}

// What of a range is no hole, before it becomes zeros.
static void record_zeros(int fd, off_t offset, off_t length)
{
    off_t at = offset, end = offset + length;

    while (at < end && (at = lseek(fd, at, SEEK_DATA)) >= 0 && at < end) {
        off_t hole = lseek(fd, at, SEEK_HOLE);
        if (hole < 0 || hole > end)
            hole = end;
        while (at < hole) {
            size_t piece = hole - at < PIECE ? hole - at : PIECE;
            record('Z', at, piece, read_before(fd, at, piece), NULL);
            at += piece;
        }
    }
}

int fallocate64(int fd, int mode, off_t offset, off_t length)
{
    if (fails(fd, FAIL_WRITES, offset, length))
        return -1;
    if (log_fd >= 0 && is_card(fd))
        record_zeros(fd, offset, length);
    return syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    return fallocate64(fd, mode, offset, length);
}

ssize_t write(int fd, const void *data, size_t length)
{
    if (log_fd >= 0 && fd == marks_fd)
        record('M', 0, length, data, NULL);
    return syscall(SYS_write, fd, data, length);
}
