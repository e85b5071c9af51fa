/*
 * config.c: the gateway's settings, from a JSON file and the environment.
 *
 * One table, settings.h, says everything about a setting. Reading, checking, the documentation's
 * table and the nearest-name hint for a misspelt key all come from it, so that they cannot drift.
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind
{
    KIND_TEXT,
    KIND_INTEGER,
    KIND_BOOLEAN
};

struct setting
{
    const char *name;
    enum kind kind;
    size_t offset;
    const char *fallback;
    int64_t least;
    int64_t most;
    const char *unit;
    enum
    {
        RESTART,
        RELOAD
    } when;
    const char *meaning;
};

#define TEXT(name, fallback, when, meaning)                                                        \
    {#name, KIND_TEXT, offsetof(struct config, name), fallback, 0, 0, "", when, meaning},
#define INTEGER(name, fallback, least, most, unit, when, meaning)                                  \
    {#name, KIND_INTEGER, offsetof(struct config, name), fallback, least, most, unit,              \
     when,  meaning},
#define BOOLEAN(name, fallback, when, meaning)                                                     \
    {#name, KIND_BOOLEAN, offsetof(struct config, name), fallback, 0, 0, "", when, meaning},

static const struct setting settings[] = {
#include "settings.h"
};

#define SETTING_COUNT (sizeof(settings) / sizeof(settings[0]))

/* Writes a message into the caller's error buffer; false, so that callers can return it. */
static bool __attribute__((format(printf, 3, 4)))
refuse(char *error, size_t error_size, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(error, error_size, format, arguments);
    va_end(arguments);
    return false;
}

/* The environment variable of a setting. DATABASE_URL keeps the name that every platform uses. */
static void
environment_name(const struct setting *setting, char *name, size_t size)
{
    size_t at;

    snprintf(name, size, "%s%s", strcmp(setting->name, "database_url") == 0 ? "" : "rowsync_",
             setting->name);
    for (at = 0; name[at] != '\0'; at++)
        name[at] = (char)toupper((unsigned char)name[at]);
}

static char **
text_slot(struct config *config, const struct setting *setting)
{
    return (char **)(void *)((char *)config + setting->offset);
}

/* Puts a text value in place, freeing the one before. */
static void
set_text(struct config *config, const struct setting *setting, const char *value)
{
    char **slot = text_slot(config, setting);

    free(*slot);
    *slot = value == NULL ? NULL : strdup(value);
    if (value != NULL && *slot == NULL)
        abort();
}

/* Says what form a setting's value must have. `where` names the key or variable it came from. */
static bool
refuse_form(const struct setting *setting, const char *where, char *error, size_t error_size)
{
    if (setting->kind == KIND_TEXT)
        return refuse(error, error_size, "%s must be a string", where);
    if (setting->kind == KIND_BOOLEAN)
        return refuse(error, error_size, "%s must be true or false", where);
    return refuse(error, error_size, "%s must be an integer from %lld to %lld (%s)", where,
                  (long long)setting->least, (long long)setting->most, setting->unit);
}

/* Takes a value in the form in which the environment has it; NULL: none. */
static bool
set_value(struct config *config, const struct setting *setting, const char *value,
          const char *where, char *error, size_t error_size)
{
    void *slot = (char *)config + setting->offset;
    bool truth = value != NULL && strcmp(value, "true") == 0;
    int64_t number;
    char *end;

    if (setting->kind == KIND_TEXT && value != NULL && *value == '\0')
        return refuse(error, error_size, "%s must not be empty", where);
    if (setting->kind == KIND_TEXT)
    {
        set_text(config, setting, value);
        return true;
    }
    if (value == NULL || *value == '\0' || isspace((unsigned char)*value))
        return refuse_form(setting, where, error, error_size);
    if (setting->kind == KIND_BOOLEAN)
    {
        memcpy(slot, &truth, sizeof(truth));
        return truth || strcmp(value, "false") == 0 ||
               refuse_form(setting, where, error, error_size);
    }
    errno = 0;
    number = strtoll(value, &end, 10);
    memcpy(slot, &number, sizeof(number));
    return (*end == '\0' && errno == 0 && number >= setting->least && number <= setting->most) ||
           refuse_form(setting, where, error, error_size);
}

/* Takes a value of the configuration file. */
static bool
set_from_json(struct config *config, const struct setting *setting, const json_t *value,
              char *error, size_t error_size)
{
    static const char *const words[] = {"false", "true"};
    char where[64];
    char number[24];

    snprintf(where, sizeof(where), "\"%s\"", setting->name);
    snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
    if (setting->kind == KIND_TEXT && (json_is_string(value) || json_is_null(value)))
        return set_value(config, setting, json_string_value(value), where, error, error_size);
    if (setting->kind == KIND_INTEGER && json_is_integer(value))
        return set_value(config, setting, number, where, error, error_size);
    if (setting->kind == KIND_BOOLEAN && json_is_boolean(value))
        return set_value(config, setting, words[json_is_true(value)], where, error, error_size);
    return refuse_form(setting, where, error, error_size);
}

/* Levenshtein distance of two short names: how many keystrokes lie between them. */
static size_t
name_distance(const char *left, const char *right)
{
    size_t row[64];
    size_t width = strlen(right);

    if (strlen(left) >= 64 || width >= 64)
        return SIZE_MAX;
    for (size_t j = 0; j <= width; j++)
        row[j] = j;
    for (size_t i = 1; left[i - 1] != '\0'; i++)
    {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= width; j++)
        {
            size_t best = diagonal + (left[i - 1] != right[j - 1]);

            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[width];
}

static const struct setting *
find_setting(const char *name)
{
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (strcmp(settings[i].name, name) == 0)
            return &settings[i];
    return NULL;
}

/* The setting that was probably meant by a name that is none, or NULL. */
static const struct setting *
nearest_setting(const char *name)
{
    const struct setting *nearest = &settings[0];

    for (size_t i = 1; i < SETTING_COUNT; i++)
        if (name_distance(name, settings[i].name) < name_distance(name, nearest->name))
            nearest = &settings[i];
    return name_distance(name, nearest->name) <= 1 + strlen(nearest->name) / 4 ? nearest : NULL;
}

/* Refuses a key that is no setting, naming the one that was probably meant. */
static bool
refuse_unknown(const char *name, char *error, size_t error_size)
{
    const struct setting *nearest = nearest_setting(name);

    if (nearest != NULL)
        return refuse(error, error_size, "unknown setting \"%.64s\": did you mean \"%s\"?", name,
                      nearest->name);
    return refuse(error, error_size,
                  "unknown setting \"%.64s\": see rowsync-gateway --settings for all of them",
                  name);
}

/* Sets everything to its default. */
static void
set_defaults(struct config *config)
{
    char unused[1];

    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (settings[i].fallback != NULL)
            (void)set_value(config, &settings[i], settings[i].fallback, settings[i].name, unused,
                            sizeof(unused));
}

/* Applies the members of a JSON object. */
static bool
apply_json(struct config *config, const char *json, size_t size, char *error, size_t error_size)
{
    json_error_t where;
    json_t *root = json_loadb(json, size, JSON_REJECT_DUPLICATES, &where);
    const char *name;
    json_t *value;
    bool good = true;

    if (root == NULL)
        return refuse(error, error_size, "line %d, column %d: %s", where.line, where.column,
                      where.text);
    if (!json_is_object(root))
        good = refuse(error, error_size, "the configuration must be a JSON object");
    json_object_foreach(root, name, value)
    {
        const struct setting *setting = find_setting(name);

        good = setting == NULL ? refuse_unknown(name, error, error_size)
                               : set_from_json(config, setting, value, error, error_size);
        if (!good)
            break;
    }
    json_decref(root);
    return good;
}

/*
 * Refuses a variable that is nearly that of a setting. Others with our prefix may be somebody
 * else's: the command line has some.
 */
static bool
refuse_misspelt(char *error, size_t error_size)
{
    for (char **variable = environ; *variable != NULL; variable++)
    {
        const struct setting *nearest;
        char name[64];
        char right[64];
        size_t length = strcspn(*variable, "=");

        if (strncmp(*variable, "ROWSYNC_", 8) != 0 || length >= sizeof(name))
            continue;
        for (size_t i = 8; i <= length; i++)
            name[i - 8] = i < length ? (char)tolower((unsigned char)(*variable)[i]) : '\0';
        nearest = nearest_setting(name);
        if (nearest == NULL)
            continue;
        environment_name(nearest, right, sizeof(right));
        if (strncmp(*variable, right, length) != 0 || right[length] != '\0')
            return refuse(error, error_size, "unknown variable %.*s: did you mean %s?", (int)length,
                          *variable, right);
    }
    return true;
}

/* Applies the variables of the environment. */
static bool
apply_environment(struct config *config, char *error, size_t error_size)
{
    for (size_t i = 0; i < SETTING_COUNT; i++)
    {
        char name[64];
        const char *value;

        environment_name(&settings[i], name, sizeof(name));
        value = getenv(name);
        /* Empty is how many a service manager says "not set". */
        if (value != NULL && *value != '\0' &&
            !set_value(config, &settings[i], value, name, error, error_size))
            return false;
    }
    return refuse_misspelt(error, error_size);
}

/* How a message calls a setting: by the variable, where that is what gave it its value. */
static const char *
called(const char *name, char *variable, size_t size)
{
    const char *value;

    environment_name(find_setting(name), variable, size);
    value = getenv(variable);
    return value != NULL && *value != '\0' ? variable : name;
}

/* Is this a list of origins: "*", or scheme://host[:port], by commas? */
static bool
origins_valid(const char *origins)
{
    if (strcmp(origins, "*") == 0)
        return true;
    for (const char *at = origins;;)
    {
        size_t length = strcspn(at, ",");
        const char *host = memmem(at, length, "://", 3);

        if (host == NULL || host == at || host + 3 == at + length ||
            memchr(host + 3, '/', (size_t)(at + length - host - 3)) != NULL ||
            memchr(at, ' ', length) != NULL)
            return false;
        if (at[length] == '\0')
            return true;
        at += length + 1;
    }
}

/*
 * Blanks what libpq quotes: that may be part of a password, and have quotes itself. The signs that
 * it misses stay.
 */
static void
hide_quotations(char *reason)
{
    char *from = strchr(reason, '"');
    char *end = strrchr(reason, '"');

    while (from != NULL && from < end && strchr("=]:/", from[1]) != NULL && from[2] == '"')
        from = strchr(from + 3, '"');
    if (from != NULL && from < end)
        memset(from + 1, '*', (size_t)(end - from - 1));
}

/* Are all ports numbers? A URI with a / in its password has part of that where the port should be.
 */
static bool
ports_valid(const PQconninfoOption *options)
{
    for (; options->keyword != NULL; options++)
        if (strcmp(options->keyword, "port") == 0 && options->val != NULL)
            return options->val[strspn(options->val, "0123456789,")] == '\0';
    return true;
}

/* Is this setting's value something that libpq understands? */
static bool
check_conninfo(const char *name, const char *conninfo, char *error, size_t error_size)
{
    PQconninfoOption *options;
    char *reason = NULL;
    char variable[64];
    bool good;

    options = PQconninfoParse(conninfo, &reason);
    if (reason != NULL)
    {
        hide_quotations(reason);
        reason[strcspn(reason, "\n")] = '\0';
    }
    good = options != NULL && ports_valid(options);
    if (!good)
        refuse(error, error_size, "%s is no libpq connection string: %.200s",
               called(name, variable, sizeof(variable)),
               options != NULL  ? "its port is no number; / : @ ? # and % of a password must be "
                                  "percent-encoded in a URI"
               : reason != NULL ? reason
                                : "out of memory");
    PQfreemem(reason);
    PQconninfoFree(options);
    return good;
}

/* What no single setting can tell: things that must fit together. */
static bool
check_whole(const struct config *config, char *error, size_t error_size)
{
    static const char *const levels[] = {"debug", "info", "warning", "error", "off"};
    char variable[64];
    bool known = false;

    if (config->database_url == NULL)
        return refuse(error, error_size,
                      "database_url is not set: set DATABASE_URL, or \"database_url\" in the "
                      "configuration file, to a libpq connection string");
    if (!check_conninfo("database_url", config->database_url, error, error_size) ||
        (config->replica_url != NULL &&
         !check_conninfo("replica_url", config->replica_url, error, error_size)))
        return false;
    if (config->jwt_secret == NULL && config->jwks_file == NULL)
        return refuse(error, error_size,
                      "neither jwt_secret nor jwks_file is set: without a key no token can be "
                      "verified");
    if (config->jwt_secret != NULL &&
        (strlen(config->jwt_secret) < 32 || strlen(config->jwt_secret) > 1024))
        return refuse(error, error_size,
                      "%s has %zu bytes: HS256 needs at least 32 (RFC 7518, 3.2), and more "
                      "than 1024 are not taken",
                      called("jwt_secret", variable, sizeof(variable)), strlen(config->jwt_secret));
    if ((config->tls_certificate == NULL) != (config->tls_key == NULL))
        return refuse(error, error_size,
                      "tls_certificate and tls_key belong together: one of them is not set");
    if (config->http2 && config->tls_certificate == NULL)
        return refuse(
            error, error_size,
            "http2 needs tls_certificate and tls_key: it is offered in TLS handshakes only");
    if (config->roles != NULL && config->role_claim == NULL)
        return refuse(error, error_size,
                      "roles without role_claim means nothing: say in which claim the role stands");
    if (config->cors_origins != NULL && !origins_valid(config->cors_origins))
        return refuse(error, error_size,
                      "cors_origins must be \"*\", or origins such as https://app.example with "
                      "commas and nothing else between them");
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
        known = known || strcmp(config->log_level, levels[i]) == 0;
    if (!known)
        return refuse(error, error_size,
                      "log_level must be debug, info, warning, error or off, not \"%.32s\"",
                      config->log_level);
    return true;
}

/*
 * Reads a configuration of which `path` is the file, or NULL. That is named only where the fault is
 * surely its own.
 */
static bool
parse(struct config *config, const char *path, const char *json, size_t size, char *error,
      size_t error_size)
{
    char reason[512];
    bool good;

    set_defaults(config);
    good = apply_json(config, json, size, reason, sizeof(reason));
    if (!good)
        refuse(error, error_size, "%s%s%s", path == NULL ? "" : path, path == NULL ? "" : ": ",
               reason);
    good = good && apply_environment(config, error, error_size) &&
           check_whole(config, error, error_size);
    if (!good)
        config_free(config);
    return good;
}

bool
config_parse(struct config *config, const char *json, size_t size, char *error, size_t error_size)
{
    return parse(config, NULL, json, size, error, error_size);
}

bool
config_load(struct config *config, const char *path, char *error, size_t error_size)
{
    static const size_t most = 1048576;
    char *json;
    size_t size;
    FILE *file;
    bool good;

    if (path == NULL)
        return config_parse(config, "{}", 2, error, error_size);
    file = fopen(path, "rbe");
    if (file == NULL)
        return refuse(error, error_size, "%s: %s", path, strerror(errno));
    json = malloc(most);
    if (json == NULL)
        abort();
    size = fread(json, 1, most, file);
    if (ferror(file) || size == most)
        good = refuse(error, error_size, "%s: %s", path,
                      size == most ? "larger than 1 MiB" : "cannot read");
    else
        good = parse(config, path, json, size, error, error_size);
    fclose(file);
    free(json);
    return good;
}

/* Gives `config` the value that `other` has, and says whether that was another one. */
static bool
take_value(struct config *config, const struct config *other, const struct setting *setting)
{
    char *slot = (char *)config + setting->offset;
    const char *from = (const char *)other + setting->offset;
    size_t size = setting->kind == KIND_INTEGER ? sizeof(int64_t) : sizeof(bool);
    bool differs;

    if (setting->kind == KIND_TEXT)
    {
        const char *mine = *text_slot(config, setting);
        const char *theirs = *(char *const *)(const void *)from;

        differs = (mine == NULL) != (theirs == NULL) ||
                  (mine != NULL && theirs != NULL && strcmp(mine, theirs) != 0);
        if (differs)
            set_text(config, setting, theirs);
        return differs;
    }
    differs = memcmp(slot, from, size) != 0;
    memcpy(slot, from, size);
    return differs;
}

void
config_keep(struct config *config, const struct config *old, char *names, size_t names_size)
{
    /* Whether there is TLS at all stands in the address that clients know. */
    bool other_kind = (config->tls_certificate == NULL) != (old->tls_certificate == NULL);
    size_t used = 0;

    names[0] = '\0';
    for (size_t i = 0; i < SETTING_COUNT; i++)
    {
        const struct setting *setting = &settings[i];

        if (setting->when == RELOAD && !(other_kind && strncmp(setting->name, "tls_", 4) == 0))
            continue;
        if (take_value(config, old, setting) && used < names_size)
            used += (size_t)snprintf(names + used, names_size - used, "%s%s", used == 0 ? "" : ", ",
                                     setting->name);
    }
}

void
config_free(struct config *config)
{
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (settings[i].kind == KIND_TEXT)
            set_text(config, &settings[i], NULL);
}

void
config_describe(FILE *out)
{
    fputs("| key | environment | default | unit | range | SIGHUP | meaning |\n"
          "| --- | --- | --- | --- | --- | --- | --- |\n",
          out);
    for (size_t i = 0; i < SETTING_COUNT; i++)
    {
        const struct setting *setting = &settings[i];
        char name[64];

        environment_name(setting, name, sizeof(name));
        fprintf(out, "| `%s` | `%s` | %s%s%s | %s | ", setting->name, name,
                setting->fallback == NULL ? "" : "`",
                setting->fallback == NULL ? "–" : setting->fallback,
                setting->fallback == NULL ? "" : "`", setting->unit);
        if (setting->kind == KIND_INTEGER)
            fprintf(out, "%lld…%lld", (long long)setting->least, (long long)setting->most);
        else if (setting->kind == KIND_BOOLEAN)
            fputs("`true`, `false`", out);
        fprintf(out, " | %s | %s |\n", setting->when == RELOAD ? "yes" : "no", setting->meaning);
    }
}
