/*
 * kill.c - kills a process with SIGKILL at a chosen system call that writes; for LD_PRELOAD.
 *
 *   KILL_AT=12      after the 12th call that writes to a file, makes or removes one, or talks to a
 *                   socket; without it nothing happens
 *   KILL_HALF=1     in the middle of it: of a write only half has been done
 *
 * What lies in a file after such a call is what a device finds that ran out of battery there, but
 * for what its disk had not kept.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

/* The C library's function of this name. */
static void *
real(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);

    if (found == NULL)
        abort();
    return found;
}

/* Counts a call; 1 where it is the one to end at, 2 where that is in its middle. */
static int
chosen(void)
{
    static atomic_long count;
    const char *at = getenv("KILL_AT");

    if (at == NULL || atomic_fetch_add(&count, 1) + 1 != atol(at))
        return 0;
    return getenv("KILL_HALF") != NULL ? 2 : 1;
}

/* Ends the process where the call was the one. */
static void
end(int which)
{
    if (which != 0)
        kill(getpid(), SIGKILL);
}

/* Is it a file, not a terminal or pipe? */
static int
is_file(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

ssize_t
write(int fd, const void *data, size_t length)
{
    int which = is_file(fd) ? chosen() : 0;
    ssize_t done = REAL(write)(fd, data, which == 2 ? length / 2 : length);

    end(which);
    return done;
}

ssize_t
pwrite64(int fd, const void *data, size_t length, off64_t at)
{
    int which = chosen();
    ssize_t done = REAL(pwrite64)(fd, data, which == 2 ? length / 2 : length, at);

    end(which);
    return done;
}

int
ftruncate64(int fd, off64_t length)
{
    int which = chosen(), done = REAL(ftruncate64)(fd, length);

    end(which);
    return done;
}

int
fsync(int fd)
{
    int which = chosen(), done = REAL(fsync)(fd);

    end(which);
    return done;
}

int
fdatasync(int fd)
{
    int which = chosen(), done = REAL(fdatasync)(fd);

    end(which);
    return done;
}

int
unlink(const char *path)
{
    int which = chosen(), done = REAL(unlink)(path);

    end(which);
    return done;
}

int
rename(const char *from, const char *to)
{
    int which = chosen(), done = REAL(rename)(from, to);

    end(which);
    return done;
}

int
open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    int which = 0, fd;

    if (flags & O_CREAT)
    {
        va_list arguments;

        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
        which = chosen();
    }
    fd = REAL(open64)(path, flags, mode);
    end(which);
    return fd;
}

ssize_t
send(int fd, const void *data, size_t length, int flags)
{
    int which = chosen();
    ssize_t done = REAL(send)(fd, data, which == 2 ? length / 2 : length, flags);

    end(which);
    return done;
}

ssize_t
recv(int fd, void *data, size_t length, int flags)
{
    int which = chosen();
    ssize_t done = REAL(recv)(fd, data, length, flags);

    end(which);
    return done;
}
