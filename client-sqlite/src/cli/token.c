/*
 * token.c - where the command line gets its token from, and development tokens of its own.
 *
 * A token never comes from the argument list, which other users of the machine can read.
 */
#include <errno.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "cli.h"

/* Reads a stream to its end, without the line end; for free(). NULL when empty or too long. */
static char *
read_line(FILE *stream)
{
    char buffer[16384];
    size_t length = fread(buffer, 1, sizeof(buffer) - 1, stream);

    while (length > 0 && (buffer[length - 1] == '\n' || buffer[length - 1] == '\r'))
        length--;
    buffer[length] = '\0';
    return length > 0 && strlen(buffer) == length ? strdup(buffer) : NULL;
}

/* Says why there is no token; `words` is what was given, `reason` what came. */
static char *
no_token(const Session *session, const char *what, const char *words, const char *reason)
{
    char message[1200];

    snprintf(message, sizeof(message), "%s%.900s%s%.200s", what, words,
             *reason != '\0' ? ": " : ".", reason);
    complain(session, "unauthorized", message,
             *words != '\0' ? "It must give the token and nothing else, on one line."
                            : "Set ROWSYNC_TOKEN, or give --token-file or --token-command.");
    return NULL;
}

/*
 * The token: from a command, a file, or ROWSYNC_TOKEN, in this order; for free(). NULL where there
 * is none; why was printed.
 */
char *
token_read(const Session *session)
{
    const Arguments *arguments = session->arguments;
    const char *environment = getenv("ROWSYNC_TOKEN");
    char *token, status[48];
    FILE *stream;
    int result;

    if (arguments->token_command != NULL)
    {
        if ((stream = popen(arguments->token_command, "r")) == NULL)
            return no_token(session, "Cannot run --token-command ", arguments->token_command,
                            strerror(errno));
        token = read_line(stream);
        if ((result = pclose(stream)) != 0)
        {
            free(token);
            snprintf(status, sizeof(status), WIFEXITED(result) ? "exit status %d" : "signal %d",
                     WIFEXITED(result) ? WEXITSTATUS(result) : WTERMSIG(result));
            return no_token(session, "The token command failed: ", arguments->token_command,
                            status);
        }
        return token != NULL
                   ? token
                   : no_token(session,
                              "The token command printed no token: ", arguments->token_command, "");
    }
    if (arguments->token_file != NULL)
    {
        if ((stream = fopen(arguments->token_file, "r")) == NULL)
            return no_token(session, "Cannot read the token file ", arguments->token_file,
                            strerror(errno));
        token = read_line(stream);
        fclose(stream);
        return token != NULL
                   ? token
                   : no_token(session, "There is no token in ", arguments->token_file, "");
    }
    if (environment == NULL || *environment == '\0')
        return no_token(session, "There is no token", "", "");
    return strdup(environment);
}

/* The claims of a token, unverified: the server judges it. For json_decref(); NULL when it is none.
 */
json_t *
token_claims(const char *token)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const char *part = strchr(token, '.'), *digit;
    char text[16384];
    size_t length = 0;
    unsigned value = 0, bits = 0;

    if (part == NULL)
        return NULL;
    for (part++; *part != '\0' && length < sizeof(text); part++)
    {
        if ((digit = strchr(digits, *part)) == NULL)
            break;
        value = value << 6 | (unsigned)(digit - digits);
        if ((bits += 6) >= 8)
            text[length++] = (char)(value >> (bits -= 8) & 255);
    }
    return json_loadb(text, length, 0, NULL);
}

/* base64url without padding (RFC 7515), appended to `out`, which has the room. */
static char *
base64url(char *out, const unsigned char *data, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned bits = 0, value = 0;

    for (; length > 0; length--)
    {
        value = value << 8 | *data++;
        for (bits += 8; bits >= 6; bits -= 6)
            *out++ = digits[value >> (bits - 6) & 63];
    }
    if (bits > 0)
        *out++ = digits[value << (6 - bits) & 63];
    *out = '\0';
    return out;
}

/* Adds the claims given as name=value; a value that is JSON keeps its type. */
static int
add_claims(const Session *session, json_t *claims)
{
    const char **given = session->arguments->claims;

    for (; given != NULL && *given != NULL; given++)
    {
        const char *equals = strchr(*given, '=');
        json_t *value;
        char *name;
        int failed;

        if (equals == NULL || equals == *given)
            return usage(session, "--claim wants name=value, not \"%s\"", *given);
        value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
        if (value == NULL)
            value = json_string(equals + 1);
        name = strndup(*given, (size_t)(equals - *given));
        failed = name == NULL || json_object_set_new(claims, name, value) != 0;
        free(name);
        if (failed)
            return usage(session, "the claim \"%s\" is not UTF-8", *given);
    }
    return EXIT_DONE;
}

/* Prints a token signed with ROWSYNC_JWT_SECRET (HS256): for development and tests. */
int
run_token(Session *session)
{
    static const char header[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\"}";
    const Arguments *arguments = session->arguments;
    const char *secret = getenv("ROWSYNC_JWT_SECRET");
    json_t *claims;
    char *text, *token, *end;
    unsigned char signature[32];
    unsigned length = sizeof(signature);
    time_t now = time(NULL);
    int result = EXIT_FAILED;

    if (arguments->user == NULL)
        return usage(session, "token needs --user (--source is optional: without it the token is"
                              " good for any)");
    if (arguments->ttl <= 0)
        return usage(session, "--ttl is a number of seconds above 0");
    if (secret == NULL || *secret == '\0')
        return complain(session, "misuse", "ROWSYNC_JWT_SECRET is not set.",
                        "It is the secret that the gateway was started with.");
    if (strlen(secret) < 32)
        return complain(session, "misuse",
                        "ROWSYNC_JWT_SECRET is too short: HS256 needs at least 32 bytes.",
                        "The gateway takes no shorter one: `openssl rand -hex 32` makes a good"
                        " one.");
    claims = json_pack("{s:s, s:s*, s:I, s:I}", "sub", arguments->user, "did", arguments->source,
                       "iat", (json_int_t)now, "exp", (json_int_t)now + arguments->ttl);
    if (claims == NULL || add_claims(session, claims) != EXIT_DONE)
    {
        json_decref(claims);
        return claims == NULL ? usage(session, "--user and --source are UTF-8") : EXIT_USAGE;
    }
    text = json_dumps(claims, JSON_COMPACT);
    json_decref(claims);
    token = text != NULL ? malloc(sizeof(header) * 2 + strlen(text) * 2 + 64) : NULL;
    if (token != NULL)
    {
        end = base64url(token, (const unsigned char *)header, sizeof(header) - 1);
        *end++ = '.';
        end = base64url(end, (const unsigned char *)text, strlen(text));
        if (HMAC(EVP_sha256(), secret, (int)strlen(secret), (unsigned char *)token,
                 (size_t)(end - token), signature, &length) != NULL)
        {
            *end++ = '.';
            base64url(end, signature, length);
            if (arguments->json)
                print_json(json_pack("{s:s}", "token", token));
            else
                puts(token);
            result = EXIT_DONE;
        }
    }
    free(text);
    free(token);
    return result;
}
