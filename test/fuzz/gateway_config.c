/*
 * gateway_config.c: fuzzes what reads the configuration.
 */
#include "config.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    struct config config;
    char error[128];

    if (config_parse(&config, (const char *)bytes, size, error, sizeof(error)))
        config_free(&config);
    return 0;
}
