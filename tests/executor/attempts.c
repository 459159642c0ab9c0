/* One attempt of an attacker, named by the first argument, made so that it succeeds where nothing forbids it.
   Says "done" and ends with 0 when it got through, else "refused ERRNO" and 1. For test_escapes.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *argument;
static char secret[] = "a neighbour's word";

static int child(void) {
    int pid = fork();
    if (pid == 0) for (;;) pause();
    return pid;
}

static int try_mount(void) { return mount("none", "/tmp", "tmpfs", 0, ""); }
static int try_bind(void) { return mount("/proc", "/tmp", "none", MS_BIND, 0); }
static int try_fsopen(void) { return syscall(430, "tmpfs", 0); }
static int try_chroot(void) { return chroot("/tmp"); }
static int try_unshare(void) { return unshare(CLONE_NEWNS); }
static int try_unshare_user(void) { return unshare(CLONE_NEWUSER); }
static int try_clone_pid(void) {
    int pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    return pid;
}
static int try_setns(void) { return setns(open("/proc/self/ns/uts", O_RDONLY), 0); }
static int try_keyctl(void) { return syscall(SYS_keyctl, 0, -3, 1) < 0 ? -1 : 0; }
static int try_add_key(void) { return syscall(SYS_add_key, "user", "gridpact-attempt", "b", 1, -2) < 0 ? -1 : 0; }
static int try_mknod(void) { return mknod("/tmp/disk", S_IFBLK | 0600, makedev(7, 0)); }
static int try_raw_socket(void) { return socket(AF_INET, SOCK_RAW, 1); }
static int try_packet_socket(void) { return socket(AF_PACKET, SOCK_RAW, 0x0300); }
static int try_netlink(void) { return socket(AF_NETLINK, SOCK_RAW, 0); }
static int try_file(void) { return open(argument, O_WRONLY); }
static int try_jit(void) {
    return mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}

static int try_ptrace(void) {
    int pid = child(), done = ptrace(PTRACE_ATTACH, pid, 0, 0), why = errno;
    kill(pid, SIGKILL);
    errno = why;
    return done;
}

static int try_read_memory(void) {
    char found[sizeof secret] = "";
    struct iovec into = {found, sizeof found}, from = {secret, sizeof secret};
    int pid = child(), done = process_vm_readv(pid, &into, 1, &from, 1, 0), why = errno;
    kill(pid, SIGKILL);
    errno = why;
    return done == sizeof found && !strcmp(found, secret) ? 0 : -1;
}

static int try_bpf(void) {
    struct { unsigned type, key, value, entries, flags, rest[27]; } map = {2, 4, 4, 1, 0};
    return syscall(SYS_bpf, 0, &map, sizeof map);
}

static int try_io_uring(void) {
    unsigned char parameters[120] = {0};
    return syscall(425, 1, parameters);
}

static int try_perf(void) {
    struct { unsigned type, size; unsigned long config; char rest[96]; } event = {1, 112, 0};
    return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
}

static int try_foreign_code(const char *path, int fd) { /* this program's own bytes, from a place of no artifact */
    char bytes[65536];
    int self = open("/proc/self/exe", O_RDONLY), to = fd < 0 ? open(path, O_WRONLY | O_CREAT, 0755) : fd;
    long got;
    if (self < 0 || to < 0) return -1;
    while ((got = read(self, bytes, sizeof bytes)) > 0)
        if (write(to, bytes, got) != got) return -1;
    if (fd < 0) close(to);
    int pid = fork(), status = 0;
    if (pid == 0) {
        char *words[] = {"copy", "nothing", 0}, *none[] = {0};
        if (fd < 0) execve(path, words, none);
        else syscall(SYS_execveat, fd, "", words, none, AT_EMPTY_PATH);
        _exit(errno);
    }
    waitpid(pid, &status, 0);
    errno = WEXITSTATUS(status);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static int try_run_own_file(void) { return try_foreign_code("/tmp/copy", -1); }
static int try_run_memfd(void) {
    int fd = syscall(SYS_memfd_create, "copy", 0);
    return fd < 0 ? -1 : try_foreign_code(0, fd);
}

static int try_map_own_file(void) {
    int fd = open("/tmp/code", O_RDWR | O_CREAT, 0755);
    if (fd < 0 || write(fd, "\xc3", 1) != 1) return -1;
    return mmap(0, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0;
}

static int try_proc(void) { /* a word of the host in any process's environment: the argument, with a '!' behind */
    char word[256];
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    if (!proc) return -1;
    snprintf(word, sizeof word, "%s!", argument);
    while ((entry = readdir(proc))) {
        for (int kind = 0; kind < 2; kind++) {
            char path[300], text[65536];
            snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, kind ? "environ" : "cmdline");
            int fd = open(path, O_RDONLY);
            long got = fd < 0 ? 0 : read(fd, text, sizeof text);
            if (fd >= 0) close(fd);
            if (atoi(entry->d_name) != getpid() && got > 0 && memmem(text, got, word, strlen(word))) return 0;
        }
    }
    errno = ENOENT;
    return -1;
}

static int try_cgroup(void) { /* the file of a limit, or a hierarchy mounted anew */
    if (open(argument, O_WRONLY) >= 0) return 0;
    if (!mount("none", "/tmp", "cgroup2", 0, "")) return 0;
    return mount("none", "/tmp", "cgroup", 0, "memory");
}

static int try_abstract_socket(void) {
    struct sockaddr_un to = {AF_UNIX};
    strcpy(to.sun_path + 1, argument);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return connect(fd, (void *)&to, sizeof(sa_family_t) + 1 + strlen(argument));
}

static int try_nothing(void) { return 0; }

#define ONE(name) {#name, try_##name}
static const struct { const char *name; int (*call)(void); } attempts[] = {
    ONE(mount), ONE(bind), ONE(fsopen), ONE(chroot), ONE(unshare), ONE(unshare_user), ONE(clone_pid), ONE(setns),
    ONE(ptrace), ONE(read_memory), ONE(keyctl), ONE(add_key), ONE(bpf), ONE(io_uring), ONE(perf), ONE(mknod),
    ONE(raw_socket), ONE(packet_socket), ONE(netlink), ONE(file), ONE(jit), ONE(run_own_file), ONE(run_memfd),
    ONE(map_own_file), ONE(proc), ONE(cgroup), ONE(abstract_socket), ONE(nothing),
};

int main(int count, char **words) {
    argument = count > 2 ? words[2] : "";
    for (unsigned n = 0; count > 1 && n < sizeof attempts / sizeof *attempts; n++)
        if (!strcmp(words[1], attempts[n].name)) {
            errno = 0;
            int done = attempts[n].call();
            if (done < 0) printf("refused %d\n", errno);
            else puts("done");
            return done < 0;
        }
    puts("unknown");
    return 2;
}
