/*
 * gateway_text.c: fuzzes the writing of JSON strings, by which strangers' bytes get into the log
 * and into problem documents: whatever comes, what goes out is one JSON string in UTF-8 on one
 * line, or nothing where it does not fit. The first two bytes are how much may be shown and how
 * much fits.
 */
#include "text.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    char memory[4096];
    struct text text;
    json_t *string;

    if (size < 2)
        return 0;
    text_begin(&text, memory, (size_t)bytes[1] * 16);
    text_json(&text, (const char *)bytes + 2, size - 2, bytes[0]);
    if (text.at > text.end)
        abort();
    if (text.cut)
        return 0;
    string = json_loadb(memory, text_size(&text), JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!json_is_string(string) || memchr(memory, '\n', text_size(&text)) != NULL)
        abort();
    json_decref(string);
    return 0;
}
