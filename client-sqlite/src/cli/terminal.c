/*
 * terminal.c - what only a terminal gets: colours, the progress line, the width of the window.
 *
 * Output that is piped or written to a file is plain. NO_COLOR (no-color.org), if not empty, and
 * TERM=dumb turn colours off.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli.h"

/* Places of the bar. */
#define BAR 28

/* Whether a stream is a terminal that shows colours. */
static int
has_colours(FILE *stream)
{
    const char *off = getenv("NO_COLOR"), *term = getenv("TERM");

    return (off == NULL || *off == '\0') && term != NULL && strcmp(term, "dumb") != 0 &&
           isatty(fileno(stream));
}

/* What begins a style on this stream, or ends the one that was begun: "" where it is plain. */
const char *
style(FILE *stream, Style which)
{
    static const char *const sequences[] = {
        [STYLE_PLAIN] = "\033[0m", [STYLE_HEADING] = "\033[1m",  [STYLE_GOOD] = "\033[32m",
        [STYLE_BAD] = "\033[31m",  [STYLE_CHANGED] = "\033[33m",
    };

    return has_colours(stream) ? sequences[which] : "";
}

/* The style of a cell: what comes is green, what goes red, what changes yellow, as in a diff. */
Style
style_of(const char *cell)
{
    return strcmp(cell, "INSERT") == 0   ? STYLE_GOOD
           : strcmp(cell, "DELETE") == 0 ? STYLE_BAD
           : strcmp(cell, "UPDATE") == 0 ? STYLE_CHANGED
                                         : STYLE_PLAIN;
}

/* The columns that the window behind a stream has; 0 where it is no terminal. */
int
window_width(FILE *stream)
{
    struct winsize window = {0};

    if (!isatty(fileno(stream)) || ioctl(fileno(stream), TIOCGWINSZ, &window) != 0)
        return 0;
    return window.ws_col;
}

/* Removes the progress line. */
void
clear_progress(const Session *session)
{
    if (!session->arguments->json && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* Draws how far a phase is: a bar where its end is known, else the count. */
void
draw_progress(const Session *session, const char *phase, int64_t done, int64_t total, int64_t bytes)
{
    int filled;

    if (session->arguments->json || !isatty(STDERR_FILENO) || done <= 0)
        return;
    if (total <= 0)
        fprintf(stderr, "\r\033[K%s: %lld", phase, (long long)done);
    else
    {
        filled = done >= total ? BAR : (int)((double)done / (double)total * BAR);
        fprintf(stderr, "\r\033[K%s [", phase);
        for (int i = 0; i < BAR; i++)
            fputs(i < filled ? "█" : "░", stderr);
        fprintf(stderr, "] %lld of %lld", (long long)done, (long long)total);
    }
    fprintf(stderr, ", %.1f MB", (double)bytes / 1e6);
    fflush(stderr);
}
